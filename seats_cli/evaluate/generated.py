"""Questions about generated clips, with distractors that are easy to mistake for the answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from seats_cli.errors import UsageError
from seats_cli.evaluate.questions import (
    EvalProtocol,
    Item,
    QuestionSet,
    in_random_order,
    mixed_options,
    other_orders,
)
from seats_cli.media import Clip, FrameSizing, MediaFacts
from seats_cli.media.frame_sampling import frame_size
from seats_cli.world import links
from seats_cli.world.clip_questions import CROSS_MODAL, Fact, ask, facts_of
from seats_cli.world.clips import Draft, TinyClip, draft_clip, draft_moment, render_clip
from seats_cli.world.layouts import (
    FRAME_SIZES,
    WIDE_FRAME_SIZES,
    Layout,
    file_layout,
    weighted_choice,
)
from seats_cli.world.lettering import HELD_OUT_FONTS, TRAINING_FONTS
from seats_cli.world.painting import draft_script, render_script
from seats_cli.world.script import Script, ScriptedClip
from seats_cli.world.truths import Truth, Truths
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
from seats_cli.world.voices import HELD_OUT_VOICES, TRAINING_VOICES, WORDS
from seats_cli.world.wording import DIGITS, answers_of


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
    return mixed_options(rng, answer, _candidates(rng, family, answer, draft))


def _candidates(rng: np.random.Generator, family: str, answer: str, draft: Draft) -> Iterator[str]:
    """Answers of the family, those that the clip suggests first; may repeat or be right."""
    segments = draft.scene.segments if draft.scene is not None else ()
    if family == "color_order":
        yield from other_orders(rng, answer, COLORS)
    elif family in ("color", "first_color", "last_color", "color_at_sound"):
        yield from in_random_order(rng, [segment.color for segment in segments])
        yield from in_random_order(rng, COLORS)
    elif family in ("shape", "shape_at_sound"):
        yield from in_random_order(rng, [segment.shape for segment in segments if segment.shape])
        yield from in_random_order(rng, SHAPES)
    elif family in ("sound_kind", "sound_at_picture"):
        yield from in_random_order(rng, ["silence", *(sound.kind for sound in draft.sounds)])
        yield from in_random_order(rng, SOUND_KINDS)
    elif family in ("beep_count", "color_count"):
        most = MAX_BEEPS if family == "beep_count" else MAX_SEGMENTS
        numbers = sorted(range(1, most + 1), key=lambda number: abs(number - int(answer)))
        yield from map(str, numbers)
    else:
        yield from in_random_order(
            rng, {"motion": MOTIONS, "pitch": PITCHES, "sweep": SWEEPS}[family]
        )


DEFAULT_SEED = 2026
DEFAULT_COUNT = 1200
QUESTIONS_PER_CLIP = 3
# Kinds of clips in turn, and their shortest and longest duration in seconds.
_TURNS = ("short", "medium", "moment", "short", "long", "medium", "short", "moment", "medium")
CLIP_KINDS = ("short", "medium", "long", "moment")
# The power skews lengths to the shortest.
_DURATIONS = {
    "short": (4.0, 8.0, 1.0),
    "medium": (8.0, 20.0, 1.0),
    "long": (20.0, 60.0, 2.0),
    "moment": (20.0, 60.0, 2.0),
}
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
        layout = _layout(rng, _DURATIONS[self.kind], FRAME_SIZES)
        if self.kind == "moment":
            return *draft_moment(rng, layout), rng
        return draft_clip(rng, layout, multi_share=0.9), None, rng

    @property
    def draft(self) -> Draft:
        """What the clip is about."""
        return self._drawn[0]

    def open(self, sizing: FrameSizing) -> Clip:
        """Draw the frames, as large as a file of this shape would be read, and the sound."""
        draft = self.draft

        def render(layout: Layout) -> TinyClip:
            return render_clip(replace(draft, layout=layout))

        return _clip(self.key, draft.layout, sizing, render)

    def items(self) -> tuple[Item, ...]:
        """The clip's questions, `QUESTIONS_PER_CLIP` of different families."""
        draft, moment, rng = self._drawn
        # The generator is used up by asking: a copy gives the same questions every time.
        rng = deepcopy(rng)
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
                "decisive": None if question.decisive is None else asdict(question.decisive),
            },
        )


