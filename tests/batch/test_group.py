"""One clip of a batch: what is shared, what is the same as asking alone, and what fails."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from seats_cli import SeatsConfig, ask, load_model, read_clip
from seats_cli.batch.group import (
    BatchSettings,
    ClipRead,
    Result,
    answer_group,
    group_need,
    read_group,
)
from seats_cli.batch.manifest import BatchQuestion, ClipGroup
from seats_cli.engine.session import ClipSession
from seats_cli.errors import MediaError
from seats_cli.media.clip import ReadOptions
from seats_cli.models.load import LoadedModel
from seats_cli.report.documents import answer_document

CARDS = str(Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4")
SETTINGS = BatchSettings(
    config=SeatsConfig.preset("25%"),
    read=ReadOptions(fps=1.0, end=6.0),
    generation={"max_new_tokens": 6, "seed": 3},
)
WORDS = ("What color is shown first?", "What color is shown last?", "How many beeps are there?")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model()


def group_of(*questions: str, path: str = CARDS, **more: Any) -> ClipGroup:
    asked = [
        BatchQuestion(f"item {number}", 0, "cards.mp4", question, **more)
        for number, question in enumerate(questions)
    ]
    return ClipGroup(path, tuple(asked))


def results(
    loaded: LoadedModel, group: ClipGroup, settings: BatchSettings = SETTINGS
) -> list[Result]:
    need = group_need(loaded, group, settings)
    read = read_group(group, settings, loaded.sizing, loaded.architecture, need)
    return list(answer_group(loaded, group, settings, read))


@pytest.fixture
def encoded(loaded: LoadedModel) -> Iterator[list[str]]:
    """Names the encoders as they run: a call that a cache answers reaches no layer."""
    calls: list[str] = []
    visual, audio = loaded.adapter.visual, loaded.adapter.audio_tower
    encoders = (("video", visual.blocks[0]), ("audio", audio.layers[0]))
    hooks = [
        encoder.register_forward_pre_hook(lambda *_args, name=name: calls.append(name))
        for name, encoder in encoders
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def test_a_clip_is_encoded_once_and_answers_are_those_of_asking_alone(
    loaded: LoadedModel, encoded: list[str]
) -> None:
    found = results(loaded, group_of(*WORDS))
    assert sorted(encoded) == ["audio", "video"]
    clip = read_clip(CARDS, SETTINGS.read, sizing=loaded.sizing)
    for result, question in zip(found, WORDS, strict=True):
        answer = ask(loaded, clip, question, config=SETTINGS.config, **SETTINGS.generation)
        alone = json.loads(json.dumps(answer_document(answer)))
        assert result["media"].pop("path") == "cards.mp4"
        del alone["media"]["path"]
        same = alone.keys() - {"versions", "timing", "cost"}
        assert {name: result[name] for name in same} == {name: alone[name] for name in same}
        assert result.keys() - alone.keys() == {
            *("id", "question_index", "fingerprint", "expected", "error", "correct", "unparsed")
        }
        assert result["cost"]["prefill_flops"] == alone["cost"]["prefill_flops"]
    assert len(encoded) == 2 + 2 * len(WORDS)


def test_answers_are_scored(loaded: LoadedModel) -> None:
    settings = BatchSettings(read=SETTINGS.read, config=None, choices=("purple", "red"))
    asked = [
        BatchQuestion("usual", 0, "c", WORDS[0], expected="B"),
        BatchQuestion("wrong", 0, "c", WORDS[0], ("red", "green"), expected="B"),
        BatchQuestion("right", 0, "c", WORDS[0], ("red", "green"), expected="A"),
        BatchQuestion("unknown", 0, "c", WORDS[0]),
    ]
    found = results(loaded, ClipGroup(CARDS, tuple(asked)), settings)
    assert [result["correct"] for result in found] == [True, False, True, None]
    assert [result["answer"] for result in found] == ["red"] * 4
    assert [result["expected"] for result in found] == ["B", "B", "A", None]
    assert [len(result["choices"]) for result in found] == [2] * 4
    (open_one,) = results(loaded, ClipGroup(CARDS, (replace(asked[0], expected="Red."),)))
    assert (open_one["choices"], open_one["correct"]) == ([], True)


@pytest.mark.parametrize("choices", [("B", "A"), ("red", "Red."), ("zero", "0")])
def test_options_are_compared_by_their_place(loaded: LoadedModel, choices: tuple[str, ...]) -> None:
    """Their texts may read like letters of others, or the same but for case and punctuation."""
    asked = BatchQuestion("item", 0, "c", WORDS[0], choices)
    (found,) = results(loaded, ClipGroup(CARDS, (asked,)))
    right = "AB"[choices.index(found["answer"])]
    for letter in "AB":
        (scored,) = results(loaded, ClipGroup(CARDS, (replace(asked, expected=letter),)))
        assert scored["correct"] is (letter == right)
        assert scored["unparsed"] is False


def test_a_clip_that_cannot_be_read_fails_each_of_its_questions(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"no video" * 100)
    for path in (str(noise), str(tmp_path / "gone.mp4")):
        found = results(loaded, group_of(*WORDS[:2], path=path))
        assert [result["error"]["kind"] for result in found] == ["media", "media"]
        assert found[0]["id"] == "item 0"
        assert found[0]["answer"] is None
        assert found[0]["media"] == {"path": "cards.mp4"}
    (found_range,) = results(loaded, group_of(WORDS[0], start_s=100.0))
    assert found_range["error"]["kind"] == "usage"


def test_a_question_that_fails_leaves_the_others_alone(loaded: LoadedModel) -> None:
    good = [result["answer"] for result in results(loaded, group_of(*WORDS))]
    asked = group_of(WORDS[0], "why " * 6000, WORDS[1], WORDS[2])
    clip = read_clip(CARDS, SETTINGS.read, sizing=loaded.sizing)
    found = list(answer_group(loaded, asked, SETTINGS, ClipRead(clip)))
    assert found[1]["error"]["kind"] == "resource"
    assert [found[number]["answer"] for number in (0, 2, 3)] == good


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_kept_is_let_go_where_memory_runs_out(
    loaded: LoadedModel, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the question is asked again without it; twice, it has failed."""
    good = [result["answer"] for result in results(loaded, group_of(*WORDS))]
    seen: list[int] = []
    sessions: list[weakref.ref[ClipSession]] = []
    gone: list[list[bool]] = []  # of the earlier ones, when another begins

    def begun(*arguments: Any, **how: Any) -> ClipSession:
        gone.append([session() is None for session in sessions])
        session = ClipSession(*arguments, **how)
        sessions.append(weakref.ref(session))
        return session

    monkeypatch.setattr("seats_cli.batch.group.ClipSession", begun)

    def short(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[1] > 1 and len(seen) < 1 + times:  # a prefill
            seen.append(1)
            if len(seen) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")

    hook = loaded.adapter.lm_head.register_forward_pre_hook(short)
    try:
        found = results(loaded, group_of(*WORDS))
    finally:
        hook.remove()
    assert len(seen) == 1 + times
    assert gone == [[], [True], [True, True]][: 1 + times]
    if times == 1:
        assert [result["answer"] for result in found] == good
    else:
        errors = [result["error"] and result["error"]["kind"] for result in found]
        assert errors == [None, "resource", None]
        assert found[2]["answer"] == good[2]


def test_urls_are_fetched_for_the_time_of_their_group(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "cards.mp4").write_bytes(Path(CARDS).read_bytes())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        group = group_of(WORDS[0], path=f"http://127.0.0.1:{server.server_port}/cards.mp4")
        (refused,) = results(loaded, group)
        (found,) = results(loaded, group, replace(SETTINGS, allow_local_urls=True))
    finally:
        server.shutdown()
        server.server_close()
    assert refused["error"]["kind"] == "media"
    assert found["answer"] == "red"
    (refused,) = results(loaded, group, BatchSettings(offline=True))
    assert refused["error"]["kind"] == "usage"


def test_reading_stops_when_it_is_told_to(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    stop.set()

    class StoppedError(Exception):
        pass

    def progress(_what: str, _done: float) -> None:
        if stop.is_set():
            raise StoppedError

    def fetch(*_: object, on_progress: Callable[[int, None], None], **__: object) -> None:
        try:
            on_progress(1, None)
        except Exception as error:
            raise MediaError("It cannot be fetched.") from error

    monkeypatch.setattr("seats_cli.batch.group.download", fetch)
    for path in (CARDS, "http://host/clip.mp4"):
        group = group_of(WORDS[0], path=path)
        need = group_need(loaded, group, SETTINGS)
        with pytest.raises(StoppedError):
            read_group(group, SETTINGS, loaded.sizing, loaded.architecture, need, progress)


def test_each_result_names_the_clip_as_its_item_does(loaded: LoadedModel) -> None:
    asked = [BatchQuestion(name, 0, name, WORDS[0]) for name in ("cards.mp4", "./cards.mp4")]
    found = results(loaded, ClipGroup(CARDS, tuple(asked)))
    assert [result["media"]["path"] for result in found] == ["cards.mp4", "./cards.mp4"]


def test_settings_are_plain(loaded: LoadedModel) -> None:
    plain = SETTINGS.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["read"]["fps"] == 1.0
    assert plain["config"]["retain"] == 0.25
    assert "offline" not in plain
