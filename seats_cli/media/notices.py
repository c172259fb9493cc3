"""The sentences that tell a user what of a file was not used as it stands."""

from __future__ import annotations

from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.audio import MAX_AUDIO_S, DecodedSound
from seats_cli.media.frame_sampling import FramePlan
from seats_cli.media.packets import PacketTable
from seats_cli.media.probe import AudioTrack, Source, VideoTrack
from seats_cli.media.timeline import Gaps
from seats_cli.media.video import DecodedFrames

# Encoders pad sound to whole packets and pictures to whole frames; below this it is that.
NOTICEABLE_S = 0.5
LATE_SOUND_S = 0.1
_SQUARE = 1.04  # pixels less oblong than this are rounding, not a format


def picture_notices(
    track: VideoTrack,
    table: PacketTable,
    plan: FramePlan,
    picture: DecodedFrames,
    *,
    fps: float,
    max_frames: int,
    whole: bool,
) -> list[str]:
    """Sentences about the picture.

    Parameters
    ----------
    track, table, plan, picture
        What the header claims, the packets there are, what was planned and what came.
    fps, max_frames : float, int
        Frames per second wanted, and the most frames allowed.
    whole : bool
        Whether the whole file was read, so that the header's claim can be checked.
    """
    said = []
    used, there = len(plan.times), len(table.pts)
    claimed = track.claimed_frames - table.discarded
    wanted = used / plan.fps * fps
    # Rounding down to an even number is the rule; a video slower than asked for has no more.
    if used + 2 > max_frames and wanted >= used + 2 and plan.source_fps > plan.fps:
        said.append(
            f"The picture is sampled at {plan.fps:.2g} instead of {fps:g} frames per second, "
            f"because no more than {used} frames are taken; choose a shorter part "
            "(--start, --end) or allow more (--max-frames)."
        )
    if whole and claimed > there + 1:
        said.append(
            f"The file is damaged or cut off: only {there} of {claimed} frames can be read."
        )
    if picture.missing:
        said.append(
            f"{picture.missing} of the {used} frames taken could not be decoded; "
            "the frame before stands in for each."
        )
    elif picture.broken:
        said.append(
            f"Parts of the picture are damaged: {_plural(picture.broken, 'error')} while decoding."
        )
    if not 1 / _SQUARE < track.pixel_shape < _SQUARE:
        said.append(
            f"The file's pixels are {track.pixel_shape:.3g} times as wide as high; they are used "
            "as they are stored, as the models were trained, so things look "
            f"{'narrower' if track.pixel_shape > 1 else 'wider'} than a player shows them."
        )
    if plan.held_s:
        said.append(
            f"The picture starts {plan.held_s:.2f} s after the sound; "
            "its first frame stands for that time."
        )
    return said


def gap_notices(gaps: Gaps) -> list[str]:
    """A sentence if time was taken out."""
    if not len(gaps):
        return []
    return [
        f"The file's time stamps leap {_plural(len(gaps), 'time')}, over "
        f"{gaps.lengths.sum():,.0f} s without picture and sound; the parts were joined."
    ]


def sound_notices(
    source: Source,
    track: AudioTrack,
    sound: DecodedSound,
    *,
    chosen: bool,
    begin_s: float,
    end_s: float | None,
) -> list[str]:
    """Sentences about the sound.

    Parameters
    ----------
    source, track, sound
        What the header claims, the track that was read, and what came.
    chosen : bool
        Whether the user named the track.
    begin_s, end_s : float, float or None
        The range asked for, on the file's timeline.
    """
    said = []
    if len(source.audio) > 1 and not chosen:
        which = source.audio.index(track)
        said.append(
            f"The file has {len(source.audio)} sound tracks; track {which} "
            f"({track.describe()}) is used; choose another with --audio-track."
        )
    if sound.broken:
        said.append(
            f"Parts of the sound are damaged: {_plural(sound.broken, 'packet')} could not be "
            "decoded and are silent."
        )
    if sound.joined:
        said.append(
            f"The sound's time stamps leap {_plural(sound.joined, 'time')}; "
            "the parts were joined, so sound and picture may not match after that."
        )
    if sound.cut:
        said.append(_cut(source, len(sound.samples) / SAMPLE_RATE, begin_s, end_s))
    return said


def _cut(source: Source, used_s: float, begin_s: float, end_s: float | None) -> str:
    """What was left out of the sound, and how to choose."""
    stop = end_s if end_s is not None else source.duration_s
    rest = f"its other {stop - begin_s - used_s:.1f} s" if stop is not None else "what follows"
    choose = "choose a part with --start and --end"
    if used_s < MAX_AUDIO_S - 1:
        choose += ", or allow more with --max-audio"
    return (
        f"The sound is cut: only {used_s:.1f} s from {begin_s:.1f} s on are used and {rest} are "
        f"left out; {choose}."
    )


def overall_notices(
    source: Source,
    *,
    picture_end_s: float | None,
    sound_end_s: float | None,
    sound_start_s: float,
    start: float,
    end: float | None,
    audio: bool,
    video: bool,
    sound_cut: bool = False,
) -> list[str]:
    """Sentences about what is absent and where picture and sound part.

    Parameters
    ----------
    source : Source
        What the header claims.
    picture_end_s, sound_end_s : float or None
        Seconds on the file's timeline up to which each was read; None for not at all.
    sound_start_s : float
        Seconds after `start` at which the sound begins.
    start, end : float or None
        The range asked for.
    audio, video : bool
        What was asked for.
    sound_cut : bool
        The sound's end is not the file's, and was told already.
    """
    said = []
    part = "" if not start and end is None else " in this range"
    if video and picture_end_s is None:
        if source.video is None:
            said.append("The file has no picture; only its sound is used.")
        else:
            said.append(f"No picture can be read{part}; only the sound is used.")
    if audio and sound_end_s is None:
        if not source.audio:
            said.append("The file has no sound track; only the picture is used.")
        else:
            said.append(f"No sound can be read{part}; only the picture is used.")
    if picture_end_s is not None and sound_end_s is not None and not sound_cut:
        stop = float("inf") if end is None else end
        picture_end_s, sound_end_s = min(picture_end_s, stop), min(sound_end_s, stop)
        if sound_end_s - picture_end_s > NOTICEABLE_S:
            said.append(_ends("picture", picture_end_s, "sound", sound_end_s))
        if picture_end_s - sound_end_s > NOTICEABLE_S:
            said.append(_ends("sound", sound_end_s, "picture", picture_end_s))
    if sound_end_s is not None and sound_start_s > LATE_SOUND_S:
        said.append(f"The sound starts {sound_start_s:.2f} s late; there is silence before it.")
    read_to = max(picture_end_s or 0.0, sound_end_s or 0.0)
    claimed = source.duration_s if end is None else None
    if (
        claimed
        and audio
        and video
        and not sound_cut
        and claimed - read_to > max(NOTICEABLE_S, 0.02 * claimed)
    ):
        said.append(
            f"The file says that it lasts {claimed:.2f} s, "
            f"but only {read_to:.2f} s of it can be read."
        )
    return said


def _ends(first: str, first_s: float, then: str, then_s: float) -> str:
    return f"The {first} ends at {first_s:.2f} s, the {then} at {then_s:.2f} s."


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
