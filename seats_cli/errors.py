"""The exceptions that users can cause, each with the exit code of the command line.

Libraries raise them with one sentence that names the cause and the remedy; only
`seats_cli.cli` turns them into output and an exit code.
"""

from __future__ import annotations


class SeatsError(Exception):
    """Base of every expected failure; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(SeatsError):
    """A request that cannot be carried out as written (exit 2)."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A pruning setting out of range or unreachable (exit 2)."""


class MediaError(SeatsError):
    """A file that cannot be read as video or audio (exit 3)."""

    exit_code = 3


class ModelError(SeatsError):
    """A model that cannot be found, loaded or supported (exit 4)."""

    exit_code = 4


class ResourceError(SeatsError):
    """Out of memory, or more tokens than the model's context holds (exit 5)."""

    exit_code = 5


class BatchError(SeatsError):
    """Some items of a batch failed (exit 6)."""

    exit_code = 6
