"""A bound on what FFmpeg allocates because a file says so."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

import av.container.core

# A 16,384 x 8,192 picture in RGBA, and the index of a video of 27 million frames. FFmpeg's own
# bound is 2 GiB, which a file of a kilobyte can make it fill.
_MAX_ALLOCATION = 5 << 27


@cache
def bound_allocations() -> None:
    """Let no single allocation of PyAV's FFmpeg exceed 640 MiB, from now on.

    PyAV does not offer this; where its FFmpeg is out of reach, FFmpeg's own bound stays.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(av.container.core.__file__)  # FFmpeg is among what this links to
        library.av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION))
