"""From a clip and a question to the model's inputs, through the family's own processor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seats_cli.cost.token_counts import MediaSizes, token_counts
from seats_cli.errors import ResourceError, UsageError
from seats_cli.media.clip import SAMPLE_RATE, Clip
from seats_cli.models.adapter import free_bytes, processor_device

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture
    from seats_cli.models.load import LoadedModel


HOP = SAMPLE_RATE // 100  # samples per mel frame: 100 frames per second
_STAND_IN = "\ue000"  # a private-use character, which no chat template contains
MIN_AUDIO = 10 * HOP  # samples; shorter sounds would give the encoder no token at all


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
    """Features of a clip, through the family's own processor.

    The processor gets the frames as they are (already resized by the reader), the effective
    frame rate, and the whole sound: no truncation, and padding to the sound's own length
    instead of the 300 s that the Whisper feature extractor defaults to.

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
    content: list[dict[str, str]] = []
    if clip.frames is not None:
        content.append({"type": "video", "video": "clip"})
    else:
        content.append({"type": "audio", "audio": "clip"})
    content.append({"type": "text", "text": _STAND_IN})
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    media = _media(loaded.processor, clip, _pixels_on(loaded.model.device, clip))
    inputs = loaded.processor(text=[text], return_tensors="pt", **media)
    template = inputs.pop("input_ids")[0]
    inputs.pop("attention_mask")
    features = {
        name: _to_model(value, loaded.model) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    features["use_audio_in_video"] = clip.frames is not None and clip.audio is not None
    return PreparedClip(clip, template, features)


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
        sizes = replace(sizes, mel_frames=(max(len(clip.audio), MIN_AUDIO) // HOP,))
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


def _media(processor: Any, clip: Clip, device: torch.device | None) -> dict[str, Any]:
    """The processor's arguments for picture and sound."""
    arguments: dict[str, Any] = {}
    videos_kwargs: dict[str, Any] = {}
    if clip.frames is not None:
        arguments["videos"] = [torch.from_numpy(clip.frames).permute(0, 3, 1, 2)]
        videos_kwargs = {"do_resize": False, "do_sample_frames": False, "fps": clip.fps}
        if device is not None:
            videos_kwargs["device"] = device
    if clip.audio is not None:
        samples = max(len(clip.audio), MIN_AUDIO)
        short = samples - len(clip.audio)
        # No copy where nothing is added: this may be hours of sound.
        arguments["audio"] = [np.pad(clip.audio, (0, short)) if short else clip.audio]
        arguments["audio_kwargs"] = {
            "truncation": False,
            "padding": "max_length",
            "max_length": -(-samples // HOP) * HOP,
        }
        if clip.frames is not None:
            # transformers 5.18 and later take the sound of a video by index
            if hasattr(processor, "_resolve_audio_from_video"):
                arguments.update(load_audio_from_video=True, audio_from_video_indices=[0])
            else:
                videos_kwargs["use_audio_in_video"] = True
    return {**arguments, "videos_kwargs": videos_kwargs} if videos_kwargs else arguments


def _to_model(value: torch.Tensor, model: Any) -> torch.Tensor:
    return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
