"""Measuring as the paper's authors do, and letting a model think before it is scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seats_cli.config import ModelOptions
from seats_cli.errors import UsageError
from seats_cli.evaluate import runner
from seats_cli.evaluate.benchmarks import BENCHMARKS
from seats_cli.evaluate.published import SYSTEM, check_published, published_protocol
from seats_cli.evaluate.questions import EvalProtocol
from seats_cli.evaluate.run import Host, Job, Outcome, run_job
from seats_cli.evaluate.summary import summarise
from seats_cli.media import FrameSizing
from seats_cli.models import LoadedModel, load_model
from seats_cli.report.eval_table import eval_markdown
from tests.evaluate.test_benchmarks import daily_omni
from tests.media.build import Sound, steady, tone, write

QWEN2_5, QWEN3 = "qwen2_5_omni", "qwen3_omni_moe"


def protocol_of(name: str) -> EvalProtocol:
    return BENCHMARKS[name]._protocol()


@pytest.mark.parametrize(
    ("name", "frames", "frames_3", "speaks", "tokens"),
    [
        ("daily-omni", 128, 128, True, 32),
        ("worldsense", 128, 128, True, 1024),
        ("omnivideobench", 256, 196, False, 32),
        ("video-mme", 768, 196, False, 16),
        ("lvomnibench", 768, 196, False, 32),
    ],
)
def test_settings_are_those_of_the_authors_code(
    name: str, frames: int, frames_3: int, speaks: bool, tokens: int
) -> None:
    for family, bound in ((QWEN2_5, frames), (QWEN3, frames_3)):
        found = published_protocol(name, protocol_of(name), family)
        assert (found.fps, found.max_frames, found.max_new_tokens) == (2.0, bound, tokens)
        assert found.system == (SYSTEM if speaks else "")
        assert (found.min_tokens_per_grid, found.max_tokens_per_grid) == (128, 144)
        assert (found.total_tokens, found.states_fps, found.max_audio_s) == (24_576, False, 300.0)
        assert found.as_published
    own = protocol_of(name)
    assert (own.system, own.total_tokens, own.states_fps, own.as_published) == (
        *(None, None),
        *(True, False),
    )


@pytest.mark.parametrize("factor", [28, 32])
def test_the_budget_is_in_merged_tokens(factor: int) -> None:
    sizing = FrameSizing.for_factor(factor)
    found = published_protocol("video-mme", protocol_of("video-mme"), QWEN2_5).sizing(sizing)
    area = factor * factor
    assert (found.total_pixels, found.max_pixels) == (24_576 * area, 144 * area)
    assert protocol_of("video-mme").sizing(sizing).total_pixels == sizing.total_pixels


def test_what_does_not_go_together() -> None:
    with pytest.raises(UsageError, match="not synthetic"):
        check_published("synthetic", ())
    for field in ("fps", "max_frames", "system", "max_new_tokens"):
        with pytest.raises(UsageError, match=f"`{field}`"):
            check_published("daily-omni", {field: 1})
    with pytest.raises(UsageError, match="mini_omni"):
        published_protocol("daily-omni", protocol_of("daily-omni"), "mini_omni")


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Daily-Omni with two questions about a clip of 2 s."""
    folder = tmp_path_factory.mktemp("daily")
    daily_omni(folder)
    write(folder / "Videos" / "abc" / "abc_video.mp4", steady(50), [Sound(tone(2.0))])
    return folder


@pytest.fixture(scope="module", params=["omni-7b", "omni3-instruct"])
def loaded(request: pytest.FixtureRequest, hub_repository: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(hub_repository(request.param)), device="cpu")


def evaluated(
    loaded: LoadedModel, root: Path, out: Path, *, published: bool, **protocol: Any
) -> Outcome:
    job = Job(
        name="daily-omni",
        root=root,
        limit=2,
        set_seed=None,
        only=(),
        protocol=protocol,
        specs=(),
        as_published=published,
        find_layers=False,
        model=ModelOptions(),
        out=out,
        seed=0,
        retry_errors=False,
        workers=1,
    )
    host = Host(
        load=lambda _: loaded,
        load_silently=lambda _: loaded,
        warn=print,
        check=lambda: None,
        progress=lambda *_: nullcontext(lambda _: None),
    )
    outcome = run_job(job, host)
    assert outcome is not None
    assert all(record.error is None for record in outcome.records)
    return outcome


