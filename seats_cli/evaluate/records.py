"""One answer to one item with one setting, as it is stored and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seats_cli.errors import UsageError


@dataclass(frozen=True)
class Record:
    """An answer, or why there is none.

    Parameters
    ----------
    item_id, clip_key, family, kind : str
        Of the item; see `seats_cli.evaluate.questions.Item`.
    label : str
        Of the setting, "full" or "seats 10%"; together with `item_id` it names the record.
    method : str
        Selection method, "full" for the unpruned model.
    retain : float or None
        Overall share asked for; None for the unpruned model.
    expected, given : str
        Right answer and the model's text.
    correct, unparsed : bool
        From `seats_cli.evaluate.scoring.score`; False where there is an error.
    error : str or None
        Why there is no answer; such a record is counted apart and never as a wrong answer.
    video_tokens, audio_tokens : float or None
        Tokens alive, mean over the decoder layers.
    offered_video_tokens, offered_audio_tokens : int or None
        Tokens that the encoders give.
    average_retention : float or None
        Mean over the layers of the audio-visual share alive; None without such tokens.
    prefill_flops, full_prefill_flops, selection_flops : float or None
        Of the LLM's prefill, pruned and unpruned, and of choosing tokens; 2 per multiply-add.
    encoder_flops, full_encoder_flops : float or None
        Of the encoders as executed, and without Stage 0.
    kv_bytes : int or None
        Of the KV cache right after the prefill.
    peak_host_bytes, peak_gpu_bytes : int or None
        Largest memory of the process or device.
    prefill_s, select_s, first_token_s, total_s : float or None
        Seconds of the LLM's prefill, of the selection, to the first token, and altogether.
    """

    item_id: str
    clip_key: str
    label: str
    method: str
    expected: str
    given: str = ""
    correct: bool = False
    unparsed: bool = False
    error: str | None = None
    family: str = ""
    kind: str = ""
    retain: float | None = None
    video_tokens: float | None = None
    audio_tokens: float | None = None
    offered_video_tokens: int | None = None
    offered_audio_tokens: int | None = None
    average_retention: float | None = None
    prefill_flops: float | None = None
    full_prefill_flops: float | None = None
    selection_flops: float | None = None
    encoder_flops: float | None = None
    full_encoder_flops: float | None = None
    kv_bytes: int | None = None
    peak_host_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    prefill_s: float | None = None
    select_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None

    def __post_init__(self) -> None:
        """An error is never an answer."""
        if self.error is not None and self.correct:
            raise ValueError(f"{self.item_id}: a record with an error cannot be correct")

    @property
    def key(self) -> tuple[str, str]:
        """What names the record among all of a run."""
        return self.item_id, self.label

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """A record from a line of JSON; keys that a newer version added are left out.

        Raises
        ------
        UsageError
            If something that every record has is missing.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in names})
        except (TypeError, ValueError) as error:
            raise UsageError(f"This is no record of an evaluation: {error}.") from error
