"""A checkpoint's folder: found by any name that people use for it, and what lies in it.

Nothing of a model is loaded, and of weights only the headers are read, so that `seats plan` sees
the same folders as `seats ask`. seats never downloads a model by itself: what is not here, or not
all of it, is answered with the command that fetches it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seats_cli.errors import ModelError
from seats_cli.families.registry import (
    BUNDLED,
    BUNDLED_PATH,
    checkpoints,
    named_shapes,
    read_config,
)

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_HUB_PAGE = re.compile(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_FIELDS = {"dtype", "shape", "data_offsets"}  # of each tensor in a safetensors header
_SHARD = re.compile(r"model-\d+-of-(\d+)\.safetensors")
_LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library allows

# Weights in formats that are not read, by the ending of their files, and what to say of them.
_SIXTEEN = "use the 16-bit checkpoint"
_OTHER_FORMATS = {
    ".gguf": f"holds GGUF files, which are for llama.cpp: {_SIXTEEN}",
    ".onnx": f"holds ONNX graphs, which are for ONNX Runtime: {_SIXTEEN}",
    ".mnn": f"holds MNN files, which are for phones: {_SIXTEEN}",
    ".engine": f"holds TensorRT engines: {_SIXTEEN}",
    ".h5": "holds TensorFlow weights (.h5); seats reads safetensors",
    ".msgpack": "holds Flax weights (.msgpack); seats reads safetensors",
}
# Reading one of these would run whatever code it holds.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "spk_dict.pt")


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a checkpoint lies."""

    path: Path
    name: str  # its hub id if it was found in the cache by one, else as the user named it
    hub_id: str | None = None  # None for a folder that lies in no cache
    revision: str | None = None  # commit of a cached snapshot

    @property
    def download(self) -> str:
        """The command that fetches it, or what is missing of it."""
        assert self.hub_id is not None
        return download_command(self.hub_id, None if self.is_newest else self.revision)

    @property
    def is_newest(self) -> bool:
        """Whether it is what the hub's main branch was when it was last asked."""
        return _read_ref(self.path.parent.parent, "main") == self.revision


