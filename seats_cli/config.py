"""What a user asks for, as a checked configuration that TOML and JSON files can hold.

`seats_cli.schedule` works out what it means for a model. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from seats_cli.errors import ConfigError
from seats_cli.families.base import ENCODER_SCALE, PRESETS, Pairs
from seats_cli.families.registry import family_named
from seats_cli.files import read_table, write_table

DEFAULT_RETAIN = PRESETS["25%"]
NO_LATE_BLOCK = "none"

REFERENCE, GLOBAL = "reference", "global"
ALLOCATIONS = (REFERENCE, "adaptive", "adaptive-contrast", "adaptive-floor", GLOBAL)
KV_POLICIES = ("layerwise", "survivors")
QUANTIZE = ("4bit", "8bit")  # to what weights of 16 bits can be quantized while they are loaded

RETENTION = ("retain", "retain_video", "retain_audio")
WINDOWS = ("video_window", "audio_window")

# The method that runs unless another one is named, and the one that keeps everything.
SEATS, FULL = "seats", "full"

EncoderSkips: TypeAlias = tuple[float | None, float | None, float | None]

# Methods own their options but stand above this module: `register_method` enters here the check of
# each option and who has it, and `seats_cli/__init__.py` the import that registers the package's.
OPTION_CHECKS: dict[str, Callable[[str, Any], None]] = {}
OPTION_METHODS: dict[str, set[str]] = {}  # names of the methods that have an option
UNLISTED: set[str] = set()  # options under study, which no message names
SCHEDULED = {SEATS}  # methods with drop layers and a late block; entered like the options
IGNORED: dict[str, frozenset[str]] = {}  # settings that a method does not follow; entered likewise
METHOD_IMPORTS: list[Callable[[], object]] = []


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


def check_cosine(name: str, value: Any) -> None:
    """Refuse anything but a number from 0 to 1."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must be a cosine from 0 to 1, got {value!r}.")


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


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that no method has, and values that the method refuses."""
    if any(name not in OPTION_CHECKS for name in options):
        for register in METHOD_IMPORTS:  # imports torch: only for a name that is not known yet
            register()
    unknown = sorted(set(options) - set(OPTION_CHECKS))
    if unknown:
        known = ", ".join((*SETTINGS, *(name for name in OPTION_CHECKS if name not in UNLISTED)))
        raise ConfigError(f"Unknown setting {', '.join(unknown)}; known are {known}.")
    for name, value in options.items():
        OPTION_CHECKS[name](name, value)


def is_scheduled(method: str) -> bool:
    """Whether a method follows the schedule of SEATS: drop layers, and a late block."""
    if method not in SCHEDULED:
        for register in METHOD_IMPORTS:  # imports torch: not for what runs unless named otherwise
            register()
    return method in SCHEDULED


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


@dataclass(frozen=True)
class SeatsConfig:
    """What to keep, in the user's terms.

    Retention is the fraction of a modality's tokens that is alive in a decoder layer, averaged
    over all layers. `retain` stands for the published pair of video and audio retention
    (interpolated between the published shares); `retain_video` and `retain_audio` replace
    either of them.

    Parameters
    ----------
    retain : float or None
        Overall share of audio-visual tokens, in (0, 1]; None: 25 %.
    retain_video, retain_audio : float or None
        Average retention of one modality, in (0, 1].
    encoder_scale : float
        Tokens that enter the LLM, as a multiple of the average retention. Without drop layers
        the multiple follows from the target.
    drop_layers : tuple of int or None
        Layers, from 1, after which tokens are dropped; None: the model's defaults.
    late_layer : int, "none" or None
        First layer without audio-visual tokens, "none" for no late block; None: the model's
        default.
    temperature : float or None
        Softmax temperature of window budgets; None: the model's default.
    video_window, audio_window : int
        Temporal grids in a video window, and audio tokens in an audio window, of Stage I.
    allocation : str
        Window budgets: "reference" (as published), or with exact totals and independent of the
        scale of the scores "adaptive" (in proportion to relevance), "adaptive-contrast" (softmax
        of its standardised logarithm), "adaptive-floor" (half of it evenly) or "global" (no
        windows).
    kv : str
        KV cache: "layerwise" keeps what each layer saw, "survivors" removes dropped tokens
        from all layers.
    method : str
        Selection method. Drop layers and the late block belong to SEATS and its variants alone.
    seed : int
        Of methods that draw at random.
    still_tolerance : float or None
        Stage 0: parts of the picture that changed by at most this many grey levels (0 to 255)
        since they were last encoded are not encoded again; None encodes everything.
    encoder_reuse : float or None
        Units (what becomes one token) whose states, behind the first quarter of the vision
        encoder's blocks, have a cosine above this (0 to 1) with those of the unit that was last
        carried at the same place take its features instead of passing the other blocks; None, or
        1, carries all of them.
    encoder_keep : float or None
        Most of the units that are to be carried, a share in (0, 1]: the cosine follows from it,
        or is lowered to it.
    options : mapping of str to value
        Options of selection methods; a file has them beside the other keys. Each stands in the
        file of its method under `selection/methods/`.

    Options of other methods than the chosen one have no effect, nor have `encoder_scale`,
    `drop_layers`, `late_layer`, `temperature` and `allocation` with one without a schedule,
    `video_window` and `audio_window` with one without windows, `temperature` with another
    allocation than "reference", and retentions with "full"; a warning says so.

    Raises
    ------
    ConfigError
        If a value is out of range, or no method has an option of that name.
    """

    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    encoder_scale: float = ENCODER_SCALE
    drop_layers: tuple[int, ...] | None = None
    late_layer: int | str | None = None
    temperature: float | None = None
    video_window: int = 2
    audio_window: int = 50
    allocation: str = REFERENCE
    kv: str = "layerwise"
    method: str = SEATS
    seed: int = 0
    still_tolerance: float | None = None
    encoder_reuse: float | None = None
    encoder_keep: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in RETENTION:
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
        check_integer("seed", self.seed, 0)
        if self.still_tolerance is not None:
            check_levels("still_tolerance", self.still_tolerance)
        if self.encoder_reuse is not None:
            check_cosine("encoder_reuse", self.encoder_reuse)
        if self.encoder_keep is not None:
            check_fraction("encoder_keep", self.encoder_keep)
        object.__setattr__(self, "options", dict(self.options))
        check_options(self.options)

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

    @property
    def idle_options(self) -> list[str]:
        """Names of options that its method does not have, and of settings without effect."""
        idle = [name for name in self.options if self.method not in OPTION_METHODS[name]]
        changed = {name for name, usual in _PARTIAL.items() if getattr(self, name) != usual}
        if changed:  # what a method follows is known when it is imported
            unused = {"temperature"} if self.allocation != REFERENCE else set[str]()
            if not is_scheduled(self.method):
                unused |= {*_SCHEDULE}
            idle += changed & (unused | IGNORED.get(self.method, frozenset()))
        return sorted(idle)

    def idle_warnings(self) -> Iterator[str]:
        """A sentence for each of them."""
        for name in self.idle_options:
            yield f"`{name}` has no effect here: {self._reason(name)}."

    def _reason(self, name: str) -> str:
        """Why one of the idle options has no effect."""
        if name in WINDOWS:
            return f"it is a setting of methods that choose in windows, such as {SEATS}"
        scheduled = is_scheduled(self.method)
        if name == "temperature" and scheduled and self.allocation != REFERENCE:
            return f"it is a setting of the allocation {REFERENCE}"
        if name not in self.options and (scheduled or name not in _SCHEDULE):
            does = "keeps everything" if self.method == FULL else "does not follow it"
            return f"the method {self.method} {does}"
        what = "an option" if name in self.options else "a setting"
        methods = sorted(OPTION_METHODS.get(name, {SEATS}))
        return f"it is {what} of the method{'s' * (len(methods) > 1)} {' and '.join(methods)}"

    def without_options(self, names: Collection[str]) -> SeatsConfig:
        """The same without some options, and with the defaults of some settings."""
        left = {name: value for name, value in self.options.items() if name not in names}
        usual = {name: value for name, value in _PARTIAL.items() if name in names}
        return dataclasses.replace(self, options=left, **usual)

    @property
    def reuses_states(self) -> bool:
        """Whether encoder reuse is on."""
        return self.encoder_reuse is not None or self.encoder_keep is not None

    @property
    def encoder_skips(self) -> EncoderSkips | None:
        """What tells what the vision encoder computes from what it takes from earlier grids.

        Tolerance of Stage 0, cosine and share of encoder reuse; None where all is computed.
        """
        found = (self.still_tolerance, self.encoder_reuse, self.encoder_keep)
        return None if found == (None, None, None) else found

    def targets(self, family: str, own: Pairs = ()) -> tuple[float, float]:
        """Average retention of video and of audio, by the pairs of the family or the model."""
        share = DEFAULT_RETAIN if self.retain is None else self.retain
        video, audio = family_named(family).retention_pair(share, own)
        return self.retain_video or video, self.retain_audio or audio

    def to_dict(self) -> dict[str, Any]:
        """The settings and options that are set, with lists for tuples, as TOML and JSON hold."""
        values = {name: getattr(self, name) for name in SETTINGS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**values, **self.options}.items()
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
        own = {name: value for name, value in values.items() if name in SETTINGS}
        options = {name: value for name, value in values.items() if name not in SETTINGS}
        return cls(**own, options=options)

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


# The keys of a file; those of methods' options come to them.
SETTINGS = tuple(item.name for item in dataclasses.fields(SeatsConfig) if item.name != "options")
# Settings that not every method follows: those of the schedule, which only methods in `SCHEDULED`
# do, and those that a method may name as `IGNORED`.
_SCHEDULE = ("encoder_scale", "drop_layers", "late_layer", "temperature", "allocation")
_PARTIAL: dict[str, Any] = {  # with their defaults
    item.name: item.default
    for item in dataclasses.fields(SeatsConfig)
    if item.name in (*_SCHEDULE, *WINDOWS, *RETENTION)
}


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how to load it: the parameters of `seats_cli.load_model`."""

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    revision: str | None = None
    offline: bool = False
    quantize: str | None = None  # "4bit" or "8bit"
    adapter: str | None = None  # folder or hub id of a LoRA adapter

    def arguments(self) -> dict[str, Any]:
        """The arguments of `load_model`; fields that a subclass adds are left out."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(ModelOptions)}
