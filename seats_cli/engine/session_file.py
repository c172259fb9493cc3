"""A clip session as a file, which takes the place of the clip for further questions.

It is one safetensors file: tensors as they are, and everything else as JSON in its header. Nothing
in it is code or the name of a file to be made, the header says how large everything is before
anything is read, and tensors are mapped into memory when they are needed.

An index may come from anybody. Whatever does not fit the model, contradicts itself or is not a
number is refused (`session_reader`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from seats_cli import __version__
from seats_cli.config import SeatsConfig
from seats_cli.cost.token_counts import as_encoded
from seats_cli.engine.clip_prefix import ClipPrefix, PrefixStore, setting_key
from seats_cli.engine.encoder_cache import EncoderCache, Encoding
from seats_cli.engine.strict_document import MisfitError, spelled_out
from seats_cli.errors import UsageError
from seats_cli.files import replacing
from seats_cli.media.clip import INDEX_SUFFIX, MediaFacts, ReadOptions
from seats_cli.models.checkpoint import fingerprint, weights_mark
from seats_cli.models.inputs import PreparedClip
from seats_cli.results import jsonable
from seats_cli.selection.methods import method_for

if TYPE_CHECKING:
    from seats_cli.models.load import LoadedModel

FORMAT = "seats-index"
# Raised whenever a tensor or a key appears, disappears or changes its meaning.
FORMAT_VERSION = 3
INDEX, CHECKSUMS = "index", "crc32"  # keys of the header's metadata

MOST_HASHED = 1 << 32  # bytes of a media file that are read to see whether it has changed
_PIECE = 1 << 20  # bytes that are read at once
DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MODALITIES = ("video", "audio")


@dataclass(frozen=True)
class IndexedModel:
    """The model that has read the clip."""

    id: str
    revision: str | None
    fingerprint: str  # of its weights and its tokenizer
    dtype: str
    attention: str
    quantization: str
    adapter: str
    device: str  # "cpu", "cuda" or "mps"

    @classmethod
    def of(cls, loaded: LoadedModel) -> IndexedModel:
        """Of a loaded model."""
        facts = loaded.facts
        known = {name: getattr(facts, name) for name in _OF_FACTS}
        known["id"] = spelled_out(facts.id)  # may be a folder
        mark = fingerprint(loaded.adapter, loaded.processor)
        return cls(**known, fingerprint=mark, device=loaded.model.device.type)

    def difference(self, other: IndexedModel) -> str | None:
        """How another one differs from this, as the end of a sentence, with the remedy."""
        again = "index the clip again"
        if self.fingerprint != other.fingerprint:
            for name in ("id", "adapter", "quantization", "dtype", "revision"):
                was, now = getattr(self, name), getattr(other, name)
                if was != now:
                    name = "model" if name == "id" else name
                    setting = {"quantization": "quantize"}.get(name, name)
                    remedy = f"ask with `{setting}={was}`" if was else f"leave out `{setting}`"
                    return f"with {name} {was or 'none'}, not {now or 'none'}: {remedy}, or {again}"
            return f"with other weights, or another tokenizer, of {self.id}: {again}"
        if self.attention != other.attention:
            was, now = self.attention, other.attention
            return f"with attention {was}, not {now}: ask with `attention={was}`, or {again}"
        return None


_OF_FACTS = ("id", "revision", "dtype", "attention", "quantization", "adapter")


@dataclass(frozen=True)
class IndexedFile:
    """The media file that was read."""

    name: str  # as the user wrote it
    bytes: int
    modified_ns: int  # since 1970; equal, like the size, in a file that has not changed
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str, check: Callable[[], None] | None = None) -> IndexedFile:
        """Of a file of this machine; what `check` raises while it is read ends that."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            while piece := file.read(_PIECE):
                digest.update(piece)
                if check is not None:
                    check()
        return cls(name, about.st_size, about.st_mtime_ns, digest.hexdigest())

    def changed_beside(self, index: Path) -> Path | None:
        """The file where it was, or else beside the index, if neither is the one that was read.

        A file of more than `MOST_HASHED` bytes is known by its size alone: what an index says must
        not make anybody wait for ever.
        """
        changed = None
        for place in (Path(self.name), index.parent / Path(self.name).name):
            with suppress(OSError, ValueError):
                about = place.stat()
                if not stat.S_ISREG(about.st_mode):
                    continue
                if about.st_size == self.bytes and (
                    about.st_mtime_ns == self.modified_ns
                    or self.bytes > MOST_HASHED
                    or IndexedFile.of(place, "").sha256 == self.sha256
                ):
                    return None
                changed = changed or place
        return changed


@dataclass(frozen=True)
class IndexedEncoding:
    """What is kept of one encoder."""

    modality: str
    output: str  # class of its output in transformers
    windows: tuple[int, ...]  # sizes of Stage I's windows for which there are statistics


