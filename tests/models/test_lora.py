"""LoRA adapters: on their own modules alone, as PEFT merges them, or refused in one sentence."""

from __future__ import annotations

import copy
import json
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.prune import prune
from seats_cli.errors import ModelError, UsageError
from seats_cli.media import read_clip
from seats_cli.models import LoadedModel, build_inputs, load_model
from tests.models.broken_layouts import write_broken
from tests.models.hub_layouts import write_repository
from tests.models.test_load import noise_clip

peft = pytest.importorskip("peft")
CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
QUESTION = "What color is shown first?"
CONFIG = SeatsConfig.preset("10%")
DECODER = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v)_proj"
LAYOUTS = ("omni-7b", "omni3-instruct", "thinker-2.5")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("bundled", device="cpu")


@pytest.fixture(scope="module")
def inputs(loaded: LoadedModel) -> dict[str, Any]:
    return build_inputs(loaded, read_clip(CARDS, sizing=loaded.sizing), QUESTION)


def with_lora(model: Any, *, random: bool = True, **settings: Any) -> Any:
    """The model's copy in PEFT, with a new adapter that does nothing unless it is `random`."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": DECODER, **settings})
    wrapped = peft.get_peft_model(copy.deepcopy(model), config)
    torch.manual_seed(0)
    if random:
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return wrapped.eval()


def saved(folder: Path, wrapped: Any) -> str:
    wrapped.save_pretrained(str(folder))
    return str(folder)


def changed(folder: Path, **settings: Any) -> str:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return str(folder)


def renamed(folder: Path, old: str, new: str) -> str:
    path = folder / "adapter_model.safetensors"
    tensors = {key.replace(old, new): value for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return str(folder)


def first_logits(model: Any, run: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, list[int]]:
    with torch.no_grad(), prune(run, CONFIG) as pruned:
        logits = run(**inputs, use_cache=True).logits[0, -1]
    return logits, pruned.trace.stages[-1].kept.tolist()


# ------------------------------------------------------------------- loading one


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "rank_pattern": {r"layers.1.self_attn.q_proj": 2}},
        {"use_dora": True, "alpha_pattern": {"v_proj": 3}},
        {"bias": "lora_only", "target_modules": ["q_proj", "fc1", "gate_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "bias": "all"},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["plain", "ranks", "dora", "encoders", "embeddings", "head"],
)
def test_is_the_model_that_peft_merges(
    settings: dict[str, Any], loaded: LoadedModel, tmp_path: Path
) -> None:
    base = "bundled"
    if settings.keys() & {"modules_to_save", "bias"}:  # its embeddings are tied
        base = str(tmp_path / "base")
        write_repository(tmp_path / "base", "omni-7b")
        loaded = load_model(base, device="cpu", dtype="float32")
    wrapped = with_lora(loaded.model, **settings)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:  # of biases and whole modules, too
            parameter.data.add_(0.02)
    folder = saved(tmp_path / "lora", wrapped)
    reference = peft.PeftModel.from_pretrained(copy.deepcopy(loaded.model), folder)
    expected = reference.merge_and_unload().state_dict()
    found = load_model(base, device="cpu", dtype="float32", adapter=folder)
    assert found.facts.adapter == folder
    state = found.model.state_dict()
    assert state.keys() == expected.keys()
    before = loaded.model.state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in state)
    for name in state:
        assert torch.equal(state[name], expected[name]), name
    assert not any("peft" in type(module).__module__ for module in found.model.modules())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of", ["thinker.model.", "model.", "thinker.model.language_model."])
def test_names_of_every_version_mean_the_decoder(layout: str, of: str, tmp_path: Path) -> None:
    """Plain `q_proj` as the target would match the audio encoder's, too."""
    base, lora = tmp_path / "base", tmp_path / "lora"
    write_repository(base, layout)
    write_broken(lora, "lora", layout)
    renamed(lora, ".thinker.model.", f".{of}")
    plain = load_model(str(base), device="cpu", dtype="float32")
    found = load_model(str(base), device="cpu", dtype="float32", adapter=str(lora))
    before, after = plain.model.state_dict(), found.model.state_dict()
    assert before.keys() == after.keys()
    names = {name for name in before if not torch.equal(before[name], after[name])}
    layers = range(len(plain.adapter.layers))
    assert {name[name.index("layers.") :] for name in names} == {
        f"layers.{n}.self_attn.q_proj.weight" for n in layers
    }
    assert not any("audio" in name for name in names)
    for name in names:  # alpha / r = 2, and 4 products of 0.01
        torch.testing.assert_close(after[name] - before[name], torch.full_like(before[name], 8e-4))


