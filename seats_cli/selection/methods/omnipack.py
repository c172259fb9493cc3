"""OmniPack: tokens are merged before the LLM and once more inside it (arXiv 2608.03812).

Taken from the paper: salience, the two ways by which tokens are taken, where the others go, the
weights of every merge, and the layer (18 of 28, 26 of 36) behind which half of each modality is
merged again. Chosen here, where the facts at hand leave it open: curvature is the length of the
second difference in time of the unit embeddings at one place, 0 in a clip's first and last grid;
a sound token's novelty is its cosine distance to the one before; coordinates are M-RoPE positions,
counted from the start of their clip where they are rows and columns, scaled to 0..1, and their
distance is Euclidean over the square root of their number; salience is scaled to 0..1 before it
weighs anything; text is what follows the clip; and other budgets than the published pairs enter in
proportion, while fractions above those that can enter stay whole up to the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.cost.selection import Product
from seats_cli.cost.token_counts import MediaSizes, token_counts, tokens_to_keep
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.diversity import MAX_MATRIX_ENTRIES, select_diverse
from seats_cli.selection.method import (
    Entry,
    LayerTokens,
    Method,
    Modality,
    PromptTokens,
    register_method,
)
from seats_cli.selection.trace import SelectionTrace, behind_clip
from seats_cli.selection.windows import Grids, similarity_to_earlier, split_grids

NEIGHBOURS = 7  # that make up a token's density
PLACE_WEIGHT, PEAK_WEIGHT, PULL = 0.20, 0.35, 0.10
CURVATURE_WEIGHT, NOVELTY_WEIGHT = 0.35, 0.25
KEPT_INSIDE = 0.5
LAYERS = {28: 18, 36: 26}  # published; the share of the first one elsewhere


@dataclass(frozen=True)
class MergeSettings:
    """What the paper sets for one modality."""

    dominant: float  # share of the budget that is taken by salience
    similar: float  # cosine to a token taken already, above which one is skipped
    distance: float  # what a merge pays for distance in coordinates
    own: float  # share of its own embedding that a token keeps in a merge


VIDEO = MergeSettings(0.25, 0.70, 0.10, 0.62)
AUDIO = MergeSettings(0.35, 0.75, 0.05, 0.65)


def scaled(values: Tensor) -> Tensor:
    """Values scaled to 0..1 along the last axis, as float32; 0 where all are equal."""
    values = values.float()
    if not values.shape[-1]:
        return values
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return ((values - low) / (high - low)).nan_to_num(nan=0.0)


def second_layer(num_layers: int) -> int:
    """The layer (from 1) behind which tokens are merged again; 0 in a model of one layer."""
    layer = LAYERS.get(num_layers, round(LAYERS[28] / 28 * num_layers))
    return min(max(layer, 1), num_layers - 1)


def shares(retention: float, num_layers: int) -> tuple[float, float]:
    """Share of a modality that enters, and of these the share that stays behind the layer.

    Their mean over the layers is `retention`: half stays, unless all tokens that there are do not
    suffice for it.
    """
    layer = second_layer(num_layers)
    if not layer:
        return retention, 1.0
    entering = min(1.0, retention * num_layers / (layer + KEPT_INSIDE * (num_layers - layer)))
    return entering, (retention / entering * num_layers - layer) / (num_layers - layer)


def video_salience(features: Tensor, attention: Tensor, grids: Grids, ratio: float) -> Tensor:
    """How salient each video token is, float32 (n,) in 0..1.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    attention : Tensor, shape (n,)
        Received in the vision encoder.
    ratio : float
        Share of the tokens that enters the LLM: the fewer, the less the bias counts.
    """
    size = grids.per_token(grids.sizes)
    number = grids.per_token(grids.numbers)
    # 1. Change since the same place one grid earlier, and difference from the grid's mean.
    change = 1.0 - similarity_to_earlier(features, torch.where(number > 0, size, 0))
    mean = features.new_zeros(len(grids.sizes), features.shape[1], dtype=torch.float32)
    mean.index_add_(0, grids.index, features.float())
    unit = normalize(features.float(), dim=-1)
    unlike = 1.0 - (unit * normalize(mean, dim=-1)[grids.index]).sum(-1)
    # 2. Curvature between the grids before and after; a clip's last grid has none behind it.
    counts = torch.bincount(grids.index, minlength=len(grids.sizes))
    follows = torch.tensor([*grids.numbers[1:], 0], device=number.device) > 0
    inner = (number > 0) & follows[grids.index]
    at = inner.nonzero()[:, 0]
    step = counts[grids.index[at]]
    curvature = unit.new_zeros(len(unit))
    curvature[at] = (unit[at + step] - 2 * unit[at] + unit[at - step]).norm(dim=-1)
    # 3. Attention, more of it where the picture changes.
    bias = scaled(torch.maximum(change, unlike)) + CURVATURE_WEIGHT * scaled(curvature)
    weight = 0.35 * (0.35 + 0.65 * min(max((ratio - 0.14) / 0.28, 0.0), 1.0))
    return scaled(scaled(attention) * (1.0 + weight * scaled(bias)))


def audio_salience(features: Tensor, attention: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """How salient each audio token is, float32 (n,) in 0..1; the first of a sound is not novel."""
    back = torch.ones(len(features), dtype=torch.long, device=features.device)
    back[torch.tensor([0, *lengths[:-1]], device=features.device).cumsum(0)] = 0
    novelty = 1.0 - similarity_to_earlier(features, back)
    return scaled(scaled(attention) + NOVELTY_WEIGHT * scaled(novelty))


def place_of(prompt: PromptTokens, modality: Modality) -> Tensor:
    """Coordinates of a modality's tokens, float32 (n, R): their distance is at most 1."""
    rows = prompt.positions[:, modality.positions].float()
    clips = torch.split(rows, list(modality.lengths), dim=1)
    # Rows and columns are counted on from whatever stands before the clip; time goes on.
    inside = [torch.cat([part[:1], part[1:] - part[1:].amin(1, keepdim=True)]) for part in clips]
    axes: Tensor = scaled(torch.cat(inside, 1)) / float(len(rows)) ** 0.5
    return axes.T


