"""Items, sets and the files they are read from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seats_cli.errors import MediaError, UsageError
from seats_cli.evaluate.jsonl import read_jsonl
from seats_cli.evaluate.questions import EvalProtocol, Item, QuestionSet, open_clip
from seats_cli.evaluate.scoring import options_for, prompt_for
from seats_cli.media import FrameSizing
from seats_cli.world.clips import write_mp4


def item(name: str, media: str = "a.mp4", **more: object) -> Item:
    return Item(name, media, "What?", "red", **more)  # type: ignore[arg-type]


class TestItem:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"question": " "}, "question is empty"),
            ({"answer": ""}, "answer is empty"),
            ({"choices": ("one",), "answer": "A"}, "2 to 26"),
            ({"choices": ("one", "two"), "answer": "C"}, "A to B"),
            ({"choices": ("one", "two"), "answer": "AB"}, "A to B"),
        ],
    )
    def test_refusals(self, changes: dict[str, object], words: str) -> None:
        values: dict[str, object] = {"question": "What?", "answer": "red", **changes}
        with pytest.raises(UsageError, match=words):
            Item("a", "a.mp4", **values)  # type: ignore[arg-type]

    def test_the_answer_in_words(self) -> None:
        assert item("a").answer_text == "red"
        assert Item("a", "b", "What?", "B", choices=("x", "y")).answer_text == "y"

    def test_the_range_is_part_of_the_clip(self) -> None:
        keys = {
            item("a").clip_key,
            item("a", start_s=1.0).clip_key,
            item("a", end_s=1.0).clip_key,
            item("a", start_s=1.0, end_s=2.0).clip_key,
            item("a", media="b.mp4").clip_key,
        }
        assert len(keys) == 5


class TestSet:
    def test_items_of_a_clip_are_brought_together(self) -> None:
        names = [("1", "a"), ("2", "b"), ("3", "a"), ("4", "c"), ("5", "b")]
        found = QuestionSet("s", tuple(item(*name) for name in names))
        assert [one.id for one in found.items] == ["1", "3", "2", "5", "4"]
        assert [(key, len(items)) for key, items in found.clips()] == [("a", 2), ("b", 2), ("c", 1)]
        assert [one.id for one in found.limited(3).items] == ["1", "3", "2"]
        assert found.limited(None) is found

    def test_an_id_comes_once(self) -> None:
        with pytest.raises(UsageError, match="'1' comes twice"):
            QuestionSet("s", (item("1"), item("1", "b")))


class TestPrompts:
    choices = Item("a", "b", "Which?", "B", choices=("red", "blue"))

    def test_letters(self) -> None:
        settings = EvalProtocol(preamble="Watch.", instruction="Letter only.")
        assert prompt_for(self.choices, settings) == (
            "Watch.\nWhich?\nA. red\nB. blue\nLetter only."
        )
        assert options_for(self.choices, settings) == ()

    def test_likelihood_and_open_questions_are_bare(self) -> None:
        settings = EvalProtocol(choice_style="likelihood")
        assert prompt_for(self.choices, settings) == "Which?"
        assert options_for(self.choices, settings) == ("red", "blue")
        assert prompt_for(item("a"), EvalProtocol()) == "What?"


def test_bounds_on_tokens_become_pixels() -> None:
    settings = EvalProtocol(min_tokens_per_grid=128, max_tokens_per_grid=144)
    sizing = settings.sizing(FrameSizing.for_factor(32))
    assert (sizing.min_pixels, sizing.max_pixels) == (128 * 1024, 144 * 1024)
    assert EvalProtocol().sizing(sizing) == sizing


def test_a_file_is_read_within_its_range(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    frames = np.zeros((40, 56, 56, 3), np.uint8)
    frames[20:] = 255
    write_mp4(path, frames, 10.0)
    settings = EvalProtocol(fps=2.0, max_frames=4)
    sizing = FrameSizing(28, 3136, 3136)
    whole = open_clip(item("a", str(path)), settings, sizing)
    assert whole.frames is not None
    assert len(whole.frames) == 4
    late = open_clip(item("b", str(path), start_s=2.5, end_s=4.0), settings, sizing)
    assert late.frames is not None
    assert late.frames.min() > 200
    with pytest.raises(MediaError):
        open_clip(item("c", str(tmp_path / "none.mp4")), settings, sizing)


def write_lines(folder: Path, *lines: object) -> Path:
    (folder / "a.mp4").touch()
    path = folder / "questions.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


GOOD = {"id": "1", "media": "a.mp4", "question": "What?", "answer": "red"}


class TestJsonl:
    def test_all_fields(self, tmp_path: Path) -> None:
        path = write_lines(
            tmp_path,
            GOOD,
            "",
            {
                **GOOD,
                "id": 2,
                "choices": ["red", "blue"],
                "answer": "blue",
                "start": "1:05.5",
                "end": 70,
                "family": "color",
                "note": "extra",
            },
            {**GOOD, "id": "3", "choices": ["red", "blue"], "answer": "a"},
        )
        found = read_jsonl(path)
        assert found.name == "questions"
        first, second, third = found.items
        assert first.media == str(tmp_path / "a.mp4")
        assert first.choices == ()
        third, second = sorted((second, third), key=lambda one: one.answer)
        assert (second.id, second.answer, second.start_s, second.end_s) == ("2", "B", 65.5, 70.0)
        assert (second.family, dict(second.meta)) == ("color", {"note": "extra"})
        assert third.answer == "A"

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("{", "line 2: this is not JSON"),
            ("[1]", "line 2: an item must be"),
            ({**GOOD, "id": "1"}, "line 2: the id '1' was already used in line 1"),
            ({"id": "2"}, "line 2: 'answer' is missing"),
            *(
                (
                    {k: v for k, v in {**GOOD, "id": "2"}.items() if k != key},
                    f"2: '{key}' is missing",
                )
                for key in ("id", "media", "question")
            ),
            ({**GOOD, "id": "2", "media": 3}, "line 2: 'media' must be a string, not 3"),
            ({**GOOD, "id": "2", "question": " "}, "line 2: 'question' is empty"),
            ({**GOOD, "id": "2", "choices": ["a"]}, "line 2: 'choices' must be a list"),
            ({**GOOD, "id": "2", "choices": "ab"}, "line 2: 'choices' must be a list"),
            ({**GOOD, "id": "2", "choices": ["a", "a"]}, "line 2: two of the choices"),
            ({**GOOD, "id": "2", "choices": ["x", "y"]}, "line 2: .*letters A to B, not 'red'"),
            ({**GOOD, "id": "2", "start": "soon"}, "line 2: 'start': 'soon' is not a time"),
            ({**GOOD, "id": "2", "start": True}, "line 2: 'start' must be seconds"),
            ({**GOOD, "id": "2", "start": 5, "end": 5}, "line 2: end .5 s. must be after"),
            ({**GOOD, "id": "2", "start": -1}, "line 2: 'start'"),
            (
                {**GOOD, "id": "2", "choices": [*"abcdefghijklmnopqrstuvwxyz", "1"]},
                "line 2: 2 to 26",
            ),
            ({**GOOD, "id": "2", "options": ["red", "blue"]}, "line 2: .*'options'.*'choices'"),
            ({**GOOD, "id": "2", "start_time": 3}, "line 2: .*'start_time'.*'start'"),
            ({"id": "2", "video": "a.mp4", "question": "?", "answer": "a"}, "'video'.*'media'"),
        ],
    )
    def test_refusals_name_the_line(self, tmp_path: Path, line: object, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            read_jsonl(write_lines(tmp_path, GOOD, line))

    def test_unknown_keys_are_named_once(self, tmp_path: Path) -> None:
        both = {**GOOD, "id": "2", "choices": ["red", "blue"], "options": ["x"], "note": 1}
        found = read_jsonl(write_lines(tmp_path, GOOD, both, {**both, "id": "3"}))
        (warning,) = found.warnings
        assert "'note' (line 2), 'options' (line 2)" in warning
        assert not read_jsonl(write_lines(tmp_path, GOOD)).warnings

    def test_clips_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        lines = [{**GOOD, "id": name, "media": f"{name}.mp4"} for name in ("a", "b", "c")]
        (warning,) = read_jsonl(write_lines(tmp_path, *lines)).warnings
        assert "line 2: the file " in warning
        assert "b.mp4 is not there, nor is that of another question" in warning

    def test_only_a_line_feed_ends_a_line(self, tmp_path: Path) -> None:
        # json.dumps(ensure_ascii=False) leaves these as they are, and str.splitlines cuts there.
        asked = "What is\u2028shown\x85or\u2029said\x1e?"
        path = write_lines(tmp_path, json.dumps({**GOOD, "question": asked}, ensure_ascii=False))
        (one,) = read_jsonl(path).items
        assert one.question == asked

    def test_marks_and_windows_line_ends(self, tmp_path: Path) -> None:
        text = json.dumps(GOOD) + "\r\n\ufeff" + json.dumps({**GOOD, "id": "2"}) + "\r\n"
        path = write_lines(tmp_path)
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [one.id for one in read_jsonl(path).items] == ["1", "2"]

    def test_unreadable_files(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            read_jsonl(tmp_path / "none.jsonl")
        (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UsageError, match="not UTF-8"):
            read_jsonl(tmp_path / "binary.jsonl")
        with pytest.raises(UsageError, match="no questions"):
            read_jsonl(write_lines(tmp_path, ""))
