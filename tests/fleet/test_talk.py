"""Reaching a bot: who waits is woken, and what has no id is never sent twice."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event

from wopr.fleet import changes
from wopr.fleet.changes import Changes

World = Any  # of conftest.py, which can't be imported


async def test_who_waits_for_a_bot_is_woken_instead_of_asking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "LOOK_SECONDS", 60.0)
    customer = await world.customer()
    reconciler = world.reconciler()
    await world.platform.notifier.start()
    await world.platform.notifier.connected.wait()
    bot = await customer.create()
    looks: list[str] = []
    event.listen(
        world.platform.db.engine.sync_engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: looks.append(statement) if "FROM bots JOIN" in statement else None,
    )
    turn = asyncio.create_task(customer.http.post(f"/fleet/bots/{bot['id']}/turns", json={"text": "hello"}))
    async with asyncio.timeout(60):
        while len(looks) < 3:  # noqa: ASYNC110 - the route's own, the first one, and one when the channel is heard
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    assert len(looks) == 3
    await reconciler.settle()
    answer = await turn
    assert answer.status_code == 202, answer.text


async def test_every_waiter_is_told_of_its_bot_and_of_a_lost_connection(world: World) -> None:
    told = Changes(world.platform.notifier)
    one, other = uuid4(), uuid4()
    with told.watch(one) as first, told.watch(one) as second, told.watch(other) as third:
        told._told(str(one))
        assert [event.is_set() for event in (first, second, third)] == [True, True, False]
        await told.wait(first, 10)
        assert not first.is_set()
        told._told("")
        assert all(event.is_set() for event in (first, second, third))
    told._told(str(one))


async def test_a_recording_is_not_sent_again_to_a_bot_that_broke_off(world: World) -> None:
    """The bot may have paid for the transcription already; a turn has an id and may be repeated."""
    received: list[bytes] = []

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received.append(await reader.readuntil(b"\r\n"))
        finally:  # who connects and says nothing is let go, too
            writer.close()

    customer = await world.customer()
    bot = await customer.create()
    await world.reconciler().settle()
    server = await asyncio.start_server(breaks_off, "127.0.0.1", 0)
    record = world.record(bot["id"])
    world.lead(bot["id"], server.sockets[0].getsockname()[1])
    answer = await customer.http.post(f"/fleet/bots/{bot['id']}/transcriptions", content=b"RIFF")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bot_broke_off")
    assert [line.split()[0] for line in received] == [b"POST"]
    server.close()
    world.lead(bot["id"], record.port)
