"""From a request to the model and back: about one clip by its session, else by its messages."""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seats_cli.engine.answer import lm_head_hooks, seed_everything
from seats_cli.engine.generate import Stream, generate, opened_in
from seats_cli.engine.graph_decode import Decoding
from seats_cli.engine.memory_stats import free_memory
from seats_cli.engine.open_clips import OpenClip
from seats_cli.engine.prune import check_method, prune
from seats_cli.engine.session import AskableModel, before_layers
from seats_cli.engine.stop_strings import Cut, cut_at
from seats_cli.engine.thinking import ThoughtSplitter, split_thoughts
from seats_cli.engine.timing import Clock
from seats_cli.errors import ModelError, RequestError, out_of_memory_on
from seats_cli.media.reader import read_clip
from seats_cli.models.adapter import devices_of
from seats_cli.models.optimize import Part, RunSwaps, installed
from seats_cli.models.patching import hooked
from seats_cli.report.documents import tokens_of
from seats_cli.results import jsonable
from seats_cli.selection.trace import SelectionTrace
from seats_cli.serve import ServeOptions
from seats_cli.serve.chat_request import ChatRequest, MediaPart, Talk
from seats_cli.serve.media_parts import LocalMedia, Ticket, bring
from seats_cli.serve.message_inputs import MessageInputs, read_messages
from seats_cli.serve.session_store import SessionStore, read_for

_AHEAD = 3  # clips that have been read and not asked about yet
_LOOK_S = 0.1  # how often who waits looks whether somebody still waits for him


@dataclass(frozen=True)
class Piece:
    """Some text of an answer, or of the reasoning before it, as soon as it is there."""

    text: str
    thinking: bool = False


@dataclass(frozen=True)
class Reply:
    """A complete answer; plain data for other processes, too."""

    text: str
    thinking: str
    finish_reason: str  # "stop" or "length"
    usage: dict[str, Any]
    seats: dict[str, Any]  # evidence, warnings, times and what was kept
    stages: dict[str, float] = field(default_factory=dict)  # seconds, for the metrics


