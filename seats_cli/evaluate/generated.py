"""Questions about generated clips, with distractors that are easy to mistake for the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice, permutations

import numpy as np

from seats_cli.errors import UsageError
from seats_cli.evaluate.questions import LETTERS, EvalProtocol, Item, QuestionSet
from seats_cli.media import Clip, FrameSizing, MediaFacts
from seats_cli.media.frame_sampling import frame_size
from seats_cli.world.clip_questions import CROSS_MODAL, Fact, ask, facts_of
from seats_cli.world.clips import Draft, draft_clip, draft_moment, render_clip
from seats_cli.world.layouts import FRAME_SIZES, file_layout, weighted_choice
from seats_cli.world.vocabulary import (
    COLORS,
    MAX_BEEPS,
    MAX_SEGMENTS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SOUND_KINDS,
    SWEEPS,
)

OPTIONS = 4  # or fewer where a family has fewer answers


def shuffled_options(
    rng: np.random.Generator, family: str, answer: str, draft: Draft
) -> tuple[str, tuple[str, ...]]:
    """Letter of the right option, and all options in random order.

    Parameters
    ----------
    family : str
        One of `seats_cli.world.clip_questions.FAMILIES`.
    answer : str
        The right one.
    draft : Draft
        What is seen and heard in the clip is what a careless answer would confuse it with.
    """
    wrong: list[str] = []
    for option in _candidates(rng, family, answer, draft):
        if option != answer and option not in wrong:
            wrong.append(option)
        if len(wrong) == OPTIONS - 1:
            break
    options = [answer, *wrong]
    options = [options[index] for index in rng.permutation(len(options))]
    return LETTERS[options.index(answer)], tuple(options)


def _candidates(rng: np.random.Generator, family: str, answer: str, draft: Draft) -> Iterator[str]:
    """Answers of the family, those that the clip suggests first; may repeat or be right."""
    segments = draft.scene.segments if draft.scene is not None else ()
    if family == "color_order":
        yield from _orders(rng, answer)
    elif family in ("color", "first_color", "last_color", "color_at_sound"):
        yield from _mixed(rng, [segment.color for segment in segments])
        yield from _mixed(rng, COLORS)
    elif family in ("shape", "shape_at_sound"):
        yield from _mixed(rng, [segment.shape for segment in segments if segment.shape])
        yield from _mixed(rng, SHAPES)
    elif family in ("sound_kind", "sound_at_picture"):
        yield from _mixed(rng, ["silence", *(sound.kind for sound in draft.sounds)])
        yield from _mixed(rng, SOUND_KINDS)
    elif family in ("beep_count", "color_count"):
        most = MAX_BEEPS if family == "beep_count" else MAX_SEGMENTS
        numbers = sorted(range(1, most + 1), key=lambda number: abs(number - int(answer)))
        yield from map(str, numbers)
    else:
        yield from _mixed(rng, {"motion": MOTIONS, "pitch": PITCHES, "sweep": SWEEPS}[family])


def _orders(rng: np.random.Generator, answer: str) -> Iterator[str]:
    """The same colours in another order, then with another colour in place of one of them."""
    colors = answer.split(", ")
    yield from _mixed(rng, [", ".join(order) for order in permutations(colors)])
    absent = [color for color in COLORS if color not in colors]
    for color in _mixed(rng, absent):
        place = int(rng.integers(len(colors)))
        yield ", ".join([*colors[:place], color, *colors[place + 1 :]])


def _mixed(rng: np.random.Generator, values: Sequence[str]) -> list[str]:
    return [values[index] for index in rng.permutation(len(values))]


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
    "pitch": 1.5,  # few sounds have one
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
        size = weighted_choice(rng, FRAME_SIZES)
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
            meta={
                "duration_s": draft.layout.duration,
                "moment": None if question.moment is None else asdict(question.moment),
            },
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
        "synthetic", items, EvalProtocol(choice_style="likelihood", max_new_tokens=16)
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
