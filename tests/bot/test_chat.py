"""Talking with the bot by text, through its HTTP routes."""

from __future__ import annotations

import asyncio
from typing import Any

from wopr.bot.contract import TurnView

SYSTEM_PARTS = ("You are Joshua.", "You are a calm computer of 1983.", "Prefer short answers.")


async def test_an_answer_streams_in_order_and_ends_with_what_it_used(bot: Any, gateway: Any) -> None:
    events = await bot.say("shall we play a game", "t1")
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[0].name == "started"
    assert events[0].data == {"turn_id": "t1", "conversation_id": "c1", "user_text": "shall we play a game"}
    assert {event.name for event in events[1:-1]} == {"delta"}
    text = "".join(event.data["text"] for event in events[1:-1])
    assert text == "You said: shall we play a game "
    assert events[-1].name == "completed"
    assert events[-1].data == {
        "text": text,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "request_ids": ["req-1"],
        "has_audio": False,
    }
    status, view = await bot.call("GET", "/turns/t1")
    turn = TurnView.from_json(view)
    assert (status, turn.state, turn.text, turn.request_ids) == (200, "completed", text, ("req-1",))
    assert turn.finished_at is not None


async def test_the_gateway_learns_the_turn_the_key_and_who_the_bot_is(bot: Any, gateway: Any) -> None:
    (bot.data / "USER.md").write_text("The person is called Dr. Falken.")
    await bot.say("hello", "t1")
    asked = gateway.chats()[0]
    assert asked.headers["x-wopr-turn"] == "t1"
    assert asked.headers["Authorization"] == "Bearer wopr_write_key-of-this-test"
    assert asked.body["model"] == "handbook"
    assert asked.body["stream"] is True
    assert asked.body["stream_options"] == {"include_usage": True}
    for part in (*SYSTEM_PARTS, "Dr. Falken"):
        assert part in asked.system


async def test_the_next_question_carries_the_talk_so_far(bot: Any, gateway: Any) -> None:
    await bot.say("first", "t1")
    await bot.say("second", "t2")
    await bot.say("elsewhere", "t3", "c2")
    assert gateway.chats()[1].talk == [("user", "first"), ("assistant", "You said: first "), ("user", "second")]
    assert gateway.chats()[2].talk == [("user", "elsewhere")]


async def test_the_same_turn_again_is_reported_and_not_answered_twice(bot: Any, gateway: Any) -> None:
    await bot.say("hello", "t1")
    body = {"turn_id": "t1", "conversation_id": "c1", "text": "hello"}
    assert await bot.call("POST", "/turns", json=body) == (
        202,
        {"turn_id": "t1", "conversation_id": "c1", "state": "completed"},
    )
    assert len(gateway.chats()) == 1
    status, answer = await bot.call("POST", "/turns", json={**body, "text": "something else"})
    assert (status, answer["error"]["code"]) == (409, "conflict")


async def test_every_reconnection_after_any_event_completes_the_same_text(bot: Any) -> None:
    whole = await bot.say("one two three four five", "t1")
    for seen in range(len(whole) + 1):
        assert whole[:seen] + await bot.events("t1", after=seen) == whole
    status, _ = await bot.call("GET", "/turns/t1/events?after=nonsense")
    assert status == 400


async def test_a_listener_who_drops_out_in_mid_stream_at_each_event_loses_nothing(bot: Any, gateway: Any) -> None:
    words = ["zero ", "eins ", "zwölf ", "日本 ", "🎲 ", "end"]
    steps = [asyncio.Event() for _ in words]

    async def script(stream: Any, _: Any) -> None:
        for word, step in zip(words, steps, strict=True):
            await step.wait()
            await stream.text(word)
        await stream.end()

    gateway.script = script
    await bot.post("count", "t1")
    heard = await bot.events("t1", stop_after=1)
    for step in steps:
        step.set()
        heard += await bot.events("t1", after=heard[-1].id, stop_after=1)
    heard += await bot.events("t1", after=heard[-1].id)
    assert [event.id for event in heard] == list(range(1, len(words) + 3))
    assert "".join(event.data["text"] for event in heard if event.name == "delta") == "".join(words)
    assert heard == await bot.events("t1")


async def test_two_listeners_hear_the_same(bot: Any, gateway: Any) -> None:
    go = asyncio.Event()

    async def script(stream: Any, _: Any) -> None:
        await stream.text("a")
        await go.wait()
        await stream.text("b")
        await stream.end()

    gateway.script = script
    await bot.post("hello", "t1")
    both = asyncio.gather(bot.events("t1"), bot.events("t1", after=1))
    await bot.events("t1", stop_after=2)
    go.set()
    first, second = await both
    assert first[1:] == second


