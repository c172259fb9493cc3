"""Turn generated clips and questions into tensors for training.

All clips of a batch share a layout, so nothing is padded but the questions. The questions of a clip
follow one shared prefix (the clip); `packed_mask` lets each see the prefix and itself only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5OmniProcessor

from seats_cli.training.build import SECONDS_PER_CHUNK, SYSTEM_PROMPT
from seats_cli.training.dense import (
    CLASSES,
    audio_token_count,
    dense_labels,
    evidence_tokens,
    looked_for,
    read_from,
)
from seats_cli.training.drills import drill_layout, drill_script
from seats_cli.world.clips import WorldClip, draft_script, render_script
from seats_cli.world.layouts import Layout, sample_wide_layout
from seats_cli.world.lettering import TRAINING_FONTS
from seats_cli.world.links import Question, every_question, sample_questions
from seats_cli.world.truths import Evidence
from seats_cli.world.vocabulary import AUDIO_TOKENS_PER_SECOND, IGNORE
from seats_cli.world.voices import TRAINING_VOICES

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
    question_ids: torch.Tensor  # int64 (B, Q), as are the next four: questions with answers
    question_number: torch.Tensor  # running number from 1; -1 is padding
    position: torch.Tensor  # counted from the end of the prefix
    target: torch.Tensor  # next token, `IGNORE` outside of the answers
    looks: torch.Tensor  # row of `evidence` that the last named word is to look at, else -1
    reads: torch.Tensor  # and that the token before an item of the answer is to read, else -1
    # bool (B, rows, P): parts of the prefix; all False for what is nowhere in particular.
    evidence: torch.Tensor
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


def _name_token(tokenizer: Any, question: Question, asked: Sequence[int]) -> int | None:
    """Index of the token at which all that a question names is said; None where it names nothing.

    Before it, "red" in "the red square" may be one of several.
    """
    last = None
    for name in question.names:
        word = tokenizer.encode(f" {name}")
        for start in range(len(asked) - len(word) + 1):
            if list(asked[start : start + len(word)]) == word:
                # The last token of a word has seen the whole word.
                last = max(last or 0, start + len(word) - 1)
                break
    return last


def _item_tokens(tokenizer: Any, answer: Sequence[int]) -> list[int]:
    """Indices of the tokens of an answer at which its items begin."""
    (comma,) = tokenizer.encode(",")
    return [0, *(index + 1 for index, token in enumerate(answer) if token == comma)]


# What a row of questions consists of, and what it is padded with.
_PADDING = {
    "question_ids": 0,
    "question_number": -1,
    "position": 0,
    "target": IGNORE,
    "looks": -1,
    "reads": -1,
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
        place = 0  # of the question in `evidence`
        for number, question in enumerate(questions, start=1):
            asked = tokenizer.encode(question.text) + closing
            answer = [*tokenizer.encode(question.answer), end]
            looks, reads = ([-1] * (len(asked) + len(answer) - 1) for _ in range(2))
            name = _name_token(tokenizer, question, asked)
            if name is not None:
                looks[name] = place
            for item, start in enumerate(_item_tokens(tokenizer, answer), start=1):
                reads[len(asked) - 1 + start] = place + item
            place += 1 + len(read_from(question))
            packed["question_ids"][row] += asked + answer[:-1]
            packed["question_number"][row] += [number] * len(looks)
            packed["position"][row] += range(len(looks))
            packed["target"][row] += [IGNORE] * (len(asked) - 1) + answer
            packed["looks"][row] += looks
            packed["reads"][row] += reads
    longest = max(map(len, packed["question_ids"]))
    return {
        name: torch.tensor([line + [fill] * (longest - len(line)) for line in packed[name]])
        for name, fill in _PADDING.items()
    }


_EVERYWHERE = 0.75  # of a modality's tokens: evidence that is as wide as this points nowhere


def _evidence(
    clips: Sequence[WorldClip],
    rows: Sequence[Sequence[Question]],
    processor: Qwen2_5OmniProcessor,
    prefix: torch.Tensor,
) -> torch.Tensor:
    """The field of `TrainingBatch`."""
    token = processor.tokenizer.convert_tokens_to_ids
    places = [prefix == token(name) for name in (processor.video_token, processor.audio_token)]
    wanted = [
        [part for question in questions for part in _looked_for_and_read(question)]
        for questions in rows
    ]
    evidence = torch.zeros(len(rows), max(map(len, wanted)), len(prefix), dtype=torch.bool)
    for row, (clip, parts) in enumerate(zip(clips, wanted, strict=True)):
        for number, part in enumerate(parts):
            found = evidence_tokens(clip.script, part)
            for place, tokens in zip(places, found, strict=True):
                if len(tokens) and tokens.mean() <= _EVERYWHERE:
                    evidence[row, number, place] = torch.from_numpy(tokens)
    return evidence


def _looked_for_and_read(question: Question) -> list[list[Evidence]]:
    """The rows of `TrainingBatch.evidence` that belong to a question."""
    return [looked_for(question.evidence), *read_from(question)]


def assemble(
    clips: Sequence[WorldClip],
    rows: Sequence[Sequence[Question]],
    processor: Qwen2_5OmniProcessor,
    *,
    system: str = SYSTEM_PROMPT,
) -> TrainingBatch:
    """Tensors for clips of one layout and the questions about each of them."""
    layout = clips[0].layout
    frames = [clip.frames for clip in clips if clip.frames is not None]
    audio = [clip.audio for clip in clips if clip.audio is not None]
    truths = [dense_labels(clip.script) for clip in clips]
    labels = {
        part: {
            name: torch.from_numpy(np.stack([truth[part][name] for truth in truths]))
            for name in names
        }
        for part, names in CLASSES.items()
    }
    prefix = torch.tensor(processor.tokenizer.encode(prefix_text(layout, processor, system)))
    return TrainingBatch(
        layout=layout,
        pixel_values=patches_of(np.stack(frames), processor) if frames else None,
        mel=mel_of(np.stack(audio), processor) if audio else None,
        prefix_ids=prefix,
        **_packed(processor, rows),
        evidence=_evidence(clips, rows, processor, prefix),
        labels=labels,
        questions=[list(row) for row in rows],
    )


def training_batch(
    rng: np.random.Generator,
    processor: Qwen2_5OmniProcessor,
    *,
    tokens: int,
    questions: int,
    level: float,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> TrainingBatch:
    """A batch of clips with about `tokens` of picture and sound, `questions` about each.

    Clips have at most half of the tokens each, so that there are two or more (at most 16).
    """
    layout = sample_wide_layout(rng, level, max_tokens=tokens // 2)
    count = int(np.clip(round(tokens / token_count(layout)), 2, 16))
    clips = [render_script(draft_script(rng, layout, level)) for _ in range(count)]
    rows = [sample_questions(rng, clip.script, questions, weights) for clip in clips]
    system = _OTHER_SYSTEM_PROMPT if rng.random() < 0.08 else SYSTEM_PROMPT
    return assemble(clips, rows, processor, system=system)


def long_batch(
    rng: np.random.Generator,
    processor: Qwen2_5OmniProcessor,
    *,
    tokens: tuple[int, int],
    questions: int,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> TrainingBatch:
    """One clip at full difficulty with a number of tokens in the given range."""
    least, most = tokens
    layout = sample_wide_layout(rng, 1.0, max_tokens=most)
    while token_count(layout) < least:
        layout = sample_wide_layout(rng, 1.0, max_tokens=most)
    clip = render_script(draft_script(rng, layout, 1.0))
    row = sample_questions(rng, clip.script, questions, weights)
    return assemble([clip], [row], processor)


def token_count(layout: Layout) -> int:
    """Video and audio tokens of a clip."""
    grids, rows, columns = layout.grid_thw
    sound = audio_token_count(layout.audio_samples) if layout.audio_samples else 0
    return grids * rows * columns // 4 + sound


_DRILL_CLIPS = (4, 24)  # fewest and most of a batch


def drill_batch(
    rng: np.random.Generator,
    processor: Qwen2_5OmniProcessor,
    *,
    tokens: int,
    voices: Sequence[str] = TRAINING_VOICES,
    fonts: Sequence[str] = TRAINING_FONTS,
) -> TrainingBatch:
    """A batch of drills, about which nothing is asked but one question each as a filler."""
    layout = drill_layout(rng)
    count = int(np.clip(round(tokens / token_count(layout)), *_DRILL_CLIPS))
    scripts = [drill_script(rng, layout, voices=voices, fonts=fonts) for _ in range(count)]
    clips = [render_script(script) for script in scripts]
    return assemble(clips, [[_FILLER]] * count, processor)


_FILLER = Question("sound_kind", "What is heard?", "silence", ())


def evaluation_batch(
    rng: np.random.Generator,
    processor: Qwen2_5OmniProcessor,
    layout: Layout,
    clips: int,
    *,
    level: float = 1.0,
    voices: Sequence[str] = TRAINING_VOICES,
    fonts: Sequence[str] = TRAINING_FONTS,
) -> TrainingBatch:
    """A batch with one question of every family that each clip allows."""
    scripts = [draft_script(rng, layout, level, voices=voices, fonts=fonts) for _ in range(clips)]
    rows = [every_question(rng, script) for script in scripts]
    asked = [(script, row) for script, row in zip(scripts, rows, strict=True) if row]
    drawn = [render_script(script) for script, _ in asked]
    return assemble(drawn, [row for _, row in asked], processor)
