"""The HTTP side: routes, keys, limits, streams of events, and errors as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from seats_cli.errors import (
    MediaError,
    ModelError,
    RequestError,
    ResourceError,
    SeatsError,
    UsageError,
    out_of_memory_on,
)
from seats_cli.results import jsonable
from seats_cli.serve import LOOPBACK_NAMES, ServeOptions
from seats_cli.serve.answering import Piece, Reply
from seats_cli.serve.chat_request import ChatRequest, parse_request
from seats_cli.serve.media_parts import Ticket
from seats_cli.serve.model_queue import Backend

LOG = logging.getLogger("seats_cli.serve")
_BODY_S = 60.0  # for the body of a request to arrive
_LEFT = 499  # nobody reads it; it is what the metrics count
_CONNECTIONS = 512  # that are open at once, idle ones among them
_STOPPING_S = 10  # for requests under way when the server is to end

# Word, status and whether the same request may succeed when it is sent again.
_KINDS: tuple[tuple[type[SeatsError], int, str], ...] = (
    (UsageError, 400, "invalid_request"),
    (MediaError, 422, "unreadable_media"),
    (ResourceError, 400, "context_length_exceeded"),
    (ModelError, 500, "model_failed"),
)


def build_app(backend: Backend, options: ServeOptions) -> FastAPI:
    """The app in front of a backend."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(backend.close)

    guarded = [Depends(_guard(options))]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    created = int(time.time())
    about = {"id": backend.model, "object": "model", "created": created, "owned_by": "seats"}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", dependencies=guarded)
    async def metrics() -> Response:
        return Response(backend.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{name:path}", dependencies=guarded)
    async def model(name: str) -> dict[str, Any]:
        if name != backend.model:
            raise RequestError(f"There is no model {name[:80]} here.", 404, "model_not_found")
        return about

    @app.post("/v1/chat/completions", dependencies=guarded)
    async def chat(request: Request) -> Response:
        return await _accepted(request, backend, options)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        return _error_response(RequestError(f"{error.detail}.", error.status_code, "http"), 0)

    @app.exception_handler(Exception)
    @app.exception_handler(SeatsError)
    async def other_error(_request: Request, error: Exception) -> Response:
        return _counted(backend, error)

    return app


def _guard(options: ServeOptions) -> Callable[[Request], Awaitable[None]]:
    """What every request must bring, looked at before its body is read."""
    wanted = None if options.api_key is None else options.api_key.strip().encode()

    async def guard(request: Request) -> None:
        if wanted is None:
            # Without a key, who may come is who runs on this machine. A web page in a browser does
            # too: under a name that leads here, it could read what it asked for.
            # And where a proxy of somebody's own listens, its name alone says nothing.
            client = request.client.host if request.client else "localhost"
            if not (_is_loopback(request.headers.get("host", "")) and _is_loopback(client)):
                raise RequestError(
                    "Without a key, this server answers this machine only, as localhost.",
                    403,
                    "forbidden",
                )
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode("latin-1", "replace"), wanted)
        if not known or scheme.lower() != "bearer":
            raise RequestError(
                "The key is missing or wrong: send Authorization: Bearer KEY.", 401, "unauthorized"
            )

    return guard


def _is_loopback(host: str) -> bool:
    name, _, port = host.rpartition(":")
    if not (port.isdigit() and (name.endswith("]") or ":" not in name)):
        name = host  # without a port; an IPv6 address has colons of its own
    name = name.strip("[]")
    try:
        return name in LOOPBACK_NAMES or ip_address(name).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------- a request


async def _accepted(request: Request, backend: Backend, options: ServeOptions) -> Response:
    """Read a request's body, if there is room for it, and answer it."""
    # Another type could be sent by any web page without asking the browser first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("The body must be application/json.", 415, "unsupported_type")
    ticket = backend.admission.enter()
    try:
        body = await asyncio.wait_for(_body(request, options.max_body_bytes), _BODY_S)
        asked = await asyncio.to_thread(parse_request, body, options, backend.model)
    except BaseException as error:
        backend.admission.leave(ticket)
        if isinstance(error, asyncio.TimeoutError):
            raise RequestError(
                f"The body did not arrive within {_BODY_S:g} s.", 408, "timeout"
            ) from None
        if isinstance(error, ClientDisconnect):
            raise RequestError("The client has left.", _LEFT, "cancelled") from None
        raise
    return ChatResponse(backend, asked, ticket)


async def _body(request: Request, limit: int) -> bytes:
    refusal = RequestError(
        f"The body is larger than {limit:,} bytes: send the clip's URL in place of its data.",
        413,
        "too_large",
    )
    if int(request.headers.get("content-length") or 0) > limit:
        raise refusal
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise refusal
    return bytes(body)


