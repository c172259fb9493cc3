"""Repositories in the layout of the hub: every weight arrives, and no pickle is read."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

from seats_cli.models import load_model
from tests.models.hub_configs import Sizes
from tests.models.hub_layouts import (
    LAYOUTS,
    UNPICKLED,
    thinker_parts,
    thinker_shapes_2_5,
    thinker_shapes_3,
    write_bomb,
    write_repository,
)
from tests.models.hub_processors import (
    CONTROL_2_5,
    CONTROL_3,
    PUBLISHED_FIRST_CONTROL,
    vocabulary,
    write_tokenizer,
)

FULL_DEPTH = {"layers": 28, "blocks": 32, "audio_layers": 32}
_opened: list[str] = []


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        _opened.append(str(arguments[0]))


@pytest.fixture(scope="module")
def opened_files() -> list[str]:
    """Every file that Python code opens; a hook of this kind cannot be removed."""
    sys.addaudithook(_note_opened)
    return _opened


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_arrives(layout: str, tmp_path: Path, opened_files: list[str]) -> None:
    written = write_repository(tmp_path, layout)
    opened_files.clear()
    loaded = load_model(str(tmp_path), device="cpu", dtype="bfloat16")
    for part, tensors in thinker_parts(written).items():
        state = getattr(loaded.adapter, part).state_dict()
        assert state.keys() == tensors.keys(), part
        assert all(torch.equal(state[name], value) for name, value in tensors.items()), part
    assert not [name for name, _ in loaded.model.named_modules() if "talker" in name]
    assert any(file.endswith("config.json") for file in opened_files)  # the hook sees
    assert not any(file.endswith((".pt", ".bin")) for file in opened_files)
    assert not (tmp_path / UNPICKLED).exists()


def test_the_pickle_would_be_noticed(tmp_path: Path) -> None:
    write_bomb(tmp_path / "spk_dict.pt")
    with pytest.raises(AssertionError, match="a pickle was read"):
        pickle.loads((tmp_path / "spk_dict.pt").read_bytes())
    assert (tmp_path / UNPICKLED).exists()


def test_names_are_as_many_as_published() -> None:
    """338 of the decoder, 518 and 489 of the encoders; 393 in a layer with 128 experts."""
    dense = [name for name, _ in thinker_shapes_2_5(Sizes(**FULL_DEPTH), 64)]
    counts = [sum(name.startswith(part) for name in dense) for part in PARTS]
    assert counts == [338, 1, 518, 489]
    assert len(dense) == sum(counts) == len(set(dense))
    sparse = [name for name, _ in thinker_shapes_3(Sizes(layers=1, experts=128), 64)]
    assert sum(name.startswith("model.layers.0.") for name in sparse) == 393


PARTS = ("model.", "lm_head.", "visual.", "audio_tower.")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_those_of_the_hub(layout: str, tmp_path: Path) -> None:
    write_repository(tmp_path, layout)
    names = {path.name for path in tmp_path.iterdir()}
    assert ("tokenizer.json" in names) == (layout in ("omni-7b", "finetune-2.5"))
    assert ("spk_dict.pt" in names) == (layout in ("omni-7b", "omni-3b"))
    assert ("added_tokens.json" in names) == (LAYOUTS[layout] == "2.5")
    config = json.loads((tmp_path / "config.json").read_text())
    thinker = config.get("thinker_config", config)
    assert "rope_scaling" in thinker["text_config"]
    assert "rope_parameters" not in json.dumps(config)


def test_control_tokens_may_have_their_published_ids(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    published = {
        "2.5": (CONTROL_2_5, {"<|im_end|>": 151645, "<|AUDIO|>": 151646, "<|VIDEO|>": 151656}),
        "3": (CONTROL_3, {"<think>": 151667, "<|audio_start|>": 151669, "<|audio_pad|>": 151675}),
    }
    for generation, (names, ids) in published.items():
        folder = tmp_path / generation
        folder.mkdir()
        words = vocabulary(generation, PUBLISHED_FIRST_CONTROL)
        write_tokenizer(folder, generation, words, fast=False)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert len(tokenizer) == PUBLISHED_FIRST_CONTROL + len(names)
        assert {name: tokenizer.convert_tokens_to_ids(name) for name in ids} == ids
        assert tokenizer.encode("<|im_end|>What") == [151645, *tokenizer.encode("What")]
