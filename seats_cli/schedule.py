"""What the engine carries out: the retention arithmetic, and the plan that comes of it.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate, pairwise
from math import ceil, exp, floor, fsum
from typing import Any

from seats_cli.config import (
    FULL,
    NO_LATE_BLOCK,
    SeatsConfig,
    as_tuple,
    check_fraction,
    check_increasing,
    check_integer,
    check_positive,
    is_scheduled,
)
from seats_cli.errors import ConfigError
from seats_cli.families.base import Architecture
from seats_cli.families.registry import family_of

RATIO_DECIMALS = 4

# A target may miss the reachable range by this share of itself before it is refused: keep
# ratios are rounded to 4 decimals and counts to whole tokens, which costs as much.
_SLACK = 0.005
_SMALLEST_RATIO = 10.0**-RATIO_DECIMALS


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


def _alive_fractions(initial: float, steps: int, strength: float) -> list[float]:
    """Fractions N_0, ..., N_K alive before the first of K drop steps and after each one.

    All steps together remove the share `strength` of N_0. Step i takes the part
    `e**(i-1) / sum(e**(k-1))` of it, so that deeper steps remove exponentially more.
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
            _alive_fractions(initial, len(steps), strength), num_layers, drop_layers, late_layer
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
    fractions = _alive_fractions(initial, len(steps), strength)
    return [
        round(after / before, RATIO_DECIMALS) if before > 0 else 0.0
        for before, after in pairwise(fractions)
    ]


@dataclass(frozen=True)
class PruningPlan:
    """A configuration worked out for a model: what the engine needs to prune one prefill.

    `resolve` makes one; recorded runs and tests give the numbers themselves. Lists are accepted
    where tuples are named, layers are numbered from 1. The schedule (initial fractions, drop
    layers, keep ratios, late layer) is that of SEATS (arXiv 2605.20035); other methods work
    from the targets and their own options.

    Parameters
    ----------
    initial_video, initial_audio : float
        Fraction of each modality's tokens that enters the LLM (Stage I), in (0, 1].
    drop_layers : tuple of int
        Layers after which Stage II drops tokens, strictly increasing, before the last layer
        that still sees audio-visual tokens.
    keep_video, keep_audio : tuple of float
        For each drop layer, the fraction of the tokens alive that stays, in (0, 1].
    late_layer : int or None
        First layer of the late block: all remaining audio-visual tokens leave after layer
        `late_layer - 1`. At least 2, for the model has to see them once. None: no late block.
    temperature : float
        Softmax temperature of the window budgets.
    num_layers : int or None
        Decoder layers of the model, where known; see `for_layers`.
    target_video, target_audio : float or None
        Requested average retention over all layers; None: the initial fraction.
    config : SeatsConfig
        The request, already checked. What needs no model (method, windows, allocation,
        KV policy, seed, Stage 0, options of methods) is read from here.

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
    num_layers: int | None = None
    target_video: float | None = None
    target_audio: float | None = None
    config: SeatsConfig = field(default_factory=SeatsConfig)

    def __post_init__(self) -> None:
        for name in ("drop_layers", "keep_video", "keep_audio"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        check_fraction("initial_video", self.initial_video)
        check_fraction("initial_audio", self.initial_audio)
        check_positive("temperature", self.temperature)
        for name in ("target_video", "target_audio"):
            if getattr(self, name) is not None:
                check_fraction(name, getattr(self, name))
        for name, ratios in (("keep_video", self.keep_video), ("keep_audio", self.keep_audio)):
            if len(ratios) != len(self.drop_layers):
                raise ConfigError(
                    f"{name} has {len(ratios)} values for {len(self.drop_layers)} drop layers; "
                    "it needs one for each."
                )
            for ratio in ratios:
                check_fraction(f"each of {name}", ratio)
        check_layers(self.num_layers, self.drop_layers, self.late_layer)

    @classmethod
    def resolve(cls, config: SeatsConfig, architecture: Architecture) -> PruningPlan:
        """Work out every number for a model.

        When both retentions are 1 and no late block is requested, nothing is pruned. The
        schedule of drop layers and the late block belong to SEATS and its variants
        (`Method.scheduled`): for other methods the plan only carries the targets.

        Parameters
        ----------
        architecture : Architecture
            The model's depth, family and default layers.

        Returns
        -------
        PruningPlan
            Initial fractions `min(1, encoder_scale * R)` and keep ratios whose average over
            the layers is R.

        Raises
        ------
        ConfigError
            If a retention cannot be reached with these layers, or the layers do not fit.
        """
        # 1. The requested average retention, and what does not depend on the method.
        depth = architecture.num_layers
        video, audio = config.targets(architecture.family, architecture.retention_pairs)
        if config.method == FULL:
            video = audio = 1.0
        plan = partial(
            cls,
            temperature=config.temperature or architecture.temperature,
            num_layers=depth,
            target_video=video,
            target_audio=audio,
            config=config,
        )
        # 2. Other methods have no schedule, and neither has SEATS where everything stays.
        everything = video == audio == 1.0 and config.late_layer in (None, NO_LATE_BLOCK)
        if config.method == FULL or everything or not is_scheduled(config.method):
            return plan(1.0, 1.0)
        # 3. The layers come first: what can be reached depends on them.
        drop_layers, late_layer = _resolve_layers(config, architecture)
        where = (depth, drop_layers, late_layer)
        check_layers(*where)
        # 4. Fractions of either modality that meet its target.
        initial_video, keep_video = _solve("retain_video", video, config.encoder_scale, *where)
        initial_audio, keep_audio = _solve("retain_audio", audio, config.encoder_scale, *where)
        return plan(initial_video, initial_audio, drop_layers, keep_video, keep_audio, late_layer)

    @property
    def retention_video(self) -> float:
        """Requested average retention of the video."""
        return self.initial_video if self.target_video is None else self.target_video

    @property
    def retention_audio(self) -> float:
        """Requested average retention of the audio."""
        return self.initial_audio if self.target_audio is None else self.target_audio

    @property
    def prunes(self) -> bool:
        """False if every audio-visual token stays in every layer."""
        if self.config.method == FULL:
            return False
        return self.has_schedule or min(self.retention_video, self.retention_audio) < 1.0

    @property
    def has_schedule(self) -> bool:
        """Whether its own numbers, and not the method, say what leaves where."""
        ratios = (self.initial_video, self.initial_audio, *self.keep_video, *self.keep_audio)
        return self.late_layer is not None or min(ratios) < 1.0

    def for_layers(self, num_layers: int) -> PruningPlan:
        """The same plan, checked against a model's depth.

        Raises
        ------
        ConfigError
            If a layer lies outside the model.
        """
        return self if num_layers == self.num_layers else replace(self, num_layers=num_layers)

    def to_dict(self) -> dict[str, Any]:
        """The plan as one flat table, with what its configuration says about the run."""
        resolved = {item.name: getattr(self, item.name) for item in fields(self)}
        config = resolved.pop("config")
        names = ("allocation", "kv", "video_window", "audio_window", "method", "seed")
        skips = ("still_tolerance", "encoder_reuse", "encoder_keep")
        return {
            **resolved,
            **{name: getattr(config, name) for name in (*names, *skips)},
            **config.options,
        }


def check_layers(
    num_layers: int | None, drop_layers: Sequence[int], late_layer: int | None
) -> None:
    """Refuse layers that contradict each other or lie outside the model.

    Parameters
    ----------
    num_layers : int or None
        Decoder layers, where they are known.
    drop_layers, late_layer
        As for `PruningPlan`.

    Raises
    ------
    ConfigError
    """
    check_increasing("drop_layers", drop_layers)
    if late_layer is not None:
        check_integer("late_layer", late_layer, 2)
    if num_layers is not None:
        check_integer("num_layers", num_layers, 1)
        if late_layer is not None and late_layer > num_layers:
            raise ConfigError(
                f"late_layer is {late_layer}, but the model has {num_layers} layers; use none "
                "for no late block."
            )
    if not drop_layers:
        return
    last_drop = drop_layers[-1]
    if late_layer is not None and last_drop >= late_layer - 1:
        raise ConfigError(
            f"drop_layers contains {last_drop}, but the late block from layer {late_layer} "
            f"removes every audio-visual token after layer {late_layer - 1}; drop layers must "
            f"be below {late_layer - 1}."
        )
    if num_layers is not None and last_drop >= num_layers:
        raise ConfigError(
            f"drop_layers contains {last_drop}, but the model has {num_layers} layers; drop "
            f"layers must be below {num_layers}."
        )


def default_layers(architecture: Architecture) -> tuple[tuple[int, ...], int | None]:
    """Drop layers and late layer of SEATS for a model: its own, else its family's."""
    drop_layers, late_layer = architecture.drop_layers, architecture.late_layer
    if not drop_layers and late_layer is None:
        return family_of(architecture).default_layers(architecture.num_layers)
    return drop_layers, late_layer


