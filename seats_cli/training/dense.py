"""Supervision beside the answers: dense labels of what tokens show, and where answers are read.

Answers alone are too little to learn from on a CPU: a clip of a few thousand tokens gives eight
words. So every token has labels of what is seen or heard there (read from the encoders), and of
what goes on at its moment in the other modality (read in the middle of the LLM: "which word is
shown when seven is said?" is answered by a sound token that knows what is shown). And since
questions state where their answer is to be found (`Question.evidence`), the heads of two layers
are taught to look there (`forward.Hops`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from seats_cli.world.layouts import Layout
from seats_cli.world.lettering import letter_centers
from seats_cli.world.links import Question
from seats_cli.world.script import Script, SpokenWord, Thing, place_of
from seats_cli.world.truths import Evidence
from seats_cli.world.vocabulary import (
    AUDIO_TOKENS_PER_SECOND,
    COLORS,
    IGNORE,
    MAX_BEEPS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SWEEPS,
)
from seats_cli.world.voices import WORDS
from seats_cli.world.wording import COUNTS, DIGITS, HEARD_KINDS, PLACE_NAMES

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CELL: Final = 28  # pixels: one LLM token covers 2x2 patches of 14 pixels
PRINTS: Final = (*WORDS, *DIGITS)  # class numbers of printed texts, from 1
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"  # upper or lower case; from class 1
_LETTERS_IN_A_CELL = 3  # that are labelled
_COVERED = 0.2  # of a cell: from here on it shows the thing
_TOUCHED = 0.03  # below, it does not; in between nobody knows
TEXT_CLASS, ICON_CLASS, CARD_CLASS = (len(SHAPES) + 1 + index for index in range(3))
_SHOTS = 4
_COUNTED = 5  # words so far; more count as as many

# Number of classes of every label. Encoder labels come from one token's own surroundings; context
# labels need what came before or the other modality, and are read in the middle of the LLM.
CLASSES: Final[Mapping[str, Mapping[str, int]]] = {
    "video": {
        "color": len(COLORS) + 1,
        "shape": CARD_CLASS + 1,
        "motion": len(MOTIONS) + 1,
        "print": len(PRINTS) + 1,
        # Letters in a cell from left to right: words are made of what can be learned cell by cell.
        **{f"letter_{place}": len(LETTERS) + 1 for place in range(_LETTERS_IN_A_CELL)},
    },
    "audio": {
        "kind": len(HEARD_KINDS),
        "pitch": len(PITCHES),
        "sweep": len(SWEEPS),
        "word": len(WORDS) + 1,
    },
    # A grid comes before the sound of its time, so a word that begins there is not yet known.
    "video_context": {
        "shot": _SHOTS,
        "kind": len(HEARD_KINDS),
        "place": len(PLACE_NAMES) + 1,
    },
    "audio_context": {
        "shot": _SHOTS,
        "beeps": MAX_BEEPS + 1,
        "words": _COUNTED + 1,
        "screen_color": len(COLORS) + 1,
        "screen_shape": len(SHAPES) + 1,
        "screen_print": len(PRINTS) + 1,
        "count": _COUNTED + 1,  # "beeps" or "words": of what was heard last
    },
}

# What the classes from 1 on are called in answers, where they have a name.
NAMES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "video": {"color": COLORS, "shape": SHAPES, "motion": MOTIONS, "print": PRINTS},
    "audio": {"kind": HEARD_KINDS[1:], "word": WORDS},
    "video_context": {"place": PLACE_NAMES, "shot": COUNTS[2 : _SHOTS + 1]},
    "audio_context": {
        # Not "beeps" and "words": a state cannot say two numbers at once.
        "count": COUNTS[1:],
        "screen_color": COLORS,
        "screen_shape": SHAPES,
        "screen_print": PRINTS,
    },
}

COUNTS_SO_FAR: Final = frozenset({"shot", "count"})  # names of numbers of what has been so far


def audio_token_count(samples: int) -> int:
    """LLM tokens of a sound track: mel frames of 10 ms, strided by 2 twice."""
    frames = -(-samples // 160)
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def print_class(word: str) -> int:
    """Class number of a printed word or digit."""
    return PRINTS.index(word) + 1


def _overlap(low: float, high: float, cells: int) -> npt.NDArray[np.float64]:
    """Share of each of `cells` cells in a row that lies between two pixels."""
    edges = np.arange(cells + 1) * CELL
    inside = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
    return np.asarray(np.clip(inside, 0, CELL) / CELL)


def _covering(thing: Thing, time: float, layout: Layout) -> npt.NDArray[np.float64]:
    """Share of every cell (rows, columns) that a thing's box takes at `time`."""
    rows, columns = layout.height // CELL, layout.width // CELL
    box = thing.box(time, layout.height, layout.width)
    if box is None:
        return np.zeros((rows, columns))
    return np.outer(_overlap(box[0], box[2], rows), _overlap(box[1], box[3], columns))


