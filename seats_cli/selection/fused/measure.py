"""How much faster Stage I is through the kernels: plain against fused, in turn in one process.

The pictures of a clip of the size given, with noise in place of a model's states: times do not
depend on what is seen, and both ways must choose the same tokens. On a CPU there are no kernels,
and only the plain times are told.

    python -m seats_cli.selection.fused.measure qwen2.5-omni-7b --size 644x280
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.families.registry import describe_config, named_config
from seats_cli.schedule import PruningPlan
from seats_cli.selection import device as gpu
from seats_cli.selection.diversity import select_diverse_in_windows
from seats_cli.selection.importance import pool_mean, received_attention

_FPS = 2


@dataclass(frozen=True)
class Clip:
    """What the vision encoder leaves to Stage I.

    Parameters
    ----------
    query, key : Tensor, shape (patches, heads, d)
    features : Tensor, shape (tokens, D)
    window : int
        Tokens of a selection window.
    unit : int
        Patches that become a token.
    ratio : float
        Share of the tokens that stays.
    """

    query: Tensor
    key: Tensor
    features: Tensor
    window: int
    unit: int
    ratio: float


def noise(
    name: str, seconds: float, width: int, height: int, retain: str, device: torch.device
) -> Clip:
    """A clip of noise of the shapes of a named model, float32 on a CPU, else bfloat16."""
    architecture, _ = describe_config(named_config(name), name)
    plan, vision = (
        PruningPlan.resolve(SeatsConfig.preset(retain), architecture),
        architecture.vision,
    )
    step = vision.patch_size * vision.merge_size
    tokens = round(width / step) * round(height / step)
    grids = max(1, round(seconds * _FPS / vision.temporal_patch_size))
    unit, heads = vision.merge_size**2, vision.num_heads
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    draw = torch.Generator(device).manual_seed(0)

    def states(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device).to(dtype)

    positions, head_width = grids * tokens * unit, vision.hidden_size // heads
    return Clip(
        states(positions, heads, head_width),
        states(positions, heads, head_width),
        states(grids * tokens, vision.out_hidden_size),
        plan.config.video_window * tokens,
        unit,
        plan.initial_video,
    )


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(clip: Clip, repeats: int) -> dict[str, tuple[float, float | None]]:
    """Median seconds of each part, plain and fused (None where there are no kernels).

    Raises
    ------
    RuntimeError
        If the two ways do not choose the same tokens from the same importance.
    """
    device = clip.query.device
    window = clip.window * clip.unit

    def importance() -> Tensor:
        return received_attention(clip.query, clip.key, window)

    attended = pool_mean(importance(), clip.unit)

    def choice() -> Tensor:
        return select_diverse_in_windows(clip.features, attended, clip.window, clip.ratio)

    found: dict[str, tuple[float, float | None]] = {}
    for name, call in (("importance", importance), ("choice", choice)):
        with gpu.plain():
            expected = call()
        result, quickly = call(), gpu.usable(device)
        if name == "choice" and not torch.equal(result, expected):
            raise RuntimeError("The kernels choose other tokens than the plain version.")
        plain, quick = [], []
        for _ in range(repeats):
            with gpu.plain():
                plain.append(_seconds(call, device))
            if quickly:
                quick.append(_seconds(call, device))
        found[name] = (
            statistics.median(plain),
            statistics.median(quick) if quick else None,
        )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a named shape")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the clip")
    parser.add_argument("--size", default="280x168", help="WIDTHxHEIGHT of a frame")
    parser.add_argument("--retain", default="10%", help="a preset")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    width, height = (int(side) for side in options.size.split("x"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip = noise(options.model, options.seconds, width, height, options.retain, device)
    windows = -(-len(clip.features) // clip.window)
    sys.stdout.write(
        f"{windows} windows of {clip.window} tokens, of which {clip.ratio:.1%} stay, on {device}\n"
    )
    for part, (plain, quick) in measure(clip, options.repeats).items():
        line = f"{part:12} plain {1e3 * plain:9.2f} ms"
        if quick is not None:
            line += f"   fused {1e3 * quick:9.2f} ms   {plain / quick:6.1f}x"
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