def _resolve_layers(
    config: SeatsConfig, architecture: Architecture
) -> tuple[tuple[int, ...], int | None]:
    """Drop layers and late layer: the user's, else the model's that fit."""
    depth = architecture.num_layers
    drop_layers, late_layer = default_layers(architecture)
    if config.late_layer is not None:
        late_layer = None if isinstance(config.late_layer, str) else config.late_layer
    if config.drop_layers is not None:
        return config.drop_layers, late_layer
    return tuple(active_layers(depth, drop_layers, late_layer)[0]), late_layer


def _solve(
    name: str,
    target: float,
    scale: float,
    num_layers: int,
    drop_layers: tuple[int, ...],
    late_layer: int | None,
) -> tuple[float, tuple[float, ...]]:
    """Initial fraction and keep ratios of one modality.

    Raises
    ------
    ConfigError
        If the target cannot be reached, with a remedy.
    """
    where = (num_layers, drop_layers, late_layer)
    if not drop_layers:
        # Only the initial fraction is left to meet the target.
        scale = 1.0 / reachable_range(1.0, *where)[1]
    initial = min(1.0, scale * target)
    lowest, highest = reachable_range(initial, *where)
    if lowest - _SLACK * target <= target <= highest + _SLACK * target:
        ratios = keep_ratios(target, initial, *where)
        return initial, tuple(max(_SMALLEST_RATIO, ratio) for ratio in ratios)
    layers = ", ".join(str(layer) for layer in drop_layers) or "none"
    late = "no late block" if late_layer is None else f"the late block at {late_layer}"
    facts = (
        f"{name} {target:.3g} is out of reach: with {initial:.1%} of the tokens entering the "
        f"LLM, drop layers {layers} and {late}, the average over {num_layers} layers lies "
        f"between {lowest:.3f} and {highest:.3f}"
    )
    # Advice is rounded towards the reachable side.
    if target < lowest:
        at_most = floor(100 * initial / lowest) / 100
        raise ConfigError(f"{facts}; set encoder_scale to at most {at_most} or drop earlier.")
    if initial < 1.0:
        at_least = ceil(100 * initial / highest) / 100
        raise ConfigError(f"{facts}; set encoder_scale to at least {at_least}.")
    advice = f"ask for at most {floor(100 * highest) / 100}"
    raise ConfigError(f'{facts}; {advice}, or set late_layer to "none".')
