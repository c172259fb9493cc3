"""Attention to the tokens alive after a decoder layer, from those that a method lets ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seats_cli.selection import relevance

if TYPE_CHECKING:
    from seats_cli.engine.alive import Alive
    from seats_cli.models.adapter import Adapter


def last_text_relevance(adapter: Adapter, layer: Any, output: Tensor, alive: Alive) -> Tensor:
    """Attention of the last text token, computed anew from the layer's output states.

    Parameters
    ----------
    adapter : Adapter
    layer : decoder layer
    output : Tensor, shape (1, n, D)
        What the layer returned.
    alive : Alive
        The n tokens.

    Returns
    -------
    float32 Tensor, shape (n,)
    """
    text = ~(alive.video | alive.audio)
    last_text = int(text.nonzero()[-1])
    query, key = adapter.relevance_query_key(
        layer, output[0], alive.rotary_on(output.device), last_text
    )
    return relevance.last_query_relevance(query, key)


def question_relevance(
    adapter: Adapter, layer: Any, entered: Tensor, alive: Alive, question: int
) -> Tensor:
    """Attention of the last `question` tokens, as the layer computed it from its input.

    Parameters
    ----------
    adapter, layer, alive
        As for `last_text_relevance`.
    entered : Tensor, shape (1, n, D)
        What the layer was given.
    question : int
        At least 1.

    Returns
    -------
    float32 Tensor, shape (n,)
        Mean over these tokens and heads.
    """
    length = entered.shape[1]
    asking = torch.arange(length - question, length, device=entered.device)
    query, key = adapter.relevance_query_key(
        layer, entered[0], alive.rotary_on(entered.device), asking
    )
    return relevance.question_relevance(query, key, asking)
