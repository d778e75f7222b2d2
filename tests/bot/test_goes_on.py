"""An answer goes on when the gateway goes away in the middle of it, as it does when the API is killed or released."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from wopr.bot import patience
from wopr.bot.gateway import Gateway, Spent
from wopr.bot.gateway_errors import GatewayError
from wopr.bot.retelling import Retelling
from wopr.bot.settings import load_settings

CHAT = "/chat/completions"
WORDS = ("a strange ", "game: ", "the only ", "winning move ", "is not to play")
IN_BAND = b'data: {"error":{"message":"The machine failed.","type":"server_error","code":"stream_failed"}}\n\n'

Break = Callable[[Any], Awaitable[None]]


async def _reset(stream: Any) -> None:
    stream.cut()


async def _says_so(stream: Any) -> None:
    await stream.raw(IN_BAND)


async def _just_ends(stream: Any) -> None:
    await stream.raw(b": no finish reason, no [DONE]\n\n")


def _says(*attempts: tuple[str, ...], breaks: Break = _reset) -> Callable[[Any, Any], Awaitable[None]]:
    """A model that says one attempt after the other; all but the last break off."""
    left = list(attempts)

    async def script(stream: Any, _: Any) -> None:
        words = left.pop(0)
        for word in words:
            await stream.text(word)
            await asyncio.sleep(0)
        await (breaks(stream) if left else stream.end())

    return script


def _shown(events: list[Any]) -> str:
    """What a page shows that obeys the events."""
    text = ""
    for event in events:
        if event.name == "restarted":
            text = ""
        elif event.name == "delta":
            text += event.data["text"]
    return text


@pytest.mark.parametrize("breaks", [_reset, _says_so, _just_ends])
async def test_an_answer_that_begins_the_same_goes_on_where_it_broke(bot: Any, gateway: Any, breaks: Break) -> None:
    gateway.script = _says(WORDS[:3], WORDS[:1], WORDS, breaks=breaks)
    events = await bot.say("how about chess", "t1")
    assert {event.name for event in events[1:-1]} == {"delta"}
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    last = events[-1]
    assert (last.name, last.data["text"], _shown(events)) == ("completed", "".join(WORDS), "".join(WORDS))
    assert last.data["request_ids"] == ["req-1", "req-2", "req-3"]
    assert len({json.dumps(asked.body) for asked in gateway.chats()}) == 1
    assert {asked.headers["x-wopr-turn"] for asked in gateway.chats()} == {"t1"}


@pytest.mark.parametrize("again", [("a nice ", "game of chess"), ("a ",), ()])
async def test_another_answer_replaces_the_first_one_everywhere(bot: Any, gateway: Any, again: tuple[str, ...]) -> None:
    gateway.script = _says(WORDS[:3], again)
    events = await bot.say("how about chess", "t1")
    whole = "".join(again)
    names = [event.name for event in events]
    assert names.count("restarted") == 1
    assert (names[-1], events[-1].data["text"], _shown(events)) == ("completed", whole, whole)
    for seen in range(len(events) + 1):
        assert events[:seen] + await bot.events("t1", after=seen) == events
    assert (await bot.call("GET", "/turns/t1"))[1]["text"] == whole
    _, page = await bot.call("GET", "/conversations/c1/messages")
    assert [item["text"] for item in page["messages"]] == ["how about chess", whole][: len(page["messages"])]
    await bot.stop(signal.SIGKILL)
    await bot.start()
    assert await bot.events("t1") == events


async def test_after_kill_9_of_the_bot_only_the_last_attempt_counts(bot: Any, gateway: Any) -> None:
    attempts = iter((WORDS[:3], ("something ", "else")))

    async def script(stream: Any, _: Any) -> None:
        words = next(attempts)
        for word in words:
            await stream.text(word)
        if words[0] == WORDS[0]:
            stream.cut()
        await asyncio.Event().wait()

    gateway.script = script
    await bot.post("hello", "t1")
    heard: list[Any] = []
    async with bot.listen("t1") as events:
        async for event in events:
            heard.append(event)
            if _shown(heard) == "something else":
                break
    assert (await bot.call("GET", "/turns/t1"))[1]["text"] == "something else"
    await bot.stop(signal.SIGKILL)
    await bot.start()
    whole = await bot.events("t1")
    assert (whole[: len(heard)], whole[-1].name) == (heard, "failed")
    assert (await bot.call("GET", "/turns/t1"))[1]["text"] == "something else"


async def test_a_gateway_that_starts_again_is_waited_for(bot: Any, gateway: Any) -> None:
    """Refused while it starts, hung up on while it ends, and one request at the wrong moment in between."""
    say = _says(WORDS[:2], WORDS)

    async def script(stream: Any, asked: Any) -> None:
        gateway.refusals.setdefault(CHAT, [web.Response(status=503), None, web.Response(status=502)])
        await say(stream, asked)

    gateway.script = script
    events = await bot.say("how about chess", "t1")
    assert (events[-1].name, _shown(events)) == ("completed", "".join(WORDS))
    assert len(gateway.chats()) == 5
    assert events[-1].data["request_ids"] == ["req-1", "req-5"]


async def test_want_of_credit_ends_an_answer_that_broke_off(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        gateway.refusals[CHAT] = [web.Response(status=402)]
        await stream.text("half")
        stream.cut()

    gateway.script = script
    events = await bot.say("hello", "t1")
    assert (events[-1].name, events[-1].data["code"], _shown(events)) == ("failed", "credit_empty", "half")


async def test_cancelling_ends_the_waiting_at_once(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        gateway.refusals[CHAT] = [web.Response(status=503) for _ in range(99)]
        await stream.text("half")
        stream.cut()

    gateway.script = script
    await bot.post("hello", "t1")
    await bot.events("t1", stop_after=2)
    await bot.logged("gateway_asked_again")
    async with asyncio.timeout(60):
        assert (await bot.call("POST", "/turns/t1/cancel"))[1]["state"] == "cancelled"
        assert (await bot.events("t1"))[-1].name == "cancelled"
    assert (await bot.call("GET", "/turns/t1"))[1]["text"] == "half"


async def test_memories_wait_for_an_absent_gateway_and_the_patience_ends(
    gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSES_SECONDS", (0.01,))
    runner = web.AppRunner(gateway.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    await site.stop()
    environment = {
        "WOPR_BOT_TOKEN": "t",
        "WOPR_GATEWAY_URL": f"http://127.0.0.1:{port}/v1",
        "WOPR_SERVICE_KEY": "k",
        "WOPR_BOT_MODEL": "m",
        "WOPR_BOT_DATA": str(tmp_path),
    }
    client, told = Gateway(load_settings(environment)), Retelling(lambda _: None, lambda: None)
    waits = asyncio.Event()
    try:
        asking = asyncio.create_task(client.embed("t1", ["Minka"], Spent(), lambda _: waits.set()))
        async with asyncio.timeout(60):
            await waits.wait()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        assert len(await asking) == 1
        await runner.cleanup()
        monkeypatch.setattr(patience, "AWAY_SECONDS_MAX", 0.1)
        with pytest.raises(GatewayError, match="gateway_unreachable"):
            await client.chat("t2", [{"role": "user", "content": "hello"}], told, Spent())
        with pytest.raises(GatewayError, match="gateway_unreachable"):
            await client.speak("t3", "hello", Spent())
    finally:
        await client.close()
        await runner.cleanup()
