"""The measurements behind docs/speed.md: each way of seats against the stock one, in turn.

    python -m seats_cli.bench encoders bundled --size 140x84
    python -m seats_cli.bench modules qwen2.5-omni-7b --size 644x364
    python -m seats_cli.bench selection qwen2.5-omni-7b --size 644x280
    python -m seats_cli.bench positions --size 644x364
    python -m seats_cli.bench lengths qwen2.5-omni-7b
    python -m seats_cli.bench processor cpu-0.5b --size 644x280
    python -m seats_cli.bench index bundled --seconds 12
    python -m seats_cli.bench loading --random moe --megabytes 1000
    python -m seats_cli.bench checkpoint Qwen/Qwen2.5-Omni-7B

Clips and states are noise, because times do not depend on what is seen. The last two are about
checkpoints on this disk (`seats_cli.bench.first_day`).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.session import ClipSession
from seats_cli.engine.session_reader import SavedIndex
from seats_cli.errors import UsageError
from seats_cli.families.registry import FAMILIES, describe_config, named_config, named_shapes
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models.adapter import Adapter
from seats_cli.models.load import LoadedModel, load_model
from seats_cli.models.optimize import (
    best_for_encoders,
    use_for_encoders,
    use_fused_modules,
    vectorized_mrope,
)
from seats_cli.models.patching import hooked, replace_method, use_attention
from seats_cli.models.random_weights import random_model
from seats_cli.results import Timing
from seats_cli.schedule import PruningPlan
from seats_cli.selection import device as kernels
from seats_cli.selection.diversity import select_diverse_in_windows
from seats_cli.selection.importance import pool_mean, received_attention

Row = dict[str, Any]  # of a table; times in milliseconds
Ways = Mapping[str, Callable[[], AbstractContextManager[Any]]]

FPS = 2
MEL_FRAMES = 100  # per second
CPU = torch.device("cpu")


def compare(
    label: Row,
    call: Callable[[], Tensor],
    ways: Ways,
    options: argparse.Namespace,
    device: torch.device = CPU,
    typical: Callable[[list[float]], float] = min,
) -> list[Row]:
    """A row for each way of doing the same: time, and speed and output beside the first way's.

    The ways, each a context for the call, take turns: a machine that grows warm or busy favours
    none. The time is the least by default, which other work has disturbed least, and on a CPU
    with one thread the thread's own.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    outputs: dict[str, Tensor] = {}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.repeats + 1):
        for name, way in ways.items():
            with way():
                _wait(device)
                start = clock()
                output = call()
                _wait(device)
                if number:
                    taken[name].append(1e3 * (clock() - start))
                else:  # kernels are compiled in here
                    outputs[name] = output.float()
    times = {name: typical(found) for name, found in taken.items()}
    first, expected = next(iter(times.values())), next(iter(outputs.values()))
    largest = expected.abs().max()
    return [
        {
            **label,
            "way": name,
            "ms": times[name],
            "ratio": first / times[name],
            "difference": float((output - expected).abs().max() / largest),
        }
        for name, output in outputs.items()
    ]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------- encoders and modules


def encoders(options: argparse.Namespace) -> list[Row]:
    """Encoders with transformers' `sdpa`, and with one call for all segments.

    First the whole encoder, then its attention alone: one of each kind (windows, whole grids) runs
    by itself, also with a function that does nothing. What a run takes beyond that is attention,
    the rest projections and rotary embedding.
    """
    adapter = open_model(options, layers=1).adapter
    audio = [layer.self_attn for layer in adapter.audio_tower.layers]
    return [
        *_encoder("vision", adapter, options, _vision(adapter, options), adapter.packed_attentions),
        *_encoder("audio", adapter, options, _audio(adapter, options), audio),
    ]


