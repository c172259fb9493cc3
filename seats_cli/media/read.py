"""Reading a file: the one way by which pixels and sound enter the program."""

from __future__ import annotations

import os

from seats_cli.errors import MediaError, UsageError
from seats_cli.media.clip import SAMPLE_RATE, Clip, FrameSizing, MediaFacts
from seats_cli.media.notices import overall_notices
from seats_cli.media.opening import StrPath, shown
from seats_cli.media.probe import probe
from seats_cli.media.reading import Progress, Reading
from seats_cli.media.timecode import check_range


def read_clip(
    path: StrPath,
    *,
    fps: float = 2.0,
    max_frames: int = 768,
    sizing: FrameSizing | None = None,
    start: float | None = None,
    end: float | None = None,
    audio: bool = True,
    audio_track: int | None = None,
    max_audio: float | None = None,
    video: bool = True,
    on_progress: Progress | None = None,
) -> Clip:
    """Read sampled frames and the sound of a local file.

    Frames are scaled as they are decoded and only the sampled ones are kept; the sound is
    never held in more than one copy. A damaged file gives what is readable, with a warning.

    Parameters
    ----------
    path : str or path-like
        A video, sound or image file.
    fps : float
        Frames per second to take.
    max_frames : int
        Upper bound on the frames; beyond it the effective rate falls.
    sizing : FrameSizing, optional
        Bounds on the size of the frames; by default those of Qwen2.5-Omni.
    start, end : float or None
        Range in seconds from the start of the file.
    audio, video : bool
        Whether to read the sound and the picture.
    audio_track : int or None
        Which sound track, from 0; None takes the one the file marks as default, else the first.
    max_audio : float or None
        Seconds of sound at most; what is left out is told.
    on_progress : callable or None
        Called with ``"picture"`` or ``"sound"`` and the fraction of it that is done.

    Returns
    -------
    Clip
        Frames uint8 (T, H, W, 3) or None, sound float32 (n,) or None, facts and warnings.

    Raises
    ------
    MediaError
        If the file cannot be read or holds nothing of what was asked for.
    UsageError
        If the range, the rate, the bounds or the track number make no sense.
    """
    source = probe(path)
    check_range(start, end, source.duration_s)
    chosen = source.sound_track(audio_track, shown(path)) if audio else None
    if max_audio is not None and not max_audio > 0:
        raise UsageError(f"The longest sound must be above 0 s, not {max_audio:g}.")
    job = Reading(path, source, start, end, chosen, on_progress)
    if video and source.video is not None:
        job.read_picture(source.video, fps, max_frames, sizing or FrameSizing())
    if chosen is not None:
        job.read_sound(asked=audio_track is not None, max_s=max_audio)
    if job.picture is None and job.sound is None:
        raise MediaError(_nothing(job, audio=audio, video=video))
    job.warnings += overall_notices(
        source,
        picture_end_s=job.picture_end_s,
        sound_end_s=job.sound_end_s,
        sound_start_s=0.0 if job.sound is None else job.sound.first_s,
        start=job.begin,
        end=end,
        audio=audio,
        video=video,
        sound_cut=job.sound is not None and job.sound.cut,
    )
    return _clip(job)


def _nothing(job: Reading, *, audio: bool, video: bool) -> str:
    """The sentence for a file that gave nothing of what was asked for."""
    name, source = shown(job.path), job.source
    if source.video is None and not source.audio:
        return f"{name} holds neither a picture nor sound that can be decoded."
    if not audio and source.video is None:
        return f"{name} has no picture, and its sound was not asked for."
    if not video and not source.audio:
        return f"{name} has no sound track, and its picture was not asked for."
    if job.start is not None or job.end is not None:
        return f"Nothing in this range of {name} can be read; choose another start and end."
    return f"Nothing in {name} can be decoded; it is damaged or cut off."


def _clip(job: Reading) -> Clip:
    """Put together what was read."""
    source, plan, picture, sound = job.source, job.plan, job.picture, job.sound
    track = source.video
    ends = [s for s in (job.picture_end_s, job.sound_end_s) if s is not None]
    end = max(ends) if job.end is None else min(job.end, max(ends))
    used = job.listened if sound is not None else None
    facts = MediaFacts(
        path=os.fspath(job.path),
        container=source.container,
        duration_s=source.duration_s,
        start_s=job.begin,
        end_s=end,
        video_codec=track.codec if track else None,
        source_width=picture.source_width if picture else track.width if track else None,
        source_height=picture.source_height if picture else track.height if track else None,
        source_fps=plan.source_fps if plan else track.rate if track else None,
        rotation_deg=picture.rotation_deg if picture else 0,
        frames_used=len(picture.pixels) if picture else 0,
        width=picture.pixels.shape[2] if picture else None,
        height=picture.pixels.shape[1] if picture else None,
        audio_codec=used.codec if used else None,
        audio_tracks=len(source.audio),
        audio_track=source.audio.index(used) if used else None,
        source_sample_rate=used.rate if used else None,
        source_channels=used.channels if used else None,
        audio_used_s=len(sound.samples) / SAMPLE_RATE if sound else 0.0,
    )
    return Clip(
        frames=picture.pixels if picture else None,
        frame_times=plan.times - job.begin if plan and picture else None,
        fps=plan.fps if plan and picture else None,
        audio=sound.samples if sound else None,
        facts=facts,
        warnings=tuple(job.warnings),
    )
