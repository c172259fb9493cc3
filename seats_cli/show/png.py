"""The pictures of a page as PNG files: frames, sound, layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from seats_cli.files import MARK
from seats_cli.report.phrases import format_si
from seats_cli.show.encode import display_aspect, grid_frames, log_mel, page_size, resized
from seats_cli.show.overlay import depth_of, shade
from seats_cli.show.record import AUDIO, VIDEO
from seats_cli.show.svg import flops_per_layer, layer_bars

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.show.overlay import Depth
    from seats_cli.show.record import RunRecord


_GROUND, _INK, _SOFT = (255, 255, 255), (28, 31, 35), (91, 98, 107)
_COLOURS = {
    "video": (0, 114, 178),
    "audio": (213, 94, 0),
    "text": (138, 144, 153),
    "FLOPs": (107, 91, 149),
}
_PAD, _CAPTION, _FONT_SIZE = 12, 22, 14
_SHEET_WIDTH = 1600
_LEAST_SIDE = 280  # of a frame; frames of a small model are enlarged
_SOUND_WIDTH, _SOUND_HEIGHT, _STRIP = 1600, 288, 36


def save_png(image: Image.Image, path: Path) -> None:
    """Write a picture that names the program it comes from."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Software", MARK)
    image.save(path, "PNG", pnginfo=notes, optimize=True)


def pictures_of(record: RunRecord, clip: Clip) -> dict[str, Image.Image]:
    """The pictures of a run by file name without extension; fewer without video or audio."""
    depth = depth_of(record)
    found = {"layers": layers_picture(record)}
    if clip.frames is not None and record.grid is not None:
        found["frames"] = frames_picture(record, clip, depth)
    if clip.audio is not None and record.offered[1]:
        found["sound"] = sound_picture(record, clip, depth)
    return found