@dataclass(frozen=True)
class IndexedSetting:
    """One setting whose states are kept."""

    config: dict[str, Any]
    depth: int  # layers (from 1) whose keys and values are kept
    sides: dict[str, int]  # how many tensors a layer needs beside the states, by name
    weights: str  # `weights_mark` of a trained method, else empty
    entry_flops: int  # what the choice before the LLM took, where its method tells


@dataclass(frozen=True)
class IndexFacts:
    """What an index says about itself."""

    seats_version: str
    model: IndexedModel
    file: IndexedFile | None  # None for a clip that was not read from a file
    media: MediaFacts
    fps: float | None
    pixel_shape: float
    warnings: tuple[str, ...]
    system: str | None
    asked: ReadOptions | None  # what to read, by the user and as the context had it
    read: ReadOptions | None
    tensors: tuple[str, ...]  # inputs of the model that are kept: grids, masks and rates
    switches: dict[str, bool]  # and those that are no tensors
    only: bool  # whether the settings below are all that can be asked with
    encoded: bool  # whether the encoders' outputs are here; not where no setting needs them
    encodings: tuple[IndexedEncoding, ...]
    settings: tuple[IndexedSetting, ...]


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class IndexSize:
    """Bytes of a written index."""

    bytes: int
    encoder_bytes: int
    # Each setting that was stored, in the order in which they were asked with, and its bytes.
    settings: tuple[tuple[SeatsConfig, int], ...]


def save_session(
    path: Path,
    loaded: LoadedModel,
    prepared: PreparedClip,
    encoders: EncoderCache,
    prefixes: PrefixStore,
    *,
    only: bool = False,
    file: Path | None = None,
    asked: ReadOptions | None = None,
    read: ReadOptions | None = None,
) -> IndexSize:
    """Write what a session keeps; the parameters are those of `ClipSession.save`.

    Raises
    ------
    UsageError
        If it cannot be written, or would replace a file that is not an index.
    """
    architecture, clip = loaded.architecture, prepared.clip
    tensors: dict[str, Tensor] = {"template": prepared.template}
    media = as_encoded(architecture, clip, loaded.adapter.media_sizes(prepared.features))
    if clip.frame_times is not None and len(clip.frame_times) == media.frames_used:
        tensors["frame_times"] = torch.from_numpy(clip.frame_times)
    # 1. The model's inputs, without what goes into the encoders alone.
    absent = stand_ins(loaded, prepared.features)
    inputs = {name: value for name, value in prepared.features.items() if name not in absent}
    switches = {name: value for name, value in inputs.items() if isinstance(value, bool)}
    kept = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    if len(switches) + len(kept) < len(inputs) or any(
        absent[name].shape != prepared.features[name].shape for name in absent
    ):
        raise UsageError(f"Clips that {architecture.family} has read cannot be saved.")
    tensors |= {f"inputs.{name}": value for name, value in kept.items()}
    # 2. Settings: what skips in the encoder needs pixels, methods made by hand have no name.
    settings: list[IndexedSetting] = []
    sizes: list[tuple[SeatsConfig, int]] = []
    entry_only = only
    for key, prefix in prefixes.prefixes():
        plan = prefix.plan
        method = method_for(plan)
        if plan.config.encoder_skips is not None or setting_key(plan, method) != key:
            continue
        entry_only &= method.shares == "entry" and prefix.depth >= architecture.deepstack_layers
        number = len(settings)
        parts = dict(_parts_of(prefix))
        if not method.reads_input:
            del parts["entered"]  # nobody looks at it
        own = {f"settings.{number}.{name}": part for name, part in parts.items()}
        tensors |= {"ids": prefix.ids, **own}
        sizes.append((plan.config, sum(part.nbytes for part in own.values())))
        sides = {name: len(side.tensors) for name, side in prefix.sides.items()}
        mark = weights_mark(loaded.adapter, plan.config.method)
        own_facts = (prefix.depth, sides, mark, prefix.entry_flops)
        settings.append(IndexedSetting(plan.config.to_dict(), *own_facts))
    if only and not settings:
        raise UsageError("Ask with a setting first: with `only`, an index keeps nothing else.")
    # 3. Encodings, which no setting needs where all of its states are kept.
    encodings: list[IndexedEncoding] = []
    outputs: dict[str, Tensor] = {}
    for modality in MODALITIES:
        found = [one for one in encoders.encodings(modality) if one.skips is None]
        if found:
            encodings.append(_encoding_of(modality, found))
            outputs |= {f"{modality}.{name}": part for name, part in _outputs_of(found)}
    tensors |= {} if entry_only else outputs

    facts = IndexFacts(
        seats_version=__version__,
        model=IndexedModel.of(loaded),
        file=_indexed_file(file, clip.facts.path),
        media=replace(media, path=spelled_out(media.path)),
        fps=clip.fps,
        pixel_shape=clip.pixel_shape,
        warnings=tuple(map(spelled_out, clip.warnings)),
        system=prepared.system,
        asked=_plain(asked),
        read=_plain(read),
        tensors=tuple(kept),
        switches=switches,
        only=only,
        encoded=not entry_only,
        encodings=tuple(encodings),
        settings=tuple(settings),
    )
    document = json.dumps(jsonable(facts), allow_nan=False)
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), INDEX: document}
    with replacing(path, check=check_index_target) as part, part.open("wb") as target:
        written = _write(target, tensors, metadata)
    return IndexSize(
        written,
        0 if entry_only else sum(part.nbytes for part in outputs.values()),
        tuple(sizes),
    )


