"""A family made up here, from outside of the package: plan, ask and profile run it.

Its model has the shape of MiniCPM-o: a plain decoder with one row of rotary positions, in whose
prompt the pictures and the sound of each second take turns, with text around them. What the engine
still assumes of Qwen's models fails here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_run
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.engine.answer import ask
from seats_cli.engine.comparison import run_comparison
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.profiling import run_profile
from seats_cli.engine.prune import prune
from seats_cli.errors import UsageError
from seats_cli.families import registry as families
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
from seats_cli.media.inspection import outline_clip
from seats_cli.media.reader import read_clip
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel, build_inputs, load_model, prepare_clip
from seats_cli.models import registry as adapters
from seats_cli.models.adapter import Adapter
from seats_cli.models.optimize import SEGMENTS, STOCK
from seats_cli.models.random_weights import random_model
from seats_cli.results import RunSpec, Turn
from tests.cost.counting import counted

CLIP = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
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
    "vocab_size": 608,
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


# --------------------------------------------------------------------- tests


CONFIGS = {
    name: SeatsConfig(retain_video=0.6, retain_audio=0.7, method=name)
    for name in (
        "seats",
        "random",
        "fastv-om",
        "visionzip-om",
        "divprune-om",
        "omnizip",
        "omnidrop",
    )
}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """Known to the program while these tests run."""
    families.register_family(FAMILY)
    adapters.register_adapter(MiniOmniAdapter)
    yield
    families.FAMILIES.remove(FAMILY)
    adapters.ADAPTERS.remove(MiniOmniAdapter)


@pytest.fixture(scope="module")
def folder(registered: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint on disk."""
    path = tmp_path_factory.mktemp("mini-omni")
    made = random_model("mini-omni", dtype="float32", device="cpu")
    torch.manual_seed(0)
    for weight in made.model.parameters():
        if weight.ndim > 1:  # large enough that every token makes a difference
            nn.init.normal_(weight, std=1.5 * weight[0].numel() ** -0.5)
    made.model.save_pretrained(path)
    made.processor.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def loaded(folder: str) -> LoadedModel:
    return load_model(folder, device="cpu", attention="eager")


@pytest.fixture(scope="module")
def clip(loaded: LoadedModel) -> Clip:
    area = 6 * loaded.sizing.factor**2
    return synthetic_clip(6.0, sizing=replace(loaded.sizing, min_pixels=area, max_pixels=area))


def seats(**changes: Any) -> SeatsConfig:
    """Drops at layers 3 and 5 and a late block at layer 8."""
    layers = {"drop_layers": (3, 5), "late_layer": 8}
    return SeatsConfig(retain=0.3, allocation="adaptive", **{**layers, **changes})


@torch.no_grad()
def by_hand(model: MiniOmni, states: Tensor, answer: Sequence[int], run: Any) -> Tensor:
    """Logits behind the last of some answer tokens, with every layer's tokens chosen by a mask.

    Parameters
    ----------
    model : MiniOmni
    states : Tensor, shape (1, S, D)
        Embeddings of the whole prompt.
    answer : sequence of int
    run : PrunedRun
        Tells which tokens are alive, and what becomes of the cache.
    """
    prompt, trace = states.shape[1], run.trace
    states = torch.cat([states, model.model.embed_tokens(torch.tensor([answer]).long())], 1)
    length = states.shape[1]
    rotary = model.model.rotary_emb(states, torch.arange(length)[None])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    alive = torch.ones(length, dtype=torch.bool)
    for number, layer in enumerate(model.model.layers, start=1):
        for stage in trace.stages:
            if stage.after_layer == number - 1:
                alive = torch.isin(torch.arange(length), stage.kept) | (
                    torch.arange(length) >= prompt
                )
        seen = causal & alive | torch.eye(length, dtype=torch.bool)
        if (
            run.plan.config.kv == "survivors"
        ):  # the answer sees only what the last layer is left with
            lost = ~torch.isin(torch.arange(prompt), trace.stages[-1].kept)
            seen[prompt:, :prompt] &= ~lost
        mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        out = layer(states, attention_mask=mask[None, None], position_embeddings=rotary)
        states = out[0] if isinstance(out, tuple) else out
    logits: Tensor = model.lm_head(model.model.norm(states))[0, -1]
    return logits