def _layout(
    rng: np.random.Generator,
    durations: tuple[float, float, float],
    sizes: Mapping[tuple[int, int], float],
) -> Layout:
    """Draw how a file is sampled: shortest and longest duration in seconds and power, sizes."""
    rate = float(rng.choice(_SOURCE_RATES))
    low, high, power = durations
    duration = round((low + float(rng.random()) ** power * (high - low)) * rate) / rate
    size = weighted_choice(rng, sizes)
    return file_layout(duration, size, rate, audio_seconds=duration)


def _clip(
    key: str,
    layout: Layout,
    sizing: FrameSizing,
    render: Callable[[Layout], TinyClip | ScriptedClip],
) -> Clip:
    """Make a clip with frames as large as a file of the layout's shape would be read."""
    count = len(layout.frame_times)
    height, width = frame_size(layout.height, layout.width, count, sizing)
    made = render(replace(layout, height=height, width=width))
    facts = MediaFacts(
        path=key,
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
    times = np.array(layout.frame_times)
    return Clip(made.frames, times, layout.effective_fps, made.audio, facts)


_SEARCHED, _SEARCHED_AT_LEAST = 50, 1500  # questions looked at for one of a kind, and in all


def _items(
    maker: Callable[[int, int], SyntheticClip | ScriptedClipMaker],
    count: int,
    seed: int,
    only: Collection[str],
) -> tuple[Item, ...]:
    """The first `count` questions about the clips of a seed, of some families or kinds of clips."""
    if count < 1:
        raise UsageError(f"A question set needs at least 1 question, not {count}.")
    if seed < 0:
        raise UsageError(f"The seed of a generated set must not be negative, got {seed}.")
    items = (item for index in itertools.count() for item in maker(seed, index).items())
    if only:
        looked = islice(items, max(count * _SEARCHED, _SEARCHED_AT_LEAST))
        items = (item for item in looked if item.family in only or item.kind in only)
    return tuple(islice(items, count))


def synthetic_set(
    count: int = DEFAULT_COUNT, *, seed: int = DEFAULT_SEED, only: Collection[str] = ()
) -> QuestionSet:
    """The bundled set.

    Parameters
    ----------
    count : int
        Number of questions, at least 1.
    seed : int
        Another seed gives other clips and other ids.
    only : collection of str
        Families or kinds of clips; all by default. Of rare ones, fewer than `count` may be found.

    Raises
    ------
    UsageError
        If there would be no question or the seed is negative.
    """
    items = _items(SyntheticClip, count, seed, only)
    protocol = EvalProtocol(choice_style="likelihood", max_new_tokens=16)
    return QuestionSet("synthetic", items, protocol)


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


# ---------------------------------------------- the second set: scripted clips

SCRIPTED_SEED = 3026  # no training run draws from it
SCRIPTED_COUNT = 1500
_SCRIPTED_DURATIONS = {
    "short": (4.0, 8.0, 1.0),
    "medium": (8.0, 16.0, 1.0),
    "long": (16.0, 60.0, 2.5),
    "moment": (12.0, 60.0, 2.5),
}
# Every clip is drawn for one of these families, until it can be asked, so that there are enough
# questions of each; the plots are those that allow it most often.
_WANTED: Mapping[str, tuple[str, ...]] = {
    "cards": ("color_when_said", "said_at_picture", "sound_at_picture", "color_at_sound"),
    "texts": ("print_when_said", "same_word", "printed_order", "print_at_sound", "printed_word"),
    "hops": ("place_when_said", "said_while_place", "place_in_time"),
    "single": ("shape_at_sound", "color_order"),
    "scatter": ("object_count", "is_there", "spoken_order"),
    "compass": ("word_at_place", "color_at_place", "shape_at_place", "place"),
    "mover": ("moving_color", "direction", "beep_count", "spoken_count"),
}
_OF_MOMENTS = ("cards", "texts", "hops")  # plots in which one short shot can decide
_TRIES = 20
_HELD_OUT = 0.5  # share of clips whose voices and fonts no training clip has
# How often a family is asked beside the wanted one: seldom where one glance or sound is enough.
_SCRIPTED_WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("spoken_word", "place_in_time", "is_there", "place_when_said"), 0.4),
    **dict.fromkeys(("color", "shape", "motion", "first_color", "last_color", "pitch"), 0.4),
    **dict.fromkeys(("color_of_shape", "shape_of_color", "place", "color_count"), 0.4),
}


