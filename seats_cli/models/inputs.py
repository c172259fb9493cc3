"""From a clip and a question to the model's inputs, through the family's own processor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.cost.token_counts import MediaSizes, token_counts
from seats_cli.errors import ResourceError, UsageError
from seats_cli.families.base import mel_frames
from seats_cli.models.adapter import free_bytes, processor_device

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel


_STAND_IN = "\ue000"  # a private-use character, which no chat template contains


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """A clip as the processor hands it to a model, ready for any number of questions.

    Parameters
    ----------
    clip : Clip
    template : LongTensor, shape (S,), on CPU
        The prompt's ids with a stand-in where the question goes.
    features : dict
        What of the model's inputs does not depend on the question, on the model's device.
    """

    clip: Clip
    template: torch.Tensor
    features: dict[str, Any]


def prepare_clip(loaded: LoadedModel, clip: Clip) -> PreparedClip:
    """Features of a clip, through the family's own processor (`Adapter.clip_inputs`).

    Raises
    ------
    UsageError
        If the clip holds neither picture nor sound.
    ResourceError
        If the clip alone is more than the model's context holds.
    """
    if clip.frames is None and clip.audio is None:
        raise UsageError("The clip has neither picture nor sound to ask about.")
    _check_size(loaded.architecture, clip, 0)
    inputs = loaded.adapter.clip_inputs(
        loaded.processor, clip, _STAND_IN, _pixels_on(loaded.model.device, clip)
    )
    template = inputs.pop("input_ids")[0]
    inputs.pop("attention_mask")
    return PreparedClip(clip, template, _on_model(inputs, loaded.model))


def build_inputs(loaded: LoadedModel, clip: Clip | PreparedClip, question: str) -> dict[str, Any]:
    """Tokens and features for `model(**inputs)` or `model.generate(**inputs)`.

    Parameters
    ----------
    loaded : LoadedModel
    clip : Clip or PreparedClip
        Prepared by `prepare_clip`, where several questions are asked about it.
    question : str

    Returns
    -------
    dict
        `input_ids` (1, S), `attention_mask`, and where present `pixel_values_videos`,
        `video_grid_thw`, `video_second_per_grid`, `input_features`,
        `feature_attention_mask`; `use_audio_in_video` for the model. On the model's device,
        floating point features in the model's dtype.

    Raises
    ------
    UsageError
        If the question is empty or the clip holds neither picture nor sound.
    ResourceError
        If clip and question alone are more than the model's context holds.
    """
    if not question.strip():
        raise UsageError("The question is empty.")
    tokenizer = loaded.processor.tokenizer
    asked = tokenizer.encode(question, add_special_tokens=False, split_special_tokens=True)
    media = clip.clip if isinstance(clip, PreparedClip) else clip
    _check_size(loaded.architecture, media, len(asked))
    prepared = clip if isinstance(clip, PreparedClip) else prepare_clip(loaded, clip)
    ids = _with_question(prepared.template, tokenizer, asked).to(loaded.model.device)
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones_like(ids)[None],
        **prepared.features,
    }


def _check_size(architecture: Architecture, clip: Clip, text: int) -> None:
    """Refuse hours of sound before minutes are spent on turning them into features.

    `text` are the question's tokens.
    """
    vision = architecture.vision
    sizes = MediaSizes()
    if clip.frames is not None:
        frames, height, width, _ = clip.frames.shape
        grid = (
            frames // vision.temporal_patch_size,
            height // vision.patch_size,
            width // vision.patch_size,
        )
        sizes = MediaSizes(grids=(grid,))
    if clip.audio is not None:
        sizes = replace(sizes, mel_frames=(mel_frames(len(clip.audio)),))
    video, audio = token_counts(architecture, sizes)
    if video + audio + text > architecture.max_positions:
        remedy = "use --start/--end, a lower --fps, --max-frames or --max-pixels, or --max-audio"
        raise ResourceError(
            f"The clip has {video:,} tokens of picture and {audio:,} of sound and the question "
            f"{text:,}, but the model's context holds {architecture.max_positions:,}: "
            f"{'shorten the question' if text > video + audio else remedy}."
        )


def _with_question(ids: torch.Tensor, tokenizer: Any, question: list[int]) -> torch.Tensor:
    """Put the question's tokens, its characters read as text only, in place of its stand-in.

    A question may contain the spelling of a control token ("<|im_end|>", "<|VIDEO|>"): it must
    neither end the turn nor count as a piece of the clip.
    """
    stand_in = torch.tensor(tokenizer.encode(_STAND_IN, add_special_tokens=False))
    width = len(stand_in)
    start = int((ids.unfold(0, width, 1) == stand_in).all(1).nonzero()[0])
    return torch.cat([ids[:start], ids.new_tensor(question), ids[start + width :]])


def _pixels_on(device: torch.device, clip: Clip) -> torch.device | None:
    """The GPU on which the processor works, if it does on one."""
    if device.type != "cuda" or clip.frames is None:
        return None
    return processor_device(device, clip.frames.nbytes, free_bytes(device))


def _on_model(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Tensors on the model's device, floating point ones in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }
