"""Questions of lengths not seen before, with and without cuDNN's attention, and single tokens.

python -m tests.measure_new_lengths qwen2.5-omni-7b
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import optimize
from seats_cli.models.random_weights import random_model
from seats_cli.results import Answer

PRUNED = SeatsConfig(retain=0.1)
WORDS = "What is it that one can see and hear here now then so far "
QUESTIONS, TOKENS = 3, 12  # answers shorter than a question's words, so that no length comes twice


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a named architecture")
    parser.add_argument("--seconds", type=float, default=60.0)
    options: Any = parser.parse_args()
    loaded = random_model(options.model)
    clip = synthetic_clip(options.seconds, sizing=loaded.sizing)

    def answer(config: SeatsConfig | None, words: int, tokens: int, **more: Any) -> Answer:
        lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        return ask(loaded, clip, WORDS * words + "?", config=config, **lengths, **more)

    for config in (PRUNED, None):  # kernels are compiled in here
        answer(config, 1, TOKENS)
    number = 2
    for name, planned in (("without cuDNN's", False), ("with cuDNN's", True)):
        # Where cuDNN's attention counts as off already, nobody switches it off.
        allowed = patch.object(optimize.cuda, "cudnn_sdp_enabled", lambda: False)
        for label, config in (("pruned", PRUNED), ("unpruned", None)):
            with allowed if planned else nullcontext():
                timings = [answer(config, number + k, TOKENS).timing for k in range(QUESTIONS)]
            firsts = ", ".join(f"{1e3 * timing.first_token_s:.0f}" for timing in timings)
            rests = ", ".join(f"{1e3 * timing.decode_s:.0f}" for timing in timings)
            sys.stdout.write(
                f"{name:15s} {label:8s} first token {firsts} ms, {TOKENS - 1} more {rests} ms\n"
            )
        number += QUESTIONS
    for label, config in (("pruned", PRUNED), ("unpruned", None)):
        instants: list[float] = []

        def note(_logits: torch.Tensor, instants: list[float] = instants) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            instants.append(time.perf_counter())

        how = answer(config, 1, 48, on_logits=note).timing.decoding
        steps = [1e3 * (late - soon) for soon, late in pairwise(instants)]
        sys.stdout.write(f"{label:8s} a token by {how}: {statistics.median(steps[8:]):.2f} ms\n")


if __name__ == "__main__":
    main()
