"""The packed forward pass of training: clip once, all its questions behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb

from seats_cli.models.patching import use_attention
from seats_cli.training.build import confirming_layers, lookup_layers
from seats_cli.training.dense import COUNTS_SO_FAR, NAMES
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.world.vocabulary import IGNORE

# A Qwen2_5OmniThinkerForConditionalGeneration; transformers is not followed by the type checker.
Thinker: TypeAlias = Any


@dataclass(frozen=True)
class Thinning:
    """What is withheld from the LLM, to make it tolerate pruning."""

    video_drop: float = 0.0  # share of tokens left out at random before the LLM, 0..1
    audio_drop: float = 0.0
    keep_evidence: bool = False  # leave out none of the tokens that answers are read from
    cut_layer: int | None = None  # layers from this index (0-based) on see no video or audio


@dataclass
class Hops:
    """The steps from a question's last name to its answer, each with what it should give."""

    lookup: torch.Tensor  # (): loss of the taught heads (`attention_loss`)
    fetched: torch.Tensor  # (n, width): states of the names, one layer after they looked
    # What they looked at, where all of it is alike: (n,) by part and name as in `NAMES`.
    found: dict[str, dict[str, torch.Tensor]]
    told: torch.Tensor  # (n, width): states of the names where the question's end looks at them
    told_answers: torch.Tensor  # (n,): first token of the answer, or `IGNORE`
    relayed: torch.Tensor  # (m, width): states before an answer's items, after they looked
    relayed_answers: torch.Tensor  # (m,): first token of the item


