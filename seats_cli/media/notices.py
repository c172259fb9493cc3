"""The warnings about a file: everything in it that was lost, changed or assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from seats_cli.media.audio import MAX_AUDIO_S, DecodedSound
from seats_cli.media.clip import ReadOptions
from seats_cli.media.frame_sampling import FramePlan
from seats_cli.media.packets import PacketTable
from seats_cli.media.pixels import FrameScaler, Size
from seats_cli.media.probe import AudioTrack, MediaSource, VideoTrack
from seats_cli.media.timeline import Timeline
from seats_cli.media.video import DecodedFrames

# Encoders pad sound to whole packets and pictures to whole frames; below this it is that.
NOTICEABLE_S = 0.5
LATE_SOUND_S = 0.1
_MOST_LISTED = 3  # tracks named in a sentence
_NOTICEABLE_SHARE = 0.02
_MOST_SEAMS = 5  # seams named in a sentence
_SQUARE = 1.04  # pixels less oblong than this are rounding, not a format


def picture_notices(
    track: VideoTrack,
    table: PacketTable,
    plan: FramePlan,
    picture: DecodedFrames,
    options: ReadOptions,
) -> list[str]:
    """Sentences about the picture.

    Parameters
    ----------
    track, table, plan, picture
        What the header claims, the packets found, what was planned and what was decoded.
    options : ReadOptions
        The request.
    """
    lines = thinning_notices(plan, options)
    used, there = len(plan.times), len(table.pts)
    claimed = track.claimed_frames - table.discarded
    # The header's claim is about the whole file; a range cannot be held against it.
    if options.start is None and options.end is None and claimed > there + 1:
        lines.append(
            f"The file is damaged or cut off: only {there} of {claimed} frames can be read."
        )
    if picture.missing:
        lines.append(
            f"{picture.missing} of the {used} frames taken could not be decoded; "
            "the frame before stands in for each."
        )
    elif picture.broken:
        lines.append(
            f"Parts of the picture are damaged: {_plural(picture.broken, 'error')} while decoding."
        )
    shape = picture.scaler.upright_shape(track.pixel_shape)
    if not 1 / _SQUARE < shape < _SQUARE:
        lines.append(
            f"The file's pixels are {shape:.3g} times as wide as high; they are used "
            "as they are stored, as the models were trained, so things look "
            f"{'narrower' if shape > 1 else 'wider'} than a player shows them."
        )
    lines += size_notices(picture.scaler, picture.sizes)
    if picture.strange is not None:
        lines.append(
            f"The picture's colours are off: they are coded as {picture.strange}, which cannot be "
            "converted."
        )
    if plan.held_s:
        lines.append(
            f"The picture starts {plan.held_s:.2f} s after the sound; "
            "its first frame stands for that time."
        )
    return lines


def size_notices(scaler: FrameScaler, sizes: Mapping[Size, int]) -> list[str]:
    """A sentence if not all coded pictures, counted by height and width, have the same size."""
    if len(sizes) < 2:
        return []
    turned = scaler.quarter_turns % 2
    common = sorted(sizes, key=lambda size: -sizes[size])
    listed = [f"{height}x{width}" if turned else f"{width}x{height}" for height, width in common]
    more = " and others" if len(listed) > _MOST_LISTED else ""
    whole = scaler.fitted(*scaler.coded_size)
    bars = [size for size in sizes if scaler.fitted(*size) != whole]
    stands = "those of another shape stand between black bars" if bars else "all fill it"
    return [
        f"The picture's size changes ({', '.join(listed[:_MOST_LISTED])}{more}); it is scaled to "
        f"{scaler.width}x{scaler.height} throughout, and {stands}."
    ]


def track_notices(source: MediaSource, options: ReadOptions) -> list[str]:
    """A sentence if one of several video tracks was taken, and what the others are.

    Covers that are marked as such need no sentence: every player passes over them. Nor does a
    sequence's first frame, which AVIF and HEIC repeat as a still.
    """
    used = source.video
    if used is None or not options.video or options.video_track is not None:
        return []
    others = [
        track
        for track in source.pictures
        if not track.is_marked_cover
        and not (track.is_cover and track.describe() == used.describe())
    ]
    if len(others) < 2:
        return []
    left = [
        f"track {source.number_of(track)} ({track.describe()}"
        f"{', a single frame: its cover' if track.is_cover else ''})"
        for track in others
        if track.index != used.index
    ]
    listed = ", ".join(left[:_MOST_LISTED]) + (" and others" if len(left) > _MOST_LISTED else "")
    return [
        f"The file has {len(others)} pictures; track {source.number_of(used)} ({used.describe()}) "
        f"is used and not {listed}; choose another with `video_track`."
    ]


def thinning_notices(plan: FramePlan, options: ReadOptions) -> list[str]:
    """A sentence if `max_frames` makes the frames fewer than `fps` asks for."""
    used = len(plan.times)
    wanted = used / plan.fps * options.fps
    # Rounding down to an even number is the rule; a video slower than `fps` has no more.
    if used + 2 <= options.max_frames or wanted < used + 2 or plan.source_fps <= plan.fps:
        return []
    return [
        f"The picture is sampled at {plan.fps:.2g} instead of {options.fps:g} frames per second, "
        f"because no more than {used} frames are taken; choose a shorter part "
        "(`start`, `end`) or allow more (`max_frames`)."
    ]


def timeline_notices(timeline: Timeline, late_share: float, options: ReadOptions) -> list[str]:
    """Sentences about parts that were joined, pauses that were not, and tracks that come late."""
    lines = []
    restarts, leaps = timeline.restarts_s, timeline.leaps_s
    what = [f"start again {_plural(len(restarts), 'time')}"] if restarts else []
    if leaps:
        what.append(
            f"leap {_plural(len(leaps), 'time')}, over {timeline.closed_s:,.0f} s without picture "
            "and sound"
        )
    if what:
        seams = sorted([*restarts, *leaps])
        at = ", ".join(f"{seam:.2f} s" for seam in seams[:_MOST_SEAMS])
        more = " and so on" if len(seams) > _MOST_SEAMS else ""
        lines.append(
            f"The file's time stamps {' and '.join(what)}; the parts were joined, one behind the "
            f"other (at {at}{more}), and times count from the start of the first."
        )
    low, high = options.start or 0.0, float("inf") if options.end is None else options.end
    heard = [p for p in timeline.pauses if p[0] < high and p[1] > low]
    for begin, end in heard[:_MOST_SEAMS]:
        lines.append(
            f"From {begin:.2f} s to {end:.2f} s the file has neither picture nor sound; the last "
            "frame and silence stand for that time."
        )
    if len(heard) > _MOST_SEAMS:
        lines.append(f"There are {len(heard) - _MOST_SEAMS} more such pauses.")
    if late_share > _NOTICEABLE_SHARE:
        lines.append(
            f"About {late_share:.0%} of the file belong to tracks that begin in its middle, as of "
            "another recording; they are not used. Cut the file there and use the parts."
        )
    return lines


def sound_notices(
    source: MediaSource,
    track: AudioTrack,
    sound: DecodedSound,
    options: ReadOptions,
) -> list[str]:
    """Sentences about the sound.

    Parameters
    ----------
    source, track, sound
        What the header claims, the track that was read, and what was decoded.
    options : ReadOptions
        The request.
    """
    lines = []
    if len(source.audio) > 1 and options.audio_track is None:
        which = source.audio.index(track)
        lines.append(
            f"The file has {len(source.audio)} sound tracks; track {which} "
            f"({track.describe()}) is used; choose another with `audio_track`."
        )
    if sound.broken:
        lines.append(
            f"Parts of the sound are damaged: {_plural(sound.broken, 'packet')} could not be "
            "decoded and are silent."
        )
    if sound.cancelled_s:
        lines.append(
            f"The channels of the sound cancel each other for {sound.cancelled_s:.1f} s, as if one "
            "were wired the wrong way round; one of them is used there instead of their mix."
        )
    if sound.joined:
        lines.append(
            f"The sound's time stamps leap {_plural(sound.joined, 'time')}; "
            "the parts were joined, so sound and picture may not match after that."
        )
    if sound.cut:
        lines.append(_cut(source, sound.length_s, options))
    return lines


def _cut(source: MediaSource, used_s: float, options: ReadOptions) -> str:
    """What was left out of the sound, and how to choose another part."""
    begin_s = options.start or 0.0
    stop = options.end if options.end is not None else source.duration_s
    rest = f"its other {stop - begin_s - used_s:.1f} s" if stop is not None else "what follows"
    choose = "choose a part with `start` and `end`"
    if used_s < MAX_AUDIO_S - 1:
        choose += ", or allow more with `max_audio`"
    return (
        f"The sound is cut: only {used_s:.1f} s from {begin_s:.1f} s on are used and {rest} are "
        f"left out; {choose}."
    )


def overall_notices(
    source: MediaSource,
    options: ReadOptions,
    picture_end_s: float | None,
    sound: DecodedSound | None,
    header_is_wrong: Callable[[], bool],
) -> list[str]:
    """Sentences about what is absent, and where picture and sound differ in length.

    Parameters
    ----------
    source, options : MediaSource, ReadOptions
        What the header claims, and the request.
    picture_end_s : float or None
        Seconds on the file's timeline up to which the picture was read; None for not at all.
    sound : DecodedSound or None
        The sound, if any was read.
    header_is_wrong : callable
        Whether all of the file is there, so that a claim of more is wrong.
    """
    lines = []
    sound_end_s = None if sound is None else (options.start or 0.0) + sound.length_s
    # A cut sound ends early for a reason that already has its sentence.
    sound_cut = sound is not None and sound.cut
    end = options.end
    part = "" if not options.start and end is None else " in this range"
    if options.video and picture_end_s is None:
        if source.video is None:
            lines.append("The file has no picture; only its sound is used.")
        else:
            lines.append(f"No picture can be read{part}; only the sound is used.")
    if options.audio and sound_end_s is None:
        if not source.audio:
            lines.append("The file has no sound track; only the picture is used.")
        else:
            lines.append(f"No sound can be read{part}; only the picture is used.")
    if picture_end_s is not None and sound_end_s is not None and not sound_cut:
        stop = float("inf") if end is None else end
        picture_end_s, sound_end_s = min(picture_end_s, stop), min(sound_end_s, stop)
        (first_s, first), (last_s, last) = sorted(
            [(picture_end_s, "picture"), (sound_end_s, "sound")]
        )
        if last_s - first_s > NOTICEABLE_S:
            lines.append(f"The {first} ends at {first_s:.2f} s, the {last} at {last_s:.2f} s.")
    if sound is not None and sound.first_s > LATE_SOUND_S:
        lines.append(f"The sound starts {sound.first_s:.2f} s late; there is silence before it.")
    read_to = max(picture_end_s or 0.0, sound_end_s or 0.0)
    claimed = None if source.length_is_estimate or end is not None else source.duration_s
    if (
        claimed
        and options.audio
        and options.video
        and not sound_cut
        and claimed - read_to > max(NOTICEABLE_S, 0.02 * claimed)
    ):
        says = f"The file says that it lasts {claimed:.2f} s"
        if header_is_wrong():
            lines.append(f"{says}; it ends at {read_to:.2f} s, and nothing is missing.")
        else:
            lines.append(f"{says}, but only {read_to:.2f} s of it can be read.")
    return lines


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
