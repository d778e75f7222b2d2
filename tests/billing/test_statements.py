"""What a customer reads: charges summed by day, everything else line by line, page by page, nothing lost."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from wopr.billing import codes
from wopr.billing.ledger import Balance
from wopr.billing.prices import load_prices
from wopr.billing.statements import DaySpend, lasts_days, list_movements
from wopr.billing.usage import note_running, note_stopped, running_cost_day
from wopr.core.db import Database
from wopr.core.errors import BadRequest
from wopr.core.ids import TenantId
from wopr.core.money import NANOS_PER_USD, Nanos

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def insert(db: Database, tenant_id: TenantId, rows: list[tuple[str, int, datetime]]) -> None:
    """Transfers of the past, written as they would have been then; a positive amount is credit."""
    raw = await db.connect_raw()
    house, credit = codes.STRIPE, codes.customer(tenant_id)
    await raw.executemany(
        "INSERT INTO ledger_transfers (id, phase, debit, credit, amount, kind, created_at) "
        "VALUES ($1, 'immediate', $2, $3, $4, $5, $6)",
        [
            (uuid4(), house if amount > 0 else credit, credit if amount > 0 else house, abs(amount), kind, moment)
            for kind, amount, moment in rows
        ],
    )
    await raw.close()


async def test_pages_hold_whole_days_and_together_everything(db: Database) -> None:
    tenant_id = TenantId(uuid4())
    rows = [("topup", 1000, NOW - timedelta(days=200))]
    for day in range(100, -1, -1):
        moment = NOW - timedelta(days=day)
        rows += [("inference", -1, moment + timedelta(minutes=n)) for n in range(3)]
        rows += [("runtime", -2, moment + timedelta(minutes=n)) for n in range(2)]
    await insert(db, tenant_id, rows)
    pages, cursor = [], None
    while True:
        async with db.begin() as session:
            page, cursor = await list_movements(session, tenant_id, cursor, 20)
        pages.append(page)
        if cursor is None:
            break
    lines = [line for page in pages for line in page]
    assert len(lines) == 2 * 101 + 1
    assert len({line.id for line in lines}) == len(lines)
    assert all(len(page) == 20 for page in pages[:5])
    assert [(line.kind, line.amount) for line in lines[:2]] == [("runtime", -4), ("inference", -3)]
    assert sum(line.amount for line in lines) == 1000 - 101 * 7


async def test_a_page_is_filled_however_long_ago_its_movements_were(db: Database) -> None:
    tenant_id = TenantId(uuid4())
    await insert(db, tenant_id, [("topup", 5, NOW - timedelta(days=70 * number)) for number in range(7)])
    async with db.begin() as session:
        page, cursor = await list_movements(session, tenant_id, None, 5)
        assert len(page) == 5
        rest, end = await list_movements(session, tenant_id, cursor, 5)
    assert (len(rest), end) == (2, None)


async def test_a_cursor_that_is_no_date_is_refused_and_nothing_is_an_empty_page(db: Database) -> None:
    async with db.begin() as session:
        assert await list_movements(session, TenantId(uuid4())) == ([], None)
        with pytest.raises(BadRequest):
            await list_movements(session, TenantId(uuid4()), "yesterday")


def spend(*days: tuple[int, int]) -> list[DaySpend]:
    """Thirty days that end at noon of NOW, the last ones with what requests and bots cost."""
    padded = [(0, 0)] * (30 - len(days)) + list(days)
    first = NOW.date() - timedelta(days=29)
    return [DaySpend(first + timedelta(days=n), Nanos(i), Nanos(r)) for n, (i, r) in enumerate(padded)]


def lasts(*days: tuple[int, int], running: int = 0) -> float | None:
    return lasts_days(Balance(Nanos(90), Nanos(10), Nanos(0)), spend(*days), Nanos(running), NOW)


def test_how_long_credit_lasts_follows_the_pace_of_the_last_week() -> None:
    assert lasts() is None
    assert lasts((10, 0)) == 10.0  # the first hours are not extrapolated
    assert lasts((10, 0), (5, 0)) == 10.0  # a day and a half
    assert lasts((1000, 1000), (7, 0), (7, 0), (7, 0), (7, 0), (7, 0), (7, 0), (3, 0)) == 14.4
    assert lasts_days(Balance(Nanos(0), Nanos(0), Nanos(5)), spend((10, 0)), Nanos(0), NOW) == 0.0


def test_bots_that_run_count_with_their_price_before_anything_is_charged() -> None:
    assert lasts(running=4) == 25.0
    assert lasts((6, 0), running=4) == 10.0
    assert lasts((0, 1), running=4) == 25.0
    assert lasts((0, 15), (0, 15), running=4) == 5.0  # what ran yesterday may run again


async def test_five_dollars_keep_a_standard_bot_for_fifty_days(db: Database) -> None:
    tenant_id, bots = TenantId(uuid4()), [uuid4(), uuid4()]
    sheet = load_prices()
    async with db.begin() as session:
        for bot in bots:
            await note_running(session, tenant_id, bot, "small")
        await note_running(session, tenant_id, bots[0], "standard")
        await note_running(session, TenantId(uuid4()), uuid4(), "large")
        await note_stopped(session, bots[1])
        await note_stopped(session, uuid4())
        day = await running_cost_day(session, tenant_id, sheet)
    five = Balance(Nanos(5 * NANOS_PER_USD), Nanos(0), Nanos(0))
    assert lasts_days(five, spend(), day, NOW) == 50.0