@dataclass
class PackedOutput:
    """Encoder outputs, mid-LLM states with their labels, and answer logits."""

    video: torch.Tensor | None  # projected embeddings (B, tokens, width)
    audio: torch.Tensor | None
    middle: torch.Tensor  # (B, P, width): states of the whole prefix before the first lookup
    # Its labels (B, P) by part and name as in `CLASSES`, `IGNORE` at other tokens than the part's.
    labels: dict[str, dict[str, torch.Tensor]]
    logits: torch.Tensor  # (answer tokens, vocabulary), in the order of `target[target != IGNORE]`
    hops: Hops | None  # what is taught on the way to the answer; None in eval mode


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
    them, while one call with the whole mask computes them: it takes 1.2 to 1.6 times as long. In
    bfloat16 plain products take half the time of torch's fused CPU kernel, whose backward pass
    gains nothing from it; they need memory for all pairs.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    half = torch.is_autocast_enabled("cpu") and key.shape[2] <= _MOST_PAIRED
    if half:
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    seen, asking = query[:, :, :prefix_length], query[:, :, prefix_length:]
    before = key[:, :, :prefix_length], value[:, :, :prefix_length]
    mask = attention_mask[:, :, prefix_length:]
    if half:
        past = attention_mask[:1, :, :prefix_length, :prefix_length]  # the same in all clips
        parts = [
            _plain_attention(seen, *before, past, scaling),
            _plain_attention(asking, key, value, mask, scaling),
        ]
    else:
        parts = [
            scaled_dot_product_attention(seen, *before, is_causal=True, scale=scaling),
            scaled_dot_product_attention(asking, key, value, attn_mask=mask, scale=scaling),
        ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


_MOST_PAIRED = 1600  # tokens: with more, all pairs take too much memory


def _plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Softmax of all pairs, then their values; arguments as of torch's fused attention."""
    bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    scores = (query * scaling) @ key.transpose(2, 3) + bias
    return scores.softmax(dim=-1, dtype=query.dtype) @ value


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


def attention_loss(
    layer: Any,
    states: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
    asking: tuple[torch.Tensor, torch.Tensor],
    right: torch.Tensor,
    head: int,
) -> torch.Tensor:
    """Mean of -log(attention of one of a layer's heads on the right tokens).

    Parameters
    ----------
    states : float tensor, shape (B, N, width)
        The layer's input.
    rotary : pair of float tensors, shape (B, N, head_dim)
        Cosine and sine of the positions.
    mask : bool tensor, shape (B, 1, N, N)
        Which token (row) may attend to which.
    asking : pair of int64 tensors, shape (n,)
        Row and place of the tokens whose attention is taught.
    right : bool tensor, shape (n, N)
        What each of them is to look at; a token with nothing to look at is left out.
    head : int
        Index of the query head.
    """
    seen = right.any(dim=1)
    if not bool(seen.any()):
        return states.new_zeros(())
    rows, places = asking[0][seen], asking[1][seen]
    attention = layer.self_attn
    normed = layer.input_layernorm(states)
    width = attention.head_dim
    # Only this head's rows of the projections; several query heads share one key head.
    sharing = attention.q_proj.out_features // attention.k_proj.out_features
    of_query = slice(head * width, (head + 1) * width)
    of_key = slice(head // sharing * width, (head // sharing + 1) * width)
    query = linear(normed, attention.q_proj.weight[of_query], attention.q_proj.bias[of_query])
    key = linear(normed, attention.k_proj.weight[of_key], attention.k_proj.bias[of_key])
    query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *rotary)
    scores = torch.einsum("nd,npd->np", query[rows, 0, places], key[rows, 0]).float()
    scores = (scores * attention.scaling).masked_fill(~mask[rows, 0, places], float("-inf"))
    found = scores.masked_fill(~right[seen], float("-inf")).logsumexp(dim=1)
    loss: torch.Tensor = (scores.logsumexp(dim=1) - found).mean()
    return loss


def _first_answers(batch: TrainingBatch, ends: torch.Tensor) -> torch.Tensor:
    """First token of every question's answer, (B, most questions + 1), by running number."""
    rows, places = ends.nonzero(as_tuple=True)
    first = torch.full((batch.size, int(batch.question_number.max()) + 1), IGNORE)
    # Backwards, so that the first of a question's items is written last.
    rows, places = rows.flip(0), places.flip(0)
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        first[row, batch.question_number[row, place]] = batch.target[row, place]
    return first


def _rows_of_evidence(
    batch: TrainingBatch, kept: torch.Tensor, row: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Tokens (rows, places in `question_ids`) with a row of evidence, and that row (n, p)."""
    rows, places = (row >= 0).nonzero(as_tuple=True)
    evidence = batch.evidence[rows, row[rows, places]].gather(1, kept[rows])
    return (rows, places), evidence


def _looked_up(
    batch: TrainingBatch, kept: torch.Tensor, rows: torch.Tensor, names: torch.Tensor
) -> torch.Tensor:
    """What names of a question look at (n, p), where `names` (n, Q) are those in its `rows`."""
    row = batch.looks[rows].masked_fill(~names, -1).max(dim=1)[0]
    looked = batch.evidence[rows, row.clamp(min=0)].gather(1, kept[rows])
    return looked & (row >= 0)[:, None]


def _labels_of_found(
    labels: dict[str, dict[str, torch.Tensor]], rows: torch.Tensor, found: torch.Tensor
) -> dict[str, dict[str, torch.Tensor]]:
    """What all found tokens (n, p) that show anything have in common, by part and name.

    Counts are left out: no name stands for one.

    Labels are (B, p); `rows` (n,) says in which of the B the tokens are.
    """
    common: dict[str, dict[str, torch.Tensor]] = {}
    for part, names in NAMES.items():
        for name in names:
            label = labels[part][name][rows]
            shown = found & (label > 0)
            most = torch.where(shown, label, 0).max(dim=1)[0]
            least = torch.where(shown, label, 1 << 20).min(dim=1)[0]
            shared = (most == least) & (name not in COUNTS_SO_FAR)
            common.setdefault(part, {})[name] = torch.where(shared, most, IGNORE)
    return common


def packed_forward(model: Thinker, batch: TrainingBatch, *, thinning: Thinning) -> PackedOutput:
    """Run encoders and LLM on a packed batch."""
    config = model.config
    language = model.model.language_model

    # 1. The prefix (the clip and the words before it), as `generate` would see it.
    video, audio = encode(model, batch)
    ids, size = batch.prefix_ids, batch.size
    prefix = language.embed_tokens(ids).expand(size, -1, -1).clone()
    if video is not None:
        prefix[:, ids == config.video_token_id] = video.to(prefix.dtype)
    if audio is not None:
        prefix[:, ids == config.audio_token_id] = audio.to(prefix.dtype)
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
    cut = layer_count if thinning.cut_layer is None else thinning.cut_layer
    naming, ending = (min(layer, cut) for layer in lookup_layers(model))
    states = run_layers(language, states, positions, mask, range(naming), prefix_length)
    middle = states[:, :prefix_length]

    # 5. Layers in which a name fetches what it stands for, the question's end the answer, and looks
    #    where it is from.
    behind = confirming_layers(model).stop
    read = min(behind, cut)
    hops = None
    if model.training and read == behind:  # the late layers begin behind all lookups
        stops = (naming, naming + 1, *range(ending, behind + 1))
        at = [states]
        for start, stop in pairwise(stops):
            at.append(
                run_layers(language, at[-1], positions, mask, range(start, stop), prefix_length)
            )
        states = at[-1]
        hops = _hops(model, batch, at, positions, mask, kept, labels)
    else:
        states = run_layers(language, states, positions, mask, range(naming, read), prefix_length)

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
    return PackedOutput(video, audio, middle, labels, logits, hops)


def _hops(
    model: Thinker,
    batch: TrainingBatch,
    at: Sequence[torch.Tensor],
    positions: torch.Tensor,
    mask: torch.Tensor,
    kept: torch.Tensor,
    labels: dict[str, dict[str, torch.Tensor]],
) -> Hops:
    """Collect what is taught, from the states before and after each of the lookups."""
    language = model.model.language_model
    rotary = language.rotary_emb(at[0], positions)
    length, asked = kept.shape[1], batch.question_ids.shape[1]
    naming, ending = lookup_layers(model)
    heads = model.config.text_config.num_attention_heads
    (rows, places), found = _rows_of_evidence(batch, kept, batch.looks)
    (end_rows, end_places), read = _rows_of_evidence(batch, kept, batch.reads)

    # 1. Names look at what they stand for; the tokens before an answer's items at the name, or
    #    where the question names nothing at what the item is read from, and then, with the answer
    #    in mind, at all that it rests on. All heads do, so that all of what they see comes along.
    same = batch.question_number[end_rows] == batch.question_number[end_rows, end_places][:, None]
    names = same & (batch.looks[end_rows] >= 0)
    unnamed = read & ~names.any(dim=1, keepdim=True)
    rests = read | _looked_up(batch, kept, end_rows, names)
    nobody, nothing = (torch.zeros(len(n), asked, dtype=torch.bool) for n in (rows, end_rows))
    ends = (end_rows, end_places + length)
    confirming = confirming_layers(model)
    lookups = [
        (naming, at[0], (rows, places + length), torch.cat([found, nobody], dim=1), 1.0),
        (ending, at[2], ends, torch.cat([unnamed, names], dim=1), 1.0),
    ]
    for layer, before in zip(confirming, at[3:], strict=False):
        share = 1.0 / len(confirming)
        lookups.append((layer, before, ends, torch.cat([rests, nothing], dim=1), share))
    lookup = at[0].new_zeros(())
    for layer, before, asking, right, weight in lookups:
        for head in range(heads):
            attention = language.layers[layer]
            loss = attention_loss(attention, before, rotary, mask, asking, right, head)
            lookup = lookup + weight * loss / heads

    # 2. What they found, and the answer, as far as it has come.
    first = _first_answers(batch, batch.reads >= 0)
    return Hops(
        lookup=lookup,
        fetched=at[1][rows, places + length],
        found=_labels_of_found(labels, rows, found),
        told=at[2][rows, places + length],
        told_answers=first[rows, batch.question_number[rows, places]],
        relayed=at[4][end_rows, end_places + length],
        relayed_answers=batch.target[end_rows, end_places],
    )


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
