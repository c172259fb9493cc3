"""What the adapters of Qwen2.5-Omni and Qwen3-Omni share: parts, prompts, M-RoPE, DeepStack."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from seats_cli.cost.token_counts import MediaSizes
from seats_cli.errors import ModelError
from seats_cli.models.adapter import Adapter, SideTensors
from seats_cli.models.clip_features import Media, with_media
from seats_cli.models.fused_modules import rotate_vision
from seats_cli.selection import static_regions
from seats_cli.selection.device import on_device

if TYPE_CHECKING:
    from pathlib import Path

    from seats_cli.media.clip import Clip
    from seats_cli.selection.static_regions import Packing

_DEEPSTACK = "deepstack"
_FROM_BASE = (  # what training frameworks forget to save
    "copy the files of the tokenizer, the processor and the chat template (.json, .txt, .jinja) "
    "from the checkpoint that it was trained from"
)
_TOGETHER = "use_audio_in_video"  # an argument of the models


class QwenOmni(Adapter):
    """A thinker (`...ThinkerForConditionalGeneration`), alone or inside the full Omni model."""

    name: ClassVar[str]  # how names of the family's classes in transformers begin
    token_suffix: ClassVar[str]  # of placeholder ids in configs
    slow_positions: ClassVar[str]  # method of transformers that interleaves them token by token
    usual_fps: ClassVar[float]  # of frames without times, by the family's processor
    unused_weights = ("audio_bos_eos_token",)
    encoder_arguments = ("pixel_values_videos", "input_features")
    weights_prefix = "thinker."
    # transformers 5.17 keeps the encoders on the thinker, later versions in `.model`.
    unquantized_modules = ("model.visual", "model.audio_tower", "visual", "audio_tower", "lm_head")

    def __init__(self, model: nn.Module) -> None:
        thinker: Any = getattr(model, "thinker", model)
        inner: Any = thinker.model
        # transformers up to 5.17 keeps the encoders on the thinker and the decoder in
        # `.model`; later versions put all three into `.model`.
        nested = hasattr(inner, "language_model")
        self.model = thinker
        self.core = inner if nested else thinker
        self.language_model = inner.language_model if nested else inner
        self.visual = self.core.visual
        self.audio_tower = self.core.audio_tower
        self.lm_head = thinker.lm_head
        self.config = thinker.config
        self.video_token_id, self.audio_token_id, self.image_token_id = (
            _token_id(thinker.config, modality) for modality in ("video", "audio", "image")
        )
        self.merge_unit = thinker.config.vision_config.spatial_merge_size**2
        self.packed_attentions = [block.attn for block in self.visual.blocks]
        self.vision_mlps = [block.mlp for block in self.visual.blocks]
        seeing: Any = self.packed_attentions[-1]
        hearing = self.audio_tower.layers[-1].self_attn
        self.vision_attention, self.audio_attention = seeing, hearing
        # Qwen3-Omni has one layer for queries, keys and values
        self.vision_projections = (seeing.qkv,) if hasattr(seeing, "qkv") else (seeing.q, seeing.k)
        self.audio_projections = hearing.q_proj, hearing.k_proj

    # ------------------------------------------------- loading and prompts

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Decoder under `model`, encoders beside it, and every expert by itself."""
        parts = {
            "model": self.language_model,
            "lm_head": self.lm_head,
            "visual": self.visual,
            "audio_tower": self.audio_tower,
        }
        for part, module in parts.items():
            for name, value in module.named_parameters(part):
                before, fused, kind = name.rpartition(".experts.")
                for number, expert in enumerate(value if fused else ()):
                    inner = [kind] if kind == "down_proj" else ["gate_proj", "up_proj"]
                    for one, matrix in zip(inner, expert.chunk(len(inner)), strict=True):
                        yield f"{before}.experts.{number}.{one}.weight", matrix
                if not fused:
                    yield name, value

    @classmethod
    def model_class(cls) -> Any:
        """The thinker."""
        return getattr(transformers, f"{cls.name}ThinkerForConditionalGeneration")

    @classmethod
    def load_processor(cls, folder: Path) -> Any:
        """The family's processor, able to put pictures and sound into a prompt.

        Raises
        ------
        ModelError
            If its tokenizer has no tokens for them, or its chat template no place.
        """
        try:
            processor = getattr(transformers, f"{cls.name}Processor").from_pretrained(
                folder,
                # Not left to the default, which asks on the terminal whether to run the folder's
                # code.
                trust_remote_code=False,
                local_files_only=True,
            )
        except AttributeError as error:  # it asks its tokenizer for `image_token` and the like
            raise ModelError(
                f"The tokenizer of '{folder}' has no tokens for pictures and sound: {_FROM_BASE}."
            ) from error
        if processor.chat_template is None:
            raise ModelError(f"'{folder}' has no chat template: {_FROM_BASE}.")
        parts = [{"type": kind, kind: "clip"} for kind in ("image", "video", "audio")]
        prompt = processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
        marks = processor.image_token, processor.video_token, processor.audio_token
        if not all(mark in prompt for mark in marks):
            raise ModelError(
                f"The chat template of '{folder}' is for text alone, without a place for pictures "
                f"and sound: {_FROM_BASE}."
            )
        return processor

    def check_processor(self, processor: Any, name: str) -> None:
        """The placeholders of video and sound: a tokenizer numbers what it does not know anew."""
        tokenizer = processor.tokenizer
        marks = {
            processor.video_token: self.video_token_id,
            processor.audio_token: self.audio_token_id,
        }
        for mark, number in marks.items():
            found = tokenizer.convert_tokens_to_ids(mark)
            if found != number:
                raise ModelError(
                    f"The tokenizer of '{name}' has {mark} as token {found}, the model as "
                    f"{number}: {_FROM_BASE}."
                )

    @classmethod
    def bare_processor(cls, values: dict[str, Any], bundled: Path) -> Any:
        """The family's processor around the bundled tokenizer and feature extractor."""
        given = transformers.Qwen2_5OmniProcessor.from_pretrained(bundled, local_files_only=True)
        vision = values["vision_config"]
        sizes = {
            "patch_size": vision["patch_size"],
            "temporal_patch_size": vision["temporal_patch_size"],
            "merge_size": vision["spatial_merge_size"],
        }
        return getattr(transformers, f"{cls.name}Processor")(
            image_processor=transformers.Qwen2VLImageProcessor(**sizes),
            video_processor=transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False, **sizes),
            feature_extractor=given.feature_extractor,
            tokenizer=given.tokenizer,
            chat_template=given.chat_template,
        )

    @classmethod
    def token_ids(cls, tokenizer: Any) -> dict[str, int]:
        """In the spelling of Qwen2.5-Omni, which the bundled tokenizer has."""
        roles = {
            f"audio_token_{cls.token_suffix}": "<|AUDIO|>",
            f"image_token_{cls.token_suffix}": "<|IMAGE|>",
            f"video_token_{cls.token_suffix}": "<|VIDEO|>",
            "audio_start_token_id": "<|audio_bos|>",
            "audio_end_token_id": "<|audio_eos|>",
            "vision_start_token_id": "<|vision_bos|>",
            "vision_end_token_id": "<|vision_eos|>",
            "user_token_id": "user",
            "pad_token_id": "<|endoftext|>",
            "eos_token_id": "<|im_end|>",
        }
        return {name: int(tokenizer.convert_tokens_to_ids(text)) for name, text in roles.items()}

    def clip_inputs(
        self,
        processor: Any,
        clip: Clip,
        question: str,
        device: torch.device | None,
        *,
        system: str | None = None,
    ) -> dict[str, Any]:
        """One user turn; picture and sound are interleaved by the effective frame rate.

        Frames are taken as they are, and the whole sound: no truncation, and padding to the
        sound's own length instead of the 300 s that the Whisper feature extractor defaults to.
        """
        kind = "audio" if clip.frames is None else "video"
        text = self.conversation(processor, kind, [question], system)
        frames, fps = None, clip.fps or self.usual_fps
        if clip.frames is not None:
            frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        return self._prompt(processor, text, Media(frames, fps, clip.audio), device)

    def conversation(
        self, processor: Any, kind: str, texts: Sequence[str], system: str | None = None
    ) -> str:
        """The clip stands before the first question, in the same turn."""
        turns: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
            for number, text in enumerate(texts)
        ]
        turns[0]["content"].insert(0, {"type": kind, kind: "clip"})
        if system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        return str(processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def message_inputs(self, processor: Any, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """By `qwen_omni_utils.process_mm_info`, then by the processor, one part at a time.

        The processor takes one frame rate for all videos of a prompt, but each has its own.
        """
        from qwen_omni_utils import process_mm_info

        # 1. Media in the package's form; the audio of a video follows it as a part of its own.
        parts = [part for message in messages for part in message["content"]]
        parts = [part for part in parts if part["type"] != "text"]
        listed = []
        for part in parts:
            listed.append(part)
            if "sound" in part:
                listed.append({"type": "audio", "audio": part["sound"]})
        sounds, images, videos, sampled = process_mm_info(
            [{"role": "user", "content": listed}],
            use_audio_in_video=False,
            return_video_kwargs=True,
            image_patch_size=self.config.vision_config.patch_size,
        )
        longest = max(map(len, sounds or ()), default=0)
        waiting = {"audio": iter(sounds or ()), "image": iter(images or ())}
        frames = zip(videos or (), sampled.get("fps", ()), strict=True)

        # 2. The prompt between them, as the chat template has it.
        vision = processor.vision_bos_token, processor.vision_eos_token
        marks = {
            "image": processor.image_token.join(vision),
            "video": processor.video_token.join(vision),
            "audio": processor.audio_token.join(
                (processor.audio_bos_token, processor.audio_eos_token)
            ),
        }
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ahead, *behind = re.split("|".join(map(re.escape, marks.values())), text)

        # 3. Every part's tokens and features, and what stands behind it.
        def encoded(piece: str) -> list[int]:
            return list(processor.tokenizer.encode(piece, add_special_tokens=False))

        ids, features = encoded(ahead), defaultdict(list)
        for part, piece in zip(parts, behind, strict=True):
            kind = part["type"]
            if kind == "image":
                still = {"images": [next(waiting[kind])], "images_kwargs": {"do_resize": False}}
                made = dict(processor(text=[marks[kind]], return_tensors="pt", **still))
            else:
                video, fps = next(frames) if kind == "video" else (None, self.usual_fps)
                sound = next(waiting["audio"]) if kind == "audio" or "sound" in part else None
                made = self._prompt(processor, marks[kind], Media(video, fps, sound, longest))
            ids += made.pop("input_ids")[0].tolist() + encoded(piece)
            made.pop("attention_mask")
            for name, value in made.items():
                features[name].append(torch.as_tensor(value))
        joined = {name: torch.cat(values) for name, values in features.items() if name != _TOGETHER}
        prompt = torch.tensor([ids])
        together = any("sound" in part for part in parts)
        return {**joined, "input_ids": prompt, _TOGETHER: together}

    def _prompt(
        self, processor: Any, text: str, media: Media, device: torch.device | None = None
    ) -> dict[str, Any]:
        """A text around one clip, with what the encoders are given: the processor's own values.

        Placeholders are put in as ids. To spell thousands of them, for the tokenizer to find each
        again, takes as long as everything else together where pixels are made on a GPU.
        """
        found = media.features(processor, self.family, device, self.model.dtype)
        sizes, tokenizer = self.media_sizes(found), processor.tokenizer
        seen = sum(map(math.prod, sizes.grids)) // self.merge_unit
        heard = sum(map(self.family.audio_tokens, sizes.mel_frames))
        together = bool(sizes.grids and sizes.mel_frames)
        place = self.video_token_id if sizes.grids else self.audio_token_id
        run = [place] * (seen if sizes.grids else heard)
        if together:
            instants = media.instants(processor, sizes.grids[0][0], seen)
            picture = self.interleaved(processor, instants, heard)
            marks = [processor.audio_bos_token, processor.audio_eos_token]
            begin, end = tokenizer.convert_tokens_to_ids(marks)
            run = torch.where(picture, self.video_token_id, self.audio_token_id).tolist()
            run = [begin, *run, end]
        ids = with_media(tokenizer(text)["input_ids"], place, run)
        return {**found, **ids, _TOGETHER: together}

    @abstractmethod
    def interleaved(self, processor: Any, instants: Tensor, sound: int) -> Tensor:
        """The order of a video's and its sound's tokens in the prompt, as the processor has it.

        Parameters
        ----------
        instants : Tensor, shape (n,), float64
            Seconds at which the grids of the video tokens begin, ascending.
        sound : int
            Audio tokens.

        Returns
        -------
        BoolTensor, shape (n + sound,): True for a video token.
        """

    def media_sizes(self, inputs: dict[str, Any]) -> MediaSizes:
        """From the grids and the mask of the mel frames."""
        grids, frames = inputs.get("video_grid_thw"), inputs.get("feature_attention_mask")
        return MediaSizes(
            () if grids is None else tuple((t, h, w) for t, h, w in grids.tolist()),
            () if frames is None else tuple(frames.sum(-1).tolist()),
        )

    # ------------------------------------------------------------ encoders

    def vision_query_key(
        self, projected: Sequence[Tensor], arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Split into heads and rotated."""
        heads = self.config.vision_config.num_heads
        halves = projected if len(projected) == 2 else projected[0].chunk(3, dim=-1)[:2]
        query, key = (part.view(len(part), heads, -1) for part in halves)
        return rotate_vision(query, key, *arguments["position_embeddings"])

    def vision_states(self, attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By one layer each, or by one for all."""
        shape = len(hidden), attention.num_heads, -1
        if hasattr(attention, "qkv"):
            query, key, value = attention.qkv(hidden).chunk(3, dim=-1)
        else:
            query, key, value = (layer(hidden) for layer in (attention.q, attention.k, attention.v))
        return query.view(shape), key.view(shape), value.view(shape)

    def vision_grids(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The argument `grid_thw`."""
        grids: Tensor = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        return grids

    def packed_vision_arguments(self, grid_thw: Tensor, packing: Packing) -> dict[str, Any]:
        """Places, borders of segments and windows, and positions where they are learned (Qwen3)."""
        visual, device = self.visual, grid_thw.device
        chosen = static_regions.positions(packing.chosen, self.merge_unit).to(device)
        merge = self.config.vision_config.spatial_merge_size
        arguments: dict[str, Any] = {
            "position_ids": get_vision_position_ids(grid_thw, merge)[chosen],
            "cu_seqlens": packing.full.borders.to(device),
        }
        if hasattr(self.config.vision_config, "window_size"):
            arguments["window_index"] = torch.arange(len(packing.chosen), device=device)
            arguments["cu_window_seqlens"] = packing.windowed.borders.to(device)
        if hasattr(visual, "pos_embed"):
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid_thw,
                num_grid_per_side=visual.num_grid_per_side,
                mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners,
                spatial_merge_size=merge,
            )
            arguments["interp_indices"] = indices[chosen]
            arguments["interp_weights"] = weights[chosen]
        return arguments

    def audio_query_key(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Split into heads; positions are part of the states."""
        heads = self.config.audio_config.encoder_attention_heads
        query, key = (part.view(len(part), heads, -1) for part in projected)
        return query, key

    def mel_frames(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
        """The argument `feature_lens`."""
        lengths = kwargs["feature_lens"] if "feature_lens" in kwargs else args[1]
        return [int(frames) for frames in lengths.tolist()]

    # ------------------------------------------------------------- decoder

    def positions(self, given: Tensor | None, embeddings: Tensor) -> Tensor:
        """M-RoPE positions (3, B, S): time, height and width.

        `generate` puts a row of text positions in front. It is left out: after pruning its gaps
        would be read as borders between packed sequences.
        """
        if given is not None and given.ndim == 3:
            return given[-3:]
        return super().positions(given, embeddings).expand(3, len(embeddings), -1)

    def position_arguments(self, positions: Tensor) -> dict[str, Any]:
        """Three rows are never read as packed sequences."""
        return {"position_ids": positions, "attention_mask": None}

    def take_side_tensors(
        self, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, SideTensors]]:
        """DeepStack features (Qwen3), for the visual tokens only."""
        features = arguments.get("deepstack_visual_embeds")
        if features is None:
            return arguments, {}
        places = arguments["visual_pos_masks"][0].cpu().nonzero()[:, 0]
        taken = {**arguments, "deepstack_visual_embeds": None, "visual_pos_masks": None}
        return taken, {_DEEPSTACK: SideTensors(tuple(features), places)}

    def after_layer(self, hidden: Tensor, number: int, sides: dict[str, SideTensors]) -> Tensor:
        """DeepStack: each of the first layers' outputs gets features of its own."""
        deep = sides.get(_DEEPSTACK)
        if deep is None or number > len(deep.tensors):
            return hidden
        assert deep.places is not None
        hidden = hidden.clone()
        where = on_device(deep.places, hidden.device)
        hidden[0, where] += deep.tensors[number - 1].to(hidden.device, hidden.dtype)
        return hidden

    def side_layers(self, sides: dict[str, SideTensors]) -> int:
        """One for each level of DeepStack."""
        return len(sides[_DEEPSTACK].tensors) if _DEEPSTACK in sides else 0

    @abstractmethod
    def quick_positions(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """What replaces `slow_positions`, with the same results."""

    def vectorized_methods(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """M-RoPE positions; which part computes them depends on the version of transformers."""
        parts = {id(part): part for part in (self.model, self.core)}.values()
        return [(part, self.slow_positions, self.quick_positions) for part in parts]


def _token_id(config: Any, modality: str) -> int:
    """Placeholder token id under its newer (`_id`) or older (`_index`) config name."""
    value = getattr(config, f"{modality}_token_id", None)
    return int(getattr(config, f"{modality}_token_index") if value is None else value)
