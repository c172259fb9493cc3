"""Generating an answer token by token, or scoring the options of a multiple choice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TextStreamer

from seats_cli.engine.timing import Clock
from seats_cli.errors import ModelError
from seats_cli.models.load import LoadedModel
from seats_cli.results import ChoiceScore


def refuse_nan(_module: Any, _args: Any, logits: torch.Tensor) -> None:
    """A forward hook for the LM head: stop where generation would continue with nonsense.

    Where all scores are NaN, transformers picks token 0 again and again, and the result looks
    like an answer.

    Raises
    ------
    ModelError
        If a score is NaN or infinite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "The model's output is not a number: the range of float16 may be too small for it (use "
            "`dtype=bfloat16` or float32), or its weights are damaged (fetch them again)."
        )


class Stream(TextStreamer):  # type: ignore[misc]
    """Passes text on as it is generated, and notes when the first token came."""

    def __init__(self, tokenizer: Any, clock: Clock, on_text: Callable[[str], None] | None) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._clock = clock
        self._on_text = on_text
        self.first_token_at: float | None = None

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt and self.first_token_at is None:
            self.first_token_at = self._clock.now()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text and self._on_text is not None:
            self._on_text(text)


def generate(
    loaded: LoadedModel,
    inputs: dict[str, Any],
    stream: Stream,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    min_new_tokens: int,
) -> tuple[str, tuple[int, ...], str]:
    """Text, token ids and finish reason ("stop" or "length") of a free answer."""
    tokenizer = loaded.processor.tokenizer
    stop = stop_ids(loaded)
    sampling: dict[str, Any] = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    output = loaded.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
        streamer=stream,
        **sampling,
    )
    # The end-of-turn token stays in `token_ids`: it tells a finished answer from one cut off.
    token_ids = tuple(output[0, inputs["input_ids"].shape[1] :].tolist())
    text = tokenizer.decode(token_ids, skip_special_tokens=True).strip()
    return text, token_ids, "stop" if token_ids and token_ids[-1] in stop else "length"


def stop_ids(loaded: LoadedModel) -> list[int]:
    """End-of-turn ids: the tokenizer's, and those of the checkpoint's generation config."""
    configured = loaded.model.generation_config.eos_token_id
    ids = {loaded.processor.tokenizer.eos_token_id}
    ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(token for token in ids if token is not None)


def score_choices(
    loaded: LoadedModel, inputs: dict[str, Any], choices: Sequence[str]
) -> tuple[ChoiceScore, ...]:
    """Probability of each option among the options, in their order.

    An option's likelihood is that of all its tokens and the end of turn after it, so that
    "red" does not win by being the beginning of "red and blue".

    Parameters
    ----------
    loaded : LoadedModel
        Inside a pruned run the prefill is pruned, too; it runs once for all options.
    inputs : dict
        From `build_inputs`.

    Returns
    -------
    tuple of ChoiceScore
        Probabilities sum to 1.
    """
    # 1. The prompt once: it scores the first token of every option.
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    prefill = model(**inputs, use_cache=True)
    options = [
        [*tokenizer.encode(choice.strip(), add_special_tokens=False), tokenizer.eos_token_id]
        for choice in choices
    ]
    first = prefill.logits[:, -1].float().log_softmax(-1)[0]
    total = torch.stack([first[tokens[0]] for tokens in options])
    # 2. The other tokens of all options as a batch, on a copy of the cache for each.
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
    # Shorter options are filled up behind their end, which no earlier token sees.
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
    """Name of the KV cache argument (trap 7): `past_key_values` before transformers 5.18."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