def take_salient(unit: Tensor, salience: Tensor, count: int, similar: float) -> Tensor:
    """LongTensor (m,), m <= count: the most salient tokens that are not like one taken before.

    `unit` (n, D) are embeddings of length 1.
    """
    if not count:
        return torch.zeros(0, dtype=torch.long, device=unit.device)
    taken, left = [], salience.clone()
    fresh = []  # whether a step found a token that may still be taken; read once, at the end
    for _ in range(count):
        best = left.argmax()
        taken.append(best)
        fresh.append(left[best] >= 0.0)
        left.masked_fill_((unit @ unit[best][:, None])[:, 0] > similar, -1.0)
        left[best] = -1.0
    return torch.masked_select(torch.stack(taken), torch.stack(fresh))


def _apart(some: Tensor, others: Tensor) -> Tensor:
    """Distances (n, m) of places (n, R) and (m, R): exact, so that ties stay ties."""
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def peak_scores(unit: Tensor, place: Tensor, salience: Tensor) -> Tensor:
    """Score (n,) of each token as a cluster's centre: density times distance to a denser token.

    Parameters
    ----------
    unit : Tensor, shape (n, D)
        Embeddings of length 1.
    place : Tensor, shape (n, R)
        Coordinates.
    salience : Tensor, shape (n,)
        Makes a token count as denser.
    """
    size = len(unit)
    chunks = torch.split(torch.arange(size, device=unit.device), _rows_at_once(size))
    held: dict[int, Tensor] = {}

    def distances(number: int) -> Tensor:
        if number in held:
            return held[number]
        rows = chunks[number]
        far = 1.0 - unit[rows] @ unit.T + PLACE_WEIGHT * _apart(place[rows], place)
        far.clamp_(min=0.0)
        if len(chunks) == 1:  # otherwise they are worked out twice: together they are too many
            held[number] = far
        return far

    # 1. Density from the nearest tokens; the nearest of all is the token itself.
    near = min(NEIGHBOURS, size - 1)
    mean = [
        distances(number).topk(near + 1, dim=-1, largest=False).values.sum(-1) / max(near, 1)
        for number in range(len(chunks))
    ]
    density = torch.exp(-torch.cat(mean)) * (1.0 + PEAK_WEIGHT * salience)
    # 2. Of equally dense tokens the earlier counts as denser; the densest has its farthest one.
    rank = torch.empty(size, dtype=torch.long, device=unit.device)
    rank[density.argsort(descending=True, stable=True)] = torch.arange(size, device=unit.device)
    separation = []
    for number, rows in enumerate(chunks):
        far = distances(number)
        farthest = far.amax(-1)
        nearest = far.masked_fill(rank >= rank[rows, None], torch.inf).amin(-1)
        separation.append(torch.where(nearest.isinf(), farthest, nearest))
    return density * torch.cat(separation)


