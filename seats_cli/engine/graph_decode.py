"""Answer tokens after the first: how each call of the text model runs, eager or recorded.

On a GPU, an eager step for one token is mostly hundreds of kernel launches by the host. A CUDA
graph launches them all at once, but can only repeat what it recorded: tensors at fixed addresses,
with fixed shapes. So the cache moves to layers with room for the whole answer (`static_cache`),
one step is recorded on them (`cuda_graph`), and every call for the next token replays it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.utils import ModelOutput

from seats_cli.engine.cache import cache_of
from seats_cli.engine.cuda_graph import Recorded, Recorder, graph_recorder
from seats_cli.engine.static_cache import (
    CACHE_NAMES,
    Form,
    StaticRun,
    one_token_form,
    sees_everything,
)
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import replace_forward
from seats_cli.models.quantization import why_not_recordable

STOCK = "dynamic cache"
# Recording takes about as long as two steps. Waiting for two stock steps first costs a shorter
# answer nothing, and a longer one no more than the recording does.
STOCK_STEPS = 2
MIN_STEPS = 6  # with fewer to come, recording one does not pay
# Room for more steps is not made at once. A step reads all room there is, and a model that thinks
# may announce 32,768 tokens and need 500; making room again costs about two steps.
ROOM = 1024
_ATTENTIONS = ("sdpa", "eager")

# Why steps of a text model cannot be recorded, once that is known.
_unfit: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class Decoding:
    """The tokens of one answer, generated faster inside `attach`.

    On an NVIDIA GPU the tokens after the first few run as one captured graph on a cache with
    room for them all. Elsewhere, with several devices or sequences, with flash-attn, and for
    short answers, everything stays as it is.

    Parameters
    ----------
    max_new_tokens : int
        Longest answer, in tokens.
    recorder : Recorder, optional
        In place of the one that suits the device.
    """

    def __init__(
        self, adapter: Adapter, max_new_tokens: int, recorder: Recorder | None = None
    ) -> None:
        self._adapter = adapter
        self._max_new_tokens = max_new_tokens
        self._recorder = recorder or graph_recorder(adapter)
        language = adapter.language_model
        self._trouble = ""
        if self._recorder is not None:
            self._trouble = _unfit.get(language, "") or why_not_recordable(language)
        self._seen = 0  # tokens since the prefill
        self._run: StaticRun | None = None
        self._recorded: Recorded | None = None
        self._replayed = False

    @property
    def how(self) -> str:
        """How tokens were generated, in a few words for the report."""
        if self._replayed and self._recorder is not None:
            return self._recorder.name
        return f"{STOCK} ({self._trouble})" if self._trouble else STOCK

    @property
    def possible(self) -> bool:
        """Whether a step may be recorded at all."""
        model = self._adapter.language_model
        return (
            self._recorder is not None
            and not self._trouble
            and self._max_new_tokens - STOCK_STEPS - 1 >= MIN_STEPS
            and not model.training
            and model.config._attn_implementation in _ATTENTIONS
        )

    @contextmanager
    def attach(self) -> Iterator[Decoding]:
        """Act on the text model inside the block."""
        if not self.possible:
            yield self
            return
        with replace_forward(self._adapter.language_model, self.wrap):
            try:
                yield self
            finally:
                self.close()

    def wrap(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A `forward` of the text model in place of its own."""

        def stepping(*args: Any, **kwargs: Any) -> Any:
            # 1. Anything but the next token of the run under way ends it: another prompt, another
            # cache, a batch.
            form = one_token_form(args, kwargs, len(self._adapter.layers))
            if not self._continues(form, kwargs):
                self.close()

            # 2. Prompts and the first few tokens are left to the stock step.
            self._seen = 0 if form is None else self._seen + 1
            if form is None or (self._run is None and not self._worthwhile(kwargs)):
                return forward(*args, **kwargs)

            # 3. The others are rehearsed, recorded and replayed in turn (`_step`). If that fails,
            # the same token runs stock; an error that comes again has nothing to do with recording.
            try:
                return self._step(forward, kwargs, form)
            except RuntimeError as error:
                self.close()
                output = forward(*args, **kwargs)
                self._note(error)
                return output

        return stepping

    def close(self) -> None:
        """Release the recording, and give the cache layers that grow again."""
        recorded, run = self._recorded, self._run
        self._recorded = self._run = None
        try:
            if recorded is not None:
                recorded.release()
        finally:
            if run is not None:
                run.give_back()

    def _continues(self, form: Form | None, kwargs: dict[str, Any]) -> bool:
        """Whether a call is the next step of the run under way."""
        run = self._run
        return run is None or (form == run.form and cache_of(kwargs) is run.cache and run.left > 0)

    def _worthwhile(self, kwargs: dict[str, Any]) -> bool:
        """Whether to begin a run with this token."""
        return (
            not self._trouble
            and self._seen > STOCK_STEPS
            and self._left >= MIN_STEPS
            and sees_everything(kwargs)
        )

    @property
    def _left(self) -> int:
        """Steps to come at most, with this one; the prefill gives the first token."""
        return self._max_new_tokens - self._seen

    def _step(self, forward: Callable[..., Any], kwargs: dict[str, Any], form: Form) -> Any:
        recorder = self._recorder
        assert recorder is not None
        if self._run is None:
            # Not recorded yet: allocations of a first run do not belong into the graph.
            room = min(self._left, ROOM)
            run = self._run = StaticRun(self._adapter, forward, kwargs, form, room)
            run.prepare(kwargs)
            output = recorder.rehearse(run.step)
            _require_plain(output)
        else:
            run = self._run
            run.prepare(kwargs)
            if self._recorded is None:
                self._recorded = recorder.record(run.step)
            self._recorded.replay()
            self._replayed = True
            output = self._recorded.output
        run.advance()
        # Copied, because the next replay writes its output to the same place.
        return type(output)(**{**output, "last_hidden_state": output.last_hidden_state.clone()})

    def _note(self, error: RuntimeError) -> None:
        """Keep to stock steps; for good, unless it was only memory that was short."""
        words = str(error).strip().splitlines() or [type(error).__name__]
        self._trouble = f"not recorded: {words[0][:120]}"
        if not isinstance(error, torch.OutOfMemoryError):
            _unfit[self._adapter.language_model] = self._trouble


def _require_plain(output: Any) -> None:
    """Refuse outputs that hold more than hidden states and the cache."""
    if not isinstance(output, ModelOutput) or set(output) - {"last_hidden_state", *CACHE_NAMES}:
        raise RuntimeError("the text model gives more than hidden states")
