"""Answers written by hand, with round numbers that a test can predict."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from seats_cli.config import SeatsConfig
from seats_cli.families.base import Architecture, AudioShape, VisionShape
from seats_cli.media.clip import MediaFacts
from seats_cli.results import Answer, ChoiceScore, Cost, Evidence, ModelFacts, Timing
from seats_cli.schedule import PruningPlan

if TYPE_CHECKING:
    from seats_cli.selection.trace import SelectionTrace

EVIDENCE = (Evidence(5.0, 6.0, "audio", 0.412), Evidence(9.5, 10.5, "video", 0.2))
ARCHITECTURE = Architecture(
    family="qwen2_5_omni",
    num_layers=28,
    hidden_size=3584,
    intermediate_size=18944,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
    vision=VisionShape(32, 1280, 3420, 16, 14, 2, 2, 3, 3584, True, 112, (7, 15, 23, 31)),
    audio=AudioShape(32, 1280, 5120, 20, 128, 3584, 200, 1280, 25.0),
    drop_layers=(16, 18, 20),
    late_layer=24,
    layers_from="paper",
)

FACTS = MediaFacts(
    path="clips/talk.mp4",
    container="mov,mp4,m4a,3gp,3g2,mj2",
    duration_s=12.0,
    start_s=0.0,
    end_s=12.0,
    video_codec="h264",
    source_width=640,
    source_height=360,
    source_fps=25.0,
    frames_used=24,
    width=448,
    height=252,
    audio_codec="aac",
    audio_tracks=1,
    audio_track=0,
    source_sample_rate=48_000,
    source_channels=2,
    audio_used_s=12.0,
)

MODEL = ModelFacts(
    id="Qwen/Qwen2.5-Omni-7B",
    revision="ae9e1690543ffd5c0221dc27f79834d0294cba00",
    family="qwen2_5_omni",
    parameters=8_931_000_000,
    device="cuda:0",
    dtype="bfloat16",
    attention="sdpa",
    demonstration=False,
)


CONFIG = SeatsConfig(retain=0.25)
PLAN = PruningPlan(
    initial_video=0.28,
    initial_audio=0.77,
    drop_layers=(16, 18, 20),
    keep_video=(0.9, 0.8, 0.5),
    keep_audio=(0.9, 0.8, 0.5),
    late_layer=24,
    target_video=0.2,
    target_audio=0.55,
    config=CONFIG,
)


def sample_trace(*, video: int = 1000, audio: int = 300, text: int = 50) -> SelectionTrace:
    """Stage I keeps half of each modality, one drop halves that, then nothing is left."""
    length = video + audio + text
    import torch  # here: processes on the fake engine that never answer start without it

    from seats_cli.selection.trace import SelectionTrace

    position = torch.arange(length)
    trace = SelectionTrace(28, position < video, (position >= video) & (position < video + audio))
    is_text = position >= video + audio
    label = "after Stage I, before the LLM"
    trace.add("diversity", 0, position[is_text | (position % 2 == 0)], label=label)
    label = "drop after layer 16"
    trace.add("relevance", 16, position[is_text | (position % 4 == 0)], label=label)
    trace.add("late", 23, position[is_text], label="late block, from layer 24")
    return trace


def sample_answer(**changes: Any) -> Answer:
    """A pruned answer; keyword arguments replace fields."""
    answer = Answer(
        question="What is shown first?",
        text="a red card",
        token_ids=(5, 6, 7),
        finish_reason="stop",
        media=FACTS,
        effective_fps=2.0,
        model=MODEL,
        architecture=ARCHITECTURE,
        config=CONFIG,
        plan=PLAN,
        trace=sample_trace(),
        timing=Timing(4.5, 0.31, 0.05, 0.2, 0.1, 0.012, 0.4, 0.77, 0.1, 2, 1.18),
        cost=Cost(
            prefill_flops=4.0e12,
            full_prefill_flops=2.0e13,
            paper_prefill_macs=2.5e12,
            paper_full_prefill_macs=1.0e13,
            encoder_flops=3.0e12,
            kv_bytes=20 * 2**20,
            full_kv_bytes=80 * 2**20,
            peak_host_bytes=3 * 2**30,
            peak_gpu_bytes=18 * 2**30,
        ),
        seed=0,
        evidence=EVIDENCE,
    )
    return dataclasses.replace(answer, **changes)


CHOICES = (ChoiceScore("red", 0.9), ChoiceScore("green", 0.1))
