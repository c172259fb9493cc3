"""What several files of this folder share: model, clip and index, pruned models, weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seats_cli import ClipSession, SeatsConfig, load_model, read_clip
from seats_cli.engine.prune import prune
from seats_cli.engine.session import AskableModel
from seats_cli.media.clip import Clip
from seats_cli.models.adapter import Adapter
from seats_cli.selection.methods.omnisift import SoundSelector
from tests.engine import golden
from tests.engine.golden import Run

CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
QUESTIONS = ("What color is shown first?", "What is heard?")
TENTH = SeatsConfig(retain=0.1)

# ------------------------------------- the bundled model, a clip and its index


@pytest.fixture(scope="module")
def loaded() -> AskableModel:
    return load_model("bundled", device="cpu")


@pytest.fixture(scope="module")
def clip(loaded: AskableModel) -> Clip:
    return read_clip(CARDS, sizing=loaded.sizing)


@pytest.fixture(scope="module")
def session(loaded: AskableModel, clip: Clip) -> ClipSession:
    """Has been asked with two settings."""
    session = loaded.open(clip)
    for config in (TENTH, None):
        session.prefill(config)
    return session


@pytest.fixture(scope="module")
def index(session: ClipSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "cards.seats"
    session.save(path)
    return path


# --------------------------------- `generate`, and its table in docs/library.md

ROWS = dict(
    re.findall(
        r"^\| (.+?) \| ((?:runs|refused|the block).*?) \|$",
        (Path(__file__).parents[2] / "docs" / "library.md").read_text(),
        re.MULTILINE,
    )
)
CASES = {"qwen2_5": "twelve_ragged", "qwen3": "long_ragged"}
GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None}
held: set[str] = set()


def holds(*rows: str) -> Callable[[Any], Any]:
    """Mark a test as the one that holds these rows."""
    held.update(rows)
    return lambda test: test


@cache
def net(family: str) -> Any:
    return golden.build(family)


def case(family: str) -> Run:
    return Run(family, CASES[family], "seats_a")


def inputs(family: str) -> dict[str, Any]:
    return golden.inputs(case(family))


def pruned(family: str, kv: str = "layerwise", model: Any = None) -> Any:
    return prune(net(family) if model is None else model, golden.plan(case(family), kv))


def refusal(row: str) -> str:
    """The sentence that the table has for a row, as a pattern."""
    words = ROWS[row]
    assert words.startswith("refused: ")
    return re.escape(words.removeprefix("refused: "))


# --------------------------------------------------- weights of trained methods

TRAINED = SeatsConfig(method="omnisift", retain_video=0.33, retain_audio=0.5)


def selector_weights(width: int, inner: int, heads: int, seed: int = 0) -> dict[str, Tensor]:
    """Random ones of OmniSIFT's selector."""
    torch.manual_seed(seed)
    made = SoundSelector(width, inner, heads).state_dict()
    return {name: torch.randn_like(value) * 0.2 for name, value in made.items()}


def sieve_weights(adapter: Adapter) -> dict[str, Tensor]:
    """Random ones of a refiner of two layers, as wide as the decoder's, with its names."""
    shape = adapter.architecture()
    width, head = shape.hidden_size, shape.head_dim
    sizes = {"q": shape.num_heads * head, "k": shape.num_kv_heads * head}
    sizes["v"] = sizes["k"]
    shapes: dict[str, tuple[int, ...]] = {
        "ln.weight": (width,),
        "score_head.0.weight": (width, width),
        "score_head.0.bias": (width,),
        "score_head.2.weight": (1, width),
        "score_head.2.bias": (1,),
    }
    for layer in ("layers.0.", "layers.1."):
        for part, rows in sizes.items():
            shapes[f"{layer}self_attn.{part}_proj.weight"] = (rows, width)
            if not hasattr(adapter.layers[0].self_attn, "q_norm"):
                shapes[f"{layer}self_attn.{part}_proj.bias"] = (rows,)
            elif part != "v":
                shapes[f"{layer}self_attn.{part}_norm.weight"] = (head,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (width, sizes["q"])
        shapes |= {f"{layer}mlp.{part}_proj.weight": (40, width) for part in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (width, 40)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{norm}.weight"] = (width,)
    generator = torch.Generator().manual_seed(3)
    return {
        f"av_refiner.{name}": torch.randn(size, generator=generator) * 0.3
        for name, size in shapes.items()
    }
