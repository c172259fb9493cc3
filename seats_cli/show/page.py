"""One self-contained HTML page about one run or several of the same clip."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from seats_cli.files import MARK
from seats_cli.report.phrases import (
    UNPRUNED,
    evidence_phrase,
    format_percent,
    format_ratio,
    format_seconds,
    format_si,
    frames_phrase,
    name_phrase,
    precision_phrase,
    size_phrase,
    targets_phrase,
)
from seats_cli.show import encode
from seats_cli.show.overlay import Depth, depth_of
from seats_cli.show.record import AUDIO, VIDEO
from seats_cli.show.svg import flops_per_layer, layers_chart, mark_heights, mark_tokens

if TYPE_CHECKING:
    from seats_cli.cost.token_counts import Evidence
    from seats_cli.media.clip import Clip
    from seats_cli.show.record import Ints, Part, RecordedStage, RunRecord


_PIXELS_PER_S, _MIN_WIDTH, _MAX_WIDTH = 34, 1000, 12_000  # of the spectrogram
_MAX_TABLES = 12  # a method that drops after every layer has dozens
_MANY_DROPS = 9  # too many to list


@dataclass(frozen=True)
class _Media:
    """What all runs of a page share, as data URIs."""

    frames: list[str]
    aspect: float
    spectrogram: str | None
    sound: str | None
    seconds: float


def render_page(records: Sequence[RunRecord], clip: Clip) -> str:
    """The page.

    Parameters
    ----------
    records : sequence of RunRecord
        One run, or several of the same clip and question.
    clip : Clip
        As it was read for them.

    Returns
    -------
    str
        HTML that needs nothing else: no network, and no JavaScript but for the slider, the
        cursor in the sound and the choice of a run.
    """
    first = records[0]
    questions = {record.question for record in records}
    media = _media(first, clip)
    runs = [_run(number, record, media) for number, record in enumerate(records)]
    folder = resources.files("seats_cli.show") / "assets"
    read = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("page.html.j2", "page.css", "page.js")
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(read["page.html.j2"]).render(
        generator=MARK,
        css=Markup(read["page.css"]),
        js=Markup(read["page.js"]),
        name=PurePath(first.media.path).name or first.media.path,
        question=first.question if len(questions) == 1 else None,
        facts=clip_facts(first),
        model=_model_words(first),
        warnings=first.warnings,
        versions={name: version for name, version in first.versions.items() if version},
        full_answer=first.full_answer,
        layers=first.num_layers,
        media=media,
        runs=runs,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file name may hold other bytes


def _media(record: RunRecord, clip: Clip) -> _Media:
    frames: list[str] = []
    aspect = 1.0
    if clip.frames is not None and record.grid is not None:
        aspect = encode.display_aspect(record)
        wanted = encode.grid_frames(clip, record)
        height, width = clip.frames.shape[1:3]
        size = encode.page_size(len(wanted), width, height, aspect)
        pictures = (encode.encode(encode.resized(frame, *size)) for frame in wanted)
        frames = [_data_uri("image/webp", picture) for picture in pictures]
    spectrogram = heard = None
    if clip.audio is not None and record.offered[1]:
        mel = Image.fromarray(encode.log_mel(clip.audio))
        spectrogram = _data_uri("image/webp", encode.encode(mel, quality=60))
        rate = encode.bit_rate(clip.audio_s)
        heard = None if rate is None else _data_uri(encode.MIME, encode.compress(clip.audio, rate))
    return _Media(frames, aspect, spectrogram, heard, clip.audio_s)


def _data_uri(mime: str, content: bytes) -> str:
    """Content as a URL that holds it."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _run(number: int, record: RunRecord, media: _Media) -> dict[str, Any]:
    """Everything about one run that the template asks for."""
    depth = depth_of(record)
    alive = record.alive_per_layer()
    flops, full = flops_per_layer(record)

    def mean_kept(modality: int) -> str | None:
        lived = depth.lived[record.modality == modality]
        return format_percent(lived.mean() / record.num_layers) if len(lived) else None

    return {
        "id": f"run{number}",
        "label": record.label,
        "question": record.question,
        "answer": record.answer,
        "plan": plan_words(record),
        "kept_video": mean_kept(VIDEO),
        "kept_audio": mean_kept(AUDIO),
        "flops": format_ratio(sum(flops), full * len(flops)),
        "levels": _legend(record, depth),
        "evidence": [
            {"start": round(piece.start_s, 3), "words": evidence_phrase(named)}
            for piece, named in zip(record.evidence_in_clip, record.evidence, strict=True)
        ],
        "frames": _frames(record, depth),
        "rows": record.grid.rows if record.grid else 1,
        "columns": record.grid.columns if record.grid else 1,
        "sound": _sound(record, depth, media),
        "tables": _stage_tables(record),
        "chart": layers_chart(record),
        "per_layer": [
            {"layer": layer, "video": v, "audio": a, "text": t, "flops": format_si(executed)}
            for layer, ((v, a, t), executed) in enumerate(zip(alive, flops, strict=True), 1)
        ],
        "settings": [(name, _plain(value)) for name, value in (record.plan or {}).items()],
    }


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return "not set" if value is None else str(value)


