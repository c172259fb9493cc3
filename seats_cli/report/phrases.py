"""Facts of a run in words for people."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from seats_cli.report.format import format_percent, format_seconds, format_si
from seats_cli.schedule import SEATS

if TYPE_CHECKING:
    from seats_cli.show.record import RecordedStage, RunRecord


def clip_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Names and values about the file and what was read of it."""
    media = record.media
    name = PurePath(media.path).name or media.path
    facts = [("File", name), ("Length", format_seconds(media.duration_s))]
    if media.start_s or record.reading.end_s is not None:
        end = "the end" if media.end_s is None else f"{media.end_s:.4g} s"
        facts.append(("Used", f"{media.start_s:.4g} s to {end}"))
    if record.grid is None:
        facts.append(("Picture", "none"))
    else:
        source = f"{media.source_width}x{media.source_height}"
        turned = f", turned by {media.rotation_deg} degrees" if media.rotation_deg else ""
        rate = "" if record.effective_fps is None else f" at {record.effective_fps:.3g} fps"
        facts.append(("Picture", f"{media.video_codec}, {source}{turned}"))
        facts.append(
            ("Seen by the model", f"{media.frames_used} frames {media.width}x{media.height}{rate}")
        )
        grid = record.grid
        grids = f"{grid.grids} grid{'s' if grid.grids > 1 else ''} of {grid.frames} frames"
        facts.append(("Raster", f"{grids}, {grid.columns}x{grid.rows} patches"))
    if media.audio_used_s:
        facts.append(("Sound", f"{media.audio_codec}, {media.audio_used_s:.1f} s used"))
        facts.append(("Audio tokens", f"{record.audio_tokens_per_s:g} per second"))
    else:
        facts.append(("Sound", "none"))
    return facts


def model_words(record: RunRecord) -> str:
    """Model, size and how it ran."""
    model = record.model
    size = format_si(model.parameters).replace(" ", "")
    return (
        f"{model.id} ({model.family}, {size} parameters), {model.device}, {model.dtype}, "
        f"{record.num_layers} layers"
    )


def plan_words(record: RunRecord) -> str:
    """What pruned, and where."""
    plan = record.plan
    if plan is None:
        return "unpruned, every token in every layer"
    parts = [str(plan.get("method", "?"))]
    shares = [(plan.get(f"target_{name}"), name) for name in ("video", "audio")]
    asked = [
        f"{format_percent(share)} of {name}" for share, name in shares if isinstance(share, float)
    ]
    parts += [" and ".join(asked) + " asked"] if asked else []
    inside = [str(stage.after_layer) for stage in record.stages if stage.scores is not None]
    if inside:
        parts.append(
            f"drops after layers {', '.join(inside)}"
            if len(inside) < 9
            else "drops after most layers"
        )
    late = [stage.after_layer + 1 for stage in record.stages if stage.kind == "late"]
    parts += [f"late block from layer {late[0]}"] if late else []
    return ", ".join([*parts, f"{plan.get('kv')} KV cache"])


def stage_words(record: RunRecord, stage: RecordedStage) -> str:
    """The name of a stage; those of SEATS have numbers."""
    where = f"after layer {stage.after_layer}" if stage.after_layer else "before the LLM"
    if record.plan is None or record.plan.get("method") != SEATS:
        return f"drop {where}" if stage.kind == "relevance" else f"{stage.kind}, {where}"
    return f"Stage {'I' if stage.scores is None else 'II'}, {where}"
