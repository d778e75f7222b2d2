"""What a tenant may do, planned from the balance and from stored dates, never from events.

unfunded: never had credit. active. Then, credit being out: warning → grace → suspended → archived → deleted, one stage
at a time, each for the days that the price sheet says, so that an outage of the planner skips no stage and no mail;
deletion waits for the last reminder and its days. Credit brings a tenant back to active from every stage.

What the stages do: until `suspended` running bots go on as debt; from then on they stand still. `archived` changes
nothing but is the second notice: bots stay stopped and their data stays where it is. At `deleted` the fleet deletes
them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing.ledger import Balance, balances
from wopr.billing.prices import Stages, load_prices
from wopr.core.errors import PaymentRequired
from wopr.core.ids import TenantId
from wopr.core.money import Nanos, show

State = Literal["unfunded", "active", "warning", "grace", "suspended", "archived", "deleted"]
ADD_CREDIT = "Add credit under Billing: a subscription or a top-up."


@dataclass(frozen=True)
class Stored:
    """The stage that was stored, since when, since when credit is out, and when the last reminder was sent."""

    state: State
    since: datetime
    warn_since: datetime | None = None
    reminded_at: datetime | None = None


@dataclass(frozen=True)
class Entitlement:
    """The stage now, the credit left (held included, debt taken off) and the date of each next step."""

    state: State
    available: Nanos
    warn_since: datetime | None = None
    suspends_at: datetime | None = None
    archives_at: datetime | None = None
    deletes_at: datetime | None = None

    @property
    def may_run(self) -> bool:
        """Whether running bots may go on running."""
        return self.state in ("active", "warning", "grace")

    @property
    def may_begin(self) -> bool:
        """Whether new work may begin: creating or starting a bot, an inference request."""
        return self.state == "active"

    def require(self) -> None:
        """PaymentRequired with the remedy unless new work may begin."""
        if self.may_begin:
            return
        if self.state == "unfunded":
            raise PaymentRequired("There is no credit yet.", code="unfunded", remedy=ADD_CREDIT)
        if self.available > 0:
            message = f"The credit is used up but for {show(self.available)}, which is too little for a bot."
            raise PaymentRequired(message, code="out_of_credit", remedy=ADD_CREDIT)
        raise PaymentRequired("The credit is used up.", code="out_of_credit", remedy=ADD_CREDIT)


async def entitlement(
    session: AsyncSession, tenant_id: TenantId, now: datetime, stages: Stages | None = None
) -> Entitlement:
    """What the tenant may do now. Reads only; the loop `entitlements` stores the stages."""
    return (await entitlements(session, [tenant_id], now, stages or load_prices().stages))[tenant_id]


async def entitlements(
    session: AsyncSession, tenant_ids: Collection[TenantId], now: datetime, stages: Stages
) -> dict[TenantId, Entitlement]:
    """What each of these tenants may do now, in two statements however many they are."""
    ids = list(tenant_ids)
    money = await balances(session, ids)
    rows = await session.execute(
        text(
            "SELECT tenant_id, state, since, warn_since, reminded_at FROM entitlements "
            "WHERE tenant_id = ANY(CAST(:tenants AS uuid[]))"
        ),
        {"tenants": ids},
    )
    stored = {TenantId(tenant_id): Stored(*rest) for tenant_id, *rest in rows}
    return {
        tenant_id: describe(plan(money[tenant_id], stored.get(tenant_id), stages, now), money[tenant_id], stages)
        for tenant_id in ids
    }


async def at_the_end(session: AsyncSession) -> list[TenantId]:
    """Tenants whose stored stage is `deleted`; ask `entitlement` of each before acting, since credit may have come."""
    return [
        TenantId(row)
        for row in await session.scalars(text("SELECT tenant_id FROM entitlements WHERE state = 'deleted'"))
    ]


def plan(money: Balance, stored: Stored | None, stages: Stages, now: datetime) -> Stored:
    """The stage now. At most one step beyond the stored one."""
    if money.available + money.held - money.debt >= max(stages.empty_below, 1):
        return stored if stored is not None and stored.state == "active" else Stored("active", now)
    if money.received == 0 and (stored is None or stored.state == "unfunded"):
        return stored or Stored("unfunded", now)
    if stored is None or stored.state in ("active", "unfunded"):
        return Stored("warning", now, now)
    following = _next(stored.state)
    if following is None or now < stored.since + _lasts(stored.state, stages):
        return stored
    if following == "deleted" and (stored.reminded_at is None or now < _after_reminder(stored.reminded_at, stages)):
        return stored
    return Stored(following, now, stored.warn_since)


def describe(stored: Stored, money: Balance, stages: Stages) -> Entitlement:
    """The stage with the dates of what follows, as the present balance has it."""
    left = Nanos(money.available + money.held - money.debt)
    if stored.state in ("unfunded", "active"):
        return Entitlement(stored.state, left)
    dates: dict[str, datetime] = {stored.state: stored.since}
    state, at = stored.state, stored.since
    while (following := _next(state)) is not None:
        at += _lasts(state, stages)
        dates[following] = at
        state = following
    if stored.state == "archived" and stored.reminded_at is not None:
        dates["deleted"] = max(at, _after_reminder(stored.reminded_at, stages))
    return Entitlement(
        stored.state, left, stored.warn_since, dates.get("suspended"), dates.get("archived"), dates.get("deleted")
    )


ORDER: tuple[State, ...] = ("warning", "grace", "suspended", "archived", "deleted")


def _after_reminder(reminded_at: datetime, stages: Stages) -> datetime:
    return reminded_at + timedelta(days=stages.reminder_days)


def _next(state: State) -> State | None:
    position = ORDER.index(state) + 1
    return ORDER[position] if position < len(ORDER) else None


def _lasts(state: State, stages: Stages) -> timedelta:
    days = {
        "warning": stages.warning_days,
        "grace": stages.grace_days,
        "suspended": stages.suspended_days,
        "archived": stages.archived_days,
    }
    return timedelta(days=days[state])
