"""Multiple choice by likelihood: all options in one batch behind one prefill."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seats_cli.results import ChoiceScore

if TYPE_CHECKING:
    from seats_cli.models.load import LoadedModel


def score_choices(
    loaded: LoadedModel, inputs: dict[str, Any], choices: Sequence[str]
) -> tuple[ChoiceScore, ...]:
    """Probability of each option among the options, in the order given.

    An option's likelihood is that of all its tokens and the end of turn after it, so that
    "red" does not win by being the beginning of "red and blue".

    Parameters
    ----------
    loaded : LoadedModel
        Its hooks (pruning) may be active: the prefill runs once, pruned, and its cache is
        shared by all options.
    inputs : dict
        From `build_inputs`.
    choices : sequence of str

    Returns
    -------
    tuple of ChoiceScore
        Probabilities sum to 1.
    """
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    prefill = model(**inputs, use_cache=True)
    options = [
        [*tokenizer.encode(choice.strip(), add_special_tokens=False), tokenizer.eos_token_id]
        for choice in choices
    ]
    first = prefill.logits[:, -1].float().log_softmax(-1)[0]
    total = torch.stack([first[tokens[0]] for tokens in options])
    name = cache_argument(model)
    cache = getattr(prefill, name)
    cache.batch_repeat_interleave(len(options))
    total += _continuation_scores(model, name, cache, options)
    probabilities = total.double().softmax(0).tolist()
    return tuple(
        ChoiceScore(choice, probability)
        for choice, probability in zip(choices, probabilities, strict=True)
    )


def _continuation_scores(model: Any, name: str, cache: Any, options: list[list[int]]) -> Tensor:
    """Log-likelihood (n,) of each option's tokens after its first."""
    width = max(len(tokens) for tokens in options) - 1
    ids = torch.zeros(len(options), width, dtype=torch.long)
    targets = torch.full((len(options), width), -1)
    for row, tokens in enumerate(options):
        ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        targets[row, : len(tokens) - 1] = torch.tensor(tokens[1:])
    ids, targets = ids.to(model.device), targets.to(model.device)
    output = model(input_ids=ids, use_cache=True, **{name: cache})
    scores = output.logits.float().log_softmax(-1)
    picked = scores.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets >= 0, picked, 0.0).sum(-1)


def cache_argument(model: Any) -> str:
    """The KV cache's argument name: `cache` since transformers 5.18, before `past_key_values`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
