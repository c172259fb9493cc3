"""Generating an answer token by token, or scoring the options of a multiple choice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TextStreamer,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from seats_cli.engine.stop_strings import StopStrings
from seats_cli.engine.thinking import AFTER, CLOSING, OPENING, ThoughtSplitter
from seats_cli.engine.timing import Clock
from seats_cli.errors import ModelError
from seats_cli.families.generation import Sampling
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
    """Hands text to a splitter as it is generated, and notes when the first token came."""

    def __init__(
        self,
        tokenizer: Any,
        clock: Clock,
        splitter: ThoughtSplitter,
        on_token: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_token = on_token
        self._clock = clock
        self._splitter = splitter
        self.first_token_at: float | None = None

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt and self.first_token_at is None:
            self.first_token_at = self._clock.now()
        if not self.next_tokens_are_prompt and self._on_token is not None:
            self._on_token()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._splitter.feed(text)
        if stream_end:
            self._splitter.finish()


def generate(
    loaded: LoadedModel,
    inputs: dict[str, Any],
    stream: Stream,
    sampling: Sampling,
    min_new_tokens: int,
    stop: Sequence[str] = (),
) -> tuple[str, tuple[int, ...], str]:
    """Text with the reasoning in it, token ids, and finish reason ("stop" or "length").

    With `stop`, generation ends with the first token that completes one of these strings in the
    answer; the text still holds it, see `cut_at`.
    """
    tokenizer = loaded.processor.tokenizer
    prompt, ends = inputs["input_ids"], stop_ids(loaded)
    opened = opened_in(tokenizer, prompt)
    strings = StopStrings(stop, tokenizer, prompt.shape[1], opened=opened) if stop else None
    drawing: dict[str, Any] = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    if sampling.temperature > 0:
        names = ("temperature", "top_p", "top_k")
        drawing = {"do_sample": True, **{name: getattr(sampling, name) for name in names}}
    output = loaded.model.generate(
        **inputs,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        streamer=stream,
        stopping_criteria=None if strings is None else StoppingCriteriaList([strings]),
        **drawing,
    )
    # The end-of-turn token stays in `token_ids`: it tells a finished answer from one cut off.
    token_ids = tuple(output[0, prompt.shape[1] :].tolist())
    text = tokenizer.decode(token_ids, skip_special_tokens=True).strip()
    ended = bool(token_ids) and token_ids[-1] in ends
    return text, token_ids, "stop" if ended or (strings and strings.hit) else "length"


def stop_ids(loaded: LoadedModel) -> list[int]:
    """End-of-turn ids: the tokenizer's, and those of the checkpoint's generation config."""
    configured = loaded.model.generation_config.eos_token_id
    ids = {loaded.processor.tokenizer.eos_token_id}
    ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(token for token in ids if token is not None)


def score_choices(
    loaded: LoadedModel,
    inputs: dict[str, Any],
    choices: Sequence[str],
    stream: Stream,
    sampling: Sampling,
) -> tuple[tuple[ChoiceScore, ...], tuple[int, ...], bool]:
    """Probability of each option among the options, in their order.

    An option's likelihood is that of all its tokens and the end of turn after it, so that
    "red" does not win by being the beginning of "red and blue". A model whose likeliest first
    token opens a block of reasoning, or whose prompt did, first reasons; options are then scored
    behind the end of the block, which is put there if the model does not come to it.

    Parameters
    ----------
    loaded : LoadedModel
        Inside a pruned run the prefill is pruned, too; it runs once for all options.
    inputs : dict
        From `build_inputs`.
    stream : Stream
        Is given the reasoning.
    sampling : Sampling
        Of the reasoning; the longest option is part of `max_new_tokens`.

    Returns
    -------
    scores : tuple of ChoiceScore
        Probabilities sum to 1.
    thought : tuple of int
        Tokens of the reasoning.
    cut : bool
        Whether it was longer than there was room for.
    """
    # 1. The prompt once.
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    # A cache of ours: what questions about a clip share is put into it before the decoder runs.
    name = cache_argument(model)
    given = {name: DynamicCache(config=model.config.get_text_config())}
    prefill = model(**inputs, use_cache=True, **given)
    options = [
        [*tokenizer.encode(choice.strip(), add_special_tokens=False), tokenizer.eos_token_id]
        for choice in choices
    ]
    cache, logits = getattr(prefill, name), prefill.logits[:, -1]
    # 2. What the model thinks of it; its end is as short as an option is long.
    thought: tuple[int, ...] = ()
    cut = False
    prompt = inputs["input_ids"]
    begins = [int(logits.argmax())] == tokenizer.encode(OPENING, add_special_tokens=False)
    if begins or opened_in(tokenizer, prompt):
        room = sampling.max_new_tokens - max(map(len, options))
        thought, closed = _think(
            loaded, name, cache, logits, replace(sampling, max_new_tokens=max(room, 1)), stream
        )
        end = "" if closed else f"\n{CLOSING}"
        stops, left = stop_ids(loaded), list(thought)
        cut = not closed and left[-1] not in stops
        left = left[-1:] if left[-1] not in stops else []  # the last one is not in the cache yet
        left += tokenizer.encode(f"{end}{AFTER}", add_special_tokens=False)
        output = model(
            input_ids=torch.tensor([left], device=prompt.device), use_cache=True, **{name: cache}
        )
        logits = output.logits[:, -1]
    # 3. That scores the first token of every option.
    first = logits.float().log_softmax(-1)[0]
    total = torch.stack([first[tokens[0]] for tokens in options])
    # 4. The other tokens of all options as a batch, on a copy of the cache for each.
    cache.batch_repeat_interleave(len(options))
    total += _continuation_scores(model, name, cache, options)
    probabilities = total.double().softmax(0).tolist()
    scores = tuple(
        ChoiceScore(choice, probability)
        for choice, probability in zip(choices, probabilities, strict=True)
    )
    return scores, thought, cut


def opened_in(tokenizer: Any, prompt: Tensor) -> bool:
    """Whether a prompt (1, S) ends inside a block of reasoning that its template opened."""
    return bool(tokenizer.decode(prompt[0, -_TAIL:]).rstrip().endswith(OPENING))


_TAIL = 16  # tokens that surely hold a tag, in how many pieces ever


def _think(
    loaded: LoadedModel,
    name: str,
    cache: Any,
    logits: Tensor,
    sampling: Sampling,
    stream: Stream,
) -> tuple[tuple[int, ...], bool]:
    """Reasoning up to its end, the end of the turn or the room for it, and whether it was closed.

    `generate` does the same, but would repeat the prefill. All tokens but the last are in the
    cache afterwards.

    Parameters
    ----------
    logits : Tensor, shape (1, V)
        Of the first token.
    """
    model, tokenizer, stops = loaded.model, loaded.processor.tokenizer, stop_ids(loaded)
    ids: list[int] = []
    closed = False
    stream.next_tokens_are_prompt = False
    while True:
        # The first is the tag that was seen to come.
        ids.append(_draw(logits, sampling) if ids else int(logits.argmax()))
        stream.put(torch.tensor(ids[-1:]))
        closed = CLOSING in tokenizer.decode(ids[-_TAIL:])
        if closed or ids[-1] in stops or len(ids) >= sampling.max_new_tokens:
            break
        step = torch.tensor([ids[-1:]], device=logits.device)
        logits = model(input_ids=step, use_cache=True, **{name: cache}).logits[:, -1]
    stream.end()
    return tuple(ids), closed


def _draw(logits: Tensor, sampling: Sampling) -> int:
    """The next token (logits of shape (1, V)), chosen as `generate` chooses it."""
    if not sampling.temperature:
        return int(logits.argmax())
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    shares = warpers(torch.empty(0), logits.float()).softmax(-1)
    return int(torch.multinomial(shares, 1))


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
