"""A gateway behind a real server, real backends that speak OpenAI's protocol, and customers with keys and credit."""

import asyncio
import base64
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from aiohttp import web
from sqlalchemy import text

from wopr.accounts import keys, people
from wopr.accounts.principal import Scope
from wopr.billing.grants import grant_credit
from wopr.billing.ledger import Balance, balance
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import BotId, KeyId, NodeId, TenantId, new_id
from wopr.core.money import from_usd
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import nodes
from wopr.inference.gateway import Gateway, build_gateway

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WORD = "word "


class Backend:
    """A model server on a free port. `answers` overrides the next requests, one each; everything is recorded."""

    def __init__(self, service: str, models: list[str]) -> None:
        self.service = service
        self.models = models
        self.port = 0
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[Any] = []
        self.answers: list[Handler] = []
        self.cut = asyncio.Event()  # a client went away in the middle
        self.sent = 0  # tokens written to a stream
        self.token_seconds = 0.0
        self.gate: asyncio.Event | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": model} for model in self.models]})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.paths.append(request.path)
        self.headers.append(request.headers)
        try:
            if self.answers:
                return await self.answers.pop(0)(request)
            return await self._answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cut.set()
            raise

    async def _answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.path.endswith("/audio/speech"):
            return web.Response(body=b"RIFF" + bytes(5000), content_type="audio/wav")
        if request.path.endswith("/audio/transcriptions"):
            return web.json_response({"text": "hello there"})
        asked = json.loads(body)
        if request.path.endswith("/embeddings"):
            return web.json_response(embedding(asked))
        if asked.get("stream"):
            return await self._stream(request, asked)
        if self.gate is not None:
            await self.gate.wait()
        return web.json_response(completion(asked))

    async def _stream(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in stream_events(asked):
            if self.gate is not None and self.sent:
                await self.gate.wait()
            await response.write(event)
            if b'"content":"word ' in event:
                self.sent += 1
            if self.token_seconds:
                await asyncio.sleep(self.token_seconds)
        await response.write_eof()
        return response


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    tokens = asked.get("max_tokens", 3)
    message: dict[str, Any] = {"role": "assistant", "content": WORD * tokens}
    if "tools" in asked:
        call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "text": WORD * tokens, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens},
    }


