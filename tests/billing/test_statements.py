"""What a customer reads: charges summed by day, everything else line by line, page by page, nothing lost."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from wopr.billing import codes
from wopr.billing.ledger import Balance
from wopr.billing.statements import DaySpend, lasts_days, list_movements
from wopr.core.db import Database
from wopr.core.errors import BadRequest
from wopr.core.ids import TenantId
from wopr.core.money import Nanos

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


async def test_a_cursor_that_is_no_date_is_refused_and_nothing_is_an_empty_page(db: Database) -> None:
    async with db.begin() as session:
        assert await list_movements(session, TenantId(uuid4())) == ([], None)
        with pytest.raises(BadRequest):
            await list_movements(session, TenantId(uuid4()), "yesterday")


def test_how_long_credit_lasts_follows_the_pace_of_the_last_week() -> None:
    def spend(*amounts: int) -> list[DaySpend]:
        padded = [0] * (30 - len(amounts)) + list(amounts)
        first = NOW.date() - timedelta(days=29)
        return [DaySpend(first + timedelta(days=n), Nanos(a), Nanos(0)) for n, a in enumerate(padded)]

    money = Balance(Nanos(90), Nanos(10), Nanos(0))
    assert lasts_days(money, spend()) is None
    assert lasts_days(money, spend(10)) == 10.0
    assert lasts_days(money, spend(20, 0)) == 10.0
    assert lasts_days(money, spend(1000, 7, 7, 7, 7, 7, 7, 7)) == 14.3
    assert lasts_days(Balance(Nanos(0), Nanos(0), Nanos(5)), spend(10)) == 0.0
