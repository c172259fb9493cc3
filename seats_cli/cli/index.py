"""`seats index`: a clip read, encoded and prefilled once, as a file that answers questions.

And what other commands open such a file with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries
from seats_cli.cli.option_groups import FLAGS, grouped, was_typed
from seats_cli.cli.option_parsers import budget_option, output_option
from seats_cli.cli.outputs import print_json
from seats_cli.cli.sources import (
    PIPE,
    IndexInput,
    InputFile,
    OpenedClip,
    fit_input,
    local_path,
    open_clip,
    open_input,
    open_model,
    read_input,
)
from seats_cli.cli.to_config import SKIPS, build_specs
from seats_cli.config import FULL, SeatsConfig
from seats_cli.errors import UsageError
from seats_cli.files import check_writable
from seats_cli.media.clip import INDEX_SUFFIX, ReadOptions, is_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seats_cli.engine.session import AskableModel, ClipSession
    from seats_cli.engine.session_file import IndexSize
    from seats_cli.results import RunSpec

EPILOG = (
    "Examples: seats index talk.mp4 -o talk.seats, then seats ask talk.seats "
    '"What is shown first?"; seats index talk.mp4 -o talk.seats --retain 10%,25% --full. '
    "Other settings can still be asked with: they take the clip's prefill, not its encoders."
)
_SPARE = 512  # tokens that the clip leaves in the context for questions that are not known yet


@dataclass(frozen=True)
class IndexBudget:
    """The settings that are prefilled at once: each method with each budget, and no pruning."""

    retain: Annotated[
        str | None,
        budget_option(
            "--retain SHARE,...",
            "Shares of audio and video tokens to prefill for, each one setting: 25%,10%.",
            shown="25%",
        ),
    ] = None
    method: Annotated[
        str | None,
        budget_option(
            "--method --methods NAME,...",
            "Selection methods, or 'all': seats,random,fastv.",
            shown="seats",
        ),
    ] = None
    full: Annotated[
        bool, budget_option("--full", "Also prefill without pruning; alone, nothing else.")
    ] = False
    kv: opt.KvPolicy = None
    allocation: opt.AllocationPolicy = None
    config_file: opt.ConfigFile = None


@dataclass(frozen=True)
class IndexOutput:
    """Where the index goes."""

    out: Annotated[
        Path | None,
        output_option("--out -o FILE", "The index to write.", shown="<name of VIDEO>.seats"),
    ] = None
    only: Annotated[
        bool,
        output_option(
            "--only",
            "Leave out what these settings do not need; no others can be asked with then.",
        ),
    ] = False
    as_json: opt.Json = False
    quiet: opt.SweepQuiet = False
    debug: opt.Debug = False


@grouped
def index(
    context: typer.Context,
    video: opt.Video,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    budget: IndexBudget,
    model: opt.ModelFlags,
    output: IndexOutput,
) -> None:
    """Write a file that answers questions about a clip in place of it, exactly and at once.

    It holds what all questions share: the encoders' outputs and, for each setting, the prefill up
    to the first drop. It works with the model and the precision that it was made with.
    """
    talk = Talk(quiet=output.quiet)
    specs = _settings(budget, context, model)
    from seats_cli.selection.methods import acting_config

    idle = dict.fromkeys(
        chain(*(spec.config.idle_warnings() for spec in specs if spec.config is not None))
    )
    specs = [
        replace(spec, config=None if spec.config is None else acting_config(spec.config))
        for spec in specs
    ]
    configs = [spec.config for spec in specs]
    out = _target(output.out, video)
    file = open_input(video, talk, allow_local_urls=allow_local_urls, offline=model.offline)
    calm_libraries(debug=output.debug, quiet=output.quiet)

    from seats_cli.engine.prune import check_method
    from seats_cli.engine.session_file import check_index_target

    check_index_target(out)
    loaded = open_model(model, talk)
    for config in configs:
        check_method(loaded, config)
    began = time.perf_counter()
    fitted, notes = fit_input(file, read, loaded, (), configs, None, (), system, _SPARE)
    clip, _ = read_input(file, fitted, loaded.sizing, talk, notes)
    session = loaded.open(clip, system=system)
    for number, config in enumerate(configs, start=1):
        with talk.progress(f"Reading through the clip, setting {number} of {len(configs)}"):
            session.prefill(config)
    existed = out.exists()
    with talk.progress(f"Writing {out.name}"):
        size = session.save(out, only=output.only, file=file.path, asked=read, read=fitted)
    seconds = time.perf_counter() - began
    then = "it cannot be asked with" if output.only else "every question prefills the clip"
    absent = [
        f"{spec.label} shares the encoders' outputs only, so no states are kept for it: {then}."
        for spec in specs
        if not _held(spec, size)
    ]
    if output.as_json:
        warnings = (*session.clip.warnings, *idle, *absent)
        print_json(_document(out, specs, size, session, seconds, warnings))
    for warning in absent:
        talk.warning(warning)
    talk.notice(f"{'Replaced' if existed else 'Wrote'} {out}: {_described(specs, size)}.")


def _target(out: Path | None, video: str) -> Path:
    """The file to write, which is named like the clip unless the user has named it."""
    from seats_cli.media.fetch import is_url

    if out is None:
        name = Path(urlsplit(video).path if is_url(video) else video).stem
        if video == PIPE or not name:
            raise UsageError("A clip from a pipe has no name: name its index by --out FILE.seats.")
        out = Path(f"{name}{INDEX_SUFFIX}")
    if not is_index(out.name):
        raise UsageError(f"--out {out} must end in {INDEX_SUFFIX}.")
    check_writable(out, "--out")
    return out


def _settings(budget: IndexBudget, context: typer.Context, model: opt.ModelFlags) -> list[RunSpec]:
    """What is to be prefilled."""
    from seats_cli.results import RunSpec

    unpruned = [RunSpec(FULL, None)]
    named = ("retain", "method", "kv", "allocation", "config_file")
    if budget.full and not any(was_typed(context, name) for name in named):
        return unpruned
    sweep = opt.SweepFlags(
        retain=budget.retain,
        method=budget.method,
        kv=budget.kv,
        allocation=budget.allocation,
        config_file=budget.config_file,
    )
    found = build_specs(context, sweep, 0, model=model.model, revision=model.revision)
    specs = [spec for spec in found if spec.method != FULL]
    if any(spec.config is not None and spec.config.encoder_skips is not None for spec in specs):
        raise UsageError(
            "An index answers without pictures, so Stage 0 and encoder reuse cannot compare them: "
            f"leave {', '.join(SKIPS)} out of --config."
        )
    listed = (budget.method or "").lower().split(",")  # of which `build_specs` leaves `full` out
    wanted = budget.full or len(specs) < len(found) or FULL in map(str.strip, listed)
    return [*specs, *(unpruned if wanted else ())]


def _document(
    path: Path,
    specs: Sequence[RunSpec],
    size: IndexSize,
    session: ClipSession,
    seconds: float,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """What `--json` prints."""
    from seats_cli.report.documents import document

    return document(
        {
            "kind": "index",
            "index": {
                "path": str(path),
                "bytes": size.bytes,
                "encoder_bytes": size.encoder_bytes,
                "settings": [
                    {
                        "label": spec.label,
                        "config": None if spec.config is None else spec.config.to_dict(),
                        "bytes": _held(spec, size),
                    }
                    for spec in specs
                ],
            },
            "media": session.clip.facts,
            "model": session.model,
            "timing": {"total_s": seconds},
            "warnings": warnings,
        }
    )


def _described(specs: Sequence[RunSpec], size: IndexSize) -> str:
    """Its size, and what takes it."""
    parts = [("encoders", size.encoder_bytes)] if size.encoder_bytes else []
    parts += [(spec.label, _held(spec, size)) for spec in specs]
    listed = ", ".join(f"{name} {held / 1e6:,.1f} MB" for name, held in parts)
    return f"{size.bytes / 1e6:,.1f} MB ({listed})"


def _held(spec: RunSpec, size: IndexSize) -> int:
    """Bytes that are there for a setting alone; none where its method shares encodings only."""
    config = spec.config or SeatsConfig(method=FULL)
    return sum(held for stored, held in size.settings if stored == config)


# ------------------------------------------------------ in place of a clip


def open_source(
    name: str,
    talk: Talk,
    read: ReadOptions,
    context: typer.Context,
    *,
    allow_local_urls: bool = False,
    offline: bool = False,
) -> InputFile | IndexInput:
    """A media file, as `open_input`, or an index that takes the place of one.

    Raises
    ------
    MediaError
        As `open_input`.
    UsageError
        As `open_input`; if an index cannot be used; or if it was read in another way than was
        typed.
    """
    path = local_path(name, talk, allow_local_urls=allow_local_urls, offline=offline)
    if not is_index(path):
        from seats_cli.media.probe import probe

        return InputFile(name, path, probe(path))
    from seats_cli.engine.session_reader import SavedIndex

    index = SavedIndex(Path(path))
    for part in fields(ReadOptions):
        asked = index.facts.asked
        if was_typed(context, part.name) and (
            asked is None or getattr(asked, part.name) != getattr(read, part.name)
        ):
            raise UsageError(
                f"{name} has read its clip already, with other settings than {FLAGS[part.name]} "
                "asks for: leave it out, or index the clip again."
            )
    return IndexInput(name, path, index)


def open_asked(
    file: InputFile | IndexInput,
    read: ReadOptions,
    loaded: AskableModel,
    talk: Talk,
    *,
    system: str | None,
    **how: Any,
) -> OpenedClip:
    """A clip as `open_clip` opens it, which has the other parameters, or an index of one."""
    if isinstance(file, InputFile):
        return open_clip(file, read, loaded, talk, system=system, **how)
    from seats_cli.engine.session import ClipSession

    began = time.perf_counter()
    session = ClipSession.saved(loaded, file.index, system=system)
    for warning in session.clip.warnings:
        talk.warning(warning)
    facts, read_s = file.index.facts, time.perf_counter() - began
    return OpenedClip(
        session.clip,
        facts.read or ReadOptions(),
        read_s,
        session.ask,
        system=facts.system,
        content_sha256=None if facts.file is None else facts.file.sha256,
    )
