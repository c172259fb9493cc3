"""Clips that stay open between questions, for programs that stay up: the server and the plugins.

The least recently used ones go when all of them take more than a number of bytes. A clip is known
by what it is and by how it is read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seats_cli.cost.fit import fit_file
from seats_cli.cost.token_counts import token_counts
from seats_cli.engine.session import MAX_BYTES, AskableModel, ClipSession
from seats_cli.media.clip import ReadOptions

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.cost.context import Need
    from seats_cli.families.base import FrameSizing
    from seats_cli.media.clip import Clip


@dataclass(frozen=True)
class ClipKey:
    """What makes two clips the same."""

    content: Hashable  # equal for the same clip, say the SHA-256 of its file
    read: ReadOptions  # as requested
    system: str | None
    # The setting and the length of answers that decided how much of the clip fits the context;
    # None where all of it does, whatever they are.
    fitted_for: str | None = None


@dataclass(eq=False)
class OpenClip:
    """A clip that has been read; its session is made when it is first asked about."""

    key: ClipKey
    clip: Clip
    read_s: float
    warnings: tuple[str, ...]  # of reading it
    room: int = 0  # tokens of text and answer that it was read to leave room for
    session: ClipSession | None = None

    def open(self, loaded: AskableModel, max_bytes: int = MAX_BYTES) -> ClipSession:
        """The session; for the thread alone that runs the model."""
        if self.session is None:
            # Where nothing is kept, nobody needs to be told that the next question reads it again.
            limit = min(max_bytes or MAX_BYTES, MAX_BYTES)
            self.session = loaded.open(self.clip, system=self.key.system, max_bytes=limit)
        return self.session

    @property
    def bytes(self) -> int:
        """Frames, sound, features and what the session has worked out."""
        parts = (self.clip.frames, self.clip.audio)
        own = sum(part.nbytes for part in parts if part is not None)
        return own + (0 if self.session is None else self.session.bytes)


class OpenClips:
    """Open clips up to a number of bytes; safe to use from several threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._clips: OrderedDict[ClipKey, tuple[OpenClip, int]] = OrderedDict()

    @property
    def count(self) -> int:
        """Clips that are open."""
        return len(self._clips)

    @property
    def bytes(self) -> int:
        """What they take."""
        with self._lock:
            return sum(size for _, size in self._clips.values())

    def find(
        self,
        content: Hashable,
        read: ReadOptions,
        system: str | None,
        config: SeatsConfig | None,
        max_new_tokens: int | None = None,
    ) -> OpenClip | None:
        """An open clip with this content that a setting can ask about; from now on the latest.

        `max_new_tokens` is what the request says about its answer; None where it says nothing.
        """
        with self._lock:
            for fitted_for in (None, _setting(config, max_new_tokens)):
                key = ClipKey(content, read, system, fitted_for)
                if key in self._clips:
                    self._clips.move_to_end(key)
                    return self._clips[key][0]
        return None

    def keep(self, opened: OpenClip) -> None:
        """Hold a clip, or note what it takes by now, and let others go for it.

        Not even the latest one stays where it alone takes more than there is.
        """
        size = opened.bytes
        with self._lock:
            self._clips[opened.key] = (opened, size)
            self._clips.move_to_end(opened.key)
            held = sum(size for _, size in self._clips.values())
            while self._clips and held > self._max_bytes:
                _, (_, freed) = self._clips.popitem(last=False)
                held -= freed

    def forget(self, opened: OpenClip) -> None:
        """Let one go, which is not to be found any more."""
        with self._lock:
            self._clips.pop(opened.key, None)

    def clear(self) -> None:
        """Let all of them go: their memory is needed."""
        with self._lock:
            self._clips.clear()


def fit_to_share(
    path: str,
    key: ClipKey,
    config: SeatsConfig | None,
    loaded: AskableModel,
    need: Need,
    sizing: FrameSizing | None = None,
    *,
    max_new_tokens: int | None = None,
) -> tuple[ClipKey, ReadOptions, tuple[str, ...]]:
    """How to read a clip so that the context holds it, whatever the setting if that is possible.

    Parameters
    ----------
    key : ClipKey
        With what is requested in `read`.
    config : SeatsConfig or None
        What of the clip enters the LLM where not all of it fits, as `need` has it.
    sizing : FrameSizing, optional
        In place of the model's own.
    max_new_tokens : int, optional
        What the request says about its answer, as in `OpenClips.find`.

    Returns
    -------
    key : ClipKey
        With the setting, if that decided how much is read.
    read : ReadOptions
        What fits.
    notes : tuple of str
        What was done for it, in sentences.
    """
    sizes = sizing or loaded.sizing
    # Nothing is left out where all tokens fit, so that every setting can share the clip.
    whole = replace(need, entering=(token_counts,))
    fitted, notes = fit_file(path, key.read, sizes, loaded.architecture, whole)
    if not notes:
        return key, fitted, ()
    fitted, notes = fit_file(path, key.read, sizes, loaded.architecture, need)
    return replace(key, fitted_for=_setting(config, max_new_tokens)), fitted, notes


def _setting(config: SeatsConfig | None, max_new_tokens: int | None) -> str:
    """What of a request decides how much of a clip fits."""
    kept = "full" if config is None else repr(sorted(config.to_dict().items()))
    return f"{kept} {max_new_tokens}"
