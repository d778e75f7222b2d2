"""What every engine of ours shares: an HTTP server with health, limits, a queue, cancellation and errors as OpenAI's.

The port is open before the engine is loaded, so that a watchdog sees `loading` rather than nothing. A request whose
client leaves is cancelled at once, and what it was doing stops with it.
"""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from wopr.core.errors import WoprError
from wopr.core.stop import Stop
from wopr.inference.engines.options import EngineOptions, port_unavailable

BODY_SECONDS_MAX = 30.0
SHUTDOWN_SECONDS_MAX = 2.0
WAITING_PER_SLOT_MAX = 16
OPEN_PATHS = ("/health", "/metrics", "/v1/models", "/models")

log = structlog.get_logger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EngineError(Exception):
    """An answer in the form of OpenAI's errors. `param` names the field at fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as it goes over the wire."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 401:
            kind = "authentication_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Engine(Protocol):
    """One service: what it is, how it is loaded, what it answers."""

    service: str
    slots: int
    body_bytes_max: int

    def load(self) -> str:
        """Get ready; blocks, runs in a thread, once. Returns the model's name; raises a WoprError when it can't."""
        ...

    def models(self) -> Sequence[str]:
        """Names under which it answers, the one that `load` returned first."""
        ...

    def routes(self, gate: "Gate") -> Sequence[web.RouteDef]:
        """Its routes under /v1; each takes a slot from the gate while it works."""
        ...


@dataclass
class Gate:
    """At most `slots` requests work at once, some wait, the rest are told to come back."""

    slots: int
    running: int = 0
    waiting: int = 0
    served: int = 0
    _free: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.slots)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for the block; EngineError 503 when too many wait already."""
        if self.waiting >= self.slots * WAITING_PER_SLOT_MAX:
            raise EngineError(
                503, "This engine is busy: its queue is full. Try again in a few seconds.", code="engine_busy"
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self.served += 1
            self._free.release()


def run_engine(engine: Engine, options: EngineOptions, on_ready: Callable[[str, str], None]) -> None:
    """Serve until a signal ends it. Raises the WoprError that `load` raised, or Unavailable when the port is taken."""
    asyncio.run(_run_until_signal(engine, options, on_ready))


@asynccontextmanager
async def serving(engine: Engine, options: EngineOptions) -> AsyncIterator[tuple[str, str]]:
    """The engine, loaded and listening, for the block: yields its address and its model's name. Port 0: a free one."""
    state = _State()
    runner = web.AppRunner(
        _application(engine, options, state),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_SECONDS_MAX,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.host, options.port)
        try:
            await site.start()
        except OSError as error:
            raise port_unavailable(options, error) from error
        model = await asyncio.to_thread(engine.load)
        state.ready = True
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", model
    finally:
        await runner.cleanup()


async def read_json(request: web.Request) -> dict[str, object]:
    """The body as a JSON object; EngineError 400, 408 or 413 when it is none, too slow or too large."""
    body = await read_body(request)
    try:
        value = json.loads(body)
    except ValueError as error:
        raise EngineError(400, f"The body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise EngineError(400, "The body must be a JSON object.")
    return value


async def read_body(request: web.Request) -> bytes:
    """The whole body, within the engine's limit and BODY_SECONDS_MAX."""
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await request.read()
    except TimeoutError as error:
        raise EngineError(408, "The body took too long to arrive.") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise EngineError(413, "The body is larger than this engine takes.") from error


@dataclass
class _State:
    ready: bool = False


async def _run_until_signal(engine: Engine, options: EngineOptions, on_ready: Callable[[str, str], None]) -> None:
    stop = Stop()
    async with serving(engine, options) as (address, model):
        on_ready(address, model)
        await stop.wait()
    stop.pass_on()


def _application(engine: Engine, options: EngineOptions, state: _State) -> web.Application:
    gate = Gate(engine.slots)

    async def health(_request: web.Request) -> web.Response:
        # Byte for byte as llama.cpp and the platform's own API write it.
        if state.ready:
            return web.Response(text='{"status":"ok"}', content_type="application/json")
        return web.Response(text='{"status":"loading"}', content_type="application/json", status=503)

    async def models(_request: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "wopr"} for name in engine.models()]
        return web.json_response({"object": "list", "data": data})

    async def slots(_request: web.Request) -> web.Response:
        return web.json_response([{"id": i, "is_processing": i < gate.running} for i in range(gate.slots)])

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=_metrics(engine.service, gate))

    app = web.Application(
        middlewares=[_guard(options.api_key, state)], client_max_size=engine.body_bytes_max, logger=log
    )
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/v1/models", models),
            web.get("/slots", slots),
            web.get("/metrics", metrics),
            *engine.routes(gate),
        ]
    )
    return app


def _guard(api_key: str | None, state: _State) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request.headers.get("x-request-id") or f"req_{uuid.uuid4().hex}"
        try:
            if request.path not in OPEN_PATHS:
                _authorize(request, api_key)
                if not state.ready:
                    raise EngineError(503, "The model is loading. Try again in a moment.", code="loading")
            response = await handler(request)
        except EngineError as error:
            response = _refusal(error)
        except web.HTTPException as error:
            response = _refusal(EngineError(error.status, f"{error.reason}: {request.method} {request.path}"))
        except WoprError as error:
            response = _refusal(EngineError(error.status, f"{error.message} {error.remedy}".strip(), code=error.code))
        except Exception as error:  # the outermost handler: a stack trace never leaves the process
            log.error("engine.failed", path=request.path, request_id=request_id, error=repr(error), exc_info=True)
            response = _refusal(EngineError(500, f"The engine failed. Its log names the request {request_id}."))
        if not response.prepared:
            response.headers["x-request-id"] = request_id
        return response

    return guard


def _authorize(request: web.Request, api_key: str | None) -> None:
    if not api_key:
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not hmac.compare_digest(given.encode(), api_key.encode()):
        raise EngineError(401, "This engine wants its API key: Authorization: Bearer …", code="invalid_api_key")


def _refusal(error: EngineError) -> web.Response:
    response = web.json_response(error.body(), status=error.status)
    if error.status == 503:
        response.headers["retry-after"] = "1"
    return response


def _metrics(service: str, gate: Gate) -> str:
    lines = [
        ("requests_running", "gauge", "Requests that hold a slot now.", gate.running),
        ("requests_waiting", "gauge", "Requests that wait for a slot.", gate.waiting),
        ("slots", "gauge", "Requests that may work at once.", gate.slots),
        ("requests_total", "counter", "Requests that held a slot since the start.", gate.served),
    ]
    return "".join(
        f"# HELP wopr_engine_{name} {text}\n# TYPE wopr_engine_{name} {kind}\n"
        f'wopr_engine_{name}{{service="{service}"}} {value}\n'
        for name, kind, text, value in lines
    )


def epoch_seconds() -> int:
    """Whole seconds since 1970, as OpenAI's objects carry them."""
    return int(time.time())
