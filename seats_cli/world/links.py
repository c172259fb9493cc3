"""Truths that need picture and sound together, and all truths put into questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from seats_cli.world.script import Heard, Script, SpokenWord
from seats_cli.world.truths import (
    Evidence,
    Main,
    Truth,
    Truths,
    are_in_turn,
    hopping,
    listened,
    mains,
    seen,
    single_truths,
    truth,
)
from seats_cli.world.vocabulary import sound_phrases
from seats_cli.world.wording import (
    FAMILIES,
    HEARD_KINDS,
    PLACE_PHRASES,
    YES_NO,
    word_question,
)

_CLEAR = 0.05  # seconds a sound keeps away from a change of picture to belong to one side
_PARTIAL = 0.4  # with a shorter overlap of a sound and a picture, no answer is beyond doubt


def _is_inside(sound: Heard, start: float, end: float) -> bool:
    return sound.start >= start + _CLEAR and sound.end <= end - _CLEAR


def _touches(sound: Heard, start: float, end: float) -> bool:
    return sound.end > start - _CLEAR and sound.start < end + _CLEAR


def _during(script: Script, sound: Heard) -> tuple[str, ...]:
    """Clauses that say when a sound of the only one of its kind is heard."""
    beeps = len(getattr(sound, "beeps", ()))
    phrases = sound_phrases(sound.kind, beeps).during
    return (*phrases, "during the sound") if len(script.heard) == 1 else phrases


def _cue(sound: Heard) -> Evidence:
    """Where a sound is heard; of a word in a phrase, the word."""
    start = sound.word_start if isinstance(sound, SpokenWord) else sound.start
    return listened(start, sound.end, "cue")


def _picture_nouns(shown: Sequence[Main]) -> tuple[str, ...]:
    cards = any(main.shape is None for main in shown)
    return ("picture", "screen", "card") if cards else ("object", "thing")


def _scene_names(main: Main, shapes_differ: bool) -> tuple[str, ...]:
    if main.shape is None:
        return tuple(f"{main.color} {noun}" for noun in ("card", "picture", "screen"))
    names = tuple(f"{main.color} {noun}" for noun in ("one", "object", "shape"))
    return (*names, main.shape) if shapes_differ else names


def _main_links(script: Script, shown: Sequence[Main]) -> Iterator[tuple[str, Truth]]:
    """What is shown during a sound, and heard during a picture, where every shot has one colour."""
    colors = [main.color for main in shown]
    forms = [main.shape for main in shown]
    shapes_differ = None not in forms and len(set(forms)) == len(forms)
    kinds = Counter(sound.kind for sound in script.heard)
    nouns = _picture_nouns(shown)
    for sound in script.heard:
        home = next((main for main in shown if _is_inside(sound, main.start, main.end)), None)
        if home is None:
            continue
        evidence = [_cue(sound), home.evidence()]
        if kinds[sound.kind] == 1:
            slots = {"during": _during(script, sound), "object": nouns}
            yield "color_at_sound", truth(home.color, evidence, colors, names=[sound.kind], **slots)
            if shapes_differ:
                answer = str(home.shape)
                yield "shape_at_sound", truth(answer, evidence, forms, names=[sound.kind], **slots)
    for word in script.words:
        home = next((main for main in shown if _is_inside(word, main.start, main.end)), None)
        if home is not None:
            evidence = [_cue(word), home.evidence()]
            name = word.word
            yield "color_when_said", truth(home.color, evidence, colors, names=[name], word=[name])
    for main in shown:
        scenes = _scene_names(main, shapes_differ)
        names = [main.color, main.shape if shapes_differ else None]
        kind, sounds = _kind_during(script, main)
        if kind is not None:
            cue = [main.evidence("cue")]
            answers = [listened(sound.start, sound.end) for sound in sounds]
            evidence = cue + (answers or [listened(main.start, main.end)])
            yield (
                "sound_at_picture",
                truth(kind, evidence, HEARD_KINDS, names=names, scene=scenes, color=[main.color]),
            )
        yield from _said_during(
            script, main.evidence("cue"), "said_at_picture", names, scene=scenes
        )


def _kind_during(script: Script, main: Main) -> tuple[str | None, list[Heard]]:
    """The one kind of sound during a shot, "silence", or None when it is not clear-cut."""
    if script.bed.is_audible:
        return None, []
    sounds = []
    for sound in script.heard:
        overlap = min(sound.end, main.end) - max(sound.start, main.start)
        if overlap <= -_CLEAR:
            continue
        if not _is_inside(sound, main.start, main.end) and overlap < _PARTIAL:
            return None, []
        beeps = getattr(sound, "beeps", ())
        if beeps and not any(a >= main.start and b <= main.end for a, b in beeps):
            return None, []
        sounds.append(sound)
    kinds = {sound.kind for sound in sounds}
    if len(kinds) > 1:
        return None, []
    return (kinds.pop() if kinds else "silence"), sounds


def _said_during(
    script: Script,
    cue: Evidence,
    family: str,
    names: Sequence[str | None],
    **slots: Sequence[str],
) -> Iterator[tuple[str, Truth]]:
    """The one word that is said during the cue, where several are said in the clip."""
    words = [word for word in script.words if _touches(word, cue.start, cue.end)]
    if len(script.words) < 2 or len(words) != 1 or not _is_inside(words[0], cue.start, cue.end):
        return
    rivals = [word.word for word in script.words]
    evidence = [cue, listened(words[0].word_start, words[0].end)]
    yield family, truth(words[0].word, evidence, rivals, names=names, **slots)


def _text_links(script: Script) -> Iterator[tuple[str, Truth]]:
    """What is printed while something is heard, and the other way round."""
    texts = script.texts
    if len(texts) > 1 and are_in_turn(texts):
        kinds = Counter(sound.kind for sound in script.heard)
        for sound in script.heard:
            shown = [text for text in texts if _touches(sound, text.start, text.end)]
            if len(shown) != 1 or not _is_inside(sound, shown[0].start, shown[0].end):
                continue
            text = shown[0]
            alike = [other.word for other in texts if other.word.isdigit() == text.word.isdigit()]
            evidence = [_cue(sound), seen(text, script)]
            noun = ["number" if text.word.isdigit() else "word"]
            if sound.kind == "speech":
                name = getattr(sound, "word", "")
                said = {"print": noun, "word": [name]}
                yield "print_when_said", truth(text.word, evidence, alike, names=[name], **said)
            if kinds[sound.kind] == 1:
                slots = {"print": tuple(noun), "during": _during(script, sound)}
                names = [sound.kind]
                yield "print_at_sound", truth(text.word, evidence, alike, names=names, **slots)
        for text in texts:
            cue = seen(text, script, "cue")
            scenes = [text.name]
            yield from _said_during(script, cue, "said_at_picture", [text.word], scene=scenes)
    if len(texts) == 1 and len(script.words) == 1 and not texts[0].word.isdigit():
        text, word = texts[0], script.words[0]
        evidence = [seen(text, script), listened(word.word_start, word.end)]
        yield "same_word", truth("yes" if text.word == word.word else "no", evidence, YES_NO)


def _place_links(script: Script) -> Iterator[tuple[str, Truth]]:
    """Where something is when a word is said, and what is said when it is there."""
    for things in hopping(script):
        # In order: that of a set differs from process to process, and with it the options' order.
        name, places = things[0].name, list(dict.fromkeys(thing.place for thing in things))
        keys = [things[0].color, things[0].shape]
        for word in script.words:
            homes = [thing for thing in things if _is_inside(word, thing.start, thing.end)]
            if homes:
                evidence = [_cue(word), seen(homes[0], script)]
                names = [word.word, *keys]
                said = {"thing": [name], "word": [word.word]}
                answer = str(homes[0].place)
                yield "place_when_said", truth(answer, evidence, places, names=names, **said)
        for place in sorted(str(place) for place in places):
            there = [thing for thing in things if thing.place == place]
            if len(there) == 1:
                cue = seen(there[0], script, "cue")
                slots = {"thing": (name,), "place": PLACE_PHRASES[place]}
                names = [*keys, place]
                yield from _said_during(script, cue, "said_while_place", names, **slots)


def linked_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    """Everything that needs picture and sound together, with its family."""
    if not script.shots or not script.layout.audio_samples:
        return
    shown = mains(script)
    if shown is not None and len(shown) > 1:
        yield from _main_links(script, shown)
    yield from _text_links(script)
    if len(script.shots) > 1:
        yield from _place_links(script)


def truths_of(script: Script) -> Truths:
    """Everything that may be asked about a script, by family."""
    found: Truths = {}
    for family, fact in (*single_truths(script), *linked_truths(script)):
        found.setdefault(family, []).append(fact)
    return found


@dataclass(frozen=True)
class DecisiveSpan:
    """The one stretch of a clip that decides a question."""

    start: float  # seconds from the start of the clip, as is the end
    end: float
    modalities: tuple[str, ...]  # of "video" and "audio": in which of them it is seen or heard


@dataclass(frozen=True)
class Question:
    """A question in words with its only right answer, and what the answer rests on."""

    family: str
    text: str
    answer: str
    evidence: tuple[Evidence, ...]
    names: tuple[str, ...] = ()  # as in `Truth`
    rivals: tuple[str, ...] = ()

    @property
    def decisive(self) -> DecisiveSpan | None:
        """The one stretch of the clip that decides it; None where several parts do."""
        start = max((part.start for part in self.evidence), default=0.0)
        end = min((part.end for part in self.evidence), default=0.0)
        modalities = sorted({part.modality for part in self.evidence}, reverse=True)
        return DecisiveSpan(start, end, tuple(modalities)) if end > start else None


# Answers that are true of many clips are taken for a question with these probabilities, so that no
# answer is a good guess (fitted to the scripts of level 1).
_KEPT: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "color_count": {"1": 0.5, "3": 0.35},
        "direction": {"still": 0.3},
        "motion": {"still": 0.55},
        "object_count": {"1": 0.05, "2": 0.13, "3": 0.34, "4": 0.7},
        "pitch": {"low": 0.82},
        "same_word": {"no": 0.42},
        "sound_at_picture": {
            "beeps": 0.47,
            "noise": 0.66,
            "silence": 0.1,
            "speech": 0.07,
            "tone": 0.84,
        },
        "sound_kind": {
            "beeps": 0.5,
            "chirp": 0.8,
            "noise": 0.8,
            "silence": 0.1,
            "speech": 0.025,
            "tone": 0.8,
        },
        "spoken_count": {"1": 0.15, "2": 0.3, "3": 0.4, "4": 0.6},
    }
)


def thinned(rng: np.random.Generator, truths: Truths) -> Truths:
    """The truths that may be asked this time: usual answers are often left out."""
    found: Truths = {}
    for family, facts in truths.items():
        shares = _KEPT.get(family, {})
        answers = sorted({fact.answer for fact in facts})
        out = {answer for answer in answers if rng.random() >= shares.get(answer, 1.0)}
        kept = [fact for fact in facts if fact.answer not in out]
        if kept:
            found[family] = kept
    return found or truths


def ask(
    rng: np.random.Generator, family: str, facts: Sequence[Truth], *, variants: bool = True
) -> Question:
    """Put one of a family's truths into words; `variants` as in `word_question`."""
    # Answers first, so that none wins by being true of most things.
    answer = str(rng.choice(sorted({fact.answer for fact in facts})))
    fitting = [fact for fact in facts if fact.answer == answer]
    fact = fitting[int(rng.integers(len(fitting)))]
    slots = {name: str(rng.choice(choices)) for name, choices in fact.slots.items()}
    text = word_question(rng, family, slots, variants=variants)
    return Question(family, text, fact.answer, fact.evidence, fact.names, fact.rivals)


def sample_questions(
    rng: np.random.Generator,
    script: Script,
    count: int,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> list[Question]:
    """Draw questions about a script, families in proportion to `weights` (1 if not named)."""
    facts = thinned(rng, truths_of(script))
    families = list(facts)
    shares = np.array([weights.get(family, 1.0) for family in families])
    chosen = rng.choice(len(families), size=count, p=shares / shares.sum())
    return [ask(rng, families[index], facts[families[index]]) for index in chosen]


def every_question(rng: np.random.Generator, script: Script) -> list[Question]:
    """One question of nearly every family that the script allows, thinned (for evaluation)."""
    facts = thinned(rng, truths_of(script))
    return [
        ask(rng, family, facts[family], variants=False) for family in FAMILIES if family in facts
    ]
