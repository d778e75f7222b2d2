"""Stripe's events: stored once, applied apart, with retries and an end that people see."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing.payments import EventHead
from wopr.core.errors import BadRequest, NotFound
from wopr.core.notify import notify

INBOX_CHANNEL = "wopr_inbox"
ATTEMPTS_MAX = 8
# While Stripe (or our database) is away the fault is not the event's: three days, hourly in the end.
OUTAGE_ATTEMPTS_MAX = 80
FIRST_DELAY_SECONDS = 10
DELAY_SECONDS_MAX = 3600
ERROR_CHARACTERS_MAX = 1_000
PAGE_MAX = 100

State = Literal["pending", "applied", "failed", "unmatched"]
# What we act on; also what we ask for when we look for missed events, of which Stripe takes 20 types at most.
HANDLED = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "invoice.paid",
    "invoice.payment_succeeded",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "charge.refunded",
    "charge.refund.updated",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)


@dataclass(frozen=True)
class Failure:
    """Why an event could not be applied; `outage`: something is away that will be back, and patience is long."""

    state: State
    reason: str
    outage: bool = False


@dataclass(frozen=True)
class InboxView:
    """An event as administrators see it."""

    id: str
    type: str
    state: State
    attempts: int
    last_error: str | None
    received_at: datetime
    applied_at: datetime | None


@dataclass(frozen=True)
class InboxPage:
    """Newest first; `next_cursor` is None on the last page."""

    events: list[InboxView]
    next_cursor: str | None


async def store(session: AsyncSession, events: Sequence[EventHead], now: datetime) -> int:
    """Keep events that are not there yet and wake the worker; how many were new. Those we never act on are done."""
    if not events:
        return 0
    wanted = {event.id: event for event in events}.values()
    added = await session.execute(
        text(
            "INSERT INTO stripe_inbox (id, type, object_id, state, next_attempt_at, received_at, applied_at) "
            "SELECT id, type, object_id, CASE WHEN ours THEN 'pending' ELSE 'applied' END, "
            "  CASE WHEN ours THEN CAST(:now AS timestamptz) END, CAST(:now AS timestamptz), "
            "  CASE WHEN NOT ours THEN CAST(:now AS timestamptz) END "
            "FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:objects AS text[]), "
            "  CAST(:ours AS boolean[])) AS e (id, type, object_id, ours) ON CONFLICT DO NOTHING RETURNING id"
        ),
        {
            "now": now,
            "ids": [event.id for event in wanted],
            "types": [event.type for event in wanted],
            "objects": [event.object_id for event in wanted],
            "ours": [event.type in HANDLED for event in wanted],
        },
    )
    count = len(added.all())
    if count:
        await notify(session, INBOX_CHANNEL, "")
    return count


async def ask_again(session: AsyncSession, event: EventHead, now: datetime) -> None:
    """Keep the event, or have it applied once more: for a person who comes back from the payment page."""
    await session.execute(
        text(
            "INSERT INTO stripe_inbox (id, type, object_id, next_attempt_at, received_at) "
            "VALUES (:id, :type, :object, :now, :now) ON CONFLICT (id) DO UPDATE SET state = 'pending', attempts = 0, "
            "next_attempt_at = :now WHERE stripe_inbox.next_attempt_at IS NULL"
        ),
        {"id": event.id, "type": event.type, "object": event.object_id, "now": now},
    )


async def due(session: AsyncSession, now: datetime, limit: int) -> list[EventHead]:
    """The events whose turn it is, oldest first."""
    found = await session.execute(
        text(
            "SELECT id, type, object_id FROM stripe_inbox WHERE next_attempt_at <= :now "
            "ORDER BY next_attempt_at, seq LIMIT :limit"
        ),
        {"now": now, "limit": limit},
    )
    return [EventHead(*row) for row in found]


async def mark_applied(session: AsyncSession, event_id: str, now: datetime) -> bool:
    """Claim and close an event, in the transaction of its effect; False when another worker got there first."""
    row = await session.execute(
        text(
            "UPDATE stripe_inbox SET state = 'applied', applied_at = :now, next_attempt_at = NULL, last_error = NULL, "
            "attempts = attempts + 1 WHERE id = :id AND state <> 'applied' RETURNING id"
        ),
        {"id": event_id, "now": now},
    )
    return row.first() is not None


async def mark_failed(session: AsyncSession, event_id: str, failure: Failure, now: datetime) -> None:
    """Record a failure. `pending` and `unmatched` are tried again, later and later, until the attempts are used up."""
    attempts = await session.scalar(
        text("SELECT attempts FROM stripe_inbox WHERE id = :id AND state <> 'applied' FOR UPDATE"), {"id": event_id}
    )
    if attempts is None:
        return
    attempts += 1
    last = failure.state == "failed" or attempts >= (OUTAGE_ATTEMPTS_MAX if failure.outage else ATTEMPTS_MAX)
    await session.execute(
        text(
            "UPDATE stripe_inbox SET state = :state, attempts = :attempts, last_error = :reason, "
            "next_attempt_at = :next WHERE id = :id"
        ),
        {
            "id": event_id,
            "state": "failed" if last and failure.state == "pending" else failure.state,
            "attempts": attempts,
            "reason": failure.reason[:ERROR_CHARACTERS_MAX],
            "next": None if last else now + timedelta(seconds=delay_seconds(attempts)),
        },
    )


async def retry(session: AsyncSession, event_id: str, now: datetime) -> InboxView:
    """An administrator wants an event applied once more, from the first attempt; NotFound."""
    row = await session.execute(
        text(
            "UPDATE stripe_inbox SET attempts = 0, state = 'pending', next_attempt_at = :now WHERE id = :id "
            "RETURNING id, type, state, attempts, last_error, received_at, applied_at"
        ),
        {"id": event_id, "now": now},
    )
    found = row.one_or_none()
    if found is None:
        raise NotFound("There is no such event.", remedy="See the list of events.")
    await notify(session, INBOX_CHANNEL, event_id)
    return InboxView(*found)


async def list_events(
    session: AsyncSession, state: State | None = None, cursor: str | None = None, limit: int = 50
) -> InboxPage:
    """Events, newest first, of one state or all."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise BadRequest("The cursor can't be read.", remedy="Use `next_cursor` of the page before.")
    size = max(1, min(limit, PAGE_MAX))
    found = await session.execute(
        text(
            "SELECT id, type, state, attempts, last_error, received_at, applied_at, seq FROM stripe_inbox "
            "WHERE (CAST(:state AS text) IS NULL OR state = :state) "
            "AND (CAST(:cursor AS bigint) IS NULL OR seq < :cursor) ORDER BY seq DESC LIMIT :limit"
        ),
        {"state": state, "cursor": int(cursor) if cursor else None, "limit": size + 1},
    )
    rows = found.all()
    page = [InboxView(*row[:-1]) for row in rows[:size]]
    return InboxPage(page, str(rows[size - 1].seq) if len(rows) > size else None)


async def count_by_state(session: AsyncSession) -> dict[str, int]:
    """How many events are in each state; states without events are left out."""
    found = await session.execute(text("SELECT state, count(*) FROM stripe_inbox GROUP BY state ORDER BY state"))
    return {str(state): int(count) for state, count in found}


def delay_seconds(attempts: int) -> int:
    """The pause after so many failed attempts: doubled each time, an hour at most."""
    return int(min(DELAY_SECONDS_MAX, FIRST_DELAY_SECONDS * 2 ** (attempts - 1)))
