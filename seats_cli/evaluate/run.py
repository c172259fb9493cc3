"""What `seats eval` does, in one process, in several, or started by a launcher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.cli.console import ProgressBar, Talk, calm_libraries
from seats_cli.cli.runtime import stop_if_interrupted
from seats_cli.cli.sources import ModelOptions, open_model
from seats_cli.errors import BatchError, UsageError
from seats_cli.evaluate.distributed import Workers, stop_if_orphaned

if TYPE_CHECKING:
    from seats_cli.evaluate.distributed import Shard
    from seats_cli.evaluate.questions import QuestionSet
    from seats_cli.evaluate.run_folder import ItemRecord, RunFolder
    from seats_cli.models import LoadedModel
    from seats_cli.results import RunSpec


@dataclasses.dataclass(frozen=True)
class EvalReading:
    """What of the set's own reading to replace; None leaves it as it is."""

    fps: float | None = None
    max_frames: int | None = None
    max_new_tokens: int | None = None

    def changes(self) -> dict[str, Any]:
        """The values given."""
        return {name: v for name, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Job:
    """A parsed command line."""

    name: str
    root: Path | None
    limit: int | None
    set_seed: int | None
    only: tuple[str, ...]
    reading: EvalReading
    settings: tuple[RunSpec, ...]
    find_layers: bool
    model: ModelOptions
    out: Path
    seed: int
    retry_errors: bool
    workers: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is there to report when all questions have been asked."""

    questions: QuestionSet
    records: list[ItemRecord]
    refused: tuple[tuple[str, str], ...]
    num_layers: int
    description: dict[str, Any]


def run_job(job: Job, talk: Talk) -> Outcome | None:
    """Ask everything that has not been asked; None in processes that do not lead.

    Raises
    ------
    SeatsError
        As the question set, the folder and the model say.
    """
    from seats_cli.evaluate.distributed import Shard, team_of

    team = team_of()
    if team.shard.of > 1 and job.workers > 1:
        raise UsageError("--workers is for one process; a launcher starts them already.")
    questions = _questions(job)
    model = dataclasses.replace(job.model, device=team.device(job.model.device))
    loaded = open_model(model, talk if team.leads else Talk(quiet=True))
    questions = _asked_as_possible(questions, loaded)
    settings, refused = _settings(job, loaded)
    description = _description(job, questions, loaded, settings)
    if not team.leads:
        team.wait()  # for the folder
    folder = _folder(job, description, questions, rank=team.shard.rank)
    if team.leads:
        for label, reason in refused:
            talk.warning(f"{label} cannot run: {reason}")
        if job.retry_errors:
            folder.forget_errors()
        team.wait()
    clips = enumerate(questions.clips())
    mine = [item for number, (_, items) in clips if team.shard.has(number) for item in items]
    wanted = {(item.id, one.label) for item in mine for one in settings}
    done = wanted & {record.key for record in folder.records}
    with folder, ProgressBar(talk, len(wanted), len(done), shown=team.leads) as tally:
        if job.workers > 1:
            with Workers(job.workers, _work, (job,), tally) as workers:
                shard = Shard(0, job.workers)
                found = _ask(job, loaded, questions, settings, folder, shard, tally)
                workers.wait()
        else:
            found = _ask(job, loaded, questions, settings, folder, team.shard, tally)
    team.wait()
    if not team.leads:
        return None
    records = folder.merge()
    asked = {item.id for item in questions.items}
    labels = {setting.label for setting in settings} - found.keys()
    for label, reason in found.items():
        talk.warning(f"{label} cannot run: {reason}")
    return Outcome(
        questions,
        [record for record in records if record.item_id in asked and record.label in labels],
        (*refused, *found.items()),
        loaded.architecture.num_layers,
        description,
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
            f"{len(failed)} of {len(records)} answers failed and are counted apart, the first: "
            f"{failed[0].item_id} with {failed[0].label}: {failed[0].error} "
            "(--retry-errors asks them again)."
        )


def _questions(job: Job) -> QuestionSet:
    from seats_cli.evaluate.sets import SYNTHETIC, question_set

    questions = question_set(
        job.name, root=job.root, limit=job.limit, seed=job.set_seed, only=job.only
    )
    changes = job.reading.changes()
    if job.name == SYNTHETIC and {"fps", "max_frames"} & set(changes):
        raise UsageError("The synthetic set is made frame by frame: no --fps or --max-frames.")
    reading = dataclasses.replace(questions.settings, **changes)
    return dataclasses.replace(questions, settings=reading)


def _asked_as_possible(questions: QuestionSet, loaded: LoadedModel) -> QuestionSet:
    """The demonstration model knows no letters: its options are compared by likelihood."""
    if not loaded.facts.demonstration:
        return questions
    reading = dataclasses.replace(questions.settings, choice_style="likelihood")
    return dataclasses.replace(questions, settings=reading)


def _settings(
    job: Job, loaded: LoadedModel
) -> tuple[tuple[RunSpec, ...], tuple[tuple[str, str], ...]]:
    """The settings that can run on this model, and why others cannot."""
    from seats_cli.engine.profiling import refusal
    from seats_cli.results import RunSpec

    full = RunSpec("full", None)
    if job.find_layers:
        from seats_cli.evaluate.layer_curve import blind_settings

        return (full, *blind_settings(loaded.architecture.num_layers)), ()
    reasons = {setting.label: refusal(loaded, setting) for setting in job.settings}
    able = tuple(setting for setting in job.settings if reasons[setting.label] is None)
    return (full, *able), tuple((label, why) for label, why in reasons.items() if why is not None)


def _description(
    job: Job, questions: QuestionSet, loaded: LoadedModel, settings: Sequence[RunSpec]
) -> dict[str, Any]:
    """What makes this run different from another, for its folder."""
    from seats_cli.results import jsonable, versions

    facts = dataclasses.asdict(loaded.facts)
    device = facts.pop("device")
    described = {
        "questions": questions.name,
        "set_seed": job.set_seed,
        "only": list(job.only),
        "model": facts,
        "reading": dataclasses.asdict(questions.settings),
        "seed": job.seed,
        "settings": {
            setting.label: {
                "config": None if setting.config is None else setting.config.to_dict(),
                "blind": None if setting.blind is None else dataclasses.asdict(setting.blind),
            }
            for setting in settings
        },
        "machine": {"device": device, "versions": versions()},
    }
    plain: dict[str, Any] = jsonable(described)
    return plain


def _folder(
    job: Job, description: dict[str, Any], questions: QuestionSet, *, rank: int
) -> RunFolder:
    from seats_cli.evaluate.run_folder import RunFolder

    folder = RunFolder(job.out, description, rank=rank)
    folder.check(questions)
    return folder


def _ask(
    job: Job,
    loaded: LoadedModel,
    questions: QuestionSet,
    settings: Sequence[RunSpec],
    folder: RunFolder,
    shard: Shard,
    tally: ProgressBar,
) -> dict[str, str]:
    """Ask this process's part; labels that turned out to be impossible, and why."""
    from seats_cli.evaluate.runner import evaluate

    def count(_done: int) -> None:
        stop_if_interrupted()
        stop_if_orphaned()
        tally.add()

    return evaluate(
        loaded,
        questions,
        settings,
        done={record.key for record in folder.records},
        store=folder.append,
        seed=job.seed,
        shard=shard,
        on_progress=count,
    )


def _work(job: Job, rank: int, counter: Any) -> None:
    """What a further process does: its own clips, and nothing to report."""
    from seats_cli.evaluate.distributed import Shard

    calm_libraries(debug=False, quiet=True)
    questions = _questions(job)
    loaded = open_model(job.model, Talk(quiet=True))
    questions = _asked_as_possible(questions, loaded)
    settings, _ = _settings(job, loaded)
    description = _description(job, questions, loaded, settings)
    tally = ProgressBar(Talk(quiet=True), 0, 0, shown=False, counter=counter)
    with _folder(job, description, questions, rank=rank) as folder:
        _ask(job, loaded, questions, settings, folder, Shard(rank, job.workers), tally)
