"""From a clip and a question, or from chat messages, to the model's inputs.

The family's own processor does the work (`Adapter.clip_inputs`, `Adapter.message_inputs`). Prompts
are made with a stand-in for every text that a user wrote, and its tokens are put in afterwards: the
spelling of a control token ("<|im_end|>", "<|VIDEO|>") must neither end a turn nor count as a piece
of a clip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from seats_cli.cost.token_counts import MediaSizes, token_counts
from seats_cli.errors import ResourceError, UsageError
from seats_cli.models.adapter import processor_device
from seats_cli.models.devices import free_bytes

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel


# What parts of a message may say about their file, besides the range.
_READ_KEYS = ("fps", "max_frames", "max_pixels", "video_track", "audio_track")
_STAND_IN = "\ue000"  # a private-use character, which no chat template contains


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """A clip as the processor hands it to a model, ready for any number of questions."""

    clip: Clip
    template: torch.Tensor  # the prompt's ids (S,) on the CPU, stand-ins where users' texts go
    features: dict[str, Any]  # inputs that do not depend on the question, on the model's device
    system: str | None = None  # system turn that replaces the chat template's own


def prepare_clip(loaded: LoadedModel, clip: Clip, *, system: str | None = None) -> PreparedClip:
    """Features of a clip, through the family's own processor (`Adapter.clip_inputs`).

    Parameters
    ----------
    system : str or None
        System turn of every prompt about the clip, empty for an empty one; None leaves it to the
        chat template (Qwen2.5-Omni has a turn of its own then, Qwen3-Omni has none).

    Raises
    ------
    UsageError
        If the clip holds neither picture nor sound.
    ResourceError
        If the clip alone is more than the model's context holds.
    """
    if clip.frames is None and clip.audio is None:
        raise UsageError("The clip has neither video nor audio to ask about.")
    _check_size(loaded.architecture, clip, 0)
    inputs = loaded.adapter.clip_inputs(
        loaded.processor,
        clip,
        _STAND_IN,
        _pixels_on(loaded.model.device, clip),
        system=None if system is None else _STAND_IN,
    )
    template = inputs.pop("input_ids")[0]
    inputs.pop("attention_mask")
    return PreparedClip(clip, template, _on_model(inputs, loaded.model), system)


def build_inputs(
    loaded: LoadedModel,
    clip: Clip | PreparedClip,
    question: str | None,
    *,
    system: str | None = None,
) -> dict[str, Any]:
    """Tokens and features for `model(**inputs)` or `model.generate(**inputs)`.

    Parameters
    ----------
    clip : Clip or PreparedClip
        Prepared by `prepare_clip`, where several questions are asked about it.
    question : str or None
        None asks nothing; an empty one does so of checkpoints that describe what they are given.
    system : str or None
        System turn, as for `prepare_clip`; a prepared clip has its own.

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
    if question is not None and not question.strip() and not loaded.captions:
        raise UsageError("The question is empty.")
    tokenizer = loaded.processor.tokenizer
    asked = _tokens(tokenizer, question if question and question.strip() else "")
    media = clip.clip if isinstance(clip, PreparedClip) else clip
    _check_size(loaded.architecture, media, len(asked))
    if not isinstance(clip, PreparedClip):
        clip = prepare_clip(loaded, clip, system=system)
    elif system is not None:
        raise UsageError("The clip is prepared already: give `system` to `prepare_clip`.")
    texts = [asked] if clip.system is None else [_tokens(tokenizer, clip.system), asked]
    ids = _with_texts(clip.template, tokenizer, texts).to(loaded.model.device)
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones_like(ids)[None],
        **clip.features,
    }


