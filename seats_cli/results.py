"""What an answered question consists of; plain objects that reports draw from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seats_cli.architecture import Architecture
    from seats_cli.config import PruningPlan, SeatsConfig
    from seats_cli.media.clip import MediaFacts
    from seats_cli.selection.trace import SelectionTrace


@dataclass(frozen=True)
class Timing:
    """Seconds of each stage: by CUDA events on a GPU, else with the device synchronised.

    `prefill_s` is the LLM's prefill without the encoders; `select_s` (Stage I and II, with
    the encoder statistics) is contained in the stages it runs in and shown for itself.
    `first_token_s` counts from the start of preprocessing (media already read) to the first
    answer token. `decode_s` is for the tokens after the first, and `decoding` says how the model
    ran for them: "captured graph" or "dynamic cache", with a reason if a graph was not possible
    after all; empty where nothing was generated.
    """

    load_s: float
    read_s: float
    preprocess_s: float
    vision_s: float
    audio_s: float
    select_s: float
    prefill_s: float
    first_token_s: float
    decode_s: float
    decode_tokens: int
    total_s: float
    decoding: str = ""

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Answer tokens per second after the first, None for one-token answers."""
        return self.decode_tokens / self.decode_s if self.decode_tokens and self.decode_s else None


@dataclass(frozen=True)
class StillFacts:
    """What Stage 0 did not encode of the pictures of a prompt, for it had not changed.

    Grids are temporal ones (two frames), tokens are those of the prompt.
    """

    tolerance_levels: float  # grey levels of 0..255
    grids: int
    whole_grids: int  # encoded whole
    still_grids: int  # not encoded at all
    tokens: int
    encoded_tokens: int
    saved_flops: float

    @property
    def partial_grids(self) -> int:
        """Grids of which a part is encoded."""
        return self.grids - self.whole_grids - self.still_grids


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of a run, the LLM's prefill pruned as executed against unpruned.

    `*_flops` count 2 FLOPs per multiply-add with the LM head on the last position only;
    `paper_*_macs` follow the paper's convention (1 per multiply-add, LM head on every
    position). `selection_flops` is what choosing tokens adds to the prefill. Bytes are the KV
    cache right after the prefill, an estimate of the activations, and the process's or the
    device's peak. `encoder_flops` is what was executed, `full_encoder_flops` what encoding every
    place of the picture takes; they differ only with Stage 0.
    """

    prefill_flops: float
    full_prefill_flops: float
    paper_prefill_macs: float
    paper_full_prefill_macs: float
    encoder_flops: float
    kv_bytes: int
    full_kv_bytes: int
    peak_host_bytes: int
    peak_gpu_bytes: int | None
    selection_flops: float = 0.0
    decode_flops: float = 0.0
    activation_bytes: int = 0
    full_activation_bytes: int = 0
    full_encoder_flops: float = 0.0
    still: StillFacts | None = None  # None without Stage 0


@dataclass(frozen=True)
class ModelFacts:
    """The model that answered."""

    id: str
    revision: str | None
    family: str
    parameters: int
    device: str
    dtype: str
    attention: str
    demonstration: bool
    encoder_attention: str = ""  # as transformers names it; "" where nobody looked
    quick_parts: bool = False  # whether the GPU runs norms, rotary and encoder products our way


@dataclass(frozen=True)
class ChoiceScore:
    """One option of a multiple-choice question: its likelihood among the options (0..1)."""

    text: str
    probability: float


@dataclass(frozen=True, eq=False)
class Answer:
    """A question answered about one clip, with everything that a report shows."""

    question: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    media: MediaFacts
    effective_fps: float | None
    model: ModelFacts
    architecture: Architecture
    config: SeatsConfig | None  # None when the model ran unpruned
    plan: PruningPlan | None
    trace: SelectionTrace
    timing: Timing
    cost: Cost
    seed: int
    choices: tuple[ChoiceScore, ...] = ()
    warnings: tuple[str, ...] = ()