def _video_labels(script: Script) -> dict[str, IntArray]:
    """Labels of the cells, grid by grid and row by row."""
    layout = script.layout
    times = np.array(layout.frame_times).reshape(-1, 2)
    shape = (len(times), layout.height // CELL, layout.width // CELL)
    labels = {name: np.zeros(shape, dtype=np.int64) for name in CLASSES["video"]}
    for index, (before, after) in enumerate(times.tolist()):
        shots = script.shot_index(before), script.shot_index(after)
        backdrops = [script.backdrops[shot] for shot in shots]
        if backdrops[0].color is not None or backdrops[1].color is not None:
            same = shots[0] == shots[1]
            card = COLORS.index(str(backdrops[0].color)) + 1 if same else IGNORE
            labels["color"][index] = card
            labels["shape"][index] = CARD_CLASS if same else IGNORE
        for thing in script.things:
            if not (thing.is_visible(before) or thing.is_visible(after)):
                continue
            first, second = (_covering(thing, time, layout) for time in (before, after))
            steady = thing.is_visible(before) == thing.is_visible(after)
            mean = (first + second) / 2
            shown, touched = mean >= _COVERED, mean > _TOUCHED
            for name, value in _look(thing).items():
                label = labels[name][index]
                label[touched] = IGNORE
                label[shown] = value if steady else IGNORE
            if thing.kind == "text":
                _spell(thing, before, layout, {n: labels[n][index] for n in labels}, touched)
    return {name: label.ravel() for name, label in labels.items()}


def _spell(
    thing: Thing, time: float, layout: Layout, labels: Mapping[str, IntArray], touched: BoolArray
) -> None:
    """Write the letters of a text into the labels (rows, columns) of one grid, in place.

    A letter belongs to the cell that its middle is in; above and below, where a part of it may be,
    nothing is asked.
    """
    names = [f"letter_{place}" for place in range(_LETTERS_IN_A_CELL)]
    y, x = thing.center(time)
    wide = thing.height * thing.aspect * min(layout.height, layout.width)
    row = int(y * layout.height // CELL)
    for name in names:
        labels[name][touched] = IGNORE
    if not 0 <= row < layout.height // CELL:
        return
    found: dict[int, list[int]] = {column: [] for column in np.flatnonzero(touched[row]).tolist()}
    for letter, center in zip(
        thing.text.lower(), letter_centers(thing.text, thing.font), strict=True
    ):
        column = int((x * layout.width + (center - 0.5) * wide) // CELL)
        found.setdefault(column, []).append(LETTERS.index(letter) + 1)
    for column, letters in found.items():
        if not 0 <= column < layout.width // CELL:
            continue
        for place, name in enumerate(names):
            labels[name][row, column] = letters[place] if place < len(letters) else 0


def _look(thing: Thing) -> dict[str, int]:
    """Class numbers of a thing."""
    motion = MOTIONS.index(thing.motion) + 1
    if thing.kind == "text":
        # White and black ink have no label: on a card they are not its colour either.
        color = IGNORE if thing.color is None else COLORS.index(thing.color) + 1
        word = print_class(thing.word)
        return {"color": color, "shape": TEXT_CLASS, "motion": motion, "print": word}
    if thing.kind == "icon":
        return {"color": IGNORE, "shape": ICON_CLASS, "motion": motion, "print": 0}
    color, shape = COLORS.index(str(thing.color)) + 1, SHAPES.index(str(thing.shape)) + 1
    return {"color": color, "shape": shape, "motion": motion, "print": 0}


def token_times(script: Script) -> npt.NDArray[np.float64]:
    """Middle of every audio token, in seconds."""
    samples = script.layout.audio_samples
    return (np.arange(audio_token_count(samples) if samples else 0) + 0.5) / AUDIO_TOKENS_PER_SECOND


def _audio_labels(script: Script) -> dict[str, IntArray]:
    """Labels of the audio tokens."""
    times = token_times(script)
    background = HEARD_KINDS.index("music") if script.bed.kind == "music" else 0
    kind = np.full(len(times), background)
    word = np.zeros(len(times), dtype=np.int64)
    pitch, sweep = np.full(len(times), IGNORE), np.full(len(times), IGNORE)
    for sound in script.heard:
        beeps = () if isinstance(sound, SpokenWord) else sound.beeps
        for start, end in beeps or ((sound.start, sound.end),):
            now = (times >= start) & (times < max(end, start + 1 / AUDIO_TOKENS_PER_SECOND))
            kind[now] = HEARD_KINDS.index(sound.kind)
            if isinstance(sound, SpokenWord):
                now &= times >= sound.word_start  # not the phrase before it
                word[now] = WORDS.index(sound.word) + 1
                # Its beginning alone does not tell one word from another, and the tower hears two
                # seconds at a time: a piece that is cut off by their border says nothing.
                word[now & _is_cut_off(times, sound)] = IGNORE
            else:
                pitch[now] = PITCHES.index(sound.pitch) if sound.pitch else IGNORE
                sweep[now] = SWEEPS.index(sound.sweep) if sound.sweep else IGNORE
    if script.bed.kind == "noise" and script.bed.is_audible:
        kind[kind == 0] = IGNORE
    return {"kind": kind, "pitch": pitch, "sweep": sweep, "word": word}


_TOWER_SECONDS = 2.0  # stretch of sound that the audio tower hears at a time


def _is_cut_off(times: npt.NDArray[np.float64], sound: SpokenWord) -> BoolArray:
    """Tokens in whose stretch less than three fifths of the word are heard."""
    low = times // _TOWER_SECONDS * _TOWER_SECONDS
    heard = np.minimum(sound.end, low + _TOWER_SECONDS) - np.maximum(sound.word_start, low)
    return np.asarray(heard < 0.6 * (sound.end - sound.word_start))


def _kinds_heard(script: Script, times: npt.NDArray[np.float64]) -> IntArray:
    """Kind of sound at moments of the picture."""
    kind = np.zeros(len(times), dtype=np.int64)
    for sound in script.heard:
        near = (times >= sound.start - 0.5) & (times < sound.end + 0.5)
        kind[near & (kind == 0)] = IGNORE
        kind[(times >= sound.start) & (times < sound.end)] = HEARD_KINDS.index(sound.kind)
    return kind


def _places(layout: Layout) -> IntArray:
    """Where in the frame each cell (rows, columns) is, as questions call it; 0: no such place."""
    rows, columns = layout.height // CELL, layout.width // CELL
    labels = np.zeros((rows, columns), dtype=np.int64)
    for row, column in np.ndindex(rows, columns):
        place = place_of((row + 0.5) / rows, (column + 0.5) / columns)
        labels[row, column] = 0 if place is None else PLACE_NAMES.index(place) + 1
    return labels


def _screen(script: Script, time: float) -> dict[str, int]:
    """What is on screen at a moment, if it is the only one of its kind."""
    seen = dict.fromkeys(("screen_color", "screen_shape", "screen_print"), 0)
    shown = [thing for thing in script.things if thing.is_visible(time)]
    shapes = [thing for thing in shown if thing.kind == "shape"]
    texts = [thing for thing in shown if thing.kind == "text"]
    card = script.backdrops[script.shot_index(time)].color
    if card is not None:
        seen["screen_color"] = COLORS.index(card) + 1
    elif len(shapes) == 1:
        seen["screen_color"] = COLORS.index(str(shapes[0].color)) + 1
    elif shapes:
        seen["screen_color"] = IGNORE
    if shapes:
        alone = len(shapes) == 1
        seen["screen_shape"] = SHAPES.index(str(shapes[0].shape)) + 1 if alone else IGNORE
    if texts:
        seen["screen_print"] = print_class(texts[0].word) if len(texts) == 1 else IGNORE
    return seen


def _video_context(script: Script) -> dict[str, IntArray]:
    layout = script.layout
    times = np.array(layout.frame_times).reshape(-1, 2)
    cells = (layout.height // CELL) * (layout.width // CELL)
    shots = np.array([[script.shot_index(time) for time in pair] for pair in times.tolist()])
    kind = _kinds_heard(script, times.mean(axis=1))
    if not layout.audio_samples:
        kind[:] = IGNORE
    labels = {"shot": np.repeat(shots[:, 1], cells), "kind": np.repeat(kind, cells)}
    labels["place"] = np.tile(_places(layout).ravel(), len(times))
    return {name: label.astype(np.int64) for name, label in labels.items()}


def _last_count(beeps: IntArray, words: IntArray) -> IntArray:
    """The one of two running counts that changed last."""
    steps = np.arange(len(beeps))
    beep_at, word_at = (
        np.maximum.accumulate(np.where(np.diff(count, prepend=0) > 0, steps, -1))
        for count in (beeps, words)
    )
    return np.where(word_at > beep_at, words, beeps)


def _audio_context(script: Script) -> dict[str, IntArray]:
    times = token_times(script)
    labels = {name: np.full(len(times), IGNORE) for name in CLASSES["audio_context"]}
    beeps, words = np.zeros(len(times), dtype=np.int64), np.zeros(len(times), dtype=np.int64)
    for sound in script.heard:
        if isinstance(sound, SpokenWord):
            words += times >= sound.end
        else:
            for _, end in sound.beeps:
                beeps += times >= end
    labels["beeps"] = np.minimum(beeps, MAX_BEEPS)
    labels["words"] = np.minimum(words, _COUNTED)
    labels["count"] = _last_count(labels["beeps"], labels["words"])
    if script.shots:
        frame_times = np.array(script.layout.frame_times)
        shots = np.array([script.shot_index(time) for time in frame_times.tolist()])
        after = np.searchsorted(frame_times, times)
        before = np.clip(after - 1, 0, len(shots) - 1)
        after = np.clip(after, 0, len(shots) - 1)
        # Between two frames that show different shots nobody can tell which one it is.
        sure = (shots[before] == shots[after]) & (times <= script.layout.duration + 0.2)
        labels["shot"] = np.where(sure, shots[before], IGNORE)
        for shot, (start, end) in enumerate(script.shots):
            now = labels["shot"] == shot
            for name, value in _screen(script, (start + end) / 2).items():
                labels[name][now] = value
    return {name: label.astype(np.int64) for name, label in labels.items()}


def dense_labels(script: Script) -> dict[str, dict[str, IntArray]]:
    """Labels of a clip by part and name, as in `CLASSES`.

    Arrays of shape (video tokens,), grid by grid and row by row, or (audio tokens,); `IGNORE` = no
    loss.
    """
    empty = np.zeros(0, dtype=np.int64)
    video, video_context = (
        (_video_labels(script), _video_context(script))
        if script.shots
        else (dict.fromkeys(CLASSES[part], empty) for part in ("video", "video_context"))
    )
    audio, audio_context = _audio_labels(script), _audio_context(script)
    return dict(zip(CLASSES, (video, audio, video_context, audio_context), strict=True))


def looked_for(evidence: Sequence[Evidence]) -> list[Evidence]:
    """What a word that a question names is to look at, of all that the answer rests on.

    Sound, where it is involved: the tokens of the picture come before those of the sound of their
    time and know nothing of it, while those of the sound have seen the picture. Otherwise where the
    answer is seen, and if that is everywhere, what might be mistaken for it.
    """
    heard = [part for part in evidence if part.modality == "audio"]
    answers = [part for part in evidence if part.role == "answer"]
    alike = [part for part in evidence if part.role == "cue" and part.box is not None]
    if alike and all(part.box is None for part in answers):
        answers = alike
    return heard or answers


_AFTERWARDS = 1.0  # seconds of sound that know how many sounds there were


def read_from(question: Question) -> list[list[Evidence]]:
    """Where each item of an answer is read; an answer that is no list has one item.

    What happens one after the other is counted on the way (labels "beeps", "words" and "shot"): the
    number is read where the last of it is over, or from the last shot.
    """
    parts = [part for part in question.evidence if part.role == "answer"]
    if question.family == "color_count":
        return [parts[-1:]]
    if question.family in ("beep_count", "spoken_count"):
        last = max(part.end for part in parts)
        return [[Evidence("answer", "audio", last, last + _AFTERWARDS)]]
    items = question.answer.count(", ") + 1
    return [[part] for part in parts] if items == len(parts) > 1 else [parts] * items


def evidence_tokens(script: Script, evidence: Sequence[Evidence]) -> tuple[BoolArray, BoolArray]:
    """Which video tokens and which audio tokens show or play a part of the evidence.

    Returns
    -------
    pair of bool arrays, shapes (video tokens,) and (audio tokens,)
    """
    layout = script.layout
    rows, columns = layout.height // CELL, layout.width // CELL
    times = np.array(layout.frame_times).reshape(-1, 2)
    video = np.zeros((len(times), rows, columns), dtype=np.bool_)
    heard_at = token_times(script)
    audio = np.zeros(len(heard_at), dtype=np.bool_)
    for part in evidence:
        if part.modality == "audio":
            audio |= (heard_at >= part.start) & (heard_at < part.end)
            continue
        now = np.asarray((times >= part.start) & (times < part.end)).all(axis=1)
        y0, x0, y1, x1 = part.box or (0.0, 0.0, 1.0, 1.0)
        inside = np.outer(
            _overlap(y0 * layout.height, y1 * layout.height, rows),
            _overlap(x0 * layout.width, x1 * layout.width, columns),
        )
        video[now] |= inside >= min(_COVERED, 0.9 * inside.max(initial=0.0))
    return video.ravel(), audio
