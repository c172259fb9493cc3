"""The bundled question set: generated clips of the kind the bundled model knows.

Clip i follows from the seed and i alone, whatever the number of questions; nothing is drawn or
synthesised before a clip is opened. The seed is none that training or its evaluation uses, and
clips are made in a way of their own. Four kinds of clips take turns, so that the first few hundred
questions are a fair sample of all:

- short (4 to 8 s), medium (8 to 20 s), long (20 to 60 s): pictures and sounds all along
- moment (20 to 60 s): a still picture and silence around one moment of 2.5 to 5 s

The bundled model, unpruned, answers 94.5 % of the first 600 questions: 97 % about short and medium
clips, 95 % about moments in clips of 20 to 40 s, and less the further a clip is beyond the 20 s of
its training (about 70 % above 40 s, which is one question in ten). It is weakest at counting the
beeps of a moment (7 of 11) and at the colours in order around one (81 %). What pruning costs is to
be read against that.

Families are those of `seats_cli.tiny.questions`; those that need picture and sound together are
asked most often. Every third question has options, which are meant to be compared by likelihood.
Frames are taken 2 times per second whatever a run asks for; their size follows the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from seats_cli.errors import UsageError
from seats_cli.evaluate.options import shuffled_options
from seats_cli.evaluate.questions import Item, QuestionSet, SetSettings
from seats_cli.media import Clip, FrameSizing, MediaFacts
from seats_cli.media.sampling import frame_size
from seats_cli.tiny.clip import Draft, draft_clip, render_clip
from seats_cli.tiny.layout import FRAME_SIZES, file_layout
from seats_cli.tiny.moment import draft_moment
from seats_cli.tiny.questions import CROSS_MODAL, Fact, ask, facts_of

DEFAULT_SEED = 2026
DEFAULT_COUNT = 1200
QUESTIONS_PER_CLIP = 3
# Kinds of clips in turn, and their shortest and longest duration in seconds.
_TURNS = ("short", "medium", "moment", "short", "long", "medium", "short", "moment", "medium")
_DURATIONS = {
    "short": (4.0, 8.0),
    "medium": (8.0, 20.0),
    "long": (20.0, 60.0),
    "moment": (20.0, 60.0),
}
_LENGTH_SKEW = {"long": 2.0, "moment": 2.0}  # most of them nearer to the shortest
_SOURCE_RATES = (12.0, 15.0, 25.0)  # frames per second of the files that the clips stand for
_WEIGHTS: Mapping[str, float] = {
    "color_order": 2.5,
    "color_at_sound": 2.5,
    "shape_at_sound": 4.0,
    "sound_at_picture": 2.0,
    "beep_count": 3.0,
    "pitch": 1.5,  # of few sounds it can be said
    "sweep": 3.0,  # chirps only
}
# Asked about a moment: nothing that the still picture around it answers.
_ABOUT_MOMENTS = (*CROSS_MODAL, "sound_kind", "pitch", "sweep", "beep_count", "color_order")
_WITH_OPTIONS = 3  # every third question


@dataclass(frozen=True)
class SyntheticClip:
    """Clip number `index` of the set with the given seed."""

    seed: int
    index: int

    @property
    def key(self) -> str:
        """Names the clip."""
        return f"synthetic-{self.seed}/{self.index:05d}"

    @property
    def kind(self) -> str:
        """One of "short", "medium", "long" and "moment"."""
        return _TURNS[self.index % len(_TURNS)]

    @cached_property
    def _drawn(self) -> tuple[Draft, int | None, np.random.Generator]:
        """What the clip is about, which segment is the moment, and the chance left for more."""
        rng = np.random.default_rng([self.seed, self.index])
        rate = float(rng.choice(_SOURCE_RATES))
        low, high = _DURATIONS[self.kind]
        share = float(rng.random()) ** _LENGTH_SKEW.get(self.kind, 1.0)
        duration = round((low + share * (high - low)) * rate) / rate
        shares = np.array([share for _, share in FRAME_SIZES])
        size = FRAME_SIZES[rng.choice(len(shares), p=shares / shares.sum())][0]
        layout = file_layout(duration, size, rate, audio_seconds=duration)
        if self.kind == "moment":
            return *draft_moment(rng, layout), rng
        return draft_clip(rng, layout, multi_share=0.9), None, rng

    @property
    def draft(self) -> Draft:
        """What the clip is about."""
        return self._drawn[0]

    def open(self, sizing: FrameSizing) -> Clip:
        """Draw the frames, as large as a file of this shape would be read, and the sound."""
        draft, layout = self.draft, self.draft.layout
        count = len(layout.frame_times)
        height, width = frame_size(layout.height, layout.width, count, sizing)
        tiny = render_clip(replace(draft, layout=replace(layout, height=height, width=width)))
        facts = MediaFacts(
            path=self.key,
            container="generated",
            duration_s=layout.duration,
            start_s=0.0,
            end_s=layout.duration,
            source_width=layout.width,
            source_height=layout.height,
            frames_used=count,
            width=width,
            height=height,
            audio_tracks=1,
            audio_track=0,
            audio_used_s=layout.duration,
        )
        return Clip(
            tiny.frames, np.array(layout.frame_times), layout.effective_fps, tiny.audio, facts
        )

    def items(self) -> tuple[Item, ...]:
        """The clip's questions, `QUESTIONS_PER_CLIP` of different families."""
        draft, moment, rng = self._drawn
        # The generator is used up by asking: a copy gives the same questions every time.
        rng = _copy(rng)
        facts = _askable(draft, moment)
        families = sorted(facts)
        shares = np.array([_WEIGHTS.get(family, 1.0) for family in families])
        count = min(QUESTIONS_PER_CLIP, len(families))
        chosen = rng.choice(len(families), size=count, replace=False, p=shares / shares.sum())
        return tuple(
            self._item(rng, draft, families[index], facts[families[index]], place)
            for place, index in enumerate(chosen)
        )

    def _item(
        self, rng: np.random.Generator, draft: Draft, family: str, facts: list[Fact], place: int
    ) -> Item:
        question = ask(rng, family, facts, variants=False)
        number = self.index * QUESTIONS_PER_CLIP + place
        answer = question.answer
        choices: tuple[str, ...] = ()
        if (self.index + place) % _WITH_OPTIONS == 0:
            answer, choices = shuffled_options(rng, family, question.answer, draft)
        return Item(
            id=f"synthetic-{self.seed}-{number:05d}",
            media=self,
            question=question.text,
            answer=answer,
            choices=choices,
            family=family,
            kind=self.kind,
            meta={"duration_s": draft.layout.duration},
        )


