"""The ledger on PostgreSQL: lock in one order, decide in a Book, write everything with one statement.

Accounts are always locked in the order of their codes, so no two transactions wait for each other. Nothing here
commits: the caller's transaction is the unit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing import codes
from wopr.billing.book import Account, Book, Hold, InsufficientCredit, Row, Transfer, accounts_of
from wopr.core.errors import Conflict
from wopr.core.ids import TenantId
from wopr.core.money import Nanos

__all__ = [
    "Account",
    "Balance",
    "Book",
    "InsufficientCredit",
    "Transfer",
    "balance",
    "expire_due",
    "hold",
    "open_book",
    "post",
    "post_pending",
    "settle_debt",
    "void",
    "write",
]

EXPIRE_BATCH = 500
NOTHING = Nanos(0)

LOCK = text(
    "SELECT code, debits_pending, debits_posted, credits_pending, credits_posted FROM ledger_accounts "
    "WHERE code = ANY(CAST(:codes AS text[])) ORDER BY code FOR NO KEY UPDATE"
)
CREATE = text(
    "INSERT INTO ledger_accounts (code, kind, tenant_id) "
    "SELECT * FROM unnest(CAST(:codes AS text[]), CAST(:kinds AS text[]), CAST(:tenants AS uuid[])) "
    "ON CONFLICT DO NOTHING"
)
KNOWN = text(
    "SELECT id, phase, debit, credit, amount, kind, reference, description, pending_id, expires_at "
    "FROM ledger_transfers WHERE id = ANY(CAST(:ids AS uuid[]))"
)
HOLDS = text("SELECT id, debit, credit, amount, expires_at FROM ledger_holds WHERE id = ANY(CAST(:ids AS uuid[]))")
WRITE = text(
    """
WITH moved AS (
  INSERT INTO ledger_transfers
    (id, phase, debit, credit, amount, kind, reference, description, pending_id, expires_at)
  SELECT * FROM unnest(
    CAST(:ids AS uuid[]), CAST(:phases AS text[]), CAST(:debits AS text[]), CAST(:credits AS text[]),
    CAST(:amounts AS bigint[]), CAST(:kinds AS text[]), CAST(:references AS text[]), CAST(:descriptions AS text[]),
    CAST(:pendings AS uuid[]), CAST(:expiries AS timestamptz[]))
  ON CONFLICT DO NOTHING RETURNING id
), opened AS (
  INSERT INTO ledger_holds (id, debit, credit, amount, expires_at)
  SELECT * FROM unnest(CAST(:hold_ids AS uuid[]), CAST(:hold_debits AS text[]), CAST(:hold_credits AS text[]),
    CAST(:hold_amounts AS bigint[]), CAST(:hold_expiries AS timestamptz[]))
), closed AS (
  DELETE FROM ledger_holds WHERE id = ANY(CAST(:closed AS uuid[]))
), summed AS (
  UPDATE ledger_accounts AS a SET debits_pending = s.debits_pending, debits_posted = s.debits_posted,
    credits_pending = s.credits_pending, credits_posted = s.credits_posted
  FROM unnest(CAST(:codes AS text[]), CAST(:debits_pending AS bigint[]), CAST(:debits_posted AS bigint[]),
    CAST(:credits_pending AS bigint[]), CAST(:credits_posted AS bigint[]))
    AS s (code, debits_pending, debits_posted, credits_pending, credits_posted)
  WHERE a.code = s.code
)
SELECT count(*) FROM moved
"""
)


@dataclass(frozen=True)
class Balance:
    """A tenant's money in nano-dollars: free, held by running work, owed, and ever received."""

    available: Nanos
    held: Nanos
    debt: Nanos
    received: Nanos = NOTHING


async def post(session: AsyncSession, transfers: Sequence[Transfer]) -> int:
    """Move at once; the number that were new. All or nothing.

    The same id again with the same content moves nothing; with another content it is a Conflict. InsufficientCredit
    when a customer's account can't bear it.
    """
    book = await open_book(session, accounts_of(transfers), ids=[t.id for t in transfers])
    done = [book.post(transfer) for transfer in transfers]
    await write(session, book)
    return sum(done)


