"""The interface between a model family and the engine.

An adapter finds the parts of a model and exposes the few computations that selection needs from
them. It never changes the model. Whatever only one family has (rows of M-RoPE positions, DeepStack
features, names of arguments) stays behind it: the engine slices an adapter's `SideTensors` without
knowing what they hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from seats_cli.errors import ModelError, UsageError
from seats_cli.families.base import Architecture, Family, FrameSizing
from seats_cli.families.registry import with_own_settings
from seats_cli.selection.device import TokenIndex

if TYPE_CHECKING:
    from pathlib import Path

    from seats_cli.cost.token_counts import MediaSizes
    from seats_cli.media.clip import Clip
    from seats_cli.selection.static_regions import Packing


def devices_of(model: torch.nn.Module) -> tuple[torch.device, ...]:
    """Devices that hold weights of a model, each once, in the order in which they are met."""
    found = dict.fromkeys(parameter.device for parameter in model.parameters())
    return tuple(device for device in found if device.type != "meta")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding over the last dimension, split in halves."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def is_prefill(arguments: Mapping[str, Any]) -> bool:
    """Whether a call of the text model, by its keyword arguments, brings more than one token."""
    embeds = arguments.get("inputs_embeds")
    return embeds is not None and embeds.shape[1] > 1


@dataclass(frozen=True, eq=False)
class SideTensors:
    """What a decoder needs for its tokens besides their hidden states."""

    tensors: tuple[Tensor, ...]  # each (..., m, d), a row for each of m tokens
    # LongTensor (m,) on the CPU: which of the tokens alive these are, ascending; None: all of them.
    places: Tensor | None = None

    def keep(self, kept: TokenIndex) -> SideTensors:
        """The rows of the tokens at some places, ascending, among those alive."""
        rows, places = kept, None
        if self.places is not None:
            rows = TokenIndex(torch.isin(self.places, kept.host).nonzero()[:, 0])
            places = torch.searchsorted(kept.host, self.places[rows.host])
        return SideTensors(
            tuple(part.index_select(-2, rows.on(part.device)) for part in self.tensors), places
        )


ROTARY = "rotary"


class Adapter(ABC):
    """One loaded model of a family.

    The defaults describe a decoder like Llama's: positions in one row, layers that are given
    `position_embeddings` and attend by `self_attn` behind an `input_layernorm`.

    Parameters
    ----------
    model : nn.Module
        The model, or a larger one around it (an Omni model with its talker).
    """

    family: ClassVar[Family]
    unused_weights: ClassVar[tuple[str, ...]] = ()  # parts of names that checkpoints may lack
    # How its tensors' names begin in checkpoints of a larger model around it.
    weights_prefix: ClassVar[str] = ""
    # Arguments of a prompt that only the encoders read.
    encoder_arguments: ClassVar[tuple[str, ...]] = ()
    # For `load_model(quantize=...)`: modules that keep their precision, in every version of
    # transformers, and, where quantizing does not pay, why and what to do instead.
    unquantized_modules: ClassVar[tuple[str, ...]] = ()
    not_quantizable: ClassVar[str] = ""
    pixel_std: ClassVar[tuple[float, float, float]]  # the processor divides by it; for Stage 0

    whole: Any  # what the adapter was made for: `model`, or a larger one around it
    model: Any  # gives logits; has `forward` and `generate`
    core: Any  # the module in it whose `forward` is given `input_ids`, or the model itself
    language_model: Any  # the decoder, which is given `inputs_embeds` and has `layers`
    visual: Any
    audio_tower: Any
    lm_head: Any
    config: Any  # of `model`
    video_token_id: int  # placeholders in a prompt
    audio_token_id: int
    image_token_id: int = -1  # of pictures, which count as text; none has it in other families
    merge_unit: int  # vision patches of one LLM token, neighbours in the encoder
    vision_attention: nn.Module  # the last attention of each encoder
    audio_attention: nn.Module
    vision_projections: tuple[nn.Module, ...]  # its layers that give queries and keys
    audio_projections: tuple[nn.Module, ...]
    # The attention of each vision block, if it takes packed patches and the borders between them
    # (`cu_seqlens`): the fused attention and Stage 0 are for these alone.
    packed_attentions: Sequence[nn.Module] = ()
    vision_mlps: Sequence[nn.Module] = ()  # of the vision blocks; they treat each patch by itself

    @abstractmethod
    def __init__(self, model: nn.Module) -> None: ...

    @property
    def layers(self) -> nn.ModuleList:
        """Decoder layers, in order."""
        layers: nn.ModuleList = self.language_model.layers
        return layers

    def architecture(self) -> Architecture:
        """Shapes of this model as plain numbers, with its own SEATS settings if it has some."""
        return with_own_settings(self.family.describe(self.config), self.own_settings())

    def own_settings(self) -> dict[str, Any]:
        """The `seats` entry of the checkpoint's config.json.

        Optional keys: `drop_layers`, `late_layer` and `retention_pairs` (lists of an overall share
        and the average retentions of video and audio it stands for), all measured for this
        model, and `min_pixels`, `max_pixels` (of a frame); `rope_sections`, if the decoder was
        trained with others than transformers has (`seats_cli.models.optimize.sync_rope`).
        """
        settings: dict[str, Any] = getattr(self.config, "seats", None) or {}
        return settings

    def sizing(self) -> FrameSizing:
        """Frame sizes: 128 to 768 merged tokens as officially, or the checkpoint's own."""
        return FrameSizing.for_model(self.architecture().vision, self.own_settings())

    # ------------------------------------------------- loading and prompts

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight as a published checkpoint stores it: its name there, and the value here.

        Values are views of the model's parameters. Names are without `weights_prefix`.
        """
        yield from self.model.named_parameters()

    @classmethod
    @abstractmethod
    def model_class(cls) -> Any:
        """The class of the model that answers, a `PreTrainedModel` with its `config_class`."""

    @classmethod
    @abstractmethod
    def load_processor(cls, folder: Path) -> Any:
        """The processor of a checkpoint folder, with a `tokenizer`; no remote code is run."""

    def check_processor(self, processor: Any, name: str) -> None:
        """See to it that a processor's tokens are those of this model; `name` is the checkpoint's.

        Raises
        ------
        ModelError
            If prompts would hold tokens that mean something else to the model.
        """
        if len(processor.tokenizer) <= max(self.video_token_id, self.audio_token_id):
            raise ModelError(f"The tokenizer of '{name}' has no tokens for video and sound.")

    @classmethod
    @abstractmethod
    def bare_processor(cls, values: dict[str, Any], bundled: Path) -> Any:
        """A processor for a model without a checkpoint.

        Parameters
        ----------
        values : dict
            The model's config.json.
        bundled : Path
            Folder of the bundled model, for its tokenizer and feature extractor.
        """

    @classmethod
    @abstractmethod
    def token_ids(cls, tokenizer: Any) -> dict[str, int]:
        """Ids of a bare processor's control tokens under the names of the model's config."""

    @abstractmethod
    def clip_inputs(
        self,
        processor: Any,
        clip: Clip,
        question: str,
        device: torch.device | None,
        *,
        system: str | None = None,
    ) -> dict[str, Any]:
        """Inputs of a prompt with a clip and a question about it, on any device.

        Parameters
        ----------
        processor
            The model's own.
        clip : Clip
            With frames that have been resized already, sound, or both.
        question : str
            Contains no control tokens.
        device : torch.device or None
            Where pixel values and mel frames are best computed, if not on the CPU.
        system : str or None
            System turn that replaces the chat template's own; contains no control tokens.

        Returns
        -------
        dict
            `input_ids` (1, S), `attention_mask`, and what the encoders are given.
        """

    def conversation(
        self, processor: Any, kind: str, texts: Sequence[str], system: str | None = None
    ) -> str:
        """The prompt of a conversation about a clip, as the chat template has it.

        Parameters
        ----------
        processor
            The model's own.
        kind : str
            "video" or "audio": what the clip is in the first turn.
        texts : sequence of str
            The first question, and in turns answers and further questions; they contain no control
            tokens.
        system : str or None
            As for `clip_inputs`.
        """
        raise UsageError(f"{self.family.title} takes one question about a clip, no conversation.")

    def message_inputs(self, processor: Any, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Inputs of a conversation, on the CPU, for families whose processor takes several parts.

        Parameters
        ----------
        processor
            The model's own.
        messages : sequence of dict
            `role`, and `content` as a list of parts: texts, images, sounds as samples, and videos
            as frames with `sample_fps` and, where their audio is used, `sound`.
        """
        raise UsageError(f"{self.family.title} takes a clip and a question, not chat messages.")

    @abstractmethod
    def media_sizes(self, inputs: dict[str, Any]) -> MediaSizes:
        """What the encoders are given by these inputs."""

    def speaks(self, arguments: Mapping[str, Any]) -> bool:
        """Whether `whole.generate` with these arguments gives sound besides text."""
        spoken = arguments.get("return_audio")
        if spoken is None:  # its newer name; without either, a model with a talker speaks
            spoken = arguments.get("generation_mode") not in ("text", False)
        return bool(spoken and getattr(self.whole, "has_talker", False))

    # ------------------------------------------------------------ encoders

    @abstractmethod
    def vision_query_key(
        self, projected: Sequence[Tensor], arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys of N patches as the last attention compares them.

        Parameters
        ----------
        projected : sequence of Tensor
            Outputs of `vision_projections`.
        arguments : dict
            Keyword arguments of the attention.

        Returns
        -------
        query, key : Tensor, each (N, heads, head_dim)
        """

    @abstractmethod
    def vision_grids(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Time, height and width in patches, (n, 3), of each video in a call of `visual`."""

    def vision_raster_order(self, grid_thw: Tensor) -> Tensor | None:
        """LongTensor (n,) that brings merged tokens from encoder to raster order, or None."""
        return None

    def vision_states(self, attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of N patches from a vision block's attention, by its own layers.

        Parameters
        ----------
        attention : nn.Module
            One of `packed_attentions`.
        hidden : Tensor, shape (N, D)

        Returns
        -------
        query, key, value : Tensor, each (N, heads, head_dim), before rotation
        """
        raise NotImplementedError

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        """The blocks of an encoder that takes packed patches."""
        return list(self.visual.blocks)

    @property
    def vision_mergers(self) -> list[tuple[int, nn.Module]]:
        """What merges their patches to tokens, with the block (from 0) behind which each does."""
        deep = getattr(self.visual, "deepstack_visual_indexes", ())  # Qwen3-Omni
        levels = zip(deep, getattr(self.visual, "merger_list", ()), strict=False)
        return [*levels, (len(self.visual.blocks) - 1, self.visual.merger)]

    def packed_vision_arguments(self, grid_thw: Tensor, packing: Packing) -> dict[str, Any]:
        """What the vision encoder would derive from a complete grid, for a part of its patches."""
        raise NotImplementedError

    @abstractmethod
    def audio_query_key(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries and keys, each (N, heads, head_dim), of N encoder positions."""

    @abstractmethod
    def mel_frames(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
        """Mel frames of each sound in a call of `audio_tower`."""

    # ------------------------------------------------------------- decoder

    def positions(self, given: Tensor | None, embeddings: Tensor) -> Tensor:
        """Positions (..., B, S) of tokens, from the decoder's argument; counted up without one.

        Parameters
        ----------
        given : LongTensor or None
            The argument `position_ids`.
        embeddings : Tensor, shape (B, S, D)
        """
        if given is None:
            steps = torch.arange(embeddings.shape[1], device=embeddings.device)
            return steps.expand(len(embeddings), -1)
        return given

    def position_arguments(self, positions: Tensor) -> dict[str, Any]:
        """The decoder's arguments for unpadded tokens at these positions, which may have gaps.

        Without a mask, and without a cache, transformers reads gaps in a single row of positions
        as borders between packed sequences, which do not see each other.
        """
        whole = torch.ones(positions.shape[-2:], dtype=torch.bool, device=positions.device)
        return {"position_ids": positions, "attention_mask": whole}

    def rotary(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, S, head_dim) of the decoder for states (B, S, D) at positions.

        They are those of the run under way, whatever is swapped in it.
        """
        cos, sin = self.language_model.rotary_emb(states, positions)
        return cos, sin

    def take_side_tensors(
        self, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, SideTensors]]:
        """The decoder's arguments in a prefill, and what of them the engine is to carry instead."""
        return arguments, {}

    def side_layers(self, sides: dict[str, SideTensors]) -> int:
        """How many layers, from the first, `after_layer` adds something to with these."""
        return 0

    def layer_side_tensors(self, arguments: dict[str, Any]) -> dict[str, SideTensors]:
        """What the first layer's arguments hold for each of its tokens."""
        return {ROTARY: SideTensors(tuple(arguments["position_embeddings"]))}

    def layer_arguments(
        self, sides: dict[str, SideTensors], device: torch.device
    ) -> dict[str, Any]:
        """A layer's arguments from them, for the tokens that are left."""
        rotary = tuple(part.to(device) for part in sides[ROTARY].tensors)
        return {"position_embeddings": rotary}

    def after_layer(self, hidden: Tensor, number: int, sides: dict[str, SideTensors]) -> Tensor:
        """States (1, n, D) that leave layer `number` (from 1), with what is added to them there."""
        return hidden

    def vectorized_methods(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """Objects, the name of their method that loops over tokens, and what vectorises it.

        The results are the same.
        """
        return []

    def relevance_query_key(
        self,
        layer: Any,
        hidden: Tensor,
        sides: dict[str, SideTensors],
        query_index: int | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Query of one token (or of some) and keys of all, from states of the sequence.

        The layer's own input norm, projections (with their norms, where the family has them)
        and rotary embedding are applied (arXiv 2605.20035, Stage II).

        Parameters
        ----------
        hidden : Tensor, shape (n, D)
        sides : dict
            Side tensors of the n tokens.
        query_index : int, or LongTensor of shape (q,)
            Which tokens ask.

        Returns
        -------
        query : Tensor, shape (heads, head_dim), or (q, heads, head_dim)
        key : Tensor, shape (kv_heads, n, head_dim)
        """
        attention = layer.self_attn
        cos, sin = (part[0].to(hidden.device) for part in sides[ROTARY].tensors)
        normed = layer.input_layernorm(hidden)
        asking = normed[query_index]
        # bitsandbytes' 8-bit layers take nothing with fewer than two dimensions.
        states = attention.q_proj(asking.reshape(-1, asking.shape[-1]))
        query = states.view(*asking.shape[:-1], -1, attention.head_dim)
        key = attention.k_proj(normed).view(len(hidden), -1, attention.head_dim)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        query = rotate(query, cos[query_index].unsqueeze(-2), sin[query_index].unsqueeze(-2))
        key = rotate(key, cos[:, None], sin[:, None])
        return query, key.transpose(0, 1)