def _encoder(
    name: str, adapter: Adapter, options: Any, call: Callable[[], Tensor], attentions: Sequence[Any]
) -> list[Row]:
    device = next(adapter.visual.parameters()).device
    ways: Ways = {
        "stock": partial(use_for_encoders, adapter, "sdpa"),
        "ours": partial(use_for_encoders, adapter),
    }
    given: dict[Any, tuple[Any, dict[str, Any]]] = {}

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given[module] = args, kwargs

    with hooked(one.register_forward_pre_hook(note, with_kwargs=True) for one in attentions):
        call()
    segments = [len(given[one][1]["cu_seqlens"]) - 1 for one in attentions]
    label: Row = {"encoder": name, "part": "all", "segments": sum(segments)}
    rows = compare(label, call, ways, options, device)

    # named with "flash" in it to be handed whole sequences, as `SEGMENTS` is
    both, idle = (adapter.visual, adapter.audio_tower), "seats_nothing_as_flash"
    with_idle: Ways = {**ways, "nothing": partial(use_attention, both, idle, _nothing)}
    attention = dict.fromkeys(ways, 0.0)
    for count in set(segments):  # those of a kind have as many
        module = attentions[segments.index(count)]
        args, kwargs = given[module]
        found = compare({}, partial(module, *args, **kwargs), with_idle, options, device)
        times = {row["way"]: row["ms"] for row in found}
        for way in attention:
            attention[way] += segments.count(count) * (times[way] - times["nothing"])
    label["part"], stock = "attention", attention["stock"]
    for way, taken in attention.items():
        hidden_by_noise = min(stock, taken) <= 0
        ratio = None if hidden_by_noise else stock / taken
        rows.append({**label, "way": way, "ms": taken, "ratio": ratio})
    return rows


def _nothing(_module: Any, query: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, None]:
    # zeros, because no number that follows from them is so small that a CPU slows down
    return torch.zeros_like(query).transpose(1, 2), None


def modules(options: argparse.Namespace) -> list[Row]:
    """The vision encoder with seats' attention, fused modules, or both.

    On a CPU the modules are stock.
    """
    adapter = open_model(options, layers=1).adapter
    weight = next(adapter.visual.parameters())
    own = best_for_encoders(weight.device, weight.dtype)

    @contextmanager
    def both() -> Iterator[None]:
        with use_for_encoders(adapter, own), use_fused_modules(adapter):
            yield

    ways: Ways = {
        "stock": nullcontext,
        "attention": partial(use_for_encoders, adapter, own),
        "modules": partial(use_fused_modules, adapter),
        "attention and modules": both,
    }
    return compare({}, _vision(adapter, options), ways, options, weight.device)


def _vision(adapter: Adapter, options: argparse.Namespace) -> Callable[[], Tensor]:
    """The vision encoder on noise of that length and size."""
    vision, weight = adapter.visual.config, next(adapter.visual.parameters())
    grids, rows, columns = grid_of(vision, vision.spatial_merge_size, options)
    merge = vision.spatial_merge_size
    grid = torch.tensor([[grids, rows * merge, columns * merge]], device=weight.device)
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(int(grid.prod()), values, dtype=weight.dtype, device=weight.device)
    return lambda: adapter.visual(pixels, grid_thw=grid).last_hidden_state


def _audio(adapter: Adapter, options: argparse.Namespace) -> Callable[[], Tensor]:
    """The audio encoder on noise of that length."""
    audio, weight = adapter.audio_tower.config, next(adapter.audio_tower.parameters())
    frames = round(options.seconds * MEL_FRAMES)
    sound = torch.randn(audio.num_mel_bins, frames, dtype=weight.dtype, device=weight.device)
    lengths = torch.tensor([frames], device=weight.device)
    return lambda: adapter.audio_tower(sound, feature_lens=lengths).last_hidden_state


def grid_of(vision: Any, merge: int, options: argparse.Namespace) -> tuple[int, int, int]:
    """Grids of a clip, and rows and columns of tokens in each.

    Raises
    ------
    UsageError
        If a frame is smaller than what becomes one token.
    """
    unit = vision.patch_size * merge
    columns, rows = (round(side / unit) for side in options.size)
    if not columns or not rows:
        raise UsageError(f"Frames of this model have at least {unit}x{unit} pixels (--size).")
    return max(1, round(options.seconds * FPS / vision.temporal_patch_size)), rows, columns


