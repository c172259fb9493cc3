"""EchoingPixels: a bidirectional refiner and one pool of picture and sound (arXiv 2512.10324).

Taken from the authors' code: before the first decoder layer, the whole prompt passes N layers like
the decoder's own, without the causal mask; what leaves them replaces the embeddings, those of text
too, so that the decoder has to be trained with them. A head scores the audio-visual tokens, and of
all of them together the highest `ceil(r * N_av)` stay, with their positions. The rotary sections of
the trained decoder (Sync-RoPE) are the checkpoint's, see `seats_cli.models.optimize.sync_rope`; the
refiner is given the same. Chosen here: r is what the targets of both modalities keep of the pool,
and pictures that are no video are refined, but never dropped: they count as text, as in every
method, where the authors have them in the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from seats_cli.config import WINDOWS
from seats_cli.cost.selection import Product, comparison_flops
from seats_cli.cost.token_counts import MediaSizes, token_counts
from seats_cli.errors import ModelError
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Entry, Method, PromptTokens, register_method
from seats_cli.selection.topk import keep_highest

EPSILON = 1e-6  # of the norms, as in Qwen's decoders
Rotary = tuple[Tensor, Tensor]


def pool_budget(wanted: float, size: int) -> int:
    """Tokens that stay of a pool of `size`: what is wanted, rounded up, and one at least."""
    # The share of a whole pool may be a little above it in binary.
    return min(size, max(1, ceil(wanted - 1e-9))) if size else 0


class RefinerLayer(nn.Module):
    """A decoder layer without the causal mask; names and shapes of its weights are a decoder's.

    Parameters
    ----------
    width : int
        Of the states, D.
    queries, keys : int
        Rows of the query projection (heads times head_dim), and of those of keys and values.
    inner : int
        Width of the SwiGLU.
    bias : bool
        Whether queries, keys and values have one (Qwen2.5).
    normed : int
        Width of the norms of queries and keys, head_dim (Qwen3); 0 without.
    """

    def __init__(
        self, width: int, queries: int, keys: int, inner: int, *, bias: bool, normed: int
    ) -> None:
        super().__init__()
        self.width, self.queries, self.keys, self.inner = width, queries, keys, inner
        self.input_layernorm = nn.RMSNorm(width, eps=EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=EPSILON)
        attention: dict[str, nn.Module] = {
            "q_proj": nn.Linear(width, queries, bias=bias),
            "k_proj": nn.Linear(width, keys, bias=bias),
            "v_proj": nn.Linear(width, keys, bias=bias),
            "o_proj": nn.Linear(queries, width, bias=False),
        }
        if normed:
            attention |= {name: nn.RMSNorm(normed, eps=EPSILON) for name in ("q_norm", "k_norm")}
        self.self_attn = nn.ModuleDict(attention)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, inner, bias=False),
                "up_proj": nn.Linear(width, inner, bias=False),
                "down_proj": nn.Linear(inner, width, bias=False),
            }
        )

    def forward(self, states: Tensor, rotary: Rotary, seen: Tensor | None) -> Tensor:
        """States (B, S, D); `seen` as `Sieve.forward` has it."""
        own, mlp = self.self_attn, self.mlp
        normed: Tensor = self.input_layernorm(states)
        head_dim = rotary[0].shape[-1]

        def heads(part: str) -> Tensor:
            """(B, heads, S, head_dim), with norm and rotation where the part has them."""
            split: Tensor = own[f"{part}_proj"](normed).unflatten(-1, (-1, head_dim))
            if f"{part}_norm" in own:
                split = own[f"{part}_norm"](split)
            split = split.transpose(1, 2)
            if part == "v":
                return split
            first, second = split.chunk(2, dim=-1)
            cos, sin = (factor[:, None] for factor in rotary)
            return split * cos + torch.cat((-second, first), dim=-1) * sin

        query, key, value = heads("q"), heads("k"), heads("v")
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        mask = seen
        if seen is not None:
            mask = seen[:, None, None] if seen.ndim == 2 else seen[:, None]
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = states + own["o_proj"](mixed.transpose(1, 2).flatten(-2))
        normed = self.post_attention_layernorm(states)
        gated = silu(mlp["gate_proj"](normed)) * mlp["up_proj"](normed)
        left: Tensor = states + mlp["down_proj"](gated)
        return left

    def products(self, tokens: int) -> list[Product]:
        """Its matrix products on so many tokens."""
        return [
            *[(tokens, self.queries, self.width)] * 2,  # queries and output
            *[(tokens, self.keys, self.width)] * 2,
            *[(tokens, tokens, self.queries)] * 2,
            *[(tokens, self.inner, self.width)] * 3,
        ]


class Sieve(nn.Module):
    """Refiner and score head: what the method has besides the decoder.

    Parameters
    ----------
    width : int
        Of embeddings, D.
    layers : sequence of RefinerLayer
        None of them: the head scores the embeddings themselves.
    inner : int, optional
        Width inside of the head, D by default.
    """

    def __init__(
        self, width: int, layers: tuple[RefinerLayer, ...] = (), inner: int | None = None
    ) -> None:
        super().__init__()
        self.width, self.inner = width, width if inner is None else inner
        self.layers = nn.ModuleList(layers)
        self.ln = nn.RMSNorm(width, eps=EPSILON)
        self.score_head = nn.Sequential(
            nn.Linear(width, self.inner), nn.SiLU(), nn.Linear(self.inner, 1)
        )

    @property
    def refiner(self) -> list[RefinerLayer]:
        """Its layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, RefinerLayer)]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], width: int) -> Sieve:
        """The one with these weights, which it uses as they are, behind embeddings of `width`.

        Raises
        ------
        KeyError, RuntimeError
            If a tensor is missing, left over or of another shape.
        """
        numbers = {int(name.split(".")[1]) for name in weights if name.startswith("layers.")}
        with torch.device("meta"):
            layers = tuple(
                layer_of(weights, f"layers.{number}.", width) for number in sorted(numbers)
            )
            made = cls(width, layers, len(weights["score_head.0.weight"]))
        made.load_state_dict(dict(weights), assign=True)
        return made.requires_grad_(False).eval()

    def forward(self, states: Tensor, rotary: Rotary, seen: Tensor | None = None) -> Tensor:
        """Refined states (B, S, D).

        Parameters
        ----------
        states : Tensor, shape (B, S, D)
            Embeddings of whole prompts.
        rotary : (Tensor, Tensor)
            Cosines and sines (B, S, head_dim) of their positions, as the decoder has them.
        seen : BoolTensor, shape (B, S) or (B, S, S), or None
            Tokens that others attend to, or those that each of them (row) attends to; None for all.
        """
        for layer in self.layers:
            states = layer(states, rotary, seen)
        return states

    def scores(self, states: Tensor) -> Tensor:
        """float32 Tensor (...,): of refined states (..., D); the highest stay."""
        found: Tensor = self.score_head(self.ln(states))
        return found[..., 0].float()

    def check(self, head_dim: int) -> None:
        """Refuse layers that do not consist of heads of this width.

        Raises
        ------
        ModelError
        """
        for layer in self.refiner:
            queries, keys = layer.queries, layer.keys
            if queries % head_dim or keys % head_dim or queries % keys:
                raise ModelError(
                    f"The refiner beside this model has projections of {queries} and {keys}, which "
                    f"are not multiples of the decoder's head width, {head_dim}: use weights that "
                    "were trained with it."
                )

    def products(self, tokens: int, candidates: int) -> list[Product]:
        """All matrix products on a prompt of so many tokens with so many candidates."""
        refined = [product for layer in self.refiner for product in layer.products(tokens)]
        return [*refined, (candidates, self.inner, self.width), (candidates, 1, self.inner)]


