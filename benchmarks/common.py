"""What the gateway's benchmarks share: a laboratory with PostgreSQL, a fast upstream, servers under test, and load.

Every server is a process of its own, pinned to a core: the server under test alone on the first, everything else
(upstream, load, PostgreSQL) on the last. Run a file beside this one; it calls this one for its processes.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import httpx
import psutil
import uvloop
from sqlalchemy import text

from wopr.accounts import keys, people
from wopr.accounts.principal import Scope
from wopr.billing.grants import grant_credit
from wopr.core.db import Database
from wopr.core.ids import NodeId, TenantId, new_id
from wopr.core.money import from_usd
from wopr.core.postgres import EmbeddedPostgres
from wopr.inference import nodes
from wopr.migrations.run import upgrade

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
STREAM_TOKENS = 64
READY_SECONDS = 60.0
# Where the upstream notes which streams were cut and when, for the benchmark of disconnects.
CANCELS = os.environ.get("WOPR_BENCH_CANCELS", "")


def request_bytes(port: int, body: dict[str, Any], key: str) -> bytes:
    """A POST to chat/completions as it goes over the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def chat_body(*, stream: bool, tokens: int = STREAM_TOKENS) -> dict[str, Any]:
    """A short conversation; a stream asks for its usage, so that the bytes can be compared."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant that answers briefly."},
        {"role": "user", "content": "What is the capital of France, and how many people live there?"},
    ]
    body: dict[str, Any] = {"model": "bench", "messages": messages, "max_tokens": tokens}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def stream_events(tokens: int = STREAM_TOKENS) -> list[bytes]:
    """The events of a stream of so many tokens, in OpenAI's form."""
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench"}

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"

    events = [event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])]
    events += [
        event([{"index": 0, "delta": {"content": f"tok{index} "}, "finish_reason": None}]) for index in range(tokens)
    ]
    events.append(event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    usage = {"prompt_tokens": 30, "completion_tokens": tokens, "total_tokens": 30 + tokens}
    return [*events, event([], usage=usage), b"data: [DONE]\n\n"]


WHOLE = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33},
    }
).encode()


