"""How often the stretch of a clip that decides a question is among the answer's first evidence.

`python -m seats_cli.evaluate.evidence_hits` asks the generated questions that one stretch decides,
and counts: beside windows drawn by chance, beside a guess that looks at nothing, and beside the
evidence of another question about the clip. Generated clips know when what they are asked about
happens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seats_cli.cost.token_counts import Evidence, TokenTimes
from seats_cli.engine.evidence import AUDIO, VIDEO, evidence_of
from seats_cli.engine.session import ClipSession
from seats_cli.errors import SeatsError, UsageError
from seats_cli.evaluate.generated import DEFAULT_SEED, SyntheticClip, synthetic_set
from seats_cli.evaluate.questions import Item, open_clip
from seats_cli.evaluate.scoring import options_for, prompt_for
from seats_cli.evaluate.statistics import ClipBootstrap, Estimate
from seats_cli.models.load import load_model

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer

FIRST = 3  # pieces of evidence that count
_LONGEST = 0.5  # of the clip: a longer stretch would be hit by chance more often than not
_GUESS_S = 1.0  # of each window of the fixed guess
_SETTINGS = "full,seats 25%,seats 10%,divprune 25%"


@dataclass(frozen=True)
class Rested:
    """A question under one setting, and what its answer rests on."""

    item: Item
    correct: bool  # whether the answer's text is the right one
    evidence: tuple[Evidence, ...]  # strongest first
    windows: tuple[Evidence, ...]  # all that the evidence is chosen from


@dataclass(frozen=True)
class Found:
    """A question that one stretch decides, under one setting."""

    setting: str
    clip: str
    family: str
    where: str  # "video", "audio" or "both": in which modality the stretch is seen or heard
    correct: bool
    hit: bool  # whether the stretch is among the first `FIRST` pieces of evidence
    # The same, of evidence in a modality in which the stretch is seen or heard.
    sensed: bool
    # Probability of either for windows drawn at random, as many of each modality.
    chance: float
    chance_sensed: float
    fixed: bool  # whether `fixed_guess` hits
    # Share of the clip's other questions whose evidence hits; None if there are none.
    other: float | None
    # The same of those that another stretch decides, which has nothing in common with this one.
    elsewhere: float | None


def hits(one: Evidence, start_s: float, end_s: float) -> bool:
    """Whether evidence and a stretch of the clip overlap by at least half of the shorter one."""
    overlap = min(one.end_s, end_s) - max(one.start_s, start_s)
    return overlap >= 0.5 * min(one.end_s - one.start_s, end_s - start_s)


def chance_of_hit(
    evidence: Sequence[Evidence], windows: Sequence[Evidence], start_s: float, end_s: float
) -> float:
    """Probability that windows drawn at random would hit.

    As in the evidence, no window is drawn twice, and of each modality as many as there are.

    Parameters
    ----------
    windows : sequence of Evidence
        All of the clip, among them the evidence.
    """
    missed = 1.0
    for modality in (VIDEO, AUDIO):
        own = [hits(one, start_s, end_s) for one in windows if one.modality == modality]
        drawn = sum(one.modality == modality for one in evidence)
        missed *= comb(own.count(False), drawn) / comb(len(own), drawn)
    return 1.0 - missed


def fixed_guess(length_s: float) -> tuple[Evidence, ...]:
    """The first, middle and last second of a clip, whatever it shows and whatever is asked."""
    last = max(0.0, length_s - _GUESS_S)
    return tuple(
        Evidence(start, min(start + _GUESS_S, length_s), VIDEO, 1 / FIRST)
        for start in (0.0, last / 2, last)
    )


def decided_items(count: int, seed: int) -> list[Item]:
    """The first `count` generated questions that one stretch of at most half of the clip decides.

    Raises
    ------
    UsageError
        If there would be no question or the seed is negative.
    """
    if count < 1:
        raise UsageError(f"There must be at least 1 question, not {count}.")
    found: list[Item] = []
    asked = count
    while len(found) < count:
        asked *= 2
        found = [item for item in synthetic_set(asked, seed=seed).items if is_decided(item)]
    return found[:count]


def is_decided(item: Item) -> bool:
    """Whether one stretch of at most half of the clip decides a generated question."""
    span = item.meta["decisive"]
    return span is not None and span["end"] - span["start"] <= _LONGEST * item.meta["duration_s"]


def measure(
    loaded: LoadedModel,
    items: Sequence[Item],
    settings: Sequence[tuple[str, SeatsConfig | None]],
    on_progress: Callable[[int], None] | None = None,
) -> list[Found]:
    """Ask every question under every setting, and the other questions about its clip.

    Parameters
    ----------
    items : sequence of Item
        From `decided_items`.
    settings : sequence of (str, SeatsConfig or None)
        By label; None for the unpruned model.
    on_progress : callable, optional
        Called with the number of questions answered after each clip.
    """
    protocol = synthetic_set(1).protocol
    found: list[Found] = []
    clips: dict[str, list[Item]] = {}
    for item in items:
        clips.setdefault(item.clip_key, []).append(item)
    asked = 0
    for own in clips.values():
        media = own[0].media
        assert isinstance(media, SyntheticClip)
        clip = open_clip(own[0], protocol, loaded.sizing)
        session = ClipSession(loaded, clip, system=protocol.system)
        for label, config in settings:
            rested = []
            for item in media.items():
                answer = session.ask(
                    prompt_for(item, protocol),
                    config=config,
                    max_new_tokens=protocol.max_new_tokens,
                    choices=options_for(item, protocol),
                )
                rested.append(_rested(item, answer))
            found += scored(label, rested, {item.id for item in own})
        asked += len(own)
        if on_progress is not None:
            on_progress(asked)
    return found


def _rested(item: Item, answer: Answer) -> Rested:
    times = TokenTimes.of_clip(answer.media, answer.architecture, answer.effective_fps)
    even = torch.ones(answer.trace.length)
    return Rested(
        item,
        answer.text.strip().lower() == item.answer_text.lower(),
        answer.evidence,
        evidence_of(even, answer.trace, times, answer.media, most=None),
    )


def scored(setting: str, rested: Sequence[Rested], wanted: Iterable[str]) -> list[Found]:
    """What was found of the questions about one clip under one setting.

    Parameters
    ----------
    rested : sequence of Rested
        All questions about the clip.
    wanted : iterable of str
        Ids of the questions to score, which one stretch must decide.
    """
    chosen = set(wanted)
    return [
        _found(setting, one, [other for other in rested if other is not one])
        for one in rested
        if one.item.id in chosen
    ]


def _found(setting: str, one: Rested, others: Sequence[Rested]) -> Found:
    item, decisive = one.item, one.item.meta["decisive"]
    span, modalities = (decisive["start"], decisive["end"]), decisive["modalities"]
    first = one.evidence[:FIRST]
    in_modality = [piece for piece in first if piece.modality in modalities]

    def share(asked: Sequence[Rested]) -> float | None:
        found = [any(hits(piece, *span) for piece in other.evidence[:FIRST]) for other in asked]
        return sum(found) / len(found) if found else None

    return Found(
        setting=setting,
        clip=item.clip_key,
        family=item.family,
        where=modalities[0] if len(modalities) == 1 else "both",
        correct=one.correct,
        hit=any(hits(piece, *span) for piece in first),
        sensed=any(hits(piece, *span) for piece in in_modality),
        chance=chance_of_hit(first, one.windows, *span),
        chance_sensed=chance_of_hit(in_modality, one.windows, *span),
        fixed=any(hits(piece, *span) for piece in fixed_guess(item.meta["duration_s"])),
        other=share(others),
        elsewhere=share([other for other in others if _is_apart(other.item, *span)]),
    )


def _is_apart(item: Item, start_s: float, end_s: float) -> bool:
    """Whether another stretch decides a question, with nothing in common with this one."""
    own = item.meta["decisive"]
    return own is not None and (own["end"] <= start_s or end_s <= own["start"])


@dataclass(frozen=True)
class Row:
    """A line of the table: one setting, and all questions or those of a group."""

    setting: str
    group: str
    n: int
    found: Estimate  # share of questions whose stretch was found, with its 95 % interval
    chance: float
    sensed: float
    chance_sensed: float
    fixed: float
    other: float | None
    apart: int  # questions with another one that another stretch decides
    found_apart: float | None  # `found` of these questions
    elsewhere: float | None  # by the evidence of those others
    rights: int
    right: Estimate | None  # `found` among questions that were answered rightly
    wrongs: int
    wrong: Estimate | None  # and among the others


def table(found: Sequence[Found]) -> list[Row]:
    """Rows for all questions of each setting, then for each modality and family."""
    rows = []
    for setting in dict.fromkeys(one.setting for one in found):
        own = [one for one in found if one.setting == setting]
        bootstrap = ClipBootstrap([one.clip for one in own])
        hit, right = (np.array([getattr(one, name) for one in own]) for name in ("hit", "correct"))
        groups = [("all", np.ones(len(own), bool))]
        for name, kind in (("where", "decided in "), ("family", "")):
            values = np.array([getattr(one, name) for one in own])
            groups += [(f"{kind}{value}", values == value) for value in sorted(set(values))]
        for group, counted in groups:
            share = bootstrap.share(hit, counted)
            assert share is not None
            members = [one for one, is_counted in zip(own, counted, strict=True) if is_counted]
            apart = [one for one in members if one.elsewhere is not None]
            means = {
                name: _mean(getattr(one, name) for one in members)
                for name in ("sensed", "chance", "chance_sensed", "fixed")
            }
            rows.append(
                Row(
                    setting,
                    group,
                    len(members),
                    share,
                    **{name: value or 0.0 for name, value in means.items()},
                    other=_mean(one.other for one in members),
                    apart=len(apart),
                    found_apart=_mean(one.hit for one in apart),
                    elsewhere=_mean(one.elsewhere for one in apart),
                    rights=int((counted & right).sum()),
                    right=bootstrap.share(hit, counted & right),
                    wrongs=int((counted & ~right).sum()),
                    wrong=bootstrap.share(hit, counted & ~right),
                )
            )
    return rows


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


_COLUMNS = (
    "setting",
    "questions",
    "n",
    "found, %",
    "by chance",
    "in its modality, %",
    "by chance",
    "fixed guess, %",
    "by another question's evidence, %",
    "n decided apart",
    "found, %",
    "by the other's evidence",
    "found if right, % (n)",
    "if wrong, % (n)",
)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, shares in per cent."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.0f}"

    def interval(estimate: Estimate | None) -> str:
        if estimate is None:
            return "-"
        ends = estimate.interval
        between = "-" if ends is None else " to ".join(f"{round(100 * end)}" for end in ends)
        return f"{100 * estimate.value:.0f} ({between})"

    lines = [
        "| " + " | ".join(_COLUMNS) + " |",
        "|---|---|" + "---:|" * (len(_COLUMNS) - 2),
    ]
    for row in rows:
        cells = (
            row.setting,
            row.group,
            str(row.n),
            interval(row.found),
            percent(row.chance),
            percent(row.sensed),
            percent(row.chance_sensed),
            percent(row.fixed),
            percent(row.other),
            str(row.apart),
            percent(row.found_apart),
            percent(row.elsewhere),
            f"{interval(row.right)}, n = {row.rights}" if row.rights else "-",
            f"{interval(row.wrong)}, n = {row.wrongs}" if row.wrongs else "-",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _setting(text: str) -> tuple[str, SeatsConfig | None]:
    from seats_cli.config import FULL, SeatsConfig

    method, _, share = text.strip().partition(" ")
    if method == FULL and not share:
        return method, None
    try:
        retain = float("" if method == FULL else share.rstrip("% ")) / 100
    except ValueError:
        raise UsageError(
            f"A setting is `{FULL}`, or a method and the share to keep, as in `seats 25%`; "
            f"{text.strip()!r} is neither."
        ) from None
    return text.strip(), SeatsConfig(method=method, retain=retain)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m seats_cli.evaluate.evidence_hits", description=__doc__
    )
    parser.add_argument("--model", default="bundled", help="as for seats ask (bundled)")
    parser.add_argument("--limit", type=int, default=300, help="questions to ask (300)")
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help=f"of the questions ({DEFAULT_SEED})"
    )
    parser.add_argument(
        "--settings", default=_SETTINGS, help=f"comma-separated ({_SETTINGS})".replace("%", "%%")
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found")
    given = parser.parse_args(arguments)
    try:
        settings = [_setting(text) for text in given.settings.split(",")]
        loaded = load_model(given.model, device=given.device)
        items = decided_items(given.limit, given.seed)
        found = measure(
            loaded,
            items,
            settings,
            lambda done: print(f"\r{done}/{len(items)}", end="", file=sys.stderr),
        )
    except SeatsError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(file=sys.stderr)
    print(as_markdown(table(found)))
    if given.json is not None:
        content: list[dict[str, Any]] = [asdict(one) for one in found]
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