def test_prompts_and_positions_as_published(
    loaded: LoadedModel, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    ask = runner.ask

    def noting(model: LoadedModel, clip: Any, *rest: Any, **more: Any) -> Any:
        seen.append(clip)
        return ask(model, clip, *rest, **more)

    monkeypatch.setattr(runner, "ask", noting)
    found = evaluated(loaded, root, tmp_path / "published", published=True)
    plain = evaluated(loaded, root, tmp_path / "plain", published=False)
    theirs, own = seen[0], seen[-1]
    assert (theirs.system, own.system) == (SYSTEM, None)
    # Seconds between two grids: of the frame rate, and of what the processor assumes without it.
    assumed = 1.0 if loaded.facts.family == QWEN2_5 else 2.0
    for prepared, seconds in ((theirs, assumed), (own, 1.0)):
        spacing = torch.as_tensor(prepared.features["video_second_per_grid"])
        assert spacing.flatten().tolist() == pytest.approx([seconds])
    assert torch.equal(theirs.features["pixel_values_videos"], own.features["pixel_values_videos"])
    # The report, the JSON's notes and the folder say it; without, there is nothing to say.
    (note,) = found.notes
    assert "As published" in note
    assert f"{2 / assumed:g} frames per second" in note
    assert note in eval_markdown(summarise("daily-omni", found.records), found.notes)
    assert plain.notes == ()
    reading = json.loads((tmp_path / "published" / "run.json").read_text())["reading"]
    assert (reading["as_published"], reading["system"]) == (True, SYSTEM)


def test_a_folder_is_of_one_kind(loaded: LoadedModel, root: Path, tmp_path: Path) -> None:
    for first in (True, False):
        out = tmp_path / str(first)
        evaluated(loaded, root, out, published=first)
        with pytest.raises(UsageError, match="do not mix"):
            evaluated(loaded, root, out, published=not first)
        assert len(evaluated(loaded, root, out, published=first).records) == 2


def test_a_folder_of_before_is_resumed(loaded: LoadedModel, root: Path, tmp_path: Path) -> None:
    """What protocols have got since acted as its default then."""
    evaluated(loaded, root, tmp_path, published=False)
    path = tmp_path / "run.json"
    known = json.loads(path.read_text())
    for name in ("system", "total_tokens", "max_audio_s", "states_fps", "as_published"):
        del known["reading"][name]
    path.write_text(json.dumps(known))
    assert len(evaluated(loaded, root, tmp_path, published=False).records) == 2
    with pytest.raises(UsageError, match="do not mix"):
        evaluated(loaded, root, tmp_path, published=True)


# -------------------------------------------------------------------------------------- thinking


@pytest.fixture(scope="module")
def thinking(hub_repository: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(hub_repository("omni3-thinking")), device="cpu")


@contextmanager
def saying(loaded: LoadedModel, text: str) -> Iterator[None]:
    """Let the model answer every prompt with a text."""
    ids = loaded.processor.tokenizer.encode(text)
    script: list[int] = []

    def begin(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > 1:
            script[:] = ids

    def force(_module: Any, _args: Any, logits: Tensor) -> Tensor:
        if script:
            logits = logits - 1e4
            logits[..., script.pop(0)] = 1e4
        return logits

    with (
        loaded.model.register_forward_pre_hook(begin, with_kwargs=True),
        loaded.adapter.lm_head.register_forward_hook(force),
    ):
        yield


def test_what_follows_the_reasoning_is_scored(
    thinking: LoadedModel, root: Path, tmp_path: Path
) -> None:
    reasoning = " ".join(9 * ["It is B or C."])  # more than the 32 tokens of the set
    with saying(thinking, f"<think>\n{reasoning}\n</think>\n\nA<|im_end|>"):
        outcome = evaluated(thinking, root, tmp_path, published=False)
    assert [record.given for record in outcome.records] == ["A", "A"]
    assert sorted(record.correct for record in outcome.records) == [False, True]
    record = outcome.records[0]
    assert record.thinking == reasoning
    assert record.answer_tokens is not None
    assert record.answer_tokens > 32
    assert not record.cut_off
    (note,) = outcome.notes
    assert "thinks before it answers" in note
    assert "0 of 2" in note
    description = json.loads((tmp_path / "run.json").read_text())
    assert description["sampling"]["top_k"] == 20
    assert description["reading"]["max_new_tokens"] is None


def test_reasoning_that_is_cut_off_is_counted(
    thinking: LoadedModel, root: Path, tmp_path: Path
) -> None:
    with saying(thinking, f"<think>\n{60 * 'A. '}"):
        outcome = evaluated(thinking, root, tmp_path, published=False, max_new_tokens=20)
    assert [(record.given, record.unparsed, record.cut_off) for record in outcome.records] == [
        ("", True, True),
        ("", True, True),
    ]
    assert "at most 20 tokens" in outcome.notes[0]
    assert "2 of 2" in outcome.notes[0]
