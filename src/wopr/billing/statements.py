"""What a customer reads about money: movements, spending by day, requests, the plan."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing import codes
from wopr.billing.ledger import Balance
from wopr.core.errors import BadRequest
from wopr.core.ids import TenantId
from wopr.core.money import Nanos

PAGE_MAX = 200
SPEND_DAYS = 30
WINDOW_DAYS = 31
RATE_DAYS = 7
DAILY = {"inference": "Talking", "runtime": "Running bots"}
PLAN_STATES = {
    "active": "active",
    "trialing": "active",
    "past_due": "past_due",
    "unpaid": "past_due",
    "paused": "past_due",
    "canceled": "canceled",
}


def _side(own: str, other: str, mine: str, sign: str) -> str:
    return (
        f"SELECT id, created_at, kind, description, {sign}amount AS amount, seq FROM ledger_transfers "  # noqa: S608
        f"WHERE {own} = :{mine} AND {other} <> :{'debt' if mine == 'customer' else 'customer'} "
        "AND phase IN ('immediate', 'posted') AND created_at < :before"
    )


# One index scan for each side of each account. Settling a debt moves money between the tenant's two accounts: neither
# less nor more is there afterwards, so it is no movement.
SIDES = " UNION ALL ".join(
    _side(own, other, mine, sign)
    for mine in ("customer", "debt")
    for own, other, sign in (("debit", "credit", "-"), ("credit", "debit", ""))
)
LATEST = text(f"SELECT max(created_at) FROM ({SIDES}) m")  # noqa: S608
# What is charged every few seconds is one line a day; everything else is a line of its own.
MOVEMENTS = text(
    "SELECT (array_agg(id ORDER BY seq DESC))[1], max(created_at), kind, max(description), sum(amount)::bigint, "  # noqa: S608
    f"day FROM (SELECT *, (created_at AT TIME ZONE 'UTC')::date AS day FROM ({SIDES} ) s WHERE created_at >= :since) m "
    "GROUP BY day, kind, CASE WHEN kind IN ('inference', 'runtime') THEN NULL ELSE id END "
    "ORDER BY day DESC, max(seq) DESC"
)


@dataclass(frozen=True)
class Movement:
    """One movement of a tenant's money; negative takes credit away (or adds debt)."""

    id: UUID
    created_at: datetime
    kind: str
    description: str
    amount: Nanos


@dataclass(frozen=True)
class UsageFilter:
    """Which requests: of one bot, of one turn, or all."""

    bot_id: UUID | None = None
    turn_id: UUID | None = None


@dataclass(frozen=True)
class DaySpend:
    """What one day (UTC) cost."""

    day: date
    inference: Nanos
    runtime: Nanos


@dataclass(frozen=True)
class PlanView:
    """The subscription: none, active, past_due or canceled, and when it renews or ends."""

    status: str
    renews_at: datetime | None = None
    cancels_at: datetime | None = None


async def list_movements(
    session: AsyncSession, tenant_id: TenantId, cursor: str | None = None, limit: int = 50
) -> tuple[list[Movement], str | None]:
    """Movements newest first, inference and running time summed by day, and the cursor of the next page.

    A page ends with a whole day, so it may hold a few more than `limit`. The sum over all pages is credit (held
    included) minus debt.
    """
    accounts = {"customer": codes.customer(tenant_id), "debt": codes.debt(tenant_id)}
    before, wanted = _day_before(cursor), max(1, min(limit, PAGE_MAX))
    page: list[Movement] = []
    while latest := await session.scalar(LATEST, {**accounts, "before": before}):
        if len(page) >= wanted:
            return page, before.date().isoformat()
        since = _midnight(latest.astimezone(UTC).date() - timedelta(days=WINDOW_DAYS - 1))
        rows = (await session.execute(MOVEMENTS, {**accounts, "before": before, "since": since})).all()
        for day, of_day in groupby(rows, key=lambda row: row.day):
            page += [_movement(tenant_id, row) for row in of_day]
            before = _midnight(day)
            if len(page) >= wanted:
                break
    return page, None


async def list_usage(
    session: AsyncSession, tenant_id: TenantId, wanted: UsageFilter, cursor: str | None = None, limit: int = 50
) -> tuple[list[Any], str | None]:
    """Metered requests newest first (rows of usage_records), and the cursor of the next page."""
    size = max(1, min(limit, PAGE_MAX))
    found = await session.execute(
        text(
            "SELECT * FROM usage_records WHERE tenant_id = :tenant AND seq < :before "
            "AND (CAST(:bot AS uuid) IS NULL OR bot_id = :bot) AND (CAST(:turn AS uuid) IS NULL OR turn_id = :turn) "
            "ORDER BY seq DESC LIMIT :limit"
        ),
        {
            "tenant": tenant_id,
            "bot": wanted.bot_id,
            "turn": wanted.turn_id,
            "before": _before(cursor),
            "limit": size + 1,
        },
    )
    rows = list(found.all())
    return rows[:size], str(rows[size - 1].seq) if len(rows) > size else None


