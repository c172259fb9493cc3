"""Saving a record of a run, and reading it back strictly.

One file, JSON or safetensors by its extension. The safetensors file holds the arrays as tensors
and the rest of the JSON document under the metadata key "record".
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

from seats_cli.architecture import Architecture
from seats_cli.errors import UsageError
from seats_cli.media.clip import MediaFacts
from seats_cli.report.document import jsonable
from seats_cli.results import ModelFacts
from seats_cli.show.check import check_record
from seats_cli.show.names import TRACE_EXTENSIONS
from seats_cli.show.record import (
    AUDIO,
    TEXT,
    VIDEO,
    Grid,
    ReadingOptions,
    Record,
    RecordedStage,
    Window,
)
from seats_cli.show.typed import MisfitError, build, exact_keys, fit_plain

FORMAT = "seats-trace"
# Raised when a key appears, disappears or changes its meaning: the reader is strict.
SCHEMA_VERSION = "1"

_NAMES = {"text": TEXT, "video": VIDEO, "audio": AUDIO}
_MAX_BYTES = 1 << 29  # a million tokens with scores at four drops take a tenth of it
_TEXTS = ("label", "question", "answer", "full_answer")
_PLAIN = (*_TEXTS, "effective_fps", "audio_tokens_per_s", "pixel_shape")
_OBJECTS = {
    "media": MediaFacts,
    "reading": ReadingOptions,
    "model": ModelFacts,
    "architecture": Architecture,
    "grid": Grid,
}
_OPEN = ("config", "plan", "warnings", "versions")
_KEYS = ("format", "schema_version", *_PLAIN, *_OBJECTS, *_OPEN, "prompt", "stages")


def save_record(record: Record, path: Path) -> None:
    """Write a record.

    Parameters
    ----------
    record : Record
    path : Path
        Ends in .json or .safetensors.

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


def load_record(path: Path) -> Record:
    """Read a saved record.

    Raises
    ------
    UsageError
        If the file cannot be read, is no record, or is one of another version or damaged.
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
        raise UsageError(f"{path} is no trace that can be drawn: {error}.") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise UsageError(f"{path} is no saved trace: it is no valid JSON.") from error


def check_extension(path: Path) -> None:
    """Refuse a name from which the format cannot be told.

    Raises
    ------
    UsageError
    """
    if path.suffix.lower() not in TRACE_EXTENSIONS:
        raise UsageError(f"A trace is a {' or '.join(TRACE_EXTENSIONS)} file, not {path}.")


def to_document(record: Record, *, arrays: bool = True) -> dict[str, Any]:
    """The record as plain values; without `arrays`, positions and scores are null."""
    document: dict[str, Any] = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    for name in (*_PLAIN, *_OBJECTS, *_OPEN):
        document[name] = jsonable(getattr(record, name))
    document["prompt"] = _runs(record.modality) if arrays else None
    document["stages"] = [
        {
            "kind": stage.kind,
            "after_layer": stage.after_layer,
            "kept": stage.kept.tolist() if arrays else None,
            "scores": _shortest(stage.scores) if arrays else None,
            "windows": [dataclasses.asdict(window) for window in stage.windows],
        }
        for stage in record.stages
    ]
    return document


def from_document(document: Any, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Record:
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
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise MisfitError("seats did not save it")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise MisfitError(f"its schema_version is {str(version)[:20]!r} and this seats reads '1'")
    exact_keys(document, _KEYS, "the trace")
    if not isinstance(document["stages"], list):
        raise MisfitError("stages is no list")
    values: dict[str, Any] = {}
    for name in _PLAIN:
        kind = str if name in _TEXTS else float
        optional = name in ("full_answer", "effective_fps")
        value = document[name]
        values[name] = None if optional and value is None else fit_plain(kind, value, name)
    for name, cls in _OBJECTS.items():
        value = document[name]
        values[name] = None if name == "grid" and value is None else build(cls, value, name)
    for name in ("config", "plan", "versions"):
        value = document[name]
        if not isinstance(value, dict) and (value is not None or name == "versions"):
            raise MisfitError(f"{name} is no object")
        values[name] = value
    if not isinstance(document["warnings"], list):
        raise MisfitError("warnings is no list")
    values["warnings"] = tuple(fit_plain(str, line, "warnings") for line in document["warnings"])
    record = Record(
        **values,
        modality=_modality(document["prompt"] if arrays is None else arrays["modality"]),
        stages=tuple(
            _stage(stage, number, arrays) for number, stage in enumerate(document["stages"])
        ),
    )
    check_record(record)
    return record


def _from_safetensors(path: Path) -> Record:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise MisfitError("it is no safetensors file, or damaged") from error
    if metadata.get("format") != FORMAT or "modality" not in arrays:
        raise MisfitError("seats did not save it")
    return from_document(json.loads(metadata.get("record", "null")), arrays)


def _runs(modality: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    """The prompt as runs of one modality: `[["text", 14], ["video", 30], ...]`."""
    names = {value: name for name, value in _NAMES.items()}
    return [(names[int(value)], len(list(run))) for value, run in groupby(modality)]


def _shortest(scores: npt.NDArray[np.float32] | None) -> list[float | None] | None:
    """Numbers with as few digits as float32 needs; what is not finite is null."""
    if scores is None:
        return None
    return [float(str(score)) if np.isfinite(score) else None for score in scores]


def _modality(value: Any) -> npt.NDArray[np.int64]:
    if isinstance(value, np.ndarray):
        return value.astype(np.int64)
    if not isinstance(value, list):
        raise MisfitError("prompt is no list")
    parts = []
    for run in value:
        if not (isinstance(run, list) and len(run) == 2 and run[0] in list(_NAMES)):
            raise MisfitError("prompt holds something else than [modality, tokens]")
        length = fit_plain(int, run[1], "prompt")
        if not 0 < length <= _MAX_BYTES >> 8:
            raise MisfitError("prompt has a run of an impossible length")
        parts.append(np.full(length, _NAMES[run[0]], np.int64))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _stage(value: Any, number: int, arrays: Mapping[str, npt.NDArray[Any]] | None) -> RecordedStage:
    where = f"stages[{number}]"
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where} is no object")
    exact_keys(value, ("kind", "after_layer", "kept", "scores", "windows"), where)
    if not isinstance(value["windows"], list):
        raise MisfitError(f"{where}.windows is no list")
    if arrays is None:
        kept, scores = value["kept"], value["scores"]
    else:
        kept, scores = (arrays.get(f"stages.{number}.{name}") for name in ("kept", "scores"))
    return RecordedStage(
        fit_plain(str, value["kind"], f"{where}.kind"),
        fit_plain(int, value["after_layer"], f"{where}.after_layer"),
        _numbers(kept, np.dtype(np.int64), f"{where}.kept"),
        None if scores is None else _numbers(scores, np.dtype(np.float32), f"{where}.scores"),
        tuple(build(Window, window, f"{where}.windows") for window in value["windows"]),
    )


def _numbers(value: Any, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    """One row of whole numbers or of float32, from a list or an array."""
    if isinstance(value, list):
        whole = dtype.kind == "i"
        if not all(
            type(item) is int or (not whole and type(item) in (float, type(None))) for item in value
        ):
            raise MisfitError(f"{where} holds something that is no number")
        try:
            with np.errstate(over="ignore"):
                value = np.array([np.nan if item is None else item for item in value], dtype)
        except OverflowError:
            raise MisfitError(f"{where} holds an impossible number") from None
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
        raise MisfitError(f"{where} is no list of numbers")
    return value
