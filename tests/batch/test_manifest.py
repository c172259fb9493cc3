"""Manifests: what is read, what is refused, and which questions share a clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seats_cli.batch.manifest import Manifest, manifest_of_files, read_manifest
from seats_cli.errors import UsageError

GOOD = {"id": "1", "media": "a.mp4", "question": "What?"}


def write(folder: Path, *lines: str | dict[str, Any], end: str = "\n") -> Path:
    path = folder / "items.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes(end.join(texts).encode())
    return path


def read(folder: Path, *lines: str | dict[str, Any], **options: Any) -> Manifest:
    (folder / "a.mp4").touch()
    return read_manifest(write(folder, *lines), **options)


def test_an_item_with_everything(tmp_path: Path) -> None:
    item = {
        "id": 7,
        "media": "a.mp4",
        "questions": ["Which?", "Who?"],
        "choices": ["red", "blue"],
        "answer": ["blue", None],
        "start": "0:01.5",
        "end": 3,
    }
    manifest = read(tmp_path, item)
    (group,) = manifest.groups
    assert group.path == str(tmp_path / "a.mp4")
    assert group.media == "a.mp4"
    first, second = group.questions
    assert (first.key, first.question, first.expected) == (("7", 0), "Which?", "B")
    assert (second.key, second.question, second.expected) == (("7", 1), "Who?", None)
    assert (first.start_s, first.end_s, first.choices) == (1.5, 3.0, ("red", "blue"))
    assert manifest.warnings == ()


def test_marks_line_ends_and_separators_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    odd = {**GOOD, "id": "2", "question": "one\u2028two"}
    path = write(tmp_path, "\ufeff" + json.dumps(GOOD), "", odd, end="\r\n")
    path.write_bytes(path.read_bytes().replace(b"\\u2028", "\u2028".encode()))
    questions = read_manifest(path).questions
    assert [question.question for question in questions] == ["What?", "one\u2028two"]


def test_questions_about_the_same_part_of_a_file_stand_together(tmp_path: Path) -> None:
    lines = [
        {**GOOD, "id": "1"},
        {**GOOD, "id": "2", "media": "b.mp4"},
        {**GOOD, "id": "3", "media": "./a.mp4"},
        {**GOOD, "id": "4", "start": 2},
        {**GOOD, "id": "5", "media": "b.mp4"},
        {**GOOD, "id": "6", "start": "0:02"},
    ]
    groups = read(tmp_path, *lines).groups
    assert [[question.id for question in group.questions] for group in groups] == [
        ["1", "3"],
        ["2", "5"],
        ["4", "6"],
    ]


def test_a_missing_id_is_made_of_the_item(tmp_path: Path) -> None:
    bare = {"media": "a.mp4", "question": "What?"}
    other = {"media": "a.mp4", "question": "Who?"}
    first, second = read(tmp_path, bare, other).questions
    assert first.id.startswith("a-")
    assert first.id != second.id
    again = read(tmp_path, other, GOOD, bare).questions
    assert {question.id for question in again} == {"1", first.id, second.id}
    with pytest.raises(UsageError, match=r"items\.jsonl, line 2: it repeats line 1"):
        read(tmp_path, bare, bare)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: this is not JSON"),
        ("[]", "line 2: an item must be a JSON object"),
        (f'{{"id": {"1" * 5000}}}', "line 2: this is not JSON (a number is too long)"),
        ({**GOOD, "id": 1}, "line 2: the id '1' was already used in line 1"),
        ({"id": "2", "question": "What?"}, "line 2: 'media' is missing"),
        ({"id": "2", "media": "a.mp4"}, "line 2: 'question' is missing"),
        ({"id": "2", "video": "a.mp4"}, "the key 'video' is unknown; did you mean 'media'?"),
        ({**GOOD, "id": "2", "questions": ["a"]}, "either 'question' or 'questions'"),
        ({"id": "2", "media": "a", "questions": []}, "'questions' must be a list"),
        ({"id": "2", "media": "a", "questions": ["a", " "]}, "'questions' must be a list"),
        ({"id": "2", "media": "a", "questions": ["a", "b"], "answer": "c"}, "a list of 2"),
        ({**GOOD, "id": "2", "answer": ["a", "b"]}, "1 questions and 2 answers"),
        ({**GOOD, "id": "2", "choices": ["x", "y"], "answer": "z"}, "one of the letters A to B"),
        ({**GOOD, "id": "2", "choices": ["x"]}, "'choices' must be a list"),
        ({**GOOD, "id": "2", "start": 3, "end": 2}, "line 2: end (2 s) must be after start (3 s)"),
        ({**GOOD, "id": "2", "start": "soon"}, "line 2: 'start'"),
        ({**GOOD, "id": "2", "media": "file://there/a.mp4"}, "line 2: "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, GOOD, line)
    assert words in str(caught.value)
    assert "items.jsonl, line 2" in str(caught.value)


def test_what_is_not_read_or_not_there_is_a_warning(tmp_path: Path) -> None:
    lines = [GOOD, {**GOOD, "id": "2", "media": "gone.mp4", "level": 3}]
    keys, files = read(tmp_path, *lines).warnings
    assert "'level' (line 2)" in keys
    assert "line 2: the file" in files
    assert "gone.mp4 is not there" in files


def test_items_without_a_question_get_the_usual_ones(tmp_path: Path) -> None:
    bare = {"id": "2", "media": "a.mp4"}
    questions = read(tmp_path, GOOD, bare, questions=("First?", "Last?")).questions
    assert [(one.id, one.index, one.question) for one in questions] == [
        ("1", 0, "What?"),
        ("2", 0, "First?"),
        ("2", 1, "Last?"),
    ]


def test_answers_are_options_of_the_run_where_an_item_has_none(tmp_path: Path) -> None:
    own = {**GOOD, "id": "2", "choices": ["x", "y"], "answer": "y"}
    lines = [{**GOOD, "answer": "b"}, own, {**GOOD, "id": "3", "answer": "blue"}]
    questions = read(tmp_path, *lines, choices=("red", "blue")).questions
    assert [question.expected for question in questions] == ["B", "B", "B"]
    assert [question.choices for question in questions] == [(), ("x", "y"), ()]
    with pytest.raises(UsageError, match=r"items\.jsonl, line 2: .* letters A to B, not 'green'"):
        read(tmp_path, GOOD, {**GOOD, "id": "2", "answer": "green"}, choices=("red", "blue"))
    assert read(tmp_path, {**GOOD, "answer": "b"}).questions[0].expected == "b"


def test_an_empty_manifest_and_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no items"):
        read(tmp_path, "")
    with pytest.raises(UsageError, match="cannot be read as text"):
        read_manifest(tmp_path / "gone.jsonl")


def test_a_folder_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clips/b.MKV", "clips/deep/c.wav", "clips/.d.mp4", "clips/notes.txt", "e"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("clips/round").symlink_to(tmp_path / "clips")
    manifest = manifest_of_files(["e", "clips", "clips/b.MKV", "http://host/f"], ["What?", "Who?"])
    assert [group.media for group in manifest.groups] == [
        "e",
        "clips/b.MKV",
        "clips/deep/c.wav",
        "http://host/f",
    ]
    assert manifest.groups[0].questions[1].key == ("e", 1)
    (warning,) = manifest.warnings
    assert "clips/notes.txt left out" in warning
    Path("none").mkdir()
    with pytest.raises(UsageError, match="no video or sound"):
        manifest_of_files(["none"], ["What?"])
    with pytest.raises(UsageError, match="no question"):
        manifest_of_files(["e"], [])


def test_fingerprints_differ_when_anything_does(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"question": "Who?"},
        {"media": "b.mp4"},
        {"start": 1},
        {"end": 1},
        {"choices": ["x", "y"]},
        {"answer": "x"},
    ]
    found = {read(tmp_path, {**GOOD, **change}).questions[0].fingerprint for change in changes}
    assert len(found) == len(changes)
