"""The bundled set: questions about generated clips, with distractors that are easy to mistake."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from seats_cli.world.clips import draft_script, render_script
from seats_cli.world.layouts import WIDE_FRAME_SIZES, Layout, file_layout, weighted_choice
from seats_cli.world.lettering import HELD_OUT_FONTS, TRAINING_FONTS
from seats_cli.world.script import Script
from seats_cli.world.truths import Truth, Truths
from seats_cli.world.voices import HELD_OUT_VOICES, TRAINING_VOICES, WORDS
from seats_cli.world.wording import DIGITS, answers_of

# ------------------------------------------------------------------ what the set is
# Each of these decides which questions there are: who changes one gives the set another seed, or
# results from before and after it would be taken for the same.

SYNTHETIC = "synthetic"  # the set's name
DEFAULT_SEED = 3026  # no training run draws from it
DEFAULT_COUNT = 1500
QUESTIONS_PER_CLIP = 2  # at most, each of another family
# Kinds of clips in turn, and their shortest and longest duration in seconds.
_TURNS = ("short", "medium", "moment", "short", "long", "short", "medium", "moment", "short")
CLIP_KINDS = ("short", "medium", "long", "moment")
_DURATIONS = {  # a power above 1 skews lengths to the shortest
    "short": (4.0, 8.0, 1.0),
    "medium": (8.0, 16.0, 1.0),
    "long": (16.0, 60.0, 2.5),
    "moment": (12.0, 60.0, 2.5),
}
_SOURCE_RATES = (12.0, 15.0, 25.0)  # frames per second of the files that the clips stand for
# Every clip is drawn for one plot and for one of its families, until it can be asked, so that
# there are enough questions of each.
_WANTED: Mapping[str, tuple[str, ...]] = {
    "cards": ("sound_at_picture", "color_at_sound", "said_at_picture"),
    "texts": ("printed_word", "printed_number", "color_of_word", "print_when_said", "same_word"),
    "hops": ("place_in_time", "place_when_said", "said_while_place"),
    "single": ("color_when_said", "shape_at_sound"),
    "scatter": ("is_there", "spoken_order"),
    "compass": ("shape_at_place", "place", "word_at_place"),
    "mover": ("moving_color", "direction", "spoken_count", "beep_count"),
}
# Plots of the kinds: what lasts for all of a long clip is found by any choice of tokens, and so is
# a card, which fills the frame.
_PLOTS: Mapping[str, tuple[str, ...]] = {
    "short": ("texts", "hops", "single", "scatter", "compass", "mover"),
    "medium": ("texts", "hops", "single"),
    "long": ("texts", "hops", "single"),
    "moment": ("texts", "hops", "cards"),
}
_TRIES = 20  # scripts drawn for the wanted family before another one has to do
# How often a family is asked beside the wanted one (1 if not named): seldom where one glance or
# sound is enough.
_WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("color", "shape", "sound_kind"), 0.1),
    **dict.fromkeys(("color_at_sound", "sound_at_picture"), 0.3),
    **dict.fromkeys(("first_color", "last_color", "color_of_shape"), 0.5),
    **dict.fromkeys(("printed_word", "place_in_time", "is_there", "place"), 2.0),
    "spoken_word": 0.05,
}
# Families that are asked by name only, those that the bundled model does not know well enough to
# compare methods on. Else no clip is drawn for them either.
_LEFT_OUT: frozenset[str] = frozenset(
    {"beep_count", "object_count", "color_count", "spoken_count", "direction", "motion"}
    | {"color_order", "printed_order", "spoken_order", "printed_number", "color_of_word"}
    | {"said_at_picture", "said_while_place", "place_when_said", "word_at_place"}
    | {"print_when_said", "print_at_sound", "same_word", "shape_at_sound"}
)
_WITH_OPTIONS = 3  # every third question has options
_HELD_OUT = 0.5  # share of clips whose voices and fonts no training clip has
_STREAM = 2  # the set's own clips, also where somebody else draws by the same (seed, index)
_SEARCHED, _SEARCHED_AT_LEAST = 50, 1500  # questions looked at for one of `only`, and in all


@dataclass(frozen=True)
class SyntheticClip:
    """Clip number `index` of the set with the given seed.

    `also` are families that the set leaves out, and that are asked nevertheless: other clips.
    """

    seed: int
    index: int
    also: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """Names the clip."""
        return f"{self._set}/{self.index:05d}"

    @property
    def _set(self) -> str:
        return "+".join((f"{SYNTHETIC}-{self.seed}", *sorted(self.also)))

    @property
    def kind(self) -> str:
        """One of `CLIP_KINDS`."""
        return _TURNS[self.index % len(_TURNS)]

    @cached_property
    def _drawn(self) -> tuple[Script, Truths, str, np.random.Generator]:
        """The script, what may be asked, the wanted family, and the chance left for questions."""
        rng = np.random.default_rng([_STREAM, self.seed, self.index])
        left_out = _LEFT_OUT - self.also
        layout = _layout(rng, self.kind)
        held_out, is_moment = bool(rng.random() < _HELD_OUT), self.kind == "moment"
        wanted = {
            plot: families
            for plot in _PLOTS[self.kind]
            if (families := tuple(name for name in _WANTED[plot] if name not in left_out))
        }
        plot = str(rng.choice(list(wanted)))
        family = str(rng.choice(wanted[plot]))
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
        askable = {name: facts for name, facts in truths.items() if name not in left_out}
        return script, askable, family, rng

    @property
    def script(self) -> Script:
        """What the clip shows and plays."""
        return self._drawn[0]

    def open(self, sizing: FrameSizing) -> Clip:
        """Paint the frames, as large as a file of this shape would be read, and the sound."""
        layout = self.script.layout
        count = len(layout.frame_times)
        height, width = frame_size(layout.height, layout.width, count, sizing)
        sized = replace(layout, height=height, width=width)
        made = render_script(replace(self.script, layout=sized))
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
        times = np.array(layout.frame_times)
        return Clip(made.frames, times, layout.effective_fps, made.audio, facts)

    def items(self) -> tuple[Item, ...]:
        """The clip's questions, up to `QUESTIONS_PER_CLIP` of different families."""
        _, truths, wanted, rng = self._drawn
        if not truths:
            return ()
        # The generator is used up by asking: a copy gives the same questions every time.
        rng = deepcopy(rng)
        families = sorted(truths)
        shares = np.array([_WEIGHTS.get(family, 1.0) for family in families])
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
            id=f"{self._set}-{self.index * QUESTIONS_PER_CLIP + place:05d}",
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


