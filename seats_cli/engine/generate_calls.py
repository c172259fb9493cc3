"""How `generate` may be called on a pruned model, and what differs from a call on any other.

Most of its modes only choose among the tokens that a prompt or a step gives, and work as they
are. Some hand the model something else than a prompt and then one token after another. These are
either brought into that form, or refused: the model would give
another answer and no error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seats_cli.engine.cache import cache_of, prompt_of, seen_tokens
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import replace_method

_GUESSED = "Assisted generation guesses tokens ahead, which would be pruned as part of the prompt"
_ELSEWHERE = (
    "transformers runs it by code from the hub, which may treat the KV cache in its own way"
)

# Settings of `generate` that have to be left out, and why.
_REFUSED = {
    "assistant_model": _GUESSED,
    "prompt_lookup_num_tokens": _GUESSED,
    "assistant_early_exit": _GUESSED,
    "use_mtp": _GUESSED,
    "prefill_chunk_size": "Pruning chooses among the tokens of the whole prompt, not of a chunk",
    "guidance_scale": "Guidance runs a second prompt beside the pruned one",
    "penalty_alpha": f"Contrastive search is not known to work here: {_ELSEWHERE}",
    "dola_layers": f"DoLa is not known to work here: {_ELSEWHERE}",
    "custom_generate": "Decoding of one's own may treat the KV cache in its own way",
    "num_beam_groups": f"Group beam search is not known to work here: {_ELSEWHERE}",
    "force_words_ids": f"Constrained beam search is not known to work here: {_ELSEWHERE}",
    "constraints": f"Constrained beam search is not known to work here: {_ELSEWHERE}",
    "inputs_embeds": "Pruning reads from `input_ids` which tokens are video or audio, and "
    "`generate` does not hand them on beside embeddings",
}
_UNSET: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (None, 1, 1.0),
    "use_mtp": (None, False),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
}

# The first parameters of `generate`, which may be given without their names.
_POSITIONAL = (
    "inputs",
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
)

# What `generate` passes for each row of a batch; everything else is about the media in it.
_ROWS = ("attention_mask", "inputs_embeds")
_EXPAND = "_expand_inputs_for_generation"


def check_call(model: Any, args: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
    """See to it that a call of `generate` can be followed.

    Parameters
    ----------
    model : nn.Module
        Whose `generate` is called.
    args, arguments
        Of the call.

    Raises
    ------
    UsageError
        If it cannot.
    """
    arguments = {**dict(zip(_POSITIONAL, args, strict=False)), **arguments}
    setting = functools.partial(_setting, model, arguments)
    if setting("use_cache") is False:
        # Every token would be a prompt of its own, whose media were not encoded.
        raise UsageError("Pruned generation needs the KV cache: leave out use_cache=False.")
    kind = setting("cache_implementation")
    if kind not in (None, "dynamic"):
        raise UsageError(
            f"Pruning needs a dynamic KV cache in one place, and not one that is {kind}: leave out "
            "`cache_implementation`."
        )
    for name, why in _REFUSED.items():
        if setting(name) not in _UNSET.get(name, (None,)):
            raise UsageError(f"{why}: leave out `{name}` inside prune(...).")
    ids = arguments.get("input_ids", arguments.get("inputs"))
    if isinstance(ids, Tensor) and ids.ndim == 2:
        if len(ids) > 1:
            raise UsageError(batch_refusal(len(ids)))
        _check_turn(ids[0], cache_of(dict(arguments)))


def batch_refusal(prompts: int) -> str:
    """Why several prompts cannot run together, and what to do instead."""
    return (
        f"Pruning works on one prompt at a time, not on a batch of {prompts}: run them in turn, "
        "with an EncoderCache where they are about the same clip."
    )


def _setting(model: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """A setting of generation: as an argument, from the call's configuration, or the model's."""
    if name == "inputs_embeds" or arguments.get(name) is not None:
        return arguments.get(name)
    configs = (arguments.get("generation_config"), getattr(model, "generation_config", None))
    values = (getattr(config, name, None) for config in configs)
    return next((value for value in values if value is not None), None)


def _check_turn(ids: Tensor, cache: Any) -> None:
    """Whether a prompt (S,) goes on where a pruned cache ends."""
    prompt = prompt_of(cache)
    if prompt is None:
        return
    whole = len(ids) >= len(prompt) and torch.equal(ids[: len(prompt)].cpu(), prompt)
    if not whole or len(ids) <= seen_tokens(cache):
        raise UsageError(
            f"The KV cache stands for {seen_tokens(cache):,} tokens of another prompt: give "
            "`generate` the sequence that it returned with the cache, and new tokens behind it."
        )


# ------------------------------------------------------------- several answers to one prompt


@contextmanager
def one_prefill(adapter: Adapter, expect: Callable[[int], None]) -> Iterator[None]:
    """Let a prompt with several answers run once inside the block.

    transformers repeats it for every beam or returned sequence. Here only the rows of text are
    repeated, for the steps that follow, and the media in it stay as they are.

    Parameters
    ----------
    expect : callable
        Is told how many answers the prompt to come has.
    """
    if not hasattr(adapter.model, _EXPAND):
        yield
        return

    def wrap(expand: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(expand)
        def rows_alone(
            expand_size: int = 1,
            is_encoder_decoder: bool = False,
            input_ids: Tensor | None = None,
            **inputs: Any,
        ) -> tuple[Tensor, dict[str, Any]]:
            expect(expand_size)
            rows = {name: inputs.pop(name) for name in _ROWS if name in inputs}
            ids, rows = expand(expand_size, is_encoder_decoder, input_ids, **rows)
            positions = inputs.get("position_ids")
            if positions is not None:  # (B, S), or (rows of M-RoPE, B, S)
                inputs["position_ids"] = positions.repeat_interleave(expand_size, -2)
            return ids, {**inputs, **rows}

        return rows_alone

    with replace_method(adapter.model, _EXPAND, wrap):
        yield


def first_row(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model for one of the equal prompts in them."""
    names = ("input_ids", "attention_mask", "position_ids")
    rows = {name: arguments[name] for name in names if arguments.get(name) is not None}
    return {**arguments, **{name: value[..., :1, :] for name, value in rows.items()}}