def layer_of(weights: Mapping[str, Tensor], prefix: str, width: int) -> RefinerLayer:
    """A layer of the shapes that weights have behind a prefix, with values of its own.

    Raises
    ------
    KeyError
        If one that tells a shape is missing.
    """
    attention = f"{prefix}self_attn."
    norm = weights.get(f"{attention}q_norm.weight")
    return RefinerLayer(
        width,
        len(weights[f"{attention}q_proj.weight"]),
        len(weights[f"{attention}k_proj.weight"]),
        len(weights[f"{prefix}mlp.gate_proj.weight"]),
        bias=f"{attention}q_proj.bias" in weights,
        normed=0 if norm is None else len(norm),
    )


@register_method("echoingpixels", ignores=WINDOWS)
class EchoingPixels(Method):
    """`echoingpixels`. Refiner and head lie in the checkpoint, whose decoder was trained with them.

    The question is seen before the LLM, so that questions share what the encoders give. Both
    targets form one budget. What everything keeps is refined all the same: the decoder knows
    nothing else.
    """

    shares = "encoders"
    draws = False
    needs_rotary = True
    refines = True
    weights_prefix = "av_refiner."
    published_prefixes = ("model.bidir_encoder.", "model.compressor.")
    weights_as_model = True
    entry_kind = "scored by the refiner"

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        self._sieve: Sieve | None = None

    def take_weights(self, weights: Mapping[str, Tensor], architecture: Architecture) -> None:
        """Those of `Sieve`."""
        self._sieve = Sieve.of(weights, architecture.hidden_size)
        self._sieve.check(architecture.head_dim)

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """The pool's budget, divided as the pool is; how it really is, the question decides."""
        video, audio = token_counts(architecture, sizes)
        total = video + audio
        count = pool_budget(self._wanted(video, audio), total)
        seen = round(count * video / total) if total else 0
        return seen, count - seen

    def _wanted(self, video: int, audio: int) -> float:
        return self.plan.retention_video * video + self.plan.retention_audio * audio

    @torch.no_grad()
    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Refine everything, and keep the highest scores."""
        video, audio, keep = prompt.video, prompt.audio, prompt.keep_all()
        if not video.size + audio.size and prompt.pictures is None:
            return Entry(keep)  # text alone is left as it is
        assert self._sieve is not None
        assert prompt.rotary is not None
        # 1. Every token sees every other, but for padding.
        padding = prompt.padding
        # (none of it gives no mask, which takes a faster kernel)
        seen = None if padding is None or not bool(padding.any()) else ~padding[None]
        states: Tensor = self._sieve(prompt.embeddings[None], prompt.rotary, seen)[0]
        # 2. One pool.
        pool = (video.mask | audio.mask).nonzero()[:, 0]
        budget = pool_budget(self._wanted(video.size, audio.size), len(pool))
        keep[pool] = keep_highest(self._sieve.scores(states[pool]), budget)
        # The refiner has run on the whole prompt, and the head on its candidates.
        return Entry(keep, states, comparison_flops(self._sieve.products(len(states), len(pool))))
