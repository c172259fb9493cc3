"""Clips that stay open between requests, by content and by the names that clients give them.

A clip that a client has named (`uuid`) can be asked about without being sent, fetched or read
again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from seats_cli.cost.context import TALK_SHARE
from seats_cli.engine.open_clips import ClipKey, OpenClips, fit_to_share
from seats_cli.models import need_of
from seats_cli.serve.media_parts import LocalMedia

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.engine.session import AskableModel
    from seats_cli.media.clip import ReadOptions

_NAMES = 4096  # uuids that are remembered


class SessionStore(OpenClips):
    """Open clips, known by the SHA-256 of their files, and what uuids stand for."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._naming = threading.Lock()
        # By uuid: a digest of what was sent under it, and of the content that it proved to be.
        self._names: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def named(self, uuid: str | None, url: str) -> str | None:
        """The content that a uuid stands for.

        Parameters
        ----------
        url : str
            What is sent with it, "" for nothing. A uuid that comes with something else than before
            stands for nothing: it is then read anew.
        """
        with self._naming:
            if uuid is None or uuid not in self._names:
                return None
            before, content = self._names[uuid]
            self._names.move_to_end(uuid)
            return content if not url or _digest(url) == before else None

    def name(self, uuid: str | None, url: str, content: str) -> None:
        """Remember what a uuid stands for."""
        if uuid is None:
            return
        with self._naming:
            self._names[uuid] = (_digest(url), content)
            self._names.move_to_end(uuid)
            while len(self._names) > _NAMES:
                self._names.popitem(last=False)


def _digest(url: str) -> str:
    """A URL, which may hold a whole clip, in a few bytes."""
    return hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()


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
    key = ClipKey(media.sha256, read, system)
    need = replace(need, text=need.text + spare)
    return fit_to_share(media.path, key, config, loaded, need, max_new_tokens=max_new_tokens)