async def hold(session: AsyncSession, transfers: Sequence[Transfer]) -> int:
    """Set amounts aside until they are posted, voided or (with `expires_at`) expire; the number that were new."""
    book = await open_book(session, accounts_of(transfers), ids=[t.id for t in transfers])
    done = [book.hold(transfer) for transfer in transfers]
    await write(session, book)
    return sum(done)


async def post_pending(session: AsyncSession, transfer_id: UUID, pending_id: UUID, amount: int) -> bool:
    """Move up to the held amount and free the rest; False when this id did so before.

    Conflict when the hold was resolved otherwise, Invalid when the amount is more than was held.
    """
    return await _resolve(session, transfer_id, pending_id, amount)


async def void(session: AsyncSession, transfer_id: UUID, pending_id: UUID) -> bool:
    """Free a hold whole; False when this id did so before. Conflict when it was resolved otherwise."""
    return await _resolve(session, transfer_id, pending_id, None)


async def expire_due(session: AsyncSession, now: datetime) -> int:
    """Free the holds whose time is over, at most EXPIRE_BATCH; debts are settled from what became free."""
    due = await session.execute(
        text(
            "SELECT id, debit, credit, amount, expires_at FROM ledger_holds WHERE expires_at <= :now "
            "ORDER BY expires_at LIMIT :batch"
        ),
        {"now": now, "batch": EXPIRE_BATCH},
    )
    seen = [Hold(*row) for row in due]
    if not seen:
        return 0
    owners = {tenant for held in seen if (tenant := codes.tenant_of(held.debit)) is not None}
    touched = {code for held in seen for code in (held.debit, held.credit)}
    book = await open_book(session, touched | {codes.debt(tenant) for tenant in owners}, holds=[h.id for h in seen])
    due_now = [held for held in book.holds.values() if held.expires_at is not None and held.expires_at <= now]
    for held in due_now:
        transfer = Transfer(
            uuid5(held.id, "expired"), held.debit, held.credit, held.amount, "lease_expired", pending_id=held.id
        )
        book.resolve(transfer, "expired")
    for tenant in owners:
        settle_debt(book, tenant, cause=f"expiry:{now.isoformat()}")
    await write(session, book)
    return len(due_now)


async def balance(session: AsyncSession, tenant_id: TenantId) -> Balance:
    """A tenant's balance; zero everywhere for one who never paid."""
    return (await balances(session, [tenant_id]))[tenant_id]


async def balances(session: AsyncSession, tenant_ids: Sequence[TenantId]) -> dict[TenantId, Balance]:
    """The balance of each of these tenants, in one statement."""
    wanted = [code for tenant in tenant_ids for code in (codes.customer(tenant), codes.debt(tenant))]
    result = await session.execute(
        text(
            "SELECT code, debits_pending, debits_posted, credits_pending, credits_posted FROM ledger_accounts "
            "WHERE code = ANY(CAST(:codes AS text[]))"
        ),
        {"codes": wanted},
    )
    accounts = {row.code: Account(*row) for row in result}
    return {tenant: _balance(accounts, tenant) for tenant in tenant_ids}


def _balance(accounts: Mapping[str, Account], tenant_id: TenantId) -> Balance:
    credit = accounts.get(codes.customer(tenant_id), Account(""))
    debt = accounts.get(codes.debt(tenant_id), Account(""))
    return Balance(
        Nanos(credit.available), Nanos(credit.debits_pending), Nanos(debt.owed), Nanos(credit.credits_posted)
    )


def settle_debt(book: Book, tenant_id: UUID, cause: str) -> int:
    """Pay what is owed from credit that is free; the amount. `cause` makes the transfer's id."""
    credit, owing = book.accounts[codes.customer(tenant_id)], book.accounts[codes.debt(tenant_id)]
    amount = min(credit.available, owing.owed)
    if amount <= 0:
        return 0
    settlement = Transfer(
        uuid5(tenant_id, f"debt:{cause}"), credit.code, owing.code, amount, "debt_settlement", cause, "Debt settled"
    )
    book.post(settlement)
    return amount


