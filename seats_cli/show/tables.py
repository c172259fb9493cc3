"""The tables of a page as rows of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seats_cli.show.words import stage_words

if TYPE_CHECKING:
    from seats_cli.show.record import Part, Record, RecordedStage

_MAX_TABLES = 12  # a method that drops after every layer has dozens


def stage_tables(record: Record) -> list[dict[str, Any]]:
    """Window by window what each stage was offered, allotted and left.

    Of a method with very many stages, evenly spaced ones.
    """
    stages = [stage for stage in record.stages if stage.windows]
    if len(stages) > _MAX_TABLES:
        last = len(stages) - 1
        stages = [stages[round(k * last / (_MAX_TABLES - 1))] for k in range(_MAX_TABLES)]
    return [_stage_table(record, stage) for stage in stages]


def _stage_table(record: Record, stage: RecordedStage) -> dict[str, Any]:
    parts = [part for window in stage.windows for part in (window.video, window.audio) if part]
    most = max((part.mean_relevance or 0.0 for part in parts), default=0.0)
    has = {
        name: any(getattr(window, name) for window in stage.windows) for name in ("video", "audio")
    }
    return {
        "label": stage_words(record, stage),
        "video": has["video"],
        "audio": has["audio"],
        "budgets": any(part.budget is not None for part in parts),
        "scores": stage.scores is not None,
        "rows": [
            {
                "number": number,
                "video": _cells(record, window.video, "video", most),
                "audio": _cells(record, window.audio, "audio", most),
            }
            for number, window in enumerate(stage.windows, 1)
        ],
    }


def _cells(record: Record, part: Part | None, name: str, most: float) -> dict[str, Any] | None:
    if part is None:
        return None
    seconds = record.video_seconds if name == "video" else record.audio_seconds
    start, end = seconds(part.first, part.last)
    relevance = part.mean_relevance
    return {
        "time": f"{start:.3g} to {end:.3g} s",
        "offered": f"{part.offered:,}",
        "budget": "" if part.budget is None else f"{part.budget:,}",
        "kept": f"{part.kept:,}",
        # Attention of one query sums to one: a thousandth is a readable unit.
        "relevance": "" if relevance is None else f"{1000 * relevance:.3g}",
        "bar": 0 if not relevance or most <= 0 else round(100 * relevance / most, 1),
    }


def settings_of(record: Record) -> list[tuple[str, str]]:
    """The plan that was carried out, name by name."""
    return (
        []
        if record.plan is None
        else [(name, _plain(value)) for name, value in record.plan.items()]
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return "not set" if value is None else str(value)
