"""Generating an answer token by token, through transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TextStreamer

if TYPE_CHECKING:
    from seats_cli.engine.clock import Clock
    from seats_cli.models.load import LoadedModel


class Stream(TextStreamer):  # type: ignore[misc]
    """Hands text on as it is generated and notes when the first token came."""

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
    token_ids = tuple(output[0, inputs["input_ids"].shape[1] :].tolist())
    text = tokenizer.decode(token_ids, skip_special_tokens=True).strip()
    return text, token_ids, "stop" if token_ids and token_ids[-1] in stop else "length"


def stop_ids(loaded: LoadedModel) -> list[int]:
    """End-of-turn ids: the tokenizer's, and what the checkpoint's generation config adds."""
    configured = loaded.model.generation_config.eos_token_id
    ids = {loaded.processor.tokenizer.eos_token_id}
    ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(token for token in ids if token is not None)