def frames_picture(record: RunRecord, clip: Clip, depth: Depth) -> Image.Image:
    """A sheet with the first frame of every temporal grid, shaded."""
    grid = record.grid
    assert grid is not None
    assert clip.frames is not None
    aspect = display_aspect(record)
    seen = clip.frames.shape[2], clip.frames.shape[1]
    width, height = page_size(grid.grids, *seen, aspect)
    larger = max(1.0, _LEAST_SIDE / max(width, height))
    width, height = round(width * larger), round(height * larger)
    columns = min(max(1, _SHEET_WIDTH // (width + _PAD)), math.ceil(math.sqrt(grid.grids * 2)))
    columns = min(columns, grid.grids)
    rows = -(-grid.grids // columns)
    cell = (width + _PAD, height + _CAPTION + _PAD)
    legend = _legend(depth, columns * cell[0] + _PAD)
    sheet = Image.new(
        "RGB", (columns * cell[0] + _PAD, rows * cell[1] + _PAD + legend.height), _GROUND
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    level = depth.level[record.modality == VIDEO].reshape(grid.grids, grid.rows, grid.columns)
    for number, (frame, levels) in enumerate(zip(grid_frames(clip, record), level, strict=True)):
        x, y = _PAD + number % columns * cell[0], _PAD + number // columns * cell[1]
        sheet.paste(shade(resized(frame, width, height), levels, depth.levels), (x, y))
        words = f"{number * grid.seconds:.4g} s"
        draw.text((x, y + height + 3), words, fill=_SOFT, font=font)
    sheet.paste(legend, (0, sheet.height - legend.height))
    return sheet


def sound_picture(record: RunRecord, clip: Clip, depth: Depth) -> Image.Image:
    """The log-mel spectrogram with the audio tokens; below it, bars whose height is their depth."""
    assert clip.audio is not None
    level = depth.level[record.modality == AUDIO]
    seconds = max(clip.audio_s, len(level) / record.audio_tokens_per_s)
    mel = Image.fromarray(log_mel(clip.audio)).convert("RGB")
    legend = _legend(depth, _SOUND_WIDTH)
    top = _SOUND_HEIGHT + 8
    picture = Image.new("RGB", (_SOUND_WIDTH, top + _STRIP + _CAPTION + 8 + legend.height), _GROUND)
    heard = max(1, round(_SOUND_WIDTH * clip.audio_s / seconds))
    picture.paste(mel.resize((heard, _SOUND_HEIGHT)), (0, 0))
    spans = round(_SOUND_WIDTH * len(level) / record.audio_tokens_per_s / seconds)
    box = (0, 0, max(spans, 1), _SOUND_HEIGHT)
    picture.paste(shade(picture.crop(box), level[None], depth.levels, outline=False), box)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_SIZE)
    step = _SOUND_WIDTH / seconds / record.audio_tokens_per_s
    for token, number in enumerate(level.tolist()):
        share = number / max(len(depth.levels) - 1, 1)
        high = max(2, round(_STRIP * share))
        left, right = token * step, max((token + 1) * step - 1, token * step)
        draw.rectangle(
            (left, top + _STRIP - high, right, top + _STRIP), fill=depth.levels[number].colour
        )
    every = next((s for s in (1, 2, 5, 10, 30, 60, 300) if seconds / s <= 20), 600)
    for second in range(0, int(seconds) + 1, every):
        x = second * _SOUND_WIDTH / seconds
        draw.text((x, top + _STRIP + 4), f"{second} s", fill=_SOFT, font=font)
    picture.paste(legend, (0, picture.height - legend.height))
    return picture


def layers_picture(record: RunRecord) -> Image.Image:
    """Tokens alive in each layer over the FLOPs of each layer."""
    step, left, high, low = 30, 90, 260, 140
    width = left + step * record.num_layers + 20
    picture = Image.new("RGB", (max(width, 460), high + low + 155), _GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_SIZE)
    base, bottom = 40 + high, 40 + high + 50 + low
    offered, full = max(len(record.modality), 1), format_si(flops_per_layer(record)[1])
    draw.text((left, 10), f"tokens alive, of {offered:,} offered", fill=_INK, font=font)
    draw.text((left, base + 22), f"FLOPs, of {full} unpruned", fill=_INK, font=font)
    for number, (stack, flops) in enumerate(layer_bars(record, high, low), 1):
        x = left + step * (number - 1)
        bars = [(name, base - up, base - down) for name, down, up in stack if up - down >= 1]
        for name, top, foot in (*bars, ("FLOPs", bottom - max(1.0, flops), bottom)):
            draw.rectangle((x, top, x + step - 5, foot), fill=_COLOURS[name])
        draw.text((x + 4, bottom + 4), str(number), fill=_SOFT, font=font)
    for y, height in ((base, high), (bottom, low)):
        for line in (y, y - height):
            draw.line((left - 6, line, width - 15, line), fill=(200, 203, 208))
    for at, (name, colour) in enumerate(_COLOURS.items()):
        x = left + 90 * at
        draw.rectangle((x, bottom + 36, x + 14, bottom + 50), fill=colour)
        draw.text((x + 20, bottom + 35), name, fill=_INK, font=font)
    return picture


def _legend(depth: Depth, width: int) -> Image.Image:
    font, line, column = ImageFont.load_default(_FONT_SIZE), 24, 320
    columns = max(1, min(len(depth.levels), (width - _PAD) // column))
    rows = -(-len(depth.levels) // columns)
    legend = Image.new("RGB", (width, rows * line + _PAD), _GROUND)
    draw = ImageDraw.Draw(legend)
    for at, level in enumerate(depth.levels):
        x, y = _PAD + at % columns * column, at // columns * line
        swatch = Image.new("RGB", (34, 16), (150, 156, 162))
        cell = np.array([[level.number]])
        legend.paste(shade(swatch, cell, depth.levels, strength=0.85), (x, y))
        draw.text((x + 42, y - 1), level.label, fill=_INK, font=font)
    return legend
