"""What the bot does when there is too much of something, or the disk gives up."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wopr.bot import turns
from wopr.bot.contract import EventName, TurnRequest, TurnState
from wopr.bot.database import MIGRATIONS, Database
from wopr.bot.live_turn import LiveTurn
from wopr.bot.turn_queue import AT_ONCE_MAX, WAITING_MAX
from wopr.bot.turns import Outcome, StoredEvent

STARTED = StoredEvent(1, EventName.STARTED, "{}")


async def test_only_a_few_turns_run_at_once_and_too_many_are_refused(bot: Any, gateway: Any) -> None:
    go = asyncio.Event()

    async def script(stream: Any, _: Any) -> None:
        await go.wait()
        await stream.text("done")
        await stream.end()

    gateway.script = script
    for number in range(WAITING_MAX):
        await bot.post("hello", f"t{number}", f"c{number}")
    body = {"turn_id": "one-more", "conversation_id": "c", "text": "hello"}
    async with bot.session.post(f"{bot.url}/turns", json=body) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["error"]["code"] == "too_many_turns"
    assert (await bot.call("POST", "/turns", json={**body, "turn_id": "t3", "conversation_id": "c3"}))[0] == 202
    assert len(gateway.chats()) <= AT_ONCE_MAX
    go.set()
    for number in range(WAITING_MAX):
        assert (await bot.events(f"t{number}"))[-1].name == "completed"
    assert (await bot.say("hello", "one-more", "c"))[-1].name == "completed"


async def test_listeners_learn_that_the_disk_refuses(tmp_path: Path) -> None:
    database = Database(tmp_path / "never-opened.db")
    live = LiveTurn(database, 1, STARTED)
    live.answer.hear("lost")
    events = [event async for event in live.follow(0)]
    assert [event.name for event in events if event] == ["started", "failed"]
    await live.finish(Outcome(TurnState.FAILED))
    await database.close()


async def test_text_that_comes_faster_than_the_disk_is_merged_and_never_lost(tmp_path: Path) -> None:
    database = Database(tmp_path / "bot.db")
    await database.open()
    request = TurnRequest("t", "c", text="count")
    created = await database.run(partial(turns.create, request=request))
    assert created.seq is not None
    assert created.started is not None
    live = LiveTurn(database, created.seq, created.started)
    listener = asyncio.create_task(_heard(live))
    for number in range(2_000):
        live.answer.hear(f"{number} ")
    await live.finish(Outcome(TurnState.COMPLETED, text=live.text, finish_reason="stop"))
    heard = await listener
    stored = await database.run(partial(turns.events_after, turn_id="t", after=0))
    assert heard == stored
    assert len(heard) < 100
    rows = await database.run(lambda link: link.execute("SELECT COUNT(*) FROM events").fetchone()[0])
    assert rows == 2, "the deltas of a finished turn are kept as its text"
    for after in range(len(heard) + 1):
        assert await database.run(partial(turns.events_after, turn_id="t", after=after)) == heard[after:]
    text = "".join(json.loads(event.payload)["text"] for event in heard if event.name is EventName.DELTA)
    assert text == live.text == "".join(f"{number} " for number in range(2_000))
    await database.close()


async def _heard(live: LiveTurn) -> list[StoredEvent]:
    return [event async for event in live.follow(0) if event is not None]


async def test_a_file_of_an_earlier_bot_is_upgraded_and_one_of_a_newer_bot_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    with sqlite3.connect(path) as link:
        link.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1;")
    link.close()
    database = Database(path)
    await database.open()
    created = await database.run(partial(turns.create, request=TurnRequest("t", "c", text="hello")))
    assert created.state is TurnState.RUNNING
    assert await database.run(turns.interrupt_running) == 1
    await database.run(lambda link: link.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}"))
    await database.close()
    newer = Database(path)
    with pytest.raises(sqlite3.DatabaseError, match="newer"):
        await newer.open()
    await newer.close()