def _layout(rng: np.random.Generator, kind: str) -> Layout:
    """Draw how a file with a clip of this kind is sampled."""
    rate = float(rng.choice(_SOURCE_RATES))
    low, high, power = _DURATIONS[kind]
    duration = round((low + float(rng.random()) ** power * (high - low)) * rate) / rate
    size = weighted_choice(rng, WIDE_FRAME_SIZES)
    return file_layout(duration, size, rate, audio_seconds=duration)


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


def synthetic_set(
    count: int = DEFAULT_COUNT, *, seed: int = DEFAULT_SEED, only: Collection[str] = ()
) -> QuestionSet:
    """The bundled set: small things, printed and spoken words, frames as the 7B reads them.

    Parameters
    ----------
    count : int
        Number of questions, at least 1.
    seed : int
        Another seed gives other clips and other ids.
    only : collection of str
        Families or kinds of clips; all by default. Of rare ones, fewer than `count` may be found.
        Families that the set leaves out are asked if they are named, about other clips.

    Raises
    ------
    UsageError
        If there would be no question or the seed is negative.
    """
    if count < 1:
        raise UsageError(f"A question set needs at least 1 question, not {count}.")
    if seed < 0:
        raise UsageError(f"The seed of a generated set must not be negative, got {seed}.")
    names = frozenset(only)
    clips = (SyntheticClip(seed, index, names & _LEFT_OUT) for index in itertools.count())
    items = (item for clip in clips for item in clip.items())
    if only:
        looked = islice(items, max(count * _SEARCHED, _SEARCHED_AT_LEAST))
        items = (item for item in looked if item.family in names or item.kind in names)
    protocol = EvalProtocol(choice_style="likelihood", max_new_tokens=24)
    return QuestionSet(SYNTHETIC, tuple(islice(items, count)), protocol)
