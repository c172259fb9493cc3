"""Whether a loaded model is its checkpoint: every tensor of it, and nothing else.

transformers warns about tensors that it does not know or does not find, and goes on: a model with
the wrong weights would answer. Here every such tensor is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import ADAPTER_CONFIG, tensor_headers, weight_files
from seats_cli.families.registry import tied_embeddings
from seats_cli.models.method_weights import of_a_method, weights_for
from seats_cli.models.weight_memory import UNUSED_PARTS
from seats_cli.selection.method import METHODS, class_of

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter

_HEAD = "lm_head.weight"


def check_loaded(info: Mapping[str, Any], family: type[Adapter], name: str) -> None:
    """See to it that a checkpoint and the model that was made from it are the same.

    Parameters
    ----------
    info : mapping
        What `from_pretrained` says of it: `missing_keys`, `unexpected_keys` and `mismatched_keys`.
    family : type of Adapter
    name : str
        What to call the checkpoint in messages.

    Raises
    ------
    ModelError
        If a tensor of the model that answers is missing, left over or of another shape.
    """
    # transformers fills what is missing with random numbers
    missing = sorted(
        key
        for key in info["missing_keys"]
        if not any(part in key for part in family.unused_weights)
    )
    if missing:
        raise ModelError(
            f"The checkpoint '{name}' lacks {len(missing)} weights of its model, the first "
            f"being {missing[0]}."
        )
    # 5.17 lists the talker and the vocoder, later versions leave them out.
    left = sorted(
        key
        for key in info["unexpected_keys"]
        if not key.startswith(UNUSED_PARTS) and not of_a_method(key)
    )
    if left:
        raise ModelError(
            f"The checkpoint '{name}' has {len(left)} tensors that its model does not know, the "
            f"first being {left[0]}: it is of another kind than its config.json says, and would "
            "give wrong answers."
        )
    other = sorted(info["mismatched_keys"], key=lambda entry: str(entry[0]))
    if other:
        key, stored, wanted = other[0]
        raise ModelError(
            f"The checkpoint '{name}' has {len(other)} tensors of other shapes than its "
            f"config.json says, the first being {key}: {_shape(stored)} instead of "
            f"{_shape(wanted)}."
        )


def _shape(sizes: Any) -> str:
    return " x ".join(str(int(size)) for size in sizes)


def tie_missing_head(config: Any, values: Mapping[str, Any], folder: Path) -> None:
    """Tie the LM head to the embeddings where it is absent and the decoder's config says so.

    transformers reads the model's own level only. A head that is absent without being tied is
    found missing.

    Parameters
    ----------
    config
        That of the transformers class, which is changed.
    values : mapping
        The raw config.json.
    """
    if not tied_embeddings(values):
        return
    names = (name for file in weight_files(folder) for name in tensor_headers(folder / file))
    if not any(name.endswith(_HEAD) and not name.startswith(UNUSED_PARTS) for name in names):
        config.tie_word_embeddings = True
        config.get_text_config().tie_word_embeddings = True


@contextlib.contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """A checkpoint's folder as it would be without a LoRA adapter that lies in it.

    Where peft is installed, transformers adds such an adapter to the model without a word.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="seats-") as made:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(made) / path.name).symlink_to(path.resolve())
        yield Path(made)


def adapter_notices(folder: Path, name: str, used: Path | None) -> tuple[str, ...]:
    """What a user ought to know of an adapter beside the weights, unless it is the one `used`."""
    beside = (folder / ADAPTER_CONFIG).exists()
    if not beside or (used is not None and used.resolve() == folder.resolve()):
        return ()
    return (
        f"'{name}' also holds a LoRA adapter, which is not used: to use it, add "
        f'`adapter="{name}"`.',
    )


# ----------------------------------------------------------- fingerprint

_SAMPLES = 64  # values of each tensor
_PROBE = "What is shown at 0:05, and what do they say? Пример, 例子."


def fingerprint(adapter: Adapter, processor: Any) -> str:
    """What tells a loaded model from any other, in a fraction of a second.

    Of the weights as they run (adapters merged, quantized or not), names, shapes, precisions and
    evenly spread values; of the tokenizer, its size, chat template and some tokens. Weights that
    are not on a device count by name.

    Returns
    -------
    str
        32 hexadecimal digits, the same on every device.
    """
    digest = _digest(adapter.stored_tensors())
    tokenizer = processor.tokenizer
    template = getattr(processor, "chat_template", None) or ""
    tokens = tokenizer.encode(_PROBE, add_special_tokens=False)
    digest.update(f"{len(tokenizer)} {template} {tokens}".encode())
    sections = adapter.own_settings().get("rope_sections")
    if sections is not None:  # the same weights turn otherwise
        digest.update(f" {sections}".encode())
    return digest.hexdigest()[:32]


