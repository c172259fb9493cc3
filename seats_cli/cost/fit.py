"""How much of a clip is read, so that what enters the LLM fits the model's context.

The official pipeline's sizes are the starting point. Where they are too much even after pruning,
frames become smaller; and where that is not enough, because the sound alone fills the context,
the sound ends earlier. Both are decided from the files' indices, before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seats_cli.cost.context import Entering, Need
from seats_cli.cost.token_counts import MediaSizes, token_counts
from seats_cli.errors import SeatsError
from seats_cli.families.base import SAMPLE_RATE, Architecture, FrameSizing
from seats_cli.media.clip import MediaFacts, ReadOptions
from seats_cli.media.frame_sampling import frame_size
from seats_cli.media.inspection import ClipOutline, outline_clip
from seats_cli.media.probe import MediaSource

# Left free where a clip is fitted: the index tells the length of the sound to some hundredths of a
# second, and the text around a question is not known to the token.
_SPARE_TOKENS = 64
_STEPS = 4096  # in which frames become smaller


@dataclass(frozen=True, eq=False)
class ClipRequest:
    """A clip as somebody wants it."""

    outline: ClipOutline  # what reading it so gives
    read: ReadOptions
    sizing: FrameSizing  # the model's own bounds


@dataclass(frozen=True, eq=False)
class Fitted:
    """Clips as they are to be read."""

    clips: tuple[ClipRequest, ...]
    warnings: tuple[str, ...]  # what is less than was requested: one sentence, or none


def fit_file(
    path: str,
    read: ReadOptions,
    sizing: FrameSizing,
    architecture: Architecture,
    need: Need,
    *,
    source: MediaSource | None = None,
) -> tuple[ReadOptions, tuple[str, ...]]:
    """What to read of a file, and a warning if that is less than `read`.

    A file whose index cannot be read is left as it is: reading it will say what is wrong.

    Parameters
    ----------
    sizing : FrameSizing
        The model's own bounds.
    source : MediaSource, optional
        What `probe` has found in the file.
    """
    try:
        outline = outline_clip(path, read, sizing=sizing, source=source)
    except SeatsError:
        return read, ()
    fitted = fit([ClipRequest(outline, read, sizing)], architecture, need)
    return fitted.clips[0].read, fitted.warnings


def fit(clips: Sequence[ClipRequest], architecture: Architecture, need: Need) -> Fitted:
    """Clips of one prompt, all of them reduced alike where they do not fit as they are.

    Frames become smaller. Where the sound would leave the picture less than half of its pixels (or
    than the official least) and less than half of the room, the sound ends earlier instead.
    """
    job = _Fitting(clips, architecture, need)
    if job.room <= 0 or job.fits():
        return Fitted(tuple(clips), ())
    job.shrink_frames()
    job.shorten_sounds()
    return Fitted(job.clips, job.warnings())


class _Fitting:
    """Clips on their way to a size that fits."""

    def __init__(
        self, clips: Sequence[ClipRequest], architecture: Architecture, need: Need
    ) -> None:
        self.clips, self._wanted = tuple(clips), tuple(clips)
        self._architecture, self._need = architecture, need
        self.room = architecture.max_positions - need.answer - need.text

    def fits(self) -> bool:
        """Whether everything fits as it is now."""
        return all(sum(self._enter(enters)) <= self.room for enters in self._need.entering)

    def shrink_frames(self) -> None:
        """Make frames as small as it takes, within what the picture may keep."""
        room = max(1, self.room - _SPARE_TOKENS)
        least = [
            _with_pixels(clip, max(_area(clip) // 2, clip.read.bound(clip.sizing).min_pixels))
            for clip in self.clips
        ]
        goals = []
        for enters in self._need.entering:
            smallest, _ = self._enter(enters, least)
            _, sound = self._enter(enters)
            goals.append((enters, max(room - sound, min(room // 2, smallest))))

        def shrunk(steps: int) -> list[ClipRequest]:
            return [_with_pixels(clip, _area(clip) * steps // _STEPS) for clip in self._wanted]

        def within(steps: int) -> bool:
            smaller = shrunk(steps)
            return all(self._enter(enters, smaller)[0] <= goal for enters, goal in goals)

        if not all(self._enter(enters)[0] <= goal for enters, goal in goals):
            self.clips = tuple(shrunk(_largest(1, _STEPS, within)))

    def shorten_sounds(self) -> None:
        """Leave out the ends of sounds that do not fit beside the picture."""
        longest = max(clip.outline.facts.audio_used_s for clip in self.clips)
        if self.fits() or longest < 1:
            return
        room = self.room - _SPARE_TOKENS

        def shortened(seconds: int) -> list[ClipRequest]:
            return [_with_sound(clip, float(seconds)) for clip in self.clips]

        def within(seconds: int) -> bool:
            shorter = shortened(seconds)
            return all(sum(self._enter(enters, shorter)) <= room for enters in self._need.entering)

        self.clips = tuple(shortened(_largest(1, int(longest), within)))

    def warnings(self) -> tuple[str, ...]:
        """What has changed and why, with the numbers."""
        changes = []
        for before, after in zip(self._wanted, self.clips, strict=True):
            old, new = before.outline.facts, after.outline.facts
            if (old.height, old.width) != (new.height, new.width):
                changes.append(
                    f"{old.frames_used} frames are read in {new.width} x {new.height} pixels "
                    f"instead of {old.width} x {old.height}"
                )
            if old.audio_used_s != new.audio_used_s:
                changes.append(
                    f"the first {new.audio_used_s:,.0f} of {old.audio_used_s:,.0f} s of sound "
                    "are used"
                )
        if not changes:
            return ()
        offered = sum(self._enter(token_counts, self._wanted))
        entering = max(sum(self._enter(enters, self._wanted)) for enters in self._need.entering)
        return (
            f"{entering:,} of the clip's {offered:,} tokens would enter the LLM, where question "
            f"and answer leave room for {self.room:,} of {self._architecture.max_positions:,}: "
            f"{' and '.join(changes)} (choose a shorter part with `start` and `end`, or a lower "
            "`retain` or `fps`, to keep more).",
        )

    def _enter(
        self, enters: Entering, clips: Sequence[ClipRequest] | None = None
    ) -> tuple[int, int]:
        facts = [clip.outline.facts for clip in (self.clips if clips is None else clips)]
        return enters(self._architecture, sizes_of(self._architecture, facts))


def sizes_of(architecture: Architecture, clips: Sequence[MediaFacts]) -> MediaSizes:
    """What the encoders are given of clips with these facts."""
    parts = [
        MediaSizes.of_clip(
            architecture,
            facts.frames_used,
            facts.height or 0,
            facts.width or 0,
            round(facts.audio_used_s * SAMPLE_RATE),
        )
        for facts in clips
    ]
    return MediaSizes(
        tuple(grid for part in parts for grid in part.grids),
        tuple(frames for part in parts for frames in part.mel_frames),
    )


def _area(clip: ClipRequest) -> int:
    """Pixels of a frame."""
    facts = clip.outline.facts
    return (facts.height or 0) * (facts.width or 0)


def _with_pixels(clip: ClipRequest, most: int) -> ClipRequest:
    """The clip with frames of at most so many pixels."""
    facts = clip.outline.facts
    if not facts.frames_used or most >= _area(clip):
        return clip
    read = replace(clip.read, max_pixels=max(clip.sizing.factor**2, most))
    rows, columns = frame_size(
        facts.source_height or 0,
        facts.source_width or 0,
        facts.frames_used,
        read.bound(clip.sizing),
    )
    facts = replace(facts, height=rows, width=columns)
    return replace(clip, read=read, outline=replace(clip.outline, facts=facts))


def _with_sound(clip: ClipRequest, seconds: float) -> ClipRequest:
    """The clip with at most so many seconds of sound."""
    facts = clip.outline.facts
    if facts.audio_used_s <= seconds:
        return clip
    facts = replace(facts, audio_used_s=seconds)
    outline = replace(clip.outline, facts=facts)
    return replace(clip, read=replace(clip.read, max_audio=seconds), outline=outline)


def _largest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest number of a range for which something holds; `low` if it does for none."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
