"""What a person is told when something at the gateway fails, and what the bot mends by itself."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

from aiohttp import web

from wopr.bot.gateway_errors import from_answer

CHAT = "/chat/completions"


REFUSALS = [
    (402, "credit_empty"),
    (401, "key_refused"),
    (403, "key_refused"),
    (404, "request_refused"),
    (422, "request_refused"),
]


async def test_a_refusal_that_time_cannot_mend_fails_at_once_with_a_remedy(bot: Any, gateway: Any) -> None:
    for number, (status, code) in enumerate(REFUSALS):
        turn_id = f"t{number}"
        gateway.refusals[CHAT] = [web.json_response({"error": {"message": "no such model"}}, status=status)]
        last = (await bot.say("hello", turn_id))[-1]
        assert (last.name, last.data["code"]) == ("failed", code)
        assert last.data["message"]
        assert last.data["remedy"]
        assert len(gateway.chats()) == number + 1
        _, view = await bot.call("GET", f"/turns/{turn_id}")
        assert (view["state"], view["error"]) == ("failed", last.data)


def test_a_model_that_no_machine_has_any_more_names_the_settings_as_the_remedy() -> None:
    body = json.dumps({"error": {"message": "No machine can serve x.", "type": "server_error", "code": "no_backend"}})
    gone, away = from_answer(503, {}, body.encode()), from_answer(503, {}, b"")
    assert "choose another model in the bot's settings" in gone.body.remedy
    assert "model" in gone.body.message
    assert "status page" in away.body.remedy
    unknown = from_answer(404, {}, b'{"error": {"message": "The model `x` does not exist."}}')
    assert "`x` does not exist" in unknown.body.message
    assert "settings" in unknown.body.remedy


async def test_a_busy_model_is_asked_again_when_it_says(bot: Any, gateway: Any) -> None:
    gateway.refusals[CHAT] = [web.Response(status=429, headers={"Retry-After": "0"}) for _ in range(3)]
    assert (await bot.say("hello", "t1"))[-1].name == "completed"
    gateway.refusals[CHAT] = [web.Response(status=429, headers={"Retry-After": "0"}) for _ in range(9)]
    assert (await bot.say("hello", "t2"))[-1].data["code"] == "rate_limited"
    assert len(gateway.refusals[CHAT]) == 5
    gateway.refusals[CHAT] = [web.Response(status=429, headers={"Retry-After": "3600"})]
    assert (await bot.say("hello", "t3"))[-1].data["code"] == "rate_limited"


async def test_failures_before_the_first_byte_are_tried_again_without_a_trace(bot: Any, gateway: Any) -> None:
    gateway.refusals[CHAT] = [web.Response(status=503), None]
    events = await bot.say("hello", "t1")
    assert [event.name for event in events if event.name != "delta"] == ["started", "completed"]
    assert len(gateway.chats()) == 3


async def test_a_stream_that_breaks_off_again_and_again_fails_with_its_text(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        await stream.raw(b'data: {"choices":[{"delta":{"content":"the first half \\ud83d"}}]}\n\n')
        stream.cut()

    gateway.script = script
    events = await bot.say("hello", "t1")
    assert [event.name for event in events] == ["started", "delta", "failed"]
    assert events[-1].data["code"] == "stream_broken"
    assert len(gateway.chats()) == 4
    assert (await bot.call("GET", "/turns/t1"))[1]["text"] == "the first half ?"


async def test_an_answer_without_its_end_is_not_taken_for_whole(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        await stream.text("half")

    gateway.script = script
    assert (await bot.say("hello", "t1"))[-1].data["code"] == "stream_broken"


async def test_an_error_inside_the_stream_that_asking_again_cannot_mend_and_nonsense_fail_the_turn(
    bot: Any, gateway: Any
) -> None:
    said: list[bytes] = [
        b'data: {"error":{"message":"too long","code":"timeout"}}\n\n',
        b'data: {"error":{"message":"used up","code":"insufficient_quota"}}\n\n',
        b"data: {broken\n\n",
        b"data: [1]\n\n",
    ]

    async def script(stream: Any, _: Any) -> None:
        await stream.text("begun")
        await stream.raw(said.pop(0))
        await stream.end()

    gateway.script = script
    for number, code in enumerate(("stream_broken", "credit_empty", "gateway_failed", "gateway_failed")):
        events = await bot.say("hello", f"t{number}")
        assert (events[-2].data, events[-1].data["code"]) == ({"text": "begun"}, code)


async def test_the_stream_may_be_cut_anywhere_and_written_in_any_legal_way(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        whole = (
            b": comment\r\n\r\n"
            + 'data: {"choices":[{"delta":{"role":"assistant","content":"grüß "}}]}\r\n\r\n'.encode()
            + 'data: {"choices":[{"delta":{"content":"🎲"},"finish_reason":"length"}]}\n\n'.encode()
            + b'data:{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\r\n\r\n'
        )
        for number in range(len(whole)):
            await stream.raw(whole[number : number + 1])
            await asyncio.sleep(0)

    gateway.script = script
    last = (await bot.say("hello", "t1"))[-1]
    assert (last.name, last.data["text"], last.data["finish_reason"]) == ("completed", "grüß 🎲", "length")
    assert last.data["usage"] == {"prompt_tokens": 1, "completion_tokens": 2}


async def test_history_shrinks_until_it_fits_the_model(bot: Any, gateway: Any) -> None:
    for number in range(6):
        await bot.say(f"{number} " + "long " * 150, f"t{number}")
    body = {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "x"}}
    gateway.refusals[CHAT] = [web.json_response(body, status=400) for _ in range(2)]
    before = len(gateway.chats())
    assert (await bot.say("still there?", "t9"))[-1].name == "completed"
    lengths = [len(asked.talk) for asked in gateway.chats()[before:]]
    assert lengths[0] > lengths[1] > lengths[2] >= 1


async def test_requests_without_the_token_are_refused_except_health(bot: Any) -> None:
    for method, path in (
        ("POST", "/turns"),
        ("GET", "/turns/t1"),
        ("GET", "/turns/t1/events"),
        ("POST", "/turns/t1/cancel"),
        ("GET", "/turns/t1/audio"),
        ("POST", "/transcriptions"),
        ("GET", "/conversations"),
        ("GET", "/conversations/c1/messages"),
        ("DELETE", "/conversations/c1"),
        ("GET", "/unknown"),
    ):
        for shown in ("", "Bearer wrong", "Bearer \xff"):
            status, answer = await bot.call(method, path, headers={"Authorization": shown})
            assert (status, answer["error"]["code"]) == (401, "unauthenticated"), (method, path)
    assert (await bot.call("GET", "/health", headers={"Authorization": ""}))[0] == 200


BAD_BODIES = [
    (b"", 400),
    (b"[]", 400),
    (b"{", 400),
    (b'{"turn_id":"t","conversation_id":"c"}', 400),
    (b'{"turn_id":"t","conversation_id":"c","text":"  "}', 400),
    (b'{"turn_id":"t","conversation_id":"c","text":"x","audio_base64":"eA=="}', 400),
    (b'{"turn_id":"t","conversation_id":"c","text":"x","speak":"yes"}', 400),
    (b'{"turn_id":"t","conversation_id":"c","text":"\\ud800"}', 400),
    (b'{"turn_id":"../x","conversation_id":"c","text":"x"}', 400),
    (b'{"turn_id":"t","conversation_id":"","text":"x"}', 400),
    (b'{"turn_id":"t","conversation_id":"c","audio_base64":"%%"}', 400),
    (b'{"turn_id":"t","conversation_id":"c","audio_base64":"eA=="}', 400),
    (b'{"turn_id":"t","conversation_id":"c","text":"' + b"x" * 32_001 + b'"}', 400),
    (b"x" * (15 * 1024 * 1024 + 1), 413),
]


async def test_bad_requests_get_a_clear_answer(bot: Any) -> None:
    for body, status in BAD_BODIES:
        got, answer = await bot.call("POST", "/turns", data=io.BytesIO(body))
        assert got == status, body[:80]
        assert set(answer["error"]) == {"code", "message", "remedy"}
    assert (await bot.call("GET", "/conversations"))[1] == {"conversations": []}


async def test_unknown_addresses_answer_in_the_same_form(bot: Any) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("DELETE", "/turns", 405),
        ("GET", "/turns/none", 404),
        ("GET", "/turns/none/events", 404),
        ("POST", "/turns/none/cancel", 404),
        ("GET", "/conversations/none/messages", 404),
    ):
        got, answer = await bot.call(method, path)
        assert (got, set(answer["error"])) == (status, {"code", "message", "remedy"})