def weights_mark(adapter: Adapter, method: str) -> str:
    """What tells a method's own weights from others, as `fingerprint`; "" for methods without any.

    Raises
    ------
    ModelError
        If the model's checkpoint has none for it.
    """
    if not class_of(METHODS[method]).weights_prefix:
        return ""
    return _digest(sorted(weights_for(adapter, method).items())).hexdigest()[:32]


def has_weights(adapter: Adapter, method: str, mark: str) -> bool:
    """Whether a method's own weights are those with this mark; False if there are none."""
    with contextlib.suppress(ModelError):
        return weights_mark(adapter, method) == mark
    return False


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> hashlib._Hash:
    """Of names, shapes, precisions and samples."""
    digest = hashlib.sha256()
    groups: dict[Any, list[torch.Tensor]] = {}
    for name, value in tensors:
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        if value.device.type != "meta" and value.numel():
            groups.setdefault((value.dtype, value.device), []).append(_samples(value.detach()))
    for parts in groups.values():  # one copy to the host for each
        digest.update(torch.cat(parts).view(torch.uint8).cpu().numpy().tobytes())
    return digest


def _samples(value: torch.Tensor) -> torch.Tensor:
    """Evenly spread values of a tensor in any layout, without a copy of the tensor."""
    count = min(_SAMPLES, value.numel())
    flat = torch.arange(count, device=value.device) * (value.numel() // count)
    index = []
    for size in reversed(value.shape):
        index.append(flat % size)
        flat = flat // size
    return value[tuple(reversed(index))] if index else value.reshape(1)


# ------------------------------------------------------- value for value

_COMPARED = (torch.float32, torch.float16, torch.bfloat16)  # others are multiplied by scales


@dataclass(frozen=True)
class WeightCheck:
    """A loaded model against the tensors in its files."""

    equal: int  # tensors whose every value is that of the file, in the model's dtype
    unread: int  # of 8 bits, or on no device here: there by name, their values not compared
    wrong: tuple[str, ...]  # names of tensors with other values or another shape
    left: tuple[str, ...]  # in the files and not in the model
    missing: tuple[str, ...]  # in the model and not in the files

    @property
    def right(self) -> bool:
        """Whether nothing is wrong, left over or missing."""
        return not (self.wrong or self.left or self.missing)

    def __str__(self) -> str:
        parts = [f"{self.equal:,} tensors equal to those in the files, value for value"]
        if self.unread:
            parts.append(f"{self.unread:,} there by name, values not compared")
        for names, what in (
            (self.wrong, "WRONG"),
            (self.left, "IN THE FILES ONLY"),
            (self.missing, "IN THE MODEL ONLY"),
        ):
            if names:
                parts.append(f"{len(names):,} {what}, the first being {names[0]}")
        return "; ".join(parts)


def compare_with_files(adapter: Adapter, folder: Path, *, quantized: bool = False) -> WeightCheck:
    """Compare every tensor of a loaded model with the one in its checkpoint."""
    from safetensors import safe_open

    prefix = adapter.weights_prefix
    inside = dict(adapter.stored_tensors())
    files: list[Any] = [safe_open(folder / file, "pt") for file in weight_files(folder)]
    stored = {key: file for file in files for key in file.keys()}  # noqa: SIM118 (no mapping)
    whole = any(key.startswith(prefix) for key in stored)  # has parts beside the one that answers
    equal, unread = 0, 0
    wrong, left = [], []
    for key, file in stored.items():
        if whole and not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        here = inside.pop(name, None)
        if here is None:
            if not quantized and not of_a_method(name):  # whose scales have been multiplied in
                left.append(name)
            continue
        there = file.get_tensor(key)
        if there.shape != here.shape:
            wrong.append(name)
        elif there.dtype not in _COMPARED or here.device.type == "meta":
            unread += 1
        elif torch.equal(there.to(here.device, here.dtype), here):
            equal += 1
        else:
            wrong.append(name)
    embedding = adapter.model.get_input_embeddings().weight
    missing = [
        name
        for name, value in inside.items()
        if value is not embedding and not any(part in name for part in adapter.unused_weights)
    ]
    return WeightCheck(equal, unread, tuple(wrong), tuple(left), tuple(missing))
