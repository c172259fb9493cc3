"""A selection method from outside the package: this file makes one, with an option of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app
from seats_cli.config import (
    OPTION_CHECKS,
    OPTION_METHODS,
    SCHEDULED,
    UNLISTED,
    SeatsConfig,
    check_integer,
)
from seats_cli.engine.answer import ask
from seats_cli.errors import ConfigError
from seats_cli.media.reader import read_clip
from seats_cli.models import LoadedModel
from seats_cli.results import Answer
from seats_cli.schedule import PruningPlan
from seats_cli.selection import method as registry
from seats_cli.selection.method import Entry, LayerTokens, Method, Option, PromptTokens
from seats_cli.selection.methods import METHODS, register_method
from seats_cli.selection.methods.ablation import Ablation, ModalityAblation
from seats_cli.selection.methods.divprune import DivPrune
from tests.engine.conftest import CARDS

QUESTION = "What color is shown first?"


class EveryNth(Method):
    """The first of every `stride` tokens, and after layer 3 the half that is like the mean."""

    stride = Option(2, partial(check_integer, minimum=1))
    entry_kind = "every nth"
    layer_kind = "halved"

    def __init__(self, plan: Any, offset: int = 0) -> None:
        super().__init__(plan)
        self.offset = offset

    def before_llm(self, prompt: PromptTokens) -> Entry:
        keep = prompt.keep_all()
        for modality in (prompt.video, prompt.audio):
            keep[modality.positions] = False
            keep[modality.positions[self.offset :: self.stride]] = True
        video = prompt.embeddings[prompt.video.mask]
        assert (video @ video.T).isfinite().all()
        return Entry(keep)

    def drops_after(self, layer: int) -> bool:
        return layer == 3

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor:
        keep = ~(tokens.video_mask | tokens.audio_mask)
        keep[::2] = True
        return keep

    def products(self, architecture: Any, sizes: Any, trace: Any) -> list[tuple[int, int, int]]:
        return [(trace.offered[0], trace.offered[0], architecture.hidden_size)]


@contextmanager
def registry_restored() -> Iterator[None]:
    """Methods that are registered inside are known to no other test."""
    tables: tuple[Any, ...] = (METHODS, OPTION_CHECKS, registry._OPTIONS, OPTION_METHODS)
    tables = (*tables, SCHEDULED, UNLISTED)
    before = deepcopy((*tables[3:],)), [dict(table) for table in tables[:3]]
    try:
        yield
    finally:
        for table, old in zip(tables, (*before[1], *before[0]), strict=True):
            table.clear()
            table.update(old)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The method is known during a test of this file and to no other."""
    with registry_restored():
        register_method("every-nth")(EveryNth)
        register_method("every-nth-late", offset=1)(EveryNth)
        yield


def answer(loaded: LoadedModel, config: SeatsConfig, **more: Any) -> Answer:
    clip = read_clip(CARDS, sizing=loaded.sizing)
    return ask(loaded, clip, QUESTION, config=config, max_new_tokens=2, **more)


