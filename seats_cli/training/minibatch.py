"""Turn generated clips and questions into tensors for training.

All clips of a batch share a layout, so nothing is padded but the questions. The questions of a clip
follow one shared prefix (the clip); `packed_mask` lets each see the prefix and itself only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5OmniProcessor

from seats_cli.training.build import SECONDS_PER_CHUNK, SYSTEM_PROMPT
from seats_cli.training.dense import CLASSES, audio_token_count, dense_labels
from seats_cli.world.clip_questions import Question, every_question, sample_questions
from seats_cli.world.clips import TinyClip, make_clip
from seats_cli.world.layouts import Layout, LayoutMix, sample_layout
from seats_cli.world.vocabulary import AUDIO_TOKENS_PER_SECOND, IGNORE, SOUND_KINDS

_OTHER_SYSTEM_PROMPT = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)
_MEL_PADDING = 800  # samples; the extractor sees zeros after the sound, as with its own padding


@dataclass
class TrainingBatch:
    """B clips of one layout with their packed questions (Q tokens each, P before them)."""

    layout: Layout
    pixel_values: torch.Tensor | None  # float32 (B * patches, 1176)
    mel: torch.Tensor | None  # float32 (B, 128, frames)
    prefix_ids: torch.Tensor  # int64 (P,): everything up to the question; the same for all clips
    question_ids: torch.Tensor  # int64 (B, Q), as are the next five: questions with answers
    question_number: torch.Tensor  # running number from 1; -1 is padding
    position: torch.Tensor  # counted from the end of the prefix
    target: torch.Tensor  # next token, `IGNORE` outside of the answers
    # At words that name a picture: the index of its segment, and the kind of sound that was heard
    # during it; `IGNORE` elsewhere.
    lookup: torch.Tensor
    lookup_kind: torch.Tensor
    labels: dict[
        str, dict[str, torch.Tensor]
    ]  # by part and name as in `CLASSES`, int64 (B, tokens)
    questions: list[list[Question]]  # in packed order

    @property
    def size(self) -> int:
        """Number of clips."""
        return self.question_ids.shape[0]


def patches_of(frames: np.ndarray, processor: Qwen2_5OmniProcessor) -> torch.Tensor:
    """uint8 frames (B, T, H, W, 3) to normalised vision patches (B * T/2 * H/14 * W/14, 1176)."""
    video = processor.video_processor
    mean = torch.tensor(video.image_mean).view(1, 1, 3, 1, 1)
    spread = torch.tensor(video.image_std).view(1, 1, 3, 1, 1)
    pixels = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float()
    pixels = (pixels / 255.0 - mean) / spread
    patches: torch.Tensor = video.patchify(pixels, video.patch_size, video.merge_size, 2)[0]
    return patches.reshape(-1, patches.shape[-1])


def mel_of(audio: np.ndarray, processor: Qwen2_5OmniProcessor) -> torch.Tensor:
    """float32 sound (B, n) to log-mel features (B, 128, ceil(n / 160))."""
    extractor = processor.feature_extractor
    padded = np.pad(audio, ((0, 0), (0, _MEL_PADDING)))
    features: torch.Tensor = extractor(
        list(padded),
        sampling_rate=extractor.sampling_rate,
        padding="longest",
        truncation=False,
        return_tensors="pt",
    ).input_features
    frames = -(-audio.shape[1] // extractor.hop_length)
    return features[:, :, :frames]


def prefix_text(layout: Layout, processor: Qwen2_5OmniProcessor, system: str) -> str:
    """The prompt up to the question, placeholders interleaved by the real processor."""
    opening = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    tokens = audio_token_count(layout.audio_samples) if layout.audio_samples else 0
    if not layout.frame_times:
        bos, eos = processor.audio_bos_token, processor.audio_eos_token
        return f"{opening}{bos}{processor.audio_token * tokens}{eos}"
    grid = torch.tensor([layout.grid_thw])
    video = {"video_grid_thw": grid, "video_second_per_grid": [layout.seconds_per_grid]}
    if tokens:
        content = processor.replace_video_with_audio_token(
            video,
            0,
            {"num_audio_tokens": [tokens]},
            0,
            position_id_per_seconds=AUDIO_TOKENS_PER_SECOND,
            seconds_per_chunk=SECONDS_PER_CHUNK,
        )
    else:
        content = processor.video_token * (int(grid.prod()) // 4)
    return f"{opening}{processor.vision_bos_token}{content}{processor.vision_eos_token}"


def _name_tokens(tokenizer: Any, question: Question, asked: list[int]) -> list[int]:
    """Index of the picture at the token that names it, `IGNORE` at all others."""
    line = [IGNORE] * len(asked)
    for name in question.names:
        token = tokenizer.encode(f" {name}")
        if question.picture is not None and len(token) == 1 and token[0] in asked:
            line[asked.index(token[0])] = question.picture
    return line


# What a row of questions consists of, and what it is padded with.
_PADDING = {
    "question_ids": 0,
    "question_number": -1,
    "position": 0,
    "target": IGNORE,
    "lookup": IGNORE,
    "lookup_kind": IGNORE,
}


def _packed(
    processor: Qwen2_5OmniProcessor, rows: Sequence[Sequence[Question]]
) -> dict[str, torch.Tensor]:
    """The fields of `TrainingBatch` that are (B, Q)."""
    tokenizer = processor.tokenizer
    closing = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    packed: dict[str, list[list[int]]] = {name: [[] for _ in rows] for name in _PADDING}
    for row, questions in enumerate(rows):
        for number, question in enumerate(questions, start=1):
            asked = tokenizer.encode(question.text) + closing
            answer = [*tokenizer.encode(question.answer), end]
            named = _name_tokens(tokenizer, question, asked) + [IGNORE] * (len(answer) - 1)
            packed["question_ids"][row] += asked + answer[:-1]
            packed["question_number"][row] += [number] * len(named)
            packed["position"][row] += range(len(named))
            packed["target"][row] += [IGNORE] * (len(asked) - 1) + answer
            packed["lookup"][row] += named
            packed["lookup_kind"][row] += [
                IGNORE if picture == IGNORE else SOUND_KINDS.index(question.answer)
                for picture in named
            ]
    longest = max(map(len, packed["question_ids"]))
    return {
        name: torch.tensor([line + [fill] * (longest - len(line)) for line in packed[name]])
        for name, fill in _PADDING.items()
    }


def assemble(
    clips: Sequence[TinyClip],
    rows: Sequence[Sequence[Question]],
    processor: Qwen2_5OmniProcessor,
    *,
    system: str = SYSTEM_PROMPT,
) -> TrainingBatch:
    """Tensors for clips of one layout and the questions about each of them."""
    layout = clips[0].layout
    frames = [clip.frames for clip in clips if clip.frames is not None]
    audio = [clip.audio for clip in clips if clip.audio is not None]
    truths = [dense_labels(clip) for clip in clips]
    labels = {
        part: {
            name: torch.from_numpy(np.stack([truth[part][name] for truth in truths]))
            for name in names
        }
        for part, names in CLASSES.items()
    }
    return TrainingBatch(
        layout=layout,
        pixel_values=patches_of(np.stack(frames), processor) if frames else None,
        mel=mel_of(np.stack(audio), processor) if audio else None,
        prefix_ids=torch.tensor(processor.tokenizer.encode(prefix_text(layout, processor, system))),
        **_packed(processor, rows),
        labels=labels,
        questions=[list(row) for row in rows],
    )


def training_batch(
    rng: np.random.Generator,
    processor: Qwen2_5OmniProcessor,
    *,
    seconds: float,
    questions: int,
    weights: Mapping[str, float],
    mix: LayoutMix,
) -> TrainingBatch:
    """A batch of about `seconds` of clips (3 to 24 of them), `questions` about each."""
    layout = sample_layout(rng, mix)
    count = int(np.clip(round(seconds / layout.duration), 3, 24))
    clips = [make_clip(rng, layout) for _ in range(count)]
    rows = [sample_questions(rng, clip, questions, weights) for clip in clips]
    system = _OTHER_SYSTEM_PROMPT if rng.random() < 0.08 else SYSTEM_PROMPT
    return assemble(clips, rows, processor, system=system)


def evaluation_batch(
    rng: np.random.Generator, processor: Qwen2_5OmniProcessor, layout: Layout, clips: int
) -> TrainingBatch:
    """A batch with one question of every family that each clip allows."""
    drawn = [make_clip(rng, layout) for _ in range(clips)]
    return assemble(drawn, [every_question(rng, clip) for clip in drawn], processor)
