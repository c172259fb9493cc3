"""Variants of SEATS under study: without any the published method, with any the same budgets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from seats_cli.cli import to_config
from seats_cli.cli.chat_commands import ChatState
from seats_cli.config import SCHEDULED, UNLISTED, SeatsConfig
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.prune import prune
from seats_cli.errors import ConfigError, SeatsError
from seats_cli.models.registry import adapter_for
from seats_cli.plugins.clip_model import config_from
from seats_cli.schedule import PruningPlan
from seats_cli.selection.diversity import select_diverse_in_windows
from seats_cli.selection.method import LayerTokens, Modality
from seats_cli.selection.methods import METHODS, method_for, weightless_methods
from seats_cli.selection.methods.seats_plus import (
    SeatsPlus,
    asked_importance,
    best_of_each,
    merge_in_windows,
    merge_into_kept,
    select_novel,
)
from seats_cli.selection.relevance import (
    last_query_relevance,
    over_heads,
    question_relevance,
    select_by_relevance,
)
from seats_cli.selection.trace import SelectionTrace
from seats_cli.serve import ServeOptions, chat_request
from seats_cli.show.capture import stage_windows
from tests.cost.test_pruned_executed import cost, executed_flops
from tests.engine import golden, test_methods, test_session
from tests.engine.golden import Run
from tests.variants_study import PUBLISHED, VARIANTS

TESTS = Path(__file__).parents[1]
BUDGET = {"method": "seats-plus", "retain_video": 0.35, "retain_audio": 0.5}
EVERYTHING = {
    "allocation": "adaptive",
    "relevance_query": "question",
    "relevance_layer": "next",
    "relevance_heads": "audiovisual",
    "modality_split": "relevance",
    "grid_floor": True,
    "entry_windows": "novelty",
    "question_weight": 0.3,
    "merging": "both",
}


def config(**values: Any) -> SeatsConfig:
    published = PUBLISHED if values.get("method", "seats-plus") == "seats-plus" else {}
    return SeatsConfig.from_dict({**BUDGET, **published, **values})


def counts(trace: Any) -> list[tuple[int, int]]:
    return [(stage.video + stage.audio, stage.text) for stage in trace.stages]


@pytest.mark.parametrize("prompt", ["audio and video", "ragged", "video only", "audio only"])
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_without_a_variant_it_is_the_published_method(family: str, prompt: str) -> None:
    trace, logits = test_methods.run(family, prompt, config(), steps=1)
    wanted, same = test_methods.run(family, prompt, config(method="seats"), steps=1)
    assert len(trace.stages) == len(wanted.stages) > 2
    for one, other in zip(trace.stages, wanted.stages, strict=True):
        assert torch.equal(one.kept, other.kept)
        assert one.label == other.label
    assert all(torch.equal(one, other) for one, other in zip(logits, same, strict=True))


def test_what_its_options_may_be() -> None:
    assert "seats-plus" in weightless_methods()
    assert VARIANTS["asked-mostly"] == {"question_weight": SeatsPlus.question_weight.default}
    with pytest.raises(ConfigError, match="merging must be one of off, entry, layers, both"):
        config(merging="all")
    with pytest.raises(ConfigError, match="grid_floor must be true or false, got 1"):
        config(grid_floor=1)
    for wrong in (1.5, -0.1, True, "half"):
        with pytest.raises(ConfigError, match="importance_power must be from 0 to 1, got"):
            config(importance_power=wrong)


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_without_importance_the_first_stage_is_windowed_divprune(family: str) -> None:
    """No attention of the encoders is read, and the tokens are those of diversity alone."""
    own = config(importance_power=0.0, encoder_scale=1.0, drop_layers=[], late_layer="none")
    with prune(test_methods.model(family), own) as pruned:
        assert not pruned.method.needs_importance
    trace, _ = test_methods.run(family, "audio and video", own, steps=1)
    wanted, _ = test_methods.run(family, "audio and video", config(method="divprune-om"), steps=1)
    assert torch.equal(trace.stages[0].kept, wanted.stages[0].kept)
    usual, _ = test_methods.run(family, "audio and video", config(), steps=1)
    assert not torch.equal(trace.stages[0].kept, usual.stages[0].kept)


@cache
def eager(family: str) -> tuple[Any, dict[str, Any]]:
    """A model whose attention and experts consist of products that the counter knows."""
    net = golden.build(family, "eager")
    if family == "qwen3":
        net.set_experts_implementation("eager")
    return net, golden.inputs(Run(family, test_methods.PROMPTS[family]["audio and video"], ""))


@cache
def published(family: str, allocation: str) -> SelectionTrace:
    net, inputs = eager(family)
    with torch.no_grad(), prune(net, config(method="seats", allocation=allocation)) as plain:
        net(**inputs)
    return plain.trace


CASES = {**VARIANTS, "everything": EVERYTHING}


@pytest.mark.parametrize(
    ("family", "name"),
    [*(("qwen2_5", name) for name in CASES), ("qwen3", "all-inside"), ("qwen3", "everything")],
)
def test_budgets_and_flops(family: str, name: str) -> None:
    """Every variant keeps as many tokens as `seats`, and every FLOP of its choice is counted."""
    net, inputs = eager(family)
    used = config(**CASES[name])
    with prune(net, used) as pruning:
        executed = executed_flops(net, inputs)
    trace = pruning.trace
    found = cost(net, inputs, trace, pruning.method)
    shape, last = adapter_for(net).architecture(), len(trace.stages[-1].kept)
    head = 2 * (last - 1) * shape.hidden_size * shape.vocab_size
    assert executed - found.encoder_flops - found.prefill_flops - head == found.selection_flops
    plain = published(family, used.allocation)
    assert counts(trace) == counts(plain)
    # Each acts. In these small windows every grid has its token anyway, `seats` is given the same
    # allocation, and states merged behind the last drop are in no trace.
    if name not in ("adaptive", "floor", "grid-floor", "merge-layers"):
        pairs = list(zip(trace.stages, plain.stages, strict=True))
        same = all(torch.equal(one.kept, other.kept) for one, other in pairs)
        scores = [(one.scores, other.scores) for one, other in pairs if one.scores is not None]
        assert not (same and all(torch.equal(one, other) for one, other in scores))


def test_states_merged_behind_a_layer_reach_the_answer() -> None:
    _, plain = test_methods.run("qwen2_5", "ragged", config())
    _, merged = test_methods.run("qwen2_5", "ragged", config(merging="layers"))
    _, alone = test_methods.run("qwen2_5", "ragged", config(merging="layers", merging_own=0.999))
    assert float((merged[0] - plain[0]).abs().max()) > 1e-5
    assert float((alone[0] - plain[0]).abs().max()) < float((merged[0] - plain[0]).abs().max())


def test_behind_the_last_layer_nothing_is_next() -> None:
    """SEATS drops before it; a method that does drop there has the last layer asked itself."""
    net = test_methods.model("qwen2_5")
    last = adapter_for(net).architecture().num_layers
    layers = {"drop_layers": (last,), "late_layer": "none"}
    with pytest.raises(ConfigError, match=f"drop layers must be below {last}"):
        test_methods.run("qwen2_5", "ragged", config(relevance_layer="next", **layers))

    def scores(states: str, layer: int) -> torch.Tensor:
        with torch.no_grad(), prune(net, config(drop_layers=(2,), late_layer="none")) as pruning:
            method = pruning.method
            assert isinstance(method, SeatsPlus)
            method.query_states = states  # type: ignore[assignment]
            method._ratios = {layer: (0.5, 0.5)}
            net(**test_methods.inputs("qwen2_5", "ragged"))
        found = pruning.trace.stages[1]
        assert found.after_layer == layer
        return found.scores

    assert torch.equal(scores("next", last), scores("output", last))
    assert not torch.equal(scores("next", last - 1), scores("output", last - 1))


SHARED = {
    "entry": {"relevance_query": "question", "relevance_layer": "next", "merging": "both"},
    "states": {"grid_floor": True, "modality_split": "relevance", "entry_windows": "novelty"},
    "encoders": EVERYTHING,
}


@pytest.mark.parametrize("shares", SHARED)
@pytest.mark.parametrize(
    ("family", "attention", "kv"),
    [("qwen2_5", "eager", "survivors"), ("qwen3", "sdpa", "layerwise")],
    ids=golden.FAMILIES,
)
def test_questions_about_a_clip_share_what_they_may(
    family: str, attention: str, kv: str, shares: str
) -> None:
    net = test_session.model(family, attention)
    run = next(run for run in golden.runs() if run.family == family)
    used = config(**SHARED[shares], kv=kv)
    store, encoders = PrefixStore(), EncoderCache()
    for number, prompt in enumerate(test_session.prompts(run)[:2]):
        alone, wanted = test_session.prefill(net, prompt, used)
        before = test_session.latest(store)
        kept, logits = test_session.prefill(
            net, prompt, used, prefixes=store, encoder_cache=encoders
        )
        assert kept == alone
        torch.testing.assert_close(logits, wanted, rtol=0.0, atol=1e-4)
        if number:
            assert (before is not None and test_session.latest(store) is before) == (
                shares != "encoders"
            )
    with prune(net, used) as pruning:
        assert pruning.method.shares == shares


def test_bfloat16() -> None:
    net = golden.build("qwen3", "sdpa").to(torch.bfloat16)
    inputs = golden.inputs(Run("qwen3", test_methods.PROMPTS["qwen3"]["ragged"], ""))
    inputs = {
        name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.no_grad(), prune(net, config(**EVERYTHING)) as pruning:
        logits = net(**inputs).logits
    assert logits.dtype == torch.bfloat16
    assert bool(logits.isfinite().all())
    assert len(pruning.trace.stages) > 2


# ------------------------------------------------------------------ functions


def test_heads() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(3, 8, 4), torch.randn(2, 10, 4)
    index = torch.tensor([7, 8, 9])
    media = torch.arange(10) < 6
    rows = torch.einsum("qhd,hsd->hqs", query, key.repeat_interleave(4, 0)) / 2.0
    rows = rows.masked_fill(torch.arange(10) > index[:, None], -torch.inf).softmax(-1).mean(1)
    torch.testing.assert_close(over_heads(query, key, index, "max", media), rows.amax(0))
    best = rows[:, media].sum(-1).argsort(descending=True)[:2]
    torch.testing.assert_close(
        over_heads(query, key, index, "audiovisual", media), rows[best].mean(0)
    )
    torch.testing.assert_close(
        over_heads(query, key, index, "mean", media), question_relevance(query, key, index)
    )
    torch.testing.assert_close(
        over_heads(query[2:], key, index[2:], "mean", media), last_query_relevance(query[2], key)
    )


@given(st.integers(1, 12), st.integers(0, 10**6), st.floats(0.0, 0.99))
@settings(max_examples=25, deadline=None)
def test_merging_one_by_one(size: int, seed: int, own: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    features, keep = torch.randn(size, 3, generator=draw), torch.rand(size, generator=draw) < 0.5
    keep[seed % size] = True
    unit = normalize(features, dim=-1)
    kept = keep.nonzero()[:, 0].tolist()
    groups: dict[int, list[int]] = {}
    for token in (~keep).nonzero()[:, 0].tolist():
        groups.setdefault(max(kept, key=lambda one: float(unit[token] @ unit[one])), []).append(
            token
        )
    wanted = features.clone()
    for into, leaving in groups.items():
        wanted[into] = own * features[into] + (1.0 - own) * features[leaving].mean(0)
    torch.testing.assert_close(merge_into_kept(features, keep, own), wanted)
    whole = Modality(torch.ones(size, dtype=torch.bool), (size,), (size,))
    torch.testing.assert_close(merge_in_windows(features, keep, whole, own), wanted)


def test_merges_stay_in_their_window() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.1]])
    keep = torch.tensor([True, False, True, False, True])
    modality = Modality(torch.ones(5, dtype=torch.bool), (4, 1), (2, 2))
    merged = merge_in_windows(features, keep, modality, 0.5)
    assert merged[0].tolist() == [0.5, 0.5]  # not into the equal token of the next window
    assert merged[2].tolist() == [0.5, 0.5]
    assert torch.equal(merged[4], features[4])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.floats(0.05, 0.9), st.integers())
@settings(max_examples=25, deadline=None)
def test_novel_windows_keep_as_many(lengths: list[int], ratio: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed % 2**32)
    size = sum(lengths)
    features, importance = torch.randn(size, 4, generator=draw), torch.rand(size, generator=draw)
    windows = tuple(range(5, 5 + len(lengths)))
    mask = torch.ones(size, dtype=torch.bool)
    modality = Modality(mask, tuple(lengths), windows, importance=importance)
    kept = select_novel(features, modality, ratio)
    equal = select_diverse_in_windows(features, importance, windows, ratio, lengths)
    start = 0
    for length, window in zip(lengths, windows, strict=True):
        clip = kept[start : start + length]
        assert int(clip.sum()) == int(equal[start : start + length].sum())
        assert all(bool(part.any()) for part in torch.split(clip, window))
        start += length


def test_a_moment_gets_more_than_what_is_still() -> None:
    torch.manual_seed(1)
    features = torch.ones(60, 8) + 0.01 * torch.randn(60, 8)
    features[30:40] = torch.randn(10, 8)
    modality = Modality(torch.ones(60, dtype=torch.bool), (60,), (10,))
    kept = select_novel(features, modality, 0.2).view(6, 10).sum(1).tolist()
    assert sum(kept) == 12
    assert kept[3] == max(kept) > 3
    alike = select_novel(torch.ones(60, 8), modality, 0.2).view(6, 10).sum(1).tolist()
    assert alike == [2] * 6


def test_likeness_to_the_question() -> None:
    features, question = torch.eye(3), torch.tensor([[0.0, 2.0, 0.0]])
    found = asked_importance(features, torch.ones(3), question, 0.5)
    assert found.tolist() == [0.5, 2.0, 0.5]
    assert found.mean() == 1.0


def test_a_grid_keeps_its_best_token_first() -> None:
    scores = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.3, 0.2, 0.0])
    group = torch.tensor([0, 0, 0, 1, 1, 1, -1])
    first = best_of_each(scores[:6], group[:6])
    assert first.tolist() == [True, False, False, False, True, False]
    video, audio = torch.arange(7) < 6, torch.zeros(7, dtype=torch.bool)
    where = (scores, video, audio, 0.5, 1.0)
    plain = select_by_relevance(*where, temperature=0.1)
    assert plain.tolist() == [True, True, True, False, False, False, True]
    mask = torch.cat([first, first[:1]])
    floor = select_by_relevance(*where, temperature=0.1, first=mask)
    assert floor.tolist() == [True, True, False, False, True, False, True]


@pytest.mark.parametrize(
    ("level", "wanted"), [(1.0, [4, 2]), (0.0, [1, 5]), (0.5, [2, 4])], ids=["video", "audio", "-"]
)
def test_split_by_relevance(level: float, wanted: list[int]) -> None:
    """Within half and double of what `seats` keeps, and the same in all."""
    net = test_methods.model("qwen2_5")
    used = config(modality_split="relevance", allocation="global")
    with prune(net, used) as pruning:
        method = pruning.method
    assert isinstance(method, SeatsPlus)
    layer = min(method._ratios)
    method._ratios = {layer: (0.25, 0.25)}
    method._first_drop = layer
    video = torch.arange(24) < 8
    scores = torch.where(video, level, 0.5) + torch.linspace(0.01, 0.0, 24)
    if level == 0.5:
        scores = torch.where(video, 0.5, 0.4)
        scores[8:12], scores[2:8] = 0.6, 0.1
    keep = method.after_layer(layer, LayerTokens(torch.arange(24), video, ~video, scores))
    assert isinstance(keep, torch.Tensor)
    assert [int(keep[video].sum()), int(keep[~video].sum())] == wanted


# ------------------------------------------------------------------ hidden, and scheduled


def refusal(what: Callable[[], object]) -> str:
    with pytest.raises(SeatsError) as refused:
        what()
    return str(refused.value)


KEEP = PruningPlan(1.0, 1.0)
REFUSED: dict[str, Callable[[], object]] = {
    "an option": lambda: SeatsConfig.from_dict({"mergin": "entry"}),
    "the library": lambda: method_for(replace(KEEP, config=SeatsConfig(method="guess"))),
    "--method": lambda: to_config._checked("guess"),
    "--methods": lambda: to_config._methods("seats,guess", None, None),
    "/method": lambda: ChatState.method(Any, "guess"),  # type: ignore[arg-type]
    "a request": lambda: chat_request._config({"method": "guess"}, ServeOptions()),
    "an option of a request": lambda: chat_request._config({"mergin": 1}, ServeOptions()),
    "llm": lambda: method_for(
        PruningPlan(1.0, 1.0, config=config_from(method="guess") or config())
    ),
}


def hidden() -> list[str]:
    assert {"merging", "merging_own", "grid_floor"} <= UNLISTED
    assert not {"question_weight", "importance_power"} & UNLISTED
    return list(UNLISTED)


@pytest.mark.parametrize("edge", REFUSED)
def test_no_message_names_what_is_under_study(edge: str) -> None:
    text = refusal(REFUSED[edge])
    assert ("known are" if "option" in edge else "fastv") in text
    assert not [name for name in hidden() if name in text]


def test_no_list_and_no_help_names_what_is_under_study() -> None:
    found = to_config._methods("all", None, None)
    assert found == [name for name in METHODS if name not in ("full", "echoingpixels")]
    # What every command's help, the documents and the settings say, as the surface has them.
    pages = [path for path in (TESTS / "surface").rglob("*") if path.is_file()]
    assert len(pages) > 10
    # Descriptions of the tools for other programs stand in their sources.
    for room in ("cli", "serve", "plugins", "report", "evaluate", "batch"):
        pages += (TESTS.parent / "seats_cli" / room).rglob("*.py")
    words = re.compile("|".join(rf"(?<![\\w-]){name}(?![\\w-])" for name in hidden()))
    assert not [path.name for path in pages if words.search(path.read_text("utf-8"))]


def test_its_plan_and_its_pictures_are_those_of_the_schedule() -> None:
    """Windows and stage names as for SEATS; no budgets where it allots other numbers."""
    shape = adapter_for(test_methods.model("qwen2_5")).architecture()
    plain, own = (
        PruningPlan.resolve(config(method=name), shape) for name in ("seats", "seats-plus")
    )
    assert replace(own, config=plain.config) == plain
    assert own.has_schedule
    assert not PruningPlan.resolve(config(method="random"), shape).has_schedule
    assert {"seats", "seats-plus"} == SCHEDULED
    for options, known in (({}, True), ({"modality_split": "relevance"}, False)):
        trace, _ = test_methods.run("qwen2_5", "audio and video", config(**options))
        of_run = PruningPlan.resolve(config(**options), shape)
        windows = stage_windows(trace, 1, of_run, None)
        parts = [part for window in windows for part in (window.video, window.audio) if part]
        assert len(parts) > 4
        assert all((part.budget == part.kept) if known else part.budget is None for part in parts)