def _legend(record: RunRecord, depth: Depth) -> list[dict[str, Any]]:
    of = {"video": record.modality == VIDEO, "audio": record.modality == AUDIO}
    return [
        {
            "level": level,
            **{name: int((at & (depth.level == level.number)).sum()) for name, at in of.items()},
        }
        for level in depth.levels
    ]


def _frames(record: RunRecord, depth: Depth) -> list[dict[str, Any]]:
    grid = record.grid
    if grid is None:
        return []
    lived = depth.lived[record.modality == VIDEO].reshape(grid.grids, grid.rows, grid.columns)
    frames = []
    for number, patches in enumerate(lived):
        start, end = record.times.video(number * grid.size, (number + 1) * grid.size - 1)
        time = f"{start:.3g} to {end:.3g} s"
        counts = _count_by_level(patches, depth)
        frames.append(
            {
                "start": round(start, 3),
                "end": round(end, 3),
                "time": time,
                "marks": mark_tokens(patches, depth),
                "entered": int((patches > 0).sum()),
                "rests": sum(
                    piece.share
                    for piece in record.evidence_in_clip
                    if piece.modality == "video" and _meet(piece, start, end)
                ),
                "size": grid.size,
                "words": f"Grid {number + 1}, {time}, {patches.size} patches: {counts}.",
            }
        )
    return frames


def _meet(piece: Evidence, start: float, end: float) -> bool:
    """Whether evidence and a span of seconds have more than their borders in common."""
    return piece.start_s < end - 1e-3 and piece.end_s > start + 1e-3


def _count_by_level(lived: Ints, depth: Depth) -> str:
    """ "12 dropped before the LLM; 3 dropped after layer 8" of the tokens given."""
    pieces = []
    for level in depth.levels:
        count = int(((lived >= level.first_layers) & (lived <= level.last_layers)).sum())
        if count:
            pieces.append(f"{count} {level.label}")
    return "; ".join(pieces)


def _sound(record: RunRecord, depth: Depth, media: _Media) -> dict[str, Any] | None:
    count = record.offered[1]
    if not count or media.spectrogram is None:
        return None
    lived = depth.lived[record.modality == AUDIO]
    seconds = max(media.seconds, count / record.audio_tokens_per_s)
    width = min(max(_MIN_WIDTH, round(seconds * _PIXELS_PER_S)), _MAX_WIDTH)
    return {
        "marks": mark_tokens(lived[None], depth),
        "heights": mark_heights(lived, depth),
        "width": width,
        "heard": media.seconds / seconds * width,
        "token": width / seconds / record.audio_tokens_per_s,
        "per_second": width / seconds,
        "evidence": [
            {
                "x": piece.start_s * width / seconds,
                "width": (piece.end_s - piece.start_s) * width / seconds,
                "words": f"{100 * piece.share:.0f} % of the relevance",
            }
            for piece in record.evidence_in_clip
            if piece.modality == "audio"
        ],
        "ticks": [(second, second * width / seconds) for second in _ticks(seconds, width)],
        "words": f"{format_seconds(media.seconds)} of sound, {count} audio tokens: "
        f"{_count_by_level(lived, depth)}.",
    }


def _ticks(seconds: float, width: int) -> list[float]:
    """Round numbers of seconds, about 70 pixels apart."""
    wanted = 70 * seconds / width
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300) if s >= wanted), 600)
    return [round(k * step, 1) for k in range(int(seconds / step) + 1)]


