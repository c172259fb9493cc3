"""OmniSIFT: the video that changes, and the sound that goes with it (arXiv 2602.04804).

Taken from the authors' code: groups of two consecutive grids; of the first grid the tokens most
like its mean leave, of the second those most like the same place in the first, by the same number;
the sound between the starts of two groups is judged against the video that its group keeps;
positions stay. The published shares dropped, sound and video, are 0.40 and 0.67 for 35 % of all
tokens, 0.50 and 0.77 for 25 %; there is nothing below. Chosen here: targets are a modality's own
(`retain_video`, `retain_audio`), each grid keeps at least one token, and where the authors prune
nothing because one modality is missing, the video is treated as ever and sound keeps evenly spaced
tokens. So does sound that belongs to no group: in front of the first one, and where all of a sound
lies beside the videos and not in one of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from seats_cli.config import WINDOWS
from seats_cli.cost.selection import Product, comparison_flops
from seats_cli.cost.token_counts import MediaSizes, grid_tokens, token_counts
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Entry, Method, Modality, PromptTokens, register_method
from seats_cli.selection.topk import keep_highest, keep_highest_in_runs
from seats_cli.selection.windows import Grids, similarity_to_earlier, split_grids

GROUP = 2  # consecutive grids


def left_of(size: int, ratio: float) -> int:
    """Tokens that stay of `size`: what leaves is rounded down, and one stays."""
    return size - min(int((1.0 - ratio) * size + 1e-9), size - 1) if size else 0


@torch.no_grad()
def keep_video(features: Tensor, grids: Grids, ratio: float) -> Tensor:
    """What is unlike its grid's mean, or has changed since the grid before: BoolTensor (n,).

    Parameters
    ----------
    features : Tensor, shape (n, D)
        Projected video tokens.
    ratio : float
        Share of every grid that stays.
    """
    second = [number % GROUP for number in grids.numbers]
    # 1. First grids: against the mean of all their tokens.
    mean = features.new_zeros(len(grids.sizes), features.shape[1], dtype=torch.float32)
    mean.index_add_(0, grids.index, features.float())
    mean /= torch.tensor(grids.sizes, device=mean.device)[:, None]
    like = (normalize(features.float(), dim=-1) * normalize(mean, dim=-1)[grids.index]).sum(-1)
    # 2. Second grids: against the same place, whether or not that token stays.
    back = [size * turn for size, turn in zip(grids.sizes, second, strict=True)]
    earlier = similarity_to_earlier(features, grids.per_token(back))
    scores = -torch.where(grids.per_token(second) > 0, earlier, like)
    budgets = [left_of(size, ratio) for size in grids.sizes]
    return keep_highest_in_runs(scores, grids.index, grids.sizes, budgets)


def evenly_spaced(size: int, count: int, device: torch.device) -> Tensor:
    """BoolTensor (size,) that marks `count` tokens, in the middle of equal parts."""
    keep = torch.zeros(size, dtype=torch.bool, device=device)
    keep[(2 * torch.arange(count, device=device) + 1) * size // (2 * max(count, 1))] = True
    return keep


class SoundSelector(nn.Module):
    """OmniSIFT's trained part: how much each sound token has to do with the video of its group.

    Names and shapes are those of `thinker.compressor` in the published checkpoint: 4,856,321
    parameters with an inner width of 512 and 8 heads behind embeddings of 3,584.

    Parameters
    ----------
    width : int
        Of embeddings D.
    inner : int
        Width of the attention.
    heads : int
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.v_proj, self.a_proj = nn.Linear(width, inner), nn.Linear(width, inner)
        self.v_norm, self.a_norm = nn.LayerNorm(inner), nn.LayerNorm(inner)
        self.cross_attn = nn.MultiheadAttention(inner, heads, batch_first=True)
        self.post_attn_norm = nn.LayerNorm(inner)
        self.score_head = nn.Sequential(
            nn.Linear(inner, inner // 2), nn.SiLU(), nn.Linear(inner // 2, 1)
        )

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Scores (n,) in 0..1 of sound tokens (n, D) beside kept video tokens (m, D), m > 0."""
        seen = self.v_norm(self.v_proj(video))[None]
        heard = self.a_norm(self.a_proj(audio))[None]
        found, _ = self.cross_attn(heard, seen, seen, need_weights=False)
        scores: Tensor = self.score_head(self.post_attn_norm(found + heard))
        return scores[0, :, 0].sigmoid()

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], width: int) -> SoundSelector:
        """The one with these weights, which it uses as they are; 64 to a head, or 4 heads.

        `width` is that of the embeddings.

        Raises
        ------
        KeyError, RuntimeError
            If a tensor is missing, left over or of another shape.
        """
        inner = len(weights["a_proj.weight"])
        with torch.device("meta"):
            made = cls(width, inner, max(inner // 64, 4))
        made.load_state_dict(dict(weights), assign=True)
        return made.eval()


class Sift(Method):
    """What all forms share: the video's rule, the groups of sound, budgets and counts."""

    shares = "entry"
    draws = False

    entry_kind = "changed, sound by picture"

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """Each group may keep one sound token more than its share."""
        video, audio = token_counts(architecture, sizes)
        kept = sum(
            left_of(grid_tokens(architecture, grid), self.plan.retention_video) * grid[0]
            for grid in sizes.grids
        )
        groups = sum(-(-grid[0] // GROUP) for grid in sizes.grids)
        return min(video, kept), min(audio, left_of(audio, self.plan.retention_audio) + groups)

    @abstractmethod
    def sound_scores(self, audio: Tensor, video: Tensor) -> Tensor:
        """What each sound token (n, D) of a group has to do with its kept video (m, D): (n,)."""

    @torch.no_grad()
    def before_llm(self, prompt: PromptTokens) -> Entry:
        """The video first, then the sound of each group by what of it stays."""
        plan, keep = self.plan, prompt.keep_all()
        video, audio = prompt.video, prompt.audio
        if video.size and plan.retention_video < 1.0:
            features = prompt.embeddings[video.positions]
            keep[video.positions] = keep_video(features, split_grids(video), plan.retention_video)
        if audio.size and plan.retention_audio < 1.0:
            keep[audio.positions] = self._sound(prompt, keep, plan.retention_audio)
        return Entry(keep)

    def _sound(self, prompt: PromptTokens, keep: Tensor, ratio: float) -> Tensor:
        """Keep mask of the sound, given the video that stays (`keep`, (S,))."""
        audio, video = prompt.audio, prompt.video
        if not video.size:
            return evenly_spaced(audio.size, left_of(audio.size, ratio), keep.device)
        # 1. A group reaches from where it starts to where the next one does.
        of_sound, of_video = sound_groups(video, audio, prompt.positions[0])
        # 2. Its sound against what it keeps of the picture.
        kept = keep[video.positions]
        heard, seen = (prompt.embeddings[places] for places in (audio.positions, video.positions))
        return keep_sound(heard, seen[kept], of_sound, of_video[kept], ratio, self.sound_scores)[0]


def keep_sound(
    heard: Tensor,
    seen: Tensor,
    of_sound: Tensor,
    of_seen: Tensor,
    ratio: float,
    score: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Choose the sound of each group by what is kept of its picture.

    Parameters
    ----------
    heard, seen : Tensor, shapes (n, D) and (m, D)
        Sound tokens, and the video tokens that stay.
    of_sound, of_seen : LongTensor, shapes (n,) and (m,)
        Their groups, those of video ascending; -1 for sound in none, which stays evenly spaced.
    ratio : float
        Share of each group's sound that stays.
    score : callable
        Scores (k,) of sound (k, D) and video (l, D) of one group; the highest stay.

    Returns
    -------
    keep : BoolTensor, shape (n,)
    scores : Tensor, shape (n,)
        1 where there is nothing to choose from, or by. They have a gradient if `score` has.
    """
    keep = torch.ones_like(of_sound, dtype=torch.bool)
    scores = heard.new_ones(len(heard), dtype=torch.float32)
    # 1. Sizes come to the host at once: a group would wait for the device twice. Video is in the
    #    order of its groups, and sound is put into it.
    sounds, pictures = (torch.bincount(groups + 1).tolist() for groups in (of_sound, of_seen))
    order = torch.split(of_sound.argsort(stable=True), sounds)
    shown = torch.split(seen, pictures)
    # 2. The first is no group.
    for number, mine in enumerate(order):
        size, count = len(mine), left_of(len(mine), ratio)
        if size < 2 or count == size:
            continue
        if not number:
            keep[mine] = evenly_spaced(size, count, keep.device)
            continue
        found = score(heard[mine], shown[number]).float()
        keep[mine] = keep_highest(found.detach(), count)
        scores = scores.index_copy(0, mine, found)
    return keep, scores


def sound_groups(video: Modality, audio: Modality, times: Tensor) -> tuple[Tensor, Tensor]:
    """Group of each sound token, LongTensor (n,), and of each video token, (m,).

    `times`, LongTensor (S,), are the first row of the prompt's positions. A group reaches from
    where it starts to where the next one does. -1 is sound in none of them: in front of the first,
    and all of a sound that shares no moment with any video.
    """
    first, of_video = video_groups(video)
    seen, heard = times[video.positions], times[audio.positions]
    of_sound = torch.searchsorted(seen[first].contiguous(), heard.contiguous(), right=True) - 1
    videos = _spans(seen, video.lengths)
    apart = [
        not any(start <= until and since <= end for since, until in videos)
        for start, end in _spans(heard, audio.lengths)
    ]
    if any(apart):
        alone = torch.tensor(apart).repeat_interleave(torch.tensor([n for n in audio.lengths if n]))
        of_sound = of_sound.masked_fill(alone.to(of_sound.device), -1)
    return of_sound, of_video


def _spans(times: Tensor, lengths: Sequence[int]) -> list[list[int]]:
    """First and last of the times (n,) of each clip or sound, in as many tokens as `lengths`."""
    parts = [part for part in torch.split(times, list(lengths)) if len(part)]
    spans: list[list[int]] = torch.stack([part[[0, -1]] for part in parts]).tolist()
    return spans


def video_groups(video: Modality) -> tuple[Tensor, Tensor]:
    """First token of each group of grids, LongTensor (G,), and the group of each token, (n,)."""
    grids = split_grids(video)
    begins = grids.per_token([int(number % GROUP == 0) for number in grids.numbers])
    starts = torch.ones_like(grids.index, dtype=torch.bool)
    starts[1:] = grids.index.diff() > 0
    group_of = (begins * starts).cumsum(0) - 1
    first = torch.ones_like(group_of, dtype=torch.bool)
    first[1:] = group_of.diff() > 0
    return first.nonzero()[:, 0], group_of


@register_method("omnisift-untrained", ignores=WINDOWS)
class OmniSiftUntrained(Sift):
    """`omnisift-untrained`: sound by its cosine to the mean of its group's kept video.

    Of any model, without weights; not what the paper calls OmniSIFT. Floor: one token of each
    grid, and of each group's sound.
    """

    def sound_scores(self, audio: Tensor, video: Tensor) -> Tensor:
        """Cosine to the mean."""
        return cosine_similarity(audio.float(), video.float().mean(0, keepdim=True), dim=-1)


@register_method("omnisift", ignores=WINDOWS)
class OmniSift(Sift):
    """`omnisift`. Sound by a trained selector, whose weights lie in the model's checkpoint.

    Floor: one token of each grid, and of each group's sound.
    """

    weights_prefix = "compressor."

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        self._selector: SoundSelector | None = None
        self._groups: list[tuple[int, int]] = []  # sound and kept video of each group under way

    def take_weights(self, weights: Mapping[str, Tensor], architecture: Architecture) -> None:
        """Those of `SoundSelector`."""
        self._selector = SoundSelector.of(weights, architecture.hidden_size)

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """As in every form, with the selector's FLOPs: no sizes tell what it works on."""
        self._groups = []
        entry = super().before_llm(prompt)
        return replace(entry, flops=comparison_flops(self._products()))

    def sound_scores(self, audio: Tensor, video: Tensor) -> Tensor:
        """Of the selector, in float32."""
        assert self._selector is not None
        self._groups.append((len(audio), len(video)))
        scores: Tensor = self._selector(audio.float(), video.float())
        return scores

    def _products(self) -> list[Product]:
        """The selector's layers on the sound of every group and on its kept video."""
        assert self._selector is not None
        inner, width = self._selector.a_proj.weight.shape
        products: list[Product] = []
        for heard, seen in self._groups:
            products += [(seen, inner, width), (heard, inner, width)]
            products += [(heard, inner, inner)] * 2 + [(seen, inner, inner)] * 2
            products += [(heard, seen, inner)] * 2
            products += [(heard, inner // 2, inner), (heard, 1, inner // 2)]
        return products
