"""Recognising that memory ran out, whichever library says so and however it says it."""

from __future__ import annotations

import errno

ADVICE = (
    "A smaller input or budget helps, for example "
    "--max-frames 64, --max-pixels 150000, --retain 0.1 or --dtype bfloat16."
)
# What allocators say when they raise a plain RuntimeError.
_ALLOCATOR_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "_alloc_failed",
)


def out_of_memory_on(error: BaseException) -> str | None:
    """Where memory ran out, None if the exception is about something else.

    Parameters
    ----------
    error : BaseException
        From Python, the system, numpy or torch; torch is not imported to find out.

    Returns
    -------
    str or None
        "host" or "GPU".
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return "host"
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return "host"  # not even the libraries fit
    if isinstance(error, RuntimeError):
        message = str(error).lower()
        is_torch_error = type(error).__name__ == "OutOfMemoryError"
        if is_torch_error or any(phrase in message for phrase in _ALLOCATOR_PHRASES):
            return "host" if "cpu" in message and not is_torch_error else "GPU"
    return None
