"""A checkpoint on this disk: what loading it takes of the host, and a report of its first day.

Tests rebuild the layouts of the hub with random weights; `checkpoint` prints what only a real
download can show.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from multiprocessing.connection import Connection
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from seats_cli import __version__
from seats_cli.bench import Row
from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import PlannedModel, find_model, plan_file
from seats_cli.cost.memory import plan_memory
from seats_cli.engine.answer import ask
from seats_cli.engine.memory_stats import (
    Shortage,
    peak_gpu_bytes,
    peak_host_bytes,
    reset_peaks,
    unless_out_of_memory,
)
from seats_cli.errors import ModelError, SeatsError, UsageError
from seats_cli.families.checkpoint_folder import find_folder, folder_config
from seats_cli.families.registry import BUNDLED
from seats_cli.media.clip import Clip, ReadOptions
from seats_cli.media.reader import read_clip
from seats_cli.models.adapter import devices_of
from seats_cli.models.checkpoint import compare_with_files
from seats_cli.models.devices import DTYPES, device_named
from seats_cli.models.inputs import sizes_of_clip
from seats_cli.models.load import LoadedModel, load_model
from seats_cli.models.random_weights import write_random_checkpoint
from seats_cli.models.registry import adapter_class
from seats_cli.models.weight_memory import stored_weights
from seats_cli.report.columns import Column, markdown
from seats_cli.report.phrases import format_bytes, format_percent, format_seconds
from seats_cli.results import Answer


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


# -------------------------------------------------------------------- loading


def loading(options: argparse.Namespace) -> list[Row]:
    """Host memory that loading a checkpoint takes beyond what the loaded model holds.

    Another process loads it, and its anonymous memory (what is not mapped from a file) is sampled
    meanwhile. A model on the host holds what had to be converted or fused; the rest stays mapped.
    The last column is the peak beyond that, in percent of the checkpoint's bytes.

    Raises
    ------
    UsageError
        Where the system does not tell what a process holds.
    """
    if (options.checkpoint is None) == (options.random is None):
        raise UsageError("Name a checkpoint, or give random weights with `random`.")
    if not Path("/proc/self/status").exists():
        raise UsageError("Loading is measured on Linux, whose /proc says what a process holds.")
    if options.random is None:
        return [_measured_loading(options.checkpoint, options)]
    with tempfile.TemporaryDirectory() as folder:
        _say(f"writing {options.megabytes:,} MB of random weights")
        write_random_checkpoint(Path(folder), options.random, options.megabytes * 10**6)
        return [{"weights": options.random, **_measured_loading(folder, options)}]


def _measured_loading(name: str, options: argparse.Namespace) -> Row:
    stored = stored_weights(find_folder(name).path)
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    given = name, options.device, options.dtype
    process = spawning.Process(target=_load_when_told, args=(there, *given), daemon=True)
    process.start()
    there.close()
    try:
        _received(here)  # it has imported all that it needs
        before = peak = _anonymous_bytes(process.pid)
        here.send(None)
        while not here.poll(0.001):
            peak = max(peak, _anonymous_bytes(process.pid))
        peak = max(peak, _anonymous_bytes(process.pid))
        seconds, dtype = _received(here)
        here.send(None)
    finally:
        here.close()
        process.join(10)
        process.kill()
    assert stored is not None  # or it would not have been loaded
    on_host = device_named(options.device).type == "cpu"
    own = stored.host_bytes_in(DTYPES[dtype]) if on_host else 0
    beyond = max(0, peak - before - own)
    size = (
        sum(count * int(re.sub(r"_.*|\D", "", kind)) for kind, count in stored.values.items()) / 8
    )
    return {
        "device": options.device if not on_host else "cpu",
        "dtype": dtype,
        "s": seconds,
        "checkpoint_MB": size / 1e6,
        "model_MB": own / 1e6,
        "peak_MB": (peak - before) / 1e6,
        "beyond_MB": beyond / 1e6,
        "percent_of_checkpoint": 100 * beyond / size,
    }


def _received(connection: Connection) -> Any:
    """What the other process sends; its exceptions are raised here."""
    try:
        found = connection.recv()
    except EOFError:
        raise ModelError(
            "The process that loaded the checkpoint was ended, most likely for want of memory."
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _anonymous_bytes(process: int | None) -> int:
    """Memory of a process that is not mapped from a file; 0 when it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def _load_when_told(connection: Connection, name: str, device: str, dtype: str) -> None:
    """In a process of its own: import what loading needs, wait, and load."""
    try:
        load_model(BUNDLED, device=device)
        kind = str(folder_config(find_folder(name)).get("model_type", ""))
        adapter_class(kind).model_class()
        connection.send(None)
        connection.recv()
        start = time.perf_counter()
        loaded = load_model(name, device=device, dtype=dtype)
        seconds = time.perf_counter() - start
        connection.send((seconds, str(loaded.model.dtype).removeprefix("torch.")))
        connection.recv()  # the model is held until the last sample
    except EOFError:
        return
    except SeatsError as error:
        connection.send(error)
    except Exception as error:  # said by the other process
        connection.send(ModelError(f"'{name}' could not be loaded ({error})."))