def test_of_the_whole_model_the_talkers_part_is_left_out(tmp_path: Path) -> None:
    base, lora = tmp_path / "base", tmp_path / "lora"
    write_repository(base, "omni-7b")
    write_broken(lora, "lora", "omni-7b")
    path = lora / "adapter_model.safetensors"
    tensors = load_file(path)
    talker = {key.replace("thinker", "talker"): torch.ones(2, 2) for key in tensors}
    save_file({**tensors, **talker}, path)
    assert load_model(str(base), device="cpu", adapter=str(lora)).facts.adapter == str(lora)


def test_beside_quantized_weights_it_stays_apart(
    loaded: LoadedModel, inputs: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    folder = saved(tmp_path, with_lora(loaded.model))
    base = load_model("bundled", device="cpu", quantize="8bit")
    found = load_model("bundled", device="cpu", quantize="8bit", adapter=folder)
    assert "Linear8bitLt" in {type(module).__name__ for module in found.model.modules()}
    without, _ = first_logits(base.model, base.model, inputs)
    reference = peft.PeftModel.from_pretrained(base.model, folder)
    expected, kept = first_logits(base.model, reference, inputs)
    logits, again = first_logits(found.model, found.model, inputs)
    assert (expected - without).norm() > 0.5
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert kept == again


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_answers(layout: str, tmp_path: Path) -> None:
    base, lora = tmp_path / "base", tmp_path / "lora"
    write_repository(base, layout)
    write_broken(lora, "lora", layout)
    found = load_model(str(base), device="cpu", adapter=str(lora))
    clip = noise_clip(found.sizing.factor)
    answer = ask(found, clip, "What is seen?", config=SeatsConfig(retain=0.25), max_new_tokens=2)
    assert answer.model.adapter == str(lora)


# ---------------------------------------------------------------------- refusals


def refusal(folder: Path | str, base: str = "bundled") -> str:
    with pytest.raises(ModelError) as caught:
        load_model(base, device="cpu", adapter=str(folder))
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_base_is_refused(tmp_path: Path, loaded: LoadedModel) -> None:
    write_repository(tmp_path / "base", "omni-7b")
    write_broken(tmp_path / "lora", "lora", "omni-7b")
    said = refusal(tmp_path / "lora")
    assert "layers.0.self_attn.q_proj is" in said
    assert "128 x 128 here" in said
    assert said.endswith("it was trained on Qwen/Qwen2.5-Omni-7B.")
    wide = saved(tmp_path / "wide", with_lora(loaded.model))
    renamed(tmp_path / "wide", ".layers.1.", ".layers.91.")
    assert "has no" in refusal(wide)
    assert "layers.91.self_attn" in refusal(wide)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "of the kind PROMPT_TUNING; seats takes LoRA"),
        ({"task_type": "SEQ_CLS"}, "makes a classifier of its base"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices"),
    ],
)
def test_other_adapters_are_refused(
    settings: dict[str, Any], words: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    saved(tmp_path, with_lora(loaded.model))
    assert words in refusal(changed(tmp_path, **settings))


def test_files_that_are_missing_or_damaged(loaded: LoadedModel, tmp_path: Path) -> None:
    assert "adapter_config.json" in refusal(tmp_path)
    saved(tmp_path, with_lora(loaded.model))
    path = tmp_path / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut off" in refusal(tmp_path)
    path.rename(tmp_path / "adapter_model.bin")
    assert "only pickled weights (adapter_model.bin)" in refusal(tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    assert "no adapter_model.safetensors" in refusal(tmp_path)
    assert "no adapter folder './gone'" in refusal("./gone")
    assert "hf download some/lora" in refusal("some/lora")


def test_half_of_a_pair_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    saved(tmp_path, with_lora(loaded.model))
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: value for key, value in load_file(path).items() if "lora_B" not in key}
    save_file(tensors, path)
    assert "only one half" in refusal(tmp_path)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "peft" else find(name))
    assert "pip install 'seats-cli[adapter]'" in refusal("some/lora")


