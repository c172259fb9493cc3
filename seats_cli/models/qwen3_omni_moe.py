"""Adapter for Qwen3-Omni (30B-A3B Instruct and Thinking).

transformers merges the positions of picture and sound in a loop over tokens: tenths of a second for
a minute of video, more than the pruned prefill takes on a GPU. `PictureWithSound` gives the same
numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seats_cli.families.qwen3_omni_moe import FAMILY
from seats_cli.models.qwen_omni import QwenOmni


class Qwen3OmniMoe(QwenOmni):
    """DeepStack vision features, mixture-of-experts decoder, 13 audio tokens/s."""

    family = FAMILY
    name = "Qwen3OmniMoe"
    token_suffix = "id"
    slow_positions = "get_rope_index"
    not_quantizable = (
        "its experts, 91 % of the weights, are stacked matrices, which bitsandbytes leaves in "
        "16 bits: use several GPUs with `device=spread`, or Qwen/Qwen2.5-Omni-7B"
    )
    pixel_std = (0.5, 0.5, 0.5)
    usual_fps = 1.0

    def interleaved(self, processor: Any, instants: Tensor, sound: int) -> Tensor:
        """By time; of equal ones the picture's come first."""
        # A setting of the processor since transformers 5.18; before, a constant of its call.
        rate = getattr(processor, "position_id_per_seconds", 13.0)
        order = torch.cat([instants * rate, torch.arange(sound)]).argsort(stable=True)
        return order < len(instants)

    def quick_positions(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """The merge of a picture's and a sound's tokens by time, where one video is alone."""
        signature = inspect.signature(stock)

        def get_rope_index(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            given = signature.bind(*args, **kwargs).arguments
            prompt = _recognised(self.config, **given)
            if prompt is None:
                return stock(*args, **kwargs)  # type: ignore[no-any-return]
            positions = prompt.positions()
            delta = torch.tensor([positions.max() + 1 - prompt.length])
            device = given["input_ids"].device
            return positions[:, None].to(device), delta.unsqueeze(1).to(device)

        return get_rope_index


def merged(picture: Tensor, sound: Tensor) -> tuple[Tensor, int]:
    """Two sequences of positions in one, by time; of equal ones the picture's come first.

    Parameters
    ----------
    picture, sound : Tensor, shapes (3, n) and (3, m)
        Each ascending in time, neither empty.

    Returns
    -------
    positions : Tensor, shape (3, n + m)
    tail : int
        How many at the end are of one modality.
    """
    order = torch.cat([picture[0], sound[0]]).argsort(stable=True)
    seen = order < picture.shape[1]
    others = (seen != seen[-1]).nonzero()
    return torch.cat([picture, sound], 1)[:, order], len(seen) - 1 - int(others[-1])


@dataclass(frozen=True)
class PictureWithSound:
    """One video with its sound in a prompt."""

    before: int  # text tokens before the two that begin the media
    grid: tuple[int, int, int]  # time, height and width, the latter two in merged tokens
    seconds: Tensor  # float32 scalar: between two grids in time
    rate: float  # positions per second
    sound: int  # audio tokens
    length: int  # of the prompt

    @property
    def after(self) -> int:
        """Text tokens behind the two that end the media; negative if the prompt is too short."""
        return self.length - self.before - math.prod(self.grid) - self.sound - 4

    def positions(self) -> Tensor:
        """Float32 Tensor (3, length) of time, height and width."""
        time, height, width = self.grid
        start = self.before + 2
        instants = (torch.arange(time) * self.seconds * self.rate).float()
        rows, columns = torch.arange(height).float(), torch.arange(width).float()
        picture = torch.stack(torch.meshgrid(instants, rows, columns, indexing="ij")).flatten(1)
        sound = torch.arange(self.sound).expand(3, -1)
        media, tail = merged(picture + start, (sound + start).float())
        ahead = torch.arange(start).float().expand(3, -1)
        # Text continues behind the run that comes last, of one modality, even where an earlier
        # position is larger: transformers counts like this, and so the model was trained.
        behind = (torch.arange(self.after + 2) + media[:, -tail:].max() + 1).expand(3, -1)
        return torch.cat([ahead, media, behind], 1)


def _recognised(
    config: Any,
    input_ids: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    use_audio_in_video: bool = False,
    audio_seqlens: Tensor | None = None,
    second_per_grids: Tensor | None = None,
) -> PictureWithSound | None:
    """The prompt, if it is one unpadded sequence with one video and its sound."""
    ids, grids, mask = input_ids, video_grid_thw, attention_mask
    frames, seconds = audio_seqlens, second_per_grids
    if image_grid_thw is not None or not use_audio_in_video:
        return None
    if ids is None or grids is None or mask is None or frames is None or seconds is None:
        return None
    counts = (len(ids), len(grids), frames.numel(), len(seconds))
    if counts != (1, 1, 1, 1) or mask.shape != ids.shape or not bool((mask == 1).all()):
        return None
    host = ids[0].cpu()
    pictures = (host == config.vision_start_token_id).nonzero()[:, 0].tolist()
    sounds = (host == config.audio_start_token_id).nonzero()[:, 0].tolist()
    with_image = bool((host == config.image_token_id).any())
    if with_image or len(pictures) != 1 or sounds != [pictures[0] + 1]:
        return None
    merge = config.vision_config.spatial_merge_size
    time, height, width = grids[0].tolist()
    prompt = PictureWithSound(
        before=pictures[0],
        grid=(time, height // merge, width // merge),
        seconds=torch.as_tensor(seconds[0]).cpu().float(),
        rate=config.position_id_per_seconds,
        sound=FAMILY.audio_tokens(int(frames.flatten()[0])),
        length=len(host),
    )
    return prompt if prompt.after >= 0 and prompt.sound > 0 else None
