"""How much faster a vision encoder runs with seats' attention and parts: all four, in turn.

    python -m seats_cli.models.fused.measure qwen2.5-omni-7b --size 644x364

Random weights and noise of the given size and length, the least time of some repetitions, and the
largest difference of the outputs as a share of the largest value. On a CPU the parts are stock.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.models.attention.measure import seconds_of, vision_call
from seats_cli.models.optimize import best_for_encoders, use_for_encoders, use_fused_modules
from seats_cli.models.random_weights import random_model

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter

WAYS = {
    "stock": (False, False),
    "attention": (True, False),
    "parts": (False, True),
    "attention and parts": (True, True),
}


@torch.inference_mode()
def measure(
    adapter: Adapter, seconds: float, width: int, height: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Seconds of each way, and how far its output is from the stock one.

    Parameters
    ----------
    adapter : Adapter
        Of a model in which all is stock.
    seconds : float
        Of the clip, at two frames per second.
    width, height : int
        Of a frame.
    repeats : int
    """
    call = vision_call(adapter, seconds, width, height)
    weight = next(adapter.visual.parameters())
    own = best_for_encoders(weight.device, weight.dtype)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    outputs: dict[str, torch.Tensor] = {}
    for number in range(repeats + 1):
        for name, (attention, parts) in WAYS.items():
            with ExitStack() as stack:
                if attention:
                    stack.enter_context(use_for_encoders(adapter, own))
                if parts:
                    stack.enter_context(use_fused_modules(adapter))
                if number == 0:  # kernels are compiled in here
                    outputs[name] = call().float()
                else:
                    taken[name].append(seconds_of(call, weight.device))
    stock = outputs["stock"]
    return {
        name: (
            min(times),
            float((outputs[name] - stock).abs().max() / stock.abs().max()),
        )
        for name, times in taken.items()
    }


def as_table(measured: dict[str, tuple[float, float]]) -> str:
    """A line for each way."""
    stock = measured["stock"][0]
    return "\n".join(
        f"{name:20s} {1e3 * seconds:9.1f} ms  {stock / seconds:5.2f}x  differs by {apart:.1e}"
        for name, (seconds, apart) in measured.items()
    )


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("model", help="a named architecture")
    parser.add_argument("--size", default="644x364", help="of a frame, as WIDTHxHEIGHT")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    options: Any = parser.parse_args(arguments)
    width, height = (int(side) for side in options.size.split("x"))
    loaded = random_model(
        options.model,
        layers=1,
        dtype=options.dtype,
        device=options.device,
        attention="stock-sdpa",
    )
    measured = measure(loaded.adapter, options.seconds, width, height, options.repeats)
    sys.stdout.write(f"{loaded.facts.device}, {loaded.facts.dtype}\n{as_table(measured)}\n")


if __name__ == "__main__":
    main()