def seats(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def kept(tokens: int, stride: int) -> int:
    return len(range(0, tokens, stride))


@pytest.mark.parametrize("stride", [2, 5])
def test_ask(loaded: LoadedModel, stride: int) -> None:
    config = SeatsConfig(method="every-nth", options={"stride": stride})
    found = answer(loaded, config)
    video, audio, _ = found.trace.offered
    first, second = found.trace.stages
    assert (first.video, first.audio) == (kept(video, stride), kept(audio, stride))
    assert first.label == "every nth, before the LLM"
    assert second.label == "halved, after layer 3"
    assert found.config is not None
    assert found.config.to_dict()["stride"] == stride
    # its own comparison, and the relevance that the engine worked out for it
    shape, alive = loaded.architecture, first.kept.numel()
    query = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    relevance = 2 * (shape.hidden_size * (alive * keys + query) + alive * query)
    compared = 2 * video * video * shape.hidden_size
    assert found.cost.selection_flops == compared + relevance


def test_accounting_asks_the_method_that_ran(loaded: LoadedModel) -> None:
    drawn = answer(loaded, SeatsConfig(retain=0.25, method="random"))
    assert drawn.cost.selection_flops == 0
    other = answer(loaded, SeatsConfig(retain=0.25, method="random"), method=DivPrune)
    named = answer(loaded, SeatsConfig(retain=0.25, method="divprune"))
    assert torch.equal(other.trace.stages[0].kept, named.trace.stages[0].kept)
    assert other.cost.selection_flops == named.cost.selection_flops > 0
    # SEATS would have read the encoders' attention and compared tokens in windows.
    hidden = partial(Ablation, ablation=ModalityAblation(4))
    ablated = answer(loaded, SeatsConfig(method="seats"), method=hidden)
    plain = answer(loaded, SeatsConfig(method="full"), method=hidden)
    assert ablated.cost.selection_flops == plain.cost.selection_flops


def test_plan_and_method_are_made_once_for_a_question(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for cls, name in ((PruningPlan, "__post_init__"), (EveryNth, "__init__")):
        real = getattr(cls, name)

        def counted(self: Any, *args: Any, real: Any = real, **more: Any) -> None:
            made.append(type(self).__name__)
            real(self, *args, **more)

        monkeypatch.setattr(cls, name, counted)
    answer(loaded, SeatsConfig(method="every-nth"))
    assert made == ["PruningPlan", "EveryNth"]


def test_command_line_with_options_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('method = "every-nth"\nstride = 4\nretain = 0.25\n')
    asked = seats("ask", str(CARDS), QUESTION, "--config", str(config), "--json")
    assert asked.exit_code == 0, asked.stderr
    document = json.loads(asked.stdout)
    tokens = document["tokens"]
    assert document["config"]["stride"] == document["plan"]["stride"] == 4
    assert tokens["stages"][0]["video"] == kept(tokens["offered"]["video"], 4)
    assert document["cost"]["selection_flops"] > 0

    fixed = ("compare", str(CARDS), QUESTION, "--max-new-tokens", "2", "--json")
    compared = seats(*fixed, "--method", "every-nth,random", "--config", str(config))
    assert compared.exit_code == 0, compared.stderr
    runs = {run["method"]: run for run in json.loads(compared.stdout)["runs"]}
    assert list(runs) == ["full", "every-nth", "random"]
    flops = document["cost"]["selection_flops"]
    assert runs["every-nth"]["selection_flops"] == flops


def test_evaluation_stores_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = ("eval", "synthetic", "--limit", "3", "--method", "every-nth", "--json", "-o", "run")
    evaluated = seats(*line)
    assert evaluated.exit_code == 0, evaluated.stderr
    labels = [setting["label"] for setting in json.loads(evaluated.stdout)["settings"]]
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert list(stored) == labels == ["full", "every-nth 25%"]
    assert stored["every-nth 25%"]["config"]["stride"] == 2
    answers = (tmp_path / "run" / "answers.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, answers) if record["method"] == "every-nth"]
    assert len(records) == 3
    assert all(record["error"] is None and record["selection_flops"] > 0 for record in records)


def test_option_is_checked_when_the_configuration_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stride must be a whole number of at least 1, got 0"):
        SeatsConfig(method="every-nth", options={"stride": 0})
    with pytest.raises(ConfigError, match=r"Unknown setting strid; known .*fastv_layer.*stride"):
        SeatsConfig.from_dict({"strid": 2})
    # An option of another method than the chosen one does no harm.
    assert SeatsConfig.from_dict({"method": "seats", "stride": 3}).to_dict()["stride"] == 3


def test_variant_has_its_arguments_and_the_same_option(loaded: LoadedModel) -> None:
    kept_by = []
    for name in ("every-nth", "every-nth-late"):
        trace = answer(loaded, SeatsConfig(method=name, options={"stride": 4})).trace
        video = trace.video_mask.nonzero()[:, 0]
        kept_by.append(video[torch.isin(video, trace.stages[0].kept)])
    assert torch.equal(kept_by[0], video[::4])
    assert torch.equal(kept_by[1], video[1::4])


class Greedy(EveryNth):
    """Takes a name that stands for something else."""

    fastv_layer = Option(1, partial(check_integer, minimum=1))


class Meddling(Method):
    """An option that every configuration has."""

    retain = Option(1, partial(check_integer, minimum=1))

    def before_llm(self, prompt: PromptTokens) -> Entry:
        return Entry(prompt.keep_all())


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("Every", EveryNth, "lower-case letters, digits and hyphens, not 'Every'"),
        ("", EveryNth, "lower-case"),
        ("fastv", EveryNth, "already is a method 'fastv': FastV"),
        ("greedy", Greedy, "FastV has an option 'fastv_layer' already: rename that of Greedy"),
        ("meddling", Meddling, "Every method has the setting 'retain'"),
    ],
)
def test_registry_refuses(name: str, cls: type[Method], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_method(name)(cls)


def test_registry_takes_methods_alone_and_new_definitions_of_them() -> None:
    with pytest.raises(TypeError, match="must be a subclass of Method"):
        register_method("mine")(dict)  # type: ignore[type-var]
    again = type("EveryNth", (Method,), dict(vars(EveryNth)))
    register_method("every-nth")(again)
    assert METHODS["every-nth"] is again