class ChatResponse(Response):
    """The answer to a chat request, whole or as a stream of events, until the client leaves."""

    def __init__(self, backend: Backend, request: ChatRequest, ticket: Ticket) -> None:
        super().__init__()
        self._backend, self._request, self._ticket = backend, request, ticket
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; whoever leaves first, the client or the answer, ends it."""
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self._status = _LEFT
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            if not self._ticket.taken:  # the client was gone before anything had begun
                self._backend.admission.leave(self._ticket)
            self._backend.metrics.requests.labels(self._status).inc()
        if not answering.cancelled():
            answering.result()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        sends = self._stream if self._request.stream else self._whole
        events = self._backend.events(self._request, self._ticket)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            try:
                await sends(self._timed(events), scope, receive, send)
            except OSError:  # the client has left in the middle of a write
                self._status = _LEFT

    async def _timed(self, events: AsyncIterator[Piece | Reply]) -> AsyncIterator[Piece | Reply]:
        first = True
        async for event in events:
            if first:
                took = time.monotonic() - self._ticket.began
                self._backend.metrics.first_token.observe(took)
                first = False
            yield event

    async def _whole(
        self, events: AsyncIterator[Piece | Reply], scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            reply = [event async for event in events if isinstance(event, Reply)][-1]
        except Exception as error:
            await self._failed(error)(scope, receive, send)
            return
        message = {"role": "assistant", "content": reply.text, **_thinking(reply.thinking)}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        document = self._document("chat.completion", [{**choice, "logprobs": None}])
        document |= {"usage": reply.usage, "seats": reply.seats}
        await JSONResponse(document)(scope, receive, send)

    async def _stream(
        self, events: AsyncIterator[Piece | Reply], scope: Scope, receive: Receive, send: Send
    ) -> None:
        began = False

        async def tell(document: dict[str, Any] | str) -> None:
            text = document if isinstance(document, str) else json.dumps(document)
            body = f"data: {text}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def begin() -> None:
            # Not before there is something to say: until then, an error has a status of its own.
            head = {"content-type": "text/event-stream", "cache-control": "no-cache"}
            headers = [(name.encode(), value.encode()) for name, value in head.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await tell(self._chunk({"role": "assistant", "content": ""}))

        try:
            async for event in events:
                if not began:
                    began = True
                    await begin()
                if isinstance(event, Piece):
                    said = {"content": event.text}
                    await tell(self._chunk(_thinking(event.text) if event.thinking else said))
                    continue
                await tell({**self._chunk({}, event.finish_reason), "seats": event.seats})
                if self._request.usage_chunk:
                    document = self._document("chat.completion.chunk", [])
                    await tell({**document, "usage": event.usage})
                await tell("[DONE]")
        except OSError:
            raise
        except Exception as error:
            response = self._failed(error)
            if not began:
                await response(scope, receive, send)
                return
            await tell(bytes(response.body).decode())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _failed(self, error: Exception) -> JSONResponse:
        response = _error_response(error, self._backend.admission.retry_after_s)
        self._status = response.status_code
        return response

    def _document(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._backend.model,
            "choices": choices,
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        document = self._document("chat.completion.chunk", [choice])
        return {**document, "usage": None} if self._request.usage_chunk else document


def _thinking(text: str) -> dict[str, str]:
    """Reasoning under the name by which clients know it."""
    return {"reasoning_content": text} if text else {}


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


# ---------------------------------------------------------- errors


def _counted(backend: Backend, error: Exception) -> Response:
    response = _error_response(error, backend.admission.retry_after_s)
    backend.metrics.requests.labels(response.status_code).inc()
    return response


def _error_response(error: Exception, retry_after_s: int) -> JSONResponse:
    """An error as clients of this API know it; they send it again unless they are told not to."""
    sentence, status, code = described(error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, retry_after_s))
    elif status >= 500 or status == 408:
        headers["x-should-retry"] = "false"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    kind = "server_error" if status >= 500 else "invalid_request_error"
    param = error.param if isinstance(error, RequestError) else None
    content = {"message": sentence, "type": kind, "param": param, "code": code}
    # What a client has written may hold what is not valid Unicode.
    return JSONResponse(jsonable({"error": content}), status, headers)


def described(error: Exception) -> tuple[str, int, str]:
    """The sentence, HTTP status and word for an error; a defect is logged, not shown."""
    if isinstance(error, RequestError):
        return str(error), error.status, error.code
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            return str(error), status, code
    place = out_of_memory_on(error)
    if place is not None:
        sentence = f"The {place} is out of memory: try again later, or with less of the clip."
        return sentence, 503, "out_of_memory"
    LOG.error("A request has met a defect.", exc_info=error)
    return f"The server has met a defect ({type(error).__name__}).", 500, "unexpected"


# ---------------------------------------------------------- the server


def listen(options: ServeOptions) -> socket.socket:
    """The socket at the address of the options, port 0 for any that is free.

    Raises
    ------
    UsageError
        If it cannot be had.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"Nothing can listen at {options.host}:{options.port} ({reason}); choose another "
            "`port`."
        ) from error


def run_server(
    backend: Backend,
    options: ServeOptions,
    sock: socket.socket,
    on_start: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal ends it; requests under way have some seconds then."""
    config = uvicorn.Config(
        build_app(backend, options),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_STOPPING_S,
        lifespan="on",
    )
    _Server(config, on_start).run(sockets=[sock])


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        if self._on_start is not None:
            self._on_start()
