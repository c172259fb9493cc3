"""Questions about a generated clip, asked only where the answer is beyond doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seats_cli.world.clips import Draft
from seats_cli.world.scene import SceneSegment
from seats_cli.world.sounds import Sound
from seats_cli.world.vocabulary import phrase_question, sound_phrases

CROSS_MODAL = ("color_at_sound", "shape_at_sound", "sound_at_picture")
FAMILIES = (
    "color",
    "shape",
    "motion",
    "sound_kind",
    "pitch",
    "sweep",
    "beep_count",
    "first_color",
    "last_color",
    "color_count",
    "color_order",
    *CROSS_MODAL,
)

_CLEAR = 0.05  # seconds a sound keeps away from a change of picture to belong to one side
_PARTIAL = 0.4  # with a shorter overlap of a sound and a picture, no answer is beyond doubt


@dataclass(frozen=True)
class DecisiveSpan:
    """The one stretch of a clip that decides a question."""

    # Seconds from the start of the clip.
    start: float
    end: float
    modalities: tuple[str, ...]  # of "video" and "audio": in which of them it is seen or heard


@dataclass(frozen=True)
class Question:
    """A question in words with its only right answer.

    `picture` is the index of the segment that the question names, by one of `names`.
    """

    family: str
    text: str
    answer: str
    picture: int | None = None
    names: tuple[str, ...] = ()
    # None where the whole clip answers, or several parts of it.
    decisive: DecisiveSpan | None = None


@dataclass(frozen=True)
class Fact:
    """An answer of a family and the words its question needs (`{object}`, `{sound}`, ...)."""

    answer: str
    slots: Mapping[str, tuple[str, ...]]
    picture: int | None = None
    names: tuple[str, ...] = ()
    decisive: DecisiveSpan | None = None


def _seen(segment: SceneSegment) -> DecisiveSpan:
    return DecisiveSpan(segment.start, segment.end, ("video",))


def _heard(sound: Sound) -> DecisiveSpan:
    return DecisiveSpan(sound.start, sound.end, ("audio",))


def _is_inside(start: float, end: float, segment: SceneSegment) -> bool:
    return start >= segment.start + _CLEAR and end <= segment.end - _CLEAR


def _heard_during(segment: SceneSegment, sounds: tuple[Sound, ...]) -> str | None:
    """The one kind of sound during a segment, "silence", or None when it is not clear-cut."""
    kinds = []
    for sound in sounds:
        overlap = min(sound.end, segment.end) - max(sound.start, segment.start)
        if overlap <= -_CLEAR:
            continue
        if not _is_inside(sound.start, sound.end, segment) and overlap < _PARTIAL:
            return None
        if sound.beeps and not any(_is_inside(*beep, segment) for beep in sound.beeps):
            return None
        kinds.append(sound.kind)
    if len(kinds) > 1:
        return None
    return kinds[0] if kinds else "silence"


def _picture_facts(clip: Draft) -> dict[str, list[Fact]]:
    scene = clip.scene
    if scene is None:
        return {}
    colors = [segment.color for segment in scene.segments]
    shapes = {segment.shape for segment in scene.segments}
    things: tuple[str, ...] = ("object", "thing", "shape")
    if scene.style == "card":
        things = ("picture", "screen", "image")
    elif len(shapes) == 1:
        things = (*things, str(scene.segments[0].shape))
    slots = {"object": things}
    facts: dict[str, list[Fact]] = {"color_count": [Fact(str(len(colors)), slots)]}
    if len(colors) == 1:
        facts["color"] = [Fact(colors[0], slots)]
    else:
        facts["color_order"] = [Fact(", ".join(colors), slots)]
    first, last = (_seen(scene.segments[at]) for at in (0, -1))
    facts["first_color"] = [Fact(colors[0], slots, decisive=first)]
    facts["last_color"] = [Fact(colors[-1], slots, decisive=last)]
    if scene.style == "object":
        facts["motion"] = [Fact(scene.motion, slots)]
        if len(shapes) == 1:
            facts["shape"] = [Fact(str(scene.segments[0].shape), {"object": ("object", "thing")})]
    return facts


def _sound_facts(clip: Draft) -> dict[str, list[Fact]]:
    if not clip.layout.audio_samples:
        return {"sound_kind": [Fact("silence", {})]}
    facts: dict[str, list[Fact]] = {}
    if len(clip.sounds) <= 1:
        only = clip.sounds[0] if clip.sounds else None
        kind, decisive = ("silence", None) if only is None else (only.kind, _heard(only))
        facts["sound_kind"] = [Fact(kind, {}, decisive=decisive)]
    beeps = 0
    for sound in clip.sounds:
        beeps += len(sound.beeps)
        phrases = sound_phrases(sound.kind, len(sound.beeps))
        alone = len(clip.sounds) == 1
        nouns = (*phrases.singular, "sound") if alone else phrases.singular
        if sound.pitch is not None:
            fact = Fact(sound.pitch, {"sound": nouns}, decisive=_heard(sound))
            facts.setdefault("pitch", []).append(fact)
        if sound.sweep is not None:
            facts["sweep"] = [Fact(sound.sweep, {"sound": nouns}, decisive=_heard(sound))]
    # All beeps of a clip are one sound: kinds do not repeat.
    beeping = next((_heard(sound) for sound in clip.sounds if sound.beeps), None)
    facts["beep_count"] = [Fact(str(beeps), {}, decisive=beeping)]
    return facts


def _cross_facts(clip: Draft) -> dict[str, list[Fact]]:
    """Facts that need picture and sound together; only for clips that show several pictures."""
    scene = clip.scene
    if scene is None or not clip.layout.audio_samples or len(scene.segments) < 2:
        return {}
    segments = scene.segments
    shapes_differ = len({segment.shape for segment in segments}) == len(segments)
    things = ("picture", "screen", "card") if scene.style == "card" else ("object", "thing")
    facts: dict[str, list[Fact]] = {}
    for sound in clip.sounds:
        home = next((s for s in segments if _is_inside(sound.start, sound.end, s)), None)
        if home is None:
            continue
        phrases = sound_phrases(sound.kind, len(sound.beeps))
        alone = len(clip.sounds) == 1
        slots = {
            "during": (*phrases.during, "during the sound") if alone else phrases.during,
            "object": things,
        }
        when = DecisiveSpan(sound.start, sound.end, ("video", "audio"))
        facts.setdefault("color_at_sound", []).append(Fact(home.color, slots, decisive=when))
        if shapes_differ and home.shape is not None:
            fact = Fact(home.shape, slots, decisive=when)
            facts.setdefault("shape_at_sound", []).append(fact)
    for index, segment in enumerate(segments):
        kind = _heard_during(segment, clip.sounds)
        if kind is None:
            continue
        scenes: tuple[str, ...]
        if scene.style == "card":
            scenes = tuple(f"{segment.color} {thing}" for thing in ("card", "picture", "screen"))
        else:
            scenes = tuple(f"{segment.color} {thing}" for thing in ("one", "object", "shape"))
            if shapes_differ:
                scenes = (*scenes, f"{segment.shape}")
        slots = {"scene": scenes, "color": (segment.color,)}
        names = tuple(name for name in (segment.color, segment.shape) if name)
        when = DecisiveSpan(segment.start, segment.end, ("video", "audio"))
        fact = Fact(kind, slots, index, names, when)
        facts.setdefault("sound_at_picture", []).append(fact)
    return facts


def facts_of(clip: Draft) -> dict[str, list[Fact]]:
    """Everything that may be asked about a clip, by family.

    First and last colour of a clip with one picture are kept: they are true, if trivial.
    """
    return {**_picture_facts(clip), **_sound_facts(clip), **_cross_facts(clip)}


def ask(
    rng: np.random.Generator, family: str, facts: list[Fact], *, variants: bool = True
) -> Question:
    """Put one of a family's facts into words; `variants` as in `phrase_question`."""
    # Answers first, so that "silence" does not win by being true of most pictures.
    answer = str(rng.choice(sorted({fact.answer for fact in facts})))
    fitting = [fact for fact in facts if fact.answer == answer]
    fact = fitting[int(rng.integers(len(fitting)))]
    slots = {name: str(rng.choice(choices)) for name, choices in fact.slots.items()}
    text = phrase_question(rng, family, slots, variants=variants)
    return Question(family, text, fact.answer, fact.picture, fact.names, fact.decisive)


