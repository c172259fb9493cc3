"""What is written besides the answer: the page, the trace, the strip; and saved traces, redrawn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from seats_cli.cli.console import Talk, print_document, stdout_is_unicode
from seats_cli.cli.option_groups import FLAGS, was_typed
from seats_cli.cli.options import BudgetFlags, GenerationFlags, ModelFlags, ReadFlags
from seats_cli.cli.sources import PIPE, IndexInput, InputFile
from seats_cli.errors import UsageError
from seats_cli.files import TRACE_EXTENSIONS, check_target, replacing

if TYPE_CHECKING:
    from seats_cli.families.base import FrameSizing
    from seats_cli.media.clip import Clip, ReadOptions
    from seats_cli.results import Answer
    from seats_cli.show.record import RunRecord


_WIDTH = 80  # of a pipe or a file


def print_result(report: RenderableType) -> None:
    """Print a report on stdout; into a pipe, without the blanks that tables end lines with."""
    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if terminal else _WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if terminal:
        console.print(report)
        return
    with console.capture() as captured:
        console.print(report)
    print_document("\n".join(line.rstrip() for line in captured.get().rstrip().split("\n")))


class Outputs:
    """The files that were requested, and the records they are made of.

    Parameters
    ----------
    html, trace : Path or None
        Files to write.
    strip : bool
        Whether to print the strip.
    questions : int
        How many are asked; a saved trace holds one.

    Raises
    ------
    UsageError
        If a file could not be written.
    """

    def __init__(
        self,
        html: Path | None = None,
        trace: Path | None = None,
        strip: bool = False,
        *,
        questions: int = 1,
    ) -> None:
        self.html, self.trace, self.strip = html, trace, strip
        self.records: list[RunRecord] = []
        self._clip: Clip | None = None
        if trace is not None:
            check_trace(trace, "--save-trace")
            if questions > 1:
                raise UsageError("--save-trace keeps one question; ask the others without it.")
        if html is not None:
            check_target(html, "--html")

    def check_source(self, file: InputFile | IndexInput) -> None:
        """Refuse what an index can't be made into.

        Raises
        ------
        UsageError
        """
        if not isinstance(file, IndexInput):
            return
        if self.html is not None:
            raise UsageError(
                "--html draws pictures, which an indexed clip no longer has: keep the selection by "
                "--save-trace FILE.json, and draw it with seats show --trace FILE.json VIDEO."
            )
        if (self.trace is not None or self.strip) and file.index.facts.read is None:
            raise UsageError(
                f"{file.name} does not say how its clip was read, so nothing is drawn."
            )

    def add(self, answer: Answer, clip: Clip, read: ReadOptions, sizing: FrameSizing) -> None:
        """Note an answer, if anything is to be written of it."""
        if self.strip or self.html is not None or self.trace is not None:
            self.records.append(record_answer(answer, clip, read, sizing))
            self._clip = clip

    def write(self, talk: Talk) -> None:
        """Print and write what was requested."""
        if self.strip:
            for record in self.records:
                print_strip(record, talk)
        if self.trace is not None:
            write_trace(self.records[0], self.trace, talk)
        if self.html is not None and self._clip is not None:
            write_page(self.records, self._clip, self.html, talk)


def print_json(document: dict[str, Any], *, indent: int | None = 2) -> None:
    """Print a document on stdout, in ASCII where stdout cannot carry more.

    Without `indent` it is one line, in ASCII too: some readers take U+2028 for the end of a line.
    """
    from seats_cli.report.documents import dump_document

    ascii_only = indent is None or not stdout_is_unicode()
    print_document(dump_document(document, ascii_only=ascii_only, indent=indent))


def check_trace(path: Path, option: str) -> None:
    """Refuse a trace file that could not be written.

    Raises
    ------
    UsageError
    """
    if path.suffix.lower() not in TRACE_EXTENSIONS:
        raise UsageError(f"{option} {path} must end in {' or '.join(TRACE_EXTENSIONS)}.")
    check_target(path, option)


def record_answer(
    answer: Answer, clip: Clip, read: ReadOptions, sizing: FrameSizing, **labels: str | None
) -> RunRecord:
    """The record of an answer about a clip that was read by these options for a model.

    Parameters
    ----------
    sizing : FrameSizing
        The model's; with the user's limit it is how the clip is read again without the model.
    **labels
        `label` and `full_answer` of `seats_cli.show.capture.record_of`.
    """
    from seats_cli.show.capture import record_of

    return record_of(answer, read, read.bound(sizing), pixel_shape=clip.pixel_shape, **labels)


def write_trace(record: RunRecord, path: Path, talk: Talk, option: str = "--save-trace") -> None:
    """The record as a file."""
    from seats_cli.show.trace_file import save_record

    existed = path.exists()
    with replacing(path, option) as part:
        save_record(record, part)
    report_written(path, existed, talk)


def write_page(
    records: Sequence[RunRecord], clip: Clip, path: Path, talk: Talk, option: str = "--html"
) -> None:
    """The page about runs of one clip."""
    from seats_cli.show.page import render_page

    existed = path.exists()
    with talk.progress("Drawing"):
        page = render_page(records, clip)
    with replacing(path, option) as part:
        part.write_text(page, encoding="utf-8")
    report_written(path, existed, talk)


def report_written(path: Path, existed: bool, talk: Talk) -> None:
    """Say that a file was written, and whether it took the place of an earlier one."""
    talk.notice(
        f"{'Replaced' if existed else 'Wrote'} {path} ({path.stat().st_size / 1e3:,.0f} kB)."
    )


def print_evidence(answer: Answer, talk: Talk) -> None:
    """What an answer rests on in time, on stderr."""
    from seats_cli.report.phrases import evidence_lines

    for line in evidence_lines(answer):
        talk.console.print(Text(line), soft_wrap=True)


def print_strip(record: RunRecord, talk: Talk) -> None:
    """The strip on stderr, as wide as the terminal at most."""
    from seats_cli.show.strip import strip

    unicode = (sys.stderr.encoding or "").lower().replace("-", "").startswith("utf")
    talk.console.print()
    for line in strip(record, talk.console.width, unicode=unicode):
        talk.console.print(line, soft_wrap=True)


def load_saved(trace: Path, video: str | None) -> tuple[RunRecord, str]:
    """A saved record, and the name of the clip it is about."""
    from seats_cli.media.fetch import is_url
    from seats_cli.show.trace_file import load_record

    record = load_record(trace)
    if video is not None:
        return record, video
    path = record.media.path
    if path == PIPE or is_url(path):
        raise UsageError(f"{trace} was made from a pipe or a URL; give the VIDEO too.")
    beside = trace.parent / path
    return record, str(beside) if not Path(path).exists() and beside.exists() else path


def check_clip(record: RunRecord, clip: Clip) -> None:
    """Refuse a clip other than the one that the trace is about."""
    was, found = record.media, clip.facts
    for what, before, now in (
        ("frames", was.frames_used, found.frames_used),
        ("pixels of width", was.width, found.width),
        ("pixels of height", was.height, found.height),
        ("s of sound", round(was.audio_used_s, 2), round(found.audio_used_s, 2)),
    ):
        if before != now:
            raise UsageError(
                f"{found.path} is not the clip of this trace: it gives {now or 0:g} {what} where "
                f"the trace has {before or 0:g}."
            )


def check_settled(context: typer.Context, question: str | None) -> None:
    """Refuse options that a saved trace has settled: all about reading, pruning and answering."""
    if question is not None:
        raise UsageError("--trace draws a question that was asked; leave QUESTION out.")
    groups = (ReadFlags, BudgetFlags, ModelFlags, GenerationFlags)
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    for name in (*names, "with_full", "system"):
        if name in FLAGS and name != "offline" and was_typed(context, name):
            raise UsageError(f"--trace draws a run as it was: {FLAGS[name]} has no effect on it.")
