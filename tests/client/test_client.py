"""The typed client: errors, identity, cookies, streams that break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import httpx
import pytest

from wopr.client import ApiClient, ApiError, Caller, Event, shared_http
from wopr.client.conversation import Saying
from wopr.client.sse import EventParser

Handler = Callable[[httpx.Request], httpx.Response]
STREAM = (
    'id: 1\nevent: started\ndata: {"a": 1}\n\n: heart\n\n'
    'id: 2\r\nevent: delta\r\ndata: {"text": "Grüße 🎲"}\r\n\r\ndata: x\ndata: y\n\n'
)
EVENTS = [Event("1", "started", '{"a": 1}'), Event("2", "delta", '{"text": "Grüße 🎲"}'), Event("2", "message", "x\ny")]


def client_of(handler: Handler, **given: str) -> ApiClient:
    api = ApiClient("http://api.test", **given)
    api.transport.http._transport = httpx.MockTransport(handler)
    return api


def parsed(*pieces: str) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_a_stream_cut_anywhere_gives_the_same_events() -> None:
    for cut in range(len(STREAM) + 1):
        assert parsed(STREAM[:cut], STREAM[cut:]) == EVENTS, cut


def test_a_stream_that_comes_letter_by_letter_gives_the_same_events() -> None:
    assert parsed(*STREAM) == EVENTS


async def test_a_stream_cut_at_any_byte_gives_the_same_events() -> None:
    raw, cuts = STREAM.encode(), iter(range(len(STREAM.encode()) + 1))

    async def body(cut: int) -> AsyncIterator[bytes]:
        yield raw[:cut]
        yield raw[cut:]

    async with client_of(lambda _: httpx.Response(200, content=body(next(cuts)))) as api:
        for cut in range(len(raw) + 1):
            assert [event async for event in api.fleet.follow_logs("b")] == EVENTS, cut


async def test_a_broken_stream_goes_on_after_the_last_event_seen() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        parts = [
            "id: 1\nevent: delta\ndata: {}\n\n",
            "id: 2\nevent: delta\ndata: {}\n\nid: 3\nev",
            "id: 3\nevent: completed\ndata: {}\n\n",
        ]
        return httpx.Response(200, text=parts[len(asked) - 1])

    async with client_of(answer) as api:
        seen = [event.id async for event in api.fleet.turn_events("b", "t")]
    assert seen == ["1", "2", "3"]
    assert asked == [None, "1", "2"]


async def test_a_stream_is_resumed_when_the_api_is_back_and_the_bot_found_again() -> None:
    starting = {"error": {"code": "bot_starting", "message": "Still starting.", "remedy": ""}}
    answers = [
        httpx.Response(503),
        httpx.Response(409, json=starting, headers={"retry-after": "2"}),
        httpx.Response(200, text="id: 1\nevent: completed\ndata: {}\n\n"),
    ]
    async with client_of(lambda _: answers.pop(0)) as api:
        assert [event.name async for event in api.fleet.turn_events("b", "t")] == ["completed"]


async def test_a_refused_stream_is_not_asked_for_again() -> None:
    calls = []

    def refuse(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(404, json={"error": {"code": "not_found", "message": "Gone.", "remedy": ""}})

    async with client_of(refuse) as api:
        with pytest.raises(ApiError, match="Gone"):
            _ = [event async for event in api.fleet.turn_events("b", "t")]
    assert len(calls) == 1


async def test_a_refusal_keeps_status_code_message_and_remedy() -> None:
    body = {"error": {"code": "payment_required", "message": "Credit is empty.", "remedy": "Top up."}}
    async with client_of(lambda _: httpx.Response(402, json=body, headers={"retry-after": "7"})) as api:
        with pytest.raises(ApiError) as caught:
            await api.fleet.bots()
    error = caught.value
    assert (error.status, error.code, error.remedy, error.retry_after_seconds) == (
        402,
        "payment_required",
        "Top up.",
        7.0,
    )
    assert str(error) == "Credit is empty. Top up."
    assert not error.unreachable


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"detail": [1]}', b'{"error": {"message": null}}']
)
async def test_a_refusal_in_an_unknown_shape_is_still_an_error(body: bytes) -> None:
    async with client_of(lambda _: httpx.Response(500, content=body)) as api:
        with pytest.raises(ApiError) as caught:
            await api.fleet.bots()
    assert caught.value.status == 500
    assert caught.value.message


async def test_nobody_there_is_an_error_with_a_remedy() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with client_of(refuse) as api:
        with pytest.raises(ApiError) as caught:
            await api.ops.health()
    assert caught.value.unreachable
    assert "wopr up" in caught.value.remedy


async def test_an_answer_in_an_unknown_shape_names_the_path() -> None:
    async with client_of(lambda _: httpx.Response(200, json={"bots": [{"nome": "x"}]})) as api:
        with pytest.raises(ApiError, match="/fleet/bots"):
            await api.fleet.bots()


async def test_fields_that_we_do_not_know_yet_are_no_error() -> None:
    async with client_of(lambda _: httpx.Response(200, json={"status": "ok", "new": 1})) as api:
        assert (await api.ops.health()).status == "ok"


async def test_a_key_is_sent_as_a_bearer_and_a_cookie_with_its_origin() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json={"bots": []})

    async with client_of(answer, key="wopr_read_x") as api:
        await api.fleet.bots()
    async with client_of(answer, cookie="wopr_session=s") as api:
        await api.fleet.bots()
    assert seen[0]["authorization"] == "Bearer wopr_read_x"
    assert "cookie" not in seen[0]
    assert (seen[1]["cookie"], seen[1]["origin"]) == ("wopr_session=s", "http://api.test")


async def test_a_shared_pool_never_carries_a_cookie_to_the_next_caller() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("cookie"))
        return httpx.Response(200, json={"bots": []}, headers={"set-cookie": "wopr_session=secret; Path=/"})

    http = shared_http("http://localhost:1")
    http._transport = httpx.MockTransport(answer)
    first = ApiClient.acting(http, Caller(cookie="wopr_session=mine"))
    await first.fleet.bots()
    await ApiClient.acting(http, Caller()).fleet.bots()
    await http.aclose()
    assert first.set_cookies == ["wopr_session=secret; Path=/"]
    assert seen == ["wopr_session=mine", None]


async def test_a_program_that_signs_in_uses_its_session_from_then_on() -> None:
    seen = []
    who = {"user": {"id": "u", "email": "a@b.c"}, "tenant": {"id": "t"}}

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("cookie"))
        return httpx.Response(200, json=who, headers={"set-cookie": "wopr_session=s1; HttpOnly; Path=/"})

    async with client_of(answer) as api:
        assert (await api.accounts.sign_in("a@b.c", "x")).user.email == "a@b.c"
        api.use_session()
        await api.accounts.session()
    assert seen == [None, "wopr_session=s1"]


async def test_many_callers_share_a_pool_without_mixing() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        name = request.headers["cookie"].removeprefix("wopr_session=")
        return httpx.Response(200, json={"user": {"id": name, "email": name}, "tenant": {"id": name}})

    http = shared_http("http://localhost:1")
    http._transport = httpx.MockTransport(answer)
    callers = [ApiClient.acting(http, Caller(cookie=f"wopr_session=u{number}")) for number in range(50)]
    found = await asyncio.gather(*(api.accounts.session() for api in callers))
    await http.aclose()
    assert [one.user.id for one in found] == [f"u{number}" for number in range(50)]


def test_what_is_said_leaves_out_what_is_not_set() -> None:
    assert Saying(text="Hi").body() == {"text": "Hi"}
    spoken = Saying(audio=b"RIFF", speak=True, turn_id="t").body()
    assert json.dumps(spoken) == '{"audio_base64": "UklGRg==", "speak": true, "turn_id": "t"}'


async def test_a_request_may_carry_the_key_with_which_it_can_be_repeated() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("idempotency-key"))
        if request.url.path == "/fleet/bots":
            return httpx.Response(201, json={"id": "b", "name": "Ada"})
        if request.url.path == "/api/keys":
            key = {"id": "k", "name": "n", "scope": "read", "prefix": "wopr_read_x", "created_at": "2026-01-01T00:00Z"}
            return httpx.Response(201, json={"key": key, "secret": "s"})
        return httpx.Response(200, json={"url": "https://pay.test"})

    async with client_of(answer) as api:
        await api.fleet.create({"name": "Ada"}, once="one")
        await api.accounts.create_key("n", "read", once="two")
        await api.billing.checkout("subscription", once="three")
        await api.billing.admin_credit("t", Decimal("1"), "thanks", once="four")
        await api.fleet.create({"name": "Ada"})
    assert seen == ["one", "two", "three", "four", None]
