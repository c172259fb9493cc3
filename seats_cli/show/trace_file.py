"""Saving the record of a run as JSON or safetensors, and reading it back strictly.

A saved trace may come from anybody: whatever does not fit the record's types exactly, or
contradicts itself, is refused with the place where it stands.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seats_cli.engine.strict_document import (
    MisfitError,
    build,
    check_media,
    exact_keys,
    fit,
    with_later,
)
from seats_cli.errors import UsageError
from seats_cli.files import TRACE_EXTENSIONS
from seats_cli.results import jsonable
from seats_cli.show.record import AUDIO, TEXT, VIDEO, RecordedStage, RunRecord

FORMAT = "seats-trace"
# Raised when a key appears, disappears or changes its meaning: the reader is strict.
SCHEMA_VERSION = "1"

_MODALITIES = {"text": TEXT, "video": VIDEO, "audio": AUDIO}
_MAX_BYTES = 1 << 29  # a million tokens with scores at four drops take a tenth of it
_LONGEST_RUN = 1 << 21  # tokens of one modality in a row
# The keys of "reading": fields of a record's `read` but `max_pixels` and `total_pixels`, which are
# in its `sizing`.
_READING = {
    "start_s": "start",
    "end_s": "end",
    "fps": "fps",
    "max_frames": "max_frames",
    "sizing": "sizing",
    "video_track": "video_track",
    "audio": "audio",
    "audio_track": "audio_track",
    "max_audio_s": "max_audio",
}
# Came later than the version: traces without them are of a file's own choice of its picture, of a
# model as it was saved, and without evidence.
_LATER: dict[str, Any] = {
    "video_tracks": 0,
    "video_track": None,
    "quantization": "",
    "adapter": "",
    "evidence": [],
}
# Saved in a form of their own; all other fields of a record as they are.
_PACKED = ("sizing", "modality", "stages")
_PLAIN = tuple(
    "reading" if field.name == "read" else field.name
    for field in dataclasses.fields(RunRecord)
    if field.name not in _PACKED
)
_KEYS = ("format", "schema_version", *_PLAIN, "prompt", "stages")


def save_record(record: RunRecord, path: Path) -> None:
    """Write a record as .json or .safetensors.

    Raises
    ------
    UsageError
        For another extension.
    OSError
        If it cannot be written.
    """
    check_extension(path)
    if path.suffix.lower() == ".json":
        document = to_document(record)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        path.write_text(text + "\n", encoding="utf-8")
        return
    from safetensors.numpy import save_file

    arrays: dict[str, npt.NDArray[Any]] = {"modality": record.modality.astype(np.uint8)}
    for number, stage in enumerate(record.stages):
        arrays[f"stages.{number}.kept"] = stage.kept
        if stage.scores is not None:
            arrays[f"stages.{number}.scores"] = stage.scores
    document = to_document(record, arrays=False)
    metadata = {"format": FORMAT, "record": json.dumps(document, allow_nan=False)}
    save_file(arrays, path, metadata)


def load_record(path: Path) -> RunRecord:
    """Read a saved record.

    Raises
    ------
    UsageError
        If the file cannot be read, is not a record, has another version, or is damaged.
    """
    check_extension(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is too large for a saved trace.")
        if path.suffix.lower() == ".json":
            return from_document(json.loads(path.read_text(encoding="utf-8")))
        return _from_safetensors(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MisfitError as error:
        raise UsageError(f"{path} is not a trace that can be drawn: {error}.") from error
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        raise UsageError(f"{path} is not a saved trace: it is not valid JSON.") from error


def check_extension(path: Path) -> None:
    """Refuse a name that does not tell the format.

    Raises
    ------
    UsageError
    """
    if path.suffix.lower() not in TRACE_EXTENSIONS:
        raise UsageError(f"A trace is a {' or '.join(TRACE_EXTENSIONS)} file, not {path}.")


def to_document(record: RunRecord, *, arrays: bool = True) -> dict[str, Any]:
    """The record as plain values; without `arrays`, positions and scores are null."""
    own = {**vars(record), "reading": _reading(record)}
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **{name: jsonable(own[name]) for name in _PLAIN},
        "prompt": _runs(record.modality) if arrays else None,
        "stages": [
            {
                "kind": stage.kind,
                "after_layer": stage.after_layer,
                "kept": stage.kept.tolist() if arrays else None,
                "scores": _shortest(stage.scores) if arrays else None,
                "windows": [dataclasses.asdict(window) for window in stage.windows],
            }
            for stage in record.stages
        ],
    }


def from_document(document: Any, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> RunRecord:
    """The record that a document describes, every part of it checked.

    Parameters
    ----------
    document : object
        What `json.loads` gave.
    arrays : mapping of str to array, optional
        Positions and scores, where the document leaves them out.

    Raises
    ------
    MisfitError
        If anything is missing, unknown, of the wrong type or contradictory.
    """
    # 1. The format and its version, before anything that another version may have changed.
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise MisfitError("seats did not save it")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise MisfitError(f"its schema_version is {str(version)[:20]!r} and this seats reads '1'")
    document = with_later(document, _LATER, _KEYS)
    exact_keys(document, _KEYS, "the trace")
    # 2. Arrays from where they were saved.
    values = {name: document[name] for name in (*_PLAIN, "stages")}
    if arrays is None:
        values["modality"] = _modality(document["prompt"])
    else:
        values["modality"] = arrays["modality"].astype(np.int64)
        values["stages"] = _with_arrays(document["stages"], arrays)
    values["read"], values["sizing"] = _read_options(values.pop("reading"))
    # 3. Types, and then what types cannot say.
    record = build(RunRecord, values, "", _LATER)
    _check_record(record)
    return record


def _reading(record: RunRecord) -> dict[str, Any]:
    own = {**vars(record.read), "sizing": record.sizing}
    return {key: own[name] for key, name in _READING.items()}


def _read_options(value: Any) -> tuple[dict[str, Any], Any]:
    """The values of `ReadOptions` and of the sizing, from what `_reading` gave."""
    if not isinstance(value, Mapping):
        raise MisfitError("reading is not an object")
    value = with_later(value, _LATER, _READING)
    exact_keys(value, _READING, "reading")
    own = {name: value[key] for key, name in _READING.items()}
    sizing = own.pop("sizing")
    return {**own, "max_pixels": None, "total_pixels": None, "video": True}, sizing


def _from_safetensors(path: Path) -> RunRecord:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise MisfitError("it is not a safetensors file, or damaged") from error
    if metadata.get("format") != FORMAT or "modality" not in arrays:
        raise MisfitError("seats did not save it")
    return from_document(json.loads(metadata.get("record", "null")), arrays)


def _with_arrays(stages: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """The stages with their arrays; what is not a list of objects is left to be refused."""
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        return stages
    return [
        {**stage, **{name: arrays.get(f"stages.{at}.{name}") for name in ("kept", "scores")}}
        for at, stage in enumerate(stages)
    ]


def _runs(modality: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    """The prompt as runs of one modality: `[["text", 14], ["video", 30], ...]`."""
    names = {value: name for name, value in _MODALITIES.items()}
    return [(names[int(value)], len(list(run))) for value, run in groupby(modality)]


def _modality(value: Any) -> npt.NDArray[np.int64]:
    """The prompt from its runs."""
    if not isinstance(value, list):
        raise MisfitError("prompt is not a list")
    parts = [np.zeros(0, np.int64)]
    for run in value:
        if not (isinstance(run, list) and len(run) == 2 and run[0] in list(_MODALITIES)):
            raise MisfitError("prompt holds something other than [modality, tokens]")
        length = fit(int, run[1], "prompt")
        if not 0 < length <= _LONGEST_RUN:
            raise MisfitError("prompt has a run of an impossible length")
        parts.append(np.full(length, _MODALITIES[run[0]], np.int64))
    return np.concatenate(parts)


def _shortest(scores: npt.NDArray[np.float32] | None) -> list[float | None] | None:
    """Numbers with as few digits as float32 needs; what is not finite is null."""
    if scores is None:
        return None
    return [float(str(score)) if np.isfinite(score) else None for score in scores]


_LARGEST_SIDE = 1 << 20  # of a picture, in pixels
_MOST_LAYERS = 10_000
# A grid covers milliseconds to weeks, where even a still picture of a day is one.
_GRID_S = (1e-3, 1e6)
_AUDIO_TOKENS_PER_S = (1e-3, 1e6)


def _check_record(record: RunRecord) -> None:
    """Refuse a record whose parts contradict each other, or whose sizes are absurd."""
    video, audio, _ = record.offered
    if record.modality.ndim != 1 or not np.isin(record.modality, (TEXT, VIDEO, AUDIO)).all():
        raise MisfitError("the prompt holds an unknown modality")
    grid = record.grid
    if grid is not None and min(grid.grids, grid.rows, grid.columns, grid.frames) < 1:
        raise MisfitError("the grid is empty")
    if video != (0 if grid is None else grid.grids * grid.size):
        raise MisfitError(f"the grid does not hold the {video} video tokens")
    if grid is not None and not _GRID_S[0] <= grid.seconds <= _GRID_S[1]:
        raise MisfitError("a grid takes an impossible time")
    lowest, highest = _AUDIO_TOKENS_PER_S
    if audio and not lowest <= record.audio_tokens_per_s <= highest:
        raise MisfitError("audio tokens take an impossible time")
    if not 0.1 <= record.pixel_shape <= 10.0:
        raise MisfitError("its pixels have an impossible shape")
    check_media(record.media)
    for side in (record.media.source_width, record.media.source_height):
        if side is not None and not 1 <= side <= _LARGEST_SIDE:
            raise MisfitError("its picture has an impossible size")
    for piece in record.evidence:
        if piece.modality not in ("video", "audio") or not (
            0.0 <= piece.start_s <= piece.end_s and 0.0 <= piece.share <= 1.0
        ):
            raise MisfitError("it rests on an impossible evidence")
    if not 1 <= record.num_layers <= _MOST_LAYERS:
        raise MisfitError("the model has an impossible number of layers")
    before, layer = np.arange(len(record.modality)), 0
    for number, stage in enumerate(record.stages):
        _check_stage(stage, f"stages[{number}]", before, layer, record.num_layers)
        before, layer = stage.kept, stage.after_layer


def _check_stage(
    stage: RecordedStage, where: str, before: np.ndarray, layer: int, layers: int
) -> None:
    kept = stage.kept
    if not layer <= stage.after_layer <= layers:
        raise MisfitError(f"{where} acts after layer {stage.after_layer} of {layers}, out of order")
    if len(kept) and (np.diff(kept) <= 0).any():
        raise MisfitError(f"{where} lists positions out of order")
    if not np.isin(kept, before).all():
        raise MisfitError(f"{where} keeps tokens that were dropped before")
    if stage.scores is not None and len(stage.scores) != len(before):
        raise MisfitError(f"{where} has {len(stage.scores)} scores for {len(before)} tokens")
    for name in ("video", "audio"):
        for window in stage.windows:
            part = getattr(window, name)
            if part is not None and not (
                0 <= part.kept <= part.offered and 0 <= part.first <= part.last
            ):
                raise MisfitError(f"{where} has an impossible {name} window")
