"""Everything that decides what a training run does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# How often a family is asked, relative to the others that a clip allows.
FAMILY_WEIGHTS: Mapping[str, float] = {
    "color": 0.6,
    "first_color": 0.6,
    "last_color": 0.6,
    "color_count": 2.5,
    "color_order": 4.0,
    "sound_kind": 0.5,
    "sweep": 0.5,
    "is_there": 1.0,
    "object_count": 0.3,
    "beep_count": 2.0,
    "moving_color": 2.0,
    "direction": 1.5,
    "word_at_place": 2.0,
    "color_of_word": 1.5,
    "spoken_word": 0.7,
    "spoken_order": 1.2,
    "spoken_count": 2.0,
    "printed_order": 4.0,
    "said_while_place": 1.0,
    "said_at_picture": 4.0,
    "color_when_said": 3.0,
    "print_when_said": 4.0,
    "print_at_sound": 4.0,
    "place_when_said": 1.0,
    "same_word": 4.0,
    "color_at_sound": 2.0,
    "shape_at_sound": 3.0,
    "sound_at_picture": 3.0,
}


@dataclass(frozen=True)
class Phase:
    """One stage of training."""

    name: str  # "encoders" (they and their heads only, on drills) or "joint" (everything)
    steps: int
    muon_rate: float  # highest learning rates
    adam_rate: float
    batch_tokens: int  # video and audio tokens per step, over all workers
    questions: int = 1  # per clip
    drill_share: float = 0.0  # of the steps are drills of the encoders
    warmup_steps: int = 100
    # The rate is constant until the last part of the phase, where it falls to `final_rate` in a
    # line: a run may then be prolonged, or ended early, without a schedule in mind.
    decay_share: float = 0.25
    final_rate: float = 0.03  # of the highest


@dataclass(frozen=True)
class Hyperparameters:
    """A whole run."""

    seed: int = 2
    phases: tuple[Phase, ...] = (
        Phase("encoders", 3000, 0.01, 2e-3, 1600, decay_share=0.3),
        Phase("joint", 3200, 0.009, 2e-3, 4000, questions=12, drill_share=0.3, decay_share=0.85),
    )
    weights: Mapping[str, float] = field(default_factory=lambda: dict(FAMILY_WEIGHTS))
    # Weights in the joint loss: the throw-away heads, the names of what is seen and heard, and the
    # taught attention (`forward.Hops`).
    encoder_head_weight: float = 0.3
    context_head_weight: float = 0.2
    naming_weight: float = 0.5
    lookup_weight: float = 0.5
    # What a name has fetched, and the answer at the names and where the question's end has looked.
    fetched_weight: float = 0.5
    told_weight: float = 1.0
    # Root mean square of the encoders' outputs when the joint phase begins; of embeddings it is 1.
    encoder_level: float = 1.2
    half: bool = True  # products in bfloat16, which CPUs with such units take half the time for
    # Difficulty of the clips (`world.clips.draft_script`): it rises from `first_level` to 1 in
    # this share of the joint phase.
    first_level: float = 0.4
    level_share: float = 0.3
    # Every so many steps a long clip, at full difficulty: alone, with most of the picture left out
    # before the LLM. The other clips have at most half of a worker's `batch_tokens`.
    long_every: int = 25
    long_tokens: tuple[int, int] = (2500, 9500)
    long_drop: float = 0.6  # of the video tokens, at least
    thin_from: float = 0.4  # share of the joint phase after which drops have full strength
    whole_share: float = 0.2  # of the steps see all tokens
    max_video_drop: float = 0.9  # upper ends of the uniform random drops
    max_audio_drop: float = 0.65
    careless_share: float = 0.4  # of the drops, at full strength, may take evidence too
    cut_share: float = 0.4  # of the steps, at full strength, hide the clip from the late layers
    cut_layers: tuple[int, ...] = (11, 12, 13)  # 0-based, from which on it may be hidden
    check_batches: int = 12  # of held-out clips, measured every few hundred steps
    check_clips: int = 4  # in each of them
    width: int = 128
    layers: int = 15
    mlp: int = 320
    encoder_layers: int = 4
