"""Answers, found once more in another way: from the words of the question and the script alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from seats_cli.world.clips import draft_script
from seats_cli.world.layouts import sample_wide_layout
from seats_cli.world.links import ask, truths_of
from seats_cli.world.script import Script, Thing

PLACES = {
    "on the left": "left",
    "on the left side": "left",
    "on the right": "right",
    "on the right side": "right",
    "at the top": "top",
    "at the bottom": "bottom",
}


def _where(thing: Thing, time: float) -> str:
    """The side of the frame that a thing is nearest to."""
    y, x = thing.center(time)
    distances = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    return min(distances, key=lambda side: distances[side])


def _said_at(script: Script, word: str) -> float:
    (found,) = [spoken for spoken in script.words if spoken.word == word]
    return (found.word_start + found.end) / 2


def _visible(script: Script, time: float) -> list[Thing]:
    return [thing for thing in script.things if thing.is_visible(time)]


def _named(script: Script, name: str, time: float) -> Thing:
    (found,) = [
        thing for thing in _visible(script, time) if thing.kind != "icon" and thing.name == name
    ]
    return found


def _during(script: Script, is_so: Callable[[float], bool]) -> str:
    """The one word in whose middle something is so."""
    (found,) = [word.word for word in script.words if is_so((word.word_start + word.end) / 2)]
    return found


def _place(script: Script, text: str) -> str:
    (name,) = re.findall(r"the ((?:\w+) (?:\w+))\?", text)
    return _where(_named(script, name, 0.0), 0.0)


def _place_when_said(script: Script, text: str) -> str:
    name, word = re.findall(r"the (\w+ \w+) (?:when|while) (\w+) is said\?", text)[0]
    time = _said_at(script, word)
    return _where(_named(script, name, time), time)


def _place_in_time(script: Script, text: str) -> str:
    name, end = re.findall(r"the (\w+ \w+) at the (start|end)\?", text)[0]
    time = 0.0 if end == "start" else script.shots[-1][1] - 0.01
    return _where(_named(script, name, time), time)


def _said_while_place(script: Script, text: str) -> str:
    name, place = re.findall(r"(?:while|when) the (\w+ \w+) is (.*)\?", text)[0]
    side = PLACES[place]
    return _during(script, lambda time: _where(_named(script, name, time), time) == side)


def _color_when_said(script: Script, text: str) -> str:
    (word,) = re.findall(r"(?:when|while) (\w+) is said\?", text)
    time = _said_at(script, word)
    backdrop = script.backdrops[script.shot_index(time)].color
    colors = {thing.color for thing in _visible(script, time) if thing.kind == "shape"}
    return str(backdrop or colors.pop())


def _print_when_said(script: Script, text: str) -> str:
    (word,) = re.findall(r"(?:when|while) (\w+) is (?:said|heard)\?", text)
    (found,) = [
        thing for thing in _visible(script, _said_at(script, word)) if thing.text and thing.word
    ]
    assert ("number" in text) == found.word.isdigit()
    return found.word


def _object_count(script: Script, text: str) -> str:
    (group,) = re.findall(r"(?:How many|Count the) ((?:\w+ )?\w+?)(?: are| do|\.)", text)
    words = [word for word in group.split() if word != "shapes"]
    singular = {word: re.sub(r"(?<=s)es$|(?<!s)s$", "", word) for word in words}
    shapes = [thing for thing in script.things if thing.kind == "shape"]
    return str(sum(all(singular[w] in (t.color, t.shape) for w in words) for t in shapes))


def _is_there(script: Script, text: str) -> str:
    (name,) = re.findall(r"an? (\w+ \w+)(?: shown)?\?", text)
    return "yes" if any(t.kind == "shape" and t.name == name for t in script.things) else "no"


def _color_of_shape(script: Script, text: str) -> str:
    shapes = {thing.shape: thing.color for thing in script.things if thing.kind == "shape"}
    (found,) = [shape for shape in shapes if re.search(rf"\b{shape}\b", text)]
    return str(shapes[found])


def _color_at_place(script: Script, text: str) -> str:
    (side,) = {PLACES[phrase] for phrase in PLACES if phrase in text}
    (found,) = [thing for thing in script.things if thing.kind == "shape" and thing.place == side]
    return str(found.color)


def _same_word(script: Script, text: str) -> str:
    (printed,) = [thing.text.lower() for thing in script.things if thing.kind == "text"]
    return "yes" if printed == script.words[0].word else "no"


def _spoken_order(script: Script, text: str) -> str:
    return ", ".join(w.word for w in sorted(script.words, key=lambda word: word.end))


def _moving_color(script: Script, text: str) -> str:
    (found,) = [t for t in script.shapes if t.center(0.5) != t.center(1.0)]
    return str(found.color)


def _direction(script: Script, text: str) -> str:
    (name,) = re.findall(r"the (\w+ \w+?) (?:moves?|moving)", text.replace("is ", "")) or [""]
    thing = _named(script, name, 0.0)
    (y0, x0), (y1, x1) = thing.center(0.0), thing.center(0.02)
    if (y0, x0) == (y1, x1):
        return "still"
    if abs(x1 - x0) > abs(y1 - y0):
        return "right" if (x1 > x0) == (abs(x1 - x0) < 0.5) else "left"
    return "down" if (y1 > y0) == (abs(y1 - y0) < 0.5) else "up"


ORACLES: dict[str, Callable[[Script, str], str]] = {
    "place": _place,
    "place_when_said": _place_when_said,
    "place_in_time": _place_in_time,
    "said_while_place": _said_while_place,
    "color_when_said": _color_when_said,
    "print_when_said": _print_when_said,
    "object_count": _object_count,
    "is_there": _is_there,
    "color_of_shape": _color_of_shape,
    "color_at_place": _color_at_place,
    "same_word": _same_word,
    "spoken_order": _spoken_order,
    "moving_color": _moving_color,
    "direction": _direction,
}


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    rng = np.random.default_rng(31)
    return [draft_script(rng, sample_wide_layout(rng, 1.0), 1.0) for _ in range(350)]


def test_answers_are_right(scripts: list[Script]) -> None:
    checked: Counter[str] = Counter()
    rng = np.random.default_rng(1)
    for script in scripts:
        for family, facts in truths_of(script).items():
            if family not in ORACLES:
                continue
            for _ in range(4):
                question = ask(rng, family, facts, variants=False)
                text = question.text.replace("colour", "color")
                assert ORACLES[family](script, text) == question.answer, (family, text)
                checked[family] += 1
    assert set(checked) == set(ORACLES)
    assert min(checked.values()) >= 20, checked


def test_every_truth_has_words_for_its_names(scripts: list[Script]) -> None:
    """What a question names stands in its words: attention is taught by it."""
    rng = np.random.default_rng(2)
    for script in scripts[:150]:
        for family, facts in truths_of(script).items():
            question = ask(rng, family, facts, variants=False)
            if family in ("color_at_sound", "shape_at_sound", "print_at_sound"):
                continue  # a kind of sound goes by several names
            if family == "sound_at_picture":
                assert any(name in question.text for name in question.names)
                continue
            missing = [name for name in question.names if name not in question.text]
            assert len(missing) < max(1, len(question.names)), (question.text, missing)
