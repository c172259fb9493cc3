"""Many questions about one clip: what they have in common is worked out once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache, note_tensors
from seats_cli.engine.session_file import IndexSize, save_session
from seats_cli.engine.session_reader import SavedIndex
from seats_cli.engine.timing import Clock
from seats_cli.errors import UsageError
from seats_cli.models import load
from seats_cli.models.adapter import devices_of
from seats_cli.models.inputs import prepare_clip
from seats_cli.models.load import LoadedModel
from seats_cli.models.patching import hooked

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from seats_cli.media.clip import Clip, ReadOptions
    from seats_cli.results import Answer, ModelFacts, Turn

MAX_BYTES = 4 << 30  # that a session keeps, unless told otherwise

_P = ParamSpec("_P")


class ClipSession:
    """Any number of questions about one clip, which is encoded once and prefilled once.

    Kept are the clip's features, the encoders' outputs and, for the latest settings, what
    `ClipPrefix` holds. Answers, kept indices and logits are those of asking each question alone,
    in any order and with any history: nothing that is kept depends on a question or is ever cut.
    How much a method lets questions share is its own `shares`.

    Parameters
    ----------
    loaded : LoadedModel
    clip : Clip
        As `read_clip` gives it.
    system : str or None
        System turn of all questions, as for `ask`.
    max_bytes : int
        What may be kept (`bytes`). Beyond it, the settings that were not asked for the longest go
        first, then encodings; features stay, without which nothing could be asked. Also at most
        `MAX_SETTINGS` settings and `MAX_ENCODINGS` encodings are kept.

    Raises
    ------
    UsageError
        If the clip holds neither picture nor sound, or `max_bytes` is negative.

    Examples
    --------
    >>> session = load_model("bundled").open(clip)
    >>> first = session.ask("What is shown first?", config=SeatsConfig(retain=0.1))
    >>> turns = [Turn(first.question, first.text)]
    >>> session.ask("And then?", config=SeatsConfig(retain=0.1), history=turns).text
    """

    def __init__(
        self,
        loaded: LoadedModel,
        clip: Clip,
        *,
        system: str | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if max_bytes < 0:
            raise UsageError("`max_bytes` must not be negative.")
        self._loaded = loaded
        self._devices = devices_of(loaded.model)
        self._prepared = prepare_clip(loaded, clip, system=system)
        self._encoders = EncoderCache()
        self._prefixes = PrefixStore(self._prepared)
        self._max_bytes = max_bytes
        self._index: SavedIndex | None = None  # the file that takes the place of the clip

    @classmethod
    def saved(
        cls,
        loaded: LoadedModel,
        index: SavedIndex,
        *,
        system: str | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> ClipSession:
        """A session from an index that `save` has written; the clip itself is not needed.

        Parameters
        ----------
        system : str or None
            None for that of the index, which can't have another one.
        max_bytes : int
            As for a clip; encodings of an index stay, too.

        Raises
        ------
        UsageError
            If the index was made with another model, or does not fit it.
        """
        session = cls.__new__(cls)
        session._loaded, session._index, session._max_bytes = loaded, index, max_bytes
        session._devices = devices_of(loaded.model)
        opened = index.open(loaded, system)
        session._prepared, session._encoders, session._prefixes = opened
        return session

    @property
    def clip(self) -> Clip:
        """The clip; of an index, without frames and sound."""
        return self._prepared.clip

    def ask(
        self,
        question: str | None,
        *,
        config: SeatsConfig | None,
        history: Sequence[Turn] = (),
        on_layer: Callable[[], None] | None = None,
        **how: Any,
    ) -> Answer:
        """Answer a question; other parameters and errors are those of `seats_cli.ask`.

        The unpruned model (`config=None`) shares everything in front of the question. The times
        of a further question have no encoders in them. A warning tells where what it leaves is more
        than `max_bytes`.

        Parameters
        ----------
        history : sequence of Turn
            Earlier turns are part of the prompt only if they are given here, so that questions do
            not change each other's answers unasked.
        on_layer : callable, optional
            Is called before every layer of the encoders and the LLM. What it raises ends the
            question there, which leaves the session and the model as they were.
        """
        if self._index is not None:
            if "method" in how:
                raise UsageError("An indexed clip takes methods by name: see `register_method`.")
            self._index.check_setting(self._loaded, config, how.get("seed", 0))
        how.setdefault("clock", Clock(self._devices))
        dropped = ""
        try:
            with hooked(before_layers(self._loaded.model, on_layer)):
                answer = ask(
                    self._loaded,
                    self._prepared,
                    question,
                    config=config,
                    history=history,
                    encoder_cache=self._encoders,
                    prefixes=self._prefixes,
                    **how,
                )
        finally:
            dropped = self._trim()
        return replace(answer, warnings=(*answer.warnings, dropped)) if dropped else answer

    @property
    def model(self) -> ModelFacts:
        """The model that is asked."""
        return self._loaded.facts

    def prefill(self, config: SeatsConfig | None) -> None:
        """Work out what questions with a setting share, without a question.

        Until the next `save`, no setting is given up for another one.
        """
        self._prefixes.keep_all = self._index is None  # of which there is nothing to save
        self.ask(None, config=config, max_new_tokens=1)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        only: bool = False,
        file: str | os.PathLike[str] | None = None,
        asked: ReadOptions | None = None,
        read: ReadOptions | None = None,
    ) -> IndexSize:
        """Write an index, which answers in place of the clip with the same model.

        In it are the encoders' outputs, and the states of the settings that questions have been
        asked with (those that are still held, see `bytes`). With other settings, an index gives
        the same answers as the clip, too. What Stage 0 has left out is not saved.

        Parameters
        ----------
        path : path-like
            A .seats file. It appears when it is complete, and replaces an earlier index only.
        only : bool
            Leave out what none of these settings needs; no others can be asked with then.
        file : path-like, optional
            The media file, if it isn't at `clip.facts.path`. Where it is found, its content is
            noted, to warn when it has changed.
        asked, read : ReadOptions, optional
            How it was to be read, and was, for `--save-trace`.

        Raises
        ------
        UsageError
            If the file cannot be written, exists and is not an index, or there is nothing to save.
        """
        if self._index is not None:
            raise UsageError(f"The clip is indexed already: copy {self._index.path}.")
        if not only and not any(map(self._encoders.encodings, ("video", "audio"))):
            self.prefill(SeatsConfig())
        size = save_session(
            Path(path),
            self._loaded,
            self._prepared,
            self._encoders,
            self._prefixes,
            only=only,
            file=None if file is None else Path(file),
            asked=asked,
            read=read,
        )
        self._prefixes.keep_all = False  # from the next question on, bounds hold again
        return size

    @property
    def bytes(self) -> int:
        """What is held for further questions, without frames and sound: the clip itself."""
        found = self._encoders.sizes()
        note_tensors(self._prepared.features, found)
        return sum(found.values()) + self._prefixes.bytes

    def _trim(self) -> str:
        """Keep no more than `max_bytes`; a sentence if not even the latest setting stays."""
        if self._prefixes.keep_all:
            return ""
        settings = self._prefixes.bytes
        while self.bytes > self._max_bytes:
            if not self._prefixes.forget() and not self._encoders.forget():
                break
        if not settings or self._prefixes.bytes:
            return ""
        work = "prefill the clip again" if self._encoders.bytes else "encode and prefill it again"
        return (
            f"What the session would keep of the clip is more than `max_bytes` ({self._max_bytes:,}"
            f" bytes), so further questions {work}."
        )


def before_layers(
    model: torch.nn.Module, call: Callable[[], None] | None
) -> Iterator[RemovableHandle]:
    """Hooks that call something before every module of a list, which is what layers are."""
    if call is None:
        return
    lists = (part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    for layer in chain.from_iterable(lists):
        yield layer.register_forward_pre_hook(lambda _module, _args: call())


@dataclass(frozen=True, eq=False)
class AskableModel(LoadedModel):
    """A loaded model that clips can be opened with."""

    def open(
        self,
        clip: Clip | str | os.PathLike[str],
        *,
        system: str | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> ClipSession:
        """A clip for any number of questions; parameters and errors are those of `ClipSession`.

        In place of a clip, the name of an index that `ClipSession.save` has written, with the
        errors of `ClipSession.saved`.
        """
        if isinstance(clip, str | os.PathLike):
            index = SavedIndex(Path(clip))
            return ClipSession.saved(self, index, system=system, max_bytes=max_bytes)
        return ClipSession(self, clip, system=system, max_bytes=max_bytes)


def askable(loading: Callable[_P, LoadedModel]) -> Callable[_P, AskableModel]:
    """A function that loads a model, with the room above: its models can open clips."""

    @wraps(loading)
    def loads(*args: _P.args, **kwargs: _P.kwargs) -> AskableModel:
        loaded = loading(*args, **kwargs)
        return AskableModel(**{part.name: getattr(loaded, part.name) for part in fields(loaded)})

    return loads


load_model = askable(load.load_model)
