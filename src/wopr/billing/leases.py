"""Credit lent to a gateway process, so that its hot path needs no database, and settled in batches.

A lease is a pending transfer with an expiry: the process spends from it in memory and rolls it: what was used is
posted, a new slice is held. When the process dies, the hold expires and the credit comes back; what it had used is
in its write-ahead log and is settled by `settle_batch`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.keys import add_spending_sql
from wopr.billing import codes
from wopr.billing.book import Book, Transfer
from wopr.billing.charges import BALANCE_CHANNEL, Charge, charge, is_out, tell_when_out
from wopr.billing.ledger import open_book, settle_debt, write
from wopr.billing.usage import UsageRecord
from wopr.core.ids import TenantId, new_id
from wopr.core.money import Nanos

__all__ = ["BALANCE_CHANNEL", "LEASE_SECONDS", "Lease", "LeaseRoll", "lease_roll", "lease_rolls", "settle_batch"]

LEASE_SECONDS = 60.0

INSERT_USAGE = text(
    f"""
WITH added AS (
  INSERT INTO usage_records
    (request_id, settlement_id, tenant_id, key_id, bot_id, turn_id, kind, model, node_id, prompt_tokens,
     completion_tokens, units, cost, upstream_cost, status, started_at, duration_ms, first_token_ms)
  SELECT * FROM unnest(
    CAST(:request_ids AS uuid[]), CAST(:settlement_ids AS uuid[]), CAST(:tenant_ids AS uuid[]),
    CAST(:key_ids AS uuid[]), CAST(:bot_ids AS uuid[]), CAST(:turn_ids AS uuid[]), CAST(:kinds AS text[]),
    CAST(:models AS text[]), CAST(:node_ids AS text[]), CAST(:prompt_tokens AS bigint[]),
    CAST(:completion_tokens AS bigint[]), CAST(:units AS bigint[]), CAST(:costs AS bigint[]),
    CAST(:upstream_costs AS bigint[]), CAST(:statuses AS text[]), CAST(:starts AS timestamptz[]),
    CAST(:durations AS bigint[]), CAST(:first_tokens AS bigint[]))
  ON CONFLICT (request_id) DO NOTHING RETURNING tenant_id, key_id, started_at, cost
), spent AS (
  {add_spending_sql("added")}
)
SELECT tenant_id, sum(cost)::bigint AS cost, count(*) AS requests FROM added GROUP BY tenant_id
"""  # noqa: S608 - constants
)


@dataclass(frozen=True)
class LeaseRoll:
    """What a gateway asks for a tenant: settle `settlements`, give back `lease_id`, lend `want` or at least `minimum`.

    `seconds` is how long the new lease lives without being rolled. `want` of 0 settles and lends nothing.
    """

    tenant_id: TenantId
    lease_id: UUID | None
    want: Nanos
    minimum: Nanos
    settlements: Sequence[UsageRecord] = ()
    seconds: float = LEASE_SECONDS


@dataclass(frozen=True)
class Lease:
    """Credit that a process may spend until `expires_at`."""

    id: UUID
    amount: Nanos
    expires_at: datetime


async def lease_roll(session: AsyncSession, roll: LeaseRoll, now: datetime) -> Lease | None:
    """Settle, give back and lend in one round of statements; None when less than the minimum is left.

    Every request is charged once, whatever is sent again. A lease that is gone (expired, or rolled by a call whose
    answer was lost) is no error. What the balance can't bear becomes debt.
    """
    return (await lease_rolls(session, [roll], now))[roll.tenant_id]


async def lease_rolls(session: AsyncSession, rolls: Sequence[LeaseRoll], now: datetime) -> dict[TenantId, Lease | None]:
    """`lease_roll` for many tenants (one roll each) in the same round of statements.

    Concurrent calls should take tenants of different `codes.shard`s, or they wait for each other's commits.
    """
    tenants = {roll.tenant_id: new_id() for roll in rolls}
    leases = [roll.lease_id for roll in rolls if roll.lease_id is not None]
    book = await open_book(session, _accounts(tenants), holds=leases)
    were_out = {tenant: is_out(book, tenant) for tenant in tenants}
    records = [record for roll in rolls for record in roll.settlements]
    used = await _insert_usage(session, records, tenants)
    lent = {
        roll.tenant_id: _roll(book, roll, _Use(tenants[roll.tenant_id], *used.get(roll.tenant_id, (0, 0))), now)
        for roll in rolls
    }
    await write(session, book)
    for tenant, was_out in were_out.items():
        await tell_when_out(session, book, tenant, was_out)
    return lent


async def settle_batch(session: AsyncSession, records: Sequence[UsageRecord]) -> int:
    """Charge requests of many tenants, each once; the number that were new. For write-ahead logs and batches."""
    settlements = {record.tenant_id: new_id() for record in records}
    book = await open_book(session, _accounts(settlements))
    used = await _insert_usage(session, records, settlements)
    were_out = {tenant: is_out(book, tenant) for tenant in used}
    for tenant, (cost, requests) in used.items():
        charge(book, _inference(tenant, settlements[tenant], cost, requests))
    await write(session, book)
    for tenant, was_out in were_out.items():
        await tell_when_out(session, book, tenant, was_out)
    return sum(requests for _cost, requests in used.values())


@dataclass(frozen=True)
class _Use:
    """What the new records of one tenant cost together (nano-dollars), and how many they are."""

    settlement: UUID
    cost: int
    requests: int


def _accounts(tenants: Iterable[TenantId]) -> list[str]:
    return [
        code
        for tenant in tenants
        for code in (codes.customer(tenant), codes.debt(tenant), codes.revenue("inference", tenant))
    ]


def _roll(book: Book, roll: LeaseRoll, use: _Use, now: datetime) -> Lease | None:
    borne = _close(book, roll.lease_id, use)
    charge(book, _inference(roll.tenant_id, use.settlement, use.cost - borne, use.requests))
    settle_debt(book, roll.tenant_id, cause=str(use.settlement))
    return _lend(book, roll, now)


def _close(book: Book, lease_id: UUID | None, use: _Use) -> int:
    """Post what was used from the lease, or void it; the part of the cost that the lease bore."""
    held = book.holds.get(lease_id) if lease_id else None
    if held is None:
        return 0
    borne = min(use.cost, held.amount)
    reference, words = (f"settlement:{use.settlement}", _words(use.requests)) if borne else ("", "Lease returned")
    transfer = Transfer(
        uuid5(use.settlement, "lease"),
        held.debit,
        held.credit,
        borne or held.amount,
        "inference" if borne else "lease",
        reference,
        words,
        pending_id=held.id,
    )
    book.resolve(transfer, "posted" if borne else "voided")
    return borne


def _inference(tenant: UUID, settlement: UUID, cost: int, requests: int) -> Charge:
    return Charge(settlement, tenant, "inference", cost, f"settlement:{settlement}", _words(requests))


def _words(requests: int) -> str:
    return f"Talking, {requests} request{'' if requests == 1 else 's'}"


def _lend(book: Book, roll: LeaseRoll, now: datetime) -> Lease | None:
    credit = book.accounts[codes.customer(roll.tenant_id)]
    amount = min(roll.want, credit.available)
    if amount <= 0 or amount < roll.minimum:
        return None
    lease = Lease(new_id(), Nanos(amount), now + timedelta(seconds=roll.seconds))
    revenue = codes.revenue("inference", roll.tenant_id)
    book.hold(Transfer(lease.id, credit.code, revenue, amount, "lease", expires_at=lease.expires_at))
    return lease


async def _insert_usage(
    session: AsyncSession, records: Sequence[UsageRecord], settlements: dict[TenantId, UUID]
) -> dict[TenantId, tuple[int, int]]:
    """Store the records that are new, also in their keys' spending; per tenant what they cost and how many they are."""
    if not records:
        return {}
    unique = sorted({record.request_id: record for record in records}.values(), key=lambda r: r.request_id)
    columns: dict[str, list[object]] = defaultdict(list)
    for r in unique:
        columns["request_ids"].append(r.request_id)
        columns["settlement_ids"].append(settlements[r.tenant_id])
        columns["tenant_ids"].append(r.tenant_id)
        columns["key_ids"].append(r.key_id)
        columns["bot_ids"].append(r.bot_id)
        columns["turn_ids"].append(r.turn_id)
        columns["kinds"].append(r.kind)
        columns["models"].append(r.model)
        columns["node_ids"].append(r.node_id)
        columns["prompt_tokens"].append(r.prompt_tokens)
        columns["completion_tokens"].append(r.completion_tokens)
        columns["units"].append(r.units)
        columns["costs"].append(r.cost)
        columns["upstream_costs"].append(r.upstream_cost)
        columns["statuses"].append(r.status)
        columns["starts"].append(r.started_at)
        columns["durations"].append(r.duration_ms)
        columns["first_tokens"].append(r.first_token_ms)
    result = await session.execute(INSERT_USAGE, dict(columns))
    return {TenantId(row.tenant_id): (row.cost, row.requests) for row in result}
