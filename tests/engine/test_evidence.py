"""What an answer rests on: right values, and a run that does not notice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from seats_cli import ClipSession, SeatsConfig, ask, load_model, read_clip
from seats_cli.cost.token_counts import Evidence, Grid, TokenTimes
from seats_cli.engine.evidence import MOST, EvidenceReader, evidence_of
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from seats_cli.engine.session_profile import profile_sessions
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models.load import LoadedModel
from seats_cli.models.patching import hooked
from seats_cli.models.registry import adapter_for
from seats_cli.results import Answer, RunSpec
from seats_cli.selection.trace import SelectionTrace
from tests.engine import golden
from tests.engine.conftest import CARDS
from tests.models.checkpoints import write_checkpoint

FACTS = MediaFacts("a.mp4", "mp4", 20.0, 10.0, 13.5, frames_used=6, height=28, width=56)
TIMES = TokenTimes(Grid(3, 1, 2, 2, 1.0), 2.0)
# Two text tokens, two grids, four audio tokens, the third grid, two audio tokens, one of text.
PROMPT = "ttvvvvaaaavvaat"


def trace() -> SelectionTrace:
    kinds = torch.tensor([ord(kind) for kind in PROMPT])
    return SelectionTrace(4, kinds == ord("v"), kinds == ord("a"))


def relevance(**values: float) -> Tensor:
    """Of a prompt, by position (`p3=0.5`)."""
    found = torch.zeros(len(PROMPT), dtype=torch.float64)
    for name, value in values.items():
        found[int(name[1:])] = value
    return found


class TestWindows:
    """Relevance by window, its place in time, its share of all."""

    def test_each_modality_has_the_windows_of_the_grids(self) -> None:
        given = relevance(p0=9.0, p2=0.1, p4=0.2, p5=0.1, p6=0.05, p9=0.25, p12=0.1, p13=0.2)
        assert evidence_of(given, trace(), TIMES, FACTS) == (
            Evidence(11.0, 12.0, "video", pytest.approx(0.3)),  # p4 and p5: the second grid
            Evidence(12.0, 13.0, "audio", pytest.approx(0.3)),  # p12, p13: after two seconds
            Evidence(11.0, 12.0, "audio", pytest.approx(0.25)),
            Evidence(10.0, 11.0, "video", pytest.approx(0.1)),
            Evidence(10.0, 11.0, "audio", pytest.approx(0.05)),
        )

    def test_the_last_window_ends_with_the_clip(self) -> None:
        (last,) = evidence_of(relevance(p13=0.5), trace(), TIMES, replace(FACTS, end_s=12.6))
        assert last == Evidence(12.0, 12.6, "audio", 1.0)

    def test_sound_alone_is_cut_into_seconds(self) -> None:
        alone = TokenTimes(None, 2.0)
        assert evidence_of(relevance(p2=1.0, p8=0.5), trace(), alone, FACTS) == (
            Evidence(11.0, 12.0, "audio", 1.0),
        )

    def test_no_time_no_evidence(self) -> None:
        assert not evidence_of(relevance(p2=1.0), trace(), TIMES, replace(FACTS, duration_s=None))
        assert not evidence_of(relevance(p0=1.0), trace(), TIMES, FACTS)

    def test_what_is_not_a_number_counts_as_nothing(self) -> None:
        given = relevance(p2=float("nan"), p3=0.5, p6=float("inf"))
        assert evidence_of(given, trace(), TIMES, FACTS) == (Evidence(10.0, 11.0, "video", 1.0),)

    @pytest.mark.parametrize("seconds", [0.04, 0.3, 1.0, 7.0])
    def test_windows_shorter_and_longer_than_tokens(self, seconds: float) -> None:
        times = TokenTimes(Grid(3, 1, 2, 2, seconds), 2.0)
        found = evidence_of(relevance(p6=1.0, p7=2.0), trace(), times, FACTS)
        assert sum(piece.share for piece in found) == pytest.approx(1.0)
        assert all(piece.start_s < piece.end_s for piece in found)
        assert len(found) == (1 if seconds >= 1.0 else 2)


@cache
def model(family: str, attention: str) -> Any:
    return golden.build(family, attention)


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_what_is_read_is_the_attention_of_the_last_token(family: str) -> None:
    """As transformers' own attention has it, averaged over heads."""
    net, prompt = model(family, "eager"), golden.inputs(golden_run(family))
    reader = EvidenceReader(adapter_for(net), None)
    with torch.no_grad(), hooked(reader.hooks()):
        out = net(**prompt, use_cache=True, output_attentions=True)
    assert reader.layers
    for layer in reader.layers:
        wanted = out.attentions[layer - 1][0, :, -1].mean(0)
        torch.testing.assert_close(reader.attention[layer], wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
@pytest.mark.parametrize("method", ["full", "divprune", "fastv", "omnidrop"])
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_reading_changes_nothing(family: str, method: str, kv: str) -> None:
    """Kept tokens, logits and every layer's cache are the same to the last bit."""
    net, prompt = model(family, "sdpa"), golden.inputs(golden_run(family))
    adapter, config = adapter_for(net), SeatsConfig(retain=0.5, method=method, kv=kv)

    def run(read: bool) -> tuple[list[Tensor], EvidenceReader, SelectionTrace]:
        filled = DynamicCache(config=net.config.get_text_config())
        name = cache_argument(net)
        reader = EvidenceReader(adapter, None)
        # As in a run: the hooks that read are there before those that prune.
        with torch.no_grad(), hooked(reader.hooks() if read else ()), prune(net, config) as active:
            logits = [net(**prompt, use_cache=True, **{name: filled}).logits[:, -1:]]
            for token in (3, 4):
                ids = torch.tensor([[token]])
                logits.append(net(input_ids=ids, use_cache=True, **{name: filled}).logits)
        states = [part for layer in filled.layers for part in (layer.keys, layer.values)]
        kept = [stage.kept for stage in active.trace.stages]
        return [*logits, *states, *kept], reader, active.trace

    with_it, reader, found = run(True)
    without, unread, _ = run(False)
    assert not unread.attention
    assert len(with_it) == len(without)
    assert all(torch.equal(one, two) for one, two in zip(with_it, without, strict=True))
    for layer, scores in reader.attention.items():
        video, audio, text = found.alive_per_layer()[layer - 1]
        assert len(scores) == video + audio + text
        assert scores.sum() == pytest.approx(1.0, abs=1e-5)


def golden_run(family: str) -> golden.Run:
    return next(run for run in golden.runs() if run.family == family)


def pieces(answer: Answer) -> list[tuple[float, float, str, float]]:
    """Comparable, with shares rounded to what shared states may change."""
    return [(m.start_s, m.end_s, m.modality, round(m.share, 3)) for m in answer.evidence]


class TestAnswers:
    """Of the bundled model, about a clip that beeps from 5.0 to 5.5 and from 6.0 to 6.5 s."""

    @pytest.mark.parametrize("method", ["seats", "full", "divprune", "fastv"])
    def test_beeps_are_found_where_they_are(
        self, loaded: LoadedModel, clip: Clip, method: str
    ) -> None:
        config = None if method == "full" else SeatsConfig(retain=0.35, method=method)
        answer = ask(loaded, clip, "What color is shown when the beeps are heard?", config=config)
        strongest = {(m.start_s, m.end_s, m.modality) for m in answer.evidence[:2]}
        assert strongest == {(5.0, 6.0, "audio"), (6.0, 7.0, "audio")}
        shares = [piece.share for piece in answer.evidence]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.0 + 1e-9
        assert len(shares) <= MOST
        assert (answer.cost.evidence_flops > 0) == (method != "seats")

    def test_seconds_are_those_of_the_file(self, loaded: LoadedModel) -> None:
        part = read_clip(CARDS, start=5.0, end=9.0, sizing=loaded.sizing)
        question = "What is heard while the blue card is shown?"
        answer = ask(loaded, part, question, config=SeatsConfig(retain=0.35))
        first = answer.evidence[0]
        assert (first.start_s, first.end_s, first.modality) == (5.0, 6.0, "audio")
        assert all(5.0 <= piece.start_s < piece.end_s <= 9.0 for piece in answer.evidence)

    def test_profiles_measure_without(
        self, loaded: LoadedModel, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def leave(*_args: Any) -> None:
            pytest.fail("evidence was read while time was taken")

        monkeypatch.setattr(EvidenceReader, "_leave", leave)
        (run,) = profile_sessions(
            loaded,
            clip,
            ["What color is shown last?", "How many times does it beep?"],
            [RunSpec("full", None)],
            read_s=0.0,
            repeats=1,
            new_tokens=1,
            system=None,
            seed=0,
            report=lambda _words: None,
        )
        assert run.error is None

    @pytest.mark.parametrize("choices", [(), ("red", "green")])
    @pytest.mark.parametrize("config", [None, SeatsConfig(retain=0.1)])
    def test_without_it_nothing_else_changes(
        self,
        loaded: LoadedModel,
        clip: Clip,
        config: SeatsConfig | None,
        choices: tuple[str, ...],
    ) -> None:
        logits: list[list[Tensor]] = [[], []]
        answers = [
            ask(
                loaded,
                clip,
                "What color is shown last?",
                config=config,
                choices=choices,
                evidence=wanted,
                on_logits=lambda output, at=int(wanted): logits[at].append(output.clone()),
            )
            for wanted in (False, True)
        ]
        assert not answers[0].evidence
        assert answers[1].evidence
        assert answers[0].cost.evidence_flops == 0
        assert answers[0].token_ids == answers[1].token_ids
        assert answers[0].choices == answers[1].choices
        assert len(logits[0]) == len(logits[1])
        assert all(torch.equal(one, two) for one, two in zip(*logits, strict=True))

    @pytest.mark.parametrize("kv", ["layerwise", "survivors"])
    @pytest.mark.parametrize("method", ["seats", "full", "divprune", "fastv", "omnizip"])
    def test_a_session_gives_what_asking_alone_gives(
        self, loaded: LoadedModel, clip: Clip, method: str, kv: str
    ) -> None:
        config = None if method == "full" else SeatsConfig(retain=0.35, method=method, kv=kv)
        session = ClipSession(loaded, clip)
        session.ask("What color is shown first?", config=config)
        question = "What color is shown when the beeps are heard?"
        again = session.ask(question, config=config)
        alone = ask(loaded, clip, question, config=config)
        assert pieces(again) == pieces(alone)
        assert again.cost.evidence_flops == alone.cost.evidence_flops


def test_the_other_family(tmp_path: Path) -> None:
    """13 audio tokens a second, and DeepStack."""
    write_checkpoint(tmp_path, "qwen3_omni_moe")
    loaded = load_model(str(tmp_path), device="cpu", dtype="float32")
    clip = read_clip(CARDS, end=4.0, sizing=loaded.sizing)
    session = ClipSession(loaded, clip)
    for config in (None, SeatsConfig(retain=0.35)):
        session.ask("first?", config=config, max_new_tokens=1)
        again = session.ask("what?", config=config, max_new_tokens=1)
        assert pieces(again) == pieces(ask(loaded, clip, "what?", config=config, max_new_tokens=1))
        lengths = [piece.end_s - piece.start_s for piece in again.evidence]
        assert lengths == pytest.approx([1.0] * MOST, abs=1 / 13)  # an audio token
