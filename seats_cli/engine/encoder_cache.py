"""Cache of one clip's encoder outputs, for further questions, budgets and methods."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from transformers.utils import ModelOutput

from seats_cli.config import EncoderSkips
from seats_cli.engine.encoder_stats import EncoderCall, EncoderStatistics
from seats_cli.engine.strict_document import MisfitError
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import replace_forward

MAX_ENCODINGS = 4  # of each encoder, for different window sizes and settings


@dataclass(frozen=True, eq=False)
class Encoding:
    """One pass through an encoder: what went in, what came out, what was noted on the way."""

    arguments: Any
    output: Any
    calls: tuple[EncoderCall, ...]
    window: int | None  # of the statistics in `calls`; None in an unpruned run, which has none
    skips: EncoderSkips | None  # `SeatsConfig.encoder_skips`; None where everything was encoded


class EncoderCache:
    """Encoder outputs of one clip.

    Inside `attach`, an encoder whose arguments are equal to earlier ones returns its earlier
    output, with the statistics that Stage I reads off it; anything new is encoded and kept. What
    it holds are the inputs and features of one clip, and a few thousand numbers per window size.

    Examples
    --------
    >>> cache = EncoderCache()
    >>> for question in questions:
    ...     ask(loaded, prepared, question, config=config, encoder_cache=cache)
    """

    def __init__(self) -> None:
        self._outputs: dict[str, list[Encoding]] = {"video": [], "audio": []}
        self._closed = False
        self.encoded: set[str] = set()  # modalities that were encoded inside the latest `attach`

    @classmethod
    def closed(cls, video: Sequence[Encoding], audio: Sequence[Encoding]) -> EncoderCache:
        """Of a clip that is no longer there: what is not among these encodings is refused.

        Whatever goes into the encoders stands for the clip, so `arguments` are not looked at.
        """
        cache = cls()
        cache._outputs = {"video": list(video), "audio": list(audio)}
        cache._closed = True
        return cache

    def encodings(self, modality: str) -> Sequence[Encoding]:
        """What is kept of "video" or "audio", in the order in which it was encoded."""
        return self._outputs[modality]

    @property
    def bytes(self) -> int:
        """What the kept encodings and their arguments hold, each tensor counted once."""
        return sum(self.sizes().values())

    def sizes(self) -> dict[int, int]:
        """Bytes of every storage that is held, by its address."""
        found: dict[int, int] = {}
        for outputs in self._outputs.values():
            for known in outputs:
                note_tensors((known.arguments, known.output, known.calls), found)
        return found

    def forget(self) -> bool:
        """Give up an encoding that was not used for the longest; False if there is none to give."""
        most = max(self._outputs.values(), key=len)
        if most and not self._closed:  # what cannot be encoded again stays
            del most[0]
            return True
        return False

    @contextmanager
    def attach(
        self,
        adapter: Adapter,
        statistics: EncoderStatistics | None,
        *,
        skips: EncoderSkips | None = None,
    ) -> Iterator[None]:
        """Let both encoders use this cache inside the block.

        Parameters
        ----------
        statistics : EncoderStatistics or None
            Of the pruned run under way, noting everything; None in an unpruned one.
        skips : tuple or None
            `SeatsConfig.encoder_skips`, of an `EncoderReuse` that is attached already.
        """
        self.encoded.clear()
        video = partial(self._cached, "video", statistics, skips)
        audio = partial(self._cached, "audio", statistics, None)
        with replace_forward(adapter.visual, video), replace_forward(adapter.audio_tower, audio):
            yield

    def _cached(
        self,
        modality: str,
        statistics: EncoderStatistics | None,
        skips: EncoderSkips | None,
        encode: Callable[..., Any],
    ) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            # Where the statistics of this run are noted; an unpruned run needs none.
            calls = [] if statistics is None else statistics.calls(modality)
            window = None if statistics is None else statistics.window(modality)

            # 1. An equal call: its output, and what was noted on the way. The numbers of Stage I
            # depend on the size of its windows, and what was left out on what was asked. Tensors
            # are compared last, because that waits for the device.
            outputs = self._outputs[modality]
            for number, known in enumerate(outputs):
                if (
                    known.skips == skips
                    and window in (None, known.window)
                    and (self._closed or _same((args, kwargs), known.arguments))
                ):
                    calls.extend(known.calls)
                    outputs.append(outputs.pop(number))  # the latest used is the last to go
                    return copy(known.output)

            if self._closed:
                raise UsageError(_refusal(modality, window, skips))

            # 2. A new one: encoded, while the statistics' hooks note what belongs to it.
            before = len(calls)
            output = encode(*args, **kwargs)
            self.encoded.add(modality)
            noted = tuple(calls[before:])
            outputs.append(Encoding((args, kwargs), output, noted, window, skips))
            del outputs[:-MAX_ENCODINGS]
            # transformers writes into the object that it is given, though not into its tensors
            return copy(output)

        return forward


def _refusal(modality: str, window: int | None, skips: EncoderSkips | None) -> str:
    """Why a clip that is no longer there would have to be."""
    if skips is not None:
        names = ("still_tolerance", "encoder_reuse", "encoder_keep")
        asked = " and ".join(
            f"`{name}`" for name, value in zip(names, skips, strict=True) if value is not None
        )
        return (
            "The encoder compares pictures, which an indexed clip no longer has: leave "
            f"{asked} out, or ask the clip itself."
        )
    unit = "grids" if modality == "video" else "audio tokens"
    return (
        f"The clip was indexed without the statistics for windows of {window} {unit}: index it "
        "again with this configuration, or ask the clip itself."
    )


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


def note_tensors(value: Any, found: dict[int, int]) -> None:
    """Note the bytes of every tensor in nested containers, by its storage's address."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, dict):
        for part in value.values():
            note_tensors(part, found)
    elif isinstance(value, tuple | list):
        for part in value:
            note_tensors(part, found)
    elif isinstance(value, EncoderCall):
        note_tensors((value.importance, value.keys, value.sources), found)


def output_class(name: str, encoder: Any) -> type[ModelOutput]:
    """A class of encoder outputs by its name: transformers' own, or of the encoder's module.

    Raises
    ------
    MisfitError
        If it is unknown.
    """
    for module in (transformers.modeling_outputs, sys.modules[type(encoder).__module__]):
        found = vars(module).get(name)
        if isinstance(found, type) and issubclass(found, ModelOutput):
            return found
    raise MisfitError("an encoder's output is of an unknown kind")
