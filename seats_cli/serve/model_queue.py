"""One model, one queue: who may come in, whose turn it is, and what it all took.

Media are brought and read in threads of their own, so that a slow address holds up nobody else; the
model answers in one thread, in the order in which clips are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seats_cli.errors import RequestError
from seats_cli.serve import ServeOptions
from seats_cli.serve.answering import Answerer, Job, Piece, Reply
from seats_cli.serve.chat_request import ChatRequest
from seats_cli.serve.media_parts import Ticket

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_LONGEST_RETRY_S = 60
_NEW_SHARE = 0.2  # of the latest request in the average time of one


class Backend(Protocol):
    """What answers the requests of an app: this process's model, or other machines'."""

    model: str  # the id under which it is served
    admission: Admission
    metrics: Metrics

    def events(self, request: ChatRequest, ticket: Ticket) -> AsyncIterator[Piece | Reply]:
        """Pieces of the answer as they come, and the reply at the end."""

    def close(self) -> None:
        """Answer nothing more."""


class Metrics:
    """What `/metrics` tells, in Prometheus' text format."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "seats_requests", "Requests by HTTP status.", ["status"], registry=own
        )
        self.stages = Histogram(
            "seats_stage_seconds",
            "Seconds of each stage of a request.",
            ["stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self.first_token = Histogram(
            "seats_first_token_seconds",
            "Seconds from a request's arrival to the first piece of its answer.",
            buckets=_SECONDS,
            registry=own,
        )
        self.offered = Counter(
            "seats_tokens_offered", "Tokens of prompts before pruning.", ["modality"], registry=own
        )
        self.kept = Counter(
            "seats_tokens_kept",
            "Those that were left after the last drop.",
            ["modality"],
            registry=own,
        )
        self.answered = Counter("seats_answer_tokens", "Tokens of answers.", registry=own)
        self.clips = Counter(
            "seats_clips",
            "Requests about a clip that was open, new or none.",
            ["session"],
            registry=own,
        )
        self.sessions = Gauge("seats_sessions", "Clips that are open.", registry=own)
        self.session_bytes = Gauge("seats_session_bytes", "What open clips take.", registry=own)
        self.inside = Gauge("seats_requests_inside", "Requests under way or waiting.", registry=own)

    def note(self, reply: Reply) -> None:
        """Count an answer."""
        for stage, seconds in reply.stages.items():
            self.stages.labels(stage).observe(seconds)
        used = reply.usage["seats"]
        for counter, counts in ((self.offered, used["offered"]), (self.kept, used["kept"])):
            for modality in ("video", "audio", "text"):
                counter.labels(modality).inc(counts[modality])
        self.answered.inc(reply.usage["completion_tokens"])
        self.clips.labels(reply.seats["session"]).inc()

    def text(self) -> bytes:
        """All of them."""
        return bytes(generate_latest(self.registry))


class Admission:
    """Lets in a bounded number of requests; the others are told when to come back."""

    def __init__(self, options: ServeOptions) -> None:
        self._most = options.max_requests
        self._timeout_s = options.timeout_s
        self._inside: set[Ticket] = set()
        self._usual_s = 1.0  # that a request takes

    @property
    def inside(self) -> int:
        """Requests under way or waiting."""
        return len(self._inside)

    @property
    def retry_after_s(self) -> int:
        """In how many seconds there will likely be room."""
        return max(1, min(_LONGEST_RETRY_S, math.ceil(self._usual_s)))

    def enter(self, timeout_s: float | None = None) -> Ticket:
        """Let a request in.

        Parameters
        ----------
        timeout_s : float, optional
            What it may take, in place of the usual time.

        Raises
        ------
        RequestError
            If there is no room, with status 429.
        """
        if len(self._inside) >= self._most:
            raise RequestError(
                f"{self._most} requests are under way or waiting, as many as this server takes: "
                f"try again in {self.retry_after_s} s.",
                429,
                "busy",
            )
        ticket = Ticket(self._timeout_s if timeout_s is None else timeout_s)
        self._inside.add(ticket)
        return ticket

    def leave(self, ticket: Ticket, *, answered: bool = False) -> None:
        """Make room again; may be called twice."""
        if ticket in self._inside:
            self._inside.discard(ticket)
            if answered:
                took = (time.monotonic() - ticket.began) / (len(self._inside) + 1)
                self._usual_s += _NEW_SHARE * (took - self._usual_s)


class ModelQueue:
    """The backend of one process: a model and the threads around it."""

    def __init__(self, answerer: Answerer, options: ServeOptions, model: str) -> None:
        self.model = model
        self.admission = Admission(options)
        self.metrics = Metrics()
        self._answerer = answerer
        self._model = ThreadPoolExecutor(1, "seats-model")
        self._media = ThreadPoolExecutor(options.max_requests, "seats-media")
        self._tasks: set[asyncio.Task[None]] = set()
        self._tickets: set[Ticket] = set()
        store = answerer.store
        self.metrics.sessions.set_function(lambda: store.count)
        self.metrics.session_bytes.set_function(lambda: store.bytes)
        self.metrics.inside.set_function(lambda: self.admission.inside)

    async def events(self, request: ChatRequest, ticket: Ticket) -> AsyncIterator[Piece | Reply]:
        """Answer a request.

        Leaving the iteration ends the work at its next step, within a token. The room in the queue
        is given back when the work has really ended.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Piece | Reply | Exception] = asyncio.Queue()

        def put(event: Piece | Reply | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        ticket.taken = True
        job = Job(request, ticket, put)
        task = loop.create_task(self._work(job, put))
        self._tasks.add(task)  # a loop holds its tasks weakly
        self._tickets.add(ticket)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                left = max(0.0, ticket.deadline - time.monotonic())
                try:
                    event = await asyncio.wait_for(events.get(), left)
                except asyncio.TimeoutError:
                    raise ticket.late() from None
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Reply):
                    return
        finally:
            ticket.cancel()

    async def _work(self, job: Job, put: Callable[[Reply | Exception], None]) -> None:
        loop = asyncio.get_running_loop()
        answered = False
        try:
            await loop.run_in_executor(self._media, self._answerer.prepare, job)
            waits = time.perf_counter()
            reply = await loop.run_in_executor(self._model, self._answer, job, waits)
            self.metrics.note(reply)
            answered = True
            put(reply)
        except OSError as error:  # no room for a clip that was fetched
            reason = error.strerror or type(error).__name__
            sentence = f"The server cannot store the clip ({reason}): try again later."
            put(RequestError(sentence, 503, "no_room"))
        except Exception as error:
            put(error)
        finally:
            job.close()
            self._tickets.discard(job.ticket)
            self.admission.leave(job.ticket, answered=answered)

    def _answer(self, job: Job, waits: float) -> Reply:
        job.stages["queue"] = time.perf_counter() - waits
        return self._answerer.answer(job)

    def close(self) -> None:
        """End what is under way, at its next step."""
        for ticket in tuple(self._tickets):  # the loop's thread may change them meanwhile
            ticket.cancel()
        self._model.shutdown(wait=True, cancel_futures=True)
        self._media.shutdown(wait=False, cancel_futures=True)
