"""An evaluation from its question set to its records: one process, several, or a launcher's.

What is shown meanwhile and when it is to stop is the caller's affair, see `Host`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.config import FULL
from seats_cli.errors import BatchError, UsageError
from seats_cli.evaluate.distributed import (
    Shard,
    Workers,
    count_together,
    process_group,
    stop_if_orphaned,
)
from seats_cli.evaluate.published import check_published, published_protocol, run_notes
from seats_cli.families.generation import USUAL

if TYPE_CHECKING:
    from seats_cli.config import ModelOptions
    from seats_cli.evaluate.questions import QuestionSet
    from seats_cli.evaluate.run_folder import ItemRecord, RunFolder
    from seats_cli.models import LoadedModel
    from seats_cli.results import RunSpec


@dataclass(frozen=True)
class Job:
    """What to ask, of which model, and where to store it."""

    # Of the question set; `root`, `limit`, `set_seed` and `only` are as for
    # `seats_cli.evaluate.benchmarks.question_set`.
    name: str
    root: Path | None
    limit: int | None
    set_seed: int | None
    only: tuple[str, ...]
    protocol: Mapping[str, Any]  # fields of the set's own `EvalProtocol` to replace
    specs: tuple[RunSpec, ...]  # what to run beside the unpruned model
    as_published: bool  # whether to read and ask as the paper's authors do
    find_layers: bool  # run the layer analysis in place of `specs`
    model: ModelOptions
    out: Path  # folder of the run
    seed: int  # of methods that draw at random
    retry_errors: bool  # whether items that failed in an earlier run are asked again
    workers: int  # processes on this machine, each with the model


@dataclass(frozen=True)
class Host:
    """What a run needs of the program around it."""

    # Load a model: in the process that reports, and in the others, which get the function pickled.
    load: Callable[[ModelOptions], LoadedModel]
    load_silently: Callable[[ModelOptions], LoadedModel]
    warn: Callable[[str], None]  # shows a sentence
    # Called after each answer and while waiting for other processes; raises to end the run.
    check: Callable[[], None]
    # Given the answers in all and those that were there before, a context manager whose value is
    # called with the number of new ones.
    progress: Callable[[int, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class RefusedSetting:
    """A setting that is left out of the results."""

    label: str
    reason: str
    # The first question, in the order of the set, on which the method cannot reach the budget, and
    # its number from 1; None where the setting cannot run on this model at all.
    item_id: str | None = None
    number: int | None = None

    @property
    def sentence(self) -> str:
        """What a report says of it."""
        if self.number is None:
            return f"{self.label} cannot run: {self.reason}"
        return (
            f"{self.label} is left out: question {self.number:,} ({self.item_id}) is the first "
            f"that it cannot answer. {self.reason}"
        )


@dataclass(frozen=True)
class Outcome:
    """What is there to report when all questions have been asked.

    It does not depend on how many processes asked them, or in how many runs.
    """

    questions: QuestionSet
    records: list[ItemRecord]  # in the order of questions and settings, without refused settings
    refused: tuple[RefusedSetting, ...]
    num_layers: int
    description: dict[str, Any]
    notes: tuple[str, ...] = ()  # on how the questions were asked


@dataclass(frozen=True)
class _Prepared:
    """A job with its model: what every process of it works out for itself."""

    loaded: LoadedModel
    questions: QuestionSet
    specs: tuple[RunSpec, ...]
    refused: tuple[RefusedSetting, ...]
    description: dict[str, Any]

    def folder(self, job: Job, rank: int) -> RunFolder:
        """The folder of the run, as this process writes to it."""
        from seats_cli.evaluate.run_folder import RunFolder

        folder = RunFolder(job.out, self.description, rank=rank)
        folder.check(self.questions)
        return folder

    def ask(
        self, job: Job, folder: RunFolder, shard: Shard, on_progress: Callable[[int], None]
    ) -> None:
        """Ask this process's part."""
        from seats_cli.evaluate.runner import evaluate

        evaluate(
            self.loaded,
            self.questions,
            self.specs,
            done=folder.records,
            store=folder.append,
            seed=job.seed,
            shard=shard,
            on_progress=on_progress,
        )

    def to_ask_and_done(self, folder: RunFolder, shard: Shard) -> tuple[int, int]:
        """How many answers of a part are still to be asked for, and how many there are."""
        from seats_cli.evaluate.runner import places_to_ask

        clips = enumerate(self.questions.clips())
        mine = {item.id for number, (_, items) in clips if shard.has(number) for item in items}
        labels = {spec.label for spec in self.specs}
        done = sum(one.item_id in mine and one.label in labels for one in folder.records)
        left = places_to_ask(self.questions, self.specs, folder.records, shard)
        return sum(map(len, left.values())), done

    def results(
        self, records: Sequence[ItemRecord]
    ) -> tuple[list[ItemRecord], list[RefusedSetting]]:
        """Of the records of all processes what is reported, and what is left out of that."""
        from seats_cli.evaluate.runner import refusals

        places = {item.id: place for place, item in enumerate(self.questions.items)}
        first = refusals(self.questions, records)
        labels = [spec.label for spec in self.specs]
        turns = {label: turn for turn, label in enumerate(labels) if label not in first}
        # In one order always: each process has stored its own clips, one after the other.
        kept = sorted(
            (one for one in records if one.item_id in places and one.label in turns),
            key=lambda one: (places[one.item_id], turns[one.label]),
        )
        refused = [
            RefusedSetting(label, str(one.error), one.item_id, places[one.item_id] + 1)
            for label, one in ((label, first[label]) for label in labels if label in first)
        ]
        return kept, refused


