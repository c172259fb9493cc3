"""The exceptions that users can cause, each with the exit code of the command line.

Libraries raise them with one sentence that names the cause and the remedy; only
`seats_cli.cli` turns them into output and an exit code.
"""

from __future__ import annotations

import errno
import re


class SeatsError(Exception):
    """Base of every expected failure; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(SeatsError):
    """A request that cannot be carried out as written (exit 2)."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A pruning setting out of range or unreachable (exit 2)."""


class RequestError(UsageError):
    """A request that the API server does not answer, and the HTTP status that says why."""

    def __init__(
        self,
        sentence: str,
        status: int = 400,
        code: str = "invalid_request",
        param: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code  # a word that programs can tell it by
        self.param = param  # the key of the request that is at fault, if it is one

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, int, str, str | None]]:
        return type(self), (str(self), self.status, self.code, self.param)  # between processes


class OutputError(SeatsError):
    """An answer that its destination does not take: a full disk, a closed stream (exit 1)."""

    def __init__(self, sentence: str, lost: str = "") -> None:
        super().__init__(sentence)
        self.lost = lost  # the text that could not be written, for wherever else it can go


class MediaError(SeatsError):
    """A file that cannot be read as video or audio (exit 3)."""

    exit_code = 3


class TooLargeError(MediaError):
    """A file with more bytes than are taken (exit 3)."""


class LocalAddressError(MediaError):
    """A URL that leads to this machine or its own network (exit 3)."""


class ModelError(SeatsError):
    """A model that cannot be found, loaded or supported (exit 4)."""

    exit_code = 4


class ResourceError(SeatsError):
    """Out of memory, or more tokens than the model's context holds (exit 5)."""

    exit_code = 5


class BatchError(SeatsError):
    """Some items of a batch failed (exit 6)."""

    exit_code = 6


ADVICE = (
    "A smaller input or budget helps, for example "
    "`max_frames=64`, `max_pixels=150000`, `retain=0.1` or `dtype=bfloat16`."
)
# What allocators say, those of the host and any.
_ON_HOST = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|bad_alloc|map segment"
    r"|(?<!OutOf)MemoryError",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(r"out of memory|OutOfMemoryError|_ALLOC_FAILED", re.IGNORECASE)


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
    if type(error).__name__ == "OutOfMemoryError":
        return "GPU"
    return out_of_memory_in(str(error)) if isinstance(error, RuntimeError) else None


def out_of_memory_in(message: str) -> str | None:
    """Where memory ran out by what an allocator says: "host", "GPU", None if it says else."""
    if _ON_HOST.search(message):
        return "host"
    if _ANYWHERE.search(message):
        gpu = "OutOfMemoryError" in message or "cpu" not in message.lower()
        return "GPU" if gpu else "host"
    return None
