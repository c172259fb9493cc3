"""OmniSIFT's weights: the published layout, beside a model, inside a run, in its accounts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import layer_norm, silu
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.session import load_model
from seats_cli.errors import ModelError
from seats_cli.families.registry import BUNDLED_PATH
from seats_cli.media.reader import read_clip
from seats_cli.models.load import LoadedModel
from seats_cli.models.method_weights import of_a_method, stored_for
from seats_cli.selection.methods.omnisift import SoundSelector
from tests.cost.counting import counted

CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
QUESTION = "What color is shown first?"
CONFIG = SeatsConfig(method="omnisift", retain_video=0.33, retain_audio=0.5)
# Names and shapes of the published 7B checkpoint (`thinker.compressor.*`).
PUBLISHED = {
    "v_proj.weight": (512, 3584),
    "v_proj.bias": (512,),
    "a_proj.weight": (512, 3584),
    "a_proj.bias": (512,),
    **{
        f"{norm}.{part}": (512,)
        for norm in ("v_norm", "a_norm", "post_attn_norm")
        for part in ("weight", "bias")
    },
    "cross_attn.in_proj_weight": (1536, 512),
    "cross_attn.in_proj_bias": (1536,),
    "cross_attn.out_proj.weight": (512, 512),
    "cross_attn.out_proj.bias": (512,),
    "score_head.0.weight": (256, 512),
    "score_head.0.bias": (256,),
    "score_head.2.weight": (1, 256),
    "score_head.2.bias": (1,),
}


def weights(width: int, inner: int, heads: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    made = SoundSelector(width, inner, heads).state_dict()
    return {name: torch.randn_like(value) * 0.2 for name, value in made.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a selector of random weights among its own."""
    path = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(BUNDLED_PATH, path)
    selector = {f"compressor.{name}": value for name, value in weights(128, 64, 4).items()}
    save_file(selector, path / "omnisift.safetensors")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(str(folder), device="cpu")


def test_published_layout() -> None:
    given = {name: torch.empty(shape, device="meta") for name, shape in PUBLISHED.items()}
    made = SoundSelector.of(given, 3584)
    assert {name: tuple(value.shape) for name, value in made.state_dict().items()} == PUBLISHED
    assert sum(value.numel() for value in made.parameters()) == 4_856_321
    assert made.cross_attn.num_heads == 8
    assert of_a_method("thinker.compressor.v_proj.weight")
    assert not of_a_method("thinker.model.layers.0.self_attn.q_proj.weight")


def test_scores_follow_the_formula() -> None:
    own = weights(24, 16, 4)
    audio, video = torch.randn(5, 24), torch.randn(7, 24)

    def normed(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (16,), own[f"{name}.weight"], own[f"{name}.bias"])

    def through(x: Tensor, name: str) -> Tensor:
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    v, a = normed(through(video, "v_proj"), "v_norm"), normed(through(audio, "a_proj"), "a_norm")
    q, k, value = (
        x @ part.T + bias
        for x, part, bias in zip(
            (a, v, v),
            own["cross_attn.in_proj_weight"].chunk(3),
            own["cross_attn.in_proj_bias"].chunk(3),
            strict=True,
        )
    )
    heads = [slice(4 * head, 4 * head + 4) for head in range(4)]
    mixed = torch.cat(
        [(q[:, h] @ k[:, h].T / 2.0).softmax(-1) @ value[:, h] for h in heads], dim=-1
    )
    x = normed(through(mixed, "cross_attn.out_proj") + a, "post_attn_norm")
    expected = through(silu(through(x, "score_head.0")), "score_head.2")[:, 0].sigmoid()
    found = SoundSelector.of(own, 24)(audio, video)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bool((found.diff() != 0).any())


def answer(loaded: LoadedModel, config: SeatsConfig, **how: Any) -> Any:
    clip = read_clip(CARDS, sizing=loaded.sizing)
    return ask(loaded, clip, QUESTION, config=config, max_new_tokens=2, **how)


def test_a_run_and_its_accounts(loaded: LoadedModel) -> None:
    with sdpa_kernel(SDPBackend.MATH):  # of the products in other kernels torch counts only some
        flops, found = counted(lambda: answer(loaded, CONFIG))
    stage, cost = found.trace.stages[0], found.cost
    assert stage.video < found.trace.offered[0]
    assert stage.audio < found.trace.offered[1]
    assert found.timing.select_s > 0
    assert cost.selection_flops > 0
    # of the other form, all but the selector's work is the same
    plain = SeatsConfig(method="omnisift-untrained", retain_video=0.33, retain_audio=0.5)
    with sdpa_kernel(SDPBackend.MATH):
        without, other = counted(lambda: answer(loaded, plain))
    assert other.trace.stages[0].audio == stage.audio
    assert not torch.equal(other.trace.stages[0].kept, stage.kept)
    assert flops - without == cost.selection_flops


def test_a_session_gives_the_same(loaded: LoadedModel) -> None:
    session = loaded.open(read_clip(CARDS, sizing=loaded.sizing))  # type: ignore[attr-defined]
    alone = answer(loaded, CONFIG)
    for _ in range(2):
        found = session.ask(QUESTION, config=CONFIG, max_new_tokens=2)
        assert torch.equal(found.trace.stages[0].kept, alone.trace.stages[0].kept)
        assert found.token_ids == alone.token_ids


def test_weights_that_are_missing_or_wrong(folder: Path, tmp_path: Path) -> None:
    bundled = load_model("bundled", device="cpu")
    with pytest.raises(ModelError, match=r"no weights for it: put omnisift.safetensors beside"):
        answer(bundled, CONFIG)
    other = tmp_path / "model"
    shutil.copytree(BUNDLED_PATH, other)
    wrong = {f"compressor.{name}": value for name, value in weights(96, 64, 4).items()}
    save_file(wrong, other / "omnisift.safetensors")
    with pytest.raises(ModelError, match="are of another kind or size"):
        answer(load_model(str(other), device="cpu"), CONFIG)
    assert len(stored_for(folder, "omnisift")) == len(PUBLISHED)
    assert not stored_for(BUNDLED_PATH, "omnisift")


def test_all_says_what_it_leaves_out(folder: Path) -> None:
    arguments = ["compare", str(CARDS), QUESTION, "--methods", "all", "--retain", "35%"]
    arguments += ["--max-new-tokens", "1", "--json"]
    found = CliRunner().invoke(app, [*arguments, "--model", str(folder)])
    assert found.exit_code == 0
    assert '"omnisift"' in found.stdout
    assert "Left out" not in found.stderr