def download_command(hub_id: str, revision: str | None = None) -> str:
    """How to fetch a model from the hub, or to go on with it."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


# ------------------------------------------------------------------- by its name


def find_folder(
    name: str, revision: str | None = None, *, offline: bool = False
) -> CheckpointFolder:
    """The folder of a checkpoint, by whatever name people use for it.

    Parameters
    ----------
    name : str
        "bundled", a folder, or a hub id in the local Hugging Face cache. Known models may be
        spelled in any way: `qwen2.5-omni-7b`, `Qwen2.5_Omni_7B`, the address of the model's page.
    revision : str or None
        Branch, tag or commit of a hub model; at least seven digits of a commit suffice.
    offline : bool
        Whether the user wants no network; only for messages.

    Raises
    ------
    ModelError
        If it is not here; the sentence has the command that fetches it.
    """
    if name == BUNDLED:
        return CheckpointFolder(BUNDLED_PATH, BUNDLED)
    path = Path(name).expanduser()
    if path.is_dir():
        snapshot_of = _hub_id_in(path.parent.parent) if path.parent.name == "snapshots" else None
        if snapshot_of is not None:
            return CheckpointFolder(path, name, snapshot_of, path.name)
        repository_of = _hub_id_in(path)
        if repository_of is None or (path / CONFIG).exists():
            return CheckpointFolder(path, name)
        found = _snapshot(path, repository_of, revision)
        if found is None:
            raise ModelError(_how_to_get(name, repository_of, revision, offline, path))
        return found
    if path.is_file():
        raise ModelError(_about_file(path, name))
    hub_id = hub_id_of(name)
    if not _is_hub_id(hub_id):
        raise ModelError(f"There is no model folder '{name}', and it is not a valid hub id.")
    found = _snapshot(_cache_of(hub_id), hub_id, revision)
    if found is not None:
        return found
    if hub_id not in checkpoints() and hub_id.lower() in named_shapes():
        raise ModelError(
            f"'{name}' is an architecture without weights: `seats plan` and `random_weights` "
            "take it."
        )
    raise ModelError(_how_to_get(name, hub_id, revision, offline, _cache_of(hub_id)))


def hub_id_of(name: str) -> str:
    """The hub id that a name means; the name itself where it is none of a known or cached model."""
    spelled = _HUB_PAGE.sub("", name).rstrip("/")
    if spelled != name:
        spelled = "/".join(spelled.split("/")[:2])  # without "/tree/main"
    if spelled in checkpoints() or _cache_of(spelled).is_dir():
        return spelled
    wanted = _plain(spelled)
    # 1. Known models, with or without their owner. A named shape means its first checkpoint.
    for hub_id, known in checkpoints().items():
        _, _, own = hub_id.partition("/")
        if wanted in (_plain(hub_id), _plain(own), _plain(known.shape)):
            return hub_id
    # 2. What is in the cache in another case; the hub itself redirects such names.
    for folder in _cache().glob("models--*"):
        cached = _hub_id_in(folder)
        if cached is not None and wanted == _plain(cached) and "/" in spelled:
            return cached
    return spelled


def _plain(name: str) -> str:
    """Without case and marks, which people remember differently."""
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cache_of(hub_id: str) -> Path:
    """The folder of a model in the Hugging Face cache, which holds refs, blobs and snapshots."""
    return _cache() / f"models--{hub_id.replace('/', '--')}"


def _hub_id_in(repository: Path) -> str | None:
    """The hub id whose folder in a cache this is, by its name; None for any other folder."""
    kind, _, rest = repository.name.partition("--")
    return rest.replace("--", "/") if kind == "models" and rest else None


def _read_ref(repository: Path, name: str) -> str | None:
    """The commit of a branch or tag when it was last fetched."""
    try:
        return (repository / "refs" / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _snapshot(repository: Path, hub_id: str, revision: str | None) -> CheckpointFolder | None:
    """The cached snapshot of a revision; None if there is none."""
    snapshots = repository / "snapshots"
    commit = _read_ref(repository, revision or "main") or revision or ""
    if not commit:
        return None
    if (snapshots / commit).is_dir():
        return CheckpointFolder(snapshots / commit, hub_id, hub_id, commit)
    if revision is None or not _COMMIT.fullmatch(revision.lower()):
        return None
    matching = sorted(path for path in snapshots.glob(f"{revision.lower()}*") if path.is_dir())
    if len(matching) > 1:
        raise ModelError(
            f"The revision '{revision}' of {hub_id} is ambiguous: "
            f"{' and '.join(path.name[:12] for path in matching[:2])} are both in the cache."
        )
    return CheckpointFolder(matching[0], hub_id, hub_id, matching[0].name) if matching else None


def _how_to_get(
    name: str, hub_id: str, revision: str | None, offline: bool, repository: Path
) -> str:
    """What to do about a model of which `repository`, its folder in a cache, has no snapshot."""
    command = download_command(hub_id, revision)
    if any(repository.glob("blobs/*.incomplete")):
        return f"The download of {hub_id} is not complete, go on with: {command}"
    cached = sorted(path.name for path in repository.glob("snapshots/*") if path.is_dir())
    if cached:
        wanted = f"revision '{revision}'" if revision else "main branch"
        return (
            f"The {wanted} of {hub_id} is not in the Hugging Face cache, which has "
            f"{', '.join(f'`revision={commit[:12]}`' for commit in cached)}; "
            f"fetch it with: {command}"
        )
    known = checkpoints().get(hub_id)
    size = "" if known is None else f" (about {known.gigabytes} GB)"
    state = " and `offline` is set" if offline else ""
    return (
        f"The model '{name}' is neither a folder nor in the Hugging Face cache{state}; "
        f"fetch it{size} with: {command}"
    )


def _about_file(path: Path, name: str) -> str:
    """What to do where a file was named as the model."""
    if path.suffix == ".gguf":
        return f"'{name}' is a GGUF file, which is for llama.cpp: {_SIXTEEN}."
    if path.suffix == ".safetensors":
        return f"'{name}' is one file of a model: name the folder that it lies in."
    if path.suffix in _PICKLES:
        return f"'{name}' holds pickled weights; seats reads folders with safetensors."
    return f"'{name}' is a file: name a model's folder or its hub id."


# --------------------------------------------------------------- what lies in it


def folder_config(found: CheckpointFolder) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Raises
    ------
    ModelError
        If there is none; the sentence says what the folder holds instead.
    """
    if not (found.path / CONFIG).exists():
        if (found.path / ADAPTER_CONFIG).is_file():
            raise ModelError(_about_adapter(found))
        _refuse_other_formats(found)
        if found.hub_id is not None:
            raise ModelError(_unfinished(found, f"{CONFIG} is missing"))
    return read_config(found.path, found.name)


