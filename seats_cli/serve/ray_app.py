"""The server on several machines: replicas of the model behind Ray Serve, each with its open clips.

`serve run seats_cli.serve.ray_app:app replicas=2 model=Qwen/Qwen2.5-Omni-7B retain=0.1`, or from
Python `ray.serve.run(ray_app(options, replicas=2))`. One process takes the requests; each goes to a
replica that has its clip open, by Ray's own routing of multiplexed models: a clip counts as a model
there. Where that replica has too much to do, another one reads the clip, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from ray import serve

from seats_cli.config import ModelOptions, SeatsConfig
from seats_cli.engine.session import load_model
from seats_cli.errors import RequestError, UsageError
from seats_cli.media.clip import ReadOptions
from seats_cli.serve import ServeOptions
from seats_cli.serve.answering import Answerer, Piece, Reply
from seats_cli.serve.app import build_app
from seats_cli.serve.chat_request import ChatRequest
from seats_cli.serve.media_parts import Ticket
from seats_cli.serve.model_queue import Admission, Metrics, ModelQueue

# Clips that Ray remembers of each replica. What stays open is decided there, by bytes.
_CLIPS = 1000
_ARGUMENTS = ("model", "replicas", "gpus", "cpus", "retain", "media_root", "max_requests")


class ModelReplica:
    """A model and its open clips, in a process of Ray's."""

    def __init__(self, options: ServeOptions, model: ModelOptions) -> None:
        loaded = load_model(**model.arguments())
        self._queue = ModelQueue(Answerer(loaded, options), options, loaded.facts.id)

    async def name(self) -> str:
        """The id of the model."""
        return self._queue.model

    async def _holds(self, clip: str) -> str:
        """Tell Ray that requests about a clip are in good hands here."""
        return clip

    async def events(
        self, request: ChatRequest, left_s: float
    ) -> AsyncIterator[Piece | Reply | Exception]:
        """The events of an answer; an error is the last of them, as Ray would wrap what is raised.

        Parameters
        ----------
        left_s : float
            Seconds that the request may still take.
        """
        clip = serve.get_multiplexed_model_id()
        if clip:
            await self._holds(clip)
        try:
            ticket = self._queue.admission.enter(left_s)
            async for event in self._queue.events(request, ticket):
                yield event
        except Exception as error:
            yield _portable(error)

    _holds = serve.multiplexed(max_num_models_per_replica=_CLIPS)(_holds)


class Replicas:
    """The backend in front of all replicas."""

    def __init__(self, handle: Any, options: ServeOptions, model: str) -> None:
        self.model = model
        self.admission = Admission(options)
        self.metrics = Metrics()
        self.metrics.inside.set_function(lambda: self.admission.inside)
        self._handle = handle

    async def events(self, request: ChatRequest, ticket: Ticket) -> AsyncIterator[Piece | Reply]:
        """Answer a request on the replica that has its clip open."""
        ticket.taken = True
        left_s = max(0.1, ticket.deadline - time.monotonic())
        found, answered = None, False
        try:
            replica = self._handle.options(stream=True, multiplexed_model_id=clip_of(request))
            found = replica.events.remote(request, left_s)
            while True:
                # Of its own, because a request may wait in Ray for a replica that takes it.
                left_s = max(0.0, ticket.deadline - time.monotonic())
                try:
                    event = await asyncio.wait_for(anext(found), left_s)
                except asyncio.TimeoutError:
                    raise ticket.late() from None
                except StopAsyncIteration:
                    return
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Reply):
                    answered = True
                    self.metrics.note(event)
                yield event
        finally:
            if found is not None and not answered:
                found.cancel()  # which ends the work there at its next step
            self.admission.leave(ticket, answered=answered)

    def close(self) -> None:
        """Nothing: Ray ends the replicas."""


class Entrance:
    """The process that takes requests: the app of `seats serve` in front of the replicas."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, handle: Any, options: ServeOptions
    ) -> None:
        self._handle, self._options = handle, options
        self._model = await handle.name.remote()

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray calls for the app."""
        return build_app(Replicas(self._handle, self._options, self._model), self._options)


def ray_app(
    options: ServeOptions,
    model: ModelOptions | None = None,
    *,
    replicas: int = 1,
    gpus_per_replica: float = 0.0,
    cpus_per_replica: float = 1.0,
) -> Any:
    """A Ray Serve application.

    Parameters
    ----------
    options : ServeOptions
        Of every replica; `max_requests` is for each of them. Where Ray listens is its own setting
        (`serve.start(http_options=...)`), and `host` and `port` are not used.
    model : ModelOptions, optional
        Which model, and how to load it; the bundled one by default.
    replicas : int
        How many models, each in a process of its own.
    gpus_per_replica, cpus_per_replica : float
        What Ray reserves for each.

    Returns
    -------
    ray.serve.Application
        For `ray.serve.run`.

    Raises
    ------
    UsageError
        If `replicas` is below 1.
    """
    if replicas < 1:
        raise UsageError("`replicas` must be at least 1.")
    models = serve.deployment(
        ModelReplica,
        num_replicas=replicas,
        # One more than is let in, so that what is too much is told so and does not wait in Ray.
        max_ongoing_requests=options.max_requests + 1,
        ray_actor_options={"num_gpus": gpus_per_replica, "num_cpus": cpus_per_replica},
    )
    inside = replace(options, max_requests=replicas * options.max_requests)
    entrance = serve.deployment(
        serve.ingress()(Entrance),
        max_ongoing_requests=4 * inside.max_requests,  # those that are refused, too
        ray_actor_options={"num_cpus": 0.1},
    )
    return entrance.bind(models.bind(options, model or ModelOptions()), inside)


def app(arguments: Mapping[str, str]) -> Any:
    """The application from the arguments of `serve run seats_cli.serve.ray_app:app NAME=VALUE ...`.

    Names are model, replicas, gpus and cpus (of each replica), retain, media_root and
    max_requests; SEATS_API_KEY is read where the command runs.

    Raises
    ------
    UsageError
        For other names, or values that make no sense.
    """
    unknown = sorted(arguments.keys() - set(_ARGUMENTS))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no argument: known are {', '.join(_ARGUMENTS)}.")
    try:
        retain = float(arguments.get("retain", 0.25))
        replicas = int(arguments.get("replicas", 1))
        gpus, cpus = float(arguments.get("gpus", 0)), float(arguments.get("cpus", 1))
        most = int(arguments.get("max_requests", ServeOptions.max_requests))
    except ValueError as error:
        raise UsageError(f"An argument that must be a number is none: {error}.") from error
    options = ServeOptions(
        config=SeatsConfig(retain=retain),
        read=ReadOptions(),
        api_key=os.environ.get("SEATS_API_KEY") or None,
        media_root=arguments.get("media_root"),
        max_requests=most,
    )
    return ray_app(
        options,
        ModelOptions(model=arguments.get("model")),
        replicas=replicas,
        gpus_per_replica=gpus,
        cpus_per_replica=cpus,
    )


def clip_of(request: ChatRequest) -> str:
    """What requests about the same clip have in common; "" without a clip, which any can answer."""
    named = [part.uuid or part.url for part in request.media]
    return hashlib.sha256("\n".join(named).encode()).hexdigest() if named else ""


def _portable(error: Exception) -> Exception:
    """An error that another process can read, whatever made it."""
    from seats_cli.serve.app import described

    if isinstance(error, RequestError):
        return error
    sentence, status, code = described(error)
    return RequestError(sentence, status, code)