@dataclass(eq=False)
class Job:
    """A request with its media on this machine, ready for the model."""

    request: ChatRequest
    ticket: Ticket
    on_piece: Callable[[Piece], None]
    opened: OpenClip | None = None  # of a request about one clip
    hit: bool = False  # whether that was open already
    inputs: MessageInputs | None = None  # of any other
    folder: str = ""  # of the files, removed at the end
    slot: threading.Semaphore | None = None  # of `_AHEAD`, given back at the end
    stages: dict[str, float] = field(default_factory=dict)

    def close(self) -> None:
        """Remove what was fetched for this request."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = ""
        if self.slot is not None:
            self.slot.release()
            self.slot = None


class Answerer:
    """The model and its open clips: `prepare` in any thread, `answer` in one thread only."""

    def __init__(self, loaded: AskableModel, options: ServeOptions) -> None:
        check_method(loaded, options.config)
        self.loaded = loaded
        self.store = SessionStore(options.session_bytes)
        # Tokenizers hold their settings in themselves, and two threads must not change them at
        # once: what is read beside the model has one of its own.
        self._reader = replace(loaded, processor=copy.deepcopy(loaded.processor))
        self._options = options
        # Pictures are what takes memory: one clip is read at a time, and few wait for the model.
        self._reading = threading.Lock()
        self._ahead = threading.Semaphore(_AHEAD)

    # ------------------------------------------------------ media

    def prepare(self, job: Job) -> None:
        """Bring the media of a request here, and read its clip unless it is open.

        Raises
        ------
        SeatsError
            If they cannot be had or read.
        """
        job.ticket.check()
        talk = job.request.talk
        try:
            check_method(self.loaded, job.request.config)
        except ModelError as error:  # the model is in order; the request names another's method
            raise RequestError(str(error), param="seats") from error
        began = time.perf_counter()
        job.folder = tempfile.mkdtemp(prefix="seats-serve-")
        try:
            if talk is None:
                files = tuple(self._bring(part, job) for part in job.request.media)
                job.stages["fetch"] = time.perf_counter() - began
                with self._turn_to_read(job):
                    reading = time.perf_counter()
                    job.inputs = read_messages(self._reader, job.request, files, job.ticket.check)
                    job.stages["read"] = time.perf_counter() - reading
            else:
                self._open(talk, job, began)
        finally:  # what has been read needs its file no more
            shutil.rmtree(job.folder, ignore_errors=True)

    @contextmanager
    def _turn_to_read(self, job: Job) -> Iterator[None]:
        """Wait until clips may be read; `Job.close` makes room for the next."""
        while not self._ahead.acquire(timeout=_LOOK_S):
            job.ticket.check()
        job.slot = self._ahead
        while not self._reading.acquire(timeout=_LOOK_S):
            job.ticket.check()
        try:
            yield
        finally:
            self._reading.release()

    def _open(self, talk: Talk, job: Job, began: float) -> None:
        request, part = job.request, talk.media
        longest = request.generation.get("max_new_tokens")
        read = replace(
            request.read,
            video=part.kind != "audio",
            audio=part.kind == "audio" or (part.kind == "video" and request.read.audio),
        )
        known = self.store.named(part.uuid, part.url)
        if known is not None:
            job.opened = self.store.find(known, read, talk.system, request.config, longest)
        if job.opened is None:
            media = self._bring(part, job)
            self.store.name(part.uuid, part.url, media.sha256)
            job.stages["fetch"] = time.perf_counter() - began
            job.opened = self.store.find(media.sha256, read, talk.system, request.config, longest)
        job.hit = job.opened is not None
        if job.opened is not None:
            return
        with self._turn_to_read(job):
            # Somebody before us may have been reading the same clip.
            job.opened = self.store.find(media.sha256, read, talk.system, request.config, longest)
            job.hit = job.opened is not None
            if job.opened is None:
                job.opened = self._read(media, talk, read, job)

    def _read(self, media: LocalMedia, talk: Talk, read: Any, job: Job) -> OpenClip:
        began = time.perf_counter()
        longest = job.request.generation.get("max_new_tokens")
        config = job.request.config
        key, fitted, notes = read_for(media, read, talk.system, config, self._reader, longest)
        clip = read_clip(
            media.path,
            fitted,
            sizing=self.loaded.sizing,
            on_progress=lambda _what, _done: job.ticket.check(),
        )
        clip = replace(clip, facts=replace(clip.facts, path=media.name))
        job.stages["read"] = seconds = time.perf_counter() - began
        opened = OpenClip(key, clip, seconds, (*notes, *clip.warnings))
        self.store.keep(opened)
        return opened

    def _bring(self, part: MediaPart, job: Job) -> LocalMedia:
        if not part.url:
            raise RequestError(
                f"No clip is held under the uuid {part.uuid!r} with these settings: send it again.",
                404,
                "not_held",
            )
        return bring(part, Path(job.folder), self._options, job.ticket)

    # ------------------------------------------------------ the model

    def answer(self, job: Job) -> Reply:
        """Ask the model; for the model's thread.

        Raises
        ------
        SeatsError
            If there is no answer, or nobody waits for it any more.
        """
        job.ticket.check()
        ask = self._ask_messages if job.opened is None else self._ask_clip
        said: list[bool] = []

        def say(text: str, thinking: bool = False) -> None:
            job.ticket.check()
            said.append(True)
            job.on_piece(Piece(text, thinking))

        try:
            return ask(job, say)
        except Exception as error:
            if out_of_memory_on(error) is None or said or not self.store.count:
                raise
        # Not inside `except`, which holds the failed run's tensors. What is kept for other
        # questions may be what fills the memory.
        self.store.clear()
        if job.opened is not None:
            job.opened.session = None
        free_memory(devices_of(self.loaded.model))
        return ask(job, say)

    def _ask_clip(self, job: Job, say: Callable[..., None]) -> Reply:
        request, opened = job.request, job.opened
        talk = request.talk
        assert opened is not None
        assert talk is not None
        reused = opened.session is not None
        session = opened.open(self.loaded, self._options.session_bytes)
        try:
            answer = session.ask(
                talk.question,
                config=request.config,
                history=talk.history,
                on_layer=job.ticket.check,
                on_token=job.ticket.check,
                on_text=say,
                on_thinking=partial(say, thinking=True),
                **request.generation,
            )
        finally:
            self.store.keep(opened)
        timing = answer.timing
        names = ("preprocess", "vision", "audio", "select", "prefill", "decode")
        job.stages |= {name: getattr(timing, f"{name}_s") for name in names}
        told = (*request.warnings, *opened.warnings, *answer.warnings)
        return Reply(
            answer.text,
            answer.thinking,
            answer.finish_reason,
            _usage(answer.trace, len(answer.token_ids), reused=reused),
            jsonable(
                {
                    "evidence": answer.evidence,
                    "session": "open" if job.hit else "new",
                    "history_turns": len(answer.history),
                    "config": None if answer.config is None else answer.config.to_dict(),
                    "effective_fps": answer.effective_fps,
                    "timing": {**job.stages, "first_token": timing.first_token_s},
                    "warnings": list(dict.fromkeys(told)),
                }
            ),
            job.stages,
        )

    def _ask_messages(self, job: Job, say: Callable[..., None]) -> Reply:
        request, loaded, asked = job.request, self.loaded, job.inputs
        assert asked is not None
        inputs, config, sampling = asked.inputs, asked.config, asked.sampling
        adapter, tokenizer = loaded.adapter, loaded.processor.tokenizer
        devices = devices_of(loaded.model)
        clock, opened = Clock(devices), opened_in(tokenizer, inputs["input_ids"])
        tell = Cut(asked.stop, say) if asked.stop else say
        splitter = ThoughtSplitter(
            tell, partial(say, thinking=True), opened=opened, wait=loaded.thinks
        )
        stream = Stream(tokenizer, clock, splitter, job.ticket.check)
        decoding = Decoding(adapter, sampling.max_new_tokens)
        parts: dict[str, Part] = {
            "timing": partial(clock.watch, adapter),
            "lm_head": lambda: hooked(lm_head_hooks(adapter, None)),
            "decoding": decoding.attach,
        }
        run, swaps = None, RunSwaps(adapter, pruned=False, speedups=loaded.speedups)
        if config is not None:
            run = prune(loaded.model, config, clock=clock, optimize=loaded.speedups)
            swaps = run.swaps
        start = clock.now()
        with (
            torch.inference_mode(),
            hooked(before_layers(loaded.model, job.ticket.check)),
            installed(replace(swaps, parts={**swaps.parts, **parts})),
        ):
            seed_everything(asked.seed, devices)
            whole, token_ids, finish = generate(loaded, inputs, stream, sampling, 0, asked.stop)
            if isinstance(tell, Cut):
                tell.finish()
            end = clock.now()
            ids = inputs["input_ids"][0].cpu()
            trace = (
                run.trace
                if run is not None
                else SelectionTrace(
                    len(adapter.layers),
                    ids == adapter.video_token_id,
                    ids == adapter.audio_token_id,
                )
            )
        found = split_thoughts(whole, opened=opened)
        first = (stream.first_token_at or end) - start
        job.stages |= {"prefill": clock.seconds["prefill"], "decode": end - start - first}
        return Reply(
            cut_at(found.answer, asked.stop)[0].rstrip(),
            found.thinking,
            finish,
            _usage(trace, len(token_ids), reused=False),
            jsonable(
                {
                    "evidence": [],
                    "session": "none",
                    "history_turns": 0,
                    "config": None if config is None else config.to_dict(),
                    "effective_fps": None,
                    "timing": {**job.stages, "first_token": first},
                    "warnings": list(dict.fromkeys((*request.warnings, *asked.warnings))),
                }
            ),
            job.stages,
        )


def _usage(trace: SelectionTrace, answered: int, *, reused: bool) -> dict[str, Any]:
    """Tokens as OpenAI's `usage` has them, and beside them what was kept of the prompt."""
    tokens = tokens_of(trace)
    offered, prompt = tokens["offered"], tokens["offered"]["total"]
    before = [stage for stage in tokens["stages"] if stage["after_layer"] == 0]
    entering = before[-1] if before else offered
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answered,
        "total_tokens": prompt + answered,
        "prompt_tokens_details": {
            "audio_tokens": offered["audio"],
            "cached_tokens": entering["video"] + entering["audio"] if reused else 0,
        },
        "seats": {
            "offered": offered,
            "kept": tokens["final"],
            "average_retention": tokens["average_retention"],
        },
    }
