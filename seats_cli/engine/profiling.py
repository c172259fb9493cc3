"""Measuring where the time goes: the unpruned model and pruned ones in turn, several times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from seats_cli.config import FULL
from seats_cli.cost.flops import layer_flops
from seats_cli.engine.answer import ask
from seats_cli.engine.memory_stats import Shortage, reset_peaks, unless_out_of_memory
from seats_cli.engine.prune import check_method
from seats_cli.engine.session_profile import check_questions, profile_sessions
from seats_cli.engine.timing import Stopwatch, marks_for
from seats_cli.errors import ADVICE, ModelError, ResourceError, UsageError
from seats_cli.models.adapter import devices_of
from seats_cli.results import (
    FailedRun,
    LayerSegment,
    MeasuredRun,
    Profile,
    RunSpec,
    SessionRun,
    Spread,
    spread,
)
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import method_for

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer


@dataclass(eq=False)
class MeasuredSetting:
    """A setting under measurement."""

    setting: RunSpec
    borders: list[int]  # 1-based first layers of the segments into which the prefill is split
    samples: list[dict[str, float]] = field(default_factory=list)
    last: Answer | None = None
    host_peak: int = 0
    gpu_peak: int | None = None

    def note(self, watch: Stopwatch, answer: Answer, read_s: float) -> None:
        """Add one repetition."""
        seconds, timing = watch.seconds, answer.timing
        # 1. Stages that add up to the first token, none of them contained in another. The clock's
        # "vision", "audio" and "prefill" contain the selection that happens in them.
        segments = range(len(self.borders))
        inside = sum(seconds[f"select:{number}"] for number in segments)
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
        # 2. Parts and sums of these, and what comes after the first token.
        sample["stage1_statistics"], sample["stage1_choice"] = sample["stage1"] - entry, entry
        sample["prefill_and_selection"] = sample["stage1"] + sample["prefill"] + sample["stage2"]
        sample["first_token"] = timing.first_token_s
        sample["decode_per_token"] = timing.decode_s / max(timing.decode_tokens, 1)
        sample["total"] = read_s + timing.first_token_s + timing.decode_s
        for number in segments:
            sample[f"layers:{number}"] = seconds[f"layers:{number}"] - seconds[f"select:{number}"]
        self.samples.append(sample)
        self.last = answer
        self.host_peak = max(self.host_peak, answer.cost.peak_host_bytes)
        if answer.cost.peak_gpu_bytes is not None:
            self.gpu_peak = max(self.gpu_peak or 0, answer.cost.peak_gpu_bytes)

    def measured(self) -> MeasuredRun:
        """Medians and spreads over the repetitions, of which there must be at least one."""
        answer = self.last
        assert answer is not None
        times = {name: spread([s[name] for s in self.samples]) for name in self.samples[0]}
        alive = tuple(answer.trace.alive_per_layer())
        return MeasuredRun(
            label=self.setting.label,
            method=self.setting.method,
            retain=self.setting.retain,
            times={name: value for name, value in times.items() if not name.startswith("layers:")},
            segments=tuple(_segments(answer, self.borders, times)),
            alive=alive,
            average_retention=answer.trace.average_retention()[2],
            cost=replace(answer.cost, peak_host_bytes=self.host_peak, peak_gpu_bytes=self.gpu_peak),
            decode_tokens=answer.timing.decode_tokens,
        )


def _segments(
    answer: Answer, borders: Sequence[int], times: dict[str, Spread]
) -> Iterator[LayerSegment]:
    alive = [sum(counts) for counts in answer.trace.alive_per_layer()]
    ends = [*(layer - 1 for layer in borders[1:]), len(alive)]
    for number, (first, last) in enumerate(zip(borders, ends, strict=True)):
        tokens = alive[first - 1]
        flops = sum(layer_flops(answer.architecture, count) for count in alive[first - 1 : last])
        yield LayerSegment(first, last, tokens, times[f"layers:{number}"], flops)


Result = TypeVar("Result")

# Reading is repeated like everything else, unless that alone would take minutes.
MAX_READING_S = 10.0
_FULL = RunSpec(FULL, None)


def run_profile(
    loaded: LoadedModel,
    read: Callable[[], Clip],
    question: str,
    settings: Sequence[RunSpec],
    *,
    questions: Sequence[str] = (),
    probe: Callable[[], object] | None = None,
    repeats: int = 5,
    warm_ups: int = 1,
    new_tokens: int = 16,
    system: str | None = None,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Profile:
    """Measure the unpruned model and every setting in turn.

    All run through `ask`, as a user's question does, and answer with the same number of tokens.
    Settings take turns within every repetition, so that a machine that grows warm or busy
    favours none.

    Parameters
    ----------
    read : callable
        Reads the clip; called repeatedly to be measured.
    settings : sequence of RunSpec
        What to measure beside the unpruned model.
    questions : sequence of str
        If given, all of them are also asked in a `ClipSession` of each setting that ran.
    probe : callable, optional
        Reads the file's header.
    repeats, warm_ups : int
        Measured and unmeasured runs of each setting.
    new_tokens : int
        Answer tokens, at least 1; decoding is measured over those after the first.
    system : str or None
        System turn in place of the chat template's own.
    on_progress : callable, optional
        Receives a few words about what is under way.

    Returns
    -------
    Profile
        A setting that cannot run is listed as failed with the reason, and so is the unpruned
        model if memory runs out in it.

    Raises
    ------
    UsageError
        If a number is out of range, or `questions` are one or not different.
    ResourceError
        If the prompt does not fit the model's context, or memory runs out in the unpruned model
        and no other setting can run.
    """
    if repeats < 1 or warm_ups < 0 or new_tokens < 1:
        raise UsageError("`repeats` and `new_tokens` must be at least 1, `warm_ups` at least 0.")
    if questions:
        check_questions(questions)
    report = on_progress or (lambda _words: None)
    # 1. Reading, which is the same for all settings.
    report("Reading the clip")
    reading = {} if probe is None else {"probe": spread(_timed(probe, repeats)[1])}
    clip, seconds = _timed(read, repeats)
    reading["media_decode"] = spread(seconds)
    # 2. All settings that can run, in turn; one that runs out of memory is not tried again.
    subjects, failed = _eligible(loaded, settings)
    devices = devices_of(loaded.model)
    run = partial(_run, loaded, clip, question, system, new_tokens, seed)
    offered, remarks = (0, 0, 0), dict[str, None]()
    for number in range(warm_ups + repeats):
        warm = number < warm_ups
        turn = "warm-up" if warm else f"run {number - warm_ups + 1} of {repeats}"
        for subject in list(subjects):
            report(f"{turn.capitalize()}: {subject.setting.label}")
            outcome = unless_out_of_memory(partial(run, subject), devices)
            if isinstance(outcome, Shortage):
                outcome = f"Out of memory on the {outcome.place} in {'the ' * warm}{turn}."
            if isinstance(outcome, str):
                subjects.remove(subject)
                failed.append(_failed(subject.setting, outcome))
                continue
            watch, answer = outcome
            offered = answer.trace.offered
            remarks |= dict.fromkeys(answer.warnings)
            if not warm:
                subject.note(watch, answer, reading["media_decode"].median_s)
    if not subjects:
        first = next(run for run in failed if run.label == _FULL.label)
        raise ResourceError(f"No setting could run. Unpruned: {first.error} {ADVICE}")
    # 3. Further questions, of the settings that are left.
    sessions: tuple[SessionRun, ...] = ()
    if questions:
        sessions = profile_sessions(
            loaded,
            clip,
            questions,
            [subject.setting for subject in subjects],
            read_s=reading["media_decode"].median_s,
            repeats=repeats,
            new_tokens=new_tokens,
            system=system,
            seed=seed,
            report=report,
        )
    # 4. Medians over the repetitions.
    runs = [subject.measured() for subject in subjects]
    full = runs.pop(0) if subjects[0].setting is _FULL else None
    return Profile(
        question=question,
        media=clip.facts,
        effective_fps=clip.fps,
        model=loaded.facts,
        architecture=loaded.architecture,
        offered=offered,
        clock=marks_for(devices).name,
        warm_ups=warm_ups,
        repeats=repeats,
        load_s=loaded.load_s,
        reading=reading,
        full=full,
        pruned=tuple(runs),
        failed=tuple(failed),
        threads=torch.get_num_threads(),
        seed=seed,
        warnings=tuple(dict.fromkeys((*clip.warnings, *remarks))),
        system=system,
        questions=tuple(questions),
        sessions=sessions,
    )


def _run(
    loaded: LoadedModel,
    clip: Clip,
    question: str,
    system: str | None,
    new_tokens: int,
    seed: int,
    subject: MeasuredSetting,
) -> tuple[Stopwatch, Answer] | str:
    """One repetition, or why this setting cannot run."""
    devices = devices_of(loaded.model)
    watch = Stopwatch(devices, subject.borders)
    reset_peaks(devices)
    try:
        answer = ask(
            loaded,
            clip,
            question,
            config=subject.setting.config,
            system=system,
            max_new_tokens=new_tokens,
            temperature=0.0,
            min_new_tokens=new_tokens,
            seed=seed,
            clock=watch,
            evidence=False,  # what is measured is the model's work
        )
    except (UsageError, ResourceError) as error:
        if subject.setting.config is None:
            raise
        return str(error)  # a budget that turns out to be out of reach
    return watch, answer


def _failed(setting: RunSpec, reason: str) -> FailedRun:
    return FailedRun(setting.label, setting.method, setting.retain, reason)


def _timed(call: Callable[[], Result], repeats: int) -> tuple[Result, list[float]]:
    """The last result, and the seconds of each call; fewer calls where they are slow."""
    seconds: list[float] = []
    while True:
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
        if len(seconds) >= repeats or sum(seconds) > MAX_READING_S:
            return result, seconds


def _eligible(
    loaded: LoadedModel, settings: Sequence[RunSpec]
) -> tuple[list[MeasuredSetting], list[FailedRun]]:
    """The unpruned model with the settings that can run, and the others with their reasons."""
    accepted, failed = [_FULL], []
    for setting in settings:
        reason = refusal(loaded, setting)
        if reason is None:
            accepted.append(setting)
        else:
            failed.append(_failed(setting, reason))
    borders = _first_layers(loaded, accepted[1:])
    return [MeasuredSetting(setting, borders) for setting in accepted], failed


def refusal(loaded: LoadedModel, setting: RunSpec) -> str | None:
    """Why a setting cannot run on this model; None if it can."""
    try:
        check_method(loaded, setting.config)
    except (UsageError, ModelError) as error:
        return str(error)
    return None


def _first_layers(loaded: LoadedModel, settings: Sequence[RunSpec]) -> list[int]:
    """Where the prefill is split: behind the drops of the setting that has most of them."""
    depth, best = loaded.architecture.num_layers, [1]
    for setting in settings:
        assert setting.config is not None
        plan = PruningPlan.resolve(setting.config, loaded.architecture)
        method = method_for(plan)
        drops = [layer for layer in range(1, depth) if method.drops_after(layer)]
        late = [] if plan.late_layer is None else [plan.late_layer]
        best = max(best, sorted({1, *(layer + 1 for layer in drops), *late}), key=len)
    return best