# ------------------------------------------------------------------ selection


def selection(options: argparse.Namespace) -> list[Row]:
    """Stage I on states of a named shape, plain and as Triton kernels.

    On a CPU there are no kernels, and only the plain times are shown.

    Raises
    ------
    RuntimeError
        If the two ways do not choose the same tokens from the same importance.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture, _ = describe_config(named_config(options.model), options.model)
    plan = PruningPlan.resolve(SeatsConfig.preset(options.retain), architecture)
    vision = architecture.vision
    grids, *sides = grid_of(vision, vision.merge_size, options)
    tokens, unit = grids * math.prod(sides), vision.merge_size**2
    window = plan.config.video_window * math.prod(sides)
    draw = torch.Generator(device).manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def states(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device).to(dtype)

    heads = vision.num_heads, vision.hidden_size // vision.num_heads
    query, key = states(tokens * unit, *heads), states(tokens * unit, *heads)
    features = states(tokens, vision.out_hidden_size)

    def importance() -> Tensor:
        return received_attention(query, key, window * unit)

    attended = pool_mean(importance(), unit)

    def choice() -> Tensor:
        return select_diverse_in_windows(features, attended, window, plan.initial_video)

    ways: dict[str, Any] = {"plain": kernels.plain}
    if kernels.usable(device):
        ways["fused"] = nullcontext
    label = {"windows": -(-tokens // window), "tokens": window}
    rows = [
        *compare({"stage I": "importance", **label}, importance, ways, options, device, median),
        *compare({"stage I": "choice", **label}, choice, ways, options, device, median),
    ]
    if rows[-1]["difference"]:
        raise RuntimeError("The kernels choose other tokens than the plain version.")
    return rows


# ------------------------------------------------------------------ positions


def positions(options: argparse.Namespace) -> list[Row]:
    """Positions of a prompt with a clip, by transformers' loop and without.

    For a shape of every family that has such a loop.
    """
    rows: list[Row] = []
    for family in FAMILIES:
        shape = next(iter(family.named_shapes), None)
        if shape is None:
            continue
        # without memory for weights, which positions do not need
        adapter = random_model(shape, layers=1, device="meta").adapter
        if not adapter.vectorized_methods():
            continue
        given = _prompt(adapter, options)
        ways: Ways = {"stock": nullcontext, "ours": partial(vectorized_mrope, adapter)}
        label = {"family": family.title, "tokens": given["input_ids"].shape[1]}

        def call(adapter: Adapter = adapter, given: dict[str, Any] = given) -> Tensor:
            found: Tensor = adapter.core.get_rope_index(**given)[0]
            return found

        rows += compare(label, call, ways, options)
    return rows


def _prompt(adapter: Adapter, options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `get_rope_index` for some words, a clip with sound, and a question."""
    config, vision, word = adapter.config, adapter.architecture().vision, 5
    grids, rows, columns = grid_of(vision, vision.merge_size, options)
    frames = round(options.seconds * MEL_FRAMES)
    video = [adapter.video_token_id] * (grids * rows * columns)
    audio = [adapter.audio_token_id] * adapter.family.audio_tokens(frames)
    begin = [config.vision_start_token_id, config.audio_start_token_id]
    end = [getattr(config, f"{name}_end_token_id", word) for name in ("audio", "vision")]
    ids = torch.tensor([[word] * 10 + begin + video + audio + end + [word] * 20])
    merge = vision.merge_size
    return {
        "input_ids": ids,
        "video_grid_thw": torch.tensor([[grids, rows * merge, columns * merge]]),
        "attention_mask": torch.ones_like(ids),
        "use_audio_in_video": True,
        "audio_seqlens": torch.tensor([frames]),
        "second_per_grids": torch.tensor([vision.temporal_patch_size / FPS]),
    }


# -------------------------------------------------------------------- lengths

_WORDS = "What is it that one can see and hear here now then so far "
_QUESTIONS, _TOKENS, _LONG = 3, 12, 48  # answers shorter than a question: no length comes twice
_EVEN = 8  # tokens after which recorded steps run evenly


