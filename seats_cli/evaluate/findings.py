"""What a run found, per setting: accuracy, what is lost against full, and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seats_cli.evaluate.statistics import Estimate

FULL = "full"


@dataclass(frozen=True)
class Group:
    """Answers of one setting to some of the questions.

    Parameters
    ----------
    name : str
        "all", a family, or a kind of clip.
    asked, answered, right, unparsed : int
        Questions, those without an error, and among the latter those answered rightly and those
        whose answer could not be read.
    accuracy : Estimate or None
        Share of right answers among those answered; None if there are none.
    difference, kept : Estimate or None
        Accuracy less, and over, that of the unpruned model on the questions that both answered.
    gained, lost : int or None
        Questions that only this setting, and only the unpruned model, answers rightly.
    p : float or None
        Exact McNemar test of these two.
    """

    name: str
    asked: int
    answered: int
    right: int
    unparsed: int
    accuracy: Estimate | None
    difference: Estimate | None = None
    kept: Estimate | None = None
    gained: int | None = None
    lost: int | None = None
    p: float | None = None

    @property
    def errors(self) -> int:
        """Questions without an answer."""
        return self.asked - self.answered


@dataclass(frozen=True)
class SettingCost:
    """What the answers of one setting took: means over them, and for seconds the medians.

    `flops_ratio` is the prefill's FLOPs of all answers over those of the unpruned prefill for the
    same questions. None is what no record has.
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
    """All settings of a run, the unpruned model first.

    Parameters
    ----------
    name : str
        Of the question set.
    items, clips : int
        Questions and clips that any setting was asked about.
    settings : tuple of SettingSummary
    seed, resamples : int
        Of the bootstrap.
    """

    name: str
    items: int
    clips: int
    settings: tuple[SettingSummary, ...]
    seed: int
    resamples: int

    @property
    def full(self) -> SettingSummary | None:
        """The unpruned model, if it was asked."""
        return next((one for one in self.settings if one.method == FULL), None)

    @property
    def errors(self) -> int:
        """Answers that are missing because of an error."""
        return sum(one.overall.errors for one in self.settings)
