"""The ledger on PostgreSQL: money moves once, never below zero, and history is never changed."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from wopr.billing import codes, ledger
from wopr.billing.invariants import CHECK_SECONDS_MAX, invariants
from wopr.billing.ledger import InsufficientCredit, Transfer
from wopr.core.db import Database
from wopr.core.errors import Conflict, Invalid
from wopr.core.ids import TenantId

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def tenant() -> TenantId:
    return TenantId(uuid4())


def payment(owner: TenantId, amount: int, transfer_id: UUID | None = None) -> Transfer:
    return Transfer(transfer_id or uuid4(), codes.STRIPE, codes.customer(owner), amount, "payment")


def spending(owner: TenantId, amount: int, expires_at: datetime | None = None) -> Transfer:
    revenue = codes.revenue("inference", owner)
    return Transfer(uuid4(), codes.customer(owner), revenue, amount, "inference", expires_at=expires_at)


async def money(db: Database, owner: TenantId) -> tuple[int, int, int]:
    async with db.begin() as session:
        found = await ledger.balance(session, owner)
    return found.available, found.held, found.debt


async def test_a_payment_becomes_credit(db: Database) -> None:
    owner = tenant()
    async with db.begin() as session:
        assert await ledger.post(session, [payment(owner, 100)]) == 1
    assert await money(db, owner) == (100, 0, 0)


async def test_the_checks_have_the_time_that_they_need(db: Database) -> None:
    async with db.begin() as session:
        assert await invariants(session) == []
        allowed = await session.scalar(text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"))
    assert allowed == CHECK_SECONDS_MAX * 1000
    async with db.begin() as session:
        after = await session.scalar(text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"))
    assert after != allowed


async def test_the_same_id_moves_money_once_and_another_content_is_refused(db: Database) -> None:
    owner, transfer_id = tenant(), uuid4()
    for _ in range(3):
        async with db.begin() as session:
            await ledger.post(session, [payment(owner, 100, transfer_id)])
    assert await money(db, owner) == (100, 0, 0)
    with pytest.raises(Conflict):
        async with db.begin() as session:
            await ledger.post(session, [payment(owner, 101, transfer_id)])
    with pytest.raises(Conflict):
        async with db.begin() as session:
            await ledger.post(session, [payment(tenant(), 100, transfer_id)])


async def test_a_batch_is_all_or_nothing(db: Database) -> None:
    owner = tenant()
    async with db.begin() as session:
        await ledger.post(session, [payment(owner, 100)])
    with pytest.raises(InsufficientCredit):
        async with db.begin() as session:
            await ledger.post(session, [spending(owner, 60), spending(owner, 60)])
    assert await money(db, owner) == (100, 0, 0)


async def test_a_hold_is_posted_up_to_its_amount_and_the_rest_is_free_again(db: Database) -> None:
    owner = tenant()
    held = spending(owner, 80)
    async with db.begin() as session:
        await ledger.post(session, [payment(owner, 100)])
        await ledger.hold(session, [held])
    assert await money(db, owner) == (20, 80, 0)
    with pytest.raises(Invalid):
        async with db.begin() as session:
            await ledger.post_pending(session, uuid4(), held.id, 81)
    posting = uuid4()
    for first in (True, False):
        async with db.begin() as session:
            assert await ledger.post_pending(session, posting, held.id, 30) is first
    assert await money(db, owner) == (70, 0, 0)
    with pytest.raises(Conflict):
        async with db.begin() as session:
            await ledger.void(session, uuid4(), held.id)


async def test_a_void_and_an_expiry_free_the_hold_whole(db: Database) -> None:
    owner = tenant()
    voided, expiring = spending(owner, 30), spending(owner, 40, NOW + timedelta(seconds=10))
    async with db.begin() as session:
        await ledger.post(session, [payment(owner, 100)])
        await ledger.hold(session, [voided, expiring])
        assert await ledger.expire_due(session, NOW) == 0
    async with db.begin() as session:
        await ledger.void(session, uuid4(), voided.id)
        assert await ledger.expire_due(session, NOW + timedelta(seconds=10)) == 1
    async with db.begin() as session:
        assert await ledger.expire_due(session, NOW + timedelta(days=1)) == 0
    assert await money(db, owner) == (100, 0, 0)


async def test_the_database_itself_refuses_an_overdraft(db: Database) -> None:
    owner = tenant()
    async with db.begin() as session:
        await ledger.post(session, [payment(owner, 100)])
    with pytest.raises(DBAPIError, match="overdraft"):
        async with db.begin() as session:
            await session.execute(text("UPDATE ledger_accounts SET debits_posted = 101 WHERE kind = 'customer'"))


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ledger_transfers SET amount = 1", "DELETE FROM ledger_transfers", "TRUNCATE ledger_transfers"],
)
async def test_the_database_refuses_to_change_history(db: Database, statement: str) -> None:
    async with db.begin() as session:
        await ledger.post(session, [payment(tenant(), 100)])
    with pytest.raises(DBAPIError, match="never changed"):
        async with db.begin() as session:
            await session.execute(text(statement))
