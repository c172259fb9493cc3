"""What a selection method sees and answers, and how it becomes known by a name.

The engine owns positions, caches and the late block; a method only says which tokens stay and,
where it merges tokens, what the merged ones become. It also owns its options, the names of its
stages and the count of its own work, so that a new method is one file:

>>> @register_method("every-nth")
... class EveryNth(Method):
...     stride = Option(2, partial(check_integer, minimum=1))
...
...     def before_llm(self, prompt):
...         keep = prompt.keep_all()
...         keep[prompt.video.positions] = False
...         keep[prompt.video.positions[:: self.stride]] = True
...         return Entry(keep)
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

from torch import Tensor

from seats_cli.config import IGNORED, OPTION_CHECKS, OPTION_METHODS, SCHEDULED, SETTINGS, UNLISTED
from seats_cli.cost.selection import Product
from seats_cli.cost.token_counts import MediaSizes, token_counts, tokens_to_keep
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.trace import SelectionTrace

T = TypeVar("T")

# How the attention of several heads becomes one number: see `seats_cli.selection.relevance`.
Heads = Literal["mean", "max", "audiovisual"]
Shares = Literal["entry", "states", "encoders"]


@dataclass(frozen=True, eq=False)
class Modality:
    """The tokens of one modality in a prompt, in prompt order."""

    mask: Tensor  # BoolTensor, shape (S,): where in the prompt they are
    # Tokens of each clip or sound; empty where the modality is absent.
    lengths: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()  # tokens of one selection window in each
    grids: tuple[int, ...] = ()  # tokens of one temporal grid of each clip; empty for sound
    # float32 Tensor, shape (n,), or None: attention received in the last encoder layer, where the
    # method needs it.
    importance: Tensor | None = None
    # float32 Tensor, shape (n, d), or None: keys of the last encoder layer, averaged over heads and
    # over the positions that become one token, where the method needs them.
    keys: Tensor | None = None
    # LongTensor, shape (n,), or None: the token of this modality whose features each has, where
    # Stage 0 or encoder reuse has copied some.
    sources: Tensor | None = None
    # LongTensor, shape (n,), or None: the mask as positions, if they are known without waiting for
    # the device.
    where: Tensor | None = None

    @property
    def size(self) -> int:
        """Tokens n of the modality."""
        return sum(self.lengths)

    @property
    def positions(self) -> Tensor:
        """LongTensor (n,), ascending: where in the prompt they are."""
        return self.mask.nonzero()[:, 0] if self.where is None else self.where


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """The prompt as it enters the LLM, one sequence; what is neither modality is text."""

    # Tensor, shape (S, D): text embeddings and projected audio-visual tokens, in prompt order.
    embeddings: Tensor
    video: Modality
    audio: Modality
    # LongTensor, shape (R, S): positions of the unpruned prompt. R is 3 (time, height and width of
    # M-RoPE) in families that tell these apart, and 1 in others.
    positions: Tensor
    # Cosines and sines, each a Tensor of shape (1, S, head_dim), by which the decoder rotates
    # queries and keys at these positions; None unless the method needs them.
    rotary: tuple[Tensor, Tensor] | None = None
    # BoolTensor, shape (S,), or None without a mask: padding, which is no text and leaves whatever
    # a method keeps. It may be all False.
    padding: Tensor | None = None
    # BoolTensor, shape (S,), or None without any: tokens of pictures. They count as text, which
    # stays whatever a method keeps.
    pictures: Tensor | None = None

    @property
    def question(self) -> Tensor:
        """LongTensor (q,): the text behind the last audio-visual token, or all of it without any.

        With the chat template around it, and without padding.
        """
        media = self.video.mask | self.audio.mask
        text = media.flip(0).cumsum(0).flip(0) == 0
        return (text if self.padding is None else text & ~self.padding).nonzero()[:, 0]

    def keep_all(self) -> Tensor:
        """BoolTensor (S,), all True, to be thinned out."""
        return self.video.mask.new_ones(len(self.embeddings))


@dataclass(frozen=True, eq=False)
class Entry:
    """What enters the LLM, or goes on behind a layer."""

    keep: Tensor  # BoolTensor, shape (S,): tokens that enter; text is always kept
    # Tensor, shape (S, D), or None: the prompt with merged tokens in place of kept ones (behind a
    # layer: the states); None if none changed.
    embeddings: Tensor | None = None
    # Of matrix products that the choice took, where they do not follow from the trace: what
    # `Method.products` leaves out.
    flops: int = 0


@dataclass(frozen=True, eq=False)
class LayerTokens:
    """The tokens alive after a decoder layer; all but the states are on the CPU."""

    index: Tensor  # LongTensor, shape (n,): positions in the unpruned prompt, ascending
    # BoolTensor, shape (n,): modality of each; the rest is text.
    video_mask: Tensor
    audio_mask: Tensor
    # float32 Tensor, shape (n,): attention to each, from the method's `query_tokens`; empty where
    # nothing asks.
    relevance: Tensor
    # Tensor, shape (n, D), or None: what left the layer, on its device, where nothing asks and for
    # methods that `needs_states`.
    states: Tensor | None = None


class Option(Generic[T]):
    """An option of a method: a class attribute with the name that it has in TOML and JSON.

    On an instance it is the value that the plan's configuration gives, else the default.

    Parameters
    ----------
    default : value
        As TOML and JSON can hold it.
    check : callable
        Receives name and value, and raises `ConfigError` for a value that is out of range:
        one of the `check_*` functions of `seats_cli.config`, for example.
    listed : bool
        Whether messages name it. An option under study works without.
    """

    def __init__(
        self, default: T, check: Callable[[str, Any], None], *, listed: bool = True
    ) -> None:
        self.default = default
        self.check = check
        self.listed = listed

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    @overload
    def __get__(self, method: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, method: Method, owner: type) -> T: ...
    def __get__(self, method: Method | None, owner: type) -> Option[T] | T:
        if method is None:
            return self
        value: T = method.plan.config.options.get(self.name, self.default)
        return value


class Method(ABC):
    """A selection method bound to a plan; the defaults are those of one that acts once.

    A method may remember facts of the prompt from `before_llm` to `after_layer`: prompts come
    one at a time, and each starts with `before_llm`.

    Attributes
    ----------
    needs_importance : bool
        Whether `Modality` must hold the attention received in the encoder.
    needs_keys : bool
        Whether it must hold the encoder's keys.
    needs_rotary : bool
        Whether `PromptTokens.rotary` must hold the decoder's rotary embedding of the prompt.
    query_tokens : str
        Whose attention `LayerTokens.relevance` is: "last_text", the last text token's query on
        the layer's output states (arXiv 2605.20035, 2403.06764), or "question", the mean over
        all text tokens behind the last audio-visual one, on the layer's input states: the
        attention that this layer really computed (arXiv 2605.14458). In a conversation these are
        all turns so far, and not the last question alone, which need not say what it is about.
        With "none", nothing asks, and `LayerTokens.states` holds the layer's output instead.
    query_states : str
        Which layer is asked, on which states, where that is not the usual of `query_tokens`:
        "output", the drop layer itself, on what it returned, or "next", the layer behind it, on
        the same states: the attention that this one would compute if nothing were dropped. Behind
        the last layer there is none, and the last one is asked itself, as with "output".
    query_heads : str
        What becomes of the heads, see `seats_cli.selection.relevance.over_heads`.
    needs_states : bool
        Whether `LayerTokens.states` must hold the layer's output beside the relevance.
    shares : str
        What questions about one clip have in common: "entry", if `before_llm` sees nothing of the
        question and leaves nothing behind for `after_layer`; "states", if it leaves something, so
        that it is called for every question; "encoders", if its choice may depend on the
        question. With the first two, a `ClipSession` keeps the decoder's states up to the first
        drop.
    draws : bool
        Whether its choice depends on the plan's seed. If not, a session's states serve questions
        that are sampled with any seed.
    entry_kind, layer_kind : str
        What the trace calls the method's stages before the LLM and inside it.
    weights_prefix : str
        How the names of the method's own trained weights begin in a checkpoint, behind `thinker.`;
        empty without any. `take_weights` is given them before the first prompt.
    published_prefixes : tuple of str
        How they begin instead in checkpoints as the method's authors save them.
    has_weights : bool
        Whether `take_weights` has been given them.
    weights_as_model : bool
        Whether they are to have the model's precision, and not float32.
    refines : bool
        Whether `before_llm` passes all tokens of a prompt through layers like the decoder's: it
        then needs as much memory as the unpruned prompt, which has to fit the model's context.
    scheduled : bool
        Whether it acts by the plan's initial fractions, drop layers and keep ratios, and its tokens
        leave before the late block. Plans of other methods have no schedule, but targets.
    """

    needs_importance: bool = False
    needs_keys: bool = False
    needs_rotary: bool = False
    needs_states: bool = False
    query_tokens: Literal["last_text", "question", "none"] = "last_text"
    query_states: Literal["usual", "output", "next"] = "usual"
    query_heads: Heads = "mean"
    shares: Shares = "encoders"
    draws: ClassVar[bool] = True
    entry_kind: ClassVar[str] = "entry"
    layer_kind: ClassVar[str] = "relevance"
    weights_prefix: ClassVar[str] = ""
    published_prefixes: ClassVar[tuple[str, ...]] = ()
    weights_as_model: ClassVar[bool] = False
    refines: ClassVar[bool] = False
    scheduled: ClassVar[bool] = False

    has_weights: bool = False

    def __init__(self, plan: PruningPlan) -> None:
        self.plan = plan

    def take_weights(self, weights: Mapping[str, Tensor], architecture: Architecture) -> None:
        """Weights by their names behind `weights_prefix`, on the decoder's first device.

        They are float32, or as the model for methods with `weights_as_model`; `architecture` is
        that of the model that they have to fit.

        Raises
        ------
        ModelError
            If they do not fit; or KeyError or RuntimeError, as from `load_state_dict`.
        """
        raise NotImplementedError

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """Video and audio tokens that `before_llm` keeps at most, of a prompt with these sizes.

        By it, clips are read in a size that fits the model's context. All of them, for methods
        that do not drop any there.
        """
        return token_counts(architecture, sizes)

    @property
    def reads_input(self) -> bool:
        """Whether relevance comes from the states that entered the layer."""
        return self.query_tokens == "question" and self.query_states == "usual"

    @property
    def drops_before_llm(self) -> bool:
        """Whether the method has a limit of its own on what enters."""
        return type(self).entering is not Method.entering

    @abstractmethod
    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Choose, and perhaps merge, the tokens that enter the LLM."""

    def drops_after(self, layer: int) -> bool:
        """Whether `after_layer` is to be called after this decoder layer (1-based)."""
        return False

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor | Entry:
        """BoolTensor (n,), on the CPU: of the tokens alive, those that stay; text always does.

        An `Entry` with such a mask may change their states, too.
        """
        raise NotImplementedError

    def stage_label(self, after_layer: int) -> str:
        """What a report calls the stage after that decoder layer; 0 is the one before the LLM."""
        where = f"after layer {after_layer}" if after_layer else "before the LLM"
        kind = self.layer_kind if after_layer else self.entry_kind
        return f"drop {where}" if kind == "relevance" else f"{kind}, {where}"

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """Every matrix product by which the method compared tokens, before the LLM and inside.

        The attention that it asks for, in the encoders or in a layer, is counted by the engine.
        Methods that draw, that read attention, or that compare a token with a single other one
        have none. `trace` is that of the run; its first stage is that before the LLM. Of a trace
        that ends with it, the products are those before the LLM: a further question about a clip
        executes only the others.
        """
        return []