def run_job(job: Job, host: Host) -> Outcome | None:
    """Ask everything that has not been asked; None in processes that are not the main one.

    Raises
    ------
    SeatsError
        As the question set, the folder and the model say.
    """
    group = process_group()
    if group.shard.size > 1 and job.workers > 1:
        raise UsageError("`workers` is for one process; a launcher starts them already.")
    load = host.load if group.is_main else host.load_silently
    model = replace(job.model, device=group.device(job.model.device))
    own = _prepare(replace(job, model=model), load)
    if not group.is_main:
        group.wait()  # for the folder
    folder = own.folder(job, group.shard.rank)
    if group.is_main:
        for warning in own.questions.warnings:
            host.warn(warning)
        for setting in own.refused:
            host.warn(setting.sentence)
        if job.retry_errors:
            folder.forget_errors()
        group.wait()
    left, done = own.to_ask_and_done(folder, group.shard)
    progress = host.progress(left + done, done) if group.is_main else nullcontext(None)
    with folder, progress as show:

        def report(new: int) -> None:
            host.check()
            if show is not None:
                show(new)

        if job.workers > 1:
            with Workers(job.workers, _work, (job, host.load_silently)) as workers:

                def count(answers: int) -> None:
                    count_together(workers.counter, answers)
                    report(workers.answers)

                own.ask(job, folder, Shard(0, job.workers), count)
                workers.wait(report)
        else:
            settled = 0

            def count_alone(answers: int) -> None:
                nonlocal settled
                settled += answers
                report(settled)

            own.ask(job, folder, group.shard, count_alone)
    group.wait()
    if not group.is_main:
        return None
    kept, refused = own.results(folder.merge())
    return Outcome(
        own.questions,
        kept,
        (*own.refused, *refused),
        own.loaded.architecture.num_layers,
        own.description,
        run_notes(own.loaded, own.questions.protocol, kept),
    )


def check_errors(records: Sequence[ItemRecord]) -> None:
    """End with exit code 6 if some items have no answer.

    Raises
    ------
    BatchError
    """
    failed = [record for record in records if record.error is not None]
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(records)} answers failed and are counted separately, the "
            f"first: {failed[0].item_id} with {failed[0].label}: {failed[0].error} "
            "(`retry_errors` asks them again)."
        )


def _work(job: Job, load: Callable[[ModelOptions], LoadedModel], rank: int, counter: Any) -> None:
    """What a further process does: its own clips, and nothing to report."""

    def count(answers: int) -> None:
        stop_if_orphaned()
        count_together(counter, answers)

    own = _prepare(job, load)
    with own.folder(job, rank) as folder:
        own.ask(job, folder, Shard(rank, job.workers), count)


def _prepare(job: Job, load: Callable[[ModelOptions], LoadedModel]) -> _Prepared:
    """Read the questions, load the model, and see what can run on it."""
    questions = _questions(job)
    loaded = load(job.model)
    protocol = questions.protocol
    if job.as_published:
        protocol = published_protocol(questions.name, protocol, loaded.facts.family)
    if loaded.thinks and "max_new_tokens" not in job.protocol:
        protocol = replace(protocol, max_new_tokens=None)  # the set's is for the answer alone
    if loaded.facts.demonstration:
        # It has not learned to answer with a letter: options are compared by likelihood.
        protocol = replace(protocol, choice_style="likelihood")
    questions = replace(questions, protocol=protocol)
    specs, refused = _specs(job, loaded)
    return _Prepared(loaded, questions, specs, refused, _description(job, questions, loaded, specs))


def _questions(job: Job) -> QuestionSet:
    from seats_cli.evaluate.benchmarks import question_set
    from seats_cli.evaluate.generated import SYNTHETIC

    questions = question_set(
        job.name, root=job.root, limit=job.limit, set_seed=job.set_seed, only=job.only
    )
    if job.name == SYNTHETIC and not job.protocol.keys().isdisjoint(("fps", "max_frames")):
        raise UsageError("A generated set is made frame by frame: no `fps` or `max_frames`.")
    if job.as_published:
        check_published(questions.name, job.protocol)
    return replace(questions, protocol=replace(questions.protocol, **job.protocol))


def _specs(job: Job, loaded: LoadedModel) -> tuple[tuple[RunSpec, ...], tuple[RefusedSetting, ...]]:
    """What can run on this model, the unpruned model first, and why others cannot."""
    from seats_cli.engine.profiling import refusal
    from seats_cli.results import RunSpec

    full = RunSpec(FULL, None)
    if job.find_layers:
        from seats_cli.evaluate.layer_curve import blind_specs

        return (full, *blind_specs(loaded.architecture.num_layers)), ()
    reasons = {spec.label: refusal(loaded, spec) for spec in job.specs}
    able = tuple(spec for spec in job.specs if reasons[spec.label] is None)
    refused = (RefusedSetting(label, why) for label, why in reasons.items() if why is not None)
    return (full, *able), tuple(refused)


def _description(
    job: Job, questions: QuestionSet, loaded: LoadedModel, specs: Sequence[RunSpec]
) -> dict[str, Any]:
    """What makes this run different from another, for its folder."""
    from seats_cli.results import jsonable, versions

    facts = asdict(loaded.facts)
    device = facts.pop("device")
    described = {
        "questions": questions.name,
        "set_seed": job.set_seed,
        "only": list(job.only),
        "model": facts,
        "reading": asdict(questions.protocol),
        "seed": job.seed,
        "settings": {
            spec.label: {
                "config": None if spec.config is None else spec.config.to_dict(),
                "blind": None if spec.blind is None else asdict(spec.blind),
            }
            for spec in specs
        },
        "machine": {"device": device, "versions": versions()},
    }
    if loaded.sampling != USUAL:
        described["sampling"] = asdict(loaded.sampling)
    plain: dict[str, Any] = jsonable(described)
    return plain
