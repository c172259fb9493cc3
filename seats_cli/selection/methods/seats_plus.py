"""`seats-plus`: SEATS with a Stage I that sees the question, and switches under study.

In Stage I a token's importance is for the most part its likeness to the question, where published
SEATS has the encoder's attention alone. With `question_weight` 0 and nothing else switched on it is
the published method. Everything here is training-free and this project's own, on top of arXiv
2605.20035; merging follows OmniPack (2608.03812). What a variant is worth is asked by
`python -m tests.variants_study`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.config import check_choice, check_share
from seats_cli.cost.selection import Product, pairs
from seats_cli.cost.token_counts import MediaSizes, audio_windows, tokens_to_keep, video_windows
from seats_cli.errors import ConfigError
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.diversity import (
    MAX_MATRIX_ENTRIES,
    select_diverse,
    spare_copies,
)
from seats_cli.selection.method import (
    Entry,
    LayerTokens,
    Modality,
    Option,
    PromptTokens,
    register_method,
)
from seats_cli.selection.methods.seats import Seats
from seats_cli.selection.relevance import select_by_relevance
from seats_cli.selection.topk import keep_highest, proportional_budgets
from seats_cli.selection.trace import SelectionTrace
from seats_cli.selection.windows import fixed_windows, split_grids, window_tokens

EVEN_PART = 0.5  # of the budgets by novelty that every window gets in proportion to its size
LARGEST_SHIFT = 2.0  # by which a modality's total may grow or shrink where relevance splits it


def check_switch(name: str, value: object) -> None:
    """Refuse anything but true and false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}.")


