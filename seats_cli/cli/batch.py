"""`seats batch`: many clips, many questions, results that survive an interruption."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from seats_cli.batch.cluster import ClusterOptions, check_ray, is_address
from seats_cli.cli import options as opt
from seats_cli.cli.console import (
    ProgressBar,
    Talk,
    calm_libraries,
    print_document,
    stdout_is_unicode,
)
from seats_cli.cli.defaults import SettingsCommand
from seats_cli.cli.option_groups import grouped, was_typed, with_flags
from seats_cli.cli.option_parsers import output_option, split_choices
from seats_cli.cli.outputs import print_json, print_result
from seats_cli.cli.question import given_question, may_ask_nothing
from seats_cli.cli.runtime import finishing_first, stop_if_interrupted
from seats_cli.cli.sources import PIPE, end_on_sigterm, open_model, open_outline
from seats_cli.cli.to_config import build_config
from seats_cli.config import ModelOptions
from seats_cli.errors import UsageError
from seats_cli.media.clip import ReadOptions

if TYPE_CHECKING:
    from seats_cli.batch.group import BatchSettings, Result
    from seats_cli.batch.local import BatchSummary, Missing
    from seats_cli.batch.manifest import BatchQuestion, Key, Manifest
    from seats_cli.batch.results_file import ResultsFile, ResultState

EPILOG = (
    "Examples: seats batch items.jsonl --out results.jsonl, "
    'seats batch clips/ -q "What is shown first?" -q "What is heard?" --retain 10%. '
    "A line of the manifest: {id, media, question | questions, start?, end?, choices?, answer?}. "
    "The same command resumes an interrupted run."
)
_STOPPING = "Stopping after this answer; press Ctrl-C again to stop at once."


@dataclass(frozen=True)
class BatchOutput:
    """Where results go, and what to do with those that are there."""

    out: Annotated[
        str | None,
        output_option(
            "--out -o FILE",
            "Results, one line of JSON each; those found there are kept. '-' for stdout.",
            shown="<manifest>-results.jsonl",
        ),
    ] = None
    restart: Annotated[bool, output_option("--restart", "Drop the results of an earlier run.")] = (
        False
    )
    retry_errors: Annotated[
        bool, output_option("--retry-errors", "Retry questions that failed before.")
    ] = False
    read_ahead: Annotated[
        int,
        output_option(
            "--read-ahead N", "Clips to read while the model works; each takes memory.", min=0
        ),
    ] = 1
    as_json: opt.Json = False
    quiet: Annotated[
        bool,
        output_option("--quiet", "No notices or progress; warnings about lost input stay."),
    ] = False
    debug: opt.Debug = False


class BatchCommand(SettingsCommand):
    """`seats batch`, whose `--ray` may stand without a value."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Give `--ray` an empty value unless an address stands behind it."""
        given = []
        for number, word in enumerate(args):
            if word == "--":
                given += args[number:]
                break
            given.append(word)
            if word == "--ray" and not any(map(is_address, args[number + 1 : number + 2])):
                given.append("")
        return super().make_context(info_name, given, parent=parent, **extra)


@grouped
def batch(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES",
            help="A manifest (.jsonl), or files, http(s) URLs and folders with --question.",
        ),
    ],
    texts: Annotated[
        list[str] | None,
        output_option(
            "--question -q QUESTION",
            "Asked about every file, and about items without a question; may be repeated.",
        ),
    ] = None,
    no_question: Annotated[
        bool,
        output_option("--no-question", "Ask nothing, for a model that describes what it is given."),
    ] = False,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    budget: opt.BudgetFlags,
    model: opt.ModelFlags,
    generation: opt.GenerationFlags,
    cluster: opt.ClusterFlags,
    output: BatchOutput,
) -> None:
    """Answer questions about many clips: the model is loaded once, each clip is read once.

    Every result is written at once; the summary goes to stdout at the end.
    """
    talk = Talk(quiet=output.quiet)
    _check_cluster(cluster, context)
    config = build_config(budget, context)
    choices = split_choices(generation.choices)
    silent = no_question or (may_ask_nothing(model.model, None) and not texts)
    if no_question and texts:
        raise UsageError("--no-question asks nothing: leave --question out.")
    asked: Sequence[str | None] = [None] if silent else [*map(given_question, texts or ())]
    if output.out == PIPE and (output.as_json or output.restart or output.retry_errors):
        raise UsageError(
            "--out - writes lines of JSON and keeps nothing: leave --json, --restart and "
            "--retry-errors out."
        )
    calm_libraries(debug=output.debug, quiet=output.quiet)
    manifest = _manifest(sources, asked, choices)
    for warning in manifest.warnings:
        talk.warning(warning)

    from seats_cli.batch.group import BatchSettings
    from seats_cli.batch.local import RunTally, missing_of

    answering = dataclasses.asdict(generation)
    del answering["choices"]
    own = dataclasses.fields(ReadOptions)
    settings = BatchSettings(
        config=config,
        read=ReadOptions(**{field.name: getattr(read, field.name) for field in own}),
        system=system,
        choices=choices,
        generation=answering,
        allow_local_urls=allow_local_urls,
        offline=model.offline,
    )
    with _target(output, sources, settings, model, talk) as target:
        target.check(manifest.questions)
        missing = missing_of(manifest, target.states)
        tally = RunTally()
        if missing:
            where = _on_this_machine if cluster.ray is None else _on_cluster
            ask_all = where(missing, settings, model, cluster, output, target, talk)
            if output.out is None:
                talk.notice(f"Results go to {_out(output, sources)}.")
            tally = RunTally()
            total = len(manifest.questions)
            left = sum(len(questions) for _, questions in missing)
            with ProgressBar(talk, total, total - left) as show:
                ask_all(_storing(target.append, tally.note, show, talk))
        summary = tally.summary(manifest, target.states)
    _show(summary, manifest, target, output, talk, on_cluster=cluster.ray is not None)
    summary.check()


