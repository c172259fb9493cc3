"""A family made up for tests, outside of the package: its facts, its model and its adapter.

Its model has the shape of MiniCPM-o: a plain decoder with one row of rotary positions, in whose
prompt the pictures and the sound of each second take turns, with text around them. The parts are
headed by the files that they would be in the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import (
    SAMPLE_RATE,
    AudioShape,
    Family,
    VisionShape,
    audio_block_flops,
    audio_fields,
    halved,
    vision_fields,
)
from seats_cli.media import Clip
from seats_cli.models.adapter import Adapter

VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 1,  # every frame is a grid of its own
    "in_channels": 3,
    "out_hidden_size": 64,
}
AUDIO = {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "d_model": 32,
    "output_dim": 64,
}
TEXT = {
    "vocab_size": 768,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
POOL = 5  # 50 encoder positions a second become 10 tokens


# ------------------------------------------------------- families/mini_omni.py


def shapes(config: Any) -> dict[str, Any]:
    audio = config.audio_config
    return {
        "vision": VisionShape(**vision_fields(config.vision_config), gated_mlp=False),
        "audio": AudioShape(
            **audio_fields(audio),
            window_frames=0,
            conv_channels=audio.d_model,
            tokens_per_second=10.0,
        ),
    }


def audio_flops(shape: AudioShape, frames: int) -> int:
    """A convolution, blocks that see the whole sound, a projection of the pooled positions."""
    positions, hidden = halved(frames), shape.hidden_size
    convolution = 2 * 3 * positions * shape.num_mel_bins * hidden
    projection = 2 * (positions // POOL) * hidden * shape.out_hidden_size
    return convolution + audio_block_flops(shape, [positions]) + projection


FAMILY = Family(
    name="mini_omni",
    title="Mini-Omni",
    model_types=("mini_omni",),
    shapes=shapes,
    pads_sound=True,
    timed_positions=False,
    audio_positions=halved,
    audio_flops=audio_flops,
    audio_pool=POOL,
    audio_statistics_window=100,
    retention_pairs=((0.25, 0.2, 0.5),),
    temperature=0.2,
    named_shapes={
        "mini-omni": {
            "model_type": "mini_omni",
            **TEXT,
            "vision_config": VISION,
            "audio_config": AUDIO,
        }
    },
)


# ---------------------------------------------------------- the model itself


class Config(transformers.Qwen2Config):
    """Qwen2's with both encoders, whose parts are flat in it as in MiniCPM-o's."""

    model_type = "mini_omni"
    vision_config: Any = None
    audio_config: Any = None
    video_token_id: int = 0
    audio_token_id: int = 0

    def __post_init__(self, **values: Any) -> None:
        super().__post_init__(**values)
        for name in ("vision_config", "audio_config"):
            if isinstance(getattr(self, name), dict):
                setattr(self, name, transformers.PretrainedConfig(**getattr(self, name)))


class Attention(nn.Module):
    """Within segments, by products that a FLOP counter knows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, states: Tensor, segments: Sequence[int]) -> Tensor:
        query, key, value = (
            part(states).view(len(states), self.heads, -1).transpose(0, 1).split(segments, 1)
            for part in (self.q, self.k, self.v)
        )
        seen = [
            (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
            for q, k, v in zip(query, key, value, strict=True)
        ]
        attended: Tensor = self.out(torch.cat(seen, 1).transpose(0, 1).flatten(1))
        return attended


class Block(nn.Module):
    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, states: Tensor, segments: list[int]) -> Tensor:
        states = states + self.attention(self.norm(states), segments)
        return states + self.mlp(self.mlp_norm(states))


class Vision(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        width, unit = config.hidden_size, config.spatial_merge_size**2
        values = config.in_channels * config.temporal_patch_size * config.patch_size**2
        self.embed = nn.Linear(values, width)
        sizes = (width, config.intermediate_size, config.num_heads)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.depth))
        self.merger = nn.Sequential(
            nn.Linear(unit * width, unit * width),
            nn.GELU(),
            nn.Linear(unit * width, config.out_hidden_size),
        )

    def forward(self, patches: Tensor, sizes: Tensor) -> Tensor:
        """One token for each merge unit, of patches that stand next to each other."""
        segments = [h * w for t, h, w in sizes.tolist() for _ in range(t)]
        states = self.embed(patches)
        for block in self.blocks:
            states = block(states, segments)
        tokens: Tensor = self.merger(states.view(-1, self.merger[0].in_features))
        return tokens