def check_power(name: str, value: object) -> None:
    """Refuse anything but a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must be from 0 to 1, got {value!r}.")


@register_method("seats-plus")
class SeatsPlus(Seats):
    """`seats-plus`. As many tokens enter and stay as with `seats`; others, or changed ones."""

    # Stage I: how much likeness to the question's embeddings counts beside importance.
    question_weight = Option(0.75, check_share)
    # Stage I: exponent of the importance; 0 chooses by diversity alone, and reads no attention.
    importance_power = Option(1.0, check_power)

    # From here on: under study, none of them has proved itself yet.
    # Stage II: whose attention is the relevance, computed by which layer, of which heads.
    relevance_query = Option(
        "last_text", partial(check_choice, choices=("last_text", "question")), listed=False
    )
    relevance_layer = Option("own", partial(check_choice, choices=("own", "next")), listed=False)
    relevance_heads = Option(
        "mean", partial(check_choice, choices=("mean", "max", "audiovisual")), listed=False
    )
    # Stage II: how a drop's total is split between video and audio. "relevance" counts whose tokens
    # are the most relevant ones of both.
    modality_split = Option(
        "published", partial(check_choice, choices=("published", "relevance")), listed=False
    )
    # Stage II: whether each temporal grid's most relevant token goes before all others of a window.
    grid_floor = Option(False, check_switch, listed=False)
    # Stage I: budgets of the windows. "novelty" gives more to those with varied and rare content.
    entry_windows = Option(
        "equal", partial(check_choice, choices=("equal", "novelty")), listed=False
    )
    # Where a dropped token is merged into the kept one that is most like it: of its window before
    # the LLM ("entry"), of its modality behind the drop layers ("layers").
    merging = Option(
        "off", partial(check_choice, choices=("off", "entry", "layers", "both")), listed=False
    )
    # Share of itself that a kept token keeps in a merge.
    merging_own = Option(0.62, check_share, listed=False)

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        if self.relevance_query == "question":
            self.query_tokens, self.query_states = "question", "output"
        if self.relevance_layer == "next":
            self.query_states = "next"
        self.query_heads = self.relevance_heads  # type: ignore[assignment]
        self.needs_states = self.merging in ("layers", "both")
        # Stage I looks at the question, or leaves the grids for Stage II.
        self.shares = "states" if self.grid_floor else "entry"
        if self.question_weight:
            self.shares = "encoders"
        if not self.importance_power:
            self.needs_importance = False
        self._first_drop = min(self._ratios, default=0)
        self._published = (0, 0)  # video and audio tokens that `seats` would have now
        self._grid_of = torch.zeros(0, dtype=torch.long)

    # --------------------------------------------------------------- Stage I

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Stage I, and what leaves merged into what enters, where the options say so."""
        keep = super().before_llm(prompt).keep
        if self.grid_floor and prompt.video.size:
            self._grid_of = torch.full((len(keep),), -1)  # where a layer's tokens are
            self._grid_of[prompt.video.positions.cpu()] = split_grids(prompt.video).index.cpu()
        if self.merging not in ("entry", "both"):
            return Entry(keep)
        embeddings = prompt.embeddings
        for modality in (prompt.video, prompt.audio):
            if modality.lengths:
                at = modality.positions
                features = prompt.embeddings.index_select(0, at)
                merged = merge_in_windows(features, keep[at], modality, self.merging_own)
                embeddings = embeddings.index_copy(0, at, merged.to(embeddings.dtype))
        return Entry(keep, embeddings)

    def _choose(
        self, prompt: PromptTokens, modality: Modality, features: Tensor, ratio: float
    ) -> Tensor:
        """Stage I's choice, with importance and budgets as the options say."""
        importance = modality.importance if self.importance_power else None
        if importance is not None and self.importance_power < 1.0:
            importance = importance.float() ** self.importance_power
        question = prompt.embeddings[prompt.question]
        if self.question_weight and len(question):
            attended = features.new_ones(len(features)) if importance is None else importance
            importance = asked_importance(features, attended, question, self.question_weight)
        modality = replace(modality, importance=importance)
        if self.entry_windows == "novelty":
            return select_novel(features, modality, ratio)
        return super()._choose(prompt, modality, features, ratio)

    # -------------------------------------------------------------- Stage II

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor | Entry:
        """Stage II, with the split, the first tokens and the merges that the options say."""
        video, audio = tokens.video_mask, tokens.audio_mask
        ratios = self._ratios[layer]
        if self.modality_split == "relevance":
            ratios = self._split(layer, tokens)
        first = None
        if self.grid_floor and bool(video.any()):
            first = torch.zeros_like(video)
            grid_of = self._grid_of[tokens.index[video]]
            first[video] = best_of_each(tokens.relevance[video], grid_of)
        keep = select_by_relevance(
            tokens.relevance,
            video,
            audio,
            *ratios,
            temperature=self.plan.temperature,
            allocation=self.plan.config.allocation,
            first=first,
        )
        if not self.needs_states:
            return keep
        assert tokens.states is not None
        states = tokens.states
        for mask in (video, audio):
            at = mask.nonzero()[:, 0].to(states.device)
            if len(at):
                merged = merge_into_kept(states[at], keep[mask].to(states.device), self.merging_own)
                states = states.index_copy(0, at, merged.to(states.dtype))
        return Entry(keep, states)

    def _split(self, layer: int, tokens: LayerTokens) -> tuple[float, float]:
        """Shares of video and audio that stay, together as many tokens as with `seats`."""
        sizes = (int(tokens.video_mask.sum()), int(tokens.audio_mask.sum()))
        if layer == self._first_drop:
            self._published = sizes
        video, audio = (
            tokens_to_keep(size, ratio)
            for size, ratio in zip(self._published, self._ratios[layer], strict=True)
        )
        self._published = (video, audio)
        if not video or not audio:
            return self._ratios[layer]
        total = video + audio
        media = tokens.video_mask | tokens.audio_mask
        found = int(tokens.video_mask[media][keep_highest(tokens.relevance[media], total)].sum())
        # A level that differs between the modalities must not take everything from one of them.
        least = max(1, round(video / LARGEST_SHIFT), total - round(audio * LARGEST_SHIFT))
        most = min(round(video * LARGEST_SHIFT), total - max(1, round(audio / LARGEST_SHIFT)))
        wanted = min(max(found, least), most)
        wanted = min(max(wanted, total - sizes[1]), sizes[0])
        # Budgets of windows may have missed an earlier total: then all that is there stays.
        return wanted / sizes[0], min(1.0, (total - wanted) / sizes[1])

    # ------------------------------------------------------------ accounting

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """Stage I's windows, once more where they are merged; likeness to the question; merges."""
        plan, width, products = self.plan, architecture.hidden_size, list[Product]()
        alive = torch.zeros(trace.length, dtype=torch.bool)
        alive[trace.stages[0].kept] = True
        for mask, ratio, windows in (
            (
                trace.video_mask,
                plan.initial_video,
                video_windows(architecture, sizes, plan.config.video_window),
            ),
            (
                trace.audio_mask,
                plan.initial_audio,
                audio_windows(architecture, sizes, plan.config.audio_window),
            ),
        ):
            if ratio >= 1.0 or not bool(mask.any()):
                continue
            kept = torch.split(alive[mask], windows)
            chosen = [len(part) for part in kept if int(part.sum()) < len(part)]
            products += pairs(chosen, width)
            if self.merging in ("entry", "both"):
                products += pairs(chosen, width)
            if self.question_weight and trace.question:
                products.append((int(mask.sum()), trace.question, width))
        if self.needs_states:
            for before, after in zip(trace.stages, trace.stages[1:], strict=False):
                if after.kind == self.layer_kind:
                    products += [
                        (there - left, left, width)
                        for there, left in (
                            (before.video, after.video),
                            (before.audio, after.audio),
                        )
                        if left < there
                    ]
        return products