def _check_cluster(cluster: opt.ClusterFlags, context: typer.Context) -> None:
    """Refuse options that contradict each other, and a cluster without Ray."""
    if cluster.ray is not None:
        check_ray()
        if was_typed(context, "read_ahead"):
            raise UsageError("--read-ahead is for one machine; --ray reads ahead on its own.")
        return
    for name in ("actors", "gpus_per_actor"):
        if was_typed(context, name):
            raise UsageError(with_flags(f"`{name}` needs `ray`."))


_Ask = Callable[[Callable[["Result"], None]], None]  # asks everything; is given what stores results


def _on_this_machine(
    missing: Sequence[Missing],
    settings: BatchSettings,
    model: ModelOptions,
    cluster: opt.ClusterFlags,
    output: BatchOutput,
    target: ResultsFile | _Stdout,
    talk: Talk,
) -> _Ask:
    """Load the model, which is then to be asked."""
    from seats_cli.batch.local import check_budget, model_facts, run_local

    loaded = open_model(model, talk)
    check_budget(loaded, settings)
    target.check_model(model_facts(loaded))

    def ask_all(store: Callable[[Result], None]) -> None:
        end_on_sigterm()
        with finishing_first("" if output.quiet else _STOPPING):
            run_local(
                loaded,
                missing,
                settings,
                store,
                read_ahead=output.read_ahead,
                check=stop_if_interrupted,
            )

    return ask_all


def _on_cluster(
    missing: Sequence[Missing],
    settings: BatchSettings,
    model: ModelOptions,
    cluster: opt.ClusterFlags,
    output: BatchOutput,
    target: ResultsFile | _Stdout,
    talk: Talk,
) -> _Ask:
    """Read what of the model is needed here; the cluster loads it."""
    from seats_cli.batch.pipeline import Observer, run_on_ray

    outline = open_outline(model, talk)
    options = ClusterOptions(cluster.ray or None, cluster.actors, cluster.gpus_per_actor)

    def ask_all(store: Callable[[Result], None]) -> None:
        # Ctrl-C ends it at once: the answer under way is another process's.
        told = Observer(
            store,
            notice=lambda sentence: talk.notice(with_flags(sentence)),
            check_model=target.check_model,
            check=stop_if_interrupted,
        )
        plain = ModelOptions(**model.arguments())
        try:
            run_on_ray(missing, settings, plain, options, told, outline=outline)
        except Exception:
            stop_if_interrupted()  # Ray may have met a Ctrl-C with an error of its own
            raise

    return ask_all


class _Stdout:
    """Results as lines on stdout: what `ResultsFile` does, with nothing kept."""

    def __init__(self) -> None:
        self.states: dict[Key, ResultState] = {}

    def __enter__(self) -> _Stdout:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def append(self, result: Result) -> None:
        """Print a result at once."""
        from seats_cli.batch.results_file import key_of, state_of

        print_document(json.dumps(result, ensure_ascii=not stdout_is_unicode(), allow_nan=False))
        self.states[key_of(result)] = state_of(result)

    def check(self, questions: Sequence[BatchQuestion]) -> None:
        """Nothing is there that could be about other questions."""

    def check_model(self, facts: dict[str, Any]) -> None:
        """Nothing is there that another model could have answered."""


