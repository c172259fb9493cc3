"""When in a clip the tokens of its prompt are: the one mapping for evidence, page and strip."""

from __future__ import annotations

from dataclasses import dataclass

from seats_cli.families.base import Architecture
from seats_cli.media.clip import MediaFacts


@dataclass(frozen=True)
class Grid:
    """The video tokens: `grids` temporal grids of `rows` times `columns`.

    A temporal grid consists of `frames` frames and covers `seconds`.
    """

    grids: int
    rows: int
    columns: int
    frames: int
    seconds: float

    @property
    def size(self) -> int:
        """Tokens of one temporal grid."""
        return self.rows * self.columns


@dataclass(frozen=True)
class TokenTimes:
    """Seconds that tokens cover, counted from where reading the clip began.

    Tokens are numbered from 0 within their modality, in the order of the unpruned prompt.
    """

    grid: Grid | None  # None without video tokens, or if nothing says when the frames are
    audio_tokens_per_s: float

    @classmethod
    def of_clip(
        cls, media: MediaFacts, architecture: Architecture, fps: float | None
    ) -> TokenTimes:
        """Of a clip that was read with `fps` effective frames per second."""
        vision, grid = architecture.vision, None
        if media.frames_used and media.height and media.width and fps:
            side = vision.patch_size * vision.merge_size
            frames = vision.temporal_patch_size
            grid = Grid(
                media.frames_used // frames,
                media.height // side,
                media.width // side,
                frames,
                frames / fps,
            )
        return cls(grid, architecture.audio.tokens_per_second)

    def video(self, first: int, last: int) -> tuple[float, float]:
        """Where the grids of video tokens `first` to `last` begin and end."""
        assert self.grid is not None
        size, seconds = self.grid.size, self.grid.seconds
        return first // size * seconds, (last // size + 1) * seconds

    def audio(self, first: int, last: int) -> tuple[float, float]:
        """Where audio tokens `first` to `last` begin and end."""
        return first / self.audio_tokens_per_s, (last + 1) / self.audio_tokens_per_s


@dataclass(frozen=True)
class Evidence:
    """A moment of the clip that an answer rests on: a window with much of the relevance.

    Relevance is the attention that the last token of the prompt, from which the answer starts, pays
    to a token, added up over the drop layers: those of the plan for SEATS, whose Stage II measures
    it, and the model's default ones otherwise. A token that is gone by a layer has none there.
    `share` is the relevance of the window's tokens of one modality, divided by that of all video
    and audio tokens: the shares of all windows of both modalities sum to 1. It says where the model
    looked, not that it looked at the right thing.
    """

    # Seconds from the start of the file, as in `MediaFacts`.
    start_s: float
    end_s: float
    modality: str  # "video" or "audio"
    share: float  # 0..1
