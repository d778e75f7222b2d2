"""Goal S5: what it costs to look at 500 nodes with 4 services each, every 5 s; and the client that was used before.

One process of this machine answers for all services, on the other core. Counted is the processor time of the watchdog's
process: passes with everything that they read, ask, judge and write, checks included, against the time that went by.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import uvloop
from common import LOAD_CORE, SERVER_CORE, free_port, pin
from report import run, say, table

from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.postgres import EmbeddedPostgres
from wopr.core.settings import Settings
from wopr.inference.life import Life
from wopr.inference.nodes import SERVICES, Node, register
from wopr.inference.watchdog import Watchdog
from wopr.inference.wire import Ask, ask
from wopr.migrations.run import upgrade

NODES = 500
PERIOD_SECONDS = 5.0
GOAL = 0.25
REQUESTS, AT_ONCE = 3_000, 64
SPOKEN = Path(__file__).parent.parent / "src" / "wopr" / "inference" / "spoken.wav"


class Services(asyncio.Protocol):
    """Answers whatever the watchdog asks, as the service would whose business it is."""

    ANSWERS = (
        (b" /health", b'{"status":"ok"}'),
        (b" /v1/models", json.dumps({"data": [{"id": "model"}]}).encode()),
        (b" /v1/audio/voices", b'{"voices":["one"]}'),
        (b" /v1/chat", json.dumps({"choices": [{"message": {"role": "assistant", "content": "1"}}]}).encode()),
        (b" /v1/embeddings", json.dumps({"data": [{"embedding": [0.05] * 384}]}).encode()),
        (b" /v1/audio/speech", SPOKEN.read_bytes()),
        (b" /v1/audio/transcriptions", b'{"text":"Ready?"}'),
    )

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, ended, body = self._data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not ended or len(body) < int(length or 0):
            return
        answer = next(answer for path, answer in self.ANSWERS if path in head.partition(b"\r\n")[0])
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        self._data = b""


async def serve(port: int) -> None:
    pin(LOAD_CORE)
    server = await asyncio.get_running_loop().create_server(Services, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


async def clients(port: int) -> list[tuple[object, ...]]:
    """Processor time of one GET, by client."""
    url = f"http://127.0.0.1:{port}/health"
    gate = asyncio.Semaphore(AT_ONCE)

    async def cost(one) -> float:  # type: ignore[no-untyped-def]
        async def guarded() -> None:
            async with gate, asyncio.timeout(10):
                await one()

        await asyncio.gather(*(guarded() for _ in range(AT_ONCE)))
        began = time.process_time()
        await asyncio.gather(*(guarded() for _ in range(REQUESTS)))
        return (time.process_time() - began) / REQUESTS * 1e6

    rows: list[tuple[object, ...]] = []
    async with httpx.AsyncClient() as http:
        rows.append(("httpx, as before", f"{await cost(lambda: http.get(url)):.0f}"))
    for name, close in (("aiohttp, connections kept", False), ("aiohttp, a connection each", True)):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=close)) as session:

            async def get(session: aiohttp.ClientSession = session) -> None:
                async with session.get(url) as answer:
                    await answer.read()

            rows.append((name, f"{await cost(get):.0f}"))
    request = Ask(url)
    rows.append(("wire, a connection each", f"{await cost(lambda: ask(request)):.0f}"))
    return rows


async def watch(port: int, database: str, nodes: int, seconds: float) -> tuple[object, ...]:
    """The watchdog over so many nodes for so long."""
    db = Database(database)
    async with db.begin() as session:
        for number in range(nodes):
            await register(session, Node(NodeId(f"gpu-{number}"), "127.0.0.1", ports=dict.fromkeys(SERVICES, port)))
    with tempfile.TemporaryDirectory() as home:
        async with httpx.AsyncClient() as http:
            platform = Platform(Settings(wopr_home=Path(home)), db, SystemClock(), http, Notifier(db))
            watchdog = Watchdog(platform, Life(platform.notifier, platform.clock.monotonic))
            for _ in range(4):  # models, first checks, and rows that are written once
                counts = await watchdog.watch()
                await asyncio.sleep(PERIOD_SECONDS)
            own = psutil.Process()
            began, cpu, passes = time.monotonic(), sum(own.cpu_times()[:2]), 0
            while time.monotonic() - began < seconds:
                at = time.monotonic()
                counts = await watchdog.watch()
                passes += 1
                await asyncio.sleep(max(0.0, PERIOD_SECONDS - (time.monotonic() - at)))
            lasted = time.monotonic() - began
            share = (sum(own.cpu_times()[:2]) - cpu) / lasted
            await watchdog.close()
    await db.dispose()
    assert counts["healthy"] == nodes * len(SERVICES), counts
    verdict = "yes" if share <= GOAL else "no"
    return (
        nodes,
        nodes * len(SERVICES),
        f"{lasted / passes:.1f}",
        f"{100 * share:.1f} %",
        f"{100 * GOAL:.0f} %",
        verdict,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch")
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(arguments.serve))
        return
    run(lambda: bench(arguments.nodes, arguments.seconds))


def bench(nodes: int, seconds: float) -> None:
    port = free_port()
    services = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    with tempfile.TemporaryDirectory(prefix="wopr-bench-") as home:
        postgres = EmbeddedPostgres(Path(home))
        postgres.prepare()
        pin(LOAD_CORE)
        process = postgres.start()
        try:
            url = postgres.wait_ready(process)
            pin(SERVER_CORE)
            uvloop.run(upgrade(url))
            say("one request, by client")
            rows = uvloop.run(clients(port))
            table("One GET of /health, processor time of the client", ("client", "µs"), rows)
            say(f"{nodes} nodes for {seconds:.0f} s")
            row = uvloop.run(watch(port, url, nodes, seconds))
            headers = ("nodes", "services", "a pass every s", "of a core", "goal", "kept")
            table("S5: looking at every service every 5 s, its work checked as often", headers, [row])
        finally:
            services.terminate()
            services.wait()
            postgres.stop(process)


if __name__ == "__main__":
    main()