def check_files(found: CheckpointFolder) -> None:
    """See to it that all weights and the vocabulary are there, and none is cut off.

    Raises
    ------
    ModelError
        If something is missing, which the sentence names, or the weights are in another format.
    """
    shards = weight_files(found.path)
    if not shards:
        if (found.path / ADAPTER_CONFIG).is_file():
            raise ModelError(_about_adapter(found))
        _refuse_other_formats(found)
        raise ModelError(_unfinished(found, "it has no weights"))
    missing = [file for file in shards if not (found.path / file).is_file()]
    if missing:
        many = f"{len(missing)} of {len(shards)} files are missing, the first being "
        what = f"{missing[0]} is missing" if len(missing) == 1 else f"{many}{missing[0]}"
        raise ModelError(_unfinished(found, what))
    for file in shards:
        try:
            whole = _whole_size(found.path / file)
        except ValueError:
            whole = None
        size = (found.path / file).stat().st_size
        if whole is None or size < whole:
            raise ModelError(_damaged(found, file, size, whole))
    vocabulary = ("tokenizer.json", "vocab.json")
    if not any((found.path / file).is_file() for file in vocabulary):
        raise ModelError(_unfinished(found, "neither tokenizer.json nor vocab.json is there"))


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that hold a checkpoint's weights, as its index has them."""
    index = folder / INDEX
    if index.exists() and not (folder / SINGLE).is_file():  # the order of transformers
        try:
            listed = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()
            return sorted({str(file) for file in listed})
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"The index {index.name} of '{folder.name}' is not readable."
            ) from error
    if (folder / SINGLE).exists():
        return [SINGLE]
    # Where the index itself is missing, the shards' names still say how many there are.
    shards = (_SHARD.fullmatch(path.name) for path in sorted(folder.iterdir()))
    for shard in filter(None, shards):
        count = int(shard[1])
        return [*(f"model-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)), INDEX]
    return []


def tensor_headers(file: Path) -> dict[str, dict[str, Any]]:
    """Dtype, shape and place (`data_offsets`) of each tensor in a safetensors file.

    Raises
    ------
    ValueError
        If it is no safetensors file.
    """
    return _header(file)[0]


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The header of a safetensors file, and where its data begins."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError(f"{file.name} is not a safetensors file")
        found = json.loads(opened.read(length))
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is not a safetensors file")
    found.pop("__metadata__", None)
    if not all(isinstance(entry, dict) and entry.keys() >= _FIELDS for entry in found.values()):
        raise ValueError(f"{file.name} has a damaged header")
    return found, 8 + length


def _whole_size(file: Path) -> int:
    """Bytes that a safetensors file must have by its header."""
    tensors, begin = _header(file)
    return begin + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)


def _unfinished(found: CheckpointFolder, what: str) -> str:
    """A sentence about something missing, and how to go on."""
    if found.hub_id is not None:
        return f"The download of {found.hub_id} is not complete ({what}), go on with: " + (
            found.download
        )
    return (
        f"The checkpoint '{found.name}' is not complete ({what}): copy or download into this "
        "folder what it lacks."
    )


def _damaged(found: CheckpointFolder, file: str, size: int, whole: int | None) -> str:
    """A sentence about a file that is shorter than its header says, or has no header."""
    state = f"cut off after {size:,} of {whole:,} bytes" if whole else "damaged"
    if found.hub_id is not None:  # `hf download` alone takes what is there for complete
        owner, *options = found.download.removeprefix("hf download ").split(" ")
        command = " ".join(["hf download", owner, file, *options, "--force-download"])
        return f"The file {file} of {found.hub_id} is {state}; fetch it again with: {command}"
    return (
        f"The file {file} of '{found.name}' is {state}: copy or download this file again, "
        "the others are whole."
    )


def _refuse_other_formats(found: CheckpointFolder) -> None:
    """Raise where the weights are in a format that is not read."""
    files = (path for path in found.path.iterdir() if path.is_file())
    endings = {path.suffix for path in files if path.name not in _NO_WEIGHTS}
    for ending, what in _OTHER_FORMATS.items():
        if ending in endings:
            raise ModelError(f"'{found.name}' {what}.")
    pickles = [ending for ending in _PICKLES if ending in endings]
    if pickles:
        raise ModelError(
            f"'{found.name}' holds only pickled weights ({pickles[0]}); seats reads safetensors."
        )


# --------------------------------------------------------------------- adapters


def _about_adapter(found: CheckpointFolder) -> str:
    """What to do where an adapter was named as the model."""
    base = read_config(found.path, found.name, ADAPTER_CONFIG).get("base_model_name_or_path")
    known = hub_id_of(str(base)) if base else "the model that it was trained on"
    wanted = f" of {known}" if base else ""
    return (
        f"'{found.name}' is an adapter{wanted} without the model that it belongs to: "
        f'use `model="{known if base else "BASE"}"` `adapter="{found.name}"`.'
    )
