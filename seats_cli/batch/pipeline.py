"""A batch on a cluster: clips are read by CPU tasks and answered by a pool of Ray actors.

Ray Data schedules, moves clips between machines and starts what has died again. Here stands what it
cannot know: which result belongs to which question, and that a clip which kills its process every
time is a failure, not to be tried for ever.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from seats_cli.batch.cluster import ClusterOptions, Pool, joined, plan_pool
from seats_cli.errors import (
    ConfigError,
    MediaError,
    ModelError,
    ResourceError,
    SeatsError,
    UsageError,
    out_of_memory_on,
)
from seats_cli.media.fetch import is_url

# What an actor needs is imported where it is used: a process that only counts has no torch.
if TYPE_CHECKING:
    from seats_cli.batch.group import BatchSettings, ClipRead, Result
    from seats_cli.batch.local import Missing
    from seats_cli.batch.manifest import BatchQuestion, ClipGroup, Key
    from seats_cli.config import ModelOptions
    from seats_cli.families.base import Architecture, FrameSizing
    from seats_cli.models import LoadedModel

# Times that a clip may take the process that reads it, or that asks about it, down with it.
MAX_ATTEMPTS = 3
_READER_CPUS = 1
_BLOCKS = 1000  # at most, in which the work is handed to Ray; each is an object in its store


@dataclass(frozen=True)
class Observer:
    """Who is told what, in the process that started the run."""

    store: Callable[[Result], None]  # each result, as soon as it is known
    notice: Callable[[str], None]  # what a user ought to know, in sentences
    # What of a model decides its answers (`model_facts`), before the first result of it.
    check_model: Callable[[dict[str, Any]], None]
    check: Callable[[], None] = lambda: None  # after each result; raises to end the run


def run_on_ray(
    missing: Sequence[Missing],
    settings: BatchSettings,
    model: ModelOptions,
    cluster: ClusterOptions,
    observer: Observer,
    *,
    outline: LoadedModel,
) -> None:
    """Ask everything that has no result yet on a cluster, in no particular order.

    Parameters
    ----------
    missing : sequence of (ClipGroup, questions)
        From `missing_of`. Files must be at the same place on all machines.
    model : ModelOptions
        What every actor loads.
    outline : LoadedModel
        That model as `outline_model` gives it.

    Raises
    ------
    ConfigError
        If the model cannot be pruned so; nothing has been asked then.
    UsageError
        If Ray is not installed, or the cluster cannot be joined or has no room for the actors.
    ModelError, ResourceError
        If an actor cannot load the model; errors of another kind keep theirs, too.
    """
    from seats_cli.batch.group import failed_result
    from seats_cli.batch.local import check_budget

    check_budget(outline, settings)
    with joined(cluster.address) as ray, _row_by_row() as data:
        if model.device == "cpu":
            cluster = replace(cluster, gpus_per_actor=0.0)
        pool = plan_pool([node["Resources"] for node in ray.nodes() if node["Alive"]], cluster)
        observer.notice(pool.sentence)
        work = [(_anywhere(group), questions) for group, questions in missing]
        rows = _pipeline(ray, data, work, settings, _for_actor(model, pool), pool, outline)
        done: set[Key] = set()
        told: set[str] = set()
        for row in rows:
            told = _tell(row, told, observer)
            result = json.loads(row["result"])
            key = (result["id"], result["question_index"])
            # What an actor was at when it died is done again from the clip's first question.
            if key not in done:
                done.add(key)
                observer.store(result)
            observer.check()
        for _, questions in work:
            for question in questions:
                if question.key not in done:
                    sentence = "The cluster has lost this question: run the batch again."
                    observer.store(failed_result(question, _crash(sentence)))


def _tell(row: dict[str, Any], told: set[str], observer: Observer) -> set[str]:
    """Hand on what a row says besides its result; returns what has been said so far."""
    if row["refusal"]:
        raise _error_of(json.loads(row["refusal"]))
    if row["model"] not in told:
        observer.check_model(json.loads(row["model"]))
    notices = json.loads(row["notices"])
    for notice in notices:
        if notice not in told:
            observer.notice(notice)
    return told | {row["model"], *notices}


def _anywhere(group: ClipGroup) -> ClipGroup:
    """The group with a path that does not depend on a process's working directory."""
    return group if is_url(group.path) else replace(group, path=os.path.abspath(group.path))


def _for_actor(model: ModelOptions, pool: Pool) -> ModelOptions:
    """What an actor loads: what is asked for, on the devices that the actor has."""
    if model.device != "auto" or pool.gpus == 1:
        return model
    if not pool.gpus:  # also on machines with GPUs, which Ray hides from such an actor or not
        return replace(model, device="cpu")
    return replace(model, device="spread") if pool.gpus > 1 else model


def _pipeline(
    ray: Any,
    data: Any,
    work: Sequence[Missing],
    settings: BatchSettings,
    model: ModelOptions,
    pool: Pool,
    outline: LoadedModel,
) -> Iterator[dict[str, Any]]:
    """The rows that the actors give, one for each question."""
    from seats_cli.batch.group import group_need

    items = []
    for number, (group, questions) in enumerate(work):
        # Pickled here because a need holds functions, which only Ray's own pickle knows.
        content = (group, questions, group_need(outline, group, settings))
        items.append({"number": number, "work": ray.cloudpickle.dumps(content)})
    # Beside this process, without which there is no run anyway.
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    attempts = (
        ray.remote(_Attempts)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        .remote()
    )
    clips = data.from_items(items, override_num_blocks=min(len(items), _BLOCKS)).map(
        _read_row,
        fn_kwargs={
            "settings": settings,
            "sizing": outline.sizing,
            "architecture": outline.architecture,
            "attempts": attempts,
        },
        num_cpus=_READER_CPUS,
    )
    results = clips.map_batches(
        _Answering,
        fn_constructor_args=(settings, model, os.getcwd(), attempts),
        batch_size=1,
        batch_format="numpy",
        # What asks for the same as the readers would be fused with them: each actor would read its
        # clips itself, and wait for them.
        num_cpus=pool.cpus if pool.cpus != _READER_CPUS else 0.99,
        num_gpus=pool.gpus or None,
        compute=data.ActorPoolStrategy(size=pool.actors),
    )
    rows: Iterator[dict[str, Any]] = results.iter_rows()
    return rows


