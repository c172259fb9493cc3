"""Everything that decides what a training run does.

The defaults include the lessons of the shipped model's run; its model card says how that one
differed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seats_cli.world.layouts import LayoutMix

# How often a family is asked, relative to the others that a clip allows.
FAMILY_WEIGHTS: Mapping[str, float] = {
    "color": 0.5,
    "shape": 1.2,
    "motion": 1.5,
    "sound_kind": 0.6,
    "pitch": 0.8,
    "sweep": 0.5,
    "beep_count": 1.8,
    "first_color": 0.6,
    "last_color": 0.6,
    "color_count": 1.2,
    "color_order": 1.2,
    "color_at_sound": 3.0,
    "shape_at_sound": 5.0,
    "sound_at_picture": 7.0,
}
SHORT_CLIPS = LayoutMix(durations=((2.0, 4.0, 0.35), (4.0, 6.05, 0.65)), video_only=0.03)


@dataclass(frozen=True)
class Phase:
    """One stage of training."""

    name: str  # "encoders" (they and their heads only) or "joint" (everything)
    steps: int  # length of the learning-rate schedule
    minutes: float  # the schedule also ends after this much wall clock
    muon_rate: float  # peak learning rates
    adam_rate: float
    batch_seconds: float  # seconds of clips per step, over all workers
    questions: int  # per clip
    mix: LayoutMix  # durations and tracks
    warmup_steps: int = 60
    final_rate: float = 0.03  # of the peak, at the end of the cosine


@dataclass(frozen=True)
class Hyperparameters:
    """A whole run."""

    seed: int = 1
    phases: tuple[Phase, ...] = (
        Phase("encoders", 450, 12.0, 0.02, 2e-3, 80.0, 1, SHORT_CLIPS),
        Phase("joint", 2600, 120.0, 0.01, 1.5e-3, 96.0, 8, LayoutMix()),
    )
    weights: Mapping[str, float] = field(default_factory=lambda: dict(FAMILY_WEIGHTS))
    # Weights in the joint loss: the throw-away heads, and teaching a word that names a picture to
    # fetch its sound (`dense.attention_loss`).
    encoder_head_weight: float = 0.4
    context_head_weight: float = 0.3
    lookup_weight: float = 0.4
    middle_layer: int = 5  # LLM layers before the context heads are applied
    thin_from: float = 0.6  # share of the joint phase after which drops have full strength
    max_video_drop: float = 0.85  # upper ends of the uniform random drops
    max_audio_drop: float = 0.65
    cut_layers: tuple[int, ...] = (8, 9, 10, 12)  # 0-based, from which on the clip may be hidden
    width: int = 128
    layers: int = 14
    mlp: int = 320
    encoder_layers: int = 4
