"""What a user asks for, and how it becomes a `PruningPlan` for a model.

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.errors import ConfigError
from seats_cli.families.base import ENCODER_SCALE, PRESETS, Pairs
from seats_cli.families.registry import family_named, family_of
from seats_cli.schedule import (
    ALLOCATIONS,
    FULL,
    KV_POLICIES,
    SEATS,
    PruningPlan,
    active_layers,
    as_tuple,
    check_choice,
    check_fraction,
    check_increasing,
    check_integer,
    check_levels,
    check_name,
    check_positive,
    check_share,
    keep_ratios,
    reachable_range,
)

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".json"):
        raise ConfigError(f"{path} must end in .toml or .json.")
    return suffix


def _parse_toml(text: str) -> Any:
    for name in ("tomllib", "tomli"):  # tomllib is in the standard library from Python 3.11
        try:
            return import_module(name).loads(text)
        except ModuleNotFoundError:
            continue
    raise ConfigError("Reading TOML needs Python 3.11 or the package tomli; a .json file works.")


def read_table(path: Path) -> dict[str, Any]:
    """Read a table.

    Parameters
    ----------
    path : Path
        A .toml or .json file.

    Returns
    -------
    dict
        Its top-level keys and values.

    Raises
    ------
    ConfigError
        If the file cannot be read, is malformed, or holds no table.
    """
    suffix = _suffix(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a regular file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}.") from error
    try:
        table = json.loads(text) if suffix == ".json" else _parse_toml(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not valid {suffix[1:].upper()}: {error}.") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path} must hold a table of settings.")
    return table


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write a flat table of strings, numbers and lists of numbers.

    Parameters
    ----------
    path : Path
        A .toml or .json file; it is replaced.
    table : mapping
        Keys and values.

    Raises
    ------
    ConfigError
        If the extension is neither, or the file cannot be written.
    """
    if _suffix(path) == ".json":
        text = json.dumps(dict(table), indent=2) + "\n"
    else:
        # JSON's notation of these values is valid TOML.
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


DEFAULT_RETAIN = PRESETS["25%"]
NO_LATE_BLOCK = "none"

