"""How much faster one call for all segments is: stock against ours, in turn in one process.

Each encoder runs with transformers' `sdpa` and with ours in turn. Then one attention of each kind
(windows, whole grids) runs by itself, also with a function that does nothing: what a run takes
beyond that is attention, the rest projections and rotary embedding. The clip is noise, because
times do not depend on what is seen.

    python -m seats_cli.models.attention.measure bundled --size 140x84
    python -m seats_cli.models.attention.measure cpu-0.5b --size 280x168
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seats_cli.models.optimize import SEGMENTS, use_for_encoders
from seats_cli.models.patching import use_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from seats_cli.models.adapter import Adapter
    from seats_cli.models.load import LoadedModel

STOCK = "sdpa"
_NOTHING = "seats_nothing_as_flash"  # named like `SEGMENTS`, for the same reason
_FPS = 2
_MEL_FRAMES = 100  # per second


@dataclass(frozen=True)
class Measured:
    """Seconds of one encoder, the least of several runs, which other work has disturbed least.

    Parameters
    ----------
    encoder : str
        "vision" or "audio".
    positions : int
        Patches, or positions of sound.
    segments : int
        Calls that the stock attention makes, over all layers.
    stock_s, ours_s : float
        The whole encoder.
    stock_attention_s, ours_attention_s : float
        The attention of all its layers.
    difference : float
        Largest between the outputs, relative to the largest output.
    """

    encoder: str
    positions: int
    segments: int
    stock_s: float
    ours_s: float
    stock_attention_s: float
    ours_attention_s: float
    difference: float

    @property
    def encoder_ratio(self) -> float:
        """How many times faster the whole encoder is."""
        return self.stock_s / self.ours_s

    @property
    def attention_ratio(self) -> float:
        """How many times faster its attention is; NaN where noise hides it."""
        stock, ours = self.stock_attention_s, self.ours_attention_s
        return stock / ours if min(stock, ours) > 0 else math.nan


def _nothing(_module: Any, query: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, None]:
    # zeros, for no number that follows from them is so small that a CPU slows down
    return torch.zeros_like(query).transpose(1, 2), None


def vision_call(adapter: Adapter, seconds: float, width: int, height: int) -> Callable[[], Any]:
    """The vision encoder on noise of that size."""
    vision, weight = adapter.visual.config, next(adapter.visual.parameters())
    step = vision.patch_size * vision.spatial_merge_size
    rows, columns = (round(side / step) * vision.spatial_merge_size for side in (height, width))
    grids = max(1, round(seconds * _FPS / vision.temporal_patch_size))
    grid = torch.tensor([[grids, rows, columns]], device=weight.device)
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(int(grid.prod()), values, dtype=weight.dtype, device=weight.device)
    return lambda: adapter.visual(pixels, grid_thw=grid).last_hidden_state


def _audio_call(adapter: Adapter, seconds: float) -> Callable[[], Any]:
    """The audio encoder on noise of that length."""
    audio, weight = adapter.audio_tower.config, next(adapter.audio_tower.parameters())
    frames = round(seconds * _MEL_FRAMES)
    sound = torch.randn(audio.num_mel_bins, frames, dtype=weight.dtype, device=weight.device)
    lengths = torch.tensor([frames], device=weight.device)
    return lambda: adapter.audio_tower(sound, feature_lens=lengths).last_hidden_state


def seconds_of(call: Callable[[], Tensor], device: torch.device) -> float:
    """A call's seconds; of one thread on a CPU its own, which other work lengthens least."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _least(adapter: Adapter, call: Callable[[], Any], names: tuple[str, ...], repeats: int) -> Any:
    """The least seconds of a call with the encoders' attention of each name, in turn."""
    device = next(adapter.visual.parameters()).device
    seconds: dict[str, list[float]] = {name: [] for name in names}
    encoders = (adapter.visual, adapter.audio_tower)
    for _ in range(repeats):
        for name, taken in seconds.items():
            nothing = name == _NOTHING
            with (
                use_attention(encoders, name, _nothing)
                if nothing
                else use_for_encoders(adapter, name)
            ):
                taken.append(seconds_of(call, device))
    return {name: min(taken) for name, taken in seconds.items()}


