"""What the encoders said about a clip, kept so that it need not be encoded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.engine.encoder_stats import EncoderCall
from seats_cli.models.patching import replace_forward

if TYPE_CHECKING:
    from seats_cli.engine.encoder_stats import EncoderStatistics
    from seats_cli.models.adapter import Adapter


@dataclass(frozen=True, eq=False)
class _EncoderOutput:
    """One pass through an encoder: what went in, what came out, what was noted on the way."""

    arguments: Any
    output: Any
    calls: tuple[EncoderCall, ...]
    window: int | None  # of the statistics in `calls`; None where nobody asked for any
    tolerance: float | None  # of Stage 0; None where everything was encoded


class EncoderCache:
    """Encoder outputs of one clip, for further questions, budgets and methods.

    Inside `attach`, an encoder that is given what it was given before returns what it returned
    before, with the statistics that Stage I reads off it; anything new is encoded and kept. The
    features of one clip and its few thousand numbers per method are all that is held.

    Examples
    --------
    >>> cache = EncoderCache()
    >>> for question in questions:
    ...     ask(loaded, prepared, question, config=config, encoder_cache=cache)
    """

    def __init__(self) -> None:
        self._passages: dict[str, list[_EncoderOutput]] = {"video": [], "audio": []}

    @contextmanager
    def attach(
        self,
        adapter: Adapter,
        statistics: EncoderStatistics | None,
        *,
        tolerance: float | None = None,
    ) -> Iterator[None]:
        """Let both encoders use this memory; they are left as they were.

        Parameters
        ----------
        adapter : Adapter
        statistics : EncoderStatistics or None
            Of the pruned run under way, noting everything; None in an unpruned one.
        tolerance : float or None
            Of a `EncoderReuse` that is attached already.
        """
        with (
            replace_forward(
                adapter.visual, partial(self._remembering, "video", statistics, tolerance)
            ),
            replace_forward(
                adapter.audio_tower, partial(self._remembering, "audio", statistics, None)
            ),
        ):
            yield

    def _remembering(
        self,
        modality: str,
        statistics: EncoderStatistics | None,
        tolerance: float | None,
        encode: Callable[..., Any],
    ) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            wanted = None if statistics is None else statistics.window(modality)
            known = [
                passage
                for passage in self._passages[modality]
                if passage.tolerance == tolerance and _same((args, kwargs), passage.arguments)
            ]
            for passage in known:
                if wanted in (None, passage.window):
                    if statistics is not None:
                        statistics.calls(modality).extend(passage.calls)
                    return copy(passage.output)
            earlier = [] if statistics is None else list(statistics.calls(modality))
            output = encode(*args, **kwargs)
            calls = () if statistics is None else tuple(statistics.calls(modality)[len(earlier) :])
            passage = _EncoderOutput((args, kwargs), output, calls, wanted, tolerance)
            self._passages[modality].append(passage)
            return copy(output)  # transformers writes into the object it gets, not its tensors

        return forward


def _same(one: Any, other: Any) -> bool:
    """Whether two sets of arguments are equal, tensors by value."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one is other or (
            one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))
        )
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)
