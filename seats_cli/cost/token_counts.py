"""How many encoder positions and tokens a prompt takes, and what a plan leaves of them.

Predicted counts per modality are exact for SEATS with exact totals (`allocation="adaptive"`); the
published allocation may miss the total of a drop by a few tokens, because every window keeps at
least one token of each modality.

At the end, when in a clip its tokens are: the one mapping for evidence, page and strip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from seats_cli.families.base import HOP, MIN_SAMPLES, SAMPLE_RATE, Architecture, parts
from seats_cli.families.registry import family_of
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.schedule import PruningPlan


@dataclass(frozen=True)
class MediaSizes:
    """What the encoders are given."""

    grids: tuple[tuple[int, int, int], ...] = ()  # of each video: times, rows, columns of patches
    mel_frames: tuple[int, ...] = ()  # of each sound, 100 per second

    @classmethod
    def of_clip(
        cls, architecture: Architecture, frames: int, height: int, width: int, samples: int
    ) -> MediaSizes:
        """For frames of that size in pixels and so many samples of sound; none of either is 0."""
        vision, family = architecture.vision, family_of(architecture)
        patch = vision.patch_size
        grid = (frames // vision.temporal_patch_size, height // patch, width // patch)
        return cls((grid,) if frames else (), (family.mel_frames(samples),) if samples else ())


def as_encoded(architecture: Architecture, clip: Clip, sizes: MediaSizes) -> MediaFacts:
    """A clip's facts, with what they tell of pictures and sound as the encoders were given it.

    Only clips that were made or changed by hand say otherwise; nothing could check them later.
    """
    media, vision = clip.facts, architecture.vision
    width = height = None
    frames, sound_s = 0, 0.0
    for grids, rows, columns in sizes.grids:
        width, height = columns * vision.patch_size, rows * vision.patch_size
        frames = media.frames_used if clip.frames is None else len(clip.frames)
        if -(-frames // vision.temporal_patch_size) != grids:
            frames = grids * vision.temporal_patch_size
    for mel_frames in sizes.mel_frames:
        sound_s = media.audio_used_s if clip.audio is None else clip.audio_s
        # The last frame may be begun, and a sound that is too short is padded.
        if abs(sound_s - mel_frames * HOP / SAMPLE_RATE) > (MIN_SAMPLES + HOP) / SAMPLE_RATE:
            sound_s = mel_frames * HOP / SAMPLE_RATE
    return replace(media, width=width, height=height, frames_used=frames, audio_used_s=sound_s)


def grid_tokens(architecture: Architecture, grid: tuple[int, int, int]) -> int:
    """LLM tokens of one temporal grid of a video."""
    return grid[1] * grid[2] // architecture.vision.merge_size**2


def token_counts(architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
    """Video and audio tokens of a prompt."""
    video = sum(grid[0] * grid_tokens(architecture, grid) for grid in sizes.grids)
    return video, sum(map(family_of(architecture).audio_tokens, sizes.mel_frames))


def video_windows(architecture: Architecture, sizes: MediaSizes, grids: int) -> list[int]:
    """Tokens of each selection window of `grids` temporal grids; none spans two videos."""
    return [
        part * grid_tokens(architecture, grid)
        for grid in sizes.grids
        for part in parts(grid[0], grids)
    ]


def audio_windows(architecture: Architecture, sizes: MediaSizes, tokens: int) -> list[int]:
    """Tokens of each selection window of the sound; none spans two sounds."""
    family = family_of(architecture)
    return [
        part for frames in sizes.mel_frames for part in parts(family.audio_tokens(frames), tokens)
    ]


def audio_statistics_windows(architecture: Architecture, sizes: MediaSizes) -> list[int]:
    """Encoder positions of each window in which the importance of sound is measured."""
    family = family_of(architecture)
    return [
        part
        for frames in sizes.mel_frames
        for part in parts(family.audio_positions(frames), family.audio_statistics_window)
    ]


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, without its tokenizer.

    Qwen's vocabulary averages about four characters a token in English, and one or two in
    scripts other than Latin.
    """
    latin = sum(ord(character) < 0x250 for character in text)
    return -(-latin // 4) + len(text) - latin


def tokens_to_keep(size: int, share: float) -> int:
    """Tokens that stay of a window or modality: half to even, at least one of any there are."""
    return min(max(round(share * size), 1), size)


Counts = tuple[int, int, int]


def predicted_counts(
    plan: PruningPlan | None, architecture: Architecture, sizes: MediaSizes, text: int
) -> tuple[list[Counts], Counts]:
    """Video, audio and text tokens in each layer, and after the last one.

    Parameters
    ----------
    plan : PruningPlan or None
        None for an unpruned run.
    sizes : MediaSizes
        Pictures and sound of the prompt.
    text : int
        Text tokens of the prompt.

    Returns
    -------
    alive : list of (int, int, int)
        Tokens that each layer processes.
    final : (int, int, int)
        Tokens that leave the last layer.
    """
    video, audio = token_counts(architecture, sizes)
    if plan is None or not plan.prunes:
        return [(video, audio, text)] * architecture.num_layers, (video, audio, text)
    if plan.initial_video < 1.0:
        windows = video_windows(architecture, sizes, plan.config.video_window)
        video = sum(tokens_to_keep(size, plan.initial_video) for size in windows)
    if plan.initial_audio < 1.0:
        windows = audio_windows(architecture, sizes, plan.config.audio_window)
        audio = sum(tokens_to_keep(size, plan.initial_audio) for size in windows)
    ratios = {
        layer: (kept_video, kept_audio)
        for layer, kept_video, kept_audio in zip(
            plan.drop_layers, plan.keep_video, plan.keep_audio, strict=True
        )
    }
    alive: list[Counts] = []
    for layer in range(1, architecture.num_layers + 1):
        alive.append((video, audio, text))
        if layer in ratios:
            video, audio = (
                tokens_to_keep(size, ratio)
                for size, ratio in zip((video, audio), ratios[layer], strict=True)
            )
        if plan.late_layer is not None and layer == plan.late_layer - 1:
            video = audio = 0
    return alive, (video, audio, text)


def average_retention(alive: list[Counts], offered: Counts) -> float | None:
    """Mean over the layers of the share of audio-visual tokens alive; None without any."""
    whole = len(alive) * (offered[0] + offered[1])
    return sum(video + audio for video, audio, _ in alive) / whole if whole else None


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
    """What an answer rests on in time: a window of the clip with much of the relevance.

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
