"""Loads the recorded end-to-end runs of the authors' implementation (see tests/golden)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.schedule import PruningPlan

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ("qwen2_5", "qwen3")
_CLASSES = {"qwen2_5": "Qwen2_5OmniThinker", "qwen3": "Qwen3OmniMoeThinker"}


@dataclass(frozen=True)
class Run:
    """One recorded run: which model, which input, which plan."""

    family: str
    case: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.case}/{self.name}"


@cache
def index(family: str) -> dict[str, Any]:
    """cases.json of a family."""
    return json.loads((GOLDEN / f"e2e_{family}" / "cases.json").read_text())


@cache
def tensors(family: str) -> dict[str, Tensor]:
    """cases.safetensors of a family."""
    return load_file(GOLDEN / f"e2e_{family}" / "cases.safetensors")


def runs() -> list[Run]:
    """All recorded runs of both families."""
    return [
        Run(family, case["case"], name)
        for family in FAMILIES
        for case in index(family)["cases"]
        for name in case["runs"]
    ]


def build(family: str, attention: str = "sdpa") -> Any:
    """The tiny random thinker of the recorded runs, float32, in eval mode."""
    config_json = json.loads((GOLDEN / f"e2e_{family}" / "config.json").read_text())
    name = _CLASSES[family]
    config = getattr(transformers, f"{name}Config")(**config_json["constructor_kwargs"])
    for attribute in config_json.get("extra_attributes_set_after") or ():
        setattr(config, attribute, config_json["constructor_kwargs"][attribute])
    # get_rope_index reads it although it is no field of the Qwen2.5 thinker's config
    config.vision_start_token_id = config_json["constructor_kwargs"]["vision_start_token_id"]
    config._attn_implementation = attention
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).float().eval()
    weights = load_file(GOLDEN / f"e2e_{family}" / "weights.safetensors")
    nested = hasattr(model.model, "language_model")
    missing, unexpected = model.load_state_dict(_renamed(weights, nested), strict=False)
    assert not unexpected, unexpected
    assert all("audio_bos_eos_token" in name for name in missing), missing
    return model


def _renamed(weights: dict[str, Tensor], nested: bool) -> dict[str, Tensor]:
    """Names of transformers 4.57 to those of 5.x, experts fused."""
    experts: dict[str, dict[int, dict[str, Tensor]]] = {}
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".mlp.experts." in name:
            layer, rest = name.split(".mlp.experts.")
            number, matrix, _ = rest.split(".")
            experts.setdefault(layer, {}).setdefault(int(number), {})[matrix] = value.float()
        else:
            renamed[name] = value.float()
    for layer, parts in experts.items():
        order = [parts[number] for number in sorted(parts)]
        gate_up = [torch.cat([part["gate_proj"], part["up_proj"]]) for part in order]
        renamed[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        renamed[f"{layer}.mlp.experts.down_proj"] = torch.stack(
            [part["down_proj"] for part in order]
        )
    if not nested:
        return renamed
    moved = {}
    for name, value in renamed.items():
        if name.startswith("model."):
            name = "model.language_model." + name.removeprefix("model.")
        elif name.startswith(("visual.", "audio_tower.")):
            name = "model." + name
        moved[name] = value
    return moved


def inputs(run: Run) -> dict[str, Any]:
    """Model inputs of a recorded run."""
    prefix = f"{run.case}/in/"
    found = {
        key.removeprefix(prefix): value.float() if value.dtype == torch.float16 else value
        for key, value in tensors(run.family).items()
        if key.startswith(prefix)
    }
    case = next(case for case in index(run.family)["cases"] if case["case"] == run.case)
    return {**found, "use_audio_in_video": case["use_audio_in_video"]}


def plan(run: Run, kv: str = "survivors", **asked: Any) -> PruningPlan:
    """The recorded configuration as a plan; the reference drops from all caches."""
    recorded = index(run.family)["runs"][run.name]
    return PruningPlan(
        initial_video=recorded["video_encoder_ratio"],
        initial_audio=recorded["audio_encoder_ratio"],
        drop_layers=recorded["drop_layers"],
        keep_video=recorded["video_list"],
        keep_audio=recorded["audio_list"],
        late_layer=recorded["late_block_layer"],
        temperature=0.1 if run.family == "qwen2_5" else 0.3,
        config=SeatsConfig(kv=kv, **asked),
    )


def expected(run: Run, name: str) -> Tensor:
    """A recorded tensor of the run."""
    return tensors(run.family)[f"{run.key}/{name}"]


def has(run: Run, name: str) -> bool:
    """Whether the run recorded that tensor."""
    return f"{run.key}/{name}" in tensors(run.family)
