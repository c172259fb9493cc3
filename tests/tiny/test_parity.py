"""Training must see exactly what the stock processor and `model.forward` see at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from seats_cli.training.build import MAX_PIXELS, MIN_PIXELS
from seats_cli.training.forward import Thinker, Thinning, packed_forward
from seats_cli.training.minibatch import TrainingBatch, assemble, evaluation_batch
from seats_cli.world.clips import WorldClip, draft_script, render_script
from seats_cli.world.layouts import Layout, make_layout
from seats_cli.world.links import Question, every_question
from seats_cli.world.vocabulary import IGNORE

CASES = {
    "even": (4.0, (84, 140), True, True),
    "as wide as the 7B reads": (2.0, (308, 336), True, True),
    "odd duration": (5.7, (112, 84), True, True),
    "coarse sampling": (3.9, (56, 168), True, True),
    "video only": (3.0, (84, 112), True, False),
    "audio only": (2.6, (84, 112), False, True),
}


def stock_inputs(processor: Any, clip: WorldClip, question: str) -> dict[str, Any]:
    """Inputs of one question through the real chat template and processor."""
    kinds = ["video"] if clip.frames is not None else ["audio"]
    content = [{"type": kind, kind: "clip"} for kind in kinds]
    content.append({"type": "text", "text": question})
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    media: dict[str, Any] = {}
    if clip.frames is not None:
        media["videos"] = [torch.from_numpy(clip.frames).permute(0, 3, 1, 2)]
    if clip.audio is not None:
        media["audio"] = [clip.audio]
    both = len(media) == 2
    if both:
        media["audio_from_video_indices"] = [0]
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    return dict(
        processor(
            text=[text],
            load_audio_from_video=both,
            return_tensors="pt",
            videos_kwargs={"size": size, "fps": clip.layout.effective_fps},
            **media,
        )
    )


def make_case(processor: Any, name: str) -> tuple[WorldClip, list[Question], TrainingBatch]:
    duration, size, video, audio = CASES[name]
    rng = np.random.default_rng(len(name))
    layout: Layout = make_layout(rng, duration, size, video=video, audio=audio)
    clip = render_script(draft_script(rng, layout, 1.0))
    questions = every_question(rng, clip.script)[:3]
    assert questions
    return clip, questions, assemble([clip], [questions], processor)


@pytest.mark.parametrize("name", CASES)
def test_features_equal_the_processors(processor: Any, name: str) -> None:
    clip, questions, batch = make_case(processor, name)
    inputs = stock_inputs(processor, clip, questions[0].text)
    ids = inputs["input_ids"][0]
    assert ids[: len(batch.prefix_ids)].tolist() == batch.prefix_ids.tolist()
    if batch.pixel_values is not None:
        assert inputs["video_grid_thw"].tolist() == [list(clip.layout.grid_thw)]
        torch.testing.assert_close(batch.pixel_values, inputs["pixel_values_videos"])
        assert float(inputs["video_second_per_grid"][0]) == pytest.approx(
            clip.layout.seconds_per_grid
        )
    if batch.mel is not None:
        frames = int(inputs["feature_attention_mask"].sum())
        assert frames == batch.mel.shape[2]
        torch.testing.assert_close(batch.mel, inputs["input_features"][:, :, :frames])


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_packed_logits_equal_the_stock_forward(
    processor: Any, micro_model: Thinker, name: str
) -> None:
    clip, questions, batch = make_case(processor, name)
    output = packed_forward(micro_model, batch, thinning=Thinning())
    first_token = (batch.target != IGNORE) & (batch.position > 0)
    numbers = batch.question_number[first_token]
    for number, question in enumerate(questions, start=1):
        inputs = stock_inputs(processor, clip, question.text)
        stock = micro_model(
            **inputs, use_audio_in_video=clip.frames is not None and clip.audio is not None
        ).logits[0, -1]
        packed = output.logits[(numbers == number).nonzero()[0, 0]]
        torch.testing.assert_close(packed, stock, atol=2e-4, rtol=1e-3)


def test_batches_hold_every_family_once(processor: Any) -> None:
    rng = np.random.default_rng(3)
    batch = evaluation_batch(rng, processor, make_layout(rng, 4.0, (84, 140)), 4)
    for row in batch.questions:
        families = [question.family for question in row]
        assert len(families) == len(set(families)) > 0
