"""Supervision beside the answers: dense labels with throw-away heads, and taught attention.

To answer "What is heard while the red one is shown?" the word "red" must find the sound tokens
heard while red was on screen, and the end of the question must find that word. These matches are
slow to form from the answers alone: a thousand steps after everything else was learned the family
was still at chance. So the attention of one head for each hop is a loss of its own in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, rms_norm
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb

from seats_cli.world.clips import TinyClip
from seats_cli.world.drawing import shape_coverage
from seats_cli.world.vocabulary import (
    AUDIO_TOKENS_PER_SECOND,
    COLORS,
    IGNORE,
    MAX_BEEPS,
    MAX_SEGMENTS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SOUND_KINDS,
    SWEEPS,
)


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
    scores = torch.einsum("nd,npd->np", query[rows, 0, places], key[rows, 0])
    scores = (scores * attention.scaling).masked_fill(~mask[rows, 0, places], float("-inf"))
    found = scores.masked_fill(~right[seen], float("-inf")).logsumexp(dim=1)
    loss: torch.Tensor = (scores.logsumexp(dim=1) - found).mean()
    return loss


Hop = tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]


def word_to_sound(segment: torch.Tensor, lookup: torch.Tensor) -> Hop:
    """`asking` and `right` of the first hop: from a picture's name to the sound during it.

    Parameters
    ----------
    segment : int64 tensor, shape (B, P)
        Segment on screen at each sound token, `IGNORE` at other tokens.
    lookup : int64 tensor, shape (B, Q)
        Segment that a question token names, `IGNORE` at other tokens.
    """
    rows, places = (lookup != IGNORE).nonzero(as_tuple=True)
    right = segment[rows] == lookup[rows, places][:, None]
    nothing = torch.zeros(len(rows), lookup.shape[1], dtype=torch.bool)
    return (rows, places + segment.shape[1]), torch.cat([right, nothing], dim=1)


def end_to_word(
    prefix_length: int, lookup: torch.Tensor, number: torch.Tensor, target: torch.Tensor
) -> Hop:
    """`asking` and `right` of the second hop: from the end of a question to the picture's name.

    Parameters
    ----------
    lookup, number, target : int64 tensors, shape (B, Q)
        As in `TrainingBatch`.
    """
    rows, places = (lookup != IGNORE).nonzero(as_tuple=True)
    mine = number[rows] == number[rows, places][:, None]
    ends = ((target[rows] != IGNORE) & mine).int().argmax(dim=1)  # the first answer token
    right = torch.zeros(len(rows), prefix_length + lookup.shape[1], dtype=torch.bool)
    right[torch.arange(len(rows)), prefix_length + places] = True
    return (rows, prefix_length + ends), right


IntArray = npt.NDArray[np.int64]

CELL = 28  # pixels: one LLM token covers 2x2 patches of 14 pixels
_COVERED = 0.06  # a cell with less of the shape counts as empty

# Number of classes of every label. Encoder labels come from one token's own surroundings; context
# labels need what came before or the other modality, and are read in the middle of the LLM.
CARD_CLASS = len(SHAPES) + 1  # "shape" of a cell of a card
VIDEO_CLASSES = {"color": len(COLORS) + 1, "shape": CARD_CLASS + 1, "motion": len(MOTIONS) + 1}
AUDIO_CLASSES = {"kind": len(SOUND_KINDS), "pitch": len(PITCHES), "sweep": len(SWEEPS)}
VIDEO_CONTEXT_CLASSES = {"segment": MAX_SEGMENTS, "screen_color": len(COLORS)}
AUDIO_CONTEXT_CLASSES = {
    "segment": MAX_SEGMENTS,
    "screen_color": len(COLORS),
    "screen_shape": len(SHAPES),
    "beeps": MAX_BEEPS + 1,
    "segment_kind": len(SOUND_KINDS),
}


CLASSES: Mapping[str, Mapping[str, int]] = {
    "video": VIDEO_CLASSES,
    "audio": AUDIO_CLASSES,
    "video_context": VIDEO_CONTEXT_CLASSES,
    "audio_context": AUDIO_CONTEXT_CLASSES,
}


def audio_token_count(samples: int) -> int:
    """LLM tokens of a sound track: mel frames of 10 ms, strided by 2 twice."""
    frames = -(-samples // 160)
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def _screen_labels(clip: TinyClip, segments: IntArray) -> dict[str, IntArray]:
    """Labels of what is on screen by segment index (n,): `IGNORE` stays, cards have no shape."""
    assert clip.scene is not None
    shown = clip.scene.segments
    colors = np.array([COLORS.index(segment.color) for segment in shown])
    shapes = np.array(
        [SHAPES.index(segment.shape) if segment.shape else IGNORE for segment in shown]
    )
    known = segments != IGNORE
    safe = np.where(known, segments, 0)
    return {
        "segment": segments,
        "screen_color": np.where(known, colors[safe], IGNORE),
        "screen_shape": np.where(known, shapes[safe], IGNORE),
    }


def _video_labels(clip: TinyClip) -> tuple[dict[str, IntArray], dict[str, IntArray]]:
    scene, layout = clip.scene, clip.layout
    if scene is None:
        empty = np.zeros(0, dtype=np.int64)
        return dict.fromkeys(VIDEO_CLASSES, empty), dict.fromkeys(VIDEO_CONTEXT_CLASSES, empty)
    times = np.array(layout.frame_times)
    grids, rows, columns = len(times) // 2, layout.height // CELL, layout.width // CELL
    index = np.array([scene.segment_index(float(time)) for time in times]).reshape(grids, 2)
    pixels = shape_coverage(scene, times, layout.height, layout.width)
    covered = pixels.reshape(grids, 2, rows, CELL, columns, CELL).mean(axis=(1, 3, 5)) > _COVERED

    changes = index[:, 0] != index[:, 1]
    segment = np.where(changes, IGNORE, index[:, 1]).astype(np.int64)
    screen = _screen_labels(clip, segment)
    mixed = changes[:, None, None] & covered
    color = np.where(covered, screen["screen_color"][:, None, None] + 1, 0)
    if scene.style == "card":
        shape = np.full(covered.shape, CARD_CLASS)
        motion = np.zeros(covered.shape)
    else:
        shape = np.where(covered, screen["screen_shape"][:, None, None] + 1, 0)
        motion = np.where(covered, MOTIONS.index(scene.motion) + 1, 0)
    labels = {
        "color": np.where(mixed, IGNORE, color),
        "shape": np.where(mixed, IGNORE, shape),
        "motion": motion,
    }
    # "Pictures so far" is known from the second frame even where the picture changes in between.
    so_far = {"segment": index[:, 1], "screen_color": screen["screen_color"]}
    per_cell = {name: np.repeat(value, rows * columns) for name, value in so_far.items()}
    return {name: value.astype(np.int64).ravel() for name, value in labels.items()}, per_cell


def _segment_at(clip: TinyClip, times: np.ndarray) -> IntArray:
    """Segment on screen at the given times; `IGNORE` where the sampled frames leave it open."""
    assert clip.scene is not None
    frame_times = np.array(clip.layout.frame_times)
    shown = np.array([clip.scene.segment_index(float(time)) for time in frame_times])
    after = np.searchsorted(frame_times, times)
    before = np.clip(after - 1, 0, len(shown) - 1)
    after = np.clip(after, 0, len(shown) - 1)
    sure = (shown[before] == shown[after]) & (times <= clip.layout.duration + 0.2)
    return np.where(sure, shown[before], IGNORE).astype(np.int64)


def _kind_in_segment(clip: TinyClip, times: np.ndarray, kind: IntArray) -> IntArray:
    """Latest kind of sound since the picture last changed, "silence" (0) if there was none yet."""
    assert clip.scene is not None
    segment = np.array([clip.scene.segment_index(float(time)) for time in times], dtype=np.int64)
    sounding = np.where(kind > 0, np.arange(len(kind)), -1)
    latest = np.maximum.accumulate(sounding)
    same = (latest >= 0) & (segment[latest] == segment)
    return np.where(same, kind[latest], 0)


def _audio_labels(clip: TinyClip) -> tuple[dict[str, IntArray], dict[str, IntArray]]:
    count = audio_token_count(clip.layout.audio_samples) if clip.audio is not None else 0
    times = (np.arange(count) + 0.5) / AUDIO_TOKENS_PER_SECOND
    kind = np.zeros(count, dtype=np.int64)
    pitch, sweep = np.full(count, IGNORE), np.full(count, IGNORE)
    beeps = np.zeros(count, dtype=np.int64)
    for sound in clip.sounds:
        for start, end in sound.beeps or ((sound.start, sound.end),):
            now = (times >= start) & (times < max(end, start + 1 / AUDIO_TOKENS_PER_SECOND))
            kind[now] = SOUND_KINDS.index(sound.kind)
            if sound.pitch is not None:
                pitch[now] = PITCHES.index(sound.pitch)
            if sound.sweep is not None:
                sweep[now] = SWEEPS.index(sound.sweep)
        for _, end in sound.beeps:
            beeps += times >= end
    context = {"beeps": beeps}
    if clip.scene is not None:
        segment = _segment_at(clip, times)
        heard = _kind_in_segment(clip, times, kind)
        context |= _screen_labels(clip, segment)
        context["segment_kind"] = np.where(segment == IGNORE, IGNORE, heard)
    nothing = np.full(count, IGNORE, dtype=np.int64)
    context = {name: context.get(name, nothing) for name in AUDIO_CONTEXT_CLASSES}
    return {"kind": kind, "pitch": pitch, "sweep": sweep}, context


def dense_labels(clip: TinyClip) -> dict[str, dict[str, IntArray]]:
    """Labels of a clip by part and name, as in `CLASSES`.

    Arrays of shape (video tokens,), grid by grid and row by row, or (audio tokens,); `IGNORE` = no
    loss.
    """
    video, video_context = _video_labels(clip)
    audio, audio_context = _audio_labels(clip)
    return dict(zip(CLASSES, (video, audio, video_context, audio_context), strict=True))


# Labels whose class 0 fills most of the clip: their accuracy is stated on the rest.
_MOSTLY_ZERO = {("video", name) for name in VIDEO_CLASSES} | {("audio", "kind")}
# Empty cells, cards and silence are many and easy; at full weight they drown the shapes.
_DULL_WEIGHT = 0.15


def _class_weights(part: str, name: str, classes: int) -> torch.Tensor:
    """Weights (classes,) of a label's classes in its loss."""
    weights = torch.ones(classes)
    if (part, name) in _MOSTLY_ZERO:
        weights[0] = _DULL_WEIGHT
    if (part, name) == ("video", "shape"):
        weights[CARD_CLASS] = _DULL_WEIGHT
    return weights