async def open_book(
    session: AsyncSession, touched: Iterable[str], *, ids: Sequence[UUID] = (), holds: Sequence[UUID] = ()
) -> Book:
    """Lock the accounts (made when they are new), then read what is known of the given transfers and holds."""
    names = sorted(set(touched))
    accounts = await _lock(session, names)
    missing = [code for code in names if code not in accounts]
    if missing:
        kinds, tenants = [codes.kind_of(c) for c in missing], [codes.tenant_of(c) for c in missing]
        await session.execute(CREATE, {"codes": missing, "kinds": kinds, "tenants": tenants})
        accounts = await _lock(session, names)
    book = Book(accounts)
    if ids:
        book.known = {row.id: _row(row) for row in await session.execute(KNOWN, {"ids": list(ids)})}
    if holds:
        found = [Hold(*row) for row in await session.execute(HOLDS, {"ids": list(holds)})]
        book.holds = {held.id: held for held in found}
    return book


async def write(session: AsyncSession, book: Book) -> None:
    """Write what the book decided: transfers, holds and sums, in one statement."""
    if not book.new:
        return
    moved = await session.scalar(WRITE, _columns(book))
    if moved != len(book.new):
        # Only possible when the same id went through other accounts at the same moment: their locks did not meet.
        raise Conflict("A transfer with this id exists with other content.", code="transfer_exists")


async def _resolve(session: AsyncSession, transfer_id: UUID, pending_id: UUID, amount: int | None) -> bool:
    found = (await session.execute(KNOWN, {"ids": [pending_id]})).one_or_none()
    if found is None or found.phase != "pending":
        raise Conflict(f"There is no hold {pending_id}.", code="hold_closed")
    book = await open_book(session, [found.debit, found.credit], ids=[transfer_id], holds=[pending_id])
    kind, reference = found.kind, found.reference
    moved = found.amount if amount is None else amount
    transfer = Transfer(transfer_id, found.debit, found.credit, moved, kind, reference, pending_id=pending_id)
    done = book.resolve(transfer, "voided" if amount is None else "posted")
    await write(session, book)
    return done


async def _lock(session: AsyncSession, names: list[str]) -> dict[str, Account]:
    return {row.code: Account(*row) for row in await session.execute(LOCK, {"codes": names})}


def _row(found: Any) -> Row:  # a database row of KNOWN
    transfer = Transfer(
        id=found.id,
        debit=found.debit,
        credit=found.credit,
        amount=found.amount,
        kind=found.kind,
        reference=found.reference,
        description=found.description,
        pending_id=found.pending_id,
        expires_at=found.expires_at,
    )
    return Row(transfer, found.phase)


def _columns(book: Book) -> dict[str, list[object]]:
    rows = book.rows
    transfers = [row.transfer for row in rows]
    accounts = [book.accounts[code] for code in book.changed]
    opened = list(book.opened.values())
    return {
        "ids": [t.id for t in transfers],
        "phases": [row.phase for row in rows],
        "debits": [t.debit for t in transfers],
        "credits": [t.credit for t in transfers],
        "amounts": [t.amount for t in transfers],
        "kinds": [t.kind for t in transfers],
        "references": [t.reference for t in transfers],
        "descriptions": [t.description for t in transfers],
        "pendings": [t.pending_id for t in transfers],
        "expiries": [t.expires_at for t in transfers],
        "hold_ids": [h.id for h in opened],
        "hold_debits": [h.debit for h in opened],
        "hold_credits": [h.credit for h in opened],
        "hold_amounts": [h.amount for h in opened],
        "hold_expiries": [h.expires_at for h in opened],
        "closed": list(book.closed),
        "codes": [a.code for a in accounts],
        "debits_pending": [a.debits_pending for a in accounts],
        "debits_posted": [a.debits_posted for a in accounts],
        "credits_pending": [a.credits_pending for a in accounts],
        "credits_posted": [a.credits_posted for a in accounts],
    }
