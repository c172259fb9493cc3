"""One model and the latest clips that it was asked about, for the programs that we plug into.

The model is loaded with the first question. A clip stays open as a `ClipSession` for the questions
that follow; one that has changed on disk is read again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from seats_cli.config import FULL, ModelOptions, SeatsConfig
from seats_cli.errors import ConfigError, LocalAddressError, MediaError
from seats_cli.media.clip import ReadOptions
from seats_cli.media.fetch import download
from seats_cli.media.http import printable

if TYPE_CHECKING:
    from seats_cli.cost.context import Need
    from seats_cli.engine.open_clips import OpenClip, OpenClips
    from seats_cli.engine.session import AskableModel
    from seats_cli.families.base import FrameSizing
    from seats_cli.results import Answer, Turn

Check = Callable[[], None]

_DEFAULT_PRESET = "25%"  # what the command line keeps, too


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
    def local(self, check: Check | None = None) -> Iterator[str]:
        """A file of this machine with the clip, for the time of the block.

        Parameters
        ----------
        check : callable, optional
            Is called while the URL is fetched; what it raises ends that.

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
                    self._fetch(file, check)
            yield str(target)

    def _fetch(self, file: IO[bytes], check: Check | None) -> None:
        progress = None if check is None else lambda _done, _expected: check()
        try:
            download(str(self.url), file, on_progress=progress)
        except LocalAddressError as error:  # whose remedy is none of the plugins' settings
            raise MediaError(
                f"{printable(str(self.url))} leads to this machine or its own network, from where "
                "nothing is fetched here: name the file itself."
            ) from error

    @property
    def name(self) -> str:
        """How results and messages call it."""
        return self.path or self.url or "the attachment"


class ClipModel:
    """A model, loaded when it is first needed, and the clips that it was last asked about.

    Safe to use from several threads: questions wait for each other.

    Parameters
    ----------
    model : ModelOptions
    max_bytes : int or None
        What clips that stay open may take; the least recently used one goes first. None for
        twice what a session may keep, which leaves room for its pictures.
    talks : bool
        Whether to leave room in the context for turns that are not known yet.
    """

    def __init__(
        self, model: ModelOptions, *, max_bytes: int | None = None, talks: bool = True
    ) -> None:
        self._options, self._max_bytes, self._talks = model, max_bytes, talks
        self._lock = threading.RLock()

    @cached_property
    def loaded(self) -> AskableModel:
        """The model."""
        _calm()
        from seats_cli.engine.session import load_model  # imports torch

        return load_model(**self._options.arguments())

    @cached_property
    def _open(self) -> OpenClips:
        from seats_cli.engine.open_clips import OpenClips
        from seats_cli.engine.session import MAX_BYTES

        return OpenClips(2 * MAX_BYTES if self._max_bytes is None else self._max_bytes)

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
        others: Sequence[str] = (),
        check: Check | None = None,
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
        others : sequence of str
            What will be asked about the clip later, as far as it is known: where `talks` is False,
            the longest question decides how much of the clip fits the context.
        check : callable, optional
            Is called again and again from the moment the clip is fetched: what it raises ends the
            question there, and leaves everything as it was. Loading the model is not interrupted.
        **how
            What else `ClipSession.ask` takes.

        Raises
        ------
        SeatsError
            As for `ClipSession.ask` and `read_clip`.
        """
        with self._lock:
            loaded = self.loaded  # also the end of what must come before torch is imported
            from seats_cli.engine.prune import check_method

            check_method(loaded, config)
            if check is not None:
                check()  # others may have been answered first
            # The room for turns that come later is enough for these, too.
            texts, before = ((), ()) if self._talks else ((question, *others), tuple(history))
            wanted = _Wanted(source, read or ReadOptions(), grid_tokens, system, texts, before)
            content, longest = (source.identity, grid_tokens), how.get("max_new_tokens")
            opened = self._open.find(content, wanted.read, system, config, longest)
            if opened is not None and not self._fits(opened, wanted, config, longest):
                self._open.forget(opened)
                opened = None
            if opened is None:
                opened = self._read(wanted, config, longest, check)
                how.setdefault("read_s", opened.read_s)
            try:
                answer = opened.open(loaded, self._max_bytes or 0).ask(
                    question, config=config, history=history, on_layer=check, **how
                )
            finally:
                self._open.keep(opened)
        warnings = dict.fromkeys((*opened.warnings, *answer.warnings))
        return replace(answer, warnings=tuple(warnings))

    def _need(
        self, wanted: _Wanted, config: SeatsConfig | None, max_new_tokens: int | None
    ) -> Need:
        """What the questions take of the context, of the clip aside."""
        from seats_cli.models import need_of

        loaded, asked = self.loaded, (wanted.questions, [config], max_new_tokens)
        return need_of(loaded, *asked, (), wanted.system, wanted.history)

    def _fits(
        self,
        opened: OpenClip,
        wanted: _Wanted,
        config: SeatsConfig | None,
        max_new_tokens: int | None,
    ) -> bool:
        """Whether a clip that was read for shorter questions leaves room for these."""
        if self._talks:
            return True
        from seats_cli.cost.fit import sizes_of

        shape, need = self.loaded.architecture, self._need(wanted, config, max_new_tokens)
        room = shape.max_positions - need.answer - need.text
        if need.answer + need.text <= opened.room or room <= 0:  # reading it anew is of no use
            return True
        sizes = sizes_of(shape, [opened.clip.facts])
        return all(sum(enters(shape, sizes)) <= room for enters in need.entering)

    def _read(
        self,
        wanted: _Wanted,
        config: SeatsConfig | None,
        max_new_tokens: int | None,
        check: Check | None,
    ) -> OpenClip:
        from seats_cli.cost.context import TALK_SHARE
        from seats_cli.engine.open_clips import ClipKey, OpenClip, fit_to_share
        from seats_cli.media.reader import read_clip

        loaded, source = self.loaded, wanted.source
        sizing = wanted.sizing(loaded.sizing)
        key = ClipKey((source.identity, wanted.grid_tokens), wanted.read, wanted.system)
        need = self._need(wanted, config, max_new_tokens)
        spare = int(loaded.architecture.max_positions * TALK_SHARE) if self._talks else 0
        need = replace(need, text=need.text + spare)
        began = time.perf_counter()
        progress = None if check is None else lambda _what, _done: check()
        with source.local(check) as path:
            key, read, notes = fit_to_share(
                path, key, config, loaded, need, sizing, max_new_tokens=max_new_tokens
            )
            clip = read_clip(path, read, sizing=sizing, on_progress=progress)
        read_s = time.perf_counter() - began
        clip = replace(clip, facts=replace(clip.facts, path=source.name))
        warnings = (*notes, *clip.warnings)
        return OpenClip(key, clip, read_s, warnings, need.answer + need.text)


@dataclass(frozen=True)
class _Wanted:
    """A clip, how it is to be read, and what it has to leave room for."""

    source: ClipSource
    read: ReadOptions
    grid_tokens: tuple[int | None, int | None]
    system: str | None
    questions: tuple[str, ...]
    history: tuple[Turn, ...]

    def sizing(self, model: FrameSizing) -> FrameSizing:
        """The model's frame sizes within the bounds."""
        (low, high), area = self.grid_tokens, model.factor * model.factor
        return replace(
            model,
            min_pixels=model.min_pixels if low is None else low * area,
            max_pixels=model.max_pixels if high is None else high * area,
        )


def _calm() -> None:
    """Keep the loading bars and log lines of libraries out of another program's output.

    Variables are read when the libraries are imported; one that the user has set wins.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


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
