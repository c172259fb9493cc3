"""What is true of a clip, picture and sound each alone, and where that is seen or heard.

Only what is beyond doubt is a truth; a question is one of them put into words. `links` adds what
needs picture and sound together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from typing import Final, Literal

from seats_cli.world.script import Box, Script, Thing, is_beside
from seats_cli.world.sounds import Sound
from seats_cli.world.vocabulary import MAX_BEEPS, MOTIONS, PITCHES, SWEEPS, sound_phrases
from seats_cli.world.voices import NUMBERS
from seats_cli.world.wording import (
    HEARD_KINDS,
    PLACE_NAMES,
    PLACE_PHRASES,
    YES_NO,
    plural,
    with_article,
)

_MOST_COUNTED: Final = 5
_NOUNS = ("object", "shape")


@dataclass(frozen=True)
class Evidence:
    """A part of the clip that an answer rests on: all of them together decide it."""

    # What the question names to look there, or what a thing that is missing might be mistaken for;
    # what the answer is.
    role: Literal["cue", "answer"]
    modality: Literal["video", "audio"]
    start: float  # seconds, as is the end
    end: float
    box: Box | None = None  # fractions of the frame; None for sound and for all of the frame


@dataclass(frozen=True)
class Truth:
    """An answer of a family of questions, and what the question about it needs."""

    answer: str
    slots: Mapping[str, tuple[str, ...]]  # for the forms of `QUESTION_FORMS`
    evidence: tuple[Evidence, ...]
    names: tuple[str, ...] = ()  # words of the question that say what is to be looked up
    rivals: tuple[str, ...] = ()  # other answers that somebody who does not look might give


Truths = dict[str, list[Truth]]


@dataclass(frozen=True)
class Main:
    """The one coloured thing of a shot: a card or a shape."""

    color: str
    shape: str | None
    start: float
    end: float
    box: Box | None

    def evidence(self, role: Literal["cue", "answer"] = "answer") -> Evidence:
        """Where it is seen."""
        return Evidence(role, "video", self.start, self.end, self.box)


def seen(thing: Thing, script: Script, role: Literal["cue", "answer"] = "answer") -> Evidence:
    """Where a thing is seen; of what moves, all of the row or column that it passes over."""
    height, width = script.layout.height, script.layout.width
    y0, x0, y1, x1 = thing.pixel_box(thing.start, height, width)
    if thing.motion in ("left", "right"):
        x0, x1 = 0.0, float(width)
    elif thing.motion in ("up", "down"):
        y0, y1 = 0.0, float(height)
    box = (max(y0, 0) / height, max(x0, 0) / width, min(y1 / height, 1), min(x1 / width, 1))
    return Evidence(role, "video", thing.start, thing.end, box)


def listened(start: float, end: float, role: Literal["cue", "answer"] = "answer") -> Evidence:
    """A part of the sound track."""
    return Evidence(role, "audio", start, end)


def _all_of(script: Script) -> Evidence:
    return Evidence("answer", "video", script.shots[0][0], script.shots[-1][1])


def _all_heard(script: Script) -> Evidence:
    return listened(0.0, script.layout.audio_samples / 16_000)


def mains(script: Script) -> list[Main] | None:
    """The one coloured thing of every shot, all in different colours; None where it is not so."""
    if any(text.color for text in script.texts) or any(t.kind == "icon" for t in script.things):
        return None
    found = []
    for (start, end), backdrop in zip(script.shots, script.backdrops, strict=True):
        shapes = [shape for shape in script.shapes if shape.start < end and shape.end > start]
        if backdrop.color is not None and not shapes:
            found.append(Main(backdrop.color, None, start, end, None))
        elif backdrop.color is None and len(shapes) == 1:
            shape = shapes[0]
            box = seen(shape, script).box
            found.append(Main(str(shape.color), shape.shape, start, end, box))
        else:
            return None
    return found if len({main.color for main in found}) == len(found) else None


def _others(answer: str, names: Iterable[str | None]) -> tuple[str, ...]:
    """The names without the answer, each once."""
    return tuple(dict.fromkeys(name for name in names if name and name != answer))


def _truth(
    answer: str,
    evidence: Sequence[Evidence],
    rivals: Iterable[str | None],
    *,
    names: Sequence[str | None] = (),
    **slots: Sequence[str],
) -> Truth:
    filled = {name: tuple(choices) for name, choices in slots.items()}
    known = tuple(name for name in names if name)
    return Truth(answer, filled, tuple(evidence), known, _others(answer, rivals))


truth = _truth


def _numbers(most: int) -> list[str]:
    return [str(number) for number in range(1, most + 1)]


def _main_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    shown = mains(script)
    if not shown:
        return
    colors = [main.color for main in shown]
    everywhere = [main.evidence() for main in shown]
    nouns: tuple[str, ...] = ("picture", "screen", "image")
    shapes = {main.shape for main in shown}
    if None not in shapes:
        nouns = ("object", "thing", "shape")
        if len(shapes) == 1:
            nouns = (*nouns, str(shown[0].shape))
    yield "color_count", _truth(str(len(colors)), everywhere, _numbers(4), object=nouns)
    if len(shown) == 1:
        yield "color", _truth(colors[0], everywhere, (), object=nouns)
    else:
        yield "color_order", _truth(", ".join(colors), everywhere, (), object=nouns)
        yield "first_color", _truth(colors[0], everywhere[:1], colors, object=nouns)
        yield "last_color", _truth(colors[-1], everywhere[-1:], colors, object=nouns)
    if None not in shapes:
        motion = script.shapes[0].motion
        yield "motion", _truth(motion, everywhere, MOTIONS, object=nouns)
        if len(shapes) == 1:
            answer = str(shown[0].shape)
            yield "shape", _truth(answer, everywhere, (), object=("object", "thing"))


def _group_truths(script: Script, shapes: Sequence[Thing]) -> Iterator[tuple[str, Truth]]:
    """Bindings, counts and presence, of shapes that are shown all the time."""
    colors = [str(thing.color) for thing in shapes]
    forms = [str(thing.shape) for thing in shapes]
    looks = list(zip(colors, forms, strict=True))
    for thing, color, form in zip(shapes, colors, forms, strict=True):
        evidence = [seen(thing, script)]
        if forms.count(form) == 1:
            yield "color_of_shape", _truth(color, evidence, colors, names=[form], shape=[form])
        if colors.count(color) == 1:
            yield (
                "shape_of_color",
                _truth(form, evidence, forms, names=[color], color=[color], object=_NOUNS),
            )
    groups: list[tuple[str, list[bool], list[str]]] = []
    for color in dict.fromkeys(colors):
        groups.append((f"{color} shapes", [c == color for c in colors], [color]))
    for form in dict.fromkeys(forms):
        groups.append((plural(form), [f == form for f in forms], [plural(form)]))
    for color, form in dict.fromkeys(looks):
        name = f"{color} {plural(form)}"
        groups.append((name, [look == (color, form) for look in looks], [color, plural(form)]))
    for name, members, names in groups:
        if sum(members) <= _MOST_COUNTED:
            evidence = [seen(thing, script) for thing in compress(shapes, members)]
            rivals = _numbers(_MOST_COUNTED)
            yield (
                "object_count",
                _truth(str(sum(members)), evidence, rivals, names=names, group=[name]),
            )
    for color in dict.fromkeys(colors):
        for form in dict.fromkeys(forms):
            evidence = [
                seen(thing, script)
                for thing, look in zip(shapes, looks, strict=True)
                if look == (color, form)
            ]
            found = bool(evidence)
            if not found:
                evidence = [_all_of(script)]
                for thing, look in zip(shapes, looks, strict=True):
                    if look[0] == color or look[1] == form:
                        evidence.append(seen(thing, script, "cue"))
            answer, name = "yes" if found else "no", with_article(f"{color} {form}")
            yield (
                "is_there",
                _truth(answer, evidence, YES_NO, names=[color, form], a_thing=[name]),
            )


def _place_truths(script: Script, things: Sequence[Thing]) -> Iterator[tuple[str, Truth]]:
    """Where things that are shown all the time are, and what is there."""
    names = Counter(thing.name for thing in things)
    colors = [thing.color for thing in things if thing.kind == "shape"]
    forms = [thing.shape for thing in things if thing.kind == "shape"]
    words = [thing.word for thing in things if not thing.word.isdigit()]
    for thing in things:
        evidence = [seen(thing, script)]
        place = thing.place
        keys = [thing.color, thing.shape] if thing.kind == "shape" else [thing.word]
        if place is not None and names[thing.name] == 1:
            yield "place", _truth(place, evidence, PLACE_NAMES, names=keys, thing=[thing.name])
        rest = [other for other in things if other is not thing]
        if place is None or any(is_beside(place, other.y, other.x) for other in rest):
            continue
        if any(other.motion != "still" for other in rest):
            continue
        where = PLACE_PHRASES[place]
        if thing.kind == "text":
            if not thing.word.isdigit():
                yield (
                    "word_at_place",
                    _truth(thing.word, evidence, words, names=[place], place=where),
                )
            continue
        answer = str(thing.color)
        yield (
            "color_at_place",
            _truth(answer, evidence, colors, names=[place], place=where, object=_NOUNS),
        )
        yield (
            "shape_at_place",
            _truth(str(thing.shape), evidence, forms, names=[place], place=where),
        )


def _motion_truths(script: Script, shapes: Sequence[Thing]) -> Iterator[tuple[str, Truth]]:
    """Which of several shapes moves, and where to."""
    moving = [thing for thing in shapes if thing.motion != "still"]
    names = Counter(thing.name for thing in shapes)
    colors = [thing.color for thing in shapes]
    if len(moving) != 1:
        return
    evidence = [seen(moving[0], script)]
    yield "moving_color", _truth(str(moving[0].color), evidence, colors, object=_NOUNS)
    for thing in shapes:
        if names[thing.name] == 1:
            keys = [thing.color, thing.shape]
            yield (
                "direction",
                _truth(
                    thing.motion, [seen(thing, script)], MOTIONS, names=keys, thing=[thing.name]
                ),
            )


def hopping(script: Script) -> list[list[Thing]]:
    """Shapes that are shown in every shot, at two or more places that have names, by look."""
    shown: dict[str, list[Thing]] = {}
    for shape in script.shapes:
        shown.setdefault(shape.name, []).append(shape)
    found = []
    for things in shown.values():
        places = {thing.place for thing in things}
        in_turn = len(things) == len(script.shots) and are_in_turn(things)
        if in_turn and len(places) > 1 and None not in places:
            found.append(things)
    return found


def _hop_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    """Where something is at first and in the end."""
    for things in hopping(script):
        places = [thing.place for thing in things]
        keys, name = [things[0].color, things[0].shape], things[0].name
        for time, thing in (("at the start", things[0]), ("at the end", things[-1])):
            evidence = [seen(thing, script)]
            slots = {"thing": [name], "time": [time]}
            named = [*keys, time.split()[-1]]
            yield "place_in_time", _truth(str(thing.place), evidence, places, names=named, **slots)


def are_in_turn(things: Sequence[Thing]) -> bool:
    """Whether no two of the things, which are in order of start, are shown at the same time."""
    return all(one.end <= other.start for one, other in pairwise(things))


def _text_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    texts = script.texts
    words = [text for text in texts if not text.word.isdigit()]
    numbers = [text for text in texts if text.word.isdigit()]
    for family, found in (("printed_word", words), ("printed_number", numbers)):
        rivals = [text.word for text in found]
        if family == "printed_number" and any(text.word in NUMBERS for text in words):
            continue  # "seven" is a number, too
        if len(found) == 1:
            yield family, _truth(rivals[0], [seen(found[0], script)], (), when=[""])
        elif found and are_in_turn(found):
            for when, text in ((" first", found[0]), (" last", found[-1])):
                yield family, _truth(text.word, [seen(text, script)], rivals, when=[when])
    if len(words) > 1 and not numbers and are_in_turn(words):
        evidence = [seen(text, script) for text in words]
        yield "printed_order", _truth(", ".join(text.word for text in words), evidence, ())
    colors = [thing.color for thing in (*texts, *script.shapes)]
    repeated = Counter(text.word for text in texts)
    for text in texts:
        if text.color is not None and repeated[text.word] == 1:
            evidence = [seen(text, script)]
            yield (
                "color_of_word",
                _truth(text.color, evidence, colors, names=[text.word], thing=[text.name]),
            )


def _speech_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    words = script.words
    if not words:
        return
    said = [word.word for word in words]
    evidence = [listened(word.word_start, word.end) for word in words]
    nouns = [("word", "number") if word in NUMBERS else ("word",) for word in said]
    if len(words) == 1:
        yield "spoken_word", _truth(said[0], evidence, (), when=[""], noun=nouns[0])
    if any(word.carrier for word in words):
        return  # which of the words in a phrase are counted?
    yield "spoken_count", _truth(str(len(words)), evidence, _numbers(_MOST_COUNTED))
    if len(words) > 1:
        yield "spoken_order", _truth(", ".join(said), evidence, ())
        for when, index in ((" first", 0), (" last", -1)):
            found = [evidence[index]]
            yield "spoken_word", _truth(said[index], found, said, when=[when], noun=("word",))


def _sound_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    heard = script.heard
    kinds = [sound.kind for sound in heard]
    if not script.bed.is_audible and len(set(kinds)) <= 1:
        evidence = [listened(sound.start, sound.end) for sound in heard] or [_all_heard(script)]
        yield "sound_kind", _truth(kinds[0] if kinds else "silence", evidence, HEARD_KINDS)
    beeps: list[tuple[float, float]] = []
    for sound in heard:
        if not isinstance(sound, Sound):
            continue
        beeps += sound.beeps
        phrases = sound_phrases(sound.kind, len(sound.beeps))
        nouns = (*phrases.singular, "sound") if len(heard) == 1 else phrases.singular
        evidence = [listened(sound.start, sound.end)]
        if sound.pitch is not None and kinds.count(sound.kind) == 1:
            yield "pitch", _truth(sound.pitch, evidence, PITCHES, sound=nouns)
        if sound.sweep is not None:
            yield "sweep", _truth(sound.sweep, evidence, SWEEPS, sound=nouns)
    if beeps:
        evidence = [listened(*beep) for beep in beeps]
        yield "beep_count", _truth(str(len(beeps)), evidence, _numbers(MAX_BEEPS))


def single_truths(script: Script) -> Iterator[tuple[str, Truth]]:
    """Everything that may be asked of the picture or of the sound alone, with its family."""
    if script.shots:
        yield from _main_truths(script)
        yield from _text_truths(script)
        yield from _hop_truths(script)
        lasting = [
            thing
            for thing in script.things
            if thing.kind != "icon" and thing.start == 0 and thing.end >= script.shots[-1][1]
        ]
        shapes = [thing for thing in lasting if thing.kind == "shape"]
        if len(shapes) > 1:
            yield from _group_truths(script, shapes)
            yield from _motion_truths(script, shapes)
        if len(lasting) > 1 and len(script.shots) == 1:
            yield from _place_truths(script, lasting)
    if script.layout.audio_samples:
        yield from _speech_truths(script)
        yield from _sound_truths(script)
    else:
        yield "sound_kind", Truth("silence", {}, ())
