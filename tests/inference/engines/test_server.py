"""What all engines share: loading, keys, limits, the queue, and errors that say nothing of the inside."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest
from aiohttp import web

from wopr.core.errors import NotConfigured
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.server import WAITING_PER_SLOT_MAX, EngineError, Gate, read_json, serving


class Echo:
    """An engine that loads when it is let, and works until it is let."""

    service = "llama"
    slots = 1
    body_bytes_max = 1000

    def __init__(self) -> None:
        self.may_load = threading.Event()
        self.may_load.set()
        self.may_finish = asyncio.Event()

    def load(self) -> str:
        self.may_load.wait()
        return "echo"

    def models(self) -> Sequence[str]:
        return ("echo",)

    def routes(self, gate: Gate) -> Sequence[web.RouteDef]:
        async def echo(request: web.Request) -> web.Response:
            return web.json_response(await read_json(request))

        async def work(_request: web.Request) -> web.Response:
            async with gate.slot():
                await self.may_finish.wait()
            return web.Response()

        async def broken(_request: web.Request) -> web.Response:
            raise ZeroDivisionError("the inside")

        return [web.post("/v1/echo", echo), web.post("/v1/work", work), web.get("/v1/broken", broken)]


@pytest.fixture
def plain() -> EngineOptions:
    from pathlib import Path

    return EngineOptions("127.0.0.1", 0, Path("models"))


async def test_while_it_loads_health_says_so_and_requests_are_put_off(
    plain: EngineOptions, unused_tcp_port: int
) -> None:
    engine = Echo()
    engine.may_load.clear()
    options = replace(plain, port=unused_tcp_port)

    async def run(done: asyncio.Event) -> None:
        async with serving(engine, options):
            await done.wait()

    done = asyncio.Event()
    task = asyncio.create_task(run(done))
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{unused_tcp_port}", transport=httpx.AsyncHTTPTransport(retries=5)
        ) as client:
            loading, refused = await client.get("/health"), await client.post("/v1/echo", json={})
            engine.may_load.set()
            for _ in range(200):
                ready = await client.get("/health")
                if ready.status_code == 200:
                    break
                await asyncio.sleep(0.01)
    finally:
        engine.may_load.set()
        done.set()
        await task
    assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (ready.status_code, ready.content) == (200, b'{"status":"ok"}')


async def test_a_key_is_demanded_where_one_is_set_but_not_for_health(plain: EngineOptions) -> None:
    options = replace(plain, api_key="secret")
    async with serving(Echo(), options) as (address, _), httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/health")).status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}):
            refused = await client.post("/v1/echo", json={}, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        right = {"authorization": "Bearer secret"}
        assert (await client.post("/v1/echo", json={}, headers=right)).status_code == 200


async def test_bodies_that_are_too_large_or_no_json_are_refused(plain: EngineOptions) -> None:
    async with serving(Echo(), plain) as (address, _), httpx.AsyncClient(base_url=address) as client:
        assert (await client.post("/v1/echo", content=b"x" * 2000)).status_code == 413
        assert (await client.post("/v1/echo", content=b"{")).status_code == 400
        assert (await client.post("/v1/echo", content=b"[]")).status_code == 400
        assert (await client.get("/v1/echo")).status_code == 405
        assert (await client.get("/nowhere")).json()["error"]["type"] == "invalid_request_error"


async def test_a_failure_inside_says_only_the_request_id(plain: EngineOptions) -> None:
    async with serving(Echo(), plain) as (address, _), httpx.AsyncClient(base_url=address) as client:
        broken = await client.get("/v1/broken", headers={"x-request-id": "req_1"})
    assert (broken.status_code, broken.headers["x-request-id"]) == (500, "req_1")
    assert "req_1" in broken.text
    assert "inside" not in broken.text


async def test_the_gate_counts_and_refuses_when_its_queue_is_full() -> None:
    gate = Gate(1)
    leave = asyncio.Event()

    async def hold() -> None:
        async with gate.slot():
            await leave.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(1 + WAITING_PER_SLOT_MAX)]
    await asyncio.sleep(0)
    assert (gate.running, gate.waiting) == (1, WAITING_PER_SLOT_MAX)
    with pytest.raises(EngineError) as raised:
        async with gate.slot():
            pass
    assert raised.value.status == 503
    tasks[3].cancel()
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (gate.running, gate.waiting, gate.served) == (0, 0, WAITING_PER_SLOT_MAX)


async def test_an_engine_that_cannot_load_ends_with_its_remedy(plain: EngineOptions) -> None:
    class Broken(Echo):
        def load(self) -> str:
            raise NotConfigured("nothing here", remedy="install it")

    with pytest.raises(NotConfigured):
        async with serving(Broken(), plain):
            pass
