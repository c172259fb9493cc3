"""Measuring where the time goes: the unpruned model and pruned ones in turn, several times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from seats_cli.cost.flops import layer_flops
from seats_cli.cost.latency import Spread, spread
from seats_cli.engine.answer import ask
from seats_cli.engine.peaks import reset_peaks
from seats_cli.engine.stopwatch import Stopwatch
from seats_cli.errors import UsageError
from seats_cli.measurements import MeasuredRun, Profile, Segment, Setting
from seats_cli.selection.method import method_for

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer

Result = TypeVar("Result")

# Reading is repeated like everything else, unless that alone would take minutes.
MAX_READING_S = 10.0


@dataclass(eq=False)
class _Subject:
    """A setting under measurement."""

    setting: Setting
    samples: list[dict[str, float]] = field(default_factory=list)
    last: Answer | None = None
    host_peak: int = 0
    gpu_peak: int | None = None


def profile(
    loaded: LoadedModel,
    read: Callable[[], Clip],
    question: str,
    settings: Sequence[Setting],
    *,
    probe: Callable[[], object] | None = None,
    repeats: int = 5,
    warm_ups: int = 1,
    new_tokens: int = 16,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Profile:
    """Measure the unpruned model and every setting in turn.

    All run through `ask`, as a user's question does, and answer with the same number of tokens.
    Settings take turns within every repetition, so that a machine that grows warm or busy is
    no advantage to any.

    Parameters
    ----------
    loaded : LoadedModel
    read : callable
        Reads the clip; called repeatedly to be measured.
    question : str
    settings : sequence of Setting
        What to measure beside the unpruned model.
    probe : callable, optional
        Reads the file's header.
    repeats, warm_ups : int
        Measured and unmeasured runs of each setting.
    new_tokens : int
        Answer tokens, at least 1; decoding is measured over those after the first.
    seed : int
    on_progress : callable, optional
        Told what is going on, in a few words.

    Returns
    -------
    Profile
        A setting that cannot run is listed as failed with the reason.

    Raises
    ------
    UsageError
        If a number is out of range.
    """
    if repeats < 1 or warm_ups < 0 or new_tokens < 1:
        raise UsageError("--repeats and --new-tokens must be at least 1, --warm-ups at least 0.")
    tell = on_progress or (lambda _words: None)
    tell("Reading the clip")
    reading = {} if probe is None else {"probe": spread(_timed(probe, repeats)[1])}
    clip, seconds = _timed(read, repeats)
    reading["media_decode"] = spread(seconds)
    subjects, failed = [_Subject(Setting("full", None))], []
    for setting in settings:
        reason = _refusal(loaded, setting)
        if reason is None:
            subjects.append(_Subject(setting))
        else:
            failed.append((setting.label, reason))
    borders = _first_layers(loaded, subjects)
    for number in range(warm_ups + repeats):
        for subject in list(subjects):
            warm = number < warm_ups
            tell(
                f"{'Warm-up' if warm else f'Run {number - warm_ups + 1} of {repeats}'}: "
                f"{subject.setting.label}"
            )
            watch = Stopwatch(loaded.model.device, borders)
            reset_peaks(loaded.model.device)
            try:
                answer = ask(
                    loaded,
                    clip,
                    question,
                    config=subject.setting.config,
                    max_new_tokens=new_tokens,
                    min_new_tokens=new_tokens,
                    seed=seed,
                    clock=watch,
                )
            except UsageError as error:
                if subject.setting.config is None:
                    raise
                subjects.remove(subject)  # a budget that turns out to be out of reach
                failed.append((subject.setting.label, str(error)))
                continue
            if not warm:
                _note(subject, watch, answer, len(borders), reading["media_decode"].median_s)
    return Profile(
        question=question,
        media=clip.facts,
        effective_fps=clip.fps,
        model=loaded.facts,
        architecture=loaded.architecture,
        warm_ups=warm_ups,
        repeats=repeats,
        load_s=loaded.load_s,
        reading=reading,
        runs=tuple(_measured(subject, borders) for subject in subjects),
        failed=tuple(failed),
        threads=torch.get_num_threads(),
        seed=seed,
        warnings=clip.warnings,
    )


def _timed(call: Callable[[], Result], repeats: int) -> tuple[Result, list[float]]:
    """The last result, and the seconds of each call; fewer calls where they are slow."""
    seconds: list[float] = []
    while True:
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
        if len(seconds) >= repeats or sum(seconds) > MAX_READING_S:
            return result, seconds


def _refusal(loaded: LoadedModel, setting: Setting) -> str | None:
    """Why a setting cannot run on this model, None if nothing speaks against it."""
    try:
        if setting.config is not None:
            method_for(setting.config.plan(loaded.architecture))
    except UsageError as error:
        return str(error)
    return None


def _first_layers(loaded: LoadedModel, subjects: Sequence[_Subject]) -> list[int]:
    """Where the prefill is split: behind the drops of the setting that has most of them."""
    depth, best = loaded.architecture.num_layers, [1]
    for subject in subjects[1:]:
        assert subject.setting.config is not None
        plan = subject.setting.config.plan(loaded.architecture)
        method = method_for(plan)
        drops = [layer for layer in range(1, depth) if method.drops_after(layer)]
        late = [] if plan.late_layer is None else [plan.late_layer]
        best = max(best, sorted({1, *(layer + 1 for layer in drops), *late}), key=len)
    return best


def _note(
    subject: _Subject, watch: Stopwatch, answer: Answer, segments: int, read_s: float
) -> None:
    """Add one repetition: seconds by stage, none of them contained in another."""
    seconds, timing = watch.seconds, answer.timing
    inside = sum(seconds[f"select:{number}"] for number in range(segments))
    entry = seconds["select:entry"]
    sample = {
        "processor": timing.preprocess_s,
        "vision": seconds["vision"] - seconds["select:vision"],
        "audio": seconds["audio"] - seconds["select:audio"],
        "stage1": seconds["select:vision"] + seconds["select:audio"] + entry,
        "prefill": seconds["prefill"] - entry - inside,
        "stage2": inside,
    }
    sample["rest"] = timing.first_token_s - sum(sample.values())
    sample["stage1_statistics"], sample["stage1_choice"] = sample["stage1"] - entry, entry
    sample["prefill_and_selection"] = sample["stage1"] + sample["prefill"] + sample["stage2"]
    sample["first_token"] = timing.first_token_s
    sample["decode_per_token"] = timing.decode_s / max(timing.decode_tokens, 1)
    sample["total"] = read_s + timing.first_token_s + timing.decode_s
    for number in range(segments):
        sample[f"layers:{number}"] = seconds[f"layers:{number}"] - seconds[f"select:{number}"]
    subject.samples.append(sample)
    subject.last = answer
    subject.host_peak = max(subject.host_peak, answer.cost.peak_host_bytes)
    if answer.cost.peak_gpu_bytes is not None:
        subject.gpu_peak = max(subject.gpu_peak or 0, answer.cost.peak_gpu_bytes)


def _measured(subject: _Subject, borders: Sequence[int]) -> MeasuredRun:
    answer = subject.last
    assert answer is not None
    times = {name: spread([s[name] for s in subject.samples]) for name in subject.samples[0]}
    alive = tuple(answer.trace.alive_per_layer())
    return MeasuredRun(
        label=subject.setting.label,
        method=subject.setting.method,
        retain=subject.setting.retain,
        times={name: value for name, value in times.items() if not name.startswith("layers:")},
        segments=tuple(_segments(answer, [sum(counts) for counts in alive], borders, times)),
        alive=alive,
        average_retention=answer.trace.average_retention()[2],
        cost=replace(
            answer.cost, peak_host_bytes=subject.host_peak, peak_gpu_bytes=subject.gpu_peak
        ),
        decode_tokens=answer.timing.decode_tokens,
    )


def _segments(
    answer: Answer, alive: Sequence[int], borders: Sequence[int], times: dict[str, Spread]
) -> Iterator[Segment]:
    ends = [*(layer - 1 for layer in borders[1:]), len(alive)]
    for number, (first, last) in enumerate(zip(borders, ends, strict=True)):
        tokens = alive[first - 1]
        flops = sum(layer_flops(answer.architecture, count) for count in alive[first - 1 : last])
        yield Segment(first, last, tokens, times[f"layers:{number}"], flops)
