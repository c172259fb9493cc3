"""Make the sounds and pictures of words that `seats_cli.world` mixes into its clips.

The results are small, committed, and read without any of what makes them. To make them again, on
Debian 12:

    apt-get install espeak-ng fonts-dejavu-core fonts-dejavu-extra fonts-liberation \
        fonts-lato fonts-roboto-unhinted fonts-open-sans fonts-noto-core fonts-inconsolata \
        fonts-comic-neue fonts-cantarell fonts-ebgaramond fonts-noto-color-emoji
    python -m seats_cli.training.make_assets

Licences are stated in `seats_cli/world/assets/LICENCES.md`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import wave
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from seats_cli.world.lettering import CHARACTERS, FONTS, ICON_SIDE, ICONS, INK
from seats_cli.world.vocabulary import SAMPLE_RATE
from seats_cli.world.voices import CARRIERS, VOICES, WORDS

FloatArray = npt.NDArray[np.float32]

# espeak-ng's language and variant, words per minute, and pitch (0..99) of each voice.
ESPEAK = {
    "us": ("en-us", 165, 50),
    "gb": ("en-gb", 150, 45),
    "us-male1": ("en-us+male1", 180, 40),
    "gb-male2": ("en-gb+male2", 150, 55),
    "us-male3": ("en-us+male3", 140, 35),
    "scotland-male4": ("en-gb-scotland+male4", 165, 50),
    "us-male6": ("en-us+male6", 200, 45),
    "us-female1": ("en-us+female1", 160, 55),
    "gb-female2": ("en-gb+female2", 175, 60),
    "us-female3": ("en-us+female3", 145, 50),
    "rp-female4": ("en-gb-x-rp+female4", 165, 70),
    "us-klatt": ("en-us+klatt", 160, 45),
    "gb-klatt3": ("en-gb+klatt3", 150, 60),
    "us-steph": ("en-us+Steph", 170, 50),
    "gb-andy": ("en-gb+Andy", 160, 50),
    "us-alex": ("en-us+Alex", 155, 45),
    "caribbean-ed": ("en-029+Ed", 165, 50),
    "us-annie": ("en-us+Annie", 170, 55),
    "gb-gene": ("en-gb+Gene", 150, 40),
    "us-grandma": ("en-us+grandma", 160, 50),
    # Held out: variants, and one accent, that no voice above has.
    "us-male7": ("en-us+male7", 160, 50),
    "gb-female5": ("en-gb+female5", 165, 55),
    "us-linda": ("en-us+Linda", 160, 50),
    "gb-michael": ("en-gb+Michael", 155, 45),
    "nyc-mario": ("en-us-nyc+Mario", 170, 45),
    "us-belinda": ("en-us+Belinda", 150, 60),
}
_GAP = SAMPLE_RATE // 20  # silence between two entries of the bank, samples
_SILENT = 0.012  # of the peak: less at either end is cut off

DEBIAN = "/usr/share/fonts"
FONT_FILES = {
    "dejavu-sans": "truetype/dejavu/DejaVuSans.ttf",
    "dejavu-sans-bold": "truetype/dejavu/DejaVuSans-Bold.ttf",
    "dejavu-condensed-bold": "truetype/dejavu/DejaVuSansCondensed-Bold.ttf",
    "dejavu-serif-bold": "truetype/dejavu/DejaVuSerif-Bold.ttf",
    "dejavu-mono": "truetype/dejavu/DejaVuSansMono.ttf",
    "liberation-sans": "truetype/liberation/LiberationSans-Regular.ttf",
    "liberation-sans-bold": "truetype/liberation/LiberationSans-Bold.ttf",
    "liberation-serif": "truetype/liberation/LiberationSerif-Regular.ttf",
    "liberation-mono-bold": "truetype/liberation/LiberationMono-Bold.ttf",
    "lato-regular": "truetype/lato/Lato-Regular.ttf",
    "lato-bold": "truetype/lato/Lato-Bold.ttf",
    "roboto-bold": "truetype/roboto/unhinted/RobotoTTF/Roboto-Bold.ttf",
    "noto-serif": "truetype/noto/NotoSerif-Regular.ttf",
    "comic-neue-bold": "opentype/comic-neue/ComicNeue-Bold.otf",
    "garamond-bold": "opentype/ebgaramond/EBGaramond12-Bold.otf",
    "liberation-serif-bold": "truetype/liberation/LiberationSerif-Bold.ttf",
    "open-sans-bold": "truetype/open-sans/OpenSans-Bold.ttf",
    "cantarell-bold": "opentype/cantarell/Cantarell-Bold.otf",
    "inconsolata": "truetype/inconsolata/Inconsolata.otf",
}
EMOJI_FILE = "truetype/noto/NotoColorEmoji.ttf"
_EMOJI_SIZE = 109  # the only size of that bitmap font
_LEVELS = 16  # shades of grey in the atlas: more only cost bytes


def _spoken(text: str, voice: str) -> FloatArray:
    """One utterance at `SAMPLE_RATE`, trimmed, peak 0.9."""
    name, rate, pitch = ESPEAK[voice]
    command = ["espeak-ng", "-v", name, "-s", str(rate), "-p", str(pitch), "-z", "--stdout", text]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(raw)) as sound:
        rate_in = sound.getframerate()
        # The header of a piped file states no length, so everything is read.
        samples = np.frombuffer(sound.readframes(1 << 24), dtype=np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate_in
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    track = np.concatenate([piece.to_ndarray()[0] for piece in pieces])
    loud = np.flatnonzero(np.abs(track) > _SILENT * np.abs(track).max())
    track = track[loud[0] : loud[-1] + 1]
    return np.asarray(0.9 * track / np.abs(track).max(), dtype=np.float32)


def _write_opus(path: Path, track: FloatArray, bit_rate: int) -> None:
    options = {"application": "audio", "frame_duration": "60"}
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", options=options)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(track[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        converter = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        for converted in [*converter.resample(frame), *converter.resample(None)]:
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def make_voices(folder: Path, bit_rate: int) -> None:
    """Write one file per voice and where each utterance stands in it (`voices.json`)."""
    texts = (*WORDS, *CARRIERS)
    gap = np.zeros(_GAP, dtype=np.float32)
    lines = []
    for voice in VOICES:
        spans, pieces, place = {}, [gap], _GAP
        for text in texts:
            utterance = _spoken(text, voice)
            spans[text] = (place, place + len(utterance))
            pieces += [utterance, gap]
            place += len(utterance) + _GAP
        _write_opus(folder / f"{voice}.ogg", np.concatenate(pieces), bit_rate)
        lines.append(f"{json.dumps(voice)}:{json.dumps(spans, separators=(',', ':'))}")
    (folder / "voices.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def make_glyphs(folder: Path, height: int) -> None:
    """Write `glyphs.png`, a row of letters for each font, and their places (`glyphs.json`)."""
    rows, places = [], {}
    for top, font_name in enumerate(FONTS):
        path = f"{DEBIAN}/{FONT_FILES[font_name]}"
        font = ImageFont.truetype(path, height)
        capital = font.getbbox("H", anchor="ls")
        font = ImageFont.truetype(path, round(height * height / -capital[1]))
        above, below = round(1.25 * height), round(0.4 * height)
        glyphs, edges, left = [], {}, 0
        for character in CHARACTERS:
            box = font.getbbox(character, anchor="ls")
            pad = max(0, -int(box[0])) + 1
            width = max(int(box[2]), round(font.getlength(character))) + pad + 2
            image = Image.new("L", (width, above + below))
            ImageDraw.Draw(image).text((pad, above), character, 255, font, anchor="ls")
            glyphs.append(np.asarray(image))
            # Left edge and width in the atlas, ink's origin, and how far the pen moves on.
            edges[character] = (left, width, pad, round(font.getlength(character), 2))
            left += width
        row = np.concatenate(glyphs, axis=1)
        rows.append(row)
        ink = np.flatnonzero((glyphs[CHARACTERS.index("H")] > INK).any(axis=1))
        cap = int(ink[-1] - ink[0] + 1)  # as drawn: hinting rounds it
        places[font_name] = {"top": top * (above + below), "cap": cap, "glyphs": edges}
    widest = max(row.shape[1] for row in rows)
    atlas = np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]))) for row in rows])
    coarse = np.rint(atlas / 255.0 * (_LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(coarse, mode="P")
    image.putpalette(
        [round(level * 255 / (_LEVELS - 1)) for level in range(_LEVELS) for _ in "rgb"]
    )
    image.save(folder / "glyphs.png", optimize=True, bits=4)
    facts = {"row": above + below, "fonts": places}
    text = json.dumps(facts, separators=(",", ":"))
    (folder / "glyphs.json").write_text(text.replace('},"', '},\n"') + "\n")


def make_icons(folder: Path) -> None:
    """Write `icons.png`: the emoji side by side, `ICON_SIDE` pixels each, with transparency."""
    font = ImageFont.truetype(f"{DEBIAN}/{EMOJI_FILE}", _EMOJI_SIZE)
    tiles = []
    for character in ICONS.values():
        image = Image.new("RGBA", (160, 160))
        drawing = ImageDraw.Draw(image)
        drawing.text((80, 80), character, font=font, embedded_color=True, anchor="mm")
        box = image.getbbox()
        assert box is not None, character
        side = max(box[2] - box[0], box[3] - box[1])
        tile = Image.new("RGBA", (side, side))
        offset = ((side - box[2] + box[0]) // 2, (side - box[3] + box[1]) // 2)
        tile.paste(image.crop(box), offset)
        tiles.append(np.asarray(tile.resize((ICON_SIDE, ICON_SIDE), Image.Resampling.LANCZOS)))
    sheet = Image.fromarray(np.concatenate(tiles, axis=1))
    sheet.quantize(256, method=Image.Quantize.FASTOCTREE).save(folder / "icons.png", optimize=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parents[1] / "world" / "assets"
    parser.add_argument("--folder", type=Path, default=default)
    parser.add_argument("--bit-rate", type=int, default=12_000, help="of the voices, bit/s")
    parser.add_argument("--glyph-height", type=int, default=40, help="of a capital, pixels")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    make_voices(options.folder, options.bit_rate)
    make_glyphs(options.folder, options.glyph_height)
    make_icons(options.folder)


if __name__ == "__main__":
    main()