@dataclass(frozen=True)
class ScriptedClipMaker:
    """Clip number `index` of the second set with the given seed."""

    seed: int
    index: int

    @property
    def key(self) -> str:
        """Names the clip."""
        return f"scripted-{self.seed}/{self.index:05d}"

    @property
    def kind(self) -> str:
        """One of "short", "medium", "long" and "moment"."""
        return _TURNS[self.index % len(_TURNS)]

    @cached_property
    def _drawn(self) -> tuple[Script, Truths, str, np.random.Generator]:
        """The script, what may be asked, the wanted family, and the chance left for questions."""
        rng = np.random.default_rng([2, self.seed, self.index])
        layout = _layout(rng, _SCRIPTED_DURATIONS[self.kind], WIDE_FRAME_SIZES)
        held_out, is_moment = bool(rng.random() < _HELD_OUT), self.kind == "moment"
        plots = _OF_MOMENTS if is_moment else tuple(_WANTED)
        wanted = [(plot, family) for plot in plots for family in _WANTED[plot]]
        plot, family = wanted[int(rng.integers(len(wanted)))]
        for _ in range(_TRIES):
            script = draft_script(
                rng,
                layout,
                1.0,
                plot=plot,
                moment=is_moment,
                voices=HELD_OUT_VOICES if held_out else TRAINING_VOICES,
                fonts=HELD_OUT_FONTS if held_out else TRAINING_FONTS,
            )
            truths = links.thinned(rng, links.truths_of(script))
            if family in truths:
                break
        return script, truths, family, rng

    @property
    def script(self) -> Script:
        """What the clip shows and plays."""
        return self._drawn[0]

    def open(self, sizing: FrameSizing) -> Clip:
        """Paint the frames, as large as a file of this shape would be read, and the sound."""
        script = self.script

        def render(layout: Layout) -> ScriptedClip:
            return render_script(replace(script, layout=layout))

        return _clip(self.key, script.layout, sizing, render)

    def items(self) -> tuple[Item, ...]:
        """The clip's questions, up to `QUESTIONS_PER_CLIP` of different families."""
        _, truths, wanted, rng = self._drawn
        rng = deepcopy(rng)
        families = sorted(truths)
        shares = np.array([_SCRIPTED_WEIGHTS.get(family, 1.0) for family in families])
        shares[[family == wanted for family in families]] = 1e6
        count = min(QUESTIONS_PER_CLIP, len(families))
        chosen = rng.choice(len(families), size=count, replace=False, p=shares / shares.sum())
        return tuple(
            self._item(rng, families[index], truths[families[index]], place)
            for place, index in enumerate(chosen)
        )

    def _item(
        self, rng: np.random.Generator, family: str, truths: Sequence[Truth], place: int
    ) -> Item:
        question = links.ask(rng, family, truths, variants=False)
        answer, choices = question.answer, tuple[str, ...]()
        if (self.index + place) % _WITH_OPTIONS == 0:
            answer, choices = mixed_options(rng, answer, _rivals(rng, question))
        return Item(
            id=f"scripted-{self.seed}-{self.index * QUESTIONS_PER_CLIP + place:05d}",
            media=self,
            question=question.text,
            answer=answer,
            choices=choices,
            family=family,
            kind=self.kind,
            meta={
                "duration_s": self.script.layout.duration,
                "decisive": None if question.decisive is None else asdict(question.decisive),
                "evidence": [asdict(part) for part in question.evidence],
            },
        )


def _rivals(rng: np.random.Generator, question: links.Question) -> Iterator[str]:
    """Wrong answers, those that the clip suggests first; may repeat or be right."""
    if question.family.endswith("_order"):
        yield from other_orders(rng, question.answer, answers_of(question.family))
        return
    yield from in_random_order(rng, question.rivals)
    names = answers_of(question.family)
    yield from in_random_order(
        rng, DIGITS if question.answer in DIGITS and names is WORDS else names
    )


def scripted_set(
    count: int = SCRIPTED_COUNT, *, seed: int = SCRIPTED_SEED, only: Collection[str] = ()
) -> QuestionSet:
    """The second set: small things, printed and spoken words, frames as the 7B reads them.

    Parameters and errors as of `synthetic_set`.
    """
    items = _items(ScriptedClipMaker, count, seed, only)
    protocol = EvalProtocol(choice_style="likelihood", max_new_tokens=24)
    return QuestionSet("scripted", items, protocol)
