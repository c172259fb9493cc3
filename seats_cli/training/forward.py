"""The packed forward pass of training: clip once, all its questions behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention

from seats_cli.models.patching import use_attention
from seats_cli.training.dense import attention_loss
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.world.vocabulary import IGNORE

# A Qwen2_5OmniThinkerForConditionalGeneration; transformers is not followed by the type checker.
Thinker: TypeAlias = Any

_LOOKUP_LAYERS = 2  # layers from the middle in which a word fetches what it names
# The heads that are taught to look: a name at what it stands for, a question's end at the names and
# at the evidence. The first two of four share keys, and so do the last two.
_NAME_HEAD, _END_NAME_HEAD, _END_EVIDENCE_HEAD = 0, -1, 1


@dataclass(frozen=True)
class Thinning:
    """What is withheld from the LLM, to make it tolerate pruning."""

    video_drop: float = 0.0  # share of tokens left out at random before the LLM, 0..1
    audio_drop: float = 0.0
    keep_evidence: bool = False  # leave out none of the tokens that answers are read from
    cut_layer: int | None = None  # layers from this index (0-based) on see no video or audio


@dataclass
class PackedOutput:
    """Encoder outputs, mid-LLM states with their labels, and answer logits."""

    video: torch.Tensor | None  # projected embeddings (B, tokens, width)
    audio: torch.Tensor | None
    middle: torch.Tensor  # (B, P, width): states of the whole prefix after `middle_layer` layers
    # Its labels (B, P) by part and name as in `CLASSES`, `IGNORE` at other tokens than the part's.
    labels: dict[str, dict[str, torch.Tensor]]
    logits: torch.Tensor  # (answer tokens, vocabulary), in the order of `target[target != IGNORE]`
    lookup: torch.Tensor  # (): loss of the taught heads (`attention_loss`), 0 in eval mode


def encode(model: Thinker, batch: TrainingBatch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Projected video and audio embeddings, each (B, tokens, width) or None."""
    video = audio = None
    size = batch.size
    if batch.pixel_values is not None:
        grid = torch.tensor([batch.layout.grid_thw] * size)
        video = model.model.visual(batch.pixel_values, grid_thw=grid).pooler_output
        video = video.view(size, -1, video.shape[-1])
    if batch.mel is not None:
        frames = batch.mel.shape[2]
        flat = batch.mel.permute(1, 0, 2).reshape(batch.mel.shape[1], -1)
        audio = model.model.audio_tower(
            flat, feature_lens=torch.full((size,), frames)
        ).last_hidden_state
        audio = audio.view(size, -1, audio.shape[-1])
    return video, audio