def asked_importance(
    features: Tensor, importance: Tensor, question: Tensor, weight: float
) -> Tensor:
    """Importance of tokens (n,), on average 1, in which likeness to the question has a weight.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    importance : Tensor, shape (n,)
    question : Tensor, shape (q, D)
        Embeddings of its tokens; the largest cosine to any of them counts, scaled to 0..1.
    weight : float
        In 0..1, of the likeness.
    """
    unit = normalize(features.float(), dim=-1)
    likeness = (unit @ normalize(question.float(), dim=-1).T).amax(-1).nan_to_num(nan=0.0)
    likeness = likeness - likeness.amin()
    parts = [values / values.mean().clamp(min=1e-12) for values in (importance.float(), likeness)]
    return (1.0 - weight) * parts[0] + weight * parts[1]


def _windows(modality: Modality) -> Iterator[tuple[int, Tensor]]:
    """Size of the windows, and the tokens (W, size) of all windows of that size."""
    groups = fixed_windows(modality.size, modality.windows, modality.lengths)
    for size, starts in groups.items():
        yield size, window_tokens(starts, size, modality.mask.device)


def select_novel(features: Tensor, modality: Modality, ratio: float) -> Tensor:
    """Stage I with more tokens for windows that hold much that is different, and as many in all.

    A window's weight is how far its tokens are from their own mean, plus how far that is from the
    mean of the clip, as cosine distances; half of every clip's tokens are shared evenly.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    modality : Modality
        Its windows, and importance where there is some.
    ratio : float
        Share of the tokens that stays, as `select_diverse_in_windows` rounds it in each window.

    Returns
    -------
    BoolTensor, shape (n,)
    """
    unit = normalize(features.float(), dim=-1).nan_to_num(nan=0.0)
    clip_of = torch.repeat_interleave(
        torch.arange(len(modality.lengths)), torch.tensor(modality.lengths)
    ).to(unit.device)
    clips = unit.new_zeros(len(modality.lengths), unit.shape[1])
    clips = normalize(clips.index_add_(0, clip_of, unit), dim=-1)
    # 1. Weights: no product of all pairs is needed, means say as much.
    groups = list(_windows(modality))
    found: list[tuple[int, int, int, float]] = []  # start, size, clip, weight
    for size, tokens in groups:
        mean = unit[tokens].mean(1)
        length = mean.norm(dim=-1)
        rare = 1.0 - (mean * clips[clip_of[tokens[:, 0]]]).sum(-1) / length.clamp(min=1e-12)
        weights = (1.0 - length**2 + rare).clamp(min=0.0).tolist()
        starts, owners = tokens[:, 0].tolist(), clip_of[tokens[:, 0]].tolist()
        found += zip(starts, [size] * len(starts), owners, weights, strict=True)
    # 2. Budgets of each clip's windows, which add up to those of equal shares.
    budgets: dict[int, int] = {}
    for number in range(len(modality.lengths)):
        own = sorted(window for window in found if window[2] == number)
        sizes, usual = [window[1] for window in own], sum(window[3] for window in own) / len(own)
        total = sum(tokens_to_keep(size, ratio) for size in sizes)
        novel = [window[3] / usual if usual > 0.0 else 1.0 for window in own]
        mass = [
            size * (EVEN_PART + (1.0 - EVEN_PART) * weight)
            for size, weight in zip(sizes, novel, strict=True)
        ]
        counts = proportional_budgets(sizes, mass, total)
        budgets |= {window[0]: count for window, count in zip(own, counts, strict=True)}
    # 3. The choice, of windows with equal size and budget together.
    kept = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    for _, tokens in groups:
        counts_of = torch.tensor([budgets[start] for start in tokens[:, 0].tolist()])
        for count in sorted(set(counts_of.tolist())):
            some = tokens[(counts_of == count).to(tokens.device)]
            weight = None if modality.importance is None else modality.importance[some]
            spare = None if modality.sources is None else spare_copies(modality.sources, some)
            chosen = select_diverse(features[some], weight, count, spare)
            kept.index_fill_(0, some.gather(1, chosen).flatten(), True)
    return kept


