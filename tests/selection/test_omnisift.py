"""OmniSIFT's parts against slow definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seats_cli.config import SeatsConfig
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Method, Modality, PromptTokens
from seats_cli.selection.methods import method_for
from seats_cli.selection.methods.omnisift import keep_video, left_of, sound_groups
from seats_cli.selection.windows import split_grids
from tests.shapes import architecture


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def method(name: str, video: float, audio: float) -> Method:
    config = SeatsConfig(method=name, retain_video=video, retain_audio=audio)
    return method_for(PruningPlan.resolve(config, architecture()))


def prompt() -> PromptTokens:
    """Two text tokens, then 5 grids of 6 tokens with 4 sound tokens between each, two of text."""
    kinds, times = ["t", "t"], [0, 1]
    for grid in range(5):
        kinds += ["v"] * 6 + ["a"] * 4
        times += [2 + 4 * grid] * 6 + [2 + 4 * grid + step for step in range(4)]
    kinds, times = [*kinds, "t", "t"], [*times, 22, 23]
    video = torch.tensor([kind == "v" for kind in kinds])
    audio = torch.tensor([kind == "a" for kind in kinds])
    return PromptTokens(
        random(len(kinds), 8),
        Modality(video, (30,), grids=(6,)),
        Modality(audio, (20,)),
        torch.tensor([times] * 3),
    )


def test_what_leaves_is_rounded_down() -> None:
    # int(rho * n) leave, with the published shares dropped: 0.67 and 0.77 of 144
    assert left_of(144, 1 - 0.67) == 144 - 96
    assert left_of(144, 1 - 0.77) == 144 - 110
    assert left_of(50, 1 - 0.4) == 30
    assert left_of(10, 0.3) == 3  # 1 - 0.3 is a little below 0.7
    assert [left_of(size, 0.01) for size in (0, 1, 16)] == [0, 1, 1]


@pytest.mark.parametrize("ratio", [0.5, 0.34, 0.01])
def test_video_that_is_new_stays(ratio: float) -> None:
    lengths, sizes = (30, 8), (6, 4)
    features = random(38, 5)
    grids = split_grids(Modality(torch.ones(38, dtype=torch.bool), lengths, grids=sizes))
    keep = keep_video(features, grids, ratio)
    at = 0
    for length, size in zip(lengths, sizes, strict=True):
        for grid in range(length // size):
            mine = features[at : at + size]
            against = features[at - size : at] if grid % 2 else mine.mean(0).expand_as(mine)
            like = cosine_similarity(mine, against, dim=-1)
            left = like.argsort()[: left_of(size, ratio)]
            expected = torch.zeros(size, dtype=torch.bool)
            expected[left] = True
            assert torch.equal(keep[at : at + size], expected)
            at += size


def test_sound_is_judged_by_the_video_of_its_group() -> None:
    given = prompt()
    entry = method("omnisift-untrained", 0.4, 0.5).before_llm(given)
    assert entry.embeddings is None
    video, audio = given.video.positions, given.audio.positions
    kept = keep_video(given.embeddings[video], split_grids(given.video), 0.4)
    assert torch.equal(entry.keep[video], kept)
    # groups of two grids, the last of one: 8, 8 and 4 sound tokens
    for seen, heard in (((0, 12), (0, 8)), ((12, 24), (8, 16)), ((24, 30), (16, 20))):
        picture = given.embeddings[video[slice(*seen)]][kept[slice(*seen)]]
        sound = given.embeddings[audio[slice(*heard)]]
        like = cosine_similarity(sound, picture.mean(0, keepdim=True), dim=-1)
        best = like.topk(len(sound) // 2).indices.sort().values
        assert torch.equal(entry.keep[audio[slice(*heard)]].nonzero()[:, 0], best)
    text = ~(given.video.mask | given.audio.mask)
    assert bool(entry.keep[text].all())


def test_sound_outside_of_all_groups_is_thinned_evenly() -> None:
    """In front of the first group, and a sound that shares no moment with a video."""
    kinds = ["a"] * 6 + ["v"] * 4 + ["a"] * 5 + ["v"] * 4 + ["a"] * 2 + ["t"] + ["a"] * 9
    times = [*range(6), *[6] * 4, *range(6, 11), *[11] * 4, 11, 12, 13, *range(14, 23)]
    video = torch.tensor([kind == "v" for kind in kinds])
    audio = torch.tensor([kind == "a" for kind in kinds])
    given = PromptTokens(
        random(len(kinds), 8),
        Modality(video, (8,), grids=(4,)),
        Modality(audio, (13, 9)),
        torch.tensor([times] * 3),
    )
    of_sound, of_video = sound_groups(given.video, given.audio, given.positions[0])
    assert of_sound.tolist() == [-1] * 6 + [0] * 7 + [-1] * 9
    assert of_video.tolist() == [0] * 8
    keep = method("omnisift-untrained", 0.5, 0.4).before_llm(given).keep
    heard = keep[audio]
    outside = heard[of_sound < 0]
    assert outside.nonzero()[:, 0].tolist() == [1, 3, 6, 8, 11, 13]  # 6 of 15
    picture = given.embeddings[video & keep].mean(0, keepdim=True)
    like = cosine_similarity(given.embeddings[audio][6:13], picture, dim=-1)
    assert torch.equal(heard[6:13].nonzero()[:, 0], like.topk(3).indices.sort().values)


def test_sound_alone_is_thinned_evenly() -> None:
    nothing = Modality(torch.zeros(12, dtype=torch.bool))
    audio = Modality(torch.tensor([False] + [True] * 10 + [False]), (10,))
    given = PromptTokens(random(12, 4), nothing, audio, torch.arange(12).expand(3, -1))
    keep = method("omnisift-untrained", 0.4, 0.2).before_llm(given).keep
    assert keep.nonzero()[:, 0].tolist() == [0, 3, 8, 11]
