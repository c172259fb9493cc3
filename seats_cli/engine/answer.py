"""One question about one clip: inputs, pruned prefill, answer, and what it cost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import TextStreamer

from seats_cli.engine.account import account
from seats_cli.engine.choices import score_choices
from seats_cli.engine.clock import Clock
from seats_cli.engine.prune import PrunedRun, prune
from seats_cli.errors import ResourceError, UsageError
from seats_cli.models.inputs import build_inputs
from seats_cli.results import Answer, ChoiceScore, Timing
from seats_cli.selection.trace import SelectionTrace

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import Clip
    from seats_cli.models.adapter import Adapter
    from seats_cli.models.load import LoadedModel


def ask(
    loaded: LoadedModel,
    clip: Clip,
    question: str,
    *,
    config: SeatsConfig | None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    choices: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    read_s: float = 0.0,
) -> Answer:
    """Answer a question about a clip.

    Parameters
    ----------
    loaded : LoadedModel
    clip : Clip
    question : str
    config : SeatsConfig or None
        What to keep; None runs the model unpruned.
    max_new_tokens : int
        Longest answer, in tokens.
    temperature, top_p : float
        Sampling; temperature 0 is greedy.
    seed : int
        Seed of sampling and of methods that draw at random.
    choices : sequence of str
        If given, the options are scored by likelihood instead of generating freely.
    on_text : callable, optional
        Receives pieces of the answer as they are generated.
    read_s : float
        Seconds that reading the clip took, for the report.

    Returns
    -------
    Answer

    Raises
    ------
    UsageError
        For an empty question or impossible settings.
    ResourceError
        If the prompt does not fit the model's context.
    """
    _check(max_new_tokens, temperature, top_p, choices)
    adapter, architecture = loaded.adapter, loaded.architecture
    plan = None if config is None else config.plan(architecture)
    clock = Clock(loaded.model.device)
    torch.manual_seed(seed)
    start = clock.now()
    inputs = build_inputs(loaded, clip, question)
    prepared = clock.now()
    _check_context(inputs["input_ids"].shape[1], max_new_tokens, architecture.max_positions)

    pruning = nullcontext() if plan is None else prune(loaded.model, plan, clock=clock)
    scores: tuple[ChoiceScore, ...] = ()
    token_ids: tuple[int, ...] = ()
    with torch.inference_mode(), _watched(clock, adapter), pruning as run:
        if choices:
            scores = score_choices(loaded, inputs, choices)
            text, finish = max(scores, key=lambda score: score.probability).text, "stop"
            first = end = clock.now()
        else:
            stream = _Stream(loaded.processor.tokenizer, clock, on_text)
            text, token_ids, finish = _generate(
                loaded, inputs, stream, max_new_tokens, temperature, top_p
            )
            end = clock.now()
            first = stream.first_token_at or end
        trace = _trace(run, adapter, inputs)
    if choices and on_text is not None:
        on_text(text)

    timing = Timing(
        load_s=loaded.load_s,
        read_s=read_s,
        preprocess_s=prepared - start,
        vision_s=clock.seconds["vision"],
        audio_s=clock.seconds["audio"],
        select_s=clock.seconds["select"],
        prefill_s=clock.seconds["prefill"],
        first_token_s=first - start,
        decode_s=end - first,
        decode_tokens=max(len(token_ids) - 1, 0),
        total_s=end - start + read_s,
    )
    return Answer(
        question=question,
        text=text,
        token_ids=token_ids,
        finish_reason=finish,
        media=clip.facts,
        effective_fps=clip.fps,
        model=loaded.facts,
        architecture=architecture,
        config=config,
        plan=plan,
        trace=trace,
        timing=timing,
        cost=account(
            architecture,
            trace,
            inputs,
            kv=None if plan is None else plan.kv,
            kv_dtype_bytes=loaded.model.dtype.itemsize,
            peak_host_bytes=_peak_host_bytes(),
            device=loaded.model.device,
        ),
        seed=seed,
        choices=scores,
        warnings=clip.warnings,
    )


def _check(max_new_tokens: int, temperature: float, top_p: float, choices: Sequence[str]) -> None:
    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens must be at least 1, not {max_new_tokens}.")
    if not 0.0 <= temperature < float("inf"):
        raise UsageError(f"--temperature must be 0 or larger, not {temperature}.")
    if not 0.0 < top_p <= 1.0:
        raise UsageError(f"--top-p must be in (0, 1], not {top_p}.")
    if choices and (len(set(choices)) < 2 or not all(choice.strip() for choice in choices)):
        raise UsageError("--choices needs at least two different, non-empty options.")


def _check_context(prompt: int, new: int, limit: int) -> None:
    if prompt + new > limit:
        raise ResourceError(
            f"The prompt has {prompt} tokens and the answer may take {new}, but the model's "
            f"context holds {limit}: use --start/--end or a lower --fps, --max-frames or "
            "--max-pixels."
        )


@contextmanager
def _watched(clock: Clock, adapter: Adapter) -> Iterator[None]:
    """Time the parts of the model, and run the LM head on the last position only.

    transformers projects every prompt position to the vocabulary; generation needs the last.
    Pruned and unpruned runs are treated alike, so pruning gets no credit for it.
    """
    handles = clock.watch(adapter)
    handles.append(adapter.thinker.lm_head.register_forward_pre_hook(_last_position))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_position(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    hidden = args[0]
    return (hidden[:, -1:],) if len(hidden) == 1 else None


class _Stream(TextStreamer):  # type: ignore[misc]
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


def _generate(
    loaded: LoadedModel,
    inputs: dict[str, Any],
    stream: _Stream,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> tuple[str, tuple[int, ...], str]:
    """Text, token ids and finish reason of a free answer."""
    tokenizer = loaded.processor.tokenizer
    stop = _stop_ids(loaded)
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
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
        streamer=stream,
        **sampling,
    )
    token_ids = tuple(output[0, inputs["input_ids"].shape[1] :].tolist())
    text = tokenizer.decode(token_ids, skip_special_tokens=True).strip()
    return text, token_ids, "stop" if token_ids and token_ids[-1] in stop else "length"


def _stop_ids(loaded: LoadedModel) -> list[int]:
    """End-of-turn ids: the tokenizer's, and what the checkpoint's generation config adds."""
    configured = loaded.model.generation_config.eos_token_id
    ids = {loaded.processor.tokenizer.eos_token_id}
    ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(token for token in ids if token is not None)


def _trace(run: PrunedRun | None, adapter: Adapter, inputs: dict[str, Any]) -> SelectionTrace:
    """The run's trace; of an unpruned run, one without stages."""
    if run is not None:
        return run.trace
    ids = inputs["input_ids"][0].cpu()
    return SelectionTrace(
        len(adapter.layers), ids == adapter.video_token_id, ids == adapter.audio_token_id
    )


def _peak_host_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