def _measure(
    adapter: Adapter, encoder: str, call: Callable[[], Tensor], layers: Any, repeats: int
) -> Measured:
    outputs: dict[str, Tensor] = {}
    calls: list[tuple[Any, Any, dict[str, Any]]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append((module, args, kwargs))

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    for name in (STOCK, SEGMENTS):  # to warm up, and to compare
        calls.clear()
        with use_for_encoders(adapter, name):
            outputs[name] = call()
    while handles:
        handles.pop().remove()
    borders = [kwargs["cu_seqlens"] for _, _, kwargs in calls]
    kinds = {len(one): index for index, one in enumerate(borders)}  # windows, whole grids
    attention = dict.fromkeys((STOCK, SEGMENTS), 0.0)
    for length, index in kinds.items():
        module, args, kwargs = calls[index]
        alone = functools.partial(module, *args, **kwargs)
        least = _least(adapter, alone, (STOCK, SEGMENTS, _NOTHING), 3 * repeats)
        for name in attention:
            same = sum(len(one) == length for one in borders)
            attention[name] += same * (least[name] - least[_NOTHING])
    whole = _least(adapter, call, (STOCK, SEGMENTS), repeats)
    difference = (outputs[STOCK] - outputs[SEGMENTS]).abs().max() / outputs[STOCK].abs().max()
    return Measured(
        encoder,
        int(borders[0][-1]),
        sum(len(one) - 1 for one in borders),
        whole[STOCK],
        whole[SEGMENTS],
        attention[STOCK],
        attention[SEGMENTS],
        float(difference),
    )


@torch.no_grad()
def measure(
    loaded: LoadedModel, *, seconds: float, width: int, height: int, repeats: int
) -> list[Measured]:
    """Both encoders of a model on a clip of noise.

    Parameters
    ----------
    loaded : LoadedModel
    seconds : float
        Length of the clip, at 2 frames a second.
    width, height : int
        Of a frame, in pixels; rounded to whole tokens.
    repeats : int
        Runs of each way, after one to warm up.

    Returns
    -------
    list of Measured
        Vision, then audio.
    """
    adapter = loaded.adapter
    vision_layers = [block.attn for block in adapter.visual.blocks]
    audio_layers = [layer.self_attn for layer in adapter.audio_tower.layers]
    see = vision_call(adapter, seconds, width, height)
    hear = _audio_call(adapter, seconds)
    return [
        _measure(adapter, "vision", see, vision_layers, repeats),
        _measure(adapter, "audio", hear, audio_layers, repeats),
    ]


def as_table(measured: list[Measured]) -> str:
    """A line for each encoder, times in milliseconds."""
    lines = [
        f"{'encoder':8} {'positions':>9} {'segments':>9} {'stock':>10} {'ours':>10} {'':>7}"
        f" {'attention':>10} {'ours':>10} {'':>7} {'difference':>10}"
    ]
    for one in measured:
        stock, ours = one.stock_attention_s, one.ours_attention_s
        lines.append(
            f"{one.encoder:8} {one.positions:9,} {one.segments:9,}"
            f" {1e3 * one.stock_s:7.1f} ms {1e3 * one.ours_s:7.1f} ms {one.encoder_ratio:6.2f}x"
            f" {1e3 * stock:7.1f} ms {1e3 * ours:7.1f} ms {one.attention_ratio:6.2f}x"
            f" {one.difference:10.1e}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="bundled, a folder, or a named shape with random weights")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the clip")
    parser.add_argument("--size", default="280x168", help="WIDTHxHEIGHT of a frame")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    width, height = (int(side) for side in options.size.split("x"))
    measured = measure(
        _open(options.model, options.device, options.dtype),
        seconds=options.seconds,
        width=width,
        height=height,
        repeats=options.repeats,
    )
    document = {"threads": torch.get_num_threads(), "encoders": [asdict(one) for one in measured]}
    text = json.dumps(document, indent=1) if options.json else as_table(measured)
    sys.stdout.write(text + "\n")


def _open(name: str, device: str, dtype: str) -> LoadedModel:
    from seats_cli.families.registry import named_shapes
    from seats_cli.models.load import load_model
    from seats_cli.models.random_weights import random_model

    opened = random_model if name in named_shapes() else load_model
    return opened(name, device=device, dtype=dtype)


if __name__ == "__main__":
    main()