def lengths(options: argparse.Namespace) -> list[Row]:
    """Questions of new lengths with cuDNN's attention and without, and single tokens.

    Lengths have not been seen before; single tokens are those of a long answer.
    """
    loaded = open_model(options)
    clip = synthetic_clip(options.seconds, sizing=loaded.sizing)
    runs = {"pruned": SeatsConfig.preset(options.retain), "unpruned": None}

    def answer(config: SeatsConfig | None, words: int, tokens: int, **more: Any) -> Timing:
        more.update(max_new_tokens=tokens, min_new_tokens=tokens, evidence=False)
        return ask(loaded, clip, _WORDS * words + "?", config=config, **more).timing

    for config in runs.values():  # kernels are compiled in here
        answer(config, 1, _TOKENS)
    rows, words = [], 2
    for cudnn in ("off", "on"):
        # `without_cudnn_sdpa` leaves cuDNN alone where it counts as off already
        counts_as_off = replace_method(cuda, "cudnn_sdp_enabled", lambda _stock: lambda: False)
        with counts_as_off if cudnn == "on" else nullcontext():
            for name, config in runs.items():
                found = [answer(config, words + more, _TOKENS) for more in range(_QUESTIONS)]
                row: Row = {"cuDNN": cudnn, "run": name}
                row["first_token_ms"] = [1e3 * timing.first_token_s for timing in found]
                row[f"{_TOKENS - 1}_more_ms"] = [1e3 * timing.decode_s for timing in found]
                if cudnn == "off":
                    instants: list[float] = []

                    def note(_logits: Tensor, instants: list[float] = instants) -> None:
                        _wait(loaded.model.device)
                        instants.append(1e3 * time.perf_counter())

                    row["decoding"] = answer(config, 1, _LONG, on_logits=note).decoding
                    steps = [late - soon for soon, late in pairwise(instants)]
                    row["a_token_ms"] = median(steps[_EVEN:])
                rows.append(row)
        words += _QUESTIONS
    return rows


def index(options: argparse.Namespace) -> list[Row]:
    """A question about a clip that is in memory, and about its index, from opening to the answer.

    The answer is one token, and the index is on this disk. Its bytes are those of the encoders, of
    this setting, and of the whole file.
    """
    loaded = open_model(options)
    clip = synthetic_clip(options.seconds, sizing=loaded.sizing)
    rows: list[Row] = []
    for name, config in {options.retain: SeatsConfig.preset(options.retain), "full": None}.items():
        session = ClipSession(loaded, clip)
        if config is None:
            session.prefill(SeatsConfig())  # whose statistics further settings need
        session.prefill(config)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "clip.seats")
            size = session.save(path)
            clip_ms, index_ms = [], []
            for _ in range(options.repeats + 1):  # in turn; the first of each warms up
                clip_ms.append(_answered(partial(ClipSession, loaded, clip), config))
                index_ms.append(_answered(partial(_saved, loaded, path), config))
        row: Row = {"setting": name, "clip_ms": median(clip_ms[1:])}
        row["index_ms"] = median(index_ms[1:])
        row["ratio"] = row["clip_ms"] / row["index_ms"]
        row["encoder_bytes"], row["setting_bytes"] = size.encoder_bytes, size.settings[-1][1]
        rows.append({**row, "bytes": size.bytes})
    return rows


def _saved(loaded: LoadedModel, path: Path) -> ClipSession:
    return ClipSession.saved(loaded, SavedIndex(path))


def _answered(opened: Callable[[], ClipSession], config: SeatsConfig | None) -> float:
    """Milliseconds until a new session has answered a question with one token."""
    start = time.perf_counter()
    opened().ask("What is shown first?", config=config, max_new_tokens=1)
    return 1e3 * (time.perf_counter() - start)


def open_model(options: argparse.Namespace, layers: int | None = None) -> LoadedModel:
    """The model; of a named shape with random weights, and only so many decoder layers."""
    where = {"device": options.device, "dtype": options.dtype}
    if options.model in named_shapes():
        return random_model(options.model, layers=layers, **where)
    return load_model(options.model, **where)