def _stage_tables(record: RunRecord) -> list[dict[str, Any]]:
    """Window by window what each stage was offered, allotted and left.

    Of a method with very many stages, evenly spaced ones.
    """
    stages = [stage for stage in record.stages if stage.windows]
    if len(stages) > _MAX_TABLES:
        last = len(stages) - 1
        stages = [stages[round(k * last / (_MAX_TABLES - 1))] for k in range(_MAX_TABLES)]
    return [_stage_table(record, stage) for stage in stages]


def _stage_table(record: RunRecord, stage: RecordedStage) -> dict[str, Any]:
    parts = [part for window in stage.windows for part in (window.video, window.audio) if part]
    most = max((part.mean_relevance or 0.0 for part in parts), default=0.0)
    return {
        "label": _stage_name(record, stage),
        "video": any(window.video for window in stage.windows),
        "audio": any(window.audio for window in stage.windows),
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


def _cells(record: RunRecord, part: Part | None, name: str, most: float) -> dict[str, Any] | None:
    if part is None:
        return None
    seconds = record.times.video if name == "video" else record.times.audio
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


def _stage_name(record: RunRecord, stage: RecordedStage) -> str:
    """The name of a stage that has windows; those of the schedule of SEATS have numbers."""
    where = f"after layer {stage.after_layer}" if stage.after_layer else "before the LLM"
    plan = record.plan or {}
    # As `PruningPlan.has_schedule`: a saved trace may be of a method that is not known here.
    entering = (plan.get("initial_video", 1.0), plan.get("initial_audio", 1.0))
    if plan.get("drop_layers") or plan.get("late_layer") is not None or min(entering) < 1.0:
        return f"Stage {'I' if stage.scores is None else 'II'}, {where}"
    return f"drop {where}" if stage.kind == "relevance" else f"{stage.kind}, {where}"


def clip_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Names and values about the file and what was read of it."""
    media, grid = record.media, record.grid
    facts = [
        ("File", PurePath(media.path).name or media.path),
        ("Length", format_seconds(media.duration_s)),
    ]
    if media.start_s or record.read.end is not None:
        end = "the end" if media.end_s is None else f"{media.end_s:.4g} s"
        facts.append(("Used", f"{media.start_s:.4g} s to {end}"))
    if grid is None:
        facts.append(("Picture", "none"))
    else:
        source = f"{media.source_width}x{media.source_height}"
        turned = f", turned by {media.rotation_deg} degrees" if media.rotation_deg else ""
        grids = f"{grid.grids} grid{'s' if grid.grids > 1 else ''} of {grid.frames} frames"
        facts += [
            ("Picture", f"{media.video_codec}, {source}{turned}"),
            ("Seen by the model", frames_phrase(media, record.effective_fps)),
            ("Raster", f"{grids}, {grid.columns}x{grid.rows} patches"),
        ]
    if not media.audio_used_s:
        return [*facts, ("Sound", "none")]
    return [
        *facts,
        ("Sound", f"{media.audio_codec}, {media.audio_used_s:.1f} s used"),
        ("Audio tokens", f"{record.audio_tokens_per_s:g} per second"),
    ]


def _model_words(record: RunRecord) -> str:
    """Model, size and how it ran."""
    model = record.model
    return (
        f"{name_phrase(model)} ({model.family}, {size_phrase(model.parameters)}), {model.device}, "
        f"{precision_phrase(model)}, {record.num_layers} layers"
    )


def plan_words(record: RunRecord) -> str:
    """What was asked for, and where in the model tokens were dropped."""
    plan = record.plan
    if plan is None:
        return UNPRUNED
    parts = [str(plan.get("method", "?"))]
    video, audio = plan.get("target_video"), plan.get("target_audio")
    if isinstance(video, float) and isinstance(audio, float):
        parts.append(targets_phrase(video, audio))
    # Unlike in the plan, only what happened: few methods follow the layers that it names.
    inside = [stage.after_layer for stage in record.stages if stage.scores is not None]
    late = [stage.after_layer + 1 for stage in record.stages if stage.kind == "late"]
    if inside:
        named = ", ".join(map(str, inside))
        few = len(inside) < _MANY_DROPS
        parts.append(f"drops after layers {named}" if few else "drops after most layers")
    parts += [f"late block from layer {late[0]}"] if late else []
    return ", ".join([*parts, f"{plan.get('kv')} KV cache"])
