"""A conversation about one clip as a file: questions, answers and settings, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.cli.question import is_text
from seats_cli.config import SeatsConfig
from seats_cli.errors import ConfigError, UsageError
from seats_cli.files import replacing

if TYPE_CHECKING:
    from seats_cli.cli.sources import OpenedClip

KIND = "seats-conversation"  # by which `files` knows what it may replace
SCHEMA_VERSION = 1
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class ClipFacts:
    """Which clip, and what part of it, a conversation is about."""

    name: str  # as the user wrote it
    content_sha256: str  # of the file's bytes
    duration_s: float | None
    start_s: float
    end_s: float | None

    @classmethod
    def of(cls, opened: OpenedClip, path: str, check: Callable[[], None]) -> ClipFacts:
        """The facts of a clip that was read from a file of this machine, or is indexed.

        Parameters
        ----------
        check : callable
            Is called on every piece of the file; what it raises ends the reading.
        """
        from seats_cli.engine.session_file import IndexedFile

        facts = opened.clip.facts
        content = opened.content_sha256
        if content is None:
            content = IndexedFile.of(Path(path), facts.path, check).sha256
        return cls(facts.path, content, facts.duration_s, facts.start_s, facts.end_s)


@dataclass(frozen=True)
class SavedTurn:
    """A question, its answer, and what was kept for it (a table of `SeatsConfig`, or null)."""

    question: str
    answer: str
    config: Any = None


@dataclass(frozen=True)
class Conversation:
    """What `/save` writes and `/load` reads."""

    clip: ClipFacts
    model: str
    system: str | None
    config: Any  # of the next question, as in `SavedTurn`
    turns: tuple[SavedTurn, ...]

    @property
    def settings(self) -> SeatsConfig | None:
        """What to keep for the next question; None prunes nothing."""
        return None if self.config is None else SeatsConfig.from_dict(self.config)


def save_conversation(conversation: Conversation, path: Path) -> None:
    """Write a conversation, never over something that this program did not make.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    from seats_cli.results import jsonable, versions

    content = jsonable(conversation)
    document = {"kind": KIND, "schema_version": SCHEMA_VERSION, **content, "versions": versions()}
    with replacing(path, "/save") as part:
        part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_conversation(path: Path, clip: ClipFacts) -> Conversation:
    """Read a conversation about a clip, every part of it checked.

    Raises
    ------
    UsageError
        If the file cannot be read, is not a conversation or damaged, or is about another clip or
        another part of it.
    """
    from seats_cli.engine.strict_document import MisfitError

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is too large for a saved conversation.")
        found = _from_document(json.loads(path.read_text(encoding="utf-8")), path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (MisfitError, ConfigError) as error:
        reason = str(error).rstrip(".")
        raise UsageError(f"{path} is not a conversation that can go on: {reason}.") from error
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        raise UsageError(f"{path} is not a saved conversation: it is not valid JSON.") from error
    if found.clip.content_sha256 != clip.content_sha256:
        raise UsageError(f"{path} is about another clip, {found.clip.name!r}.")
    if (found.clip.start_s, found.clip.end_s) != (clip.start_s, clip.end_s):
        raise UsageError(f"{path} is about another part of the clip, {_part(found.clip)}.")
    return found


def _from_document(document: Any, path: Path) -> Conversation:
    from seats_cli.engine.strict_document import MisfitError, build

    if not isinstance(document, Mapping) or document.get("kind") != KIND:
        raise UsageError(f"{path} is not a saved conversation.")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {str(document.get('schema_version'))[:20]}, and this "
            f"program reads {SCHEMA_VERSION}."
        )
    outside = ("kind", "schema_version", "versions")
    found = build(Conversation, {k: v for k, v in document.items() if k not in outside}, "")
    tables = [(f"turns[{at}].config", turn.config) for at, turn in enumerate(found.turns)]
    for where, table in [("config", found.config), *tables]:
        if table is not None and not isinstance(table, dict):
            raise MisfitError(f"{where} is not an object")
    for turn in found.turns:
        if not (is_text(turn.question) and is_text(turn.answer)):
            raise MisfitError("a turn holds something that is not text")
    found.settings  # noqa: B018, raises where they are impossible
    return found


def _part(clip: ClipFacts) -> str:
    return f"{clip.start_s:g} s to {'the end' if clip.end_s is None else f'{clip.end_s:g} s'}"
