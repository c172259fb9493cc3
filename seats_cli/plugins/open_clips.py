"""One model and the latest clips that it was asked about, for programs that stay up.

The model is loaded with the first question. A clip stays open as a `ClipSession` for the questions
that follow, up to a number of clips; one that has changed on disk is read again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.config import FULL, ModelOptions, SeatsConfig
from seats_cli.cost.fit import fit_file
from seats_cli.cost.token_counts import token_counts
from seats_cli.errors import ConfigError
from seats_cli.media.clip import ReadOptions
from seats_cli.media.fetch import download

if TYPE_CHECKING:
    from seats_cli.engine.session import AskableModel, ClipSession
    from seats_cli.families.base import FrameSizing
    from seats_cli.results import Answer, Turn

_DEFAULT_PRESET = "25%"  # what the command line keeps, too
# Part of the context that a clip leaves for questions and turns, as in `seats chat`.
_TALK_SHARE = 1 / 16


@dataclass(frozen=True)
class ClipSource:
    """Where a clip comes from: exactly one of a file, a URL and bytes."""

    path: str | None = None
    url: str | None = None
    content: bytes | None = None

    @cached_property
    def identity(self) -> tuple[Any, ...]:
        """Equal for the same clip; of a file, as long as it is not changed."""
        if self.path is not None:
            real = os.path.realpath(self.path)
            try:
                status = os.stat(real)
            except OSError:  # opening it will say what is wrong
                return (real,)
            return (real, status.st_size, status.st_mtime_ns)
        if self.content is not None:
            return (hashlib.sha256(self.content).hexdigest(),)
        return (self.url,)

    @contextmanager
    def local(self) -> Iterator[str]:
        """A file of this machine with the clip, for the time of the block.

        Raises
        ------
        MediaError
            If the URL cannot be fetched, or leads to this machine or its own network.
        """
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="seats-") as folder:
            target = Path(folder) / "clip"
            with target.open("wb") as file:
                if self.content is not None:
                    file.write(self.content)
                else:
                    download(str(self.url), file)
            yield str(target)

    @property
    def name(self) -> str:
        """How results and messages call it."""
        return self.path or self.url or "the attachment"


class OpenClips:
    """A model, loaded when it is first needed, and the clips that it was last asked about.

    Safe to use from several threads: questions wait for each other.

    Parameters
    ----------
    model : ModelOptions
    keep : int
        Clips that stay open; the least recently used one goes first.
    talks : bool
        Whether to leave room in the context for turns that are not known yet.
    """

    def __init__(self, model: ModelOptions, *, keep: int = 2, talks: bool = True) -> None:
        self._options, self._keep, self._talks = model, keep, talks
        self._lock = threading.RLock()
        self._open: OrderedDict[tuple[Any, ...], ClipSession] = OrderedDict()

    @cached_property
    def loaded(self) -> AskableModel:
        """The model."""
        from seats_cli.engine.session import load_model  # imports torch

        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        return load_model(**self._options.arguments())

    def ask(
        self,
        source: ClipSource,
        question: str,
        *,
        config: SeatsConfig | None,
        read: ReadOptions | None = None,
        grid_tokens: tuple[int | None, int | None] = (None, None),
        system: str | None = None,
        history: Sequence[Turn] = (),
        **how: Any,
    ) -> Answer:
        """Answer a question about a clip, with all warnings about the clip and the answer.

        Parameters
        ----------
        config : SeatsConfig or None
            What to keep; None runs the model unpruned.
        read : ReadOptions, optional
            What of the clip to read.
        grid_tokens : (int or None, int or None)
            Bounds on the merged tokens of a grid; None for the model's own.
        **how
            What else `ClipSession.ask` takes.

        Raises
        ------
        SeatsError
            As for `ClipSession.ask` and `read_clip`.
        """
        with self._lock:
            asked = _Asked(read or ReadOptions(), grid_tokens, system)
            text = question if not self._talks else ""
            session, read_s = self._session(source, asked, text, config, how.get("max_new_tokens"))
            how.setdefault("read_s", read_s)
            answer = session.ask(question, config=config, history=history, **how)
        warnings = dict.fromkeys((*session.clip.warnings, *answer.warnings))
        return replace(answer, warnings=tuple(warnings))

    def close(self) -> None:
        """Let go of all clips; the model stays."""
        with self._lock:
            self._open.clear()

    def _session(
        self,
        source: ClipSource,
        asked: _Asked,
        question: str,
        config: SeatsConfig | None,
        max_new_tokens: int | None,
    ) -> tuple[ClipSession, float]:
        """The open clip, and the seconds that reading it took now."""
        key: tuple[Any, ...] = (source.identity, asked)
        # Where not all of the clip fits, the setting decides how much of it is read.
        own = (*key, "full" if config is None else repr(sorted(config.to_dict().items())))
        for known in (key, own):
            if known in self._open:
                self._open.move_to_end(known)
                return self._open[known], 0.0
        from seats_cli.media.reader import read_clip
        from seats_cli.models import need_of

        loaded = self.loaded
        sizing = asked.sizing(loaded.sizing)
        need = need_of(loaded, [question], [config], max_new_tokens, (), asked.system)
        spare = int(loaded.architecture.max_positions * _TALK_SHARE) if self._talks else 0
        need = replace(need, text=need.text + spare)
        began = time.perf_counter()
        with source.local() as path:
            # Nothing is left out where all tokens fit, so that every setting can share the clip.
            whole = replace(need, entering=(token_counts,))
            read, notes = fit_file(path, asked.read, sizing, loaded.architecture, whole)
            if notes:
                read, notes = fit_file(path, asked.read, sizing, loaded.architecture, need)
                key = own
            clip = read_clip(path, read, sizing=sizing)
        read_s = time.perf_counter() - began
        facts = replace(clip.facts, path=source.name)
        clip = replace(clip, facts=facts, warnings=(*notes, *clip.warnings))
        session = loaded.open(clip, system=asked.system)
        self._open[key] = session
        while len(self._open) > self._keep:
            self._open.popitem(last=False)
        return session, read_s


@dataclass(frozen=True)
class _Asked:
    """How a clip is to be read, and with which system turn."""

    read: ReadOptions
    grid_tokens: tuple[int | None, int | None]
    system: str | None

    def sizing(self, model: FrameSizing) -> FrameSizing:
        """The model's frame sizes within the bounds."""
        (low, high), area = self.grid_tokens, model.factor * model.factor
        return replace(
            model,
            min_pixels=model.min_pixels if low is None else low * area,
            max_pixels=model.max_pixels if high is None else high * area,
        )