def target_tokens(
    plan: PruningPlan, architecture: Architecture, sizes: MediaSizes
) -> tuple[int, int]:
    """`Method.entering` of a method that keeps the targets of both modalities before the LLM."""
    video, audio = token_counts(architecture, sizes)
    if not plan.prunes:
        return video, audio
    return (
        tokens_to_keep(video, plan.retention_video),
        tokens_to_keep(audio, plan.retention_audio),
    )


M = TypeVar("M", bound=Method)

# Every method by its name, in the order of registration.
METHODS: dict[str, Callable[[PruningPlan], Method]] = {}
_OPTIONS: dict[str, Option[Any]] = {}


def register_method(
    name: str, *, ignores: Collection[str] = (), **settled: Any
) -> Callable[[type[M]], type[M]]:
    """Make a method known by a name: to `SeatsConfig`, the library and the command line.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and hyphens.
    ignores : collection of str
        Settings that change nothing with it, which a warning then says: `video_window` and
        `audio_window` where it reads neither `Modality.windows` nor, of the video,
        `Modality.importance`, which is taken in windows. Without `scheduled`, those of the schedule
        are known to be such.
    **settled
        Arguments of the class beside the plan, for variants: one class may have several names.

    Raises
    ------
    ValueError
        If another class has the name, or an option has the name of a setting or of another
        method's option.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(
            f"A method's name is made of lower-case letters, digits and hyphens, not {name!r}."
        )

    def register(cls: type[M]) -> type[M]:
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise TypeError(f"The method '{name}' must be a subclass of Method, not {cls!r}.")
        known = METHODS.get(name)
        if known is not None and not _same(class_of(known), cls):
            raise ValueError(f"There already is a method '{name}': {class_of(known).__qualname__}.")
        for option in options_of(cls):
            if option.name in SETTINGS:
                raise ValueError(
                    f"Every method has the setting {option.name!r}: rename the option."
                )
            other = _OPTIONS.get(option.name, option)
            if not _same(other.owner, option.owner):
                raise ValueError(
                    f"{other.owner.__qualname__} has an option {option.name!r} already: rename "
                    f"that of {option.owner.__qualname__}."
                )
            _OPTIONS[option.name], OPTION_CHECKS[option.name] = option, option.check
            OPTION_METHODS.setdefault(option.name, set()).add(name)
            if not option.listed:
                UNLISTED.add(option.name)
        IGNORED[name] = frozenset(ignores)
        (SCHEDULED.add if cls.scheduled else SCHEDULED.discard)(name)
        METHODS[name] = partial(cls, **settled) if settled else cls
        return cls

    return register


def class_of(make: Callable[[PruningPlan], Method]) -> type[Method]:
    """The class behind an entry of `METHODS`."""
    found: type[Method] = make.func if isinstance(make, partial) else make  # type: ignore[assignment]
    return found


def options_of(method: type[Method]) -> list[Option[Any]]:
    """The options of a method, inherited ones included."""
    found = {name: value for base in reversed(method.__mro__) for name, value in vars(base).items()}
    return [value for value in found.values() if isinstance(value, Option)]


def _same(one: type, other: type) -> bool:
    """Whether a class is another one or a new definition of it, as a notebook makes them."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