class _Attempts:
    """An actor that counts who has begun something and has not come back."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, what: str) -> int:
        """Which attempt this is, from 1."""
        self._begun[what] += 1
        return self._begun[what]

    def end(self, what: str) -> None:
        """It was not deadly."""
        self._begun.pop(what, None)


@contextlib.contextmanager
def _attempt(attempts: Any, what: str) -> Iterator[int]:
    """Counts the block as one that killed its process unless its end is reached."""
    import ray

    try:
        number = ray.get(attempts.begin.remote(what))
    except ray.exceptions.RayError:  # counting is not worth failing for
        number = 1
    yield number
    attempts.end.remote(what)


def _read_row(
    row: dict[str, Any],
    settings: BatchSettings,
    sizing: FrameSizing,
    architecture: Architecture,
    attempts: Any,
) -> dict[str, Any]:
    """A task that reads one clip."""
    from seats_cli.batch.group import ClipRead, read_group

    group, _, need = pickle.loads(row["work"])
    with _attempt(attempts, f"read {row['number']}") as number:
        if number > MAX_ATTEMPTS:
            row["clip"] = ClipRead(None, error=_deadly("read it"))
        else:
            row["clip"] = read_group(group, settings, sizing, architecture, need)
    return row


class _Answering:
    """An actor that has loaded the model."""

    def __init__(
        self, settings: BatchSettings, model: ModelOptions, folder: str, attempts: Any
    ) -> None:
        from seats_cli.batch.local import check_budget, model_facts
        from seats_cli.models import load_model

        self._settings, self._attempts = settings, attempts
        self._says = {"model": "", "notices": "[]", "refusal": ""}  # beside each result
        with contextlib.suppress(OSError):  # for models that are named as relative folders
            os.chdir(folder)
        try:
            self._loaded = load_model(**model.arguments())
            check_budget(self._loaded, settings)
        except Exception as error:  # not raised here, where Ray would begin anew
            self._says["refusal"] = json.dumps(_refusal_of(error))
            return
        self._says["model"] = json.dumps(model_facts(self._loaded))
        if self._loaded.facts.demonstration:  # which threads only slow down
            import torch

            torch.set_num_threads(1)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """A row for each question of a clip, always as many and in the same order.

        Of a generator that died and runs again, Ray leaves out as many rows as it already has.
        """
        group, questions, _ = pickle.loads(batch["work"][0])
        if self._says["refusal"]:
            for _ in questions:
                yield {"result": [""], **{name: [text] for name, text in self._says.items()}}
            return
        with _attempt(self._attempts, f"ask {batch['number'][0]}") as number:
            notices = list(self._loaded.notices)
            if number > 1:
                notices.append(
                    f"{group.media}: the process that asked about it has died; it is asked again."
                )
            says = {**self._says, "notices": json.dumps(notices)}
            for result in self._results(group, questions, batch["clip"][0], number):
                row = {**says, "result": json.dumps(result, allow_nan=False)}
                yield {name: [text] for name, text in row.items()}

    def _results(
        self,
        group: ClipGroup,
        questions: Sequence[BatchQuestion],
        read: ClipRead,
        attempt: int,
    ) -> Iterator[Result]:
        from seats_cli.batch.group import answer_group, failed_result

        if attempt <= MAX_ATTEMPTS:
            yield from answer_group(self._loaded, group, self._settings, read, questions)
            return
        for question in questions:
            yield failed_result(question, _deadly("ask about it"))


def _deadly(what: str) -> dict[str, str]:
    return _crash(
        f"Each of {MAX_ATTEMPTS} processes that tried to {what} has died; the usual cause is that "
        "the machine has too little memory for it."
    )


def _crash(sentence: str) -> dict[str, str]:
    return {"kind": "crash", "sentence": sentence}


def _refusal_of(error: Exception) -> dict[str, str]:
    """Why an actor cannot work, as plain values."""
    place = out_of_memory_on(error)
    kind = type(error).__name__
    sentence = str(error) if isinstance(error, SeatsError) else f"{kind}: {error}"
    if place is not None:
        kind, sentence = "ResourceError", f"Out of memory on the {place} while loading the model."
    return {"kind": kind, "sentence": sentence, "machine": socket.gethostname()}


def _error_of(refusal: dict[str, str]) -> SeatsError:
    known: tuple[type[SeatsError], ...] = (
        *(ConfigError, MediaError, ModelError, ResourceError, UsageError),
    )
    kinds = {kind.__name__: kind for kind in known}
    kind = kinds.get(refusal["kind"], ModelError)
    return kind(f"On {refusal['machine']}: {refusal['sentence']}")


@contextlib.contextmanager
def _row_by_row() -> Iterator[Any]:
    """Ray Data, silent and so that every row leaves an operator when it is there."""
    import ray.data as data

    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    wanted = {"target_max_block_size": 1, "enable_progress_bars": False}
    context = data.DataContext.get_current()
    usual = {name: getattr(context, name) for name in wanted}
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        for name, value in wanted.items():
            setattr(context, name, value)
        yield data
    finally:
        for name, value in usual.items():
            setattr(context, name, value)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