def check_index_target(path: Path, _option: str = "") -> None:
    """Refuse a name for an index that is taken by another kind of file, or ends otherwise.

    Raises
    ------
    UsageError
    """
    if path.suffix.lower() != INDEX_SUFFIX:
        raise UsageError(f"An index is a {INDEX_SUFFIX} file, not {path}.")
    if path.exists():
        try:
            with path.open("rb") as file:
                read_header(file)
        except (ValueError, OSError):
            raise UsageError(
                f"{path} exists and is not an index made by seats, so it is not overwritten: "
                "choose another name or remove it."
            ) from None


def stand_ins(loaded: LoadedModel, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Zeros without memory in the shapes of what goes into the encoders and nowhere else."""
    vision = loaded.architecture.vision
    shapes: dict[str, tuple[int, ...]] = {}
    grids, mask = inputs.get("video_grid_thw"), inputs.get("feature_attention_mask")
    if grids is not None:
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        shapes["pixel_values_videos"] = (int(grids.prod(-1).sum()), values)
    if mask is not None:
        shapes["input_features"] = (1, loaded.architecture.audio.num_mel_bins, mask.shape[-1])
    nothing = torch.zeros((), dtype=loaded.model.dtype, device=loaded.model.device)
    return {name: nothing.expand(shape) for name, shape in shapes.items()}


def _parts_of(prefix: ClipPrefix) -> Iterator[tuple[str, Tensor]]:
    yield "keep", prefix.keep
    for number, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        yield f"keys.{number}", keys
        yield f"values.{number}", values
    yield "entered", prefix.entered
    yield "left", prefix.left
    for name, side in prefix.sides.items():
        for number, part in enumerate(side.tensors):
            yield f"{name}.{number}", part


LARGEST_HEADER = 1 << 24


def read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of an index, as far as it says that it is one.

    Raises
    ------
    MisfitError
        If it is not.
    OSError
        If it cannot be read.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > LARGEST_HEADER:
        raise MisfitError("it has no header")
    text = file.read(length)
    try:
        header: Any = json.loads(text) if len(text) == length else None
    except (ValueError, RecursionError):
        header = None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise MisfitError("seats did not write it")
    return dict(header)


def _encoding_of(modality: str, found: Sequence[Encoding]) -> IndexedEncoding:
    windows = dict.fromkeys(one.window for one in found if one.window is not None)
    return IndexedEncoding(modality, type(found[0].output).__name__, tuple(windows))


def _outputs_of(found: Sequence[Encoding]) -> Iterator[tuple[str, Tensor]]:
    yield "tokens", _token_tensor(found[0].output)
    for number, part in enumerate(getattr(found[0].output, "deepstack_features", None) or ()):
        yield f"deepstack.{number}", part
    for one in found:
        if one.window is not None:
            (call,) = one.calls
            assert call.keys is not None
            yield f"{one.window}.importance", call.importance
            yield f"{one.window}.keys", call.keys


def _token_tensor(output: Any) -> Tensor:
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    return output.last_hidden_state if pooled is None else pooled


def _plain(read: ReadOptions | None) -> ReadOptions | None:
    """Without what a subclass adds."""
    if read is None:
        return None
    return ReadOptions(**{part.name: getattr(read, part.name) for part in fields(ReadOptions)})


def _indexed_file(file: Path | None, name: str) -> IndexedFile | None:
    path = Path(name) if file is None else file
    try:
        return IndexedFile.of(path, name) if path.is_file() else None
    except OSError:
        return None


def _write(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> int:
    """Write a safetensors file with one tensor at a time in memory; returns its size in bytes."""
    # The widest first, as the format's own writer has them: every tensor is aligned then.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata}
    sums = {INDEX: checksum(metadata[INDEX].encode()), **dict.fromkeys(tensors, checksum(b""))}
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.nbytes
        shape = list(value.shape)
        header[name] = {"dtype": _NAMES[value.dtype], "shape": shape, "data_offsets": [begin, end]}

    def write_header() -> int:
        metadata[CHECKSUMS] = json.dumps(sums)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.seek(0)
        return file.write(len(text).to_bytes(8, "little") + text)

    start = write_header()
    for name, value in ordered:
        plain = content(value)
        sums[name] = checksum(plain)
        file.write(plain)
    write_header()  # as long as before, with the checksums
    return start + end


def content(value: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is on the CPU and in one piece."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def checksum(value: bytes | memoryview) -> str:
    """Tells bytes that were damaged, and not who wrote them; always of the same length."""
    return f"{zlib.crc32(value):08x}"
