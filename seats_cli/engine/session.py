"""Many questions about one clip: what they have in common is worked out once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seats_cli.engine.answer import ask
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.models.inputs import prepare_clip

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer


class ClipSession:
    """Any number of questions about one clip, which is encoded once and prefilled once.

    Kept are the encoders' outputs and, for the latest `MAX_SETTINGS` settings, what `ClipPrefix`
    holds. Answers, kept indices and logits are those of asking each question alone, in any order:
    nothing that is kept depends on a question or is ever cut. How much a method lets questions
    share is its own `shares`.

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
    >>> session = ClipSession(loaded, clip)
    >>> for question in questions:
    ...     print(session.ask(question, config=SeatsConfig(retain=0.1)).text)
    """

    def __init__(self, loaded: LoadedModel, clip: Clip, *, system: str | None = None) -> None:
        self._loaded = loaded
        self._prepared = prepare_clip(loaded, clip, system=system)
        self._encoders = EncoderCache()
        self._prefixes = PrefixStore()

    def ask(self, question: str | None, *, config: SeatsConfig | None, **how: Any) -> Answer:
        """Answer a question; parameters and errors are those of `seats_cli.ask`.

        The unpruned model (`config=None`) shares everything in front of the question. The times
        of a further question have no encoders in them.
        """
        return ask(
            self._loaded,
            self._prepared,
            question,
            config=config,
            encoder_cache=self._encoders,
            prefixes=self._prefixes,
            **how,
        )

    @property
    def bytes(self) -> int:
        """What is held for further questions, without the clip itself."""
        return self._encoders.bytes + self._prefixes.bytes