def test_the_command_line(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = saved(tmp_path, with_lora(loaded.model, random=False))
    run = CliRunner().invoke
    short = ("--retain", "10%", "--max-new-tokens", "2", "--device", "cpu")
    result = run(app, ["ask", str(CARDS), QUESTION, *short, "--adapter", folder, "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["model"]["adapter"] == folder
    result = run(app, ["profile", "--synthetic", "2", "--random-weights", "qwen2.5-omni-7b",
                       "--adapter", folder])  # fmt: skip
    assert result.exit_code == 2
    assert "--adapter needs the weights" in result.stderr
    result = run(app, ["ask", str(CARDS), QUESTION, "--model", folder])
    assert result.exit_code == 4
    assert f"--adapter {folder}" in " ".join(result.stderr.split())


def test_beside_base_weights_it_is_used_when_named(tmp_path: Path) -> None:
    write_broken(tmp_path, "lora-beside", "omni-7b")
    ignored = load_model(str(tmp_path), device="cpu", dtype="float32")
    assert f'`adapter="{tmp_path}"`' in " ".join(ignored.notices)
    used = load_model(str(tmp_path), device="cpu", dtype="float32", adapter=str(tmp_path))
    assert not used.notices
    one, other = (model.adapter.layers[0].self_attn.q_proj.weight for model in (ignored, used))
    assert not torch.equal(one, other)


def test_tied_embeddings_are_not_changed_twice(loaded: LoadedModel, tmp_path: Path) -> None:
    wrapped = with_lora(loaded.model, target_modules=["embed_tokens"])
    assert "tied embeddings" in refusal(saved(tmp_path, wrapped))


# ------------------------------------------------------- prune on a model in PEFT


def test_a_new_adapter_changes_nothing(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    wrapped = with_lora(loaded.model, random=False)
    expected, kept = first_logits(loaded.model, loaded.model, inputs)
    found, again = first_logits(wrapped, wrapped, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert kept == again


def test_layers_of_an_adapter_are_gone_through(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    wrapped = with_lora(loaded.model)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    plain, _ = first_logits(loaded.model, loaded.model, inputs)
    expected, kept = first_logits(merged, merged, inputs)
    found, again = first_logits(wrapped, wrapped, inputs)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert kept == again
    with prune(wrapped, CONFIG):
        tokens = wrapped.generate(**inputs, max_new_tokens=3, do_sample=False)
    with prune(merged, CONFIG):
        assert torch.equal(tokens, merged.generate(**inputs, max_new_tokens=3, do_sample=False))


def test_guards_hold_on_a_model_in_peft(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    wrapped = with_lora(loaded.model, task_type="CAUSAL_LM")
    before = set(vars(wrapped.get_base_model()))
    with prune(wrapped, CONFIG):
        with pytest.raises(UsageError, match="copy it before or after"):
            copy.deepcopy(wrapped)
        with pytest.raises(UsageError, match="labels"):
            wrapped(**inputs, labels=inputs["input_ids"])
        with pytest.raises(UsageError, match="KV cache"):
            wrapped.generate(**inputs, use_cache=False)
        with pytest.raises(UsageError), prune(wrapped, CONFIG):
            pass
    assert set(vars(wrapped.get_base_model())) == before


def test_a_prompt_as_adapter_is_refused(loaded: LoadedModel) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=128,
                                     num_layers=2, num_attention_heads=4)  # fmt: skip
    wrapped = peft.get_peft_model(copy.deepcopy(loaded.model), config)
    with pytest.raises(ModelError, match="is a prompt"):
        prune(wrapped, CONFIG)
