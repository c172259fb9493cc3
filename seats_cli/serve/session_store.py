"""Clips that stay open between requests: the least recently used ones go when there are too many.

A clip is known by its content and by how it is read, or by the name (`uuid`) that a client has
given it, and can then be asked about without being sent, fetched or read again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seats_cli.cost.fit import fit_file
from seats_cli.cost.token_counts import token_counts
from seats_cli.engine.session import MAX_BYTES, AskableModel, ClipSession
from seats_cli.media.clip import ReadOptions
from seats_cli.models import need_of
from seats_cli.serve.media_parts import LocalMedia

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import Clip

# Part of the context that is left for questions and turns when a clip is read, as for `seats chat`.
TALK_SHARE = 1 / 16
_NAMES = 4096  # uuids that are remembered


@dataclass(frozen=True)
class ClipKey:
    """What makes two clips the same."""

    content: str  # SHA-256 of the file
    read: ReadOptions  # as requested
    system: str | None
    # The setting that decided how much of the clip fits the context; None where all of it does,
    # whatever the setting.
    fitted_for: str | None = None


@dataclass(eq=False)
class OpenClip:
    """A clip that has been read; the model's thread makes its session when it is first asked."""

    key: ClipKey
    clip: Clip
    read_s: float
    warnings: tuple[str, ...]  # of reading it
    session: ClipSession | None = None

    def open(self, loaded: AskableModel, max_bytes: int) -> ClipSession:
        """The session; for the model's thread alone."""
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


class SessionStore:
    """Open clips up to a number of bytes; safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._clips: OrderedDict[ClipKey, tuple[OpenClip, int]] = OrderedDict()
        # By uuid: a digest of what was sent under it, and of the content that it proved to be.
        self._names: OrderedDict[str, tuple[str, str]] = OrderedDict()

    @property
    def count(self) -> int:
        """Clips that are open."""
        return len(self._clips)

    @property
    def bytes(self) -> int:
        """What they take."""
        with self._lock:
            return sum(size for _, size in self._clips.values())

    def named(self, uuid: str | None, url: str) -> str | None:
        """The content that a uuid stands for.

        Parameters
        ----------
        url : str
            What is sent with it, "" for nothing. A uuid that comes with something else than before
            stands for nothing: it is then read anew.
        """
        with self._lock:
            if uuid is None or uuid not in self._names:
                return None
            before, content = self._names[uuid]
            self._names.move_to_end(uuid)
            return content if not url or _digest(url) == before else None

    def name(self, uuid: str | None, url: str, content: str) -> None:
        """Remember what a uuid stands for."""
        if uuid is None:
            return
        with self._lock:
            self._names[uuid] = (_digest(url), content)
            self._names.move_to_end(uuid)
            while len(self._names) > _NAMES:
                self._names.popitem(last=False)

    def find(
        self, content: str, read: ReadOptions, system: str | None, config: SeatsConfig | None
    ) -> OpenClip | None:
        """An open clip with this content that a setting can ask about; from now on the latest."""
        with self._lock:
            for fitted_for in (None, setting(config)):
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

    def clear(self) -> None:
        """Let all of them go: their memory is needed."""
        with self._lock:
            self._clips.clear()


def _digest(url: str) -> str:
    """A URL, which may hold a whole clip, in a few bytes."""
    return hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()


def setting(config: SeatsConfig | None) -> str:
    """What of a setting decides how much of a clip fits."""
    return "full" if config is None else repr(sorted(config.to_dict().items()))


def read_for(
    media: LocalMedia,
    read: ReadOptions,
    system: str | None,
    config: SeatsConfig | None,
    loaded: AskableModel,
    max_new_tokens: int | None,
) -> tuple[ClipKey, ReadOptions, tuple[str, ...]]:
    """How a clip is read so that the context holds it, its key, and what that leaves out."""
    need = need_of(loaded, (), [config], max_new_tokens, (), system)
    spare = int(loaded.architecture.max_positions * TALK_SHARE)
    whole = need.__class__(need.text + spare, need.answer, (token_counts,))
    sizing, architecture = loaded.sizing, loaded.architecture
    fitted, notes = fit_file(media.path, read, sizing, architecture, whole)
    if not notes:
        return ClipKey(media.sha256, read, system), fitted, ()
    part = need.__class__(need.text + spare, need.answer, need.entering)
    fitted, notes = fit_file(media.path, read, sizing, architecture, part)
    return ClipKey(media.sha256, read, system, setting(config)), fitted, notes