async def test_a_conversation_takes_turns_while_another_goes_on(bot: Any, gateway: Any) -> None:
    go = asyncio.Event()

    async def script(stream: Any, asked: Any) -> None:
        question = asked.talk[-1][1]
        if question == "slow":
            await go.wait()
        await stream.text(f"re {question}")
        await stream.end()

    gateway.script = script
    await bot.post("slow", "t1", "c1")
    await bot.post("after it", "t2", "c1")
    assert (await bot.say("other", "t3", "c2"))[-1].name == "completed"
    assert [asked.talk[-1][1] for asked in gateway.chats()] == ["slow", "other"]
    go.set()
    assert (await bot.events("t2"))[-1].data["text"] == "re after it"
    assert gateway.chats()[-1].talk[:2] == [("user", "slow"), ("assistant", "re slow")]


async def test_cancelling_stops_the_engine_and_keeps_what_was_said(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        await stream.text("half a sentence")
        await asyncio.Event().wait()

    gateway.script = script
    await bot.post("talk for ever", "t1")
    async with bot.listen("t1") as events:
        assert (await anext(events)).name == "started"
        assert (await anext(events)).data == {"text": "half a sentence"}
        status, answer = await bot.call("POST", "/turns/t1/cancel")
        assert (status, answer["state"]) == (202, "cancelled")
        assert (await anext(events)).name == "cancelled"
    async with asyncio.timeout(60):
        await gateway.cut_off.wait()
    _, view = await bot.call("GET", "/turns/t1")
    assert (view["state"], view["text"], view["error"]) == ("cancelled", "half a sentence", None)
    assert (await bot.call("POST", "/turns/t1/cancel"))[1]["state"] == "cancelled"


async def test_cancelling_a_waiting_turn_leaves_the_one_before_it_alone(bot: Any, gateway: Any) -> None:
    go = asyncio.Event()

    async def script(stream: Any, _: Any) -> None:
        await go.wait()
        await stream.text("done")
        await stream.end()

    gateway.script = script
    await bot.post("one", "t1")
    await bot.post("two", "t2")
    assert await bot.call("GET", "/turns") == (200, {"running": 2})
    await bot.call("POST", "/turns/t2/cancel")
    assert (await bot.events("t2"))[-1].name == "cancelled"
    go.set()
    assert (await bot.events("t1"))[-1].data["text"] == "done"
    async with asyncio.timeout(60):
        while (await bot.call("GET", "/turns"))[1] != {"running": 0}:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
    assert len(gateway.chats()) == 1


async def test_conversations_can_be_listed_read_in_pages_and_deleted(bot: Any) -> None:
    for number in range(3):
        await bot.say(f"message {number} about the long road to the very far and quite unreachable sea", f"t{number}")
    await bot.say("short", "t9", "c2")
    _, listed = await bot.call("GET", "/conversations")
    assert [(item["id"], item["title"], item["messages"]) for item in listed["conversations"]] == [
        ("c2", "short", 2),
        ("c1", "message 0 about the long road to the very far and quite…", 6),
    ]
    _, page = await bot.call("GET", "/conversations/c1/messages?limit=4")
    assert [(item["role"], item["turn_id"]) for item in page["messages"]] == [
        ("user", "t1"),
        ("assistant", "t1"),
        ("user", "t2"),
        ("assistant", "t2"),
    ]
    _, earlier = await bot.call("GET", f"/conversations/c1/messages?before={page['messages'][0]['id']}")
    assert [item["turn_id"] for item in earlier["messages"]] == ["t0", "t0"]
    assert (await bot.call("DELETE", "/conversations/c1"))[0] == 204
    assert (await bot.call("GET", "/conversations/c1/messages"))[0] == 404
    assert (await bot.call("DELETE", "/conversations/c1"))[0] == 404
    assert (await bot.call("GET", "/turns/t1"))[0] == 404
    assert (await bot.call("GET", "/turns/t9"))[0] == 200


async def test_deleting_a_conversation_ends_its_running_turn(bot: Any, gateway: Any) -> None:
    async def script(stream: Any, _: Any) -> None:
        await stream.text("talking")
        await asyncio.Event().wait()

    gateway.script = script
    await bot.post("hello", "t1")
    await bot.events("t1", stop_after=2)
    assert (await bot.call("DELETE", "/conversations/c1"))[0] == 204
    async with asyncio.timeout(60):
        await gateway.cut_off.wait()