# ----------------------------------------------------------- the first day's report


@dataclass(frozen=True)
class Task:
    """A clip of `assets`, a question about it, and what is true."""

    file: str
    question: str
    truth: str
    sound: bool = True  # whether its sound is read

    @property
    def about(self) -> str:
        """Which of both is given."""
        if not self.sound:
            return "picture alone"
        return "sound alone" if self.file.endswith(".wav") else "picture and sound"

    @property
    def read(self) -> ReadOptions:
        """What of the file to read."""
        return ReadOptions(audio=self.sound)


TASKS = (
    Task(
        "cards_words_beeps_12s.mp4",
        "Which colors are shown, in order, and what is the secret word?",
        "red, blue, green; the voice says that the secret word is banana",
    ),
    Task(
        "sintel_15s_640.mp4",
        "What is written in white on black, and who is seen after it?",
        "THE BLENDER FOUNDATION presents; an old bearded man by firelight",
        sound=False,
    ),
    Task(
        "jfk.wav",
        "What does the speaker say?",
        "And so, my fellow Americans, ask not what your country can do for you, ask what you can "
        "do for your country.",
    ),
)
ASSETS = Path(__file__).resolve().parents[2] / "assets"
_SETUP = [Column(name, itemgetter(at), text=True) for at, name in enumerate(("setup", "value"))]
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "av", "flash-attn")


def checkpoint(options: argparse.Namespace) -> str:
    """The first day with real weights: a report to paste into an issue, as Markdown.

    Compares every weight with the files, asks about three clips with all tokens and with a part of
    them, and measures times and memory beside what `seats plan --memory` predicts.

    Raises
    ------
    ModelError
        If the checkpoint cannot be loaded, or, behind the report, if weights are wrong.
    """
    folder = Path(options.assets or ASSETS)
    if not all((folder / task.file).is_file() for task in TASKS):
        raise UsageError(
            f"The clips are not in '{folder}': name the folder `assets` of a checkout."
        )
    config = SeatsConfig.preset(options.retain)
    reset_peaks([device_named(options.device)])
    before = peak_host_bytes()
    _say(f"loading {options.checkpoint}")
    loaded = load_model(options.checkpoint, device=options.device, dtype=options.dtype)
    devices = devices_of(loaded.model)
    facts = _facts(loaded, before)
    _say("comparing the weights with the files")
    quantized = bool(loaded.facts.quantization)
    folder_of_weights = find_folder(options.checkpoint).path
    check = compare_with_files(loaded.adapter, folder_of_weights, quantized=quantized)
    facts.append(("weights", str(check)))
    planned = find_model(options.checkpoint)
    runs = {"100 %": None, options.retain.replace("%", " %"): config}
    rows: list[Row] = []
    for task in TASKS:
        path = folder / task.file
        clip = read_clip(path, task.read, sizing=loaded.sizing)
        predicted = _predicted_peaks(loaded, planned, path, task, clip, config)
        for (kept, chosen), need in zip(runs.items(), predicted, strict=True):
            _say(f"asking about {task.file}, {kept} kept")
            row = _asked(loaded, clip, task, chosen, devices)
            rows.append({"task": task, "kept": kept, "predicted": need, **row})
    report = _report(loaded, facts, rows)
    if not check.right:
        sys.stdout.write(f"{report}\n")
        raise ModelError(f"'{loaded.facts.id}' is not what its files say: {check}.")
    return report


def _predicted_peaks(
    loaded: LoadedModel, planned: PlannedModel, path: Path, task: Task, clip: Clip, config: Any
) -> tuple[int, int]:
    """Bytes that `seats plan --memory` would say, in the model's dtype: unpruned and pruned."""
    run = plan_file(str(path), task.read, planned, config)
    shape = planned.architecture
    memory = plan_memory(
        shape,
        sizes_of_clip(shape, clip),
        [sum(counts) for counts in run.alive],
        run.prompt_tokens,
        kv=config.kv,
        retain=run.average_retention or 1.0,
        tied_embeddings=planned.tied_embeddings,
        bytes_per_value=loaded.model.dtype.itemsize,
    )
    return memory.needs[0].full_peak_bytes, memory.needs[0].peak_bytes