def sample_questions(
    rng: np.random.Generator, clip: Draft, count: int, weights: Mapping[str, float]
) -> list[Question]:
    """Draw questions about a clip, families in proportion to `weights` (1 if not named)."""
    facts = facts_of(clip)
    families = list(facts)
    shares = np.array([_share(family, clip, facts, weights) for family in families])
    chosen = rng.choice(families, size=count, p=shares / shares.sum())
    return [ask(rng, str(family), facts[family]) for family in chosen]


def _share(
    family: str, clip: Draft, facts: Mapping[str, list[Fact]], weights: Mapping[str, float]
) -> float:
    """Weight of a family for this clip: trivial cases of a family count for little."""
    share = weights.get(family, 1.0)
    single = clip.scene is not None and len(clip.scene.segments) == 1
    if single and family in ("first_color", "last_color", "color_count"):
        share *= 0.2
    if family == "beep_count" and facts[family][0].answer == "0":
        share *= 0.08
    return share


def every_question(rng: np.random.Generator, clip: Draft) -> list[Question]:
    """One question of every family the clip allows, leaving out trivial ones (for evaluation)."""
    facts = facts_of(clip)
    return [
        ask(rng, family, facts[family], variants=False)
        for family in FAMILIES
        if family in facts and _share(family, clip, facts, {}) >= 1.0
    ]
