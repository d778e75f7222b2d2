"""`Idempotency-Key` under /v1: the same answer byte for byte and one charge, whoever asks at once, whatever dies."""

import asyncio
import inspect
import io
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import text

from wopr.inference.gateway import once

CHAT = "/v1/chat/completions"
BODY: Any = {"model": "handbook", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
STREAM: Any = BODY | {"stream": True, "stream_options": {"include_usage": True}}
ONCE = {"idempotency-key": "answer-of-monday"}
KEPT_HEADERS = ("content-type", "x-wopr-cost-usd", "x-wopr-node", "x-wopr-model", "cache-control")
SECRET = {"platform_secret": SecretStr("of the tests")}


@pytest.fixture
async def stage(make_stage: Any) -> Any:
    return await make_stage(**SECRET)


def same(first: httpx.Response, again: httpx.Response) -> None:
    """The second is the first, told apart by a header."""
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert again.content == first.content
    assert [again.headers.get(name) for name in KEPT_HEADERS] == [first.headers.get(name) for name in KEPT_HEADERS]
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert again.headers["original-request"] == first.headers["x-request-id"] != again.headers["x-request-id"]


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def until(holds: Callable[[], Any]) -> None:
    """As soon as it is so; a minute is a lot on any machine."""
    for _ in range(6_000):
        found = holds()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never was so")


async def charged(stage: Any, customer: Any) -> list[str]:
    """The ids of what was charged, when all of it is settled."""
    await until(lambda: not stage.gateway._parts.settler.purse(customer.tenant_id).owed)
    async with stage.platform.db.begin() as session:
        wanted = {"tenant": customer.tenant_id}
        rows = await session.execute(text("SELECT request_id FROM usage_records WHERE tenant_id = :tenant"), wanted)
        return [str(row.request_id) for row in rows]


async def test_the_openai_library_gets_the_kept_answer_and_pays_once(stage: Any) -> None:
    backend = await stage.backend()
    customer = await stage.customer("1")
    create = stage.openai(customer).chat.completions.with_raw_response.create
    answers = [await create(**BODY, extra_headers={"Idempotency-Key": "monday"}) for _ in range(3)]
    for again in answers[1:]:
        same(answers[0].http_response, again.http_response)
    assert answers[2].parse() == answers[0].parse()
    assert len(backend.bodies) == 1
    assert await charged(stage, customer) == [answers[0].headers["x-request-id"]]
    assert "original-request" not in answers[0].headers


async def test_each_kind_of_answer_is_given_again(stage: Any, silence: Callable[[float], bytes]) -> None:
    await stage.backend()
    await stage.backend("qwen", ("minilm",))
    await stage.backend("chatterbox", ("flite",))
    await stage.backend("whisper", ("pocketsphinx",))
    customer = await stage.customer()
    http = stage.http(customer)
    sound = {"files": {"file": ("a.wav", io.BytesIO(silence(1.0)).getvalue())}, "data": {"model": "whisper-1"}}
    asked: list[tuple[str, Any]] = [
        (CHAT, {"json": BODY}),
        ("/v1/completions", {"json": {"model": "handbook", "prompt": "once", "stream": True}}),
        ("/v1/embeddings", {"json": {"model": "minilm", "input": "hello", "encoding_format": "base64"}}),
        ("/v1/audio/speech", {"json": {"model": "tts-1", "voice": "slt", "input": "hello"}}),
        ("/v1/audio/transcriptions", sound),  # each time with another boundary
    ]
    for path, request in asked:  # the same key on each path is another key
        first = await http.post(path, **request, headers=ONCE)
        same(first, await http.post(path, **request, headers=ONCE))
    assert len(await charged(stage, customer)) == len(asked)


async def test_a_stream_is_sent_again_as_it_was(stage: Any) -> None:
    backend = await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)
    first = await http.post(CHAT, json=STREAM, headers=ONCE)
    same(first, await http.post(CHAT, json=STREAM, headers=ONCE))
    chunks = await stage.openai(customer).chat.completions.create(**STREAM, extra_headers=ONCE)
    said = [chunk async for chunk in chunks]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said if chunk.choices) == "word " * 5
    assert said[-1].usage.completion_tokens == 5
    assert len(backend.bodies) == len(await charged(stage, customer)) == 1


