"""Many questions about one clip: what they have in common is worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from seats_cli.engine.answer import ask
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.models import load
from seats_cli.models.inputs import prepare_clip
from seats_cli.models.load import LoadedModel

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import Clip
    from seats_cli.results import Answer, Turn

_P = ParamSpec("_P")


class ClipSession:
    """Any number of questions about one clip, which is encoded once and prefilled once.

    Kept are the encoders' outputs and, for the latest `MAX_SETTINGS` settings, what `ClipPrefix`
    holds. Answers, kept indices and logits are those of asking each question alone, in any order
    and with any history: nothing that is kept depends on a question or is ever cut. How much a
    method lets questions share is its own `shares`.

    Parameters
    ----------
    loaded : LoadedModel
    clip : Clip
        As `read_clip` gives it.
    system : str or None
        System turn of all questions, as for `ask`.

    Raises
    ------
    UsageError
        If the clip holds neither picture nor sound.

    Examples
    --------
    >>> session = load_model("bundled").open(clip)
    >>> first = session.ask("What is shown first?", config=SeatsConfig(retain=0.1))
    >>> turns = [Turn(first.question, first.text)]
    >>> session.ask("And then?", config=SeatsConfig(retain=0.1), history=turns).text
    """

    def __init__(self, loaded: LoadedModel, clip: Clip, *, system: str | None = None) -> None:
        self._loaded = loaded
        self._prepared = prepare_clip(loaded, clip, system=system)
        self._encoders = EncoderCache()
        self._prefixes = PrefixStore()

    def ask(
        self,
        question: str | None,
        *,
        config: SeatsConfig | None,
        history: Sequence[Turn] = (),
        **how: Any,
    ) -> Answer:
        """Answer a question; parameters and errors are those of `seats_cli.ask`.

        The unpruned model (`config=None`) shares everything in front of the question. The times
        of a further question have no encoders in them. Earlier turns are part of the prompt only
        if `history` has them, so that questions do not change each other's answers unasked.
        """
        return ask(
            self._loaded,
            self._prepared,
            question,
            config=config,
            history=history,
            encoder_cache=self._encoders,
            prefixes=self._prefixes,
            **how,
        )

    @property
    def bytes(self) -> int:
        """What is held for further questions, without the clip itself."""
        return self._encoders.bytes + self._prefixes.bytes


@dataclass(frozen=True, eq=False)
class AskableModel(LoadedModel):
    """A loaded model that clips can be opened with."""

    def open(self, clip: Clip, *, system: str | None = None) -> ClipSession:
        """A clip for any number of questions; parameters and errors are those of `ClipSession`."""
        return ClipSession(self, clip, system=system)


def askable(loading: Callable[_P, LoadedModel]) -> Callable[_P, AskableModel]:
    """A function that loads a model, with the room above: its models can open clips."""

    @wraps(loading)
    def loads(*args: _P.args, **kwargs: _P.kwargs) -> AskableModel:
        loaded = loading(*args, **kwargs)
        return AskableModel(**{part.name: getattr(loaded, part.name) for part in fields(loaded)})

    return loads


load_model = askable(load.load_model)
