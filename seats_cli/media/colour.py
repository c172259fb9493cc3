"""From the colours of a file to those that a player shows on a usual (sRGB) screen.

Matrix and range are converted by libswscale as the file states them. On top of that, HDR (PQ, HLG)
and wide gamuts (BT.2020, P3) go through linear light: to light by the transfer function of ITU-R
BT.2100, brightness compressed by the curve of ITU-R BT.2390 where it exceeds the screen's, the
gamut converted by the primaries of BT.2020 and SMPTE EG 432, and back to code values. FFmpeg's own
filters for it (zscale, libplacebo) are in no PyAV that can be installed from a package index.

Two things came with PyAV 17: frames that know their transfer function and primaries, and
conversions by the matrix and range that a frame states. In older versions the decoder is asked for
the former, right behind each frame that it gives, and the latter are passed to libswscale one by
one. Pixels are the same: `tests/media` passes with both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

Light = npt.NDArray[np.float32]

_UNSPECIFIED = 2  # in the lists of ISO/IEC 23091-2, which FFmpeg shares


class Primaries(IntEnum):
    """Colour primaries that something depends on."""

    BT709 = 1
    BT2020 = 9
    SMPTE432 = 12  # P3 with white D65


class Transfer(IntEnum):
    """Transfer functions of HDR."""

    SMPTE2084 = 16  # PQ
    ARIB_STD_B67 = 18  # HLG


class Matrix(IntEnum):
    """Matrices that are chosen for a frame whose own is missing or cannot be converted."""

    BT709 = 1
    BT601 = 5
    BT2020 = 9


_MPEG, _JPEG = 1, 2  # ranges: 16 to 235, and all values
# Bicubic and averaging when shrinking, as in the official pipeline. Without the two flags (accurate
# rounding, full chroma) libswscale rounds such that white becomes 253.
_SCALING = 0x4 | 0x40000 | 0x2000

_FRAMES_TELL = hasattr(VideoFrame, "color_trc")

# Matrices by FFmpeg's number that libswscale converts; 0 is RGB.
_CONVERTED = (0, 1, 2, 4, 5, 6, 7, 9)
_CLOSE = {10: Matrix.BT2020, 14: Matrix.BT2020, 15: Matrix.BT2020}
_NAMES = {8: "YCgCo", 10: "BT.2020 constant luminance", 14: "ICtCp", 15: "IPT"}
_DOLBY_VISION = ("dvh1", "dvhe", "dvav", "dva1", "dav1")
# Files that do not state a matrix: players take BT.601 for what is no larger than PAL.
_SD_WIDTH, _SD_HEIGHT = 1279, 576

# Light, in nits: white of an SDR screen that shows HDR (ITU-R BT.2408), the most that PQ can say,
# and the screen that HLG is made on.
_WHITE = 203.0
_PQ_PEAK = 10_000.0
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
_SDR_GAMMA = 2.4  # of ITU-R BT.1886
# Of the pixels; a few brighter ones are clipped, as by players that measure the picture.
_BRIGHTEST = 0.999

# From linear RGB in these primaries (white D65) to that in BT.709.
_TO_709 = {
    int(Primaries.BT2020): (
        (1.660491, -0.587641, -0.072850),
        (-0.124550, 1.132900, -0.008349),
        (-0.018151, -0.100579, 1.118730),
    ),
    int(Primaries.SMPTE432): (
        (1.224940, -0.224940, 0.0),
        (-0.042057, 1.042057, 0.0),
        (-0.019638, -0.078636, 1.098274),
    ),
}
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


@dataclass(frozen=True)
class ColourConverter:
    """Scales frames and converts them to RGB, each by what it says about its colours."""

    _reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def rgb(self, frame: VideoFrame, height: int, width: int) -> npt.NDArray[np.uint8]:
        """The frame's pixels.

        Scaling comes first, as it does for SDR: tone mapping then costs as much as the model's
        frame is large.

        Returns
        -------
        uint8 array, shape (height, width, 3)
            RGB; transparent parts on white, as in the official pipeline.
        """
        clear = any(component.is_alpha for component in frame.format.components)
        deep = is_hdr(frame) or _is_wide(frame)
        names = ("rgba64le", "rgb48le") if deep else ("rgba", "rgb24")
        name = names[0] if clear else names[1]
        scaled = _scaled(self._reformatter, frame, height, width, name, _matrix(frame))
        pixels: npt.NDArray[Any] = scaled.to_ndarray()
        if deep:
            shown = _on_screen(pixels[..., :3], frame)
            alpha = (pixels[..., 3:] >> 8).astype(np.uint8)
            pixels = np.concatenate([shown, alpha], axis=2) if clear else shown
        pixels = pixels.astype(np.uint8, copy=False)
        return _on_white(pixels) if clear else pixels


def is_hdr(frame: VideoFrame) -> bool:
    """Whether the frame is coded in PQ or HLG."""
    return _transfer(frame) in (Transfer.SMPTE2084, Transfer.ARIB_STD_B67)


def strange_coding(frame: VideoFrame, tag: str) -> str | None:
    """How the frame's colours are coded if that cannot be converted, so that they are off.

    `tag` is the stream's codec as the container names it.
    """
    # With a base layer for other screens, Dolby Vision says what that is: PQ, HLG or SDR.
    if tag in _DOLBY_VISION and _transfer(frame) == _UNSPECIFIED:
        return "Dolby Vision without a base layer for other screens"
    space = int(frame.colorspace)
    return None if space in _CONVERTED else _NAMES.get(space, f"number {space}")


def _is_wide(frame: VideoFrame) -> bool:
    return _primaries(frame) in _TO_709


def _matrix(frame: VideoFrame) -> Matrix | None:
    """The matrix to convert by; None for the one that the frame states."""
    space = int(frame.colorspace)
    if space not in _CONVERTED:
        return _CLOSE.get(space, Matrix.BT709)
    if space != _UNSPECIFIED or frame.format.is_rgb:
        return None
    # What else the frame says settles it; a picture without any word is judged by its size.
    primaries = _primaries(frame)
    if is_hdr(frame) or primaries == Primaries.BT2020:
        return Matrix.BT2020
    large = frame.width > _SD_WIDTH or frame.height > _SD_HEIGHT
    if primaries == Primaries.BT709 or (primaries == _UNSPECIFIED and large):
        return Matrix.BT709
    return None


def _on_screen(coded: npt.NDArray[np.uint16], frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """HDR or a wide gamut on an sRGB screen, uint8 (H, W, 3), from RGB of 16 bits."""
    # 1. To linear light in units of the screen's white.
    hdr = is_hdr(frame)
    if _transfer(frame) == Transfer.SMPTE2084:
        light = _pq_table()[coded]
    elif _transfer(frame) == Transfer.ARIB_STD_B67:
        scene = _hlg_table()[coded]
        luminance = np.maximum(scene @ _LUMINANCE_2020, 1e-9)
        light = scene * (_HLG_PEAK / _WHITE * luminance ** (_HLG_GAMMA - 1))[..., None]
    else:
        light = _gamma_table()[coded]
    # 2. Brightness: all channels of a pixel by one factor, so that its hue stays.
    if hdr:
        strongest = light.max(axis=2)
        peak = float(np.quantile(strongest, _BRIGHTEST, method="higher"))
        if peak > 1:
            light *= _compression(strongest, peak)[..., None]
    # 3. Gamut: HDR without stated primaries has those of BT.2020.
    stated = _primaries(frame)
    primaries = stated if stated in _TO_709 or not hdr else int(Primaries.BT2020)
    if primaries in _TO_709 and stated != Primaries.BT709:
        light = light @ np.array(_TO_709[primaries], np.float32).T
    # 4. To code values; the square root spreads dark values over the table.
    index = np.rint(np.sqrt(np.clip(light, 0, 1)) * 65_535).astype(np.uint16)
    shown: npt.NDArray[np.uint8] = _screen_table(hdr)[index]
    return shown


def _compression(strongest: Light, peak: float) -> Light:
    """Factors by which brightness falls, float32 (H, W); both in units of the screen's white.

    The curve of BT.2390: as it was up to a knee, a Hermite spline from there to the peak, computed
    in PQ. It is evaluated on a grid of 1,024 values.
    """
    top = _to_pq(np.array(peak * _WHITE))
    values = np.linspace(1e-3, 1.0, 1024)
    limit = float(_to_pq(np.array(_WHITE)) / top)
    knee = max(1.5 * limit - 0.5, 0.0)
    t = np.clip((values - knee) / (1 - knee), 0, 1)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * limit
    )
    mapped = np.where(values < knee, values, spline)
    before, after = _from_pq(values * top), _from_pq(mapped * top)
    factors: Light = np.interp(strongest, before / _WHITE, after / before).astype(np.float32)
    return factors


def _from_pq(code: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Nits from PQ code values in [0, 1] (SMPTE ST 2084, BT.2100)."""
    power = np.maximum(code, 0) ** (1 / _M2)
    light: npt.NDArray[np.float64] = (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)
    return _PQ_PEAK * light