def prefix_positions(model: Thinker, batch: TrainingBatch) -> torch.Tensor:
    """M-RoPE positions (3, P) of the prefix, from the model's own rule."""
    ids = batch.prefix_ids[None]
    layout = batch.layout
    if batch.pixel_values is None:
        return torch.arange(ids.shape[1]).expand(3, -1)
    positions: torch.Tensor = model.model.get_rope_index(
        ids,
        None,
        torch.tensor([layout.grid_thw]),
        torch.ones_like(ids),
        batch.mel is not None,
        None if batch.mel is None else torch.tensor([batch.mel.shape[2]]),
        torch.tensor([layout.seconds_per_grid]),
    )[0]
    return positions[:, 0]


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    prefix_length: int,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention under `packed_mask`, with the signature of transformers' `AttentionInterface`.

    Half of the pairs within a prefix are masked, and most pairs lie there. A causal call skips
    them, while one call with the whole mask computes them: it takes 1.2 to 1.6 times as long.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    seen, asking = query[:, :, :prefix_length], query[:, :, prefix_length:]
    before = key[:, :, :prefix_length], value[:, :, :prefix_length]
    mask = attention_mask[:, :, prefix_length:]
    parts = [
        scaled_dot_product_attention(seen, *before, is_causal=True, scale=scaling),
        scaled_dot_product_attention(asking, key, value, attn_mask=mask, scale=scaling),
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def run_layers(
    language: Any,
    states: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    layers: range,
    prefix_length: int,
) -> torch.Tensor:
    """States (B, N, width) behind some of the decoder's layers, under `packed_mask`."""
    rotary = language.rotary_emb(states, positions)
    with use_attention([language], "seats_packed", packed_attention):
        for index in layers:
            states = language.layers[index](
                states,
                attention_mask=mask,
                position_embeddings=rotary,
                prefix_length=prefix_length,
            )
    return states


def packed_mask(number: torch.Tensor) -> torch.Tensor:
    """Which tokens attend to which (B, 1, N, N): the past of the prefix (0) and of one question."""
    length = number.shape[1]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (number[:, None, :] == 0) | (number[:, None, :] == number[:, :, None])
    return (past & visible)[:, None]


def _random_keep(ids: torch.Tensor, token: int, drop: float, wanted: torch.Tensor) -> torch.Tensor:
    """Sorted places of a random share of the tokens with this id, (B, kept).

    `wanted`, bool (B, P), are kept before others, and all of them if that is not too many.
    """
    places = (ids == token).nonzero()[:, 0]
    needed = wanted[:, places]
    count = max(min(2, len(places)), round(len(places) * (1 - drop)))
    most = int(needed.sum(dim=1).max()) if len(places) else 0
    count = min(max(count, most), len(places))
    order = (torch.rand(needed.shape) - needed.float()).argsort(dim=1)[:, :count]
    return places[order]


def _taught_attention(
    batch: TrainingBatch, kept: torch.Tensor
) -> dict[str, tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """`asking` and `right` of `attention_loss` by hop; `kept` (B, p) is left of the prefix."""
    length, asked = kept.shape[1], batch.question_ids.shape[1]
    evidence = batch.evidence.gather(2, kept[:, None].expand(-1, batch.evidence.shape[1], -1))
    index = (batch.question_number - 1).clamp(min=0)
    of_token = evidence.gather(1, index[..., None].expand(-1, -1, length))  # (B, Q, p)
    no_question = torch.zeros(batch.size, asked, asked, dtype=torch.bool)
    answered = batch.target != IGNORE
    # The last token of the question: the first that is followed by a part of the answer.
    before = torch.cat([torch.zeros_like(answered[:, :1]), answered[:, :-1]], dim=1)
    ends = answered & ~before
    same = batch.question_number[:, :, None] == batch.question_number[:, None]
    names = same & batch.named.bool()[:, None]
    found = torch.cat([of_token, no_question], dim=2)
    named = torch.cat([torch.zeros_like(of_token), names], dim=2)
    hops = {}
    for name, asking, right in (
        ("name", batch.named.bool(), found),
        ("end_name", ends, named),
        ("end_evidence", ends, found),
    ):
        rows, places = asking.nonzero(as_tuple=True)
        hops[name] = ((rows, places + length), right[rows, places])
    return hops


def packed_forward(
    model: Thinker, batch: TrainingBatch, *, thinning: Thinning, middle_layer: int
) -> PackedOutput:
    """Run encoders and LLM on a packed batch; context heads read after `middle_layer` layers."""
    config = model.config
    language = model.model.language_model

    # 1. The prefix (the clip and the words before it), as `generate` would see it.
    video, audio = encode(model, batch)
    ids, size = batch.prefix_ids, batch.size
    prefix = language.embed_tokens(ids).expand(size, -1, -1).clone()
    if video is not None:
        prefix[:, ids == config.video_token_id] = video
    if audio is not None:
        prefix[:, ids == config.audio_token_id] = audio
    prefix_position = prefix_positions(model, batch)
    next_position = int(prefix_position.max()) + 1

    # 2. What thinning leaves of it; survivors keep their positions, as in a pruned prefill.
    is_text = (ids != config.video_token_id) & (ids != config.audio_token_id)
    wanted = batch.evidence.any(dim=1) & thinning.keep_evidence
    kept = torch.cat(
        [
            is_text.nonzero()[:, 0].expand(size, -1),
            _random_keep(ids, config.video_token_id, thinning.video_drop, wanted),
            _random_keep(ids, config.audio_token_id, thinning.audio_drop, wanted),
        ],
        dim=1,
    ).sort(dim=1)[0]
    tokens = {"video": config.video_token_id, "audio": config.audio_token_id}
    labels = {
        part: _prefix_labels(batch, part, tokens[part.removesuffix("_context")], kept)
        for part in batch.labels
    }
    prefix = prefix.gather(1, kept[..., None].expand(-1, -1, prefix.shape[-1]))
    prefix_length = kept.shape[1]

    # 3. All questions behind it: each begins at the position after the prefix.
    states = torch.cat([prefix, language.embed_tokens(batch.question_ids)], dim=1)
    question_position = (batch.position + next_position).expand(3, -1, -1)
    positions = torch.cat([prefix_position[:, kept], question_position], dim=2)
    number = torch.cat([torch.zeros_like(kept), batch.question_number], dim=1)
    mask = packed_mask(number)

    # 4. The first layers, after which the context heads read.
    layer_count = len(language.layers)
    states = run_layers(language, states, positions, mask, range(middle_layer), prefix_length)
    middle = states[:, :prefix_length]

    # 5. Layers in which a name fetches what it stands for, and the question's end the answer.
    cut = layer_count if thinning.cut_layer is None else thinning.cut_layer
    read = min(middle_layer + _LOOKUP_LAYERS, cut)
    before = states
    states = run_layers(language, states, positions, mask, range(middle_layer, read), prefix_length)
    lookup = states.new_zeros(())
    if model.training and read < cut:
        rotary = language.rotary_emb(states, positions)
        hops = _taught_attention(batch, kept)
        heads = config.text_config.num_attention_heads
        for hop, layer, seen, head in (
            ("name", middle_layer, before, _NAME_HEAD),
            ("end_name", read, states, _END_NAME_HEAD),
            ("end_evidence", read, states, _END_EVIDENCE_HEAD),
        ):
            asking, right = hops[hop]
            lookup = lookup + attention_loss(
                language.layers[layer], seen, rotary, mask, asking, right, head % heads
            )

    # 6. The rest; from `cut` on without the clip, as in the late block.
    states = run_layers(language, states, positions, mask, range(read, cut), prefix_length)
    if cut < layer_count:
        # No token attends to the clip any more, so its own states need not be computed either.
        text = is_text[kept]
        stays = torch.cat([text, torch.ones_like(batch.question_ids, dtype=torch.bool)], dim=1)
        places = stays.nonzero()[:, 1].view(size, -1)
        states = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
        positions = positions.gather(2, places.expand(3, -1, -1))
        mask = packed_mask(number.gather(1, places))
        prefix_length = int(text[0].sum())
        states = run_layers(
            language, states, positions, mask, range(cut, layer_count), prefix_length
        )
    answers = states[:, prefix_length:][batch.target != IGNORE]
    logits = model.lm_head(language.norm(answers))
    return PackedOutput(video, audio, middle, labels, logits, lookup)


def _prefix_labels(
    batch: TrainingBatch, part: str, token: int, kept: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One part's labels at the kept places of the prefix: (B, kept), `IGNORE` at other tokens."""
    spread: dict[str, torch.Tensor] = {}
    for name, labels in batch.labels[part].items():
        line = torch.full((batch.size, len(batch.prefix_ids)), IGNORE)
        line[:, batch.prefix_ids == token] = labels
        spread[name] = line.gather(1, kept)
    return spread