def embeddings(model: MiniOmni, inputs: dict[str, Any]) -> Tensor:
    """What the decoder is given of an unpruned prompt."""
    found: list[Tensor] = []
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: found.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with handle, torch.no_grad():
        model(**inputs)
    return found[0]


def test_encoders_without_packed_segments_stay_stock(loaded: LoadedModel) -> None:
    assert loaded.speedups == STOCK
    assert loaded.facts.encoder_attention != SEGMENTS


def test_pictures_and_sound_take_turns(loaded: LoadedModel, clip: Clip) -> None:
    ids = build_inputs(loaded, clip, "What color?")["input_ids"][0]
    video, audio = ids == loaded.adapter.video_token_id, ids == loaded.adapter.audio_token_id
    kinds = (video + 2 * audio.int())[video | audio].tolist()
    assert kinds == (6 * [1] + 10 * [2]) * 6
    assert loaded.facts.family == "mini_omni"


def test_a_conversation_goes_on_behind_the_clip(loaded: LoadedModel, clip: Clip) -> None:
    alone = build_inputs(loaded, clip, "What?", system="Be brief.")["input_ids"][0]
    history = [Turn("What?", "A card."), Turn("And then?", "A dot.")]
    ids = build_inputs(loaded, clip, "Why?", system="Be brief.", history=history)["input_ids"][0]
    end = int(torch.isin(alone, torch.tensor([loaded.adapter.audio_token_id])).nonzero()[-1]) + 1
    assert ids[:end].equal(alone[:end])
    said = "\nWhat?\nassistant: A card.\nuser: And then?\nassistant: A dot.\nuser: Why?"
    assert loaded.processor.tokenizer.decode(ids[end:]) == f"{said}\nassistant: "


@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
def test_a_pruned_answer_is_that_of_the_masks(loaded: LoadedModel, clip: Clip, kv: str) -> None:
    inputs, model = build_inputs(loaded, clip, "What color?"), loaded.model
    states = embeddings(model, inputs)
    with prune(model, seats(kv=kv)) as run, torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    counts = run.trace.alive_per_layer()
    assert [sum(count[:2]) for count in counts] == sorted(
        (sum(count[:2]) for count in counts), reverse=True
    )
    assert len({count[:2] for count in counts}) == 4  # Stage I, two drops and the late block
    answer = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    for step, logits in enumerate(out.logits):
        expected = by_hand(model, states, answer[:step], run)
        torch.testing.assert_close(logits[0], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gaps_in_one_row_of_positions_are_no_borders(
    folder: str, clip: Clip, attention: str
) -> None:
    """Without a cache, transformers reads them as packed sequences."""
    loaded = load_model(folder, device="cpu", attention=attention)
    inputs, model = build_inputs(loaded, clip, "What color?"), loaded.model
    states = embeddings(model, inputs)
    with prune(model, seats()) as run, torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0, -1]
    if attention == "sdpa":
        model = load_model(folder, device="cpu", attention="eager").model
    torch.testing.assert_close(logits, by_hand(model, states, [], run), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [None, *CONFIGS.values()], ids=["full", *CONFIGS])
def test_every_flop_is_accounted_for(
    loaded: LoadedModel, clip: Clip, config: SeatsConfig | None
) -> None:
    prepared = prepare_clip(loaded, clip)  # mel features are a product too
    executed, answer = counted(
        lambda: ask(loaded, prepared, "What color?", config=config, max_new_tokens=1)
    )
    cost = answer.cost
    counted_flops = cost.encoder_flops + cost.prefill_flops + cost.selection_flops
    assert executed == counted_flops + cost.evidence_flops