def inputs_from_messages(
    loaded: LoadedModel,
    messages: Sequence[Mapping[str, Any]],
    *,
    use_audio_in_video: bool = True,
) -> dict[str, Any]:
    """Tokens and features for a conversation with any number of pictures, videos and sounds.

    Videos and sounds are read by `read_clip`, which says what the readers of `qwen_omni_utils`
    would lose; the rest is that package's `process_mm_info`.

    Parameters
    ----------
    messages : sequence of dict
        `role`, and as `content` a text or a list of parts: `{"type": "text", "text": ...}`,
        `{"type": "image", "image": ...}` (a file, a PIL image or a data URL),
        `{"type": "audio", "audio": ...}` and `{"type": "video", "video": ...}` (files). Videos may
        have `fps`, `max_frames`, `max_pixels`, `video_track`, `video_start` and `video_end`, sounds
        `audio_start` and `audio_end`, both in seconds; both `audio_track`, and images `min_pixels`
        and `max_pixels`.
    use_audio_in_video : bool
        Whether the audio of videos is used too; then every video must have some.

    Returns
    -------
    dict
        As from `build_inputs`.

    Raises
    ------
    UsageError
        If a part is of no known type or a video is silent, or the family takes no messages.
    MediaError
        If a file cannot be read.
    ResourceError
        If the conversation is more than the model's context holds.

    Examples
    --------
    >>> parts = [{"type": "video", "video": "a.mp4"}, {"type": "video", "video": "b.mp4"},
    ...          {"type": "text", "text": "Which of the two is louder?"}]
    >>> inputs = inputs_from_messages(loaded, [{"role": "user", "content": parts}])
    >>> with prune(loaded.model, SeatsConfig.preset("25%")):
    ...     loaded.model.generate(**inputs, max_new_tokens=64)
    """
    tokenizer, texts, conversation = loaded.processor.tokenizer, [], []
    for message in messages:
        content, parts = message["content"], []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part.get("type") == "text":
                texts.append(_tokens(tokenizer, part["text"]))
                parts.append({"type": "text", "text": _STAND_IN})
            else:
                parts.append(_read(part, loaded, use_audio_in_video))
        conversation.append({"role": message["role"], "content": parts})
    inputs = loaded.adapter.message_inputs(loaded.processor, conversation)
    ids = _with_texts(inputs.pop("input_ids")[0], tokenizer, texts)
    limit = loaded.architecture.max_positions
    if len(ids) > limit:
        raise ResourceError(
            f"The conversation has {len(ids):,} tokens, but the model's context holds {limit:,}: "
            "use fewer or shorter parts, or a lower `fps`, `max_frames` or `max_pixels`."
        )
    inputs |= {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    return _on_model(inputs, loaded.model)


def _read(part: Mapping[str, Any], loaded: LoadedModel, use_audio: bool) -> dict[str, Any]:
    """A part with its file's frames or samples in place of the path; images stay as they are."""
    from seats_cli.media.clip import ReadOptions
    from seats_cli.media.reader import read_clip

    kind = part.get("type")
    if kind not in ("image", "audio", "video") or kind not in part:
        raise UsageError(f"A part of a message is text, image, audio or video, not {kind!r}.")
    if str(part[kind]).startswith(("http:", "https:")):
        raise UsageError(f"Parts of a message are local: download {part[kind]} and pass the file.")
    if kind == "image":
        own = loaded.adapter.own_settings()
        return {**{name: own[name] for name in ("min_pixels", "max_pixels") if name in own}, **part}
    given = {name: part[name] for name in _READ_KEYS if name in part}
    options = ReadOptions(
        start=part.get(f"{kind}_start"),
        end=part.get(f"{kind}_end"),
        video=kind == "video",
        audio=kind == "audio" or use_audio,
        **given,
    )
    # `process_mm_info` rounds the sides of given frames to two tokens: read them like that.
    sizing = replace(loaded.sizing, factor=2 * loaded.sizing.factor)
    clip = read_clip(part[kind], options, sizing=options.bound(sizing))
    if kind == "audio":
        return {"type": "audio", "audio": clip.audio}
    if clip.frames is None or (use_audio and clip.audio is None):
        lacks = "pictures" if clip.frames is None else "audio: set `use_audio_in_video=False`"
        raise UsageError(f"'{part[kind]}' has no {lacks}.")
    area = clip.frames.shape[1] * clip.frames.shape[2]
    return {
        "type": "video",
        "video": [Image.fromarray(frame) for frame in clip.frames],
        "sample_fps": clip.fps,
        "min_pixels": area,
        "max_pixels": area,
        **({"sound": clip.audio} if use_audio else {}),
    }


def _check_size(architecture: Architecture, clip: Clip, text: int) -> None:
    """Refuse hours of sound before minutes are spent on turning them into features.

    `text` are the question's tokens.
    """
    frames, height, width = (0, 0, 0) if clip.frames is None else clip.frames.shape[:3]
    samples = 0 if clip.audio is None else len(clip.audio)
    sizes = MediaSizes.of_clip(architecture, frames, height, width, samples)
    video, audio = token_counts(architecture, sizes)
    if video + audio + text > architecture.max_positions:
        remedy = "use `start`/`end`, a lower `fps`, `max_frames` or `max_pixels`, or `max_audio`"
        raise ResourceError(
            f"The clip has {video:,} video tokens and {audio:,} audio tokens and the question has "
            f"{text:,}, but the model's context holds {architecture.max_positions:,}: "
            f"{'shorten the question' if text > video + audio else remedy}."
        )


def _tokens(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens, its characters read as text only.

    `split_special_tokens` spares added tokens that are not "special" (Qwen3's "<think>"), so their
    spelling is cut behind its first character.
    """
    spelled = "|".join(map(re.escape, tokenizer.get_added_vocab()))
    cuts = [match.start() + 1 for match in re.finditer(f"(?={spelled})", text)] if spelled else []
    return [
        int(token)
        for start, end in pairwise([0, *cuts, len(text)])
        for token in tokenizer.encode(
            text[start:end], add_special_tokens=False, split_special_tokens=True
        )
    ]


def _with_texts(ids: torch.Tensor, tokenizer: Any, texts: Sequence[list[int]]) -> torch.Tensor:
    """Put the tokens of each text in place of its stand-in."""
    stand_in = torch.tensor(tokenizer.encode(_STAND_IN, add_special_tokens=False))
    width, begin = len(stand_in), 0
    pieces = []
    for start, text in zip(
        (ids.unfold(0, width, 1) == stand_in).all(1).nonzero()[:, 0].tolist(), texts, strict=True
    ):
        pieces += [ids[begin:start], ids.new_tensor(text, dtype=ids.dtype)]
        begin = start + width
    return torch.cat([*pieces, ids[begin:]])


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
