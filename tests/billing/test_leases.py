"""Leases and usage: each request is charged once, credit comes back, and what can't be borne becomes debt."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import text
from tests.billing.conftest import USD, money_of

from wopr.billing import ledger
from wopr.billing.grants import grant_credit
from wopr.billing.invariants import invariants
from wopr.billing.leases import Lease, LeaseRoll, lease_roll, settle_batch
from wopr.billing.prices import load_prices
from wopr.billing.usage import BotRuntime, UsageRecord, by_day, charge_runtime, uncovered
from wopr.core.db import Database
from wopr.core.ids import BotId, KeyId, TenantId
from wopr.core.money import Nanos

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(tenant_id: TenantId, cost: int) -> UsageRecord:
    return UsageRecord(
        request_id=uuid4(),
        tenant_id=tenant_id,
        key_id=None,
        bot_id=None,
        turn_id=None,
        kind="chat",
        model="handbook",
        node_id="local",
        prompt_tokens=10,
        completion_tokens=20,
        units=0,
        cost=Nanos(cost),
        upstream_cost=Nanos(cost // 10),
        status="ok",
        started_at=NOW,
        duration_ms=12,
        first_token_ms=3,
    )


async def funded(db: Database, amount: int) -> TenantId:
    tenant_id = TenantId(uuid4())
    async with db.begin() as session:
        await grant_credit(session, tenant_id, amount, "test")
    return tenant_id


async def roll(db: Database, order: LeaseRoll, now: datetime = NOW) -> Lease | None:
    async with db.begin() as session:
        return await lease_roll(session, order, now)


def order(tenant_id: TenantId, lease: Lease | None, want: int, *used: UsageRecord) -> LeaseRoll:
    return LeaseRoll(tenant_id, lease.id if lease else None, Nanos(want), Nanos(1), used)


async def state(db: Database, tenant_id: TenantId) -> tuple[int, int, int]:
    money = await money_of(db, tenant_id)
    async with db.begin() as session:
        assert await invariants(session) == []
    return money.available, money.held, money.debt


async def test_a_lease_is_held_rolled_and_returned(db: Database) -> None:
    tenant_id = await funded(db, 1000)
    lease = await roll(db, order(tenant_id, None, 300))
    assert lease is not None
    assert (lease.amount, lease.expires_at) == (300, NOW + timedelta(seconds=60))
    assert await state(db, tenant_id) == (700, 300, 0)
    following = await roll(db, order(tenant_id, lease, 300, record(tenant_id, 50), record(tenant_id, 70)))
    assert await state(db, tenant_id) == (580, 300, 0)
    assert await roll(db, order(tenant_id, following, 0)) is None
    assert await state(db, tenant_id) == (880, 0, 0)


async def test_a_request_is_charged_once_however_often_it_is_sent(db: Database) -> None:
    tenant_id = await funded(db, 1000)
    lease = await roll(db, order(tenant_id, None, 300))
    used = record(tenant_id, 100)
    first = await roll(db, order(tenant_id, lease, 300, used, used))
    again = await roll(db, order(tenant_id, lease, 300, used))  # the answer to the first was lost
    assert first is not None
    assert again is not None
    await roll(db, order(tenant_id, first, 0, used))
    await roll(db, order(tenant_id, again, 0, used))
    async with db.begin() as session:
        assert await settle_batch(session, [used]) == 0
    assert await state(db, tenant_id) == (900, 0, 0)


async def test_less_than_the_minimum_is_not_lent(db: Database) -> None:
    tenant_id = await funded(db, 100)
    assert await roll(db, LeaseRoll(tenant_id, None, Nanos(500), Nanos(101))) is None
    lease = await roll(db, LeaseRoll(tenant_id, None, Nanos(500), Nanos(100)))
    assert lease is not None
    assert lease.amount == 100
    assert await roll(db, LeaseRoll(tenant_id, None, Nanos(500), Nanos(1))) is None


async def test_use_beyond_lease_and_balance_becomes_debt_and_the_next_credit_settles_it(db: Database) -> None:
    tenant_id = await funded(db, 100)
    lease = await roll(db, order(tenant_id, None, 60))
    assert await roll(db, order(tenant_id, lease, 60, record(tenant_id, 130))) is None
    assert await state(db, tenant_id) == (0, 0, 30)
    async with db.begin() as session:
        await grant_credit(session, tenant_id, 50, "thanks")
    assert await state(db, tenant_id) == (20, 0, 0)


async def test_a_dead_process_gives_its_credit_back_and_its_log_is_settled(db: Database) -> None:
    tenant_id = await funded(db, 100)
    await roll(db, order(tenant_id, None, 100))
    async with db.begin() as session:
        assert await settle_batch(session, [record(tenant_id, 30)]) == 1
    assert await state(db, tenant_id) == (0, 100, 30)
    async with db.begin() as session:
        assert await ledger.expire_due(session, NOW + timedelta(seconds=61)) == 1
    assert await state(db, tenant_id) == (70, 0, 0)


async def test_a_lease_that_expired_is_no_error_and_its_use_is_charged(db: Database) -> None:
    tenant_id = await funded(db, 100)
    lease = await roll(db, order(tenant_id, None, 100))
    async with db.begin() as session:
        await ledger.expire_due(session, NOW + timedelta(hours=1))
    await roll(db, order(tenant_id, lease, 0, record(tenant_id, 40)))
    assert await state(db, tenant_id) == (60, 0, 0)


async def test_free_requests_leave_usage_and_no_money(db: Database) -> None:
    tenant_id = await funded(db, 100)
    lease = await roll(db, order(tenant_id, None, 50))
    await roll(db, order(tenant_id, lease, 0, replace(record(tenant_id, 0), status="failed")))
    assert await state(db, tenant_id) == (100, 0, 0)
    async with db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM usage_records")) == 1


async def test_a_batch_settles_many_customers(db: Database) -> None:
    tenants = [await funded(db, 1000) for _ in range(5)]
    async with db.begin() as session:
        records = [record(tenant_id, 10) for tenant_id in tenants for _ in range(3)]
        assert await settle_batch(session, [*records, *records]) == 15
    assert [await state(db, tenant_id) for tenant_id in tenants] == [(970, 0, 0)] * 5


async def test_running_time_is_charged_by_the_second_and_never_twice(db: Database) -> None:
    tenant_id, bot = await funded(db, USD), BotId(uuid4())
    sheet = load_prices()

    async def run(start: float, end: float) -> int:
        stretch = BotRuntime(tenant_id, bot, "standard", NOW + timedelta(seconds=start), NOW + timedelta(seconds=end))
        async with db.begin() as session:
            return await charge_runtime(session, stretch, sheet)

    assert await run(0, 60) == sheet.bot_runtime("standard", 60)
    assert await run(0, 60) == 0
    assert await run(60, 60.9) == 0
    assert await run(0, 90.5) == sheet.bot_runtime("standard", 30)
    assert await run(120, 150) == sheet.bot_runtime("standard", 30)
    assert await run(0, 200) == sheet.bot_runtime("standard", 30) + sheet.bot_runtime("standard", 50)
    assert (await state(db, tenant_id))[0] == USD - 3 * sheet.bot_runtime("standard", 30) - sheet.bot_runtime(
        "standard", 60
    ) - sheet.bot_runtime("standard", 50)


async def test_running_without_credit_is_a_debt(db: Database) -> None:
    tenant_id = await funded(db, 1000)
    stretch = BotRuntime(tenant_id, BotId(uuid4()), "standard", NOW, NOW + timedelta(hours=1))
    async with db.begin() as session:
        cost = await charge_runtime(session, stretch, load_prices())
    assert await state(db, tenant_id) == (0, 0, cost - 1000)


def test_gaps_are_what_no_period_covers() -> None:
    def at(minute: int) -> datetime:
        return NOW + timedelta(minutes=minute)

    assert uncovered(at(0), at(10), []) == [(at(0), at(10))]
    assert uncovered(at(0), at(10), [(at(0), at(10))]) == []
    assert uncovered(at(0), at(10), [(at(2), at(4)), (at(6), at(12))]) == [(at(0), at(2)), (at(4), at(6))]
    assert uncovered(at(5), at(10), [(at(0), at(7))]) == [(at(7), at(10))]


async def test_a_day_of_running_is_one_row_and_midnight_begins_another(db: Database) -> None:
    tenant_id, bot, sheet = await funded(db, USD), BotId(uuid4()), load_prices()
    start = NOW.replace(hour=23, minute=0, second=0, microsecond=300_000)
    total = 0
    for minute in range(1, 121):
        stretch = BotRuntime(tenant_id, bot, "standard", start, start + timedelta(minutes=minute))
        async with db.begin() as session:
            total += await charge_runtime(session, stretch, sheet)
    async with db.begin() as session:
        rows = (await session.execute(text("SELECT ended_at - started_at, cost FROM runtime_periods"))).all()
    assert sorted(row[0] for row in rows) == [timedelta(minutes=60), timedelta(minutes=60)]
    assert sum(row[1] for row in rows) == total == USD - (await state(db, tenant_id))[0]
    assert 0 <= sheet.bot_runtime("standard", 7200) - total < 130


def test_pieces_end_at_midnight_and_lose_no_second() -> None:
    start = NOW.replace(hour=23, minute=59, second=58, microsecond=500_000)
    pieces = by_day([(start, start + timedelta(days=2))])
    assert [round((end - begin).total_seconds()) for begin, end in pieces] == [2, 86_400, 86_398]
    assert [begin.date() for begin, _ in pieces] == [NOW.date() + timedelta(days=n) for n in range(3)]


async def test_what_keys_spent_is_summed_by_day_with_the_settlement_and_each_request_once(db: Database) -> None:
    tenant_id = await funded(db, USD)
    one, other = KeyId(uuid4()), KeyId(uuid4())
    yesterday = NOW - timedelta(days=1)
    used = [
        replace(record(tenant_id, 100), key_id=one),
        replace(record(tenant_id, 30), key_id=one),
        replace(record(tenant_id, 7), key_id=one, started_at=yesterday),
        replace(record(tenant_id, 5), key_id=other),
        record(tenant_id, 1_000),
    ]
    for _ in range(2):
        async with db.begin() as session:
            await settle_batch(session, used)
    await roll(db, order(tenant_id, None, USD // 2, used[0], replace(record(tenant_id, 2), key_id=other)))
    async with db.begin() as session:
        rows = await session.execute(text("SELECT key_id, day, cost FROM key_spending ORDER BY cost"))
        spent = [(row.key_id, row.day, row.cost) for row in rows]
        charged = await session.scalar(text("SELECT sum(cost)::bigint FROM usage_records WHERE key_id IS NOT NULL"))
    assert spent == [(one, yesterday.date(), 7), (other, NOW.date(), 7), (one, NOW.date(), 130)]
    assert charged == 144