class UpstreamProtocol(asyncio.Protocol):
    """The fastest upstream that Python offers: canned answers, a paced stream when the model is named `paced`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._url = b""
        self._user = ""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            if CANCELS:
                with Path(CANCELS).open("a", encoding="utf-8") as file:
                    file.write(f"{self._user} {time.monotonic()}\n")

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url.endswith(b"/models"):
            self._transport.write(whole_answer(json.dumps({"data": [{"id": "bench"}, {"id": "paced"}]}).encode()))
        elif b'"paced"' in self._body:
            self._task = asyncio.create_task(self._paced(json.loads(self._body)))
        elif b'"stream"' in self._body:
            self._transport.write(STREAM_ANSWER)
        else:
            self._transport.write(whole_answer(WHOLE))

    async def _paced(self, asked: dict[str, Any]) -> None:
        self._user = asked.get("user", "")
        if not asked.get("stream"):
            await asyncio.sleep(asked.get("seconds", 0.05))
            self._transport.write(whole_answer(WHOLE))
            return
        self._transport.write(STREAM_HEAD)
        for event in stream_events(asked.get("max_tokens", STREAM_TOKENS)):
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(asked.get("seconds", 0.005))
        self._transport.write(b"0\r\n\r\n")


def whole_answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_ANSWER = (
    STREAM_HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in stream_events()) + b"0\r\n\r\n"
)


async def serve_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(UpstreamProtocol, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def serve_application(application: Any, port: int) -> None:
    """uvicorn until SIGTERM, leaving the end of the process to us."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, self, "should_exit", True)
            yield

    config = uvicorn.Config(
        application,
        "127.0.0.1",
        port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    await Server(config).serve()


async def serve_gateway(port: int) -> None:
    """The gateway on the settings of the environment."""
    from wopr.core.platform import build_platform
    from wopr.core.settings import load_settings
    from wopr.inference.gateway import build_gateway

    platform = build_platform(load_settings())
    gateway = build_gateway(platform)
    await platform.notifier.start()
    await gateway.startup()
    await serve_application(gateway, port)
    await gateway.shutdown(1.0)
    await platform.close()


async def serve_bare(port: int, upstream: int) -> None:
    """What a gateway can be at best with these libraries: aiohttp behind a raw ASGI application, and nothing else."""
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    url = f"http://127.0.0.1:{upstream}/v1/chat/completions"

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
            headers = [(b"content-type", response.headers["Content-Type"].encode())]
            if response.content_length is not None:
                headers.append((b"content-length", b"%d" % response.content_length))
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            while chunk := await response.content.readany():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    await serve_application(app, port)
    await session.close()


class LoadConnection(asyncio.Protocol):
    """One keep-alive connection that sends a request and collects the answer's body."""

    def __init__(self) -> None:
        self._parser: Any = None
        self._done: asyncio.Future[int] | None = None
        self.body = b""
        self.request_id = ""
        self._parts: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-request-id":
            self.request_id = value.decode()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.body = b"".join(self._parts)
        if self._done is not None and not self._done.done():
            self._done.set_result(self._parser.get_status_code())

    async def request(self, data: bytes) -> int:
        """Send one request; the answer's status. Its body is in `body`."""
        self._parser = httptools.HttpResponseParser(self)
        self._parts = []
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._done

    def close(self) -> None:
        self._transport.close()


@dataclass
class Load:
    """What a round of load saw: seconds of each request, how many failed, whether every body was right."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    wrong_bodies: int = 0
    cpu_seconds: float = 0.0  # of the server

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds under which this share of the requests was answered."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


async def requests(server: "Server", data: bytes, connections: int, count: int) -> int:
    """So many requests over so many connections; how many were not answered with 200."""
    failures, left = 0, count

    async def worker() -> None:
        nonlocal failures, left
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(LoadConnection, "127.0.0.1", server.port)
        while left > 0:
            left -= 1
            failures += await connection.request(data) != 200
        connection.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return failures


async def load(server: "Server", data: bytes, connections: int, seconds: float, expect: bytes | None = None) -> Load:
    """Requests back to back over so many connections for so long."""
    result = Load(seconds, cpu_seconds=-server.cpu_seconds())
    port = server.port
    end = time.perf_counter() + seconds

    async def worker() -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(LoadConnection, "127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            status = await connection.request(data)
            result.latencies.append(time.perf_counter() - start)
            result.failures += status != 200
            result.wrong_bodies += expect is not None and connection.body != expect
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    result.seconds = time.perf_counter() - started
    result.cpu_seconds += server.cpu_seconds()
    return result


@dataclass
class Server:
    """A process under test."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"

    def memory_megabytes(self) -> float:
        """Resident memory with that of its children."""
        own = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in [own, *own.children(recursive=True)]) / 2**20

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Customer:
    """A tenant with credit and a key."""

    tenant_id: TenantId
    key: str


@dataclass
class Lab:
    """PostgreSQL, an upstream and a folder, for the time of one benchmark."""

    home: Path
    database_url: str
    upstream_port: int
    db: Database
    servers: list[Server] = field(default_factory=list)

    async def customer(self, dollars: str) -> Customer:
        """A customer with so much credit."""
        async with self.db.begin() as session:
            user, _ = await people.find_or_create(session, f"{new_id().hex}@example.com", "Bench")
            people.mark_verified(user, await session.scalar(text("SELECT now()")))
            await session.flush()
            tenant: TenantId = await session.scalar(
                text("SELECT tenant_id FROM memberships WHERE user_id = :user"), {"user": user.id}
            )
            await grant_credit(session, tenant, from_usd(dollars), "benchmark")
            issued = await keys.issue(session, tenant, name="bench", scope=Scope.WRITE)
        return Customer(tenant, issued.secret)

    async def gateway(self, core: int = SERVER_CORE, **environment: str) -> Server:
        """A gateway process, ready."""
        given = {
            "WOPR_HOME": str(self.home),
            "DATABASE_URL": self.database_url,
            "GATEWAY_REQUESTS_PER_MINUTE": "1000000000",
            "GATEWAY_CONCURRENCY_MAX": "100000",
            **environment,
        }
        return await self.start("wopr", ["gateway"], core, given)

    async def bare(self) -> Server:
        """The bare application."""
        return await self.start("bare", ["bare", "--upstream", str(self.upstream_port)], SERVER_CORE, {})

    async def start(self, name: str, arguments: Sequence[str], core: int, environment: dict[str, str]) -> Server:
        """One of this file's servers in a process of its own, answering."""
        port = free_port()
        server = Server(name, port, spawn([*arguments, "--port", str(port)], core, environment))
        self.servers.append(server)
        await answering(server)
        return server

    async def usage(self, tenant: TenantId, column: str = "count(*)") -> int:
        """A sum over the tenant's usage rows."""
        async with self.db.begin() as session:
            statement = text(f"SELECT {column} FROM usage_records WHERE tenant_id = :tenant")
            return int(await session.scalar(statement, {"tenant": tenant}) or 0)