class Hearing(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv1d(config.num_mel_bins, config.d_model, 3, stride=2, padding=1)
        sizes = (config.d_model, config.encoder_ffn_dim, config.encoder_attention_heads)
        self.layers = nn.ModuleList(Block(*sizes) for _ in range(config.encoder_layers))
        self.project = nn.Linear(config.d_model, config.output_dim)

    def forward(self, mel: Tensor) -> Tensor:
        states = self.embed(mel).transpose(1, 2)[0]
        for layer in self.layers:
            states = layer(states, [len(states)])
        whole = states[: len(states) // POOL * POOL]
        tokens: Tensor = self.project(whole.view(-1, POOL, whole.shape[-1]).mean(1))
        return tokens


class MiniOmni(transformers.Qwen2ForCausalLM):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.eyes, self.ears = Vision(config.vision_config), Hearing(config.audio_config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        patches: Tensor | None = None,
        sizes: Tensor | None = None,
        mel: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        states = self.model.embed_tokens(input_ids)
        if input_ids.shape[1] > 1 and patches is not None:
            here = input_ids == self.config.video_token_id
            states = states.masked_scatter(here[..., None], self.eyes(patches, sizes))
        if input_ids.shape[1] > 1 and mel is not None:
            here = input_ids == self.config.audio_token_id
            states = states.masked_scatter(here[..., None], self.ears(mel))
        return super().forward(inputs_embeds=states, **kwargs)


# --------------------------------------------------------- models/mini_omni.py


class Processor:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.mel = transformers.WhisperFeatureExtractor.from_pretrained(folder)

    def save_pretrained(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.mel.save_pretrained(folder)


class MiniOmniAdapter(Adapter):
    family = FAMILY

    def __init__(self, model: Any) -> None:
        self.model = self.core = model
        self.language_model, self.lm_head = model.model, model.lm_head
        self.visual, self.audio_tower = model.eyes, model.ears
        self.config = model.config

    merge_unit = VISION["spatial_merge_size"] ** 2

    @property
    def video_token_id(self) -> int:
        return int(self.config.video_token_id)

    @property
    def audio_token_id(self) -> int:
        return int(self.config.audio_token_id)

    @classmethod
    def model_class(cls) -> Any:
        return MiniOmni

    @classmethod
    def load_processor(cls, folder: Path) -> Processor:
        return Processor(folder)

    @classmethod
    def bare_processor(cls, values: dict[str, Any], bundled: Path) -> Processor:
        return Processor(bundled)

    @classmethod
    def token_ids(cls, tokenizer: Any) -> dict[str, int]:
        spelled = {"video_token_id": "<|VIDEO|>", "audio_token_id": "<|AUDIO|>"}
        return {name: tokenizer.convert_tokens_to_ids(text) for name, text in spelled.items()}

    def clip_inputs(
        self,
        processor: Processor,
        clip: Clip,
        question: str,
        device: Any,
        *,
        system: str | None = None,
    ) -> dict[str, Any]:
        """Each second's pictures in brackets, then its sound, as MiniCPM-o is given them."""
        inputs: dict[str, Any] = {}
        video = audio = 0
        if clip.frames is not None:
            inputs |= _patches(clip.frames)
            _, height, width = inputs["sizes"][0].tolist()
            video = height * width // self.merge_unit
        if clip.audio is not None:
            frames = FAMILY.mel_frames(len(clip.audio))
            inputs["mel"] = processor.mel(
                clip.audio,
                sampling_rate=SAMPLE_RATE,
                padding="max_length",
                max_length=frames * SAMPLE_RATE // 100,
                truncation=False,
                return_tensors="pt",
            ).input_features
            audio = FAMILY.audio_tokens(frames)

        def text(words: str) -> list[int]:
            return list(processor.tokenizer.encode(words, add_special_tokens=False))

        ids = text("user: " if system is None else f"{system}\nuser: ")
        times = [] if clip.frame_times is None else [int(time) for time in clip.frame_times]
        for second in range(max([-1, *times, (audio - 1) // 10]) + 1):
            ids += text("pictures ")
            ids += times.count(second) * (video * [self.video_token_id] + text("; "))
            ids += text("sound ") + max(0, min(10, audio - 10 * second)) * [self.audio_token_id]
        ids += text("\n") + text(question) + text("\nassistant: ")
        inputs["input_ids"] = torch.tensor([ids])
        return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}

    def conversation(
        self, processor: Processor, kind: str, texts: Sequence[str], system: str | None = None
    ) -> str:
        turns = map(": ".join, zip(itertools.cycle(("user", "assistant")), texts))
        return "\n".join([*([] if system is None else [system]), *turns, "assistant: "])

    def media_sizes(self, inputs: dict[str, Any]) -> MediaSizes:
        sizes, mel = inputs.get("sizes"), inputs.get("mel")
        return MediaSizes(
            () if sizes is None else tuple(map(tuple, sizes.tolist())),
            () if mel is None else (mel.shape[-1],),
        )

    @property
    def vision_attention(self) -> nn.Module:
        return self.visual.blocks[-1].attention

    @property
    def vision_projections(self) -> tuple[nn.Module, ...]:
        return self.vision_attention.q, self.vision_attention.k

    def vision_query_key(
        self, projected: Sequence[Tensor], arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        return self.audio_query_key(projected)

    def vision_grids(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return args[1]

    @property
    def audio_attention(self) -> nn.Module:
        return self.audio_tower.layers[-1].attention

    @property
    def audio_projections(self) -> tuple[nn.Module, ...]:
        return self.audio_attention.q, self.audio_attention.k

    def audio_query_key(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        query, key = (part.view(len(part), 2, -1) for part in projected)
        return query, key

    def mel_frames(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
        return [args[0].shape[-1]]


def _patches(frames: Any) -> dict[str, Tensor]:
    """Frames (T, H, W, 3) as patches in merge units of 2x2, and (T, rows, columns) of them."""
    pixels = torch.from_numpy(frames).float() / 127.5 - 1.0
    times, rows, columns = len(pixels), pixels.shape[1] // 14, pixels.shape[2] // 14
    cut = pixels.view(times, rows // 2, 2, 14, columns // 2, 2, 14, 3)
    patches = cut.permute(0, 1, 4, 2, 5, 7, 3, 6).flatten(5).flatten(0, 4)
    return {"patches": patches, "sizes": torch.tensor([[times, rows, columns]])}