def repeated(output: Any, times: int, cache: Any) -> Any:
    """A decoder's output and cache, once for each of several answers; None for a single one."""
    if times == 1:
        return None
    if cache is not None:
        cache.batch_repeat_interleave(times)
    names = ("last_hidden_state", "hidden_states", "attentions")

    def repeat(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(repeat, value))
        return None if value is None else value.repeat_interleave(times, 0)

    return type(output)(
        **{name: repeat(value) if name in names else value for name, value in output.items()}
    )


# ------------------------------------------------------------------------- further turns


def text_only(
    adapter: Adapter, ids: Tensor | None, cache: Any, arguments: dict[str, Any]
) -> dict[str, Any]:
    """A model's arguments for a further turn, without the media of earlier ones.

    Parameters
    ----------
    ids : LongTensor, shape (B, S), or None
        New tokens, on the CPU if there are several.
    cache : transformers Cache or None
        Other calls than those with a pruned one are left alone, and so are single tokens.
    arguments : dict
        Media that `generate` was given with the whole conversation are still in them.

    Raises
    ------
    UsageError
        If the turn brings media of its own, which would enter the LLM unpruned.
    """
    if ids is None or ids.shape[-1] == 1 or prompt_of(cache) is None:
        return arguments
    media = torch.tensor((adapter.video_token_id, adapter.audio_token_id))
    if torch.isin(ids, media).any():
        raise UsageError(
            "A further turn on a pruned KV cache is text: start a new prompt for another clip."
        )
    left_out = {*adapter.encoder_arguments, "mm_encoder_outputs"}
    return {name: value for name, value in arguments.items() if name not in left_out}
