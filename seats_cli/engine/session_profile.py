"""Measuring what further questions about a clip cost: a session for every setting, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from seats_cli.engine.memory_stats import Shortage, unless_out_of_memory
from seats_cli.engine.session import ClipSession
from seats_cli.engine.timing import synchronise
from seats_cli.errors import ResourceError, UsageError
from seats_cli.models.adapter import devices_of
from seats_cli.results import RunSpec, SessionRun, spread

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel


@dataclass(eq=False)
class _MeasuredSession:
    """A setting under measurement."""

    setting: RunSpec
    first_tokens: list[list[float]] = field(default_factory=list)  # seconds, of each repetition
    held: int = 0

    def measured(self) -> SessionRun:
        """Spreads over the repetitions, of which there must be at least one."""
        by_question = list(zip(*self.first_tokens, strict=True))
        return SessionRun(
            self.setting.label,
            self.setting.method,
            self.setting.retain,
            first_tokens=tuple(map(spread, by_question)),
            further=spread([seconds for one in by_question[1:] for seconds in one]),
            session_bytes=self.held,
        )


def profile_sessions(
    loaded: LoadedModel,
    clip: Clip,
    questions: Sequence[str],
    settings: Sequence[RunSpec],
    *,
    read_s: float,
    repeats: int,
    new_tokens: int,
    system: str | None,
    seed: int,
    report: Callable[[str], None],
) -> tuple[SessionRun, ...]:
    """Ask every setting all questions, in a new session for each repetition.

    Settings take turns, as in `run_profile`, whose runs before these have warmed everything up.

    Parameters
    ----------
    questions : sequence of str
        At least two, each different: an equal prompt would meet its own keys and values.
    read_s : float
        Seconds that reading the clip takes; the first question's time begins there.
    new_tokens : int
        Answer tokens of each question.
    report : callable
        Receives a few words about what is under way.

    Returns
    -------
    tuple of SessionRun
        A setting that runs out of memory has an error in place of times.

    Raises
    ------
    UsageError
        For fewer than two questions, or equal ones.
    """
    check_questions(questions)
    devices = devices_of(loaded.model)
    sessions = [_MeasuredSession(setting) for setting in settings]
    errors: dict[str, str] = {}

    def run(one: _MeasuredSession) -> list[float]:
        # 1. Processor and, with the first question, encoders and the clip's own prefill.
        synchronise(devices)
        begin = time.perf_counter()
        session = ClipSession(loaded, clip, system=system)
        synchronise(devices)
        opened = read_s + time.perf_counter() - begin
        # 2. Every question up to its first token; the first one's with all that came before.
        seconds: list[float] = []
        for question in questions:
            answer = session.ask(
                question,
                config=one.setting.config,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                temperature=0.0,
                seed=seed,
                evidence=False,  # what is measured is the model's work
            )
            seconds.append(answer.timing.first_token_s + (0.0 if seconds else opened))
        one.held = session.bytes
        return seconds

    for number in range(repeats):
        for one in sessions:
            label = one.setting.label
            if label in errors:
                continue
            report(f"Session {number + 1} of {repeats}: {label}")
            try:
                outcome = unless_out_of_memory(partial(run, one), devices)
            except (UsageError, ResourceError) as error:
                errors[label] = str(error)
                continue
            if isinstance(outcome, Shortage):
                errors[label] = f"Out of memory on the {outcome.place} in a session."
                continue
            one.first_tokens.append(outcome)
    return tuple(
        _failed(one.setting, errors[one.setting.label])
        if one.setting.label in errors
        else one.measured()
        for one in sessions
    )


def check_questions(questions: Sequence[str]) -> None:
    """Refuse what would not be several questions.

    Raises
    ------
    UsageError
        For fewer than two, or equal ones.
    """
    if len(questions) < 2:
        raise UsageError("`questions` must be at least 2, to compare further ones with the first.")
    if len(set(questions)) < len(questions):
        raise UsageError("The questions must differ: an equal one would only be repeated.")


def _failed(setting: RunSpec, error: str) -> SessionRun:
    return SessionRun(setting.label, setting.method, setting.retain, error=error)
