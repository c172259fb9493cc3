"""Readers of public benchmarks, each on a small folder in the published layout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seats_cli.errors import UsageError
from seats_cli.evaluate.annotations import without_letters
from seats_cli.evaluate.benchmarks import BENCHMARKS, read_benchmark
from seats_cli.evaluate.scoring import options_for, prompt_for

OPTIONS = ["A. a dog", "B. a cat", "C. a cow", "D. a hen"]
PLAIN = ("a dog", "a cat", "a cow", "a hen")


def put_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def put_video(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")


def put_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def daily_omni(root: Path) -> None:
    row = {
        "Question": "What barks?",
        "Choice": OPTIONS,
        "Answer": "A",
        "video_id": "abc",
        "Type": "Reasoning",
        "video_category": "Comedy",
        "video_duration": "30s",
    }
    put_json(root / "qa.json", [row, {**row, "Answer": "B"}])
    put_video(root / "Videos" / "abc" / "abc_video.mp4")


def worldsense(root: Path) -> None:
    task = {
        "question": "What barks?",
        "candidates": OPTIONS,
        "answer": "A",
        "task_type": "Audio Recognition",
        "task_domain": "Recognition",
    }
    facts = {"duration": "<1min", "domain": "Music", "sub_category": "x", "audio_class": ["Music"]}
    content = {"abc": {**facts, "task0": task, "task1": {**task, "answer": "B"}}}
    put_json(root / "worldsense_qa.json", content)
    put_video(root / "videos" / "abc.mp4")


def omnivideobench(root: Path) -> None:
    question = {
        "question": "What barks?",
        "question_type": "counting",
        "audio_type": "Speech",
        "answer": "a dog",
        "options": [option.replace(". ", ".") for option in OPTIONS],
        "correct_option": "A",
    }
    entry = {"video": "video_1", "video_type": "Vlog", "duration": "03:28"}
    put_json(
        root / "data.json",
        [{**entry, "questions": [question, {**question, "correct_option": "B"}]}],
    )
    put_video(root / "videos" / "video_1.mp4")


def videomme(root: Path) -> None:
    question = {
        "question_id": "001-1",
        "task_type": "Object Recognition",
        "question": "What barks?",
        "choices": OPTIONS,
        "answer": "A",
    }
    entry = {
        "video_id": "001",
        "duration_category": "short",
        "video_category": "Knowledge",
        "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
        "questions": [question, {**question, "question_id": "001-2", "answer": "B"}],
    }
    put_json(root / "videomme.json", [entry])
    put_video(root / "data" / "fFjv93ACGo8.mp4")


def lvomnibench(root: Path) -> None:
    row = {
        "video_id": "video_0",
        "question": "What barks?",
        "options": OPTIONS,
        "correct_option": "A",
        "question_type": "Perception",
        "difficulty": "Low",
    }
    put_json(root / "data.json", [row, {**row, "correct_option": "b"}])
    put_video(root / "videos" / "video_0.mp4")


WRITERS: dict[str, Callable[[Path], None]] = {
    "daily-omni": daily_omni,
    "worldsense": worldsense,
    "omnivideobench": omnivideobench,
    "video-mme": videomme,
    "lvomnibench": lvomnibench,
}
FRAMES = {
    "daily-omni": 128,
    "worldsense": 128,
    "omnivideobench": 256,
    "video-mme": 768,
    "lvomnibench": 768,
}


def test_every_reader_has_a_test() -> None:
    assert set(WRITERS) == set(BENCHMARKS) == set(FRAMES)


@pytest.mark.parametrize("name", BENCHMARKS)
class TestReaders:
    def test_items(self, name: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        found = read_benchmark(name, tmp_path)
        assert found.name == name
        assert [item.answer for item in found.items] == ["A", "B"]
        assert [item.answer_text for item in found.items] == ["a dog", "a cat"]
        assert len({item.id for item in found.items}) == 2
        assert len(list(found.clips())) == 1
        for item in found.items:
            assert item.choices == PLAIN
            assert item.question == "What barks?"
            assert item.family
            assert item.kind
            assert isinstance(item.media, str)
            assert Path(item.media).read_bytes() == b"video"

    def test_settings_and_prompt(self, name: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        found = read_benchmark(name, tmp_path)
        settings = found.protocol
        assert (settings.fps, settings.max_frames) == (2.0, FRAMES[name])
        assert (settings.min_tokens_per_grid, settings.max_tokens_per_grid) == (128, 144)
        prompt = prompt_for(found.items[0], settings)
        assert "What barks?" in prompt
        assert "\nA. a dog\nB. a cat\nC. a cow\nD. a hen\n" in prompt
        assert "letter" in prompt
        assert options_for(found.items[0], settings) == ()

    def test_missing_videos(self, name: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        (video,) = tmp_path.rglob("*.mp4")
        video.rename(video.with_name("other.mp4"))
        with pytest.raises(UsageError, match=r"None of the 1 videos .* is there; expected is"):
            read_benchmark(name, tmp_path)

    def test_missing_and_broken_annotations(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a folder"):
            read_benchmark(name, tmp_path / "none")
        (tmp_path / "videos").mkdir()
        with pytest.raises(UsageError, match="holds no annotations; expected is"):
            read_benchmark(name, tmp_path)
        WRITERS[name](tmp_path)
        (source,) = tmp_path.glob("*.json")
        content = source.read_text()
        for broken in ("{", "[]", "7", '["x"]', '[{"video_id": "abc"}]', '{"abc": 5}'):
            source.write_text(broken)
            with pytest.raises(UsageError, match=str(source.name)) as caught:
                read_benchmark(name, tmp_path)
            assert "\n" not in str(caught.value)
        source.write_text(content.replace('"A"', '"E"'))
        with pytest.raises(UsageError, match="one of the letters A to D, not 'E'"):
            read_benchmark(name, tmp_path)


def test_names_are_forgiving(tmp_path: Path) -> None:
    daily_omni(tmp_path)
    assert read_benchmark("Daily_Omni", str(tmp_path)).name == "daily-omni"
    videomme(tmp_path / "v")
    assert read_benchmark("VideoMME", tmp_path / "v").name == "video-mme"
    with pytest.raises(UsageError, match="known are daily-omni, worldsense"):
        read_benchmark("imagenet", tmp_path)


def test_videomme_from_the_hub(tmp_path: Path) -> None:
    row = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
        "videoID": "fFjv93ACGo8",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "What barks?",
        "options": OPTIONS,
        "answer": "A",
    }
    put_parquet(tmp_path / "videomme" / "test-00000-of-00001.parquet", [row])
    put_video(tmp_path / "data" / "fFjv93ACGo8.mkv")
    (item,) = read_benchmark("video-mme", tmp_path).items
    assert isinstance(item.media, str)
    assert item.media.endswith("fFjv93ACGo8.mkv")
    assert (item.id, item.kind, item.meta["domain"]) == ("video-mme-001-1", "short", "Knowledge")


def test_worldsense_and_omnivideobench_from_parquet(tmp_path: Path) -> None:
    row = {
        "index": 0,
        "video": "abc",
        "video_path": "./videos/abc.mp4",
        "duration": "<1min",
        "domain": "Music",
        "candidates": OPTIONS,
        "task_type": "Audio Change",
        "question": "What barks?",
        "answer": "A",
    }
    put_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [row])
    put_video(tmp_path / "videos" / "abc.mp4")
    (item,) = read_benchmark("worldsense", tmp_path).items
    assert item.choices == PLAIN
    flat = {"question": "What barks?", "options": OPTIONS, "correct_option": "A"}
    put_parquet(tmp_path / "o" / "data.parquet", [{"video": "videos/video_1.mp4", **flat}])
    put_video(tmp_path / "o" / "videos" / "video_1.mp4")
    (item,) = read_benchmark("omnivideobench", tmp_path / "o").items
    assert item.answer_text == "a dog"


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "data").mkdir()
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"needed: pip install 'seats-cli\[eval\]'"):
        read_benchmark("video-mme", tmp_path)


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        (["A. x", "B. y"], ("x", "y")),
        (["(A) x", "(B) y"], ("x", "y")),
        (["A: x", "B) y"], ("x", "y")),
        (["A.x", "B.y"], ("x", "y")),
        (["x", "y"], ("x", "y")),
        (["A. x", "y"], ("A. x", "y")),
    ],
)
def test_letters_of_options(options: list[str], plain: tuple[str, ...]) -> None:
    assert without_letters(options, "here") == plain


def test_letters_out_of_order() -> None:
    with pytest.raises(UsageError, match="here: the options have the letters BA, out of order"):
        without_letters(["B. x", "A. y"], "here")
