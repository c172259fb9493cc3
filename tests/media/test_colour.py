"""Colours as a player shows them: matrix, range, wide gamuts, and HDR on an SDR screen."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from seats_cli.media import Clip, FrameSizing, read_clip
from seats_cli.media.colour import Primaries, Transfer
from tests.media.build import turn

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
CARDS = [(220, 30, 30), (30, 180, 60), (60, 30, 220), (240, 220, 40), (150, 50, 180), (128,) * 3]
WHITE_NITS = 203
UNSPECIFIED = 2
# Weights of red and blue in luma, by FFmpeg's number of the matrix.
LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114)} | {
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
# Chromaticities of red, green and blue (ITU-R BT.709, BT.2020, SMPTE EG 432); white is D65.
PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def to_xyz(number: int) -> np.ndarray:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[number]]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)


def linear(card: np.ndarray) -> np.ndarray:
    """Light of an sRGB screen."""
    value = np.asarray(card) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def in_primaries(light: np.ndarray, number: int) -> np.ndarray:
    return light @ (np.linalg.inv(to_xyz(number)) @ to_xyz(1)).T


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = (np.maximum(nits, 0) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100 for a screen of 1,000 nits: inverse OOTF, then OETF."""
    shown = np.maximum(nits, 0) / 1000
    luminance = np.maximum(shown @ np.array([0.2627, 0.6780, 0.0593]), 1e-9)
    scene = shown * (luminance ** (1 / 1.2 - 1))[..., None]
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    )


