"""Two settings of one evaluation against each other, on the questions that both answered.

    python -m seats_cli.evaluate.paired seats-eval-synthetic "seats 10%" "divprune-om 10%"

`seats eval` compares every setting with the unpruned model; this compares any two.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from seats_cli.errors import UsageError
from seats_cli.evaluate.run_folder import ANSWERS, ItemRecord
from seats_cli.evaluate.statistics import ClipBootstrap, Estimate, mcnemar_p


@dataclass(frozen=True)
class Paired:
    """One setting against another."""

    questions: int  # answered by both
    right: tuple[int, int]  # of the first and of the second
    difference: Estimate  # accuracy of the first less that of the second, -1..1, over clips
    # Questions that just one of them answers rightly.
    only_first: int
    only_second: int
    p: float  # exact McNemar test of these two
    # Questions with the same answer, and with the same beginning of it.
    same_text: int
    same_first_word: int
    # Median seconds from the first token to the end of the answer.
    after_first_token_s: tuple[float, float]


def compare_paired(records: Sequence[ItemRecord], first: str, second: str) -> Paired:
    """Compare the settings with these labels.

    Raises
    ------
    UsageError
        There is no question that both have answered.
    """
    one, other = _answered(records, first), _answered(records, second)
    both = [item for item in one if item in other]
    if not both:
        known = ", ".join(sorted({record.label for record in records}))
        raise UsageError(f"'{first}' and '{second}' have answered no common question; {known}.")
    mine = np.array([one[item].correct for item in both])
    theirs = np.array([other[item].correct for item in both])
    clips = ClipBootstrap([one[item].clip_key for item in both])
    difference = clips.difference(mine, theirs, np.ones(len(both), dtype=bool))
    assert difference is not None
    gained, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    texts = [(one[item].given, other[item].given) for item in both]
    return Paired(
        len(both),
        (int(mine.sum()), int(theirs.sum())),
        difference,
        gained,
        lost,
        mcnemar_p(gained, lost),
        sum(a == b for a, b in texts),
        sum(a.replace(",", " ").split()[:1] == b.replace(",", " ").split()[:1] for a, b in texts),
        (_after_first(one, both), _after_first(other, both)),
    )


def _answered(records: Sequence[ItemRecord], label: str) -> dict[str, ItemRecord]:
    return {one.item_id: one for one in records if one.label == label and one.error is None}


def _after_first(table: Mapping[str, ItemRecord], items: Sequence[str]) -> float:
    spans = (
        table[item].total_s - table[item].first_token_s  # type: ignore[operator]
        for item in items
        if table[item].total_s is not None and table[item].first_token_s is not None
    )
    return median(list(spans) or [0.0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a finished `seats eval`")
    parser.add_argument("first", help="label of a setting")
    parser.add_argument("second", help="label of another")
    options = parser.parse_args(arguments)
    try:
        # Not `splitlines`: answers may hold other characters that it takes for ends of lines.
        lines = (options.folder / ANSWERS).read_text(encoding="utf-8").split("\n")
        records = [ItemRecord.from_dict(json.loads(line)) for line in lines if line]
        found = compare_paired(records, options.first, options.second)
    except (OSError, ValueError, UsageError) as error:
        parser.exit(2, f"Error: {error}\n")
    ends = found.difference.interval
    interval = "-" if ends is None else f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}"
    mine, theirs = (100 * right / found.questions for right in found.right)
    sys.stdout.write(
        f"{found.questions} questions: {mine:.1f} and {theirs:.1f} % right, "
        f"{100 * found.difference.value:+.2f} points ({interval}), "
        f"only the first {found.only_first}, only the second {found.only_second}, "
        f"McNemar p = {found.p:.3g}\n"
        f"same answer {found.same_text}, same first word {found.same_first_word}; after the first "
        f"token {1e3 * found.after_first_token_s[0]:.1f} and "
        f"{1e3 * found.after_first_token_s[1]:.1f} ms\n"
    )


if __name__ == "__main__":
    main()
