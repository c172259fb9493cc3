"""OmniPack's parts against slow definitions."""

from __future__ import annotations

from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from seats_cli.config import SeatsConfig
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import LayerTokens, Modality
from seats_cli.selection.methods import method_for
from seats_cli.selection.methods.omnipack import (
    AUDIO,
    VIDEO,
    audio_salience,
    merge_states,
    merge_tokens,
    peak_scores,
    scaled,
    second_layer,
    shares,
    take_salient,
    text_relevance,
    video_salience,
)
from seats_cli.selection.windows import split_grids
from tests.shapes import architecture


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


def test_published_pairs_enter() -> None:
    # 18 of 28 layers with all that enters, 10 with half of it: 0.82 of it on average
    assert (second_layer(28), second_layer(36), second_layer(14)) == (18, 26, 9)
    for entering in (0.20, 0.55, 0.06, 0.35):
        found, stays = shares(entering * 23 / 28, 28)
        assert found == pytest.approx(entering)
        assert stays == pytest.approx(0.5)
    found, stays = shares(0.9, 28)
    assert found == 1.0
    assert stays == pytest.approx((0.9 * 28 - 18) / 10)
    assert shares(1.0, 28) == (1.0, 1.0)
    assert shares(0.3, 1) == (0.3, 1.0)


def test_video_salience() -> None:
    grids = split_grids(Modality(torch.ones(28, dtype=torch.bool), (20, 8), grids=(5, 4)))
    features, attention = random(28, 6), torch.rand(28, generator=torch.Generator().manual_seed(1))
    unit, runs = normalize(features, dim=-1), [(0, 5, 4), (20, 4, 2)]
    change, curve = torch.zeros(28), torch.zeros(28)
    for start, size, count in runs:
        for grid in range(count):
            at = slice(start + grid * size, start + (grid + 1) * size)
            for i in range(at.start, at.stop):
                since = 1 - cosine(features[i], features[i - size]) if grid else 0.0
                change[i] = max(since, 1 - cosine(features[i], features[at].mean(0)))
                if 0 < grid < count - 1:
                    curve[i] = (unit[i + size] - 2 * unit[i] + unit[i - size]).norm()
    bias = scaled(change) + 0.35 * scaled(curve)
    for ratio, weight in ((0.06, 0.35 * 0.35), (0.28, 0.35 * 0.675), (0.9, 0.35)):
        expected = scaled(scaled(attention) * (1 + weight * scaled(bias)))
        torch.testing.assert_close(video_salience(features, attention, grids, ratio), expected)


def test_audio_salience_starts_anew_with_each_sound() -> None:
    features, attention = random(9, 4), torch.arange(9.0)
    novelty = torch.tensor(
        [0.0 if i in (0, 5) else 1 - cosine(features[i], features[i - 1]) for i in range(9)]
    )
    expected = scaled(scaled(attention) + 0.25 * scaled(novelty))
    torch.testing.assert_close(audio_salience(features, attention, (5, 4)), expected)


def test_salient_tokens_that_repeat_one_are_skipped() -> None:
    unit = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]), dim=-1)
    salience = torch.tensor([0.9, 1.0, 0.2, 0.5])
    assert take_salient(unit, salience, 3, 0.7).tolist() == [1, 3, 2]
    # Nothing else is unlike them: fewer are taken, and none twice.
    assert take_salient(unit[:2], salience[:2], 2, 0.7).tolist() == [1]
    assert take_salient(unit, salience, 0, 0.7).tolist() == []


