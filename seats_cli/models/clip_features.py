"""Pixel values and mel frames of a clip, equal to those of transformers' processors, in less time.

A minute of video has hundreds of megabytes of pixel values. transformers writes them three times
(as float32, as patches, and once more to join a list of one), and a fourth time into the model's
dtype; fresh memory costs more here than the arithmetic. `pixel_values` goes through the frames in
pieces that fit a cache and writes every value once, in the dtype that the encoder takes. The mel
spectrogram is the feature extractor's own, on the model's device where that is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import Tensor

from seats_cli.families.base import HOP, MIN_SAMPLES, SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from seats_cli.families.base import Family

_NORMALISED = ("do_rescale", "do_normalize")
# Values of a piece: float32 ones that fit the second-level cache of a core, or on a GPU enough to
# keep it busy.
_CPU_PIECE, _GPU_PIECE = 2**19, 2**26


def pixel_values(
    video_processor: Any,
    frames: Tensor,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Normalised patches of a video whose frames have been sampled and resized.

    Bit for bit what `video_processor` makes of it, brought to `dtype` (transformers,
    `Qwen2VLVideoProcessor._preprocess`). Other processors than the one of Qwen's published models,
    and other settings of it, are called as they are.

    Parameters
    ----------
    video_processor
        The checkpoint's own, for its mean, standard deviation and patch sizes.
    frames : Tensor, shape (T, 3, H, W)
        uint8, or float between 0 and 255; the sides are multiples of a merge unit's. The last
        frame is repeated where T is no multiple of a grid's frames.
    device : torch.device, optional
        Where to compute, the CPU by default. Frames travel as they are.

    Returns
    -------
    patches : Tensor, shape (grids * h * w, 3 * frames_per_grid * patch**2)
        Merge units one after the other.
    grid_thw : LongTensor, shape (1, 3), on the CPU
        Grids, and rows and columns of patches in each.
    """
    known = type(video_processor) is transformers.Qwen2VLVideoProcessor
    if not known or not all(getattr(video_processor, name) for name in _NORMALISED):
        return _by_processor(video_processor, frames, device, dtype)
    patch, merge = video_processor.patch_size, video_processor.merge_size
    together = video_processor.temporal_patch_size
    if missing := -len(frames) % together:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    if device is not None:
        frames = frames.to(device)

    # 1. A view in the order of the result: grids, merge units, patches, then a patch's values.
    count, channels, height, width = frames.shape
    grid = count // together, height // patch, width // patch
    units = grid[1] // merge, grid[2] // merge
    cut = frames.view(grid[0], together, channels, units[0], merge, patch, units[1], merge, patch)
    view = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)

    # 2. Rescaling folded into the normalisation, and both in the order of the stock operations.
    mean, deviation = (
        (torch.tensor(of_channels) * (1.0 / video_processor.rescale_factor))
        .view(-1, 1)
        .to(frames.device)
        for of_channels in (video_processor.image_mean, video_processor.image_std)
    )
    per_grid = grid[1] * grid[2]
    values = channels * together * patch**2
    found = torch.empty((grid[0] * per_grid, values), dtype=dtype, device=frames.device)
    piece = _CPU_PIECE if frames.device.type == "cpu" else _GPU_PIECE
    step = max(1, piece // (per_grid * values))
    exact = dtype == torch.float32  # others are rounded from it
    scratch = (
        None
        if exact
        else found.new_empty((min(step, grid[0]) * per_grid, values), dtype=torch.float32)
    )
    for begin in range(0, grid[0], step):
        part = view[begin : begin + step]
        target = found[begin * per_grid : (begin + len(part)) * per_grid]
        made = target if scratch is None else scratch[: len(target)]
        made.view(part.shape).copy_(part)
        made.view(len(made), channels, -1).sub_(mean).div_(deviation)
        if not exact:
            target.copy_(made)
    return found, torch.tensor([grid])


def _by_processor(
    video_processor: Any, frames: Tensor, device: torch.device | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    settings = {"do_resize": False, "do_sample_frames": False, "return_tensors": "pt"}
    where = {} if device is None else {"device": device}
    made = video_processor(videos=[frames], **settings, **where)
    return made["pixel_values_videos"].to(dtype), made["video_grid_thw"].cpu()


def mel_features(
    feature_extractor: Any,
    sound: npt.NDArray[np.float32],
    length: int,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-mel frames of a whole sound, and which of them are not padding.

    On a CPU these are the values of transformers' processor bit for bit. On a GPU, the transform
    rounds differently: values differ by less than 1e-3 of about 1, most of it in the quietest
    bins.

    Parameters
    ----------
    sound : ndarray (n,)
        Mono, 16 kHz.
    length : int
        Samples to which it is padded with silence.
    device : torch.device, optional
        Where to compute, the CPU by default.

    Returns
    -------
    features : Tensor, shape (1, bins, frames), float32 on the CPU
    mask : Tensor, shape (1, frames), integers
    """
    found = feature_extractor(
        [sound],
        sampling_rate=SAMPLE_RATE,
        padding="max_length",
        max_length=length,
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
        device="cpu" if device is None else str(device),
    )
    return found["input_features"], found["attention_mask"]


@dataclass(frozen=True, eq=False)
class Media:
    """A video, a sound, or a video with its sound, that has been read for a model."""

    frames: Tensor | None  # (T, 3, H, W), sampled and resized
    fps: float  # of the frames
    sound: npt.NDArray[np.float32] | None  # (n,), mono, 16 kHz
    longest: int = 0  # samples of the longest sound of the prompt, if it has several

    def seconds_per_grid(self, processor: Any) -> float:
        """Seconds from one grid to the next."""
        return float(processor.video_processor.temporal_patch_size / self.fps)

    def instants(self, processor: Any, grids: int, tokens: int) -> Tensor:
        """Float64 Tensor (tokens,): the second at which the grid of each video token begins."""
        starts = torch.arange(grids, dtype=torch.float64) * self.seconds_per_grid(processor)
        return starts.repeat_interleave(tokens // grids)

    def features(
        self, processor: Any, family: Family, device: torch.device | None, dtype: torch.dtype
    ) -> dict[str, Any]:
        """What the encoders are given, under the names that the models have for it.

        Pixel values are of that dtype and where they were made; the rest is on the CPU.
        """
        found: dict[str, Any] = {}
        if self.frames is not None:
            pixels, grid = pixel_values(processor.video_processor, self.frames, device, dtype)
            found |= {"pixel_values_videos": pixels, "video_grid_thw": grid}
            found["video_second_per_grid"] = torch.tensor([self.seconds_per_grid(processor)])
        if self.sound is not None:
            sound, length = padding(self.sound, self.longest, family)
            mel, mask = mel_features(processor.feature_extractor, sound, length, device)
            found |= {"input_features": mel, "feature_attention_mask": mask}
        return found


def padding(
    sound: npt.NDArray[np.float32], longest: int, family: Family
) -> tuple[npt.NDArray[np.float32], int]:
    """A sound, and the samples that it is padded to: like the longest of the prompt."""
    longest = max(longest, len(sound))
    if len(sound) < MIN_SAMPLES:  # no copy where nothing is added: this may be hours of sound
        sound = np.pad(sound, (0, MIN_SAMPLES - len(sound)))
    if family.pads_sound:
        # One hop more than there are frames: the last window then ends in silence, as it does in
        # the 300 s of the official processor, and not in a reflection of the sound.
        return sound, (family.mel_frames(longest) + 1) * HOP
    # Elsewhere a length that is no multiple of the hop stays as it is: padded up to one, the sound
    # would have a frame more than officially.
    return sound, max(longest, MIN_SAMPLES)


def with_media(ids: Sequence[int], place: int, run: Sequence[int]) -> dict[str, Tensor]:
    """`input_ids` (1, S) and `attention_mask` of a prompt, `run` in place of its placeholder."""
    at = ids.index(place)
    found = torch.tensor([[*ids[:at], *run, *ids[at + 1 :]]])
    return {"input_ids": found, "attention_mask": torch.ones_like(found)}
