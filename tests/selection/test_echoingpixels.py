"""EchoingPixels' refiner, score head and pool against slow definitions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softmax

from seats_cli.config import SeatsConfig
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.errors import ModelError
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Modality, PromptTokens
from seats_cli.selection.methods import method_for
from seats_cli.selection.methods.echoingpixels import (
    EchoingPixels,
    RefinerLayer,
    Sieve,
    pool_budget,
)
from tests.shapes import architecture

WIDTH, HEADS, PAIRS, INNER = 12, (4, 2), 3, 10


def sieve_of(layers: int = 2, normed: int = 0) -> Sieve:
    torch.manual_seed(layers)
    head = 2 * PAIRS
    made = Sieve(
        WIDTH,
        tuple(
            RefinerLayer(
                WIDTH, HEADS[0] * head, HEADS[1] * head, INNER, bias=not normed, normed=normed
            )
            for _ in range(layers)
        ),
    )
    return Sieve.of({n: torch.randn_like(v) for n, v in made.state_dict().items()}, WIDTH)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """One token's head (2 * PAIRS,): channel c and the one half a head behind it are a pair."""
    first, second = x[:PAIRS], x[PAIRS:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin])


@pytest.mark.parametrize("norms", [0, 2 * PAIRS], ids=["biased", "normed"])
def test_refiner_follows_the_formula(norms: int) -> None:
    sieve = sieve_of(2, norms)
    own, tokens = sieve.state_dict(), 5
    states, angles = torch.randn(tokens, WIDTH), torch.rand(tokens, PAIRS) * 6
    whole = torch.cat([angles, angles], -1)[None]
    seen = torch.tensor([[True, True, False, True, True]])
    found = sieve(states[None], (whole.cos(), whole.sin()), seen)[0]
    for number in range(2):
        at = f"layers.{number}."

        def through(x: Tensor, name: str, at: str = at) -> Tensor:
            return x @ own[f"{at}{name}.weight"].T + own.get(f"{at}{name}.bias", torch.zeros(()))

        x = normed(states, own[f"{at}input_layernorm.weight"])
        parts = {
            part: through(x, f"self_attn.{part}_proj").view(tokens, -1, 2 * PAIRS) for part in "qkv"
        }
        for part in "qk" if norms else "":
            parts[part] = normed(parts[part], own[f"{at}self_attn.{part}_norm.weight"])
        mixed = torch.zeros(tokens, HEADS[0], 2 * PAIRS)
        for one in range(tokens):
            for head in range(HEADS[0]):
                group = head // 2
                asks = turned(parts["q"][one, head], angles[one])
                # Every token is asked, also a later one; but for the one that nobody sees.
                keys = [turned(parts["k"][t, group], angles[t]) for t in (0, 1, 3, 4)]
                weights = softmax(torch.stack([asks @ key for key in keys]) / (2 * PAIRS) ** 0.5, 0)
                mixed[one, head] = weights @ parts["v"][[0, 1, 3, 4], group]
        states = states + through(mixed.flatten(1), "self_attn.o_proj")
        x = normed(states, own[f"{at}post_attention_layernorm.weight"])
        gated = silu(through(x, "mlp.gate_proj")) * through(x, "mlp.up_proj")
        states = states + through(gated, "mlp.down_proj")
    torch.testing.assert_close(found, states, atol=1e-4, rtol=1e-4)
    x = normed(states, own["ln.weight"])
    hidden = silu(x @ own["score_head.0.weight"].T + own["score_head.0.bias"])
    expected = (hidden @ own["score_head.2.weight"].T + own["score_head.2.bias"])[:, 0]
    torch.testing.assert_close(sieve.scores(found), expected, atol=1e-4, rtol=1e-4)


def test_budget_is_rounded_up() -> None:
    assert [pool_budget(wanted, 10) for wanted in (0.01, 1.0, 1.01, 9.5, 12.0)] == [1, 1, 2, 10, 10]
    assert pool_budget(0.1 * 30, 30) == 3  # which is a little more than 3 in binary
    assert pool_budget(0.0, 0) == 0


def method(video: float, audio: float, sieve: Sieve) -> EchoingPixels:
    config = SeatsConfig(method="echoingpixels", retain_video=video, retain_audio=audio)
    made = method_for(PruningPlan.resolve(config, architecture()))
    assert isinstance(made, EchoingPixels)
    made.take_weights(
        sieve.state_dict(), replace(architecture(), hidden_size=WIDTH, head_dim=2 * PAIRS)
    )
    return made


