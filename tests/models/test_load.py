"""The real loading code on checkpoints in the hub's layout, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.errors import ModelError, UsageError
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.families.registry import BUNDLED_PATH
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models import load_model
from tests.models.checkpoints import write_checkpoint

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, write_checkpoint(folder, request.param)


def noise_clip(factor: int, seconds: int = 4) -> Clip:
    random = np.random.default_rng(0)
    facts = MediaFacts("noise", "none", float(seconds), 0.0, float(seconds))
    frames = random.integers(0, 255, (2 * seconds, 2 * factor, 3 * factor, 3), dtype=np.uint8)
    audio = random.normal(0, 0.1, seconds * SAMPLE_RATE).astype(np.float32)
    return Clip(frames, np.arange(2 * seconds) / 2, 2.0, audio, facts)


def test_every_weight_arrives(checkpoint) -> None:
    family, folder, weights = checkpoint
    loaded = load_model(str(folder), device="cpu")
    assert loaded.facts.family == family
    assert not loaded.facts.demonstration
    state = loaded.model.state_dict()
    for name, value in weights.items():
        if "audio_bos_eos_token" not in name:
            assert torch.equal(state[name], value), name
    assert type(loaded.model).__name__.endswith("ThinkerForConditionalGeneration")


def test_answers_through_the_same_path(checkpoint) -> None:
    family, folder, _ = checkpoint
    loaded = load_model(str(folder), device="cpu")
    clip = noise_clip(loaded.sizing.factor)
    answer = ask(loaded, clip, "What is seen?", config=SeatsConfig(retain=0.25), max_new_tokens=3)
    video, audio, _ = answer.trace.offered
    assert video == 4 * 2 * 3
    assert audio == (100 if family == "qwen2_5_omni" else 52)
    again = ask(loaded, clip, "What is seen?", config=SeatsConfig(retain=0.25), max_new_tokens=3)
    assert answer.token_ids == again.token_ids
    assert all(
        torch.equal(one.kept, other.kept)
        for one, other in zip(answer.trace.stages, again.trace.stages, strict=True)
    )


def test_precision_is_as_asked(checkpoint) -> None:
    _, folder, _ = checkpoint
    loaded = load_model(str(folder), device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    clip = noise_clip(loaded.sizing.factor)
    answer = ask(loaded, clip, "What?", config=SeatsConfig(retain=0.25), max_new_tokens=2)
    assert answer.model.dtype == "bfloat16"


class TestRefusals:
    def test_unknown_hub_model_names_size_and_command(self, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelError, match=r"22 GB.*hf download Qwen/Qwen2.5-Omni-7B") as caught:
            load_model("Qwen/Qwen2.5-Omni-7B")
        assert caught.value.exit_code == 4

    def test_no_folder_and_no_hub_id(self) -> None:
        with pytest.raises(ModelError, match="no model folder"):
            load_model("models/of/nobody/at all")

    def test_folder_without_a_config(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no readable config"):
            load_model(str(tmp_path))

    def test_unsupported_architecture(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        with pytest.raises(ModelError, match="'gpt2' is not supported"):
            load_model(str(tmp_path))

    def test_truncated_weights(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, "qwen2_5_omni")
        shard = tmp_path / "model-00001-of-00002.safetensors"
        shard.write_bytes(shard.read_bytes()[:1000])
        with pytest.raises(ModelError, match=r"model-00001-of-00002.* is damaged"):
            load_model(str(tmp_path), device="cpu")

    def test_missing_shard(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, "qwen2_5_omni")
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(ModelError, match=r"not complete .model-00002-of-00002"):
            load_model(str(tmp_path), device="cpu")

    def test_missing_weights_are_not_made_up(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, "qwen2_5_omni")
        index_file = tmp_path / "model.safetensors.index.json"
        index = json.loads(index_file.read_text())
        kept = {k: v for k, v in index["weight_map"].items() if v.startswith("model-00001")}
        index_file.write_text(json.dumps({"metadata": {}, "weight_map": kept}))
        with pytest.raises(ModelError, match="lacks"):
            load_model(str(tmp_path), device="cpu")

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"dtype": "float8"}, "Unknown dtype"),
            ({"attention": "magic"}, "Unknown attention"),
            ({"device": "toaster"}, "Unknown device"),
            ({"attention": "flash_attention_2", "device": "cpu"}, "needs a CUDA device"),
        ],
    )
    def test_impossible_settings(self, setting: dict[str, str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_model("bundled", **setting)


def test_tokens_that_are_other_tokens_to_the_model(tmp_path: Path) -> None:
    """A tokenizer saved without its added tokens numbers them anew: past the vocabulary's end."""
    folder = tmp_path / "no-added-tokens"
    shutil.copytree(BUNDLED_PATH, folder)
    saved = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(saved["vocab"]))
    merges = (" ".join(pair) if isinstance(pair, list) else pair for pair in saved["merges"])
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")))
    with pytest.raises(ModelError, match=r"VIDEO.* as token \d+, the model as \d+: copy the files"):
        load_model(str(folder), device="cpu")


def test_without_a_name_it_is_the_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEATS_MODEL", "gone/model")  # for the command line, which passes it on
    assert load_model().facts.demonstration
