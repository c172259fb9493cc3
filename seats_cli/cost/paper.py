"""The paper's accounting, for comparison with its tables (arXiv 2605.20035).

It counts one multiply-add as one FLOP, the LLM's prefill only, attention as the full square
of the sequence, and the LM head on every position that reaches it. For Qwen3-Omni-30B-A3B its
figures come out only if attention is counted with a head width of hidden size / heads = 64,
where the model's heads are 128 wide: `paper_table` does the same there, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seats_cli.config import SeatsConfig
from seats_cli.cost.flops import check_layers, head_flops, layer_flops
from seats_cli.cost.token_counts import MediaSizes, predicted_counts
from seats_cli.families.base import Architecture
from seats_cli.families.registry import describe_config, named_config
from seats_cli.schedule import PruningPlan


def paper_prefill_macs(
    architecture: Architecture, alive: Sequence[int], final: int | None = None
) -> int:
    """Multiply-adds of the prefill of one prompt.

    Parameters
    ----------
    alive : sequence of int
        Tokens that each layer processes.
    final : int, optional
        Tokens that leave the last layer, where the LM head runs; by default those that
        enter it.

    Returns
    -------
    int
        Multiply-adds, which the paper calls FLOPs.
    """
    check_layers(architecture, alive)
    positions = (alive[-1] if alive else 0) if final is None else final
    layers = sum(layer_flops(architecture, tokens) for tokens in alive)
    return (layers + head_flops(architecture, positions)) // 2


@dataclass(frozen=True)
class PaperRow:
    """One figure of the paper beside the one computed here; multiply-adds in units of 1e12."""

    model: str
    retained: str
    published_tera: float
    computed_tera: float

    @property
    def difference(self) -> float:
        """Relative, above 0 where ours is larger."""
        return self.computed_tera / self.published_tera - 1.0


# The setting behind the paper's figures: 64 grids of 132 tokens, 128 s of sound, some text.
PAPER_SIZES = MediaSizes(grids=((64, 24, 22),), mel_frames=(12_800,))
PAPER_TEXT = 120
PAPER_TERA = {
    "qwen2.5-omni-7b": {"full": 111.0, "35%": 36.7, "25%": 26.5, "15%": 17.3, "10%": 12.2},
    "qwen3-omni-30b-a3b": {"full": 47.2, "35%": 13.3, "25%": 9.0, "15%": 5.5, "10%": 3.9},
}


def paper_table() -> list[PaperRow]:
    """The paper's LLM prefill figures, recomputed."""
    rows = []
    for name, figures in PAPER_TERA.items():
        shape = describe_config(named_config(name), name)[0]
        counted = replace(shape, head_dim=shape.hidden_size // shape.num_heads)
        for retained, published in figures.items():
            plan = None if retained == "full" else PruningPlan.resolve(_preset(retained), shape)
            alive, final = predicted_counts(plan, shape, PAPER_SIZES, PAPER_TEXT)
            macs = paper_prefill_macs(counted, [sum(counts) for counts in alive], sum(final))
            rows.append(PaperRow(name, retained, published, macs / 1e12))
    return rows


def _preset(name: str) -> SeatsConfig:
    """Without windows: rounding in each of them would favour one clip length over another."""
    return replace(SeatsConfig.preset(name), video_window=10**6, audio_window=10**6)