def prompt(padding: Tensor | None = None) -> PromptTokens:
    """Two text tokens, 12 of video, 8 of sound, and two of text."""
    place = torch.arange(24)
    video, audio = (place > 1) & (place < 14), (place > 13) & (place < 22)
    angles = torch.rand(1, 24, PAIRS, generator=torch.Generator().manual_seed(2))
    angles = torch.cat([angles, angles], -1)
    return PromptTokens(
        torch.randn(24, WIDTH, generator=torch.Generator().manual_seed(1)),
        Modality(video, (12,), grids=(4,)),
        Modality(audio, (8,)),
        place.expand(3, -1),
        (angles.cos(), angles.sin()),
        padding,
    )


def test_one_pool_and_every_state_is_refined() -> None:
    sieve, given = sieve_of(), prompt()
    chosen = method(0.25, 0.4, sieve)
    entry = chosen.before_llm(given)
    assert given.rotary is not None
    states = sieve(given.embeddings[None], given.rotary)[0]
    assert entry.embeddings is not None
    torch.testing.assert_close(entry.embeddings, states)
    media = given.video.mask | given.audio.mask
    assert bool(entry.keep[~media].all())
    best = sieve.scores(states[media]).topk(7).indices.sort().values  # 3 + 3.2, rounded up
    assert torch.equal(entry.keep[media].nonzero()[:, 0], best)
    # heads of 6 channels, 24 tokens: two layers and a head on 20 candidates
    layer = 2 * (24 * 24 * WIDTH + 24 * 12 * WIDTH + 24 * 24 * 24) + 3 * 24 * INNER * WIDTH
    work = [rows * columns * width for rows, columns, width in sieve.products(24, 20)]
    assert sum(work) == 2 * layer + 20 * WIDTH * WIDTH + 20 * WIDTH
    everything = method(1.0, 1.0, sieve).before_llm(given)
    assert bool(everything.keep.all())
    torch.testing.assert_close(everything.embeddings, states)


def test_padding_is_seen_by_nobody() -> None:
    padding = torch.zeros(24, dtype=torch.bool)
    padding[0] = True
    given, sieve = prompt(padding), sieve_of()
    other = given.embeddings.clone()
    other[0] += 1.0
    one, two = (
        method(0.5, 0.5, sieve).before_llm(
            PromptTokens(states, given.video, given.audio, given.positions, given.rotary, padding)
        )
        for states in (given.embeddings, other)
    )
    assert one.embeddings is not None
    assert two.embeddings is not None
    assert torch.equal(one.embeddings[1:], two.embeddings[1:])


def test_text_alone_is_left_as_it_is() -> None:
    nothing = Modality(torch.zeros(3, dtype=torch.bool))
    given = PromptTokens(torch.randn(3, WIDTH), nothing, nothing, torch.arange(3).expand(3, -1))
    entry = method(0.1, 0.1, sieve_of()).before_llm(given)
    assert entry.embeddings is None
    assert bool(entry.keep.all())


def test_pictures_alone_are_refined_and_stay() -> None:
    given, sieve = prompt(), sieve_of()
    nothing = Modality(torch.zeros(24, dtype=torch.bool))
    picture = replace(given, video=nothing, audio=nothing, pictures=given.video.mask)
    entry = method(0.1, 0.1, sieve).before_llm(picture)
    assert given.rotary is not None
    assert entry.embeddings is not None
    assert torch.equal(entry.embeddings, sieve(given.embeddings[None], given.rotary)[0])
    assert bool(entry.keep.all())


def test_what_enters_is_the_pools_budget() -> None:
    shape = architecture()
    sizes = MediaSizes(((4, 8, 8),), (400,))
    config = SeatsConfig(method="echoingpixels", retain_video=0.2, retain_audio=0.5)
    made = method_for(PruningPlan.resolve(config, shape))
    video, audio = made.entering(shape, sizes)
    offered = 4 * 64 // shape.vision.merge_size**2, 100
    assert video + audio == pool_budget(0.2 * offered[0] + 0.5 * offered[1], sum(offered))


def test_heads_of_another_width_are_refused() -> None:
    sieve = sieve_of(1)
    with pytest.raises(ModelError, match="not multiples of the decoder's head width, 10:"):
        sieve.check(10)
    sieve.check(2 * PAIRS)
    assert not sieve_of(0).refiner  # the head alone