def config_from(
    retain: str | float | None = None,
    method: str | None = None,
    kv: str | None = None,
    *,
    full: bool = False,
    seed: int = 0,
) -> SeatsConfig | None:
    """What to keep, from the settings that other tools' options have; None prunes nothing.

    Parameters
    ----------
    retain : str, float or None
        Share of the audio and video tokens, 0.25 or "25%", which is the default.
    method, kv : str or None
        As `SeatsConfig` has them.
    full : bool
        Prune nothing; nothing else may be given then.

    Raises
    ------
    ConfigError
        If a value is out of range, or contradicts `full`.
    """
    if full or method == FULL:
        if retain is not None or kv is not None or method not in (None, FULL):
            raise ConfigError("`full` prunes nothing: leave `retain`, `method` and `kv` out.")
        return None
    config = SeatsConfig.preset(_DEFAULT_PRESET)
    given: dict[str, Any] = {"seed": seed}
    if retain is not None:
        given |= {"retain": share_of(retain), "retain_video": None, "retain_audio": None}
    if method is not None:
        given["method"] = method.strip().lower()
    if kv is not None:
        given["kv"] = kv
    return replace(config, **given)


def share_of(value: str | float) -> float:
    """A share of the tokens, written 0.25 or "25%".

    Raises
    ------
    ConfigError
        If it is not a number above 0 and at most 1.
    """
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"`retain` is a share of the tokens, as 0.25 or 25%, not {text!r}.")
    return share
