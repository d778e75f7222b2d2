"""What a crash, a stop and a lost supervisor leave behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from wopr.bot.contract import STOP_SECONDS_MAX


async def _says_and_hangs(stream: Any, _: Any) -> None:
    for word in ("I ", "was ", "saying"):
        await stream.text(word)
    await asyncio.Event().wait()


async def _hear(bot: Any, turn_id: str, text: str) -> list[Any]:
    """Everything that a listener hears until the text is complete."""
    heard: list[Any] = []
    async with bot.listen(turn_id) as events:
        async for event in events:
            heard.append(event)
            if "".join(item.data["text"] for item in heard if item.name == "delta") == text:
                break
    return heard


async def test_after_kill_9_a_listener_goes_on_where_it_was_and_the_conversation_is_intact(
    bot: Any, gateway: Any
) -> None:
    await bot.say("my dog is called Bello", "t1")
    gateway.script = _says_and_hangs
    await bot.post("tell me something", "t2")
    heard = await _hear(bot, "t2", "I was saying")
    await bot.post("waiting behind it", "t3")
    await bot.stop(signal.SIGKILL)

    gateway.script = None
    await bot.start()
    assert (await bot.logged("started"))["interrupted_turns"] == 2
    rest = await bot.events("t2", after=heard[-1].id)
    assert [(event.id, event.name, event.data["code"]) for event in rest] == [
        (heard[-1].id + 1, "failed", "interrupted")
    ]
    assert await bot.events("t2") == heard + rest
    _, view = await bot.call("GET", "/turns/t2")
    assert (view["state"], view["text"], view["error"]["code"]) == ("interrupted", "I was saying", "interrupted")
    _, page = await bot.call("GET", "/conversations/c1/messages")
    assert [(item["text"], item["state"]) for item in page["messages"]] == [
        ("my dog is called Bello", "completed"),
        ("You said: my dog is called Bello ", "completed"),
        ("tell me something", "interrupted"),
        ("I was saying", "interrupted"),
        ("waiting behind it", "interrupted"),
    ]
    await bot.say("go on", "t4")
    assert gateway.chats()[-1].talk[-3:] == [
        ("user", "tell me something"),
        ("assistant", "I was saying"),
        ("user", "go on"),
    ]


async def test_kill_9_at_any_moment_of_a_fast_stream_takes_nothing_back_that_was_heard(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        number = 0
        while True:
            await stream.text(f"{number} ")
            number += 1
            await asyncio.sleep(0)

    gateway.script = script
    for kill in range(3):
        turn_id = f"t{kill}"
        await bot.post("count", turn_id)
        heard = await bot.events(turn_id, stop_after=20 + 31 * kill)
        await bot.stop(signal.SIGKILL)
        await bot.start()
        whole = await bot.events(turn_id)
        assert whole[: len(heard)] == heard
        assert [event.id for event in whole] == list(range(1, len(whole) + 1))
        assert whole[-1].name == "failed"
        numbers = "".join(event.data["text"] for event in whole if event.name == "delta").split()
        assert numbers[:-1] == [str(number) for number in range(len(numbers) - 1)]


async def test_sigterm_ends_turns_as_interrupted_in_time_and_tells_listeners(bot: Any, gateway: Any) -> None:
    gateway.script = _says_and_hangs
    await bot.post("talk", "t1")
    listener = asyncio.create_task(bot.events("t1"))
    await _hear(bot, "t1", "I was saying")
    async with asyncio.timeout(STOP_SECONDS_MAX):
        assert await bot.stop() == 0
    assert (await listener)[-1].data["code"] == "interrupted"
    await bot.start()
    assert (await bot.logged("started"))["interrupted_turns"] == 0
    _, view = await bot.call("GET", "/turns/t1")
    assert (view["state"], view["text"]) == ("interrupted", "I was saying")


async def test_the_bot_goes_on_when_whoever_read_its_output_is_gone(idle_bot: Any, gateway: Any) -> None:
    reading, writing = os.pipe()
    bot = idle_bot
    bot.environment["WOPR_BOT_PORT"] = str(_free_port())
    bot.process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wopr.bot", env=bot.environment, stdout=writing, stderr=writing
    )
    os.close(writing)
    os.close(reading)
    bot.url = f"http://127.0.0.1:{bot.environment['WOPR_BOT_PORT']}"
    async with asyncio.timeout(60):
        await gateway.probed.wait()
    bot.process.send_signal(signal.SIGHUP)
    assert (await bot.say("still there", "t1"))[-1].name == "completed"


async def test_ready_only_after_the_gateway_has_answered(idle_bot: Any, gateway: Any) -> None:
    address = gateway.url
    idle_bot.environment["WOPR_GATEWAY_URL"] = f"http://127.0.0.1:{_free_port()}/v1"
    await idle_bot.start(wait_for="started")
    assert await idle_bot.call("GET", "/health") == (200, {"status": "ok"})
    assert await idle_bot.call("GET", "/ready") == (
        503,
        {"status": "not_ready", "reasons": ["the inference gateway has not answered yet"]},
    )
    await idle_bot.stop()
    idle_bot.environment["WOPR_GATEWAY_URL"] = address
    await idle_bot.start()
    assert await idle_bot.call("GET", "/ready") == (200, {"status": "ready"})


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