async def usage_total(session: AsyncSession, tenant_id: TenantId, wanted: UsageFilter) -> Nanos:
    """What the metered requests cost together."""
    total = await session.scalar(
        text(
            "SELECT coalesce(sum(cost), 0)::bigint FROM usage_records WHERE tenant_id = :tenant "
            "AND (CAST(:bot AS uuid) IS NULL OR bot_id = :bot) AND (CAST(:turn AS uuid) IS NULL OR turn_id = :turn)"
        ),
        {"tenant": tenant_id, "bot": wanted.bot_id, "turn": wanted.turn_id},
    )
    return Nanos(total or 0)


async def spend_by_day(session: AsyncSession, tenant_id: TenantId, now: datetime) -> list[DaySpend]:
    """The last 30 days (UTC), oldest first, today last; a day without spending is there with zeros."""
    today = now.astimezone(UTC).date()
    first = today - timedelta(days=SPEND_DAYS - 1)
    found = await session.execute(
        text(
            "SELECT day, sum(inference)::bigint, sum(runtime)::bigint FROM ("
            "  SELECT (started_at AT TIME ZONE 'UTC')::date AS day, cost AS inference, 0 AS runtime FROM usage_records "
            "  WHERE tenant_id = :tenant AND started_at >= :first"
            "  UNION ALL "
            "  SELECT (started_at AT TIME ZONE 'UTC')::date, 0, cost FROM runtime_periods "
            "  WHERE tenant_id = :tenant AND started_at >= :first"
            ") s GROUP BY day"
        ),
        {"tenant": tenant_id, "first": _midnight(first)},
    )
    known = {row[0]: DaySpend(row[0], Nanos(row[1]), Nanos(row[2])) for row in found}
    days = [first + timedelta(days=offset) for offset in range(SPEND_DAYS)]
    return [known.get(day, DaySpend(day, Nanos(0), Nanos(0))) for day in days]


def lasts_days(money: Balance, spend: list[DaySpend], running_day: Nanos, now: datetime) -> float | None:
    """For how many days the credit lasts; None while nothing is spent. `running_day`: what running bots cost a day.

    Requests cost as they did in the last week, over the time since the first day with spending (at least a day, so that
    a busy first hour is no forecast). Bots cost what they did, but at least what those that run now cost.
    """
    recent = spend[-RATE_DAYS:]
    first = next((n for n, day in enumerate(recent) if day.inference + day.runtime > 0), len(recent) - 1)
    seen = recent[first:]
    # Today counts as far as it has gone.
    days = max(1.0, (now - _midnight(seen[0].day)) / timedelta(days=1))
    requests, runtime = sum(day.inference for day in seen), sum(day.runtime for day in seen)
    pace = requests / days + max(runtime / days, running_day)
    if pace == 0:
        return None
    left = money.available + money.held - money.debt
    return round(max(left, 0) / pace, 1)


async def plan_of(session: AsyncSession, tenant_id: TenantId) -> PlanView:
    """The tenant's subscription: the running one, else the latest that ended."""
    found = await session.execute(
        text(
            "SELECT status, renews_at, cancels_at FROM stripe_subscriptions WHERE tenant_id = :tenant "
            "ORDER BY created_at DESC"
        ),
        {"tenant": tenant_id},
    )
    views = [PlanView(PLAN_STATES.get(row.status, "none"), row.renews_at, row.cancels_at) for row in found]
    ranked = sorted(views, key=lambda view: ("active", "past_due", "canceled", "none").index(view.status))
    return ranked[0] if ranked else PlanView("none")


def _movement(tenant_id: TenantId, row: Any) -> Movement:  # a row of MOVEMENTS
    transfer_id, created_at, kind, description, amount, day = row
    if kind in DAILY:
        return Movement(uuid5(tenant_id, f"{day}:{kind}"), created_at, kind, DAILY[kind], amount)
    return Movement(transfer_id, created_at, kind, description, amount)


def _day_before(cursor: str | None) -> datetime:
    if cursor is None:
        return datetime.max.replace(tzinfo=UTC)
    try:
        return _midnight(date.fromisoformat(cursor))
    except ValueError as error:
        raise BadRequest("The cursor can't be read.", remedy="Use `next_cursor` of the page before.") from error


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _before(cursor: str | None) -> int:
    if cursor is None:
        return 2**63 - 1
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise BadRequest("The cursor can't be read.", remedy="Use `next_cursor` of the page before.")
    return int(cursor)
