"""`load_model(quantize=...)`: decoders of 4 and 8 bits choose and say what that of 16 bits does."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.config import QUANTIZE, ModelOptions, SeatsConfig
from seats_cli.engine import graph_decode
from seats_cli.engine.answer import ask
from seats_cli.errors import UsageError
from seats_cli.families.registry import BUNDLED_PATH
from seats_cli.media import read_clip
from seats_cli.models import load_model
from seats_cli.models.load import LoadedModel
from seats_cli.models.optimize import fused_forwards
from seats_cli.models.quantization import check_quantize, quantized_as, why_not_recordable
from seats_cli.models.qwen2_5_omni import Qwen25Omni
from seats_cli.results import Answer
from tests.engine.tape import TapeRecorder
from tests.models.broken_layouts import write_broken
from tests.models.test_load import noise_clip

pytest.importorskip("bitsandbytes")
ASSETS = Path(__file__).parents[2] / "assets"
KEPT = 0.95  # share of the tokens kept at 16 bits that must be kept again
Repository = Callable[[str], Path]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundled() -> Callable[[str | None], LoadedModel]:
    loaded: dict[str | None, LoadedModel] = {}

    def get(quantize: str | None) -> LoadedModel:
        if quantize not in loaded:
            loaded[quantize] = load_model("bundled", device="cpu", quantize=quantize)
        return loaded[quantize]

    return get


def answered(loaded: LoadedModel, clip: str, question: str, retain: float) -> Answer:
    read = read_clip(str(ASSETS / clip), sizing=loaded.sizing)
    return ask(loaded, read, question, config=SeatsConfig(retain=retain), max_new_tokens=16)


def kept_again(one: Answer, other: Answer) -> tuple[int, int]:
    """Of the tokens that one kept after any stage, how many another kept there; and all."""
    kept = [
        (set(stage.kept.tolist()), set(again.kept.tolist()))
        for stage, again in zip(one.trace.stages, other.trace.stages, strict=True)
    ]
    return sum(len(these & those) for these, those in kept), sum(len(these) for these, _ in kept)


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize(
    ("clip", "question", "text"),
    [
        ("cards_words_beeps_12s.mp4", "What is heard while the blue card is shown?", "beeps"),
        ("sees_cat_says_dog.mp4", "What is shown?", "cat"),
    ],
)
def test_keeps_the_same_tokens(
    quantize: str, clip: str, question: str, text: str, bundled: Callable[..., LoadedModel]
) -> None:
    plain = answered(bundled(None), clip, question, 0.1)
    quantized = answered(bundled(quantize), clip, question, 0.1)
    same, total = kept_again(plain, quantized)
    print(f"{quantize}, {clip}: {same} of {total} kept tokens are the same")
    assert same >= KEPT * total, f"only {same} of {total} kept tokens are the same"
    assert quantized.text == plain.text == text
    assert quantized.model.parameters == plain.model.parameters == 4_719_232
    assert quantized.model.quantization.startswith(f"{quantize[0]}-bit decoder (bitsandbytes")


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_relevance_is_that_of_the_layers_own_projections(
    quantize: str, bundled: Callable[..., LoadedModel]
) -> None:
    adapter = bundled(quantize).adapter
    layer = adapter.layers[3]
    hidden = torch.randn(5, adapter.config.text_config.hidden_size)
    width = layer.self_attn.head_dim
    sides = adapter.layer_side_tensors(
        {"position_embeddings": (torch.ones(1, 5, width), torch.zeros(1, 5, width))}
    )
    with torch.inference_mode():
        query, key = adapter.relevance_query_key(layer, hidden, sides, 2)
        several, _ = adapter.relevance_query_key(layer, hidden, sides, torch.tensor([0, 2]))
        normed = layer.input_layernorm(hidden)
        stock = layer.self_attn.q_proj(normed).view(5, -1, width)
        keys = layer.self_attn.k_proj(normed).view(5, -1, width).transpose(0, 1)
    # Nothing is rotated by these side tensors. Rows are quantized alone in 8 bits.
    torch.testing.assert_close(query, stock[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(several, stock[[0, 2]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(key, keys, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_decoder_projections_and_nothing_else(quantize: str, hub_repository: Repository) -> None:
    folder = hub_repository("omni-7b")
    plain = load_model(str(folder), device="cpu")
    loaded = load_model(str(folder), device="cpu", quantize=quantize, dtype="bfloat16")
    kind = "Linear4bit" if quantize == "4bit" else "Linear8bitLt"
    places = {
        name
        for name, module in loaded.adapter.language_model.named_modules()
        if type(module).__name__ == kind
    }
    everywhere = [one for one in loaded.model.modules() if type(one).__name__ == kind]
    assert len(everywhere) == len(places) == 7 * len(loaded.adapter.layers)
    assert all(name.startswith("layers.") and name.endswith("_proj") for name in places)
    assert loaded.facts.parameters == plain.facts.parameters
    assert loaded.facts.dtype == "bfloat16"
    changed = {type(module) for module, _ in fused_forwards(loaded.adapter)}
    assert not {name for name in map(str, changed) if "bitsandbytes" in name}
    answer = ask(
        loaded, noise_clip(loaded.sizing.factor), "What?", config=SeatsConfig(), max_new_tokens=2
    )
    assert len(answer.token_ids) == 2


def test_8_bit_checkpoints_too(tmp_path: Path) -> None:
    write_broken(tmp_path, "fp8-block", "omni-7b")
    plain = load_model(str(tmp_path), device="cpu")
    loaded = load_model(str(tmp_path), device="cpu", quantize="4bit")
    assert loaded.facts.quantization == (
        "FP8, dequantized to float32, 4-bit decoder (bitsandbytes NF4)"
    )
    layer = loaded.adapter.layers[0].self_attn.q_proj
    own = plain.adapter.layers[0].self_attn.q_proj
    hidden = torch.randn(3, own.in_features)
    with torch.inference_mode():
        expected = own(hidden)
        error = (layer(hidden) - expected).norm() / expected.norm()
    assert 0 < error < 0.15  # NF4 alone


def test_steps_are_recorded_at_4_bits_and_not_at_8(
    bundled: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"config": SeatsConfig(), "max_new_tokens": 12, "min_new_tokens": 12}
    recorder = TapeRecorder()
    answers = {}
    for quantize in QUANTIZE:
        loaded = bundled(quantize)
        clip = noise_clip(loaded.sizing.factor)
        stock = ask(loaded, clip, "What?", **settings)
        with monkeypatch.context() as patched:
            patched.setattr(graph_decode, "graph_recorder", lambda _adapter: recorder)
            answers[quantize] = ask(loaded, clip, "What?", **settings)
        assert answers[quantize].token_ids == stock.token_ids
    assert answers["4bit"].timing.decoding == "tape"
    reason = why_not_recordable(bundled("8bit").model)
    assert reason
    assert answers["8bit"].timing.decoding == f"dynamic cache ({reason})"
    assert why_not_recordable(bundled(None).model) == ""


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"quantize": "3bit"}, "Unknown `quantize` '3bit': use 4bit or 8bit"),
            ({"quantize": "4bit", "device": "spread"}, "use one of the two"),
        ],
    )
    def test_impossible_settings(self, settings: dict[str, str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_model("bundled", **settings)

    def test_experts_stay_at_16_bits(self, hub_repository: Repository) -> None:
        with pytest.raises(UsageError, match=r"91 %.*device=spread.*Qwen/Qwen2.5-Omni-7B"):
            load_model(str(hub_repository("omni3-instruct")), device="cpu", quantize="4bit")

    def test_other_devices(self) -> None:
        with pytest.raises(UsageError, match="not on mps"):
            check_quantize("4bit", Qwen25Omni, "mps", torch.device("mps"))

    def test_without_bitsandbytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(util, "find_spec", lambda _name: None)
        with pytest.raises(UsageError, match=r"pip install 'seats-cli\[quantize\]'"):
            check_quantize("4bit", Qwen25Omni, "cpu", CPU)


def test_reports_say_nothing_of_weights_as_stored() -> None:
    assert quantized_as(None, None, torch.bfloat16) == ""
    assert ModelOptions().arguments()["quantize"] is None


class TestCommandLine:
    def test_documents_name_it(self) -> None:
        clip = str(ASSETS / "sees_cat_says_dog.mp4")
        arguments = ["ask", clip, "What is shown?", "--quantize", "4bit", "--json", "--quiet"]
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        document = json.loads(result.stdout)
        assert document["model"]["quantization"] == "4-bit decoder (bitsandbytes NF4)"
        stored = load_file(BUNDLED_PATH / "model.safetensors")
        assert document["model"]["parameters"] == sum(part.numel() for part in stored.values())

    def test_random_weights(self) -> None:
        arguments = ["profile", "--synthetic", "4", "--random-weights", "cpu-0.5b"]
        result = CliRunner().invoke(app, [*arguments, "--quantize", "4bit"])
        assert result.exit_code == 2
        assert "--quantize needs the weights of a checkpoint" in result.stderr