def best_of_each(scores: Tensor, group_of: Tensor) -> Tensor:
    """BoolTensor (n,): the highest score of each group of consecutive tokens, the first of ties."""
    order = scores.argsort(descending=True, stable=True)
    order = order[group_of[order].argsort(stable=True)]
    groups = group_of[order]
    leads = torch.ones_like(groups, dtype=torch.bool)
    leads[1:] = groups[1:] != groups[:-1]
    best = torch.zeros_like(leads)
    best[order[leads]] = True
    return best


def merge_into_kept(features: Tensor, keep: Tensor, own: float) -> Tensor:
    """Merge every other token into the kept one with the largest cosine.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    keep : BoolTensor, shape (n,)
        At least one of them.
    own : float
        Share of itself that a token keeps beside the mean of those that are merged into it.

    Returns
    -------
    float32 Tensor, shape (n, D)
        Rows of tokens that are not kept, and of kept ones that nothing goes to, are unchanged.
    """
    merged = features.float().clone()
    kept, leaving = keep.nonzero()[:, 0], (~keep).nonzero()[:, 0]
    if not len(leaving):
        return merged
    unit = normalize(merged, dim=-1)
    rows = torch.split(leaving, max(1, MAX_MATRIX_ENTRIES // len(kept)))
    into = torch.cat([(unit[some] @ unit[kept].T).argmax(-1) for some in rows])
    return _with_means(merged, kept[into], leaving, own)


def merge_in_windows(features: Tensor, keep: Tensor, modality: Modality, own: float) -> Tensor:
    """`merge_into_kept` in every window of Stage I, each of which keeps a token."""
    merged = features.float().clone()
    unit = normalize(merged, dim=-1)
    into = torch.arange(len(features), device=features.device)
    for size, tokens in _windows(modality):
        tokens = tokens[~keep[tokens].all(1)]
        for some in torch.split(tokens, max(1, MAX_MATRIX_ENTRIES // (size * max(size, 1)))):
            if len(some):
                windows = unit[some]
                likeness = windows @ windows.transpose(1, 2)
                likeness.masked_fill_(~keep[some].unsqueeze(1), -torch.inf)
                into[some.flatten()] = some.gather(1, likeness.argmax(-1)).flatten()
    leaving = (~keep).nonzero()[:, 0]
    return _with_means(merged, into[leaving], leaving, own) if len(leaving) else merged


def _with_means(features: Tensor, into: Tensor, leaving: Tensor, own: float) -> Tensor:
    """The features (n, D), with the mean of what leaves for each token mixed into it."""
    total = torch.zeros_like(features).index_add_(0, into, features[leaving])
    count = features.new_zeros(len(features)).index_add_(0, into, features.new_ones(len(leaving)))
    mean = total / count.clamp(min=1.0)[:, None]
    mixed = own * features + (1.0 - own) * mean
    return torch.where(count[:, None] > 0.0, mixed, features)