def _manifest(
    sources: Sequence[str], asked: Sequence[str | None], choices: Sequence[str]
) -> Manifest:
    from seats_cli.batch.manifest import manifest_of_files, read_manifest

    if PIPE in sources:
        raise UsageError(
            "'-' is none of SOURCES: a batch reads a manifest, or files, URLs and folders."
        )
    if not any(map(_is_manifest, sources)):
        if not asked:
            raise UsageError(
                'There is no question: ask one about every file, seats batch *.mp4 -q "What '
                'happens?", or name a manifest (.jsonl).'
            )
        return manifest_of_files(sources, asked)
    if len(sources) > 1:
        raise UsageError("Give either one manifest, or files, URLs and folders with --question.")
    return read_manifest(sources[0], asked, choices)


def _is_manifest(name: str) -> bool:
    from seats_cli.batch.manifest import MANIFESTS

    return Path(name).suffix.lower() in MANIFESTS and not Path(name).is_dir()


def _target(
    output: BatchOutput,
    sources: Sequence[str],
    settings: BatchSettings,
    model: opt.ModelFlags,
    talk: Talk,
) -> ResultsFile | _Stdout:
    """Where results go."""
    from seats_cli.batch.results_file import ResultsFile

    if output.out == PIPE:
        return _Stdout()
    path = _out(output, sources)
    # Where it runs and whether it may use the network changes no answer.
    asked_of = model.arguments()
    del asked_of["device"], asked_of["offline"]
    found = ResultsFile(
        path,
        {**settings.to_dict(), "model": asked_of},
        restart=output.restart,
        retry_errors=output.retry_errors,
    )
    if found.unlocked:
        talk.warning(f"{path} cannot be locked there: start no second run that writes to it.")
    return found


def _out(output: BatchOutput, sources: Sequence[str]) -> Path:
    """The file that was named, or one that is named after the manifest."""
    manifest = f"{Path(sources[0]).stem}-results.jsonl" if _is_manifest(sources[0]) else ""
    return Path(output.out or manifest or "seats-batch.jsonl")


def _storing(
    append: Callable[[Result], None],
    count: Callable[[Key], int],
    show: Callable[[int], None],
    talk: Talk,
) -> Callable[[Result], None]:
    """What becomes of a result: stored, counted, and what was lost or failed said at once."""

    def store(result: Result) -> None:
        # As `ask` has them: in the words of the command line.
        result["warnings"] = [with_flags(warning) for warning in result["warnings"]]
        error = result["error"]
        if error is not None:
            error["sentence"] = with_flags(error["sentence"])
        append(result)
        for warning in result["warnings"]:
            talk.warning(f"{result['media']['path']}: {warning}")
        if error is not None:
            talk.notice(f"Item {result['id']} failed: {error['sentence']}")
        show(count((result["id"], result["question_index"])))

    return store


def _show(
    summary: BatchSummary,
    manifest: Manifest,
    target: ResultsFile | _Stdout,
    output: BatchOutput,
    talk: Talk,
    *,
    on_cluster: bool,
) -> None:
    """The summary, on stdout unless the results are there."""
    path = None if isinstance(target, _Stdout) else str(target.path)
    if output.as_json:
        from seats_cli.report.documents import document

        print_json(
            document(
                {
                    "kind": "batch",
                    "manifest": manifest.name,
                    "out": path,
                    **summary.to_dict(),
                    "warnings": manifest.warnings,
                }
            )
        )
        return
    lines = [*_lines(summary, "with" if on_cluster else "without")]
    if path is None:
        for line in lines:
            talk.notice(line)
        return
    print_result(Text("\n".join([f"Results    {path}", *lines])))


def _lines(summary: BatchSummary, loading: str) -> Sequence[str]:
    earlier = summary.answered + summary.failed - summary.new_questions
    asked = f"Questions  {summary.answered:,} of {summary.questions:,} answered"
    if summary.failed:
        asked += f", {summary.failed:,} failed"
    if earlier:
        asked += f", {earlier:,} of them in an earlier run"
    lines = [f"Clips      {summary.clips:,}", asked]
    if summary.accuracy is not None:
        lines.append(
            f"Correct    {summary.correct:,} of {summary.scored:,} ({100 * summary.accuracy:.1f} %)"
        )
    clips = summary.per_minute(summary.new_clips)
    questions = summary.per_minute(summary.new_questions)
    if clips is not None and questions is not None:
        lines.append(
            f"Time       {summary.elapsed_s:,.1f} s {loading} loading: {clips:,.1f} clips and "
            f"{questions:,.1f} questions per minute"
        )
    return lines
