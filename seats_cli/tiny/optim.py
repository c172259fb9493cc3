"""Which parameters Muon trains and which AdamW."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def split_parameters(
    modules: Iterable[nn.Module],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices for Muon, the rest for AdamW); embeddings count as the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if "audio_bos_eos_token" in name:  # a leftover of the architecture, never used
                continue
            hidden = parameter.ndim == 2 and "embed_tokens" not in name
            (matrices if hidden else rest).append(parameter)
    return matrices, rest
