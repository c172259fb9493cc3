"""What the weights of a checkpoint take, and whether they fit where they are to go.

Both are known from the headers of its files, so that what cannot fit is refused in place of minutes
of reading. What is not known refuses nothing.
"""

from __future__ import annotations

import contextlib
import math
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from seats_cli.cost.memory import WeightCounts
from seats_cli.errors import ModelError, ResourceError, out_of_memory_in, out_of_memory_on
from seats_cli.families.base import Architecture
from seats_cli.families.checkpoint_folder import tensor_headers, weight_files
from seats_cli.families.registry import checkpoints, describe_config, named_config
from seats_cli.models.devices import available_bytes, device_name

# ------------------------------------------------------------------- in files

# Parts of an Omni model beside the thinker, which are never loaded.
UNUSED_PARTS = ("talker.", "token2wav.", "code2wav.")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_FACTOR = re.compile(r"_(scale|scale_inv|zero_point)$")  # multiplied into weights of 8 bits
# Integers of 8 bits are dequantized while they are read, or refused.
_VALUES = re.compile(r"(BF|F)(8|16|32|64)|I8$")
_SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class StoredWeights:
    """What a checkpoint's safetensors files hold of the model that answers, by their headers."""

    values: Mapping[str, int]  # of weights, by dtype as safetensors names it: "BF16"
    apart: Mapping[str, int]  # of these, experts that lie apart, and are fused while loaded
    other_bytes: int = 0  # of other integers, such as packed weights
    dtypes: frozenset[str] = frozenset()  # of all tensors

    @property
    def elements(self) -> int:
        """Values of all weights."""
        return sum(self.values.values())

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Bytes of the loaded model."""
        return self.elements * dtype.itemsize + self.other_bytes

    def host_bytes_in(self, dtype: torch.dtype) -> int:
        """Bytes that the loaded model takes of a host's memory; the rest is mapped from files."""
        same = _SAFETENSORS[dtype]
        mapped = self.values.get(same, 0) - self.apart.get(same, 0)
        return self.bytes_in(dtype) - mapped * dtype.itemsize


