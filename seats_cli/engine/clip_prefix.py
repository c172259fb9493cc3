"""What all questions about a clip have in common inside the LLM, kept from the first of them.

The clip stands before the question, and the decoder is causal: up to the first layer after which
tokens are dropped, keys, values and hidden states of everything in front of the question are the
same for every question. A further one runs its own tokens through these layers, against the kept
keys and values; from there on the states of both go through the rest together. Nothing that is kept
is ever written to: a cache grows by making new tensors, and drops make new ones, too. In a session
a further prompt comes without the clip's features: nothing of the encoders enters the LLM again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter, SideTensors
from seats_cli.schedule import PruningPlan
from seats_cli.selection.device import TokenIndex
from seats_cli.selection.method import Method, options_of

MAX_SETTINGS = 4  # settings of one clip whose states are kept
_NOTHING = torch.zeros(0)


NOT_SAVED = (
    "The clip was indexed for some settings only, and this is another one: ask with one of those, "
    "or index the clip again without `only`."
)
SettingKey: TypeAlias = tuple[type[Method], str]


def setting_key(plan: PruningPlan, method: Method) -> SettingKey:
    """What tells the prefix of one setting from that of another."""
    settings = plan.to_dict()
    own = {option.name for option in options_of(type(method))}
    for name in set(plan.config.options) - own:  # of other methods
        settings.pop(name)
    if not method.draws:  # the seed is that of sampling alone
        settings.pop("seed")
    return type(method), repr(sorted(settings.items()))


def first_cut(method: Method, plan: PruningPlan, num_layers: int) -> int:
    """The layer (from 1) after which the first tokens leave; the last layer if none do."""
    late = num_layers if plan.late_layer is None else plan.late_layer - 1
    drops = (number for number in range(1, late) if method.drops_after(number))
    return min(next(drops, late), num_layers)


@dataclass(eq=False)
class ClipPrefix:
    """States of the tokens in front of the question, for one setting."""

    plan: PruningPlan
    ids: Tensor  # LongTensor (P,) on the CPU: the prompt up to the clip's last token, unpruned
    # (P,): each token's embedding, summed: tells another clip of the same size. None where there
    # can be no other, because the states come from the clip's index.
    sums: Tensor | None
    keep: Tensor  # BoolTensor (P,) on the CPU: which of them enter the LLM, p in all
    depth: int  # layers (from 1) whose keys and values are kept: up to the first cut
    keys: list[Tensor]  # of each, (1, kv_heads, p, head_dim)
    values: list[Tensor]
    entered: Tensor  # (1, p, D): states that enter layer `depth`
    left: Tensor  # (1, p, D): states that leave it, before any drop
    sides: dict[str, SideTensors]  # rows of the p tokens that the decoder works out for its layers
    whole: bool = False  # whether nothing else of the clip enters the layers behind (DeepStack)
    entry_flops: int = 0  # `Entry.flops` of the choice
    mapped: bool = False  # whether all of it is parts of a file, which take no memory of their own

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        if self.mapped:
            return 0
        tensors = [*self.keys, *self.values, self.entered, self.left]
        tensors += [part for side in self.sides.values() for part in side.tensors]
        return sum(part.nbytes for part in tensors)

    def fits(self, ids: Tensor, sums: Tensor | None) -> bool:
        """Whether it is of a prompt that begins with these ids and, unless None, embeddings."""
        if not torch.equal(ids, self.ids):
            return False
        return sums is None or self.sums is None or torch.equal(sums, self.sums)

    def keep_in(self, length: int) -> Tensor:
        """BoolTensor (S,): what enters of a prompt of that length; of the question, everything."""
        return torch.cat([self.keep, torch.ones(length - len(self.keep), dtype=torch.bool)])

    def fill(self, cache: Any) -> None:
        """Put keys and values into an empty cache; what is put in later leaves them alone."""
        for number, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            # By the cache's own way nothing, which makes the layer, and then the tensors
            # themselves: `update` would copy them, and again with the question's behind them.
            cache.update(keys[:, :, :0], values[:, :, :0], number)
            layer = cache.layers[number]
            layer.keys, layer.values = keys, values


@dataclass(eq=False)
class PrefixStore:
    """The prefixes of one clip, of the latest `MAX_SETTINGS` settings and of those in its index.

    Parameters
    ----------
    clip : object, optional
        The prepared clip that all prompts are about: they need not prove it by its features, which
        `PrefixSharing.without_clip` then leaves out of them.
    """

    clip: object | None = None
    # Gives a prefix that was saved, by its setting's key; None for a setting that was not.
    saved: Callable[[SettingKey], ClipPrefix | None] | None = None
    saved_only: bool = False  # whether nothing but saved settings can be worked out
    keep_all: bool = False  # whether nothing is given up, because it is to be saved
    _known: OrderedDict[Any, ClipPrefix] = field(default_factory=OrderedDict)

    @property
    def bytes(self) -> int:
        """What all of them hold in memory."""
        return sum(prefix.bytes for prefix in self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def prefixes(self) -> Iterator[tuple[SettingKey, ClipPrefix]]:
        """Those that are held, the one that was used last at the end."""
        yield from self._known.items()

    def find(
        self, plan: PruningPlan, method: Method, ids: Tensor, sums: Tensor | None
    ) -> ClipPrefix | None:
        """The prefix with these ids and, unless None, embeddings under a plan, if it is here."""
        key = setting_key(plan, method)
        known = self._known.get(key)
        if known is None and self.saved is not None:
            known = self.saved(key)
            if known is not None:
                self.add(plan, method, known)
        if known is None or not known.fits(ids, sums):
            return None
        self._known.move_to_end(key)
        return known

    def add(self, plan: PruningPlan, method: Method, prefix: ClipPrefix) -> None:
        """Keep a prefix, and forget the oldest one where there are too many."""
        key = setting_key(plan, method)
        self._known[key] = prefix
        self._known.move_to_end(key)
        while len(self._own()) > MAX_SETTINGS and not self.keep_all:
            self.forget()

    def forget(self) -> bool:
        """Give up the setting that was not asked for the longest; False if there is none to give.

        What is mapped from an index stays: giving it up would free nothing.
        """
        own = self._own()
        if own:
            del self._known[own[0]]
        return bool(own)

    def _own(self) -> list[SettingKey]:
        return [key for key, prefix in self._known.items() if not prefix.mapped]


class PrefixSharing:
    """Uses, in one prompt after the other, what a store holds, or leaves it there.

    Parameters
    ----------
    store : PrefixStore or None
        None shares nothing.
    """

    def __init__(
        self, store: PrefixStore | None, adapter: Adapter, plan: PruningPlan, method: Method
    ) -> None:
        self._store = None if method.shares == "encoders" else store
        self._adapter, self._plan, self._method = adapter, plan, method
        self._depth = 0  # layers that are shared; 0 in a prompt that shares nothing
        # Of the latest prompt: layers that only its own tokens passed, and how many were there.
        self.passed = (0, 0)
        self._found: ClipPrefix | None = None
        self._waiting: ClipPrefix | None = None  # for a prompt that comes without features
        self._ids, self._sums = _NOTHING, _NOTHING  # of the prefix under way
        self._new: Tensor | None = None  # keep mask of a prefix to be kept
        self._entry_flops = 0  # and what its choice took
        self._sides: tuple[str, ...] = ()  # names of what the decoder works out for its layers

    @property
    def resuming(self) -> bool:
        """Whether the states are those of the question alone for now."""
        return self._found is not None

    def without_clip(self, inputs: dict[str, Any], clip: object) -> dict[str, Any]:
        """The inputs of a prompt about `clip` without what only the encoders read.

        Where no earlier question has left everything that it is for, they stay as they are.
        """
        store, method, plan = self._store, self._method, self._plan
        if (
            store is None
            or store.clip is not clip
            or method.shares != "entry"  # others look at the clip before the LLM
            or plan.config.encoder_skips is not None  # which are reported, as of the pixels seen
        ):
            return inputs
        ids = _clip_ids(self._adapter, inputs["input_ids"][0].cpu())
        found = store.find(plan, method, ids, None)
        depth = first_cut(method, plan, len(self._adapter.layers))
        if found is None or not found.whole or found.depth != depth:
            return inputs
        self._waiting = found
        unread = self._adapter.encoder_arguments
        return {name: value for name, value in inputs.items() if name not in unread}

    def find(
        self, ids: Tensor, embeddings: Tensor, cache: Any, mask: Tensor | None
    ) -> ClipPrefix | None:
        """What an earlier question about the clip has left, if this prompt can use it.

        Parameters
        ----------
        ids : LongTensor (S,), on the CPU
        embeddings : Tensor (S, D)
        mask : Tensor or None
            Of padding.
        """
        waiting, self.passed = self._waiting, (0, 0)
        self.end()
        store = self._store
        # Without a cache there is nowhere to put it, and padding would shift its rows.
        if store is None or cache is None or not (mask is None or bool(mask.all())):
            if waiting is not None:
                raise UsageError("A prompt without its clip's features needs a cache, no padding.")
            return None
        self._ids = _clip_ids(self._adapter, ids)
        if waiting is not None or not len(self._ids):
            return waiting
        self._sums = embeddings[: len(self._ids)].float().sum(-1)
        return store.find(self._plan, self._method, self._ids, self._sums)

    def begin(
        self, found: ClipPrefix | None, keep: Tensor, places: TokenIndex, cache: Any, flops: int
    ) -> TokenIndex:
        """Fill the cache with what was found; returns the tokens that are left to go in.

        Parameters
        ----------
        keep : BoolTensor (S,), places : TokenIndex
            The tokens that enter the LLM.
        flops : int
            `Entry.flops` of their choice.
        """
        if self._store is None or not len(self._ids):
            return places
        # Not in `find`: some methods learn in `before_llm` where they will drop.
        self._depth = first_cut(self._method, self._plan, len(self._adapter.layers))
        keep = keep[: len(self._ids)]
        if found is None or found.depth != self._depth or not found.keep.equal(keep):
            if self._store.saved_only:
                raise UsageError(NOT_SAVED)
            self._new, self._entry_flops = keep, flops
            return places
        self._found = found
        found.fill(cache)
        count = int(found.keep.sum())
        self.passed = (found.depth, count)
        return TokenIndex(places.host[count:])

    def side_tensors(self, own: dict[str, SideTensors]) -> dict[str, SideTensors]:
        """What the decoder has worked out for the question, with the prefix's in front."""
        self._sides = tuple(own)
        if self._found is None:
            return own
        return {name: _joined(self._found.sides[name], side) for name, side in own.items()}

    def needs_entered(self, number: int) -> bool:
        """Whether the states that enter a layer are to be kept for `leave`."""
        return self._new is not None and number == self._depth

    def leave(
        self,
        number: int,
        hidden: Tensor,
        entered: Tensor | None,
        sides: dict[str, SideTensors],
        cache: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Behind the last shared layer: join the clip's states to the question's, or keep them.

        Parameters
        ----------
        hidden : Tensor (1, n, D)
            States that leave the layer.
        entered : Tensor (1, n, D) or None
            States that entered it.

        Returns
        -------
        Both, of all tokens that are alive.
        """
        if number != self._depth:
            return hidden, entered
        if self._found is not None:
            found, self._found = self._found, None
            if entered is not None:
                entered = torch.cat([found.entered.to(entered), entered], 1)
            return torch.cat([found.left.to(hidden), hidden], 1), entered
        if self._new is not None and self._store is not None and entered is not None:
            keep, self._new = self._new, None
            count = int(keep.sum())
            layers = cache.layers[:number]
            prefix = ClipPrefix(
                self._plan,
                self._ids,
                self._sums,
                keep,
                number,
                [layer.keys[:, :, :count].clone() for layer in layers],
                [layer.values[:, :, :count].clone() for layer in layers],
                entered[:, :count].clone(),
                hidden[:, :count].clone(),
                {name: _first(sides[name], count) for name in self._sides},
                self._adapter.side_layers(sides) <= number,
                self._entry_flops,
            )
            self._store.add(self._plan, self._method, prefix)
        return hidden, entered

    def end(self) -> None:
        """Forget the prompt under way."""
        self._found, self._waiting, self._new, self._depth = None, None, None, 0
        self._ids, self._sums = _NOTHING, _NOTHING


def _clip_ids(adapter: Adapter, ids: Tensor) -> Tensor:
    """The part of a prompt (S,) up to the clip's last token; empty without a clip."""
    placeholders = torch.tensor((adapter.video_token_id, adapter.audio_token_id))
    places = torch.isin(ids, placeholders).nonzero()
    return ids[: int(places[-1]) + 1] if len(places) else ids[:0]


def _joined(first: SideTensors, second: SideTensors) -> SideTensors:
    """Rows of the prefix's tokens, and those of the question's behind them."""
    if [_row(part) for part in first.tensors] != [_row(part) for part in second.tensors]:
        raise UsageError("The clip's index does not fit the model: index the clip again.")
    pairs = zip(first.tensors, second.tensors, strict=True)
    return SideTensors(tuple(torch.cat([one.to(two), two], dim=-2) for one, two in pairs))


def _first(side: SideTensors, count: int) -> SideTensors:
    return SideTensors(tuple(part[..., :count, :].clone() for part in side.tensors))


def _row(part: Tensor) -> tuple[int, ...]:
    """The shape of a side tensor without its tokens."""
    return (*part.shape[:-2], part.shape[-1])