@pytest.mark.parametrize("size", [1, 2, 9, 30])
def test_peaks_follow_their_definition(size: int) -> None:
    features, place = random(size, 5, seed=size), random(size, 3, seed=size + 1)
    salience = torch.rand(size, generator=torch.Generator().manual_seed(size))
    far = [
        [
            1 - cosine(a, b) + 0.2 * float((p - q).norm())
            for b, q in zip(features, place, strict=True)
        ]
        for a, p in zip(features, place, strict=True)
    ]
    near = min(7, size - 1)
    density = [
        exp(-sum(sorted(row)[1 : near + 1]) / max(near, 1)) * (1 + 0.35 * float(weight))
        for row, weight in zip(far, salience, strict=True)
    ]
    found = peak_scores(normalize(features, dim=-1), place, salience)
    for i in range(size):
        denser = [far[i][j] for j in range(size) if density[j] > density[i]]
        expected = density[i] * (min(denser) if denser else max(far[i]))
        assert float(found[i]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("settings", [VIDEO, AUDIO])
def test_others_merge_into_what_stays(settings: object) -> None:
    assert settings in (VIDEO, AUDIO)
    kind = VIDEO if settings is VIDEO else AUDIO
    features, place = random(24, 6), random(24, 3, seed=2).sigmoid() / 3**0.5
    salience = torch.rand(24, generator=torch.Generator().manual_seed(3))
    keep, merged = merge_tokens(features, place, salience, 8, kind)
    kept = keep.nonzero()[:, 0].tolist()
    assert len(kept) == 8
    assert int(salience.argmax()) in kept
    members: dict[int, list[int]] = {k: [] for k in kept}
    pull = 0.10 if kind is VIDEO else 0.05
    for i in (~keep).nonzero()[:, 0].tolist():
        scores = {
            k: cosine(features[i], features[k])
            - pull * float((place[i] - place[k]).norm())
            + 0.10 * float(salience[k])
            for k in kept
        }
        members[max(scores, key=scores.__getitem__)].append(i)
    own = 0.62 if kind is VIDEO else 0.65
    for k, mine in members.items():
        expected = features[k]
        if mine:
            weights = 0.5 + 0.5 * salience[mine]
            mean = (weights[:, None] * features[mine]).sum(0) / weights.sum()
            expected = own * features[k] + (1 - own) * mean
        torch.testing.assert_close(merged[k], expected, atol=1e-5, rtol=1e-5)


def test_states_merge_behind_the_layer() -> None:
    own, text, other = random(10, 6), random(3, 6, seed=1), random(4, 6, seed=2)
    asked = torch.tensor(
        [max(cosine(x, text.mean(0)), *(cosine(x, word) for word in text)) for x in own]
    )
    across = torch.tensor([cosine(x, other.mean(0)) for x in own])
    typical = torch.tensor([exp(-sum(1 - cosine(x, y) for y in own) / 10) for x in own])
    relevance = text_relevance(own, text, other)
    expected = scaled(asked) + scaled(across) + scaled(typical)
    torch.testing.assert_close(relevance, expected, atol=1e-5, rtol=0)
    weight = scaled(relevance)
    keep, merged = merge_states(own, weight, 5)
    kept = keep.nonzero()[:, 0].tolist()
    total = {k: own[k].clone() for k in kept}
    mass = dict.fromkeys(kept, 1.0)
    for i in (~keep).nonzero()[:, 0].tolist():
        into = max(kept, key=lambda k: cosine(own[i], own[k]))
        share = ((cosine(own[i], own[into]) + 1) / 2) ** 2 * (0.5 + 0.5 * float(weight[i]))
        total[into] += share * own[i]
        mass[into] += share
    for k in kept:
        torch.testing.assert_close(merged[k], total[k] / mass[k], atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.data())
def test_counts_are_exact(size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size - 1))
    same = data.draw(st.booleans())  # all tokens alike: nothing but the first is salient
    features = torch.ones(size, 4) if same else random(size, 4, seed=size)
    salience = scaled(features[:, 0])
    keep, merged = merge_tokens(features, torch.zeros(size, 3), salience, count, VIDEO)
    assert int(keep.sum()) == count
    assert bool(merged.isfinite().all())
    keep, merged = merge_states(features, salience, count)
    assert int(keep.sum()) == count
    assert bool(merged.isfinite().all())


def test_text_keeps_its_states() -> None:
    plan = PruningPlan.resolve(
        SeatsConfig(method="omnipack", retain_video=0.3, retain_audio=0.3),
        architecture(),
    )
    method = method_for(plan)
    layer = next(number for number in range(1, 28) if method.drops_after(number))
    video, audio = torch.zeros(20, dtype=torch.bool), torch.zeros(20, dtype=torch.bool)
    video[2:10], audio[10:16] = True, True
    states = random(20, 8)
    tokens = LayerTokens(torch.arange(20), video, audio, torch.zeros(0), states)
    entry = method.after_layer(layer, tokens)
    assert not isinstance(entry, Tensor)
    assert entry.embeddings is not None
    text = ~(video | audio)
    assert bool(entry.keep[text].all())
    assert torch.equal(entry.embeddings[text], states[text])
    assert (int(entry.keep[video].sum()), int(entry.keep[audio].sum())) == (4, 3)
    assert not torch.equal(entry.embeddings[entry.keep], states[entry.keep])
