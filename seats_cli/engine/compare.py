"""The same question to the unpruned model and to pruned ones, and how far the answers agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from torch import Tensor

from seats_cli.engine.answer import ask
from seats_cli.engine.peaks import reset_peaks
from seats_cli.engine.stopwatch import Stopwatch
from seats_cli.errors import UsageError
from seats_cli.measurements import ComparedRun, Comparison, Setting

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer


def compare(
    loaded: LoadedModel,
    clip: Clip,
    question: str,
    settings: Sequence[Setting],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    read_s: float = 0.0,
    on_progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Answer greedily without pruning and with every setting.

    Parameters
    ----------
    loaded : LoadedModel
    clip : Clip
    question : str
    settings : sequence of Setting
        What to put beside the unpruned model.
    max_new_tokens : int
        Longest answer, in tokens.
    seed : int
        For methods that draw at random.
    read_s : float
        Seconds that reading the clip took, for the totals.
    on_progress : callable, optional
        Told which setting is under way.

    Returns
    -------
    Comparison
        A setting that cannot run has its reason in place of an answer.
    """
    tell = on_progress or (lambda _words: None)
    tell("warm-up")
    ask(loaded, clip, question, config=None, max_new_tokens=1)  # first calls allocate and load
    tell("full")
    request = _Request(loaded, clip, question, max_new_tokens, seed, read_s)
    full, expected, seconds = _answer(request, Setting("full", None))
    runs = [ComparedRun("full", "full", None, full, True, True, 0.0, 1.0, seconds)]
    for setting in settings:
        tell(setting.label)
        try:
            answer, logits, seconds = _answer(request, setting)
        except UsageError as error:
            runs.append(
                ComparedRun(setting.label, setting.method, setting.retain, error=str(error))
            )
            continue
        runs.append(
            ComparedRun(
                setting.label,
                setting.method,
                setting.retain,
                answer,
                same_answer=answer.text == full.text,
                same_first_token=bool(logits.argmax() == expected.argmax()),
                first_token_kl_nats=divergence(expected, logits),
                token_agreement=agreement(full.token_ids, answer.token_ids),
                prefill_and_selection_s=seconds,
            )
        )
    return Comparison(
        question=question,
        media=clip.facts,
        effective_fps=clip.fps,
        model=loaded.facts,
        architecture=loaded.architecture,
        runs=tuple(runs),
        seed=seed,
        warnings=clip.warnings,
    )


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
class _Request:
    """What is the same for all runs."""

    loaded: LoadedModel
    clip: Clip
    question: str
    max_new_tokens: int
    seed: int
    read_s: float


def _answer(request: _Request, setting: Setting) -> tuple[Answer, Tensor, float]:
    """The answer, the logits (V,) of its first token, and seconds of prefill with selection."""
    logits: list[Tensor] = []

    def keep_first(output: Tensor) -> None:
        if not logits:
            logits.append(output[0, -1].detach().float().cpu())

    watch = Stopwatch(request.loaded.model.device, (1,))
    reset_peaks(request.loaded.model.device)
    answer = ask(
        request.loaded,
        request.clip,
        request.question,
        config=setting.config,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        read_s=request.read_s,
        clock=watch,
        on_logits=keep_first,
    )
    inside_encoders = watch.seconds["select:vision"] + watch.seconds["select:audio"]
    return answer, logits[0], watch.seconds["prefill"] + inside_encoders
