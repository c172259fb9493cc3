"""The same question to the unpruned model and to pruned ones, and how far the answers agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from torch import Tensor

from seats_cli.config import FULL
from seats_cli.engine.answer import ask
from seats_cli.engine.memory_stats import Shortage, reset_peaks, unless_out_of_memory
from seats_cli.engine.timing import Stopwatch
from seats_cli.errors import ADVICE, ResourceError, UsageError
from seats_cli.models.adapter import devices_of
from seats_cli.results import ComparedRun, Comparison, RunSpec

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer


def run_comparison(
    loaded: LoadedModel,
    clip: Clip,
    question: str,
    settings: Sequence[RunSpec],
    *,
    system: str | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    read_s: float = 0.0,
    on_progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Answer greedily without pruning and with every setting.

    Parameters
    ----------
    settings : sequence of RunSpec
        What to compare with the unpruned model.
    system : str or None
        System turn in place of the chat template's own.
    max_new_tokens : int
        Longest answer, in tokens.
    seed : int
        For methods that draw at random.
    read_s : float
        Seconds that reading the clip took, for the totals.
    on_progress : callable, optional
        Receives the label of the setting under way.

    Returns
    -------
    Comparison
        A setting that cannot run has its reason in place of an answer, and so has the unpruned
        model if memory runs out in it.

    Raises
    ------
    ResourceError
        If the prompt does not fit the model's context, or memory runs out in the unpruned model
        and no other setting can run.
    """
    report = on_progress or (lambda _words: None)
    run = partial(_outcome, loaded, clip, question, system, seed, read_s)
    whole = RunSpec(FULL, None)

    # 1. The first run that works pays for what is allocated and compiled once.
    report("warm-up")
    impossible: dict[str, str] = {}
    for setting in (whole, *settings):
        outcome = run(1, setting)
        if not isinstance(outcome, str):
            break
        impossible[setting.label] = outcome

    # 2. The reference, and every setting beside it.
    report(whole.label)
    reference = impossible.get(whole.label) or run(max_new_tokens, whole)
    runs = [_compared(whole, reference, reference)]
    for setting in settings:
        report(setting.label)
        outcome = impossible.get(setting.label) or run(max_new_tokens, setting)
        runs.append(_compared(setting, outcome, reference))
    if isinstance(reference, str) and all(run.error is not None for run in runs):
        raise ResourceError(f"No setting could run. Unpruned: {reference} {ADVICE}")
    return Comparison(
        question=question,
        media=clip.facts,
        effective_fps=clip.fps,
        model=loaded.facts,
        architecture=loaded.architecture,
        runs=tuple(runs),
        seed=seed,
        warnings=_warnings(clip, runs),
        system=system,
    )


def _warnings(clip: Clip, runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """What was said about the clip and about any of the answers, once."""
    answers = [run.answer.warnings for run in runs if run.answer is not None]
    return tuple(dict.fromkeys(sum(answers, clip.warnings)))


def divergence(expected: Tensor, found: Tensor) -> float:
    """Kullback-Leibler divergence of two distributions given as logits, in nats.

    Parameters
    ----------
    expected, found : Tensor, shape (V,)
        Logits of the reference and of what is measured against it.

    Returns
    -------
    float
        Sum of p log(p / q), p being the reference; 0 for equal distributions.
    """
    reference, other = (logits.double().log_softmax(-1) for logits in (expected, found))
    return max(0.0, float((reference.exp() * (reference - other)).sum()))


def agreement(expected: Sequence[int], found: Sequence[int]) -> float:
    """Share of the positions of the longer answer that hold the same token; 1 if both are empty."""
    longer = max(len(expected), len(found))
    same = sum(first == second for first, second in zip_longest(expected, found))
    return same / longer if longer else 1.0


@dataclass(frozen=True, eq=False)
class _Outcome:
    """An answer, the logits (V,) of its first token, and seconds of prefill with selection."""

    answer: Answer
    logits: Tensor
    prefill_s: float


def _outcome(
    loaded: LoadedModel,
    clip: Clip,
    question: str,
    system: str | None,
    seed: int,
    read_s: float,
    max_new_tokens: int,
    setting: RunSpec,
) -> _Outcome | str:
    """What a setting leads to, or why it cannot run."""
    devices = devices_of(loaded.model)

    def answered() -> _Outcome:
        logits: list[Tensor] = []

        def keep_first(output: Tensor) -> None:
            if not logits:
                logits.append(output[0, -1].detach().float().cpu())

        watch = Stopwatch(devices, (1,))
        reset_peaks(devices)
        answer = ask(
            loaded,
            clip,
            question,
            config=setting.config,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=0.0,
            seed=seed,
            read_s=read_s,
            clock=watch,
            on_logits=keep_first,
        )
        inside_encoders = watch.seconds["select:vision"] + watch.seconds["select:audio"]
        return _Outcome(answer, logits[0], watch.seconds["prefill"] + inside_encoders)

    try:
        outcome = unless_out_of_memory(answered, devices)
    except (UsageError, ResourceError) as error:
        if setting.config is None:
            raise
        return str(error)  # a budget that turns out to be out of reach
    if isinstance(outcome, Shortage):
        return f"Out of memory on the {outcome.place}."
    return outcome


def _compared(setting: RunSpec, own: _Outcome | str, full: _Outcome | str) -> ComparedRun:
    """One row; agreement is known if both have run."""
    run = ComparedRun(setting.label, setting.method, setting.retain)
    if isinstance(own, str):
        return replace(run, error=own)
    run = replace(run, answer=own.answer, prefill_and_selection_s=own.prefill_s)
    if isinstance(full, str):
        return run
    return replace(
        run,
        # Where both were cut off while thinking, both answers are empty.
        same_answer=(own.answer.thinking * own.answer.cut_off, own.answer.text)
        == (full.answer.thinking * full.answer.cut_off, full.answer.text),
        same_first_token=bool(own.logits.argmax() == full.logits.argmax()),
        first_token_kl_nats=divergence(full.logits, own.logits),
        token_agreement=agreement(full.answer.token_ids, own.answer.token_ids),
    )