def test_the_plan_is_what_happens(folder: str, loaded: LoadedModel) -> None:
    found, config = find_model(folder), seats()
    assert (found.architecture, found.sizing) == (loaded.architecture, loaded.sizing)
    assert found.architecture == replace(find_model("mini-omni").architecture, vocab_size=608)
    clip = read_clip(CLIP, fps=1, sizing=found.sizing)
    answer = ask(loaded, clip, "What color?", config=config, max_new_tokens=1)
    outline = outline_clip(CLIP, fps=1, sizing=found.sizing)
    planned = plan_run(outline, found, config, text_tokens=answer.trace.offered[2])
    assert planned.offered == answer.trace.offered
    assert planned.alive == tuple(answer.trace.alive_per_layer())
    assert planned.prefill_flops == answer.cost.prefill_flops
    assert planned.encoder_flops == pytest.approx(answer.cost.encoder_flops, rel=0.02)


def test_encoders_run_once_for_many_questions(loaded: LoadedModel, clip: Clip) -> None:
    memory, questions = EncoderCache(), ("What color?", "What is heard?")
    fresh = [ask(loaded, clip, text, config=seats(), max_new_tokens=3) for text in questions]
    runs: list[None] = []
    handle = loaded.adapter.vision_attention.register_forward_hook(lambda *_: runs.append(None))
    with handle:
        for answer in fresh:
            again = ask(
                loaded,
                clip,
                answer.question,
                config=seats(),
                max_new_tokens=3,
                encoder_cache=memory,
            )
            assert again.token_ids == answer.token_ids
    assert len(runs) == 1


def test_options_are_scored(loaded: LoadedModel, clip: Clip) -> None:
    choices = ("red", "dark blue", "red and green")
    answer = ask(loaded, clip, "What color?", config=seats(), choices=choices)
    assert sum(choice.probability for choice in answer.choices) == pytest.approx(1.0)
    alone = ask(loaded, clip, "What color?", config=seats(), choices=choices[:2])
    ratio = [choice.probability for choice in answer.choices]
    assert alone.choices[0].probability == pytest.approx(ratio[0] / (ratio[0] + ratio[1]))


def test_profile_and_compare(loaded: LoadedModel, clip: Clip) -> None:
    specs = [RunSpec(name, config) for name, config in CONFIGS.items()]
    profile = run_profile(
        loaded, lambda: clip, "What color?", specs, repeats=1, warm_ups=0, new_tokens=2
    )
    assert not profile.failed
    assert [run.label for run in profile.runs] == ["full", *CONFIGS]
    compared = run_comparison(loaded, clip, "What color?", specs, max_new_tokens=2)
    assert [run.label for run in compared.runs] == ["full", *CONFIGS]


def test_what_the_family_lacks_is_said(loaded: LoadedModel, clip: Clip) -> None:
    with pytest.raises(UsageError, match=r"still_tolerance.*Mini-Omni"):
        ask(loaded, clip, "What color?", config=seats(still_tolerance=0.0))
    with pytest.raises(ValueError, match="adapter for 'mini_omni'"):
        adapters.register_adapter(MiniOmniAdapter)


def run(*arguments: str) -> Any:
    """A command in this process, its JSON document read."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_line(folder: str) -> None:
    clip = [str(CLIP), "--fps", "1"]
    asked = run("ask", *clip, "What color?", "--model", folder, "--max-new-tokens", "2")
    planned = run("plan", *clip, "--model", folder)
    named = run("plan", *clip, "--model", "mini-omni")
    assert planned["tokens"]["offered"]["video"] == asked["tokens"]["offered"]["video"]
    assert named["tokens"] == planned["tokens"]
    profiled = run(
        *("profile", *clip, "--random-weights", "mini-omni", "--retain", "25%"),
        *("--repeats", "1", "--warm-ups", "0", "--new-tokens", "2", "--layers", "6"),
    )
    assert profiled["model"]["family"] == "mini_omni"
    assert [found["label"] for found in profiled["runs"]] == ["full", "seats 25%"]
