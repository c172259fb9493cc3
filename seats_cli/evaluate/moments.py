"""How often the moment that decides a question is among the first of its answer's evidence.

`python -m seats_cli.evaluate.moments` asks the generated questions that have one such moment, and
counts, beside chance. Generated clips know when what they are asked about happens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seats_cli.cost.token_counts import TokenTimes
from seats_cli.engine.answer import ask
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.errors import SeatsError
from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.questions import Item, open_clip
from seats_cli.evaluate.scoring import options_for, prompt_for
from seats_cli.evaluate.statistics import ClipBootstrap, Estimate
from seats_cli.models.inputs import prepare_clip
from seats_cli.models.load import load_model

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.cost.token_counts import Evidence
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Answer

FIRST = 3  # pieces of evidence that count
_LONGEST = 0.5  # of the clip: a longer moment would be hit by chance more often than not
_SETTINGS = "full,seats 35%,seats 25%,seats 15%,seats 10%,divprune 25%"


@dataclass(frozen=True)
class Found:
    """One question under one setting."""

    setting: str
    clip: str
    family: str
    where: str  # "video", "audio" or "both": in which modality the moment is seen or heard
    correct: bool  # whether the answer's text is the right one
    hit: bool  # whether the moment is among the first `FIRST`
    # The same, of evidence in a modality in which the moment is seen or heard.
    sensed: bool
    chance: float  # of a hit by as many windows of the same lengths at random places


def hits(moment: Evidence, start_s: float, end_s: float) -> bool:
    """Whether evidence and a stretch of the clip overlap by at least half of the shorter one."""
    overlap = min(moment.end_s, end_s) - max(moment.start_s, start_s)
    return overlap >= 0.5 * min(moment.end_s - moment.start_s, end_s - start_s)


def chance_of_hit(
    evidence: Sequence[Evidence], length_s: float, step_s: float, start_s: float, end_s: float
) -> float:
    """Probability that at least one of these windows would hit, each at a place drawn at random.

    Parameters
    ----------
    length_s : float
        Of the clip, in which windows begin at multiples of `step_s` and end before its end.
    """
    missed = 1.0
    for moment in evidence:
        places = max(1, int((length_s - (moment.end_s - moment.start_s)) / step_s + 1e-6) + 1)
        shifted = (
            replace(
                moment,
                start_s=place * step_s,
                end_s=place * step_s + moment.end_s - moment.start_s,
            )
            for place in range(places)
        )
        missed *= 1.0 - sum(hits(one, start_s, end_s) for one in shifted) / places
    return 1.0 - missed


def decided_items(count: int, seed: int) -> list[Item]:
    """The first `count` generated questions that one moment of at most half of the clip decides."""
    found: list[Item] = []
    asked = count
    while len(found) < count:
        asked *= 2
        found = [item for item in synthetic_set(asked, seed=seed).items if _is_decided(item)]
    return found[:count]


def _is_decided(item: Item) -> bool:
    moment = item.meta["moment"]
    return (
        moment is not None and moment["end"] - moment["start"] <= _LONGEST * item.meta["duration_s"]
    )


def measure(
    loaded: LoadedModel,
    items: Sequence[Item],
    settings: Sequence[tuple[str, SeatsConfig | None]],
    on_progress: Callable[[int], None] | None = None,
) -> list[Found]:
    """Ask every question under every setting.

    Parameters
    ----------
    items : sequence of Item
        From `decided_items`.
    settings : sequence of (str, SeatsConfig or None)
        By label; None for the unpruned model.
    on_progress : callable, optional
        Called with the number of questions asked after each clip.
    """
    protocol = synthetic_set(1).protocol
    found: list[Found] = []
    clips: dict[str, list[Item]] = {}
    for item in items:
        clips.setdefault(item.clip_key, []).append(item)
    asked = 0
    for own in clips.values():
        clip = open_clip(own[0], protocol, loaded.sizing)
        prepared, encoders = prepare_clip(loaded, clip, system=protocol.system), EncoderCache()
        # The unpruned model comes last: it can use statistics noted for others, not the reverse.
        for label, config in sorted(settings, key=lambda setting: setting[1] is None):
            for item in own:
                answer = ask(
                    loaded,
                    prepared,
                    prompt_for(item, protocol),
                    config=config,
                    max_new_tokens=protocol.max_new_tokens,
                    choices=options_for(item, protocol),
                    encoder_cache=encoders,
                )
                found.append(_found(label, item, answer))
        asked += len(own)
        if on_progress is not None:
            on_progress(asked)
    return found


def _found(label: str, item: Item, answer: Answer) -> Found:
    moment = item.meta["moment"]
    span, modalities = (moment["start"], moment["end"]), moment["modalities"]
    first = answer.evidence[:FIRST]
    times = TokenTimes.of_clip(answer.media, answer.architecture, answer.effective_fps)
    step = 1.0 if times.grid is None else times.grid.seconds
    return Found(
        setting=label,
        clip=item.clip_key,
        family=item.family,
        where=modalities[0] if len(modalities) == 1 else "both",
        correct=answer.text.strip().lower() == item.answer_text.lower(),
        hit=any(hits(one, *span) for one in first),
        sensed=any(hits(one, *span) for one in first if one.modality in modalities),
        chance=chance_of_hit(first, item.meta["duration_s"], step, *span),
    )


@dataclass(frozen=True)
class Row:
    """A line of the table: one setting, and all questions or those of a group."""

    setting: str
    group: str
    n: int
    found: Estimate  # share of questions whose moment was found, with its 95 % interval
    sensed: float
    chance: float
    right: Estimate | None  # `found` among questions that were answered rightly
    wrong: Estimate | None  # and among the others


def table(found: Sequence[Found]) -> list[Row]:
    """Rows for all questions of each setting, then for each modality and family."""
    rows = []
    for setting in dict.fromkeys(one.setting for one in found):
        own = [one for one in found if one.setting == setting]
        bootstrap = ClipBootstrap([one.clip for one in own])
        hit, right = (np.array([getattr(one, name) for one in own]) for name in ("hit", "correct"))
        groups = [("all", np.ones(len(own), bool))]
        for name, kind in (("where", "moment in "), ("family", "")):
            values = np.array([getattr(one, name) for one in own])
            groups += [(f"{kind}{value}", values == value) for value in sorted(set(values))]
        for group, counted in groups:
            share = bootstrap.share(hit, counted)
            assert share is not None
            rows.append(
                Row(
                    setting,
                    group,
                    int(counted.sum()),
                    share,
                    _mean((one.sensed for one in own), counted),
                    _mean((one.chance for one in own), counted),
                    bootstrap.share(hit, counted & right),
                    bootstrap.share(hit, counted & ~right),
                )
            )
    return rows


def _mean(values: Iterable[float], counted: np.ndarray) -> float:
    return float(np.array(list(values), float)[counted].mean())


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, shares in per cent."""

    def percent(estimate: Estimate | None) -> str:
        if estimate is None:
            return "-"
        low, high = round(100 * estimate.low), round(100 * estimate.high)
        return f"{100 * estimate.value:.0f} ({low} to {high})"

    lines = [
        "| setting | questions | n | found, % | in its modality, % | chance, % | "
        "found if right, % | if wrong, % |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.setting} | {row.group} | {row.n} | {percent(row.found)} | "
        f"{100 * row.sensed:.0f} | {100 * row.chance:.0f} | {percent(row.right)} | "
        f"{percent(row.wrong)} |"
        for row in rows
    ]
    return "\n".join(lines)


def _setting(text: str) -> tuple[str, SeatsConfig | None]:
    from seats_cli.config import FULL, SeatsConfig

    method, _, share = text.strip().partition(" ")
    if method == FULL:
        return method, None
    return text.strip(), SeatsConfig(method=method, retain=float(share.rstrip("% ")) / 100)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m seats_cli.evaluate.moments", description=__doc__
    )
    parser.add_argument("--model", default="bundled", help="as for seats ask (bundled)")
    parser.add_argument("--limit", type=int, default=300, help="questions to ask (300)")
    parser.add_argument("--seed", type=int, default=2026, help="of the questions (2026)")
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
