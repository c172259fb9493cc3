"""From the answers of a run to what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seats_cli.cost.latency import percentile
from seats_cli.evaluate.findings import FULL, Group, SettingCost, SettingSummary, Summary
from seats_cli.evaluate.records import Record
from seats_cli.evaluate.statistics import RESAMPLES, BoolArray, ClipBootstrap, mcnemar_p


def summarise(
    name: str, records: Iterable[Record], *, seed: int = 0, resamples: int = RESAMPLES
) -> Summary:
    """Count a run.

    Parameters
    ----------
    name : str
        Of the question set.
    records : iterable of Record
        The first one counts where an item and a setting come twice.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    Summary
        An answer with an error counts as an error and never as wrong: it is left out of accuracy
        and of the comparison with the unpruned model.
    """
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        found.setdefault(record.key, record)
    tables: dict[str, dict[str, Record]] = {}
    for record in found.values():
        tables.setdefault(record.label, {})[record.item_id] = record
    items = {record.item_id: record for record in found.values()}
    if not items:
        return Summary(name, 0, 0, (), seed, resamples)
    clips = [record.clip_key for record in items.values()]
    counting = _Counting(items, ClipBootstrap(clips, seed=seed, resamples=resamples))
    labels = sorted(tables, key=lambda label: next(iter(tables[label].values())).method != FULL)
    first = tables[labels[0]]
    full = first if next(iter(first.values())).method == FULL else None
    return Summary(
        name=name,
        items=len(items),
        clips=len(set(clips)),
        settings=tuple(counting.setting(tables[label], full) for label in labels),
        seed=seed,
        resamples=resamples,
    )


@dataclass(frozen=True)
class _Masks:
    """What became of each question with one setting; bool arrays of shape (items,)."""

    asked: BoolArray
    answered: BoolArray
    right: BoolArray
    unparsed: BoolArray


class _Counting:
    """Counts settings over the same questions in the same order."""

    def __init__(self, items: Mapping[str, Record], bootstrap: ClipBootstrap) -> None:
        self.items = items
        self.bootstrap = bootstrap
        self.families = _members(items, lambda record: record.family)
        self.kinds = _members(items, lambda record: record.kind)

    def setting(
        self, table: Mapping[str, Record], full: Mapping[str, Record] | None
    ) -> SettingSummary:
        """All about one setting; records are given by item."""
        one = next(iter(table.values()))
        masks = self._masks(table)
        reference = None if full is None or full is table else self._masks(full)

        def groups(members: Mapping[str, BoolArray]) -> tuple[Group, ...]:
            return tuple(
                self._group(name, mask, masks, reference) for name, mask in members.items()
            )

        errors = Counter(record.error for record in table.values() if record.error is not None)
        return SettingSummary(
            label=one.label,
            method=one.method,
            retain=one.retain,
            overall=groups({"all": np.ones(len(self.items), dtype=bool)})[0],
            families=groups(self.families),
            kinds=groups(self.kinds),
            cost=_cost([record for record in table.values() if record.error is None]),
            error_reasons=dict(errors.most_common()),
        )

    def _group(self, name: str, members: BoolArray, own: _Masks, full: _Masks | None) -> Group:
        """Some of the questions, given as a mask over all."""
        answered = members & own.answered
        plain = Group(
            name,
            asked=int((members & own.asked).sum()),
            answered=int(answered.sum()),
            right=int((answered & own.right).sum()),
            unparsed=int((answered & own.unparsed).sum()),
            accuracy=self.bootstrap.share(own.right, answered),
        )
        if full is None:
            return plain
        both = answered & full.answered
        gained = int((both & own.right & ~full.right).sum())
        lost = int((both & ~own.right & full.right).sum())
        return replace(
            plain,
            difference=self.bootstrap.difference(own.right, full.right, both),
            kept=self.bootstrap.ratio(own.right, full.right, both),
            gained=gained,
            lost=lost,
            p=mcnemar_p(gained, lost) if both.any() else None,
        )

    def _masks(self, table: Mapping[str, Record]) -> _Masks:
        def where(holds: Callable[[Record], bool]) -> BoolArray:
            found = (table.get(item) for item in self.items)
            return np.array([record is not None and holds(record) for record in found], dtype=bool)

        return _Masks(
            asked=where(lambda record: True),
            answered=where(lambda record: record.error is None),
            right=where(lambda record: record.correct),
            unparsed=where(lambda record: record.unparsed),
        )


def _members(items: Mapping[str, Record], part: Callable[[Record], str]) -> dict[str, BoolArray]:
    """Masks over the questions of each family or kind that has a name, in order of appearance."""
    names = [part(record) for record in items.values()]
    return {
        name: np.array([other == name for other in names], dtype=bool)
        for name in dict.fromkeys(names)
        if name
    }


def _cost(records: Sequence[Record]) -> SettingCost:
    """Means, medians of seconds, and largest peaks of the answers there are."""

    def values(name: str) -> list[float]:
        found = (getattr(record, name) for record in records)
        return [value for value in found if value is not None]

    def mean(name: str) -> float | None:
        found = values(name)
        return sum(found) / len(found) if found else None

    def median(name: str) -> float | None:
        found = values(name)
        return percentile(found, 0.5) if found else None

    def peak(name: str) -> int | None:
        return max((int(value) for value in values(name)), default=None)

    whole = sum(values("full_prefill_flops"))
    return SettingCost(
        average_retention=mean("average_retention"),
        video_tokens=mean("video_tokens"),
        audio_tokens=mean("audio_tokens"),
        offered_video_tokens=mean("offered_video_tokens"),
        offered_audio_tokens=mean("offered_audio_tokens"),
        prefill_flops=mean("prefill_flops"),
        flops_ratio=sum(values("prefill_flops")) / whole if whole else None,
        selection_flops=mean("selection_flops"),
        kv_bytes=mean("kv_bytes"),
        peak_host_bytes=peak("peak_host_bytes"),
        peak_gpu_bytes=peak("peak_gpu_bytes"),
        prefill_s=median("prefill_s"),
        select_s=median("select_s"),
        first_token_s=median("first_token_s"),
        total_s=median("total_s"),
    )