async def test_another_request_under_the_key_is_an_error_that_is_not_tried_again(stage: Any) -> None:
    backend = await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)
    await http.post(CHAT, json=BODY, headers=ONCE)
    turned = dict(reversed(BODY.items()))  # says the same
    assert (await http.post(CHAT, json=turned, headers=ONCE)).headers["idempotent-replayed"] == "true"
    other = await http.post(CHAT, json=STREAM, headers=ONCE)
    assert refused(other) == (409, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
    create = stage.openai(customer, max_retries=2).chat.completions.create
    with pytest.raises(openai.ConflictError, match="new key for a new request"):
        await create(**BODY | {"max_tokens": 6}, extra_headers=ONCE)
    stranger = await stage.http(await stage.customer()).post(CHAT, json=STREAM, headers=ONCE)
    assert (stranger.status_code, stranger.headers.get("idempotent-replayed")) == (200, None)
    assert len(backend.bodies) == 2
    for bad in ("", "x" * 256):
        assert refused(await http.post(CHAT, json=BODY, headers={"idempotency-key": bad})) == (400, "invalid_value")


async def test_while_the_first_runs_others_are_told_to_come_again_in_every_process(stage: Any, make_stage: Any) -> None:
    backend = await stage.backend()
    other = await make_stage(**SECRET)
    customer = await stage.customer()
    backend.gate = asyncio.Event()
    first = asyncio.create_task(stage.http(customer).post(CHAT, json=BODY, headers=ONCE))
    await until(lambda: backend.bodies)
    for http in (stage.http(customer), other.http(customer)):
        answer = await http.post(CHAT, json=BODY, headers=ONCE)
        assert refused(answer) == (409, "idempotency_in_progress")
        assert (answer.headers["retry-after"], answer.headers.get("x-should-retry")) == ("1", None)

    async def end_the_first(response: httpx.Response) -> None:
        if response.status_code == 409 and backend.gate is not None:
            backend.gate.set()

    patient = httpx.AsyncClient(event_hooks={"response": [end_the_first]})
    library = other.openai(customer, max_retries=5, http_client=patient)
    raw = await library.chat.completions.with_raw_response.create(**BODY, extra_headers=ONCE)
    same(await first, raw.http_response)
    assert len(backend.bodies) == len(await charged(stage, customer)) == 1


async def test_of_many_at_once_one_asks_the_model(stage: Any, make_stage: Any) -> None:
    backend = await stage.backend()
    stages = [stage, await make_stage(**SECRET)]
    customer = await stage.customer()
    clients = [each.http(customer) for each in stages]
    answers = await asyncio.gather(*(clients[n % 2].post(CHAT, json=STREAM, headers=ONCE) for n in range(12)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert len(backend.bodies) == 1
    assert len([a for a in answers if a.status_code == 200 and "idempotent-replayed" not in a.headers]) == 1


async def test_what_fails_is_let_go(stage: Any) -> None:
    backend = await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no", "code": "bad"}}, status=400)

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500)

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"hal"}}]}\n\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def end_without_done(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n')
        return response

    for handler in (refuse, fail, break_off, end_without_done):
        backend.answers = [handler]
        await http.post(CHAT, json=STREAM, headers=ONCE)
    first = await http.post(CHAT, json=BODY, headers=ONCE)  # another body is as good: nothing was kept
    same(first, await http.post(CHAT, json=BODY, headers=ONCE))


async def test_who_leaves_gets_a_new_answer_under_the_key(stage: Any) -> None:
    backend = await stage.backend()
    customer = await stage.customer()
    backend.gate = asyncio.Event()
    async with stage.http(customer).stream("POST", CHAT, json=STREAM, headers=ONCE) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
    await backend.cut.wait()
    backend.gate = None
    again = httpx.Response(409)

    async def free() -> bool:
        nonlocal again
        again = await stage.http(customer).post(CHAT, json=STREAM, headers=ONCE)
        return again.status_code != 409

    await until(free)
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (200, None)
    assert b"[DONE]" in again.content


async def test_the_claim_of_a_process_that_died_lapses_and_its_late_answer_replaces_none(
    stage: Any, make_stage: Any
) -> None:
    backend = await stage.backend()
    customer = await stage.customer()
    backend.gate = asyncio.Event()
    first = asyncio.create_task(stage.http(customer).post(CHAT, json=BODY, headers=ONCE))
    await until(lambda: backend.bodies)
    async with stage.platform.db.begin() as session:  # as when its process can't renew it
        await session.execute(text("UPDATE idempotent_answers SET claimed_until = now() - interval '1 second'"))
    backend.gate, gate = None, backend.gate
    second = await (await make_stage(**SECRET)).http(customer).post(CHAT, json=BODY, headers=ONCE)
    gate.set()
    assert ((await first).status_code, second.status_code) == (200, 200)
    same(second, await stage.http(customer).post(CHAT, json=BODY, headers=ONCE))


async def test_a_claim_lasts_as_long_as_its_request_runs(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "RENEW_SECONDS", 0.01)
    backend = await stage.backend()
    customer = await stage.customer()
    backend.gate = asyncio.Event()
    first = asyncio.create_task(stage.http(customer).post(CHAT, json=BODY, headers=ONCE))

    seen: set[Any] = set()

    async def renewed() -> bool:
        async with stage.platform.db.begin() as session:
            seen.update(await session.scalars(text("SELECT claimed_until FROM idempotent_answers")))
        return len(seen) > 1

    await until(renewed)
    backend.gate.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize("limit", ["KEPT_BYTES_MAX", "KEPT_BYTES_A_DAY_MAX"])
async def test_an_answer_too_large_to_keep_is_never_charged_twice(
    stage: Any, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(once, limit, 100)
    await stage.backend("chatterbox", ("flite",))
    customer = await stage.customer()
    http = stage.http(customer)
    asked = {"model": "tts-1", "voice": "slt", "input": "hello"}
    first = await http.post("/v1/audio/speech", json=asked, headers=ONCE)
    assert (first.status_code, len(first.content)) == (200, 5004)
    again = await http.post("/v1/audio/speech", json=asked, headers=ONCE)
    assert refused(again) == (409, "idempotency_answer_lost")
    assert again.headers["x-should-retry"] == "false"
    assert await charged(stage, customer) == [first.headers["x-request-id"]]


async def test_a_kept_answer_needs_no_credit(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer("0.001")
    http = stage.http(customer)
    first = await http.post(CHAT, json=BODY, headers=ONCE)
    while (last := await http.post(CHAT, json=BODY | {"max_tokens": 400})).status_code != 402:
        assert last.status_code in (200, 429), last.text
    same(first, await http.post(CHAT, json=BODY, headers=ONCE))


async def test_without_the_platforms_secret_the_operator_is_told_and_without_a_key_nothing_is_needed(
    make_stage: Any,
) -> None:
    stage = await make_stage(platform_secret=None)
    await stage.backend()
    http = stage.http(await stage.customer())
    assert (await http.post(CHAT, json=BODY)).status_code == 200
    assert refused(await http.post(CHAT, json=BODY, headers=ONCE)) == (503, "not_configured")