def stream_events(asked: dict[str, Any]) -> Iterator[bytes]:
    tokens = asked.get("max_tokens", 3)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"

    yield event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for _ in range(tokens):
        yield event([{"index": 0, "delta": {"content": WORD}, "finish_reason": None}])
    yield event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield event([], usage={"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens})
    yield b"data: [DONE]\n\n"


def embedding(asked: dict[str, Any]) -> dict[str, Any]:
    vector: Any = [0.5, -0.25]
    if asked.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
    return {
        "object": "list",
        "model": asked["model"],
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


@dataclass
class Customer:
    tenant_id: TenantId
    key: str
    key_id: KeyId
    email: str


class QuietServer(uvicorn.Server):
    """A server that leaves the signals to the tests."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Stage:
    """Everything that one test needs."""

    platform: Platform
    gateway: Gateway
    url: str = ""
    backends: list[Backend] = field(default_factory=list)
    _servers: list[tuple[QuietServer, "asyncio.Task[None]"]] = field(default_factory=list)
    _clients: list[Any] = field(default_factory=list)
    _closed: bool = False

    async def open(self) -> None:
        await self.platform.notifier.start()
        await self.platform.notifier.connected.wait()
        await self.gateway.startup()
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self.gateway, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = QuietServer(config)
        self._servers.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
        while not server.started:  # noqa: ASYNC110  # uvicorn tells it by this attribute only
            await asyncio.sleep(0.005)

    async def close(self, drain_seconds: float = 0.1) -> None:
        if self._closed:
            return
        self._closed = True
        for client in self._clients:
            await (client.close() if isinstance(client, openai.AsyncOpenAI) else client.aclose())
        await self.gateway.shutdown(drain_seconds)
        for server, task in self._servers:
            server.should_exit = True
            await task
        for backend in self.backends:
            await backend.stop()
        await self.platform.close()

    async def backend(self, service: str = "llama", models: tuple[str, ...] = ("handbook",), node: str = "") -> Backend:
        """A backend that is a healthy node; the gateway knows it when this returns."""
        backend = Backend(service, list(models))
        await backend.start()
        self.backends.append(backend)
        await self.register(backend, node or f"node-{len(self.backends)}")
        return backend

    async def register(self, backend: Backend, node: str) -> None:
        row = nodes.Node(
            NodeId(node),
            "127.0.0.1",
            ports={backend.service: backend.port},
            service_health={backend.service: True},
            api_key=f"secret-of-{node}",
        )
        async with self.platform.db.begin() as session:
            await nodes.register(session, row)
        await self.gateway.refresh()

    async def customer(self, dollars: str = "5", scope: Scope = Scope.WRITE, **terms: Any) -> Customer:
        email = f"{new_id().hex}@example.com"
        verified = terms.pop("verified", True)
        async with self.platform.db.begin() as session:
            user, _ = await people.find_or_create(session, email, "Ada")
            if verified:
                people.mark_verified(user, self.platform.clock.now())
            await session.flush()
            tenant_id = await _tenant(session, user.id)
            if dollars != "0":
                await grant_credit(session, tenant_id, from_usd(dollars), "test")
            issued = await keys.issue(session, tenant_id, name="test", scope=scope, **terms)
        return Customer(tenant_id, issued.secret, issued.id, email)

    def openai(self, customer: Customer, **options: Any) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(api_key=customer.key, base_url=f"{self.url}/v1", **{"max_retries": 0, **options})
        self._clients.append(client)
        return client

    def http(self, customer: Customer | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {customer.key}"} if customer else {}
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)
        self._clients.append(client)
        return client

    async def usage(self, customer: Customer, count: int = 1) -> list[Any]:
        """The customer's settled usage rows, as soon as there are so many."""
        statement = text("SELECT * FROM usage_records WHERE tenant_id = :tenant ORDER BY seq")
        for _ in range(400):
            async with self.platform.db.begin() as session:
                rows = list(await session.execute(statement, {"tenant": customer.tenant_id}))
            if len(rows) >= count:
                return rows
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(rows)} usage rows instead of {count}")

    async def balance(self, customer: Customer) -> Balance:
        async with self.platform.db.begin() as session:
            return await balance(session, customer.tenant_id)


async def _tenant(session: Any, user_id: Any) -> TenantId:
    value = await session.scalar(text("SELECT tenant_id FROM memberships WHERE user_id = :user"), {"user": user_id})
    return TenantId(value)


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make_stage(database_address: str, tmp_path: Path) -> AsyncIterator[MakeStage]:
    """Stages with settings of their own, on one database: processes of one deployment."""
    stages: list[Stage] = []

    async def make(**settings: Any) -> Stage:
        db = Database(database_address, pool_size=6)
        chosen = Settings(wopr_home=tmp_path, **{"gateway_requests_per_minute": 100_000, **settings})
        platform = Platform(chosen, db, SystemClock(), httpx.AsyncClient(), Notifier(db))
        stage = Stage(platform, build_gateway(platform))
        stages.append(stage)
        await stage.open()
        return stage

    yield make
    for stage in stages:
        await stage.close()


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    """One gateway without backends."""
    return await make_stage()


def wav(seconds: float, rate: int = 16_000) -> bytes:
    """Silence of 16 bits."""
    data = bytes(int(seconds * rate) * 2)
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + head + b"data" + struct.pack("<I", len(data)) + data


@pytest.fixture
def silence() -> Callable[[float], bytes]:
    return wav


@pytest.fixture
def bot_id() -> BotId:
    return BotId(new_id())
