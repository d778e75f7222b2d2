"""A log that was left behind: what one line or one record has wrong never stops the others."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from wopr.accounts import keys
from wopr.billing.usage import UsageRecord
from wopr.core.ids import NodeId
from wopr.core.money import NANOS_PER_USD, Nanos
from wopr.inference.gateway import wal
from wopr.inference.gateway.lines import pack_usage

BODY: Any = {"model": "handbook", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def record(stage: Any, customer: Any, **values: Any) -> UsageRecord:
    made = UsageRecord(
        request_id=uuid4(),
        tenant_id=customer.tenant_id,
        key_id=customer.key_id,
        bot_id=None,
        turn_id=None,
        kind="chat",
        model="handbook",
        node_id=NodeId("node-1"),
        prompt_tokens=5,
        completion_tokens=5,
        units=0,
        cost=Nanos(1_000),
        upstream_cost=Nanos(0),
        status="ok",
        started_at=stage.platform.clock.now(),
        duration_ms=3,
        first_token_ms=None,
    )
    return replace(made, **values)


def leave(stage: Any, *lines: bytes) -> Path:
    """The log of a process that has died."""
    dead = wal.Wal(stage.platform.settings.wopr_home / "wal")
    dead.open()
    for line in lines:
        dead.append(line)
    dead.close()
    [path] = [path for path in dead.folder.iterdir() if path.name.startswith(dead.name)]
    return path


async def test_a_line_that_can_not_be_read_stops_neither_the_start_nor_the_others(make_stage: Any) -> None:
    stage = await make_stage()
    customer = await stage.customer("1")
    mine = record(stage, customer)
    path = leave(stage, b'["u7","of tomorrow"]', pack_usage(mine), b'"nonsense"')
    other = await make_stage()  # its start finds the file
    [row] = await other.usage(customer)
    assert row.request_id == mine.request_id
    assert not path.exists()
    assert path.with_suffix(".bad").read_bytes().count(b"\n") == 3
    assert await other.gateway.recover() == 0
    path.with_suffix(".bad").rename(path)  # what an operator does: nothing is charged twice
    assert await other.gateway.recover() == 3
    assert len(await other.usage(customer)) == 1


async def test_a_damaged_line_is_kept_and_the_others_are_settled(stage: Any) -> None:
    customer = await stage.customer("1")
    records = [record(stage, customer) for _ in range(3)]
    path = leave(stage, *(pack_usage(each) for each in records))
    content = path.read_bytes()
    path.write_bytes(content.replace(records[1].request_id.hex.encode(), b"0" * 32))
    damaged = path.read_bytes()
    assert damaged != content
    assert await stage.gateway.recover() == 2
    rows = await stage.usage(customer, 2)
    assert {row.request_id for row in rows} == {records[0].request_id, records[2].request_id}
    assert not path.exists()
    assert path.with_suffix(".bad").read_bytes() == damaged, "what it was of can still be found out"


async def test_a_record_that_the_database_refuses_is_set_aside_and_the_others_are_settled(stage: Any) -> None:
    first, second = await stage.customer("1"), await stage.customer("1")
    good = [record(stage, first) for _ in range(5)] + [record(stage, second)]
    huge, nul = record(stage, first, units=2**70), record(stage, second, model="a\0b")
    path = leave(stage, *(pack_usage(each) for each in [*good[:2], huge, *good[2:], nul]))
    assert await stage.gateway.recover() == 8
    rows = [*await stage.usage(first, 5), *await stage.usage(second, 1)]
    assert {row.request_id for row in rows} == {each.request_id for each in good}
    assert path.with_suffix(".bad").exists()
    after = await stage.balance(first)
    assert (after.available, after.held, after.debt) == (NANOS_PER_USD - 5_000, 0, 0)


async def test_a_record_that_is_refused_while_we_run_does_not_keep_its_customer_from_settling(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer("5")
    http = stage.http(customer)
    await http.post("/v1/chat/completions", json=BODY)
    async with stage.platform.db.begin() as session:
        # A rule that the program does not know of: PostgreSQL refuses one of the records that follow.
        await session.execute(text("ALTER TABLE usage_records ADD CHECK (completion_tokens <> 4)"))
    for tokens in (5, 4, 6):
        assert (await http.post("/v1/chat/completions", json=BODY | {"max_tokens": tokens})).status_code == 200
    rows = await stage.usage(customer, 3)
    assert sorted(row.completion_tokens for row in rows) == [5, 5, 6]
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    rows = await stage.usage(customer, 4)
    folder = stage.platform.settings.wopr_home / "wal"
    [bad] = folder.glob("*.bad")
    assert b'"chat"' in bad.read_bytes()
    await stage.close()
    assert list(folder.glob("*.wal")) == []


async def test_a_log_that_can_not_be_written_lends_nothing_twice(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.backend()
    customer = await stage.customer("5")
    http = stage.http(customer)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wal, "_write", full)
    for _ in range(5):
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    rows = await stage.usage(customer, 5)
    monkeypatch.undo()
    after = await stage.balance(customer)
    assert after.available + after.held + sum(row.cost for row in rows) == 5 * NANOS_PER_USD
    purse = stage.gateway._parts.settler.purse(customer.tenant_id)
    assert (purse.owed, purse.held) == (0, 0)


async def test_an_unexpected_failure_of_a_settlement_loses_nothing(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.backend()
    customer = await stage.customer("5")
    http = stage.http(customer)
    await http.post("/v1/chat/completions", json=BODY)
    await stage.usage(customer)
    failed = asyncio.Event()

    async def broken(*_: Any) -> None:
        failed.set()
        raise ZeroDivisionError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr("wopr.inference.gateway.settle.lease_rolls", broken)
        await http.post("/v1/chat/completions", json=BODY)
        await failed.wait()
        await asyncio.sleep(0)
    assert len(await stage.usage(customer, 2)) == 2


async def test_a_key_that_was_revoked_is_refused_at_once_while_notifications_are_lost(stage: Any) -> None:
    await stage.backend()
    customer = await stage.customer()
    http = stage.http(customer)
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    await stage.platform.notifier.stop()
    stage.platform.notifier.connected.clear()
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    async with stage.platform.db.begin() as session:
        await keys.revoke(session, customer.tenant_id, customer.key_id)
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 401


async def test_a_lost_listening_connection_is_noticed_at_once(stage: Any) -> None:
    connected = stage.platform.notifier.connected
    async with stage.platform.db.begin() as session:
        await session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    async with asyncio.timeout(60):
        while connected.is_set():  # noqa: ASYNC110  # there is no event for its end
            await asyncio.sleep(0.005)
    async with asyncio.timeout(60):
        await connected.wait()
