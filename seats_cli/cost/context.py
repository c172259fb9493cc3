"""What a question takes of the model's context, and whether that is as much as there is.

The context holds what enters the LLM: the tokens of picture and sound that are left before it, the
text, and the answer. What a method drops before the LLM takes no room in it, however much was
offered. Positions count as well, and they are time (M-RoPE): tokens between do not move them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from seats_cli.cost.token_counts import Counts, MediaSizes, predicted_counts, token_counts
from seats_cli.families.base import Architecture
from seats_cli.families.registry import family_of
from seats_cli.schedule import PruningPlan

# Video and audio tokens that enter the LLM, of a prompt with these sizes.
Entering = Callable[[Architecture, MediaSizes], tuple[int, int]]

REMEDY = "use `start`/`end`, a lower `retain`, `fps`, `max_frames` or `max_pixels`, or `max_audio`"

DROP_TURNS = "drop earlier turns from `history`"
# Part of the context that is left for the turns when a clip is read that will be talked about.
TALK_SHARE = 1 / 16


@dataclass(frozen=True)
class ContextUse:
    """A question beside the context of the model that answers it."""

    offered: Counts  # video, audio and text tokens of the prompt
    entering: Counts  # those that enter the LLM
    largest_position: int  # of the prompt, in any row of M-RoPE
    answer: int  # longest answer in tokens
    limit: int  # tokens, and positions, that the model was made for

    @property
    def tokens(self) -> int:
        """Tokens that enter, with the answer."""
        return sum(self.entering) + self.answer

    @property
    def fits(self) -> bool:
        """Whether that is what the context holds."""
        return self.tokens <= self.limit

    @property
    def positions_fit(self) -> bool:
        """Whether all positions are ones that the model was made for."""
        return self.largest_position + self.answer < self.limit

    def refusal(self, *, turns: bool = False) -> str:
        """Why the question cannot be answered, and what to do; with `turns` of a history first."""
        video, audio, text = self.entering
        remedy = "shorten the question" if text > video + audio else REMEDY
        remedy = f"{DROP_TURNS}, or {remedy}" if turns else remedy
        return (
            f"{video:,} video tokens and {audio:,} audio tokens enter the LLM with {text:,} of "
            f"text and up to {self.answer:,} of the answer, but the model's context holds "
            f"{self.limit:,}: {remedy}."
        )

    def warnings(self) -> tuple[str, ...]:
        """What of a run to mistrust: sentences, none where everything fits."""
        found = []
        if not self.fits and self.entering != self.offered:
            found.append(self.refusal())
        elif not self.fits:
            found.append(
                f"Without pruning before the LLM, {sum(self.entering):,} tokens enter it and the "
                f"answer may take {self.answer:,}: the model was made for {self.limit:,} and may "
                "answer worse beyond them."
            )
        if not self.positions_fit:
            found.append(
                f"The clip is so long that positions go to {self.largest_position:,}: the model "
                f"was made for {self.limit:,} and may answer worse about what comes later "
                "(`start`, `end`)."
            )
        return tuple(found)


@dataclass(frozen=True)
class Need:
    """What besides a clip its questions take of the context."""

    text: int  # tokens of the longest question, with the chat template around it
    answer: int  # tokens of the longest answer
    # What enters the LLM under each setting that has to fit. Settings that drop nothing there take
    # the clip that the others get.
    entering: tuple[Entering, ...] = (token_counts,)


def context_use(
    architecture: Architecture,
    sizes: MediaSizes,
    text: int,
    answer: int,
    fps: float | None,
    entering: Entering = token_counts,
) -> ContextUse:
    """Count what a question takes.

    Parameters
    ----------
    sizes : MediaSizes
        Picture and sound of the prompt.
    text, answer : int
        Tokens of the question with the chat template, and of the longest answer.
    fps : float or None
        Effective frames per second; None without a picture.
    entering : callable
        What of picture and sound enters the LLM; by default all of it.
    """
    return ContextUse(
        offered=(*token_counts(architecture, sizes), text),
        entering=(*entering(architecture, sizes), text),
        largest_position=largest_position(architecture, sizes, text, fps),
        answer=answer,
        limit=architecture.max_positions,
    )


def largest_position(
    architecture: Architecture, sizes: MediaSizes, text: int, fps: float | None
) -> int:
    """The largest M-RoPE position of a prompt with one clip; parameters as for `context_use`.

    Time is counted in audio tokens, of the picture as of the sound. Text goes on behind whichever
    of the two reaches further.
    """
    vision, family = architecture.vision, family_of(architecture)
    if not family.timed_positions:
        return sum(token_counts(architecture, sizes)) + text - 1
    reach = [family.audio_tokens(frames) - 1 for frames in sizes.mel_frames]
    for times, rows, columns in sizes.grids:
        seconds = vision.temporal_patch_size / (fps or 1.0)
        instant = (times - 1) * seconds * architecture.positions_per_second
        sides = (side // vision.merge_size - 1 for side in (rows, columns))
        reach.append(max(math.floor(instant), *sides))
    shared = family.shared_positions if sizes.grids and sizes.mel_frames else 0
    return text - shared + max(reach, default=-1)


def entering_of(plan: PruningPlan | None) -> Entering:
    """What enters the LLM under a plan of SEATS; everything under one that does not prune."""
    return token_counts if plan is None or not plan.prunes else seats_entering(plan)


def seats_entering(plan: PruningPlan) -> Entering:
    """What Stage I of SEATS lets into the LLM."""

    def entering(architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        alive, final = predicted_counts(plan, architecture, sizes, 0)
        video, audio, _ = alive[0] if alive else final
        return video, audio

    return entering