def _asked(
    loaded: LoadedModel,
    clip: Clip,
    task: Task,
    config: SeatsConfig | None,
    devices: Sequence[torch.device],
) -> Row:
    """An answer with its peaks; kernels have been compiled before it on a GPU."""
    question = None if loaded.captions else task.question
    call = partial(ask, loaded, clip, question, config=config)

    def measured() -> Answer:
        if any(device.type == "cuda" for device in devices):
            call(max_new_tokens=2)
        reset_peaks(devices)
        return call()

    found = unless_out_of_memory(measured, devices)
    if isinstance(found, Shortage):
        return {"answer": None, "host": None, "gpu": None, "shortage": found.place}
    return {"answer": found, "host": found.cost.peak_host_bytes, "gpu": found.cost.peak_gpu_bytes}


def _facts(loaded: LoadedModel, before: int) -> list[tuple[str, str]]:
    """Versions, card, dtype, and what loading took; `before` is the host memory before it."""
    devices, model = devices_of(loaded.model), loaded.facts
    after = peak_gpu_bytes(devices)
    cards = [
        f"{torch.cuda.get_device_name(device)}, "
        f"{format_bytes(torch.cuda.get_device_properties(device).total_memory)}"
        for device in devices
        if device.type == "cuda"
    ]
    host = (
        f"peak {format_bytes(peak_host_bytes())} with mapped files, before {format_bytes(before)}"
    )
    return [
        ("checkpoint", model.id + (f" at {model.revision[:12]}" if model.revision else "")),
        ("seats", __version__),
        ("python", f"{platform.python_version()}, {platform.platform()}"),
        ("packages", ", ".join(_versions())),
        ("device", "; ".join(cards) or f"{model.device}, {torch.get_num_threads()} threads"),
        ("CUDA", str(torch.version.cuda or "none")),
        ("dtype", model.dtype + (f", {model.quantization}" if model.quantization else "")),
        ("attention", f"{model.attention}, encoders {model.encoder_attention}"),
        ("parameters", f"{model.parameters:,}"),
        ("loading", format_seconds(loaded.load_s)),
        ("host memory while loading", host),
        ("GPU memory while loading", "none" if after is None else f"peak {format_bytes(after)}"),
        *(("notice", notice) for notice in loaded.notices),
    ]


def _versions() -> list[str]:
    installed = [name for name in _PACKAGES if find_spec(name.replace("-", "_")) is not None]
    return [f"{name} {metadata.version(name)}" for name in installed]


def _report(loaded: LoadedModel, facts: Sequence[tuple[str, str]], rows: Sequence[Row]) -> str:
    def of(read: Any) -> Any:
        return lambda row: None if row["answer"] is None else read(row["answer"])

    runs = (
        Column("clip", lambda row: f"{row['task'].file}, {row['task'].about}", text=True),
        Column("kept", itemgetter("kept")),
        Column("tokens offered", of(lambda answer: answer.trace.length), "{:,}".format),
        Column(
            "average kept", of(lambda answer: answer.trace.average_retention()[2]), format_percent
        ),
        Column("encoders", of(lambda a: a.timing.vision_s + a.timing.audio_s), format_seconds),
        Column("prefill", of(lambda answer: answer.timing.prefill_s), format_seconds),
        Column("first token", of(lambda answer: answer.timing.first_token_s), format_seconds),
        Column("tokens/s", of(lambda answer: answer.timing.decode_tokens_per_s), "{:.1f}".format),
        Column("host peak", itemgetter("host"), format_bytes),
        Column("GPU peak", itemgetter("gpu"), format_bytes),
        Column("predicted", itemgetter("predicted"), format_bytes),
    )
    parts = [
        f"# First day with {loaded.facts.id}",
        markdown(_SETUP, facts),
        "## Times and memory",
        markdown(runs, rows),
        "Predicted is what `seats plan --memory` counts in this dtype: weights, and the larger of "
        "encoders and prefill. The host's peak has the process itself and mapped files in it.",
        "## Answers",
    ]
    for row in rows:
        parts += _answer(row)
    return "\n\n".join(parts)


def _answer(row: Row) -> list[str]:
    """Question, answer and truth of a run, for a person to judge."""
    task, answer = row["task"], row["answer"]
    heading = f"**{task.file}, {task.about}, {row['kept']} kept.**"
    if answer is None:
        return [f"{heading} Out of memory on the {row['shortage']}."]
    asked = task.question if answer.question else "(nothing is asked)"
    thought = f" after {len(answer.thinking):,} characters of reasoning" if answer.thinking else ""
    quoted = textwrap.indent(answer.text.strip() or "(an empty answer)", "> ", lambda _line: True)
    ended = f"{len(answer.token_ids):,} tokens{thought}, ended by {answer.finish_reason}"
    lines = [f"{heading} {asked}", quoted, f"{ended}. True: {task.truth}"]
    return lines + ["\n".join(f"- {warning}" for warning in answer.warnings)] * bool(
        answer.warnings
    )