def planes(rgb: np.ndarray, matrix: int, bits: int, full: bool) -> list[np.ndarray]:
    """Luma and both colour differences as code values, from R'G'B' in [0, 1], float (H, W, 3)."""
    red, blue = LUMA[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    differences = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    top, unit = (1 << bits) - 1, 1 << bits - 8
    if full:
        return [luma * top, *(d * top + 128 * unit for d in differences)]
    return [(16 + 219 * luma) * unit, *((128 + 224 * d) * unit for d in differences)]


def write_coded(
    path: Path,
    coded: list[np.ndarray],
    pix_fmt: str,
    matrix: int = UNSPECIFIED,
    color_range: int = 0,
    trc: int = UNSPECIFIED,
    primaries: int = UNSPECIFIED,
    codec: str = "ffv1",
) -> Path:
    """A video of four frames with these planes and these words about their colours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=4)
        context = stream.codec_context
        stream.height, stream.width = coded[0].shape
        stream.pix_fmt = pix_fmt
        context.colorspace, context.color_range = matrix, color_range
        context.color_trc, context.color_primaries = trc, primaries
        if codec == "libx264":
            context.options = {"qp": "0" if "10" not in pix_fmt else "1", "preset": "ultrafast"}
        for number in range(4):
            frame = av.VideoFrame(stream.width, stream.height, pix_fmt)
            wide = frame.format.components[0].bits > 8
            for plane, values in zip(frame.planes, coded, strict=True):
                step = (
                    max(1, values.shape[0] // plane.height),
                    max(1, values.shape[1] // plane.width),
                )
                rows = np.rint(values[:: step[0], :: step[1]]).astype("<u2" if wide else "u1")
                padded = np.zeros((plane.height, plane.line_size // rows.itemsize), rows.dtype)
                padded[:, : rows.shape[1]] = rows
                plane.update(padded.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 4)
            frame.colorspace, frame.color_range = matrix, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def flat(colour: np.ndarray, height: int = 56, width: int = 84) -> np.ndarray:
    return np.tile(np.asarray(colour, np.float64), (height, width, 1))


def shown(clip: Clip) -> np.ndarray:
    assert clip.frames is not None
    frame = clip.frames[0]
    return frame[frame.shape[0] // 2, frame.shape[1] // 2].astype(int)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("full", [False, True])
def test_the_stated_matrix_and_range(
    tmp_path: Path, card: tuple[int, ...], matrix: int, full: bool
) -> None:
    for pix_fmt, bits in (("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10)):
        coded = planes(flat(card) / 255, matrix, bits, full)
        stated = int(ColorRange.JPEG if full else ColorRange.MPEG)
        path = write_coded(tmp_path / f"{pix_fmt}.mkv", coded, pix_fmt, matrix, stated)
        assert np.abs(shown(read_clip(path, sizing=SMALL)) - card).max() <= 2


@pytest.mark.parametrize(("width", "height", "matrix"), [(720, 576, 5), (1280, 720, 1)])
def test_a_matrix_that_is_not_stated_is_guessed_as_by_players(
    tmp_path: Path, width: int, height: int, matrix: int
) -> None:
    card = CARDS[1]
    coded = planes(flat(card, height, width) / 255, matrix, 8, False)
    path = write_coded(tmp_path / "a.mkv", coded, "yuv420p")
    assert np.abs(shown(read_clip(path, sizing=SMALL)) - card).max() <= 2


def test_grey_rgb_and_transparent_pictures(tmp_path: Path) -> None:
    grey = write_coded(tmp_path / "a.mkv", [np.full((56, 84), 93.0)], "gray")
    assert shown(read_clip(grey, sizing=SMALL)).tolist() == [93] * 3
    red, green, blue = (np.full((56, 84), float(value)) for value in CARDS[0])
    path = write_coded(tmp_path / "b.avi", [green, blue, red], "gbrp", codec="utvideo")
    assert shown(read_clip(path, sizing=SMALL)).tolist() == list(CARDS[0])
    half = [*planes(flat(CARDS[0]) / 255, 1, 8, False), np.full((56, 84), 51.0)]
    path = write_coded(tmp_path / "c.mkv", half, "yuva444p", matrix=1)
    wanted = 0.2 * np.array(CARDS[0]) + 0.8 * 255
    assert np.abs(shown(read_clip(path, sizing=SMALL)) - wanted).max() <= 2


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("trc", "encode"), [(int(Transfer.SMPTE2084), pq), (int(Transfer.ARIB_STD_B67), hlg)]
)
def test_hdr_looks_like_the_same_picture_in_sdr(
    tmp_path: Path, card: tuple[int, ...], full: bool, trc: int, encode: object
) -> None:
    """A card at the brightness of SDR (white at 203 nits, as BT.2408 wants it)."""
    light = in_primaries(linear(flat(card)), 9) * WHITE_NITS
    coded = planes(encode(light), 9, 12, full)  # type: ignore[operator]
    stated = int(ColorRange.JPEG if full else ColorRange.MPEG)
    path = write_coded(tmp_path / "a.mkv", coded, "yuv444p12le", 9, stated, trc, 9)
    clip = read_clip(path, sizing=SMALL)
    assert np.abs(shown(clip) - card).max() <= 2
    # Phones write them so that nothing but the transfer function gives them away.
    bare = write_coded(tmp_path / "b.mkv", coded, "yuv444p12le", UNSPECIFIED, stated, trc)
    assert np.array_equal(read_clip(bare, sizing=SMALL).frames, clip.frames)


def test_highlights_are_compressed_and_not_clipped(tmp_path: Path) -> None:
    """A ramp up to 4,000 nits: even, to white, and dark parts as they were."""
    nits = np.repeat(np.geomspace(1, 4000, 112), 1)
    ramp = np.repeat(np.tile(nits, (84, 1))[..., None], 3, axis=2)
    coded = planes(pq(ramp), 9, 12, False)
    path = write_coded(
        tmp_path / "a.mkv",
        coded,
        "yuv444p12le",
        9,
        int(ColorRange.MPEG),
        int(Transfer.SMPTE2084),
        9,
    )
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    row = clip.frames[0, 40].astype(int)
    assert np.abs(row - row[:, :1]).max() <= 1  # grey stays grey
    assert (np.diff(row[:, 0]) >= 0).all()
    assert row[-1, 0] >= 254
    at_1000 = int(np.searchsorted(nits, 1000))
    at_2000 = int(np.searchsorted(nits, 2000))
    assert 200 < row[at_1000, 0] < row[at_2000, 0] < 255
    light = linear(row[:, 0]) * WHITE_NITS
    dark = nits < 30
    assert light[dark] == pytest.approx(nits[dark], rel=0.1, abs=0.2)


def test_hdr_that_is_turned(tmp_path: Path) -> None:
    card = CARDS[4]
    light = in_primaries(linear(flat(card)), 9) * WHITE_NITS
    coded = planes(pq(light), 9, 10, False)
    plain = write_coded(
        tmp_path / "a.mp4",
        coded,
        "yuv420p10le",
        9,
        int(ColorRange.MPEG),
        int(Transfer.SMPTE2084),
        int(Primaries.BT2020),
        codec="libx264",
    )
    clip = read_clip(turn(plain, tmp_path / "b.mp4", 90), sizing=SMALL)
    assert clip.frames is not None
    assert clip.frames.shape[1] > clip.frames.shape[2]
    assert np.abs(shown(clip) - card).max() <= 6  # 10 bits are coarse in the dark


@pytest.mark.parametrize("primaries", [9, 12])
@pytest.mark.parametrize("card", CARDS)
def test_wide_gamuts_in_sdr(tmp_path: Path, card: tuple[int, ...], primaries: int) -> None:
    light = in_primaries((flat(card) / 255) ** 2.4, primaries)
    matrix = 9 if primaries == 9 else 1
    coded = planes(np.maximum(light, 0) ** (1 / 2.4), matrix, 12, False)
    path = write_coded(
        tmp_path / "a.mkv", coded, "yuv444p12le", matrix, int(ColorRange.MPEG), 1, primaries
    )
    assert np.abs(shown(read_clip(path, sizing=SMALL)) - card).max() <= 2


@pytest.mark.parametrize("stated", [False, True])
def test_dolby_vision_needs_a_base_layer(tmp_path: Path, stated: bool) -> None:
    """Without one (profile 5), nothing says how to decode the colours but its own metadata."""
    card = CARDS[0]
    light = in_primaries(linear(flat(card)), 9) * WHITE_NITS
    coded = planes(pq(light), 9, 10, False)
    words = (9, int(ColorRange.MPEG), int(Transfer.SMPTE2084), 9) if stated else ()
    path = write_coded(tmp_path / "a.mp4", coded, "yuv420p10le", *words, codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"dva1"))
    clip = read_clip(path, sizing=SMALL)
    assert bool([w for w in clip.warnings if "Dolby Vision" in w]) != stated
    if stated:
        assert np.abs(shown(clip) - card).max() <= 6


def test_a_matrix_that_cannot_be_converted_causes_a_warning(tmp_path: Path) -> None:
    coded = planes(flat(CARDS[0]) / 255, 1, 8, False)
    path = write_coded(tmp_path / "a.mkv", coded, "yuv444p", matrix=8)
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert [w for w in clip.warnings if "YCgCo" in w]
