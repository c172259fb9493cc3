"""Whether a loaded model is its checkpoint: every tensor of it, and nothing else.

transformers warns about tensors that it does not know or does not find, and goes on: a model with
the wrong weights would answer. Here every such tensor is an error.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import ADAPTER_CONFIG, tensor_headers, weight_files
from seats_cli.models.weight_memory import UNUSED_PARTS

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
    left = sorted(key for key in info["unexpected_keys"] if not key.startswith(UNUSED_PARTS))
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
    if not _says_tied(values):
        return
    names = (name for file in weight_files(folder) for name in tensor_headers(folder / file))
    if not any(name.endswith(_HEAD) and not name.startswith(UNUSED_PARTS) for name in names):
        config.tie_word_embeddings = True
        config.get_text_config().tie_word_embeddings = True


def _says_tied(values: Mapping[str, Any]) -> bool:
    inner = values.get("thinker_config", values)
    levels = (values, inner, inner.get("text_config") or {})
    return any(bool(level.get("tie_word_embeddings")) for level in levels)


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


def adapter_notices(folder: Path, name: str) -> tuple[str, ...]:
    """What a user ought to know of an adapter beside the weights."""
    if not (folder / ADAPTER_CONFIG).exists():
        return ()
    return (
        f"'{name}' also holds a LoRA adapter, which is not used: to use it, merge it into the "
        "weights (peft: merge_and_unload).",
    )
