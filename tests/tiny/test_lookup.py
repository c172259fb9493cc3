"""The taught hops: from a picture's name to its sound, from a question's end to the name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seats_cli.training.dense import attention_loss, end_to_word, word_to_sound
from seats_cli.training.forward import Thinker, packed_mask
from seats_cli.training.minibatch import training_batch
from seats_cli.world.layouts import LayoutMix
from seats_cli.world.vocabulary import COLORS, IGNORE, SHAPES, SOUND_KINDS


def test_hops_point_at_the_right_tokens() -> None:
    segment = torch.tensor([[IGNORE, 0, 0, 1, IGNORE]])
    lookup = torch.tensor([[IGNORE, 1, IGNORE, IGNORE]])
    number = torch.tensor([[1, 1, 1, 1]])
    target = torch.tensor([[IGNORE, IGNORE, 7, 8]])
    (rows, places), right = word_to_sound(segment, lookup)
    assert (rows.tolist(), places.tolist()) == ([0], [6])
    assert right[0].nonzero().flatten().tolist() == [3]
    (rows, places), right = end_to_word(5, lookup, number, target)
    assert (rows.tolist(), places.tolist()) == ([0], [7])
    assert right[0].nonzero().flatten().tolist() == [6]


def test_loss_is_that_of_the_models_own_attention(micro_model: Thinker) -> None:
    torch.manual_seed(0)
    language = micro_model.model.language_model
    states = torch.randn(1, 9, 64)
    rotary = language.rotary_emb(states, torch.arange(9).expand(3, 1, -1))
    mask = packed_mask(torch.zeros(1, 9, dtype=torch.long))
    right = torch.zeros(1, 9, dtype=torch.bool)
    right[0, 2:4] = True
    layer = language.layers[0]
    asking = (torch.tensor([0]), torch.tensor([7]))
    for head in range(2):
        loss = attention_loss(layer, states, rotary, mask, asking, right, head)
        before = language.config._attn_implementation
        language.config._attn_implementation = "eager"  # returns the weights
        weights = layer.self_attn(
            layer.input_layernorm(states),
            position_embeddings=rotary,
            attention_mask=torch.zeros(1, 1, 9, 9).masked_fill(~mask, float("-inf")),
        )[1]
        language.config._attn_implementation = before
        expected = -weights[0, head, 7, 2:4].sum().log()
        torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


def test_named_words_are_found_in_the_questions(processor: Any) -> None:
    mix = LayoutMix(durations=((4.0, 6.0, 1.0),), video_only=0.0, audio_only=0.0)
    batch = training_batch(
        np.random.default_rng(2),
        processor,
        seconds=30,
        questions=8,
        weights={"sound_at_picture": 20.0},
        mix=mix,
    )
    words = [processor.tokenizer.decode([i]) for i in batch.question_ids[batch.lookup != IGNORE]]
    assert words
    assert all(word.strip() in (*COLORS, *SHAPES) for word in words)
    kinds = batch.lookup_kind[batch.lookup != IGNORE]
    assert all(0 <= kind < len(SOUND_KINDS) for kind in kinds.tolist())