def stored_weights(folder: Path) -> StoredWeights | None:
    """Sizes of a checkpoint's weights; None where a file is missing or damaged.

    Only headers are read.
    """
    values: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    other, dtypes = 0, set()
    try:
        tensors = {
            name: entry
            for file in weight_files(folder)
            for name, entry in tensor_headers(folder / file).items()
            if not name.startswith(UNUSED_PARTS)
        }
        for name, entry in tensors.items():
            kind, count = str(entry["dtype"]), math.prod(entry["shape"])
            begin, end = entry["data_offsets"]
            dtypes.add(kind)
            if _FACTOR.search(name):
                continue
            if not _VALUES.match(kind):
                other += end - begin
                continue
            values[kind] += count
            if _EXPERT.search(name):
                apart[kind] += count
    except (ModelError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # loading says what is wrong
    return None if not dtypes else StoredWeights(values, apart, other, frozenset(dtypes))


# ----------------------------------------------------------------- does it fit


@dataclass(frozen=True)
class WeightMemory:
    """Weights that are about to be loaded, and the memory where they are to go.

    Parts of a host's memory that are only mapped from files do not count: the system takes them
    back where it needs them.
    """

    name: str
    architecture: Architecture
    stored: StoredWeights | None  # None if not known
    dtype: torch.dtype
    where: torch.device  # where the model begins
    spread: bool = False
    quantize: str | None = None
    random: bool = False  # not read from files

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises
        ------
        ResourceError
            If the weights need more than is free; not if one of the two is unknown.
        """
        needed, free = self._needed, self._free
        if needed is not None and free is not None and needed > free:
            raise ResourceError(
                f"The weights of '{self.name}' need {_amount(needed)}{self._precision}, and "
                f"{self._place} has {_amount(free)} free: {self._remedies}."
            )

    @contextlib.contextmanager
    def explaining_shortage(self) -> Iterator[None]:
        """Say what to load instead where memory runs out within it.

        Raises
        ------
        ResourceError
        """
        free = self._free  # before a part of the weights is there
        try:
            yield
        except Exception as error:
            place = shortage_on(error)
            if place is None:
                raise
            needed = ""
            if self._needed is not None:
                needed = f", whose weights need {_amount(self._needed)}{self._precision}"
                if free is not None:
                    needed += f" where {_amount(free)} were free"
            raise ResourceError(
                f"Out of memory on the {place} while loading '{self.name}'{needed}: "
                f"{self._remedies}."
            ) from error

    @cached_property
    def _counts(self) -> WeightCounts:
        return WeightCounts.of(self.architecture)

    @cached_property
    def _needed(self) -> int | None:
        return self._bytes_in(self.dtype, self.quantize)

    @cached_property
    def _free(self) -> int | None:
        if self.spread and self.where.type == "cuda":
            return _available_everywhere()
        return available_bytes(self.where)

    @cached_property
    def _place(self) -> str:
        if self.where.type == "cpu":
            return "this machine"
        if self.spread:
            return "this machine with all its GPUs"
        return f"the GPU ({device_name(self.where)})"

    @property
    def _precision(self) -> str:
        word = str(self.dtype).removeprefix("torch.")
        if self.quantize is None:
            return f" in {word}"
        return f" with a {self.quantize.removesuffix('bit')}-bit decoder and the rest in {word}"

    def _bytes_in(self, dtype: torch.dtype, quantize: str | None) -> int | None:
        if self.stored is None:
            return None
        on_host = self.where.type == "cpu"
        size = self.stored.host_bytes_in(dtype) if on_host else self.stored.bytes_in(dtype)
        return size if quantize is None else _quantized(size, self._counts, dtype, quantize)

    @cached_property
    def _remedies(self) -> str:
        """What would fit, as the end of a sentence."""
        needed = math.inf if self._needed is None else self._needed
        room = math.inf if self._free is None else self._free

        def fits(size: int | None) -> bool:
            return size is not None and size <= room and size < needed

        half = torch.bfloat16
        found = []
        if self.dtype == torch.float32 and fits(self._bytes_in(half, self.quantize)):
            found.append("`dtype=bfloat16`")
        if self.random:
            return f"use {' or '.join([*found, 'fewer `layers`'])}"
        if self._can_quantize(self._counts):
            sizes = {name: self._bytes_in(self.dtype, name) for name in ("8bit", "4bit")}
            found += [f"`quantize={name}`" for name, size in sizes.items() if fits(size)][:1]
        if self._fits_spread():
            found.append("`device=spread` (the rest goes to other GPUs and the CPU)")
        smaller = self._smaller_model(fits)
        if smaller and "`dtype=bfloat16`" not in found:
            found.append(smaller)
        if not found:
            return "`seats plan --memory` shows what each model takes"
        *others, last = found
        return f"use {', '.join(others)} or {last}" if others else f"use {last}"

    def _can_quantize(self, counts: WeightCounts) -> bool:
        """Whether `load_model(quantize=)` would take such a model here."""
        return not counts.experts and not self.spread and self.where.type in ("cuda", "cpu")

    def _fits_spread(self) -> bool:
        if self.spread or self.quantize or self.where.type != "cuda" or self._needed is None:
            return False
        room = _available_everywhere()
        return room is not None and self._needed <= room

    def _smaller_model(self, fits: Callable[[int], bool]) -> str | None:
        """The largest published model that would fit where this one does not."""
        if self.stored is None:
            return None
        sizes = {}
        for name, checkpoint in checkpoints().items():
            shape, _ = describe_config(named_config(checkpoint.shape), name)
            counts = WeightCounts.of(shape)
            if counts.total < self._counts.total:
                sizes[name] = counts
        largest_first = sorted(sizes.items(), key=lambda item: -item[1].total)
        half = torch.bfloat16
        for dtype, quantize in dict.fromkeys(((self.dtype, None), (half, None), (half, "4bit"))):
            for name, counts in largest_first:
                size = counts.total * dtype.itemsize
                if quantize:
                    if not self._can_quantize(counts):
                        continue
                    size = _quantized(size, counts, dtype, quantize)
                if fits(size):
                    said = [f"`model={name}`"]
                    said += [f"`quantize={quantize}`"] if quantize else []
                    said += ["`dtype=bfloat16`"] if dtype != self.dtype else []
                    return f"{' with '.join(said[:2])}{''.join(f' and {one}' for one in said[2:])}"
        return None


def _quantized(size: int, counts: WeightCounts, dtype: torch.dtype, quantize: str) -> int:
    """Bytes of weights that take `size` bytes as they are, or less where some are mapped."""
    bits, linear = int(quantize.removesuffix("bit")), counts.decoder_linear * dtype.itemsize
    saved = counts.bytes_in(16, dtype.itemsize) - counts.bytes_in(bits, dtype.itemsize)
    return max(size, linear) - saved


def _available_everywhere() -> int | None:
    """What is free on all GPUs and the host; None if one of them does not tell."""
    places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    free = [available_bytes(place) for place in (*places, torch.device("cpu"))]
    known = [size for size in free if size is not None]
    return sum(known) if len(known) == len(free) else None


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


# -------------------------------------------------------------------- shortage


def shortage_on(error: BaseException) -> str | None:
    """Where memory ran out while a model was loaded: "host", "GPU", None if it did not.

    The readers of files raise exceptions of their own. transformers notes what fails while experts
    are fused or weights quantized, goes on, and in the end raises an error that says nothing of it.
    """
    found = out_of_memory_on(error) or out_of_memory_in(str(error))
    if found is not None:
        return found
    for frame, _ in traceback.walk_tb(error.__traceback__):
        noted = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        for text in (noted or {}).values():
            # of each traceback, the lines that name an exception
            raised = [line for line in str(text).splitlines() if _RAISED.match(line)]
            found = out_of_memory_in(" ".join(raised))
            if found is not None:
                return found
    return None


_RAISED = re.compile(r"[\w.]+Error\b")