class DenseHeads(nn.Module):
    """One linear read-out per label, of hidden states of `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                f"{part}_{name}": nn.Linear(width, classes)
                for part, names in CLASSES.items()
                for name, classes in names.items()
            }
        )

    def forward(
        self, part: str, hidden: torch.Tensor, labels: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss () and accuracies of one part of `CLASSES`.

        `hidden` is (..., width), each of the int64 labels (...). The accuracies are named
        "part.name" and left out where nothing is labelled.
        """
        states = rms_norm(hidden, hidden.shape[-1:])
        loss = hidden.new_zeros(())
        accuracy: dict[str, float] = {}
        for name in CLASSES[part]:
            truth = labels[name].flatten()
            known = truth != IGNORE
            if not bool(known.any()):
                continue
            scores = self.heads[f"{part}_{name}"](states.flatten(0, -2)[known])
            weights = _class_weights(part, name, scores.shape[-1])
            loss = loss + cross_entropy(scores, truth[known], weights)
            counted = weights[truth[known]] == 1.0
            if bool(counted.any()):
                right = scores.argmax(-1)[counted] == truth[known][counted]
                accuracy[f"{part}.{name}"] = right.float().mean().item()
        return loss, accuracy

    def named_sound(self, states: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Loss of reading, at words that name a picture, the sound heard during it.

        The read-out is that of the sound tokens themselves ("segment_kind"): the word is to fetch
        what they hold, as it is. `states` is (names, width), `kinds` int64 (names,).
        """
        if not len(kinds):
            return states.new_zeros(())
        normed = rms_norm(states, states.shape[-1:])
        return cross_entropy(self.heads["audio_context_segment_kind"](normed), kinds)