@contextlib.asynccontextmanager
async def laboratory() -> AsyncIterator[Lab]:
    """Start PostgreSQL (pinned beside the load) and the upstream; stop and remove everything at the end.

    The upstream notes cut streams in `cancels` in the laboratory's folder.
    """
    pin(LOAD_CORE)
    home = Path(tempfile.mkdtemp(prefix="wopr-bench-"))
    postgres = EmbeddedPostgres(home)
    postgres.prepare()
    process = postgres.start()
    upstream = free_port()
    lab: Lab | None = None
    try:
        url = postgres.wait_ready(process)
        await upgrade(url)
        db = Database(url)
        lab = Lab(home, url, upstream, db)
        lab.servers.append(
            Server(
                "upstream",
                upstream,
                spawn(["upstream", "--port", str(upstream)], LOAD_CORE, {"WOPR_BENCH_CANCELS": str(home / "cancels")}),
            )
        )
        await answering(lab.servers[0])
        node = nodes.Node(
            NodeId("bench"), "127.0.0.1", ports={"llama": upstream}, service_health={"llama": True}, api_key="secret"
        )
        async with db.begin() as session:
            await nodes.register(session, node)
        yield lab
    finally:
        if lab is not None:
            for server in reversed(lab.servers):
                server.stop()
            await lab.db.dispose()
        postgres.stop(process)
        shutil.rmtree(home, ignore_errors=True)


async def answering(server: Server, seconds: float = READY_SECONDS) -> None:
    """Wait until the server answers at all."""
    end = time.monotonic() + seconds
    async with httpx.AsyncClient() as client:
        while time.monotonic() < end and server.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                await client.get(f"http://127.0.0.1:{server.port}/v1/models")
                return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"{server.name} did not answer on port {server.port}")


def spawn(arguments: Sequence[str], core: int, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """This file as a process with these arguments."""
    command = [sys.executable, __file__, *arguments, "--core", str(core)]
    return subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)


def start_process(command: Sequence[str | Path], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Another program as a server, its output thrown away."""
    null = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdout=null, stderr=null, env={**os.environ, **environment}, start_new_session=True
    )


def pin(core: int) -> None:
    """Run this process, and what it starts from now on, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def run(main: Any) -> None:
    """Run a benchmark's main coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def _serve() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["upstream", "gateway", "bare"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--core", type=int, default=SERVER_CORE)
    parser.add_argument("--upstream", type=int, default=0)
    given = parser.parse_args()
    pin(given.core)
    if profile := os.environ.get("WOPR_BENCH_PROFILE"):
        import cProfile

        profiler = cProfile.Profile()
        profiler.enable()
    serve: dict[str, Any] = {"upstream": serve_upstream, "gateway": serve_gateway, "bare": serve_bare}
    with contextlib.suppress(KeyboardInterrupt):
        run(serve[given.what](*([given.port, given.upstream] if given.what == "bare" else [given.port])))
    if profile:
        profiler.disable()
        profiler.dump_stats(f"{profile}.{given.what}")


if __name__ == "__main__":
    _serve()