# A target may miss the reachable range by this share of itself before it is refused: keep
# ratios are rounded to 4 decimals and counts to whole tokens, which costs as much.
_SLACK = 0.005
_SMALLEST_RATIO = 0.0001


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True)
class SeatsConfig:
    """What to keep, in the user's terms; the help of each field is in its metadata.

    Retention is an average over all decoder layers of the fraction of a modality's tokens
    alive in the layer. An overall share stands for the published pair of video and audio
    retention (interpolated between the published shares); `retain_video` and `retain_audio`
    replace either of them.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    retain: float | None = field(
        default=None,
        metadata=_help("Overall share of audio-visual tokens, 0 to 1 (25% if nothing is given)."),
    )
    retain_video: float | None = field(
        default=None, metadata=_help("Average retention of video tokens, 0 to 1.")
    )
    retain_audio: float | None = field(
        default=None, metadata=_help("Average retention of audio tokens, 0 to 1.")
    )
    encoder_scale: float = field(
        default=ENCODER_SCALE,
        metadata=_help(
            "Tokens that enter the LLM, as a multiple of the average retention; without drop "
            "layers the multiple follows from the target."
        ),
    )
    drop_layers: tuple[int, ...] | None = field(
        default=None,
        metadata=_help("Layers after which tokens are dropped; the model's defaults if not set."),
    )
    late_layer: int | str | None = field(
        default=None,
        metadata=_help(
            'First layer without audio-visual tokens, or "none"; the model\'s default if not set.'
        ),
    )
    temperature: float | None = field(
        default=None,
        metadata=_help("Softmax temperature of window budgets; the model's default if not set."),
    )
    video_window: int = field(default=2, metadata=_help("Temporal grids in a video window."))
    audio_window: int = field(default=50, metadata=_help("Audio tokens in an audio window."))
    allocation: str = field(
        default="reference",
        metadata=_help(
            "Window budgets: reference (as published), or with exact totals adaptive, "
            "adaptive-contrast, adaptive-floor or global."
        ),
    )
    kv: str = field(
        default="layerwise",
        metadata=_help(
            "KV cache: layerwise (each layer keeps what it saw) or survivors (smallest)."
        ),
    )
    method: str = field(
        default=SEATS,
        metadata=_help("Selection method; drop and late layers are for seats alone."),
    )
    contextual_ratio: float = field(
        default=0.0,
        metadata=_help("VisionZip: share of tokens kept as averages of others, within the target."),
    )
    fastv_layer: int = field(
        default=2, metadata=_help("FastV: the layer after which it drops tokens.")
    )
    seed: int = field(default=0, metadata=_help("Seed of methods that draw at random."))
    still_tolerance: float | None = field(
        default=None,
        metadata=_help(
            "Stage 0: places of the picture that changed by no more than this many grey levels "
            "(0 to 255) since they were last encoded are not encoded again; off if not set."
        ),
    )

    def __post_init__(self) -> None:
        for name in ("retain", "retain_video", "retain_audio"):
            if getattr(self, name) is not None:
                check_fraction(name, getattr(self, name))
        check_positive("encoder_scale", self.encoder_scale)
        if self.drop_layers is not None:
            object.__setattr__(self, "drop_layers", as_tuple("drop_layers", self.drop_layers))
            check_increasing("drop_layers", self.drop_layers)
        if self.late_layer not in (None, NO_LATE_BLOCK):
            check_integer("late_layer", self.late_layer, 2)
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        check_integer("video_window", self.video_window, 1)
        check_integer("audio_window", self.audio_window, 1)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_choice("kv", self.kv, KV_POLICIES)
        check_name("method", self.method)
        check_share("contextual_ratio", self.contextual_ratio)
        check_integer("fastv_layer", self.fastv_layer, 1)
        check_integer("seed", self.seed, 0)
        if self.still_tolerance is not None:
            check_levels("still_tolerance", self.still_tolerance)

    @classmethod
    def preset(cls, name: str) -> SeatsConfig:
        """One of the paper's settings; the pair of retentions follows the model's family.

        Parameters
        ----------
        name : str
            "35%", "25%", "15%" or "10%".

        Raises
        ------
        ConfigError
            If there is no such preset.
        """
        check_choice("preset", name, tuple(PRESETS))
        return cls(retain=PRESETS[name])

    def targets(self, family: str, own: Pairs = ()) -> tuple[float, float]:
        """Average retention of video and of audio, by the pairs of the family or the model."""
        share = DEFAULT_RETAIN if self.retain is None else self.retain
        video, audio = family_named(family).retention_pair(share, own)
        return self.retain_video or video, self.retain_audio or audio

    def plan(self, architecture: Architecture) -> PruningPlan:
        """Work out every number for a model.

        When both retentions are 1 and no late block is asked for, nothing is pruned. The
        schedule of drop layers and the late block belong to SEATS: for other methods the plan
        only carries the targets and their options.

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
        video, audio = self.targets(architecture.family, architecture.retention_pairs)
        no_op = video == audio == 1.0 and self.late_layer in (None, NO_LATE_BLOCK)
        no_schedule = no_op or self.method != SEATS
        drop_layers, late_layer = ((), None) if no_schedule else self._layers(architecture)
        base = PruningPlan(
            1.0,
            1.0,
            drop_layers=drop_layers,
            keep_video=(1.0,) * len(drop_layers),
            keep_audio=(1.0,) * len(drop_layers),
            late_layer=late_layer,
            temperature=self.temperature or architecture.temperature,
            allocation=self.allocation,
            kv=self.kv,
            video_window=self.video_window,
            audio_window=self.audio_window,
            method=self.method,
            num_layers=architecture.num_layers,
            target_video=1.0 if self.method == FULL else video,
            target_audio=1.0 if self.method == FULL else audio,
            contextual_ratio=self.contextual_ratio,
            fastv_layer=self.fastv_layer,
            seed=self.seed,
            still_tolerance=self.still_tolerance,
        )
        if no_schedule:
            return base
        initial_video, keep_video = self._schedule("retain_video", video, base)
        initial_audio, keep_audio = self._schedule("retain_audio", audio, base)
        return dataclasses.replace(
            base,
            initial_video=initial_video,
            initial_audio=initial_audio,
            keep_video=keep_video,
            keep_audio=keep_audio,
        )

    def _layers(self, architecture: Architecture) -> tuple[tuple[int, ...], int | None]:
        """Drop layers and late layer: the user's, else the model's that fit."""
        depth = architecture.num_layers
        drop_layers, late_layer = architecture.drop_layers, architecture.late_layer
        if not drop_layers and late_layer is None:
            drop_layers, late_layer = family_of(architecture).default_layers(depth)
        if self.late_layer is not None:
            late_layer = None if isinstance(self.late_layer, str) else self.late_layer
        if self.drop_layers is not None:
            return self.drop_layers, late_layer
        return tuple(active_layers(depth, drop_layers, late_layer)[0]), late_layer

    def _schedule(
        self, name: str, target: float, base: PruningPlan
    ) -> tuple[float, tuple[float, ...]]:
        """Initial fraction and keep ratios of one modality, refusing unreachable targets."""
        assert base.num_layers is not None
        where = (base.num_layers, base.drop_layers, base.late_layer)
        scale = self.encoder_scale
        if not base.drop_layers:
            # Only the initial fraction is left to meet the target.
            scale = 1.0 / reachable_range(1.0, *where)[1]
        initial = min(1.0, scale * target)
        lowest, highest = reachable_range(initial, *where)
        if not lowest - _SLACK * target <= target <= highest + _SLACK * target:
            raise ConfigError(_unreachable(name, target, initial, (lowest, highest), base))
        ratios = keep_ratios(target, initial, *where)
        return initial, tuple(max(_SMALLEST_RATIO, ratio) for ratio in ratios)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, with lists for tuples: what TOML and JSON can hold."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SeatsConfig:
        """Build a configuration from `to_dict`'s form.

        Raises
        ------
        ConfigError
            If a key is unknown or a value out of range.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"Unknown setting {', '.join(unknown)}; known are {', '.join(known)}."
            )
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> SeatsConfig:
        """Read a .toml or .json file.

        Raises
        ------
        ConfigError
            If the file cannot be read or holds unknown or invalid settings.
        """
        return cls.from_dict(read_table(Path(path)))

    def dump(self, path: str | Path) -> None:
        """Write a .toml or .json file that `load` reads back.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        write_table(Path(path), self.to_dict())


def _unreachable(
    name: str, target: float, initial: float, reach: tuple[float, float], base: PruningPlan
) -> str:
    """The sentence for a target outside the reachable range, with a remedy."""
    lowest, highest = reach
    layers = ", ".join(str(layer) for layer in base.drop_layers) or "none"
    late = "no late block" if base.late_layer is None else f"the late block at {base.late_layer}"
    facts = (
        f"{name} {target:.3g} is out of reach: with {initial:.1%} of the tokens entering the "
        f"LLM, drop layers {layers} and {late}, the average over {base.num_layers} layers lies "
        f"between {lowest:.3f} and {highest:.3f}"
    )
    # Advice is rounded towards the reachable side.
    if target < lowest:
        at_most = floor(100 * initial / lowest) / 100
        return f"{facts}; set encoder_scale to at most {at_most} or drop earlier."
    if initial < 1.0:
        return f"{facts}; set encoder_scale to at least {ceil(100 * initial / highest) / 100}."
    advice = f"ask for at most {floor(100 * highest) / 100}"
    return f'{facts}; {advice}, or set late_layer to "none".'
