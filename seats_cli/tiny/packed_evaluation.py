"""Quick exact-match accuracy on packed batches; equal to greedy decoding, many times faster.

An answer counts if the likeliest token is right at every place, end of answer included: exactly
then greedy decoding would have produced it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seats_cli.tiny.attention import batched_windows
from seats_cli.tiny.batch import Batch, evaluation_batch
from seats_cli.tiny.forward import Thinker, Thinning, packed_forward
from seats_cli.tiny.layout import make_layout
from seats_cli.tiny.questions import FAMILIES
from seats_cli.tiny.vocabulary import IGNORE

HELD_OUT_SEED = 900_001  # training seeds are small numbers
_SIZES = ((84, 140), (112, 112), (84, 112), (140, 84))


def validation_batches(processor: Any, *, clips: int = 12, count: int = 8) -> list[Batch]:
    """Held-out batches of 4 to 8 s clips in the usual frame sizes."""
    batches = []
    for index in range(count):
        rng = np.random.default_rng([HELD_OUT_SEED, index])
        duration = 4.0 + index % 5 if index % 2 == 0 else float(rng.uniform(4, 8))
        layout = make_layout(rng, duration, _SIZES[index % len(_SIZES)])
        batches.append(evaluation_batch(rng, processor, layout, clips))
    return batches


@torch.no_grad()
def accuracy_by_family(
    model: Thinker, batches: Sequence[Batch], thinning: Thinning | None = None
) -> dict[str, tuple[int, int]]:
    """(right, asked) per family, in the order of `FAMILIES`."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    thinning = thinning or Thinning()
    for batch in batches:
        with batched_windows(model):
            middle = thinning.cut_layer or len(model.model.language_model.layers)
            output = packed_forward(model, batch, thinning=thinning, middle_layer=middle)
        answered = batch.target != IGNORE
        wrong = torch.zeros_like(batch.target, dtype=torch.bool)
        wrong[answered] = output.logits.argmax(-1) != batch.target[answered]
        for row, questions in enumerate(batch.questions):
            for number, question in enumerate(questions, start=1):
                mine = batch.question_number[row] == number
                asked[question.family] += 1
                right[question.family] += not bool(wrong[row][mine].any())
    return {family: (right[family], asked[family]) for family in FAMILIES if asked[family]}
