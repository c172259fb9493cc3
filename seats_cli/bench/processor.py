"""The processor's parts in turn: what transformers' own does to a clip, and what seats does."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from seats_cli.bench import Row, compare, grid_of, open_model
from seats_cli.errors import UsageError
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.clip import Clip
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models.clip_features import mel_features, padding, pixel_values
from seats_cli.models.devices import free_bytes, processor_device
from seats_cli.models.inputs import build_inputs, prepare_clip
from seats_cli.models.load import LoadedModel
from seats_cli.models.qwen_omni import QwenOmni

Call = Callable[[], Tensor]
_PUBLISHED_S = 300  # that Qwen2.5-Omni's processor pads every sound to
_QUESTION = "What is shown, and what is said?"


def processor(options: argparse.Namespace) -> list[Row]:
    """Pixel values, mel frames and prompt of a clip, by transformers' processor and by ours.

    Each is made ready for the model, on its device and in its dtype, and then all of it together.
    The steps of transformers' pixel values stand below them. Frames come in the model's size: the
    reader scales them. Qwen2.5-Omni's own processor pads every sound to 300 s.

    Raises
    ------
    UsageError
        If the model's family has another kind of processor.
    """
    loaded = open_model(options, layers=1)
    if not isinstance(loaded.adapter, QwenOmni):
        raise UsageError("Only the processors of Qwen's Omni models can be measured.")
    clip = _noise(loaded, options)
    stock = _as_published(loaded)
    parts = {
        **_pixels(loaded, clip),
        **_sound(loaded, stock, clip),
        **_prompt(loaded, stock, clip),
    }
    rows: list[Row] = []
    for part, calls in parts.items():
        rows += _in_turn({"part": part}, calls, options, loaded.model.device)
    return rows


def _noise(loaded: LoadedModel, options: argparse.Namespace) -> Clip:
    """A clip of that length and size, with sound."""
    vision = loaded.architecture.vision
    clip = synthetic_clip(options.seconds, sizing=loaded.sizing)
    assert clip.frames is not None
    side = vision.patch_size * vision.merge_size
    _, rows, columns = grid_of(vision, vision.merge_size, options)
    shape = len(clip.frames), rows * side, columns * side, 3
    draw = np.random.default_rng(0)
    return replace(clip, frames=draw.integers(0, 256, shape, np.uint8))


def _in_turn(
    label: Row, calls: dict[str, Call], options: argparse.Namespace, device: torch.device
) -> list[Row]:
    """A row for each of several calls that make the same."""
    chosen: list[Call] = []

    @contextmanager
    def choose(call: Call) -> Iterator[None]:
        chosen[:] = [call]
        yield

    ways = {name: partial(choose, call) for name, call in calls.items()}
    return compare(label, lambda: chosen[0](), ways, options, device)


def _as_published(loaded: LoadedModel) -> Any:
    """Their processor; the bundled one, which named shapes have, pads to less than 300 s."""
    stock = copy.copy(loaded.processor)
    if loaded.adapter.family.pads_sound:
        stock.feature_extractor = copy.copy(stock.feature_extractor)
        stock.feature_extractor.n_samples = _PUBLISHED_S * SAMPLE_RATE
    return stock


def _pixels(loaded: LoadedModel, clip: Clip) -> dict[str, dict[str, Call]]:
    """Pixel values, and the steps of transformers', each from what the one before it made."""
    video, model, where = loaded.processor.video_processor, loaded.model, _where(loaded, clip)
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)

    def stock() -> Tensor:
        made = video(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
        return _ready(made["pixel_values_videos"], loaded)

    def rescaled() -> Tensor:
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        settings = {name: getattr(video, name) for name in names}
        found: Tensor = video.rescale_and_normalize(frames[None], **settings)
        return found

    def ours() -> Tensor:
        return _ready(pixel_values(video, frames, where, model.dtype)[0], loaded)

    normalised = rescaled()
    sizes = {
        name: getattr(video, name) for name in ("patch_size", "merge_size", "temporal_patch_size")
    }

    def patched() -> Tensor:
        found: Tensor = video.patchify(normalised, **sizes)[0]
        return found

    patches = patched().flatten(0, 1)
    return {
        "pixel values": {"transformers": stock, "ours": ours},
        "- rescale, normalise": {"transformers": rescaled},
        "- patches": {"transformers": patched},
        "- join, dtype": {"transformers": lambda: _ready(torch.cat([patches]), loaded)},
    }


def _sound(loaded: LoadedModel, stock: Any, clip: Clip) -> dict[str, dict[str, Call]]:
    """Mel frames; those of the sound are compared, and not those of the padding."""
    extractor, family = loaded.processor.feature_extractor, loaded.adapter.family
    where = _where(loaded, clip)
    sound = clip.audio
    assert sound is not None
    frames = family.mel_frames(len(sound))

    def theirs() -> Tensor:
        made = stock.feature_extractor(
            [sound],
            sampling_rate=SAMPLE_RATE,
            padding="max_length" if family.pads_sound else True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return _ready(made["input_features"], loaded)[..., :frames]

    def ours() -> Tensor:
        made = mel_features(extractor, *padding(sound, 0, family), where)
        return _ready(made[0], loaded)[..., :frames]

    return {"mel frames": {"transformers": theirs, "ours": ours}}


def _prompt(loaded: LoadedModel, stock: Any, clip: Clip) -> dict[str, dict[str, Call]]:
    """The prompt's ids, with pixel values and mel frames that are there already or are made."""
    adapter, where = loaded.adapter, _where(loaded, clip)
    assert isinstance(adapter, QwenOmni)
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)

    def theirs(processor: Any) -> Tensor:
        found = processor(
            text=[adapter.conversation(processor, "video", [_QUESTION])],
            audio=[clip.audio],
            videos=[frames],
            return_tensors="pt",
            videos_kwargs={"do_resize": False, "do_sample_frames": False, "fps": clip.fps},
            audio_kwargs={"truncation": False},
            **_sound_of_the_video(processor),
        )
        for name in ("pixel_values_videos", "input_features"):
            _ready(found[name], loaded)
        return torch.as_tensor(found["input_ids"])

    def ours_around_features() -> Tensor:
        found: Tensor = adapter.clip_inputs(made, clip, _QUESTION, where)["input_ids"]
        return found

    def ours() -> Tensor:
        found: Tensor = build_inputs(loaded, clip, _QUESTION)["input_ids"].cpu()
        return found

    made = _with_features(loaded, clip)
    return {
        "prompt": {"transformers": partial(theirs, made), "ours": ours_around_features},
        "everything": {"transformers": partial(theirs, stock), "ours": ours},
    }


class _Made:
    """A part of a processor that has done its work: it gives the same whatever it is asked."""

    def __init__(self, part: Any, found: dict[str, Tensor]) -> None:
        self._part, self._found = part, found

    def __call__(self, *_args: Any, **_settings: Any) -> BatchFeature:
        return BatchFeature(dict(self._found))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def _with_features(loaded: LoadedModel, clip: Clip) -> Any:
    """The processor with the pixel values and mel frames of this clip, ready for the model."""
    processor = copy.copy(loaded.processor)
    features = prepare_clip(loaded, clip).features
    mask = features["feature_attention_mask"].cpu()
    sound = {"input_features": features["input_features"], "attention_mask": mask}
    video = {name: features[name] for name in ("pixel_values_videos", "video_grid_thw")}
    video["video_grid_thw"] = video["video_grid_thw"].cpu()
    processor.feature_extractor = _Made(processor.feature_extractor, sound)
    processor.video_processor = _Made(processor.video_processor, video)
    return processor


def _sound_of_the_video(processor: Any) -> dict[str, Any]:
    """The arguments that weave the sound in: renamed, and by index, since transformers 5.18."""
    if hasattr(processor, "_resolve_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}


def _where(loaded: LoadedModel, clip: Clip) -> torch.device | None:
    """Where our processor works."""
    assert clip.frames is not None
    assert clip.audio is not None
    device = loaded.model.device
    if device.type == "cpu":
        return None
    sizes = {"frames": clip.frames.nbytes, "samples": len(clip.audio)}
    return processor_device(device, free_bytes(device), **sizes)


def _ready(found: Tensor, loaded: LoadedModel) -> Tensor:
    return found.to(loaded.model.device, loaded.model.dtype)
