"""When something fails: another backend, an honest end, and a bill for what was delivered."""

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any

import openai
import pytest
from aiohttp import web
from sqlalchemy import text

from wopr.core.ids import NodeId
from wopr.core.money import NANOS_PER_USD
from wopr.inference import nodes
from wopr.inference.gateway import upstream, watch
from wopr.inference.gateway.watch import Running

HELLO: Any = [{"role": "user", "content": "hello"}]
BODY: Any = {"model": "handbook", "messages": HELLO, "max_tokens": 5}


def answering(status: int) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=status, headers={"Retry-After": "7"})

    return answer


async def resetting(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("answer", [answering(500), answering(503), answering(429), answering(401), resetting])
async def test_a_failure_before_the_first_byte_goes_to_the_next_backend(stage: Any, answer: Any) -> None:
    first, second = await stage.backend(), await stage.backend()
    # Whoever is asked first fails; a reset may be a connection that was closed meanwhile, so it is tried once more.
    first.answers = second.answers = [answer] * (2 if answer is resetting else 1)
    customer = await stage.customer()
    response = await stage.http(customer).post("/v1/chat/completions", json=BODY)
    assert response.status_code == 200
    assert first.answers == []
    assert {len(first.bodies), len(second.bodies)} == {1, 2 if answer is resetting else 1}
    assert len(await stage.usage(customer)) == 1


async def test_a_dead_backend_is_left_out_at_once(stage: Any) -> None:
    dead, alive = await stage.backend(), await stage.backend()
    await dead.stop()
    http = stage.http(await stage.customer())
    for _ in range(6):
        response = await http.post("/v1/chat/completions", json=BODY)
        assert (response.status_code, response.headers["x-wopr-node"]) == (200, "node-2")
    assert len(alive.bodies) == 6


async def test_a_backend_that_comes_back_is_used_again(stage: Any) -> None:
    backend = await stage.backend()
    port = backend.port
    await backend.stop()
    http = stage.http(await stage.customer())
    response = await http.post("/v1/chat/completions", json=BODY)
    assert response.status_code == 502
    assert response.headers["retry-after"] == "1"
    await backend.start(port)
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200


async def test_when_all_are_busy_the_client_hears_when_to_come_back(stage: Any) -> None:
    backend = await stage.backend()
    backend.answers += [answering(429)]
    with pytest.raises(openai.RateLimitError) as caught:
        await stage.openai(await stage.customer()).chat.completions.create(**BODY)
    assert caught.value.response.headers["retry-after"] == "7"


async def test_a_model_whose_nodes_are_away_is_503(stage: Any) -> None:
    await stage.backend()
    async with stage.platform.db.begin() as session:
        await nodes.remove(session, NodeId("node-1"))
    await stage.gateway.refresh()
    with pytest.raises(openai.InternalServerError) as caught:
        await stage.openai(await stage.customer()).chat.completions.create(**BODY)
    assert caught.value.status_code == 503
    assert caught.value.code == "no_backend"


async def test_a_new_node_is_found_by_its_notification(make_stage: Any) -> None:
    stage, other = await make_stage(), await make_stage()
    await stage.backend()  # only the first gateway is asked to look
    http = other.http(await stage.customer())
    for _ in range(100):
        response = await http.post("/v1/chat/completions", json=BODY)
        if response.status_code == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(response.text)


async def test_an_outside_provider_serves_when_none_of_ours_can(make_stage: Any) -> None:
    first = await make_stage()
    provider = await first.backend()
    async with first.platform.db.begin() as session:
        await nodes.remove(session, NodeId("node-1"))
    stage = await make_stage(
        fallback_api_base=f"http://127.0.0.1:{provider.port}/v1", fallback_api_key="sk-out", fallback_model="big"
    )
    customer = await stage.customer()
    response = await stage.http(customer).post("/v1/chat/completions", json=BODY)
    assert response.status_code == 200
    assert response.headers["x-wopr-node"] == "fallback"
    assert json.loads(provider.bodies[-1])["model"] == "big"
    assert provider.headers[-1]["Authorization"] == "Bearer sk-out"
    assert (await stage.usage(customer))[0].node_id == "fallback"


async def test_a_stream_that_breaks_ends_with_an_error_and_a_bill_for_what_came(stage: Any) -> None:
    backend = await stage.backend()

    async def breaking(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in ("one ", "two "):
            chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": word}}]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        assert request.transport is not None
        request.transport.close()
        return response

    backend.answers.append(breaking)
    customer = await stage.customer()
    seen = []
    stream = await stage.openai(customer).chat.completions.create(**BODY, stream=True)
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["one ", "two "]
    assert "middle of the answer" in str(caught.value)
    [row] = await stage.usage(customer)
    assert (row.status, row.completion_tokens) == ("failed", 2)


async def turn_sick(stage: Any, node: str) -> None:
    """What the watchdog writes about a machine that takes connections and answers nothing."""
    async with stage.platform.db.begin() as session:
        sick = {"health": '{"llama": false}', "node": node}
        await session.execute(
            text("UPDATE gpu_nodes SET service_health = CAST(:health AS jsonb) WHERE id = :node"), sick
        )
    await stage.gateway.refresh()


@pytest.mark.parametrize("others", [0, 1])
async def test_what_waits_for_a_machine_that_hangs_is_asked_elsewhere_or_refused(stage: Any, others: int) -> None:
    hanging = await stage.backend()
    hanging.gate = asyncio.Event()
    customer = await stage.customer()
    waiting = asyncio.create_task(stage.http(customer).post("/v1/chat/completions", json=BODY))
    async with asyncio.timeout(60):
        while not hanging.bodies:  # noqa: ASYNC110 - the backend has no event for it
            await asyncio.sleep(0.01)
    for _ in range(others):
        await stage.backend()
    await turn_sick(stage, "node-1")
    response = await waiting
    if others:
        assert (response.status_code, response.headers["x-wopr-node"]) == (200, "node-2")
        assert len(await stage.usage(customer)) == 1
    else:
        assert (response.status_code, response.headers["retry-after"]) == (502, "1")
        assert response.json()["error"]["message"] == "The model's machine stopped answering."
        assert (await stage.balance(customer)).available + (await stage.balance(customer)).held == 5 * NANOS_PER_USD


async def test_a_stream_of_a_machine_that_hangs_ends_soon_with_an_error_and_a_bill(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GONE_IDLE_SECONDS_MAX", 0.05)
    hanging = await stage.backend()
    hanging.gate = asyncio.Event()
    customer = await stage.customer()
    async with stage.http(customer).stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
        lines = response.aiter_lines()
        while "word" not in await anext(lines):
            pass
        await turn_sick(stage, "node-1")
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "stream_failed"
    [row] = await stage.usage(customer)
    assert (row.status, row.completion_tokens) == ("cut", 1)


async def test_a_stream_that_ends_before_its_first_byte_goes_to_the_next_backend(stage: Any) -> None:
    first, second = await stage.backend(), await stage.backend()

    async def headers_only(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    first.answers = second.answers = [headers_only]
    customer = await stage.customer()
    stream = await stage.openai(customer).chat.completions.create(**BODY, stream=True)
    words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert words.count("word ") == 5
    assert len(first.bodies) + len(second.bodies) == 2


async def test_a_stream_without_usage_is_charged_by_its_deltas(stage: Any) -> None:
    backend = await stage.backend()

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n' * 3)
        await response.write(b": note\n\ndata: {bad\n\ndata: [DONE]\n\n")
        return response

    backend.answers.append(silent)
    customer = await stage.customer()
    response = await stage.http(customer).post("/v1/chat/completions", json=BODY | {"stream": True})
    assert response.text.count('"content":"a"') == 3
    assert "data: {bad\n\n" in response.text
    [row] = await stage.usage(customer)
    assert (row.status, row.completion_tokens) == ("ok", 3)
    assert row.prompt_tokens > 0


async def test_when_the_client_leaves_the_engine_stops_and_what_was_delivered_is_charged(stage: Any) -> None:
    backend = await stage.backend()
    backend.token_seconds = 0.01
    customer = await stage.customer()
    stream = await stage.openai(customer).chat.completions.create(
        model="handbook", messages=HELLO, max_tokens=1000, stream=True
    )
    received = 0
    async for chunk in stream:
        received += chunk.choices[0].delta.content == "word "
        if received == 5:
            break
    await stream.close()
    await asyncio.wait_for(backend.cut.wait(), 1.0)
    [row] = await stage.usage(customer)
    assert row.status == "cut"
    assert 5 <= row.completion_tokens <= backend.sent
    await _nothing_held(stage, customer)


async def test_when_the_client_leaves_before_an_answer_nothing_is_charged(stage: Any) -> None:
    backend = await stage.backend()
    backend.gate = asyncio.Event()
    customer = await stage.customer("1")
    asking = asyncio.create_task(stage.http(customer).post("/v1/chat/completions", json=BODY))
    while not backend.bodies:  # noqa: ASYNC110  # the backend records what it got
        await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.wait_for(backend.cut.wait(), 1.0)
    await _nothing_held(stage, customer)
    async with stage.platform.db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM usage_records")) == 0


async def test_shutdown_ends_streams_with_a_bill_and_returns_the_lease(stage: Any) -> None:
    backend = await stage.backend()
    backend.gate = asyncio.Event()
    customer = await stage.customer("1")
    http = stage.http(customer)
    async with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
        lines = response.aiter_lines()
        async for line in lines:
            if "word" in line:
                break
        await stage.gateway.shutdown(0.0)
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "restarting"
    [row] = await stage.usage(customer)
    assert (row.status, row.completion_tokens) == ("cut", 1)
    assert (await stage.balance(customer)).held == 0
    assert list((stage.platform.settings.wopr_home / "wal").iterdir()) == []


async def _nothing_held(stage: Any, customer: Any) -> None:
    """The lease of an idle customer goes back by itself."""
    for _ in range(500):
        if (await stage.balance(customer)).held == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the lease was not returned")


async def test_a_client_that_leaves_pays_what_had_reached_it(stage: Any) -> None:
    backend = await stage.backend()
    backend.token_seconds = 0.01
    customers = [await stage.customer() for _ in range(4)]
    counts = await asyncio.gather(*(_leave(stage, each, 3 * n + 1) for n, each in enumerate(customers)))
    for customer, delivered in zip(customers, counts, strict=True):
        [row] = await stage.usage(customer)
        assert row.status == "cut"
        assert abs(row.completion_tokens - delivered) <= 1


async def _leave(stage: Any, customer: Any, wanted: int) -> int:
    """Reset the connection after so many tokens; how many had arrived, read or not."""
    content = json.dumps(BODY | {"stream": True, "max_tokens": 1000}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {customer.key}\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    loop, received = asyncio.get_running_loop(), b""
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await loop.sock_connect(connection, ("127.0.0.1", int(stage.url.rpartition(":")[2])))
        await loop.sock_sendall(connection, head.encode() + content)
        while received.count(b"word") < wanted:
            received += await loop.sock_recv(connection, 65536)
        with contextlib.suppress(BlockingIOError):
            while piece := connection.recv(65536):
                received += piece
    return received.count(b"word")


async def test_the_server_is_asked_without_waiting_whether_the_client_has_left() -> None:
    left = asyncio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    task = asyncio.current_task()
    assert task is not None
    running = Running(task, receive, 0.0, 0.0)
    assert not running.has_left()
    left.set()
    assert running.has_left()


async def test_an_answer_without_end_is_not_read_to_its_end(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "ANSWER_BYTES_MAX", 100_000)
    monkeypatch.setattr(upstream, "MODELS_BYTES_MAX", 100_000)
    backend = await stage.backend()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            while True:
                await response.write(b" " * 50_000)
        return response

    backend.answers.append(endless)
    customer = await stage.customer()
    answer = await stage.http(customer).post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")

    async def listing(_backend: Any, request: web.Request) -> web.StreamResponse:
        return await endless(request)

    monkeypatch.setattr(type(backend), "_list", listing)
    await stage.backend(models=("other",))
    answer = await stage.http(customer).post("/v1/chat/completions", json=BODY | {"model": "other"})
    assert answer.status_code == 404
