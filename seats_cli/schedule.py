"""What the engine carries out: the resolved plan, and the retention arithmetic behind it.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import exp, fsum, isfinite
from typing import Any

from seats_cli.errors import ConfigError

RATIO_DECIMALS = 4


def active_layers(
    num_layers: int, drop_layers: Sequence[int], late_layer: int | None
) -> tuple[list[int], int]:
    """Drop layers that take effect, and the last layer that sees any audio-visual token.

    Parameters
    ----------
    num_layers : int
        Decoder layers L.
    drop_layers : sequence of int
        1-based layers after which tokens are dropped, in any order.
    late_layer : int | None
        First layer without audio-visual tokens; None for no late block.

    Returns
    -------
    steps : list of int
        The drop layers below the last audio-visual layer, ascending. A drop right after that
        layer would coincide with the late removal (or with the end of the model).
    last_layer : int
        `min(late_layer - 1, num_layers)`.
    """
    last_layer = num_layers if late_layer is None else min(late_layer - 1, num_layers)
    return sorted(layer for layer in drop_layers if layer < last_layer), last_layer


def alive_fractions(initial: float, steps: int, strength: float) -> list[float]:
    """Fractions alive before the first drop step and after each one.

    Parameters
    ----------
    initial : float
        Fraction N_0 alive after Stage I.
    steps : int
        Number of drop steps K.
    strength : float
        Share t in [0, 1] of N_0 that all steps together remove; step i takes the part
        `e**(i-1) / sum(e**(k-1))` of it, so that deeper steps remove exponentially more.

    Returns
    -------
    list of float
        N_0, N_1, ..., N_K.
    """
    weights = [exp(step) for step in range(steps)]
    total = fsum(weights)
    removed = accumulate((weight / total for weight in weights), initial=0.0)
    return [initial * (1.0 - strength * share) for share in removed]


def average_of_fractions(
    fractions: Sequence[float],
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> float:
    """Average retention over all layers when `fractions` are alive between the drop steps.

    Parameters
    ----------
    fractions : sequence of float
        N_0 ... N_K, one more than there are effective drop layers.
    num_layers, drop_layers, late_layer
        As for `active_layers`.

    Returns
    -------
    float
        Mean over the L layers of the fraction of a modality's tokens alive in the layer.

    Raises
    ------
    ValueError
        If the number of fractions does not fit the number of effective drop layers.
    """
    steps, last_layer = active_layers(num_layers, drop_layers, late_layer)
    if len(fractions) != len(steps) + 1:
        raise ValueError(
            f"fractions has {len(fractions)} values; {len(steps)} effective drop layers "
            f"need {len(steps) + 1}"
        )
    bounds = [0, *steps, last_layer]
    spans = [end - start for start, end in pairwise(bounds)]
    return fsum(n * span for n, span in zip(fractions, spans, strict=True)) / num_layers


def average_retention(
    initial: float,
    ratios: Sequence[float],
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> float:
    """Average retention that an initial fraction and keep ratios result in.

    Parameters
    ----------
    initial : float
        Fraction alive after Stage I.
    ratios : sequence of float
        Keep ratio of each effective drop step.
    num_layers, drop_layers, late_layer
        As for `active_layers`.

    Returns
    -------
    float
        Mean over all layers of the fraction alive, before rounding to whole tokens.
    """
    fractions = list(accumulate(ratios, lambda alive, ratio: alive * ratio, initial=initial))
    return average_of_fractions(fractions, num_layers, drop_layers, late_layer)


def reachable_range(
    initial: float, num_layers: int, drop_layers: Sequence[int], late_layer: int | None
) -> tuple[float, float]:
    """Lowest and highest average retention that drop steps can give from `initial`.

    Parameters
    ----------
    initial : float
        Fraction alive after Stage I.
    num_layers, drop_layers, late_layer
        As for `active_layers`.

    Returns
    -------
    lowest, highest : float
        Averages when the steps remove everything and nothing; equal without drop steps.
    """
    steps, _ = active_layers(num_layers, drop_layers, late_layer)
    lowest, highest = (
        average_of_fractions(
            alive_fractions(initial, len(steps), strength), num_layers, drop_layers, late_layer
        )
        for strength in (1.0, 0.0)
    )
    return lowest, highest


def keep_ratios(
    target: float,
    initial: float,
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> list[float]:
    """Keep ratio of each drop step so that the average over all layers equals `target`.

    The average is linear in the removal strength t, so t follows directly; it is clamped to
    [0, 1] where the target is out of reach (see `reachable_range`).

    Parameters
    ----------
    target : float
        Average retention R of the modality, a fraction.
    initial : float
        Fraction alive after Stage I. Values above 1 are taken as they are.
    num_layers : int
        Decoder layers L.
    drop_layers : sequence of int
        1-based layers after which tokens are dropped; those at or beyond the late removal
        are ignored.
    late_layer : int | None
        First layer without audio-visual tokens; None for no late block.

    Returns
    -------
    list of float
        Fraction of the tokens alive before each effective step that stays, rounded to 4
        decimals.
    """
    steps, _ = active_layers(num_layers, drop_layers, late_layer)
    lowest, highest = reachable_range(initial, num_layers, drop_layers, late_layer)
    spread = highest - lowest
    strength = min(1.0, max(0.0, (highest - target) / spread)) if spread > 0 else 0.0
    fractions = alive_fractions(initial, len(steps), strength)
    return [
        round(after / before, RATIO_DECIMALS) if before > 0 else 0.0
        for before, after in pairwise(fractions)
    ]


GLOBAL = "global"
ALLOCATIONS = ("reference", "adaptive", "adaptive-contrast", "adaptive-floor", GLOBAL)
KV_POLICIES = ("layerwise", "survivors")

# The method with a schedule of its own, and the one that keeps everything.
SEATS, FULL = "seats", "full"


def check_fraction(name: str, value: Any) -> None:
    """Refuse anything but a number in (0, 1]."""
    if not _is_number(value) or not 0.0 < value <= 1.0:
        raise ConfigError(f"{name} must be above 0 and at most 1, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Refuse anything but a finite number above 0."""
    if not _is_number(value) or not value > 0.0:
        raise ConfigError(f"{name} must be a number above 0, got {value!r}.")