def synthetic_set(count: int = DEFAULT_COUNT, *, seed: int = DEFAULT_SEED) -> QuestionSet:
    """The bundled set.

    Parameters
    ----------
    count : int
        Number of questions, at least 1.
    seed : int
        Another seed gives other clips and other ids.

    Raises
    ------
    UsageError
        If there would be no question or the seed is negative.
    """
    if count < 1:
        raise UsageError(f"A question set needs at least 1 question, not {count}.")
    if seed < 0:
        raise UsageError(f"The seed of the synthetic set must not be negative, got {seed}.")
    items = tuple(islice(_endless(seed), count))
    return QuestionSet(
        "synthetic", items, SetSettings(choice_style="likelihood", max_new_tokens=16)
    )


def _endless(seed: int) -> Iterator[Item]:
    index = 0
    while True:
        yield from SyntheticClip(seed, index).items()
        index += 1


def _askable(draft: Draft, moment: int | None) -> dict[str, list[Fact]]:
    """Facts worth a question, by family: nothing that is true of every clip."""
    facts = facts_of(draft)
    if moment is not None:
        facts = {family: facts[family] for family in _ABOUT_MOMENTS if family in facts}
        about = [fact for fact in facts.get("sound_at_picture", []) if fact.picture == moment]
        facts["sound_at_picture"] = about
    elif draft.scene is not None and len(draft.scene.segments) == 1:
        dull = ("first_color", "last_color", "color_count")
        facts = {family: found for family, found in facts.items() if family not in dull}
    if facts.get("beep_count") and facts["beep_count"][0].answer == "0":
        del facts["beep_count"]
    return {family: found for family, found in facts.items() if found}


def _copy(rng: np.random.Generator) -> np.random.Generator:
    again = np.random.default_rng()
    again.bit_generator.state = rng.bit_generator.state
    return again
