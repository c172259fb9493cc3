"""What a run found, per setting: accuracy, what is lost against full, and the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from seats_cli.config import FULL
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.evaluate.statistics import (
    INTERVALS,
    RESAMPLES,
    BoolArray,
    ClipBootstrap,
    Estimate,
    mcnemar_p,
)


@dataclass(frozen=True)
class Group:
    """Answers of one setting to some of the questions."""

    name: str  # "all", a family, or a kind of clip
    # Questions, those without an error, and among the latter those answered rightly and those whose
    # answer could not be read.
    asked: int
    answered: int
    right: int
    unparsed: int
    accuracy: Estimate | None  # share of right answers among those answered; None if there are none
    # Accuracy less, and over, that of the unpruned model on the questions that both answered.
    difference: Estimate | None = None
    kept: Estimate | None = None
    # Questions that only this setting, and only the unpruned model, answers rightly.
    gained: int | None = None
    lost: int | None = None
    p: float | None = None  # exact McNemar test of these two

    @property
    def errors(self) -> int:
        """Questions without an answer."""
        return self.asked - self.answered


@dataclass(frozen=True)
class SettingCost:
    """What the answers of one setting took: means over them, and for seconds the medians.

    `flops_ratio` is the FLOPs of all answers, prefill and selection, over those of the unpruned
    prefill for the same questions. None where no record has the value.
    """

    average_retention: float | None
    video_tokens: float | None
    audio_tokens: float | None
    offered_video_tokens: float | None
    offered_audio_tokens: float | None
    prefill_flops: float | None
    flops_ratio: float | None
    selection_flops: float | None
    kv_bytes: float | None
    peak_host_bytes: int | None
    peak_gpu_bytes: int | None
    prefill_s: float | None
    select_s: float | None
    first_token_s: float | None
    total_s: float | None

    @property
    def flops(self) -> float | None:
        """Of prefill and selection."""
        if self.prefill_flops is None:
            return None
        return self.prefill_flops + (self.selection_flops or 0.0)


@dataclass(frozen=True)
class SettingSummary:
    """One setting."""

    label: str
    method: str
    retain: float | None
    overall: Group
    families: tuple[Group, ...]
    kinds: tuple[Group, ...]
    cost: SettingCost
    error_reasons: Mapping[str, int]


@dataclass(frozen=True)
class Summary:
    """All settings of a run, the unpruned model first."""

    name: str  # of the question set
    # Questions and clips that any setting was asked about.
    items: int
    clips: int
    settings: tuple[SettingSummary, ...]
    # Of the bootstrap.
    seed: int
    resamples: int

    @property
    def intervals(self) -> str:
        """What its intervals are."""
        return INTERVALS

    @property
    def full(self) -> SettingSummary | None:
        """The unpruned model, if it was asked."""
        return next((one for one in self.settings if one.method == FULL), None)

    @property
    def errors(self) -> int:
        """Answers that are missing because of an error."""
        return sum(one.overall.errors for one in self.settings)


def summarise(
    name: str, records: Iterable[ItemRecord], *, seed: int = 0, resamples: int = RESAMPLES
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
    found: dict[tuple[str, str], ItemRecord] = {}
    for record in records:
        found.setdefault(record.key, record)
    tables: dict[str, dict[str, ItemRecord]] = {}
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

    def __init__(self, items: Mapping[str, ItemRecord], bootstrap: ClipBootstrap) -> None:
        self.items = items
        self.bootstrap = bootstrap
        self.families = _members(items, lambda record: record.family)
        self.kinds = _members(items, lambda record: record.kind)

    def setting(
        self, table: Mapping[str, ItemRecord], full: Mapping[str, ItemRecord] | None
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

    def _masks(self, table: Mapping[str, ItemRecord]) -> _Masks:
        def where(holds: Callable[[ItemRecord], bool]) -> BoolArray:
            found = (table.get(item) for item in self.items)
            return np.array([record is not None and holds(record) for record in found], dtype=bool)

        return _Masks(
            asked=where(lambda record: True),
            answered=where(lambda record: record.error is None),
            right=where(lambda record: record.correct),
            unparsed=where(lambda record: record.unparsed),
        )


def _members(
    items: Mapping[str, ItemRecord], part: Callable[[ItemRecord], str]
) -> dict[str, BoolArray]:
    """Masks over the questions of each family or kind that has a name, in order of appearance."""
    names = [part(record) for record in items.values()]
    return {
        name: np.array([other == name for other in names], dtype=bool)
        for name in dict.fromkeys(names)
        if name
    }


def _cost(records: Sequence[ItemRecord]) -> SettingCost:
    """Means, medians of seconds, and largest peaks of the answers there are."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(SettingCost) if field.name != "flops_ratio"):
        values = _values(records, name)
        if not values:
            found[name] = None
        elif name.startswith("peak_"):
            found[name] = max(values)
        elif name.endswith("_s"):
            found[name] = float(np.median(values))
        else:
            found[name] = sum(values) / len(values)
    whole = sum(_values(records, "full_prefill_flops"))
    taken = sum(_values(records, "prefill_flops")) + sum(_values(records, "selection_flops"))
    return SettingCost(**found, flops_ratio=taken / whole if whole else None)


def _values(records: Sequence[ItemRecord], name: str) -> list[Any]:
    """A field of all records that have it."""
    found = (getattr(record, name) for record in records)
    return [value for value in found if value is not None]
