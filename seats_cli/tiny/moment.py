"""Clips in which nothing happens for a long time but for one short moment.

A still picture and silence, then for a few seconds another picture with a sound, and the still
picture's successor to the end: what an answer needs lies in the moment, so budgets that are spread
evenly over time waste most of what they have.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seats_cli.tiny.clip import KIND_WEIGHTS, Draft, Layout, draw_floor
from seats_cli.tiny.scene import sample_scene
from seats_cli.tiny.sound import sample_sound

SHORTEST, LONGEST = 2.5, 5.0  # seconds of the moment; two seconds are four frames
_QUIET = 2.0  # seconds that the pictures around it stay at least
_EDGE = 0.12  # seconds kept free between the sound and a change of picture
_IN_THE_MIDDLE = 0.7  # share of moments with a still picture on both sides


def draft_moment(rng: np.random.Generator, layout: Layout) -> tuple[Draft, int]:
    """Decide what happens in a long quiet clip, and when.

    Parameters
    ----------
    rng : numpy Generator
        The only source of chance.
    layout : Layout
        With picture and sound, at least 7 seconds.

    Returns
    -------
    Draft
    int
        Index of the segment that is the moment.
    """
    scene = sample_scene(rng, np.array(layout.frame_times), layout.duration, multi_share=1.0)
    length = float(rng.uniform(SHORTEST, LONGEST))
    pieces = 3 if len(scene.segments) > 2 and rng.random() < _IN_THE_MIDDLE else 2
    if pieces == 3:
        moment = 1
        start = float(rng.uniform(_QUIET, layout.duration - _QUIET - length))
        borders = [0.0, start, start + length, layout.duration]
    else:
        moment = int(rng.integers(2))
        cut = length if moment == 0 else layout.duration - length
        borders = [0.0, cut, layout.duration]
    segments = tuple(
        replace(segment, start=borders[index], end=borders[index + 1])
        for index, segment in enumerate(scene.segments[:pieces])
    )
    weights = np.array(list(KIND_WEIGHTS.values()))
    kind = str(rng.choice(list(KIND_WEIGHTS), p=weights / weights.sum()))
    sound = sample_sound(rng, kind, borders[moment] + _EDGE, borders[moment + 1] - _EDGE)
    quiet = replace(scene, segments=segments, motion="still", speed=0.0)
    return Draft(layout, quiet, (sound,), draw_floor(rng), int(rng.integers(2**31))), moment
