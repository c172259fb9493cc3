"""The pruned prefill: hooks that carry a shrinking set of tokens through the decoder.

A prompt passes the hooks in this order:

1. `_enter_model` notes the token ids; the decoder below sees embeddings only.
2. `_enter_decoder` runs Stage I on the embeddings and hands the survivors to the decoder. On a
   cache that already holds tokens (decoding) it only corrects positions.
3. `_enter_layer` gives each layer mask and side tensors of the tokens that are still alive.
4. `_leave_layer` runs Stage II after the method's drop layers, and Stage III (the late block)
   after its layer: both slice the layer's output.
5. `_leave_decoder` completes the trace and notes where generated tokens go on.

Everything the decoder needs per token is kept in step here: hidden states, attention mask, KV
cache, and the family's side tensors (rotary embeddings, DeepStack features). Positions are never
renumbered: survivors keep theirs, and generated tokens continue the unpruned sequence.

"Trap N" refers to the numbered list in docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from seats_cli.engine.cache import (
    Continuations,
    cache_of,
    cached_tokens,
    decode_mask,
    keep_in_layers,
    prompt_of,
    require_dynamic,
    unpadded,
)
from seats_cli.engine.clip_prefix import PrefixSharing, PrefixStore
from seats_cli.engine.encoder_stats import EncoderCall, EncoderStatistics
from seats_cli.engine.generate_calls import batch_refusal, first_row, repeated, text_only
from seats_cli.engine.timing import Clock
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter, SideTensors
from seats_cli.schedule import PruningPlan
from seats_cli.selection import relevance
from seats_cli.selection.device import TokenIndex, on_device
from seats_cli.selection.method import Entry, LayerTokens, Method, Modality, PromptTokens
from seats_cli.selection.trace import SelectionTrace, behind_clip


@dataclass(eq=False)
class TokenState:
    """The tokens alive in the current prefill.

    Indices and masks stay on the host, where all decisions are made: each drop then waits for the
    device only once, to learn the tokens' relevance.
    """

    # LongTensor, shape (n,), on the CPU: their positions in the unpruned prompt, ascending.
    index: Tensor
    # BoolTensor, shape (n,), on the CPU: modality of each.
    video: Tensor
    audio: Tensor
    # What else the decoder needs for each, by the adapter's names.
    sides: dict[str, SideTensors] = field(default_factory=dict)
    # Whether the arguments that the decoder passes to its layers still count dropped tokens.
    thinned: bool = False
    # Whether that mask is the question's behind a kept prefix, which fits no layer behind it.
    joined: bool = False

    @property
    def text(self) -> Tensor:
        """BoolTensor (n,), on the CPU: the tokens of neither modality."""
        return ~(self.video | self.audio)

    def keep(self, places: TokenIndex) -> None:
        """Drop all but the tokens at these places (ascending, among the n alive)."""
        # Places count the tokens alive now, not positions of the prompt: side tensors have a row
        # for each of them and nothing else.
        where = places.host
        self.index, self.video, self.audio = self.index[where], self.video[where], self.audio[where]
        self.sides = {name: side.keep(places) for name, side in self.sides.items()}
        self.thinned = True


class PrunedPrefill:
    """State and hooks of one model inside `prune(...)`."""

    def __init__(
        self,
        adapter: Adapter,
        plan: PruningPlan,
        method: Method,
        statistics: EncoderStatistics,
        clock: Clock,
        prefixes: PrefixStore | None = None,
    ) -> None:
        self.trace: SelectionTrace | None = None
        self.chosen = True  # whether the latest prompt's tokens were chosen anew before the LLM
        self.answers = 1  # how many `generate` wants of the prompt to come
        self._copies = 1  # and of the one under way
        self._adapter = adapter
        self._plan = plan
        self._method = method
        self._statistics = statistics
        self._clock = clock
        self._input_ids: Tensor | None = None
        self._pruned_cache = False  # whether the call under way continues one
        self._next_position = torch.zeros((), dtype=torch.long)
        self._alive: TokenState | None = None
        self._question = 0
        self._entered: Tensor | None = None  # the current layer's input, if the method needs it
        self._cache: Any = None
        # Arguments of `SelectionTrace.add`; counting tokens waits until the decoder has finished.
        self._stages: list[tuple[str, int, Tensor, Tensor | None, str, int]] = []
        self._continuations = Continuations(adapter)
        self._leaving: list[tuple[Any, RemovableHandle]] = []  # hooks of a layer, and ours
        self.sharing = PrefixSharing(prefixes, adapter, plan, method)

    # ---------------------------------------------------------------- hooks

    def install(self) -> list[RemovableHandle]:
        """Register all hooks; they act until the handles are removed."""
        adapter = self._adapter
        self._leaving.clear()
        handles: list[RemovableHandle] = [
            adapter.core.register_forward_pre_hook(self._enter_model, with_kwargs=True),
            adapter.language_model.register_forward_pre_hook(self._enter_decoder, with_kwargs=True),
            adapter.language_model.register_forward_hook(self._leave_decoder, with_kwargs=True),
        ]
        for number, layer in enumerate(adapter.layers, start=1):
            handles.append(
                layer.register_forward_pre_hook(self._enter_layer(number), with_kwargs=True)
            )
            leaving = layer.register_forward_hook(self._leave_layer(number))
            self._leaving.append((layer._forward_hooks, leaving))
            handles.append(leaving)
        return handles

    def _enter_model(
        self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note the ids: the decoder itself only sees embeddings."""
        # 1. A prompt with several answers enters once; `_leave_decoder` repeats what comes of it.
        cache = cache_of(kwargs)
        wanted, self.answers = self.answers, 1  # used up where a cache is continued, too
        if not cached_tokens(cache):
            self._copies = wanted
            if wanted > 1:
                kwargs = first_row(kwargs)
        ids = kwargs.get("input_ids", args[0] if args else None)
        # 2. A prompt's ids come to the host now: later the copy would wait for the encoders' work.
        self._input_ids = ids if ids is None or ids.shape[-1] == 1 else ids.cpu()
        # 3. What follows on a pruned cache is text.
        return args, text_only(self._adapter, self._input_ids, cache, kwargs)

    def _enter_decoder(
        self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A prompt is pruned, what follows it is not: a filled cache tells them apart."""
        self._cache = cache_of(kwargs)
        if cached_tokens(self._cache):
            self._alive = None  # tells the layers' hooks that nothing is pruned now
            self._pruned_cache = prompt_of(self._cache) is not None
            if not self._pruned_cache:  # filled outside: nothing about it is out of the ordinary
                return args, kwargs
            return args, self._continuations.arguments(self._cache, kwargs)
        require_dynamic(self._cache)
        return args, self._begin(kwargs)

    def _leave_decoder(self, _module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Complete the trace, while the device is still busy with the last layers."""
        if self._alive is None:
            return None
        self._alive = self._entered = None
        self.sharing.end()
        assert self.trace is not None
        for stage in self._stages:
            self.trace.add(*stage)
        self._statistics.clear()
        if self._cache is not None:
            assert self._input_ids is not None
            self._continuations.note(self._cache, self._next_position, self._input_ids[0].cpu())
        return repeated(output, self._copies, self._cache)

    def _enter_layer(self, number: int) -> Any:
        def hook(
            _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            hidden = args[0] if args else kwargs["hidden_states"]
            alive, self._cache = self._alive, cache_of(kwargs)
            if alive is None and not self._pruned_cache:
                return None
            if alive is None:
                # Decoding. Trap 3: every layer has a cache of its own length, and transformers
                # would size one mask for all of them by the first layer's.
                cached = cached_tokens(self._cache, number - 1)
                mask = decode_mask(
                    cached,
                    hidden.shape[1],
                    self._adapter.language_model.config._attn_implementation,
                    hidden.dtype,
                    hidden.device,
                )
                return args, {**kwargs, "attention_mask": mask}
            if number == 1:
                # transformers records hidden states by hooks, which it leaves on the model once
                # it was asked for them. Before ours, they see all tokens of a layer in every run.
                for hooks, handle in self._leaving:
                    hooks.move_to_end(handle.id)
                # The decoder has worked out the rotary factors once for all its layers.
                alive.sides |= self.sharing.side_tensors(self._adapter.layer_side_tensors(kwargs))
            if self._method.reads_input or self.sharing.needs_entered(number):
                self._entered = hidden
            if not alive.thinned:  # what the decoder passes still fits
                return None
            # Trap 1: the decoder's mask has the length before the drop. It is causal and without
            # padding, which left with Stage I, so that any subset of tokens sees the same triangle.
            mask = kwargs.get("attention_mask")
            if alive.joined:
                mask = self._whole_mask(hidden)
            elif mask is not None:
                mask = mask[..., : hidden.shape[1], : hidden.shape[1]]
            own = self._adapter.layer_arguments(alive.sides, hidden.device)
            return args, {**kwargs, "attention_mask": mask, **own}

        return hook

    def _whole_mask(self, hidden: Tensor) -> Tensor | None:
        """Causal mask of all tokens (1, n, D) at a layer that has none in its cache yet."""
        attention = self._adapter.language_model.config._attn_implementation
        if attention == "sdpa":
            return None  # causal by itself
        return decode_mask(0, hidden.shape[1], attention, hidden.dtype, hidden.device)

    def _leave_layer(self, number: int) -> Any:
        def hook(module: Any, _args: Any, output: Any) -> Any:
            alive = self._alive
            if alive is None:
                return None
            # 1. What the decoder would add behind this layer (DeepStack) comes before any drop:
            #    its rows are those of the tokens that the layer has seen.
            hidden = output[0] if isinstance(output, tuple) else output
            resuming = self.sharing.resuming
            if not resuming:  # of a further question, only text comes through these layers
                hidden = self._adapter.after_layer(hidden, number, alive.sides)
            # 2. Behind the layers that questions about a clip share, both go on together.
            hidden, self._entered = self.sharing.leave(
                number, hidden, self._entered, alive.sides, self._cache
            )
            if resuming and not self.sharing.resuming:
                alive.thinned = alive.joined = True
            # 3. Stage II: the method ranks the tokens alive.
            if self._method.drops_after(number):
                with self._clock.stage("select"):
                    hidden = self._drop_irrelevant(module, hidden, number)
            # 4. Stage III: layers behind this one hardly attend to audio-visual tokens.
            if self._plan.late_layer is not None and number == self._plan.late_layer - 1:
                with self._clock.stage("select"):
                    label = f"late block, from layer {number + 1}"
                    hidden = self._keep(hidden, number, alive.text, "late", None, label)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    # ------------------------------------------------------------- prefill

    def _begin(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Stage I on the embeddings; returns the decoder's new arguments."""
        # 1. Which positions are video or audio; one sequence, whose survivors need no padding.
        embeddings: Tensor = kwargs["inputs_embeds"]
        ids = self._input_ids
        if ids is None or ids.shape != embeddings.shape[:2]:
            raise UsageError("Pruning needs input_ids: they tell which tokens are video or audio.")
        if len(ids) != 1:
            raise UsageError(batch_refusal(len(ids)))
        ids, padding = ids[0].cpu(), kwargs.get("attention_mask")
        found = self.sharing.find(ids, embeddings[0], self._cache, padding)
        video, audio = ids == self._adapter.video_token_id, ids == self._adapter.audio_token_id
        self.trace = SelectionTrace(len(self._adapter.layers), video, audio)
        self._stages = []
        # 2. Positions of the unpruned sequence. The answer continues behind the largest of them
        #    (trap 11), which a survivor need not have: it is noted before anything is dropped.
        #    Trap 2: the adapter leaves out the row of text positions, whose gaps would read as
        #    borders between packed sequences.
        positions = self._adapter.positions(kwargs.get("position_ids"), embeddings)
        self._next_position = positions.max() + 1
        # 3. Stage I. Padding leaves with it; places come to the host once, for all that follows.
        with self._clock.stage("select"):
            self.chosen = found is None or self._method.shares != "entry"
            if found is not None and not self.chosen:
                keep, flops = found.keep_in(len(ids)), found.entry_flops
            else:
                prompt = self._prompt_tokens(embeddings[0], ids, positions, padding)
                entry = self._method.before_llm(prompt)
                if entry.embeddings is not None:
                    embeddings = entry.embeddings[None]
                keep, flops = (entry.keep & unpadded(padding, entry.keep)).cpu(), entry.flops
            places = TokenIndex(keep.nonzero()[:, 0])
        # 4. Side tensors are taken out of the arguments and cut down with the tokens from now on.
        kwargs, sides = self._adapter.take_side_tensors(kwargs)
        self._alive = TokenState(torch.arange(len(keep)), video, audio, sides)
        self._alive.keep(places)
        self._alive.thinned = False  # the decoder makes mask and rotary for these tokens itself
        by_question = self._method.query_tokens == "question"
        self._question = behind_clip(video | audio, self._alive.index) if by_question else 0
        self._entered = None
        label = self._method.stage_label(0)
        self._stages.append((self._method.entry_kind, 0, self._alive.index, None, label, flops))
        # 5. What an earlier question about the clip has left need not go in again.
        places = self.sharing.begin(found, keep, places, self._cache, flops)
        return {
            **kwargs,
            "inputs_embeds": embeddings.index_select(1, places.on(embeddings.device)),
            **self._adapter.position_arguments(
                positions.index_select(-1, places.on(positions.device))
            ),
            # Behind tokens in the cache, the rows of a mask would have to cover those, too.
            **({"attention_mask": None} if self.sharing.resuming else {}),
        }

    def _prompt_tokens(
        self,
        embeddings: Tensor,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | None,
    ) -> PromptTokens:
        """Embeddings with what the hooks on the encoders noted about them.

        Trap 4: `generate` runs the encoders before the model's forward, so that grids and lengths
        come from there and not from the arguments.
        """
        device = embeddings.device

        def modality(mask: Tensor, of: Callable[[int], EncoderCall]) -> Modality:
            positions = mask.nonzero()[:, 0]
            there = on_device(mask, device)
            if not len(positions):
                return Modality(there)
            call = of(len(positions))
            return Modality(
                there,
                call.lengths,
                call.windows,
                call.grids,
                call.importance.to(device) if self._method.needs_importance else None,
                None if call.keys is None else call.keys.to(device),
                None if call.sources is None else call.sources.to(device),
                on_device(positions, device),
            )

        pictures = ids == self._adapter.image_token_id
        rotary = None
        if self._method.needs_rotary:
            rotary = self._adapter.rotary(embeddings[None], positions)
        seen = modality(ids == self._adapter.video_token_id, self._statistics.video_for)
        return PromptTokens(
            embeddings,
            seen,
            modality(ids == self._adapter.audio_token_id, self._statistics.audio_for),
            positions.reshape(-1, len(embeddings)).to(device),
            rotary,
            # On the device: whether any is padding is asked by the methods that read text.
            None if mask is None else ~unpadded(mask, seen.mask),
            on_device(pictures, device) if bool(pictures.any()) else None,
        )

    def _drop_irrelevant(self, layer: Any, hidden: Tensor, number: int) -> Tensor:
        """Stage II after decoder layer `number`."""
        alive = self._alive
        assert alive is not None
        # 1. Relevance of every token alive, and the one wait for the device: ranking and
        #    bookkeeping happen on the host.
        asks, scores = self._method.query_tokens != "none", None
        if asks:
            scores = self._relevance(layer, hidden, number, alive).cpu()
        tokens = LayerTokens(
            alive.index,
            alive.video,
            alive.audio,
            torch.zeros(0) if scores is None else scores,
            hidden[0] if self._method.needs_states or not asks else None,
        )
        # 2. The method's choice, perhaps with states that have changed.
        chosen = self._method.after_layer(number, tokens)
        entry = chosen if isinstance(chosen, Entry) else Entry(chosen)
        if entry.embeddings is not None:
            hidden = entry.embeddings[None]
        kind, label = self._method.layer_kind, self._method.stage_label(number)
        return self._keep(hidden, number, entry.keep, kind, scores, label, entry.flops)

    def _relevance(self, layer: Any, left: Tensor, number: int, alive: TokenState) -> Tensor:
        """Attention (n,) of whoever asks to the tokens alive, float32.

        `layer` is the one that returned `left` (1, n, D), counted from 1 as `number`.
        """
        method, states = self._method, left[0]
        if method.reads_input and self._question:
            # The attention that the layer has computed, where the last text token's is one that it
            # would compute from its own output.
            assert self._entered is not None
            states = self._entered[0]
        elif method.query_states == "next" and number < len(self._adapter.layers):
            layer = self._adapter.layers[number]
            device = next(layer.parameters()).device
            if device.type != "meta":  # offloaded: it fetches weights and states by itself
                states = states.to(device)
        length = len(alive.index)
        if self._question:
            sees = on_device(torch.arange(length - self._question, length), states.device)
            query, key = self._adapter.relevance_query_key(layer, states, alive.sides, sees)
        else:
            # The last text token is usually the last of all, the one that the answer starts from.
            last = int(alive.text.nonzero()[-1])
            query, key = self._adapter.relevance_query_key(layer, states, alive.sides, last)
            if method.query_heads == "mean":
                return relevance.last_query_relevance(query, key)
            query, sees = query[None], on_device([length - 1], states.device)
        media = on_device(~alive.text, key.device)
        return relevance.over_heads(query, key, sees, method.query_heads, media)

    def _keep(
        self,
        hidden: Tensor,
        number: int,
        keep: Tensor,
        kind: str,
        scores: Tensor | None,
        label: str,
        flops: int = 0,
    ) -> Tensor:
        """Continue with the tokens of `keep` (BoolTensor over the alive ones, on the CPU)."""
        alive = self._alive
        assert alive is not None
        places = TokenIndex(keep.nonzero()[:, 0])
        alive.keep(places)
        self._stages.append((kind, number, alive.index, scores, label, flops))
        # The layers passed have already stored the dropped tokens: "layerwise" leaves them there
        # for the answer to attend to, "survivors" takes them out.
        if self._plan.config.kv == "survivors" and self._cache is not None:
            keep_in_layers(self._cache, number, places)
        return hidden.index_select(1, places.on(hidden.device))
