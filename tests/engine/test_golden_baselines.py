"""Random, FastV and VisionZip end to end, held to the recorded runs of both families."""

from __future__ import annotations

import json
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import METHODS
from seats_cli.selection.methods.fastv import FastV
from tests.engine import golden
from tests.engine.golden import FAMILIES, GOLDEN, Run

LOGITS = {"atol": 1e-4, "rtol": 0.0}
DECODED = (11, 23)


class Baseline(NamedTuple):
    """One recorded run of a baseline."""

    family: str
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.family}-{self.facts['case']}"

    def recorded(self, name: str) -> Tensor:
        return tensors(self.family)[f"{self.facts['case']}/{name}"]


@cache
def model(family: str) -> Any:
    return golden.build(family)


@cache
def tensors(family: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"e2e_{family}" / "baselines.safetensors")


def baselines() -> list[Baseline]:
    return [
        Baseline(family, facts)
        for family in FAMILIES
        for facts in json.loads((GOLDEN / f"e2e_{family}" / "baselines.json").read_text())["cases"]
    ]


def plan_of(baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> PruningPlan:
    """The recorded configuration; FastV's ratios are those at layer K."""
    config = baseline.facts["config"]
    base = baseline.facts["method"].split("_")[0]
    omni = "_omni" in baseline.facts["method"]
    name = f"{base}-om" if omni else base
    targets: tuple[float, float] | tuple[None, None] = (None, None)
    asked: dict[str, Any] = {"method": name, "seed": baseline.facts["torch_seed"]}
    if base == "fastv":
        ratios = (config["video_ratio"], config["audio_ratio"])
        monkeypatch.setitem(METHODS, name, partial(FastV, omni=omni, ratios=ratios))
        asked["fastv_layer"] = config["fastv_k"]
    else:
        targets = (config["video_ratio"], config["audio_ratio"])
        asked["contextual_ratio"] = config.get("contextual_ratio", 0.0)
        asked["video_window"] = config.get("grid_in_window", 2)
    return PruningPlan(
        1.0,
        1.0,
        target_video=targets[0],
        target_audio=targets[1],
        config=SeatsConfig.from_dict({"kv": "survivors", **asked}),
    )


@torch.no_grad()
@pytest.mark.parametrize("baseline", baselines(), ids=lambda baseline: baseline.name)
def test_baseline_equals_reference(baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    net, facts = model(baseline.family), baseline.facts
    inputs = golden.inputs(Run(baseline.family, facts["input_case"], facts["method"]))
    with prune(net, plan_of(baseline, monkeypatch)) as pruned:
        output = net(**inputs, use_cache=True)
        last = pruned.trace.stages[-1]
        assert torch.equal(last.kept, baseline.recorded("kept_indices").long())
        assert (last.video, last.audio) == (facts["n_video_kept"], facts["n_audio_kept"])
        torch.testing.assert_close(output.logits[0, -1], baseline.recorded("logits_last"), **LOGITS)
        cache = output.get("cache", output.get("past_key_values"))
        for step, token in enumerate(DECODED):
            output = net(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            torch.testing.assert_close(
                output.logits[0, -1], baseline.recorded("decode_logits")[step], **LOGITS
            )
