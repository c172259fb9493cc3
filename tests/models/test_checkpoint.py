"""A model is its whole checkpoint or an error; adapters beside weights are not used unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seats_cli.errors import ModelError
from seats_cli.models import load_model
from tests.models.broken_layouts import write_broken
from tests.models.hub_layouts import LAYOUTS, thinker_parts, thinker_prefix, write_repository
from tests.models.hub_layouts import write_shards as save


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        found.update(load_file(shard))
    return found


@pytest.mark.parametrize("layout", ["omni-7b", "thinker-2.5", "omni3-thinking"])
def test_a_tensor_left_over_is_an_error(layout: str, tmp_path: Path) -> None:
    assert layout in LAYOUTS
    write_repository(tmp_path, layout)
    prefix = thinker_prefix(tmp_path)
    extra = {f"{prefix}model.layers.{n}.self_attn.q_proj.scale": torch.ones(1) for n in (0, 1)}
    save(tmp_path, {**stored(tmp_path), **extra})
    with pytest.raises(ModelError, match=r"2 tensors .*layers\.0\.self_attn\.q_proj\.scale"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct"])
def test_another_shape_is_an_error(layout: str, tmp_path: Path) -> None:
    write_repository(tmp_path, layout)
    weights, name = stored(tmp_path), f"{thinker_prefix(tmp_path)}model.norm.weight"
    size = len(weights[name])
    save(tmp_path, {**weights, name: torch.ones(size + 8)})
    with pytest.raises(ModelError, match=rf"norm\.weight: {size + 8} instead of {size}"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct"])
def test_a_head_may_be_tied_in_the_text_config_alone(layout: str, tmp_path: Path) -> None:
    expected = write_broken(tmp_path, "tied-in-text-config", layout)
    assert expected is not None
    loaded = load_model(str(tmp_path), device="cpu", dtype="bfloat16")
    for part, tensors in thinker_parts(expected).items():
        state = getattr(loaded.adapter, part).state_dict()
        assert all(torch.equal(state[name], value) for name, value in tensors.items()), part


def test_an_absent_head_that_is_not_tied_is_refused(tmp_path: Path) -> None:
    write_broken(tmp_path, "tied-in-text-config", "omni-7b")
    config = json.loads((tmp_path / "config.json").read_text())
    config["thinker_config"]["text_config"]["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks 1 weights .*lm_head\.weight"):
        load_model(str(tmp_path), device="cpu")


def test_an_adapter_beside_the_weights_is_named_and_not_used(tmp_path: Path) -> None:
    """peft is installed here, and with it transformers would add the adapter unasked."""
    from transformers.utils import is_peft_available

    assert is_peft_available()
    plain, both = tmp_path / "plain", tmp_path / "both"
    write_repository(plain, "thinker-2.5")
    write_broken(both, "lora-beside", "thinker-2.5")
    path = both / "adapter_model.safetensors"
    named = {
        key.replace(".model.thinker.", ".model."): value for key, value in load_file(path).items()
    }
    save_file(named, path, metadata={"format": "pt"})
    expected, found = (load_model(str(one), device="cpu") for one in (plain, both))
    assert "LoRA" in " ".join(found.notices)
    assert not expected.notices
    state, other = expected.model.state_dict(), found.model.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