def _rows_at_once(size: int) -> int:
    """Rows of the distances between `size` tokens that are held at once."""
    return max(1, MAX_MATRIX_ENTRIES // max(1, size))


@torch.no_grad()
def merge_tokens(
    features: Tensor, place: Tensor, salience: Tensor, count: int, settings: MergeSettings
) -> tuple[Tensor, Tensor]:
    """Take some tokens of a modality, and merge every other one into one of them.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    place : Tensor, shape (n, R)
        Coordinates whose distance is at most 1.
    salience : Tensor, shape (n,)
        In 0..1.
    count : int
        Tokens that stay, 1 to n.

    Returns
    -------
    keep : BoolTensor, shape (n,)
    merged : float32 Tensor, shape (n, D)
    """
    unit = normalize(features.float(), dim=-1)
    keep = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    # 1. A share by salience, without repetition; the rest are the peaks among the others.
    keep[take_salient(unit, salience, round(settings.dominant * count), settings.similar)] = True
    scores = peak_scores(unit, place, salience).masked_fill(keep, -torch.inf)
    order = scores.argsort(descending=True, stable=True)
    keep[order[: count - int(keep.sum())]] = True
    # 2. Everything else goes to what is like it, near it, and salient.
    kept, leaving = keep.nonzero()[:, 0], (~keep).nonzero()[:, 0]
    at_once = max(1, MAX_MATRIX_ENTRIES // len(kept))
    nearest = [
        (
            unit[rows] @ unit[kept].T
            - settings.distance * _apart(place[rows], place[kept])
            + PULL * salience[kept]
        ).argmax(-1)
        for rows in torch.split(leaving, at_once)
    ]
    merged = features.float().clone()
    if nearest:
        into, weights = torch.cat(nearest), 0.5 + 0.5 * salience[leaving]
        total, weight = _sums(merged[leaving], weights, into, len(kept))
        taken = weight > 0
        mean = total[taken] / weight[taken, None]
        merged[kept[taken]] = settings.own * merged[kept[taken]] + (1.0 - settings.own) * mean
    return keep, merged


def _sums(values: Tensor, weights: Tensor, into: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weighted sums (count, D) of the values that go into each, and sums of the weights."""
    total = values.new_zeros(count, values.shape[1])
    total.index_add_(0, into, values * weights[:, None])
    return total, weights.new_zeros(count).index_add_(0, into, weights)


def text_relevance(own: Tensor, text: Tensor, other: Tensor) -> Tensor:
    """Relevance (n,) in 0..3 of a modality's states to the text's, the other's and its own.

    `own` (n, D), `text` (t, D) and `other` (m, D; may be none) are states behind a layer.
    """
    unit, words = (normalize(states.float(), dim=-1) for states in (own, text))
    asked = (unit @ words.T).amax(-1)
    asked = torch.maximum(asked, unit @ normalize(text.float().mean(0), dim=0))
    across = torch.zeros(len(own), device=own.device)
    if len(other):
        across = unit @ normalize(other.float().mean(0), dim=0)
    typical = torch.exp(unit @ unit.mean(0) - 1.0)  # of the mean cosine distance
    return scaled(asked) + scaled(across) + scaled(typical)


@torch.no_grad()
def merge_states(own: Tensor, relevance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Keep diverse, relevant states of a modality, and merge the others into those like them.

    Parameters
    ----------
    own : Tensor, shape (n, D)
    relevance : Tensor, shape (n,)
        In 0..1.
    count : int
        States that stay, 1 to n.

    Returns
    -------
    keep : BoolTensor, shape (n,)
    merged : float32 Tensor, shape (n, D)
        A state that stays weighs 1 in its mean.
    """
    keep = torch.zeros(len(own), dtype=torch.bool, device=own.device)
    keep[select_diverse(own[None], 1.0 + relevance[None], count)[0]] = True
    kept, leaving = keep.nonzero()[:, 0], (~keep).nonzero()[:, 0]
    merged = own.float().clone()
    if len(leaving):
        unit = normalize(merged, dim=-1)
        likeness, into = (unit[leaving] @ unit[kept].T).max(-1)
        weights = ((likeness + 1.0) / 2.0) ** 2 * (0.5 + 0.5 * relevance[leaving])
        total, weight = _sums(merged[leaving], weights, into, len(kept))
        merged[kept] = (merged[kept] + total) / (1.0 + weight[:, None])
    return keep, merged


@register_method("omnipack", ignores=("audio_window",))
class OmniPack(Method):
    """`omnipack`. Each modality meets its own target. Floor: one token of each modality."""

    shares = "entry"
    draws = False

    needs_importance = True
    query_tokens = "none"
    entry_kind = "merged"
    layer_kind = "merged again"

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        depth = plan.num_layers or 28
        self._layer = second_layer(depth)
        self._video = shares(plan.retention_video, depth)
        self._audio = shares(plan.retention_audio, depth)

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """What is left by the first settings."""
        video, audio = token_counts(architecture, sizes)
        return tokens_to_keep(video, self._video[0]), tokens_to_keep(audio, self._audio[0])

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Salient tokens and peaks of each modality; the others are merged into them."""
        keep, embeddings = prompt.keep_all(), prompt.embeddings
        for modality, ratio, settings in (
            (prompt.video, self._video[0], VIDEO),
            (prompt.audio, self._audio[0], AUDIO),
        ):
            count = tokens_to_keep(modality.size, ratio)
            if count >= modality.size:
                continue
            assert modality.importance is not None
            at, attention = modality.positions, modality.importance
            features = prompt.embeddings[at]
            if settings is VIDEO:
                salience = video_salience(features, attention, split_grids(modality), ratio)
            else:
                salience = audio_salience(features, attention, modality.lengths)
            place = place_of(prompt, modality)
            keep[at], merged = merge_tokens(features, place, salience, count, settings)
            embeddings = embeddings.index_copy(0, at, merged.to(embeddings.dtype))
        return Entry(keep, embeddings)

    def drops_after(self, layer: int) -> bool:
        """The second merge's layer, unless everything stays."""
        return layer == self._layer and min(self._video[1], self._audio[1]) < 1.0

    def after_layer(self, layer: int, tokens: LayerTokens) -> Entry:
        """Half of each modality, merged."""
        states, video, audio = tokens.states, tokens.video_mask, tokens.audio_mask
        assert states is not None
        media = (video | audio).nonzero()[:, 0]
        behind = int(media[-1]) + 1 if len(media) else 0
        text = states[behind:] if behind < len(states) else states
        keep, changed = torch.ones_like(video), states
        for mask, other, ratio in (
            (video, audio, self._video[1]),
            (audio, video, self._audio[1]),
        ):
            count = tokens_to_keep(int(mask.sum()), ratio)
            if count >= int(mask.sum()):
                continue
            at = mask.nonzero()[:, 0].to(states.device)
            own, others = states[at], states[other.nonzero()[:, 0].to(states.device)]
            relevance = scaled(text_relevance(own, text, others))
            stays, merged = merge_states(own, relevance, count)
            keep[mask] = stays.cpu()
            changed = changed.index_copy(0, at, merged.to(states.dtype))
        return Entry(keep, changed)

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """Tokens with those taken, all pairs of them, and what merges with what stays.

        Behind the layer: each modality with the text, its own pairs, and its merges.
        """
        width, entry, products = architecture.hidden_size, trace.stages[0], list[Product]()
        for offered, entered, settings in (
            (trace.offered[0], entry.video, VIDEO),
            (trace.offered[1], entry.audio, AUDIO),
        ):
            if entered < offered:
                products += [(offered, round(settings.dominant * entered), width)]
                products += [(offered, offered, width)] * (1 + (_rows_at_once(offered) < offered))
                products += [(offered - entered, entered, width)]
        for stage in trace.stages[1:]:
            seen = (trace.video_mask | trace.audio_mask)[entry.kept]
            text = behind_clip(seen, torch.arange(len(seen))) or len(seen)
            for before, after in ((entry.video, stage.video), (entry.audio, stage.audio)):
                if after < before:
                    products += [(before, text, width), (before, before, width)]
                    products += [(before - after, after, width)]
        return products