def _to_pq(nits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The reverse of `_from_pq`."""
    power = (nits / _PQ_PEAK) ** _M1
    code: npt.NDArray[np.float64] = ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
    return code


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_CODES = np.arange(65_536) / 65_535


@cache
def _pq_table() -> Light:
    """Light in units of the screen's white, for each 16-bit code value."""
    return (_from_pq(_CODES) / _WHITE).astype(np.float32)


@cache
def _hlg_table() -> Light:
    """Light of the scene in [0, 1] for each 16-bit code value: the inverse OETF of BT.2100."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(_CODES <= 0.5, _CODES**2 / 3, (np.exp((_CODES - c) / a) + b) / 12)
    return scene.astype(np.float32)


@cache
def _gamma_table() -> Light:
    """Light of an SDR screen in [0, 1] for each 16-bit code value."""
    return (_CODES**_SDR_GAMMA).astype(np.float32)


@cache
def _screen_table(hdr: bool) -> npt.NDArray[np.uint8]:
    """8-bit code values for the square root of light: sRGB, or as the SDR that came in."""
    light = _CODES**2
    low, high = light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055
    code = np.where(light <= 0.0031308, low, high) if hdr else light ** (1 / _SDR_GAMMA)
    return np.rint(code * 255).astype(np.uint8)


def _on_white(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Flatten RGBA, uint8 (H, W, 4), to RGB on a white background."""
    colour = pixels[..., :3].astype(np.uint16)
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


# What differs between versions of PyAV.


def note_coding(frame: VideoFrame, decoder: VideoCodecContext) -> None:
    """Keep with a frame what only its decoder can say, until the next frame."""
    if not _FRAMES_TELL:
        frame.opaque = (int(decoder.color_trc), int(decoder.color_primaries))


def _transfer(frame: VideoFrame) -> int:
    """The number of the frame's transfer function."""
    return int(frame.color_trc) if _FRAMES_TELL else _noted(frame)[0]


def _primaries(frame: VideoFrame) -> int:
    """The number of the frame's colour primaries."""
    return int(frame.color_primaries) if _FRAMES_TELL else _noted(frame)[1]


def _noted(frame: VideoFrame) -> tuple[int, int]:
    found: Any = frame.opaque
    return found or (_UNSPECIFIED, _UNSPECIFIED)


def _scaled(
    reformatter: VideoReformatter,
    frame: VideoFrame,
    height: int,
    width: int,
    pixel_format: str,
    matrix: Matrix | None,
) -> VideoFrame:
    """The frame in another size and an RGB format.

    Parameters
    ----------
    height, width : int
        Of the result, in pixels.
    matrix : Matrix or None
        To convert by; None for the one that the frame states, BT.601 if it states none.
    """
    words: dict[str, int] = {} if matrix is None else {"src_colorspace": int(matrix)}
    if not _FRAMES_TELL:
        words = _explicit(frame, matrix)
    return reformatter.reformat(
        frame,
        width=width,
        height=height,
        format=pixel_format,
        interpolation=_SCALING,
        **words,
    )


def _explicit(frame: VideoFrame, matrix: Matrix | None) -> dict[str, int]:
    """Matrix and range as arguments, for versions that take neither from the frame."""
    space = int(frame.colorspace) if matrix is None else int(matrix)
    space = int(Matrix.BT601) if space == _UNSPECIFIED else space
    if frame.format.is_rgb:  # on the way to RGB of another size, there and back by one matrix
        return {"src_colorspace": Matrix.BT601, "dst_colorspace": Matrix.BT601}
    # The target's matrix plays no part in RGB, but the source's is applied only if they differ.
    other = Matrix.BT2020 if space != Matrix.BT2020 else Matrix.BT709
    full = frame.color_range == _JPEG or frame.format.name.startswith("yuvj")
    grey = len(frame.format.components) < 3  # all values, unless it says otherwise
    full = full or (grey and frame.color_range != _MPEG)
    return {
        "src_colorspace": space,
        "dst_colorspace": int(other),
        "src_color_range": _JPEG if full else _MPEG,
    }