def check_integer(name: str, value: Any, minimum: int) -> None:
    """Refuse anything but an integer of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name} must be a whole number of at least {minimum}, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Refuse anything but a number from 0 up to but not including 1."""
    if not _is_number(value) or not 0.0 <= value < 1.0:
        raise ConfigError(f"{name} must be at least 0 and below 1, got {value!r}.")


def check_levels(name: str, value: Any) -> None:
    """Refuse anything but a number of grey levels, 0 to 255."""
    if not _is_number(value) or not 0.0 <= value <= 255.0:
        raise ConfigError(f"{name} must be a number of grey levels, 0 to 255, got {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse anything but one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def check_name(name: str, value: Any) -> None:
    """Refuse anything but a non-empty string."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be a name, got {value!r}.")


def check_increasing(name: str, layers: Sequence[Any]) -> None:
    """Refuse anything but strictly increasing layer numbers from 1."""
    for layer in layers:
        check_integer(f"each of {name}", layer, 1)
    if any(first >= second for first, second in pairwise(layers)):
        raise ConfigError(f"{name} must be strictly increasing, got {list(layers)}.")


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """A list or tuple as a tuple; anything else is refused."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} must be a list, got {value!r}.")
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


@dataclass(frozen=True)
class PruningPlan:
    """Everything the engine needs to prune one prefill (arXiv 2605.20035).

    Lists are accepted where tuples are named. Layers are numbered from 1. The schedule (initial
    fractions, drop layers, keep ratios, late layer) is that of SEATS; other methods work from
    the targets and their own options.

    Parameters
    ----------
    initial_video, initial_audio : float
        Fraction of each modality's tokens that enters the LLM (Stage I), in (0, 1].
    drop_layers : tuple of int
        Layers after which Stage II drops tokens, strictly increasing, before the last layer
        that still sees audio-visual tokens.
    keep_video, keep_audio : tuple of float
        For each drop layer, the fraction of the tokens alive that stays, in (0, 1].
    late_layer : int | None
        First layer of the late block: all remaining audio-visual tokens leave after layer
        `late_layer - 1`. At least 2, for the model has to see them once. None: no late block.
    temperature : float
        Softmax temperature of the window budgets.
    allocation : str
        Window budgets: "reference" (as published), or with exact totals and free of scale
        "adaptive" (in proportion to relevance), "adaptive-contrast" (softmax of its standardised
        logarithm), "adaptive-floor" (half of it evenly) or "global" (no windows).
    kv : str
        KV cache: "layerwise" keeps what each layer saw, "survivors" removes dropped tokens
        from all layers.
    video_window : int
        Temporal grids in a window of Stage I.
    audio_window : int
        Audio tokens in a window of Stage I.
    method : str
        Selection method.
    num_layers : int | None
        Decoder layers of the model, where known; see `for_layers`.
    target_video, target_audio : float | None
        Average retention over all layers that was asked for; None: the initial fraction.
    contextual_ratio : float
        VisionZip: fraction of the tokens that is kept as averages of tokens that leave.
    fastv_layer : int
        FastV: the layer after which it drops.
    seed : int
        Of methods that draw at random.
    still_tolerance : float | None
        Stage 0: change in grey levels up to which a place of the picture is not encoded again;
        None encodes everything.

    Raises
    ------
    ConfigError
        If a value is out of range or the values contradict each other.
    """

    initial_video: float
    initial_audio: float
    drop_layers: tuple[int, ...] = ()
    keep_video: tuple[float, ...] = ()
    keep_audio: tuple[float, ...] = ()
    late_layer: int | None = None
    temperature: float = 0.1
    allocation: str = "reference"
    kv: str = "layerwise"
    video_window: int = 2
    audio_window: int = 50
    method: str = SEATS
    num_layers: int | None = None
    target_video: float | None = None
    target_audio: float | None = None
    contextual_ratio: float = 0.0
    fastv_layer: int = 2
    seed: int = 0
    still_tolerance: float | None = None

    def __post_init__(self) -> None:
        for name in ("drop_layers", "keep_video", "keep_audio"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        check_fraction("initial_video", self.initial_video)
        check_fraction("initial_audio", self.initial_audio)
        check_positive("temperature", self.temperature)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_choice("kv", self.kv, KV_POLICIES)
        check_integer("video_window", self.video_window, 1)
        check_integer("audio_window", self.audio_window, 1)
        check_name("method", self.method)
        for name in ("target_video", "target_audio"):
            if getattr(self, name) is not None:
                check_fraction(name, getattr(self, name))
        check_share("contextual_ratio", self.contextual_ratio)
        check_integer("fastv_layer", self.fastv_layer, 1)
        check_integer("seed", self.seed, 0)
        if self.still_tolerance is not None:
            check_levels("still_tolerance", self.still_tolerance)
        self._check_ratios()
        self._check_layers()

    def _check_ratios(self) -> None:
        for name, ratios in (("keep_video", self.keep_video), ("keep_audio", self.keep_audio)):
            if len(ratios) != len(self.drop_layers):
                raise ConfigError(
                    f"{name} has {len(ratios)} values for {len(self.drop_layers)} drop layers; "
                    "it needs one for each."
                )
            for ratio in ratios:
                check_fraction(f"each of {name}", ratio)

    def _check_layers(self) -> None:
        check_increasing("drop_layers", self.drop_layers)
        if self.late_layer is not None:
            check_integer("late_layer", self.late_layer, 2)
        if self.num_layers is not None:
            check_integer("num_layers", self.num_layers, 1)
            if self.late_layer is not None and self.late_layer > self.num_layers:
                raise ConfigError(
                    f"late_layer is {self.late_layer}, but the model has {self.num_layers} "
                    "layers; use none for no late block."
                )
        if not self.drop_layers:
            return
        last_drop = self.drop_layers[-1]
        if self.late_layer is not None and last_drop >= self.late_layer - 1:
            raise ConfigError(
                f"drop_layers contains {last_drop}, but the late block from layer "
                f"{self.late_layer} removes every audio-visual token after layer "
                f"{self.late_layer - 1}; drop layers must be below {self.late_layer - 1}."
            )
        if self.num_layers is not None and last_drop >= self.num_layers:
            raise ConfigError(
                f"drop_layers contains {last_drop}, but the model has {self.num_layers} layers; "
                f"drop layers must be below {self.num_layers}."
            )

    @property
    def retention_video(self) -> float:
        """Average retention asked for the video."""
        return self.initial_video if self.target_video is None else self.target_video

    @property
    def retention_audio(self) -> float:
        """Average retention asked for the audio."""
        return self.initial_audio if self.target_audio is None else self.target_audio

    @property
    def prunes(self) -> bool:
        """False if every audio-visual token stays in every layer."""
        if self.method == FULL:
            return False
        if self.method != SEATS:
            return min(self.retention_video, self.retention_audio) < 1.0
        ratios = (self.initial_video, self.initial_audio, *self.keep_video, *self.keep_audio)
        return self.late_layer is not None or min(ratios) < 1.0

    def for_layers(self, num_layers: int) -> PruningPlan:
        """The same plan, checked against a model's depth.

        Raises
        ------
        ConfigError
            If a layer lies outside the model.
        """
        return replace(self, num_layers=num_layers)
