"""What was used: one record a request, one period a stretch of running time, each charged once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from typing import Literal
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing import codes
from wopr.billing.charges import Charge, charge, is_out, tell_when_out
from wopr.billing.ledger import open_book, write
from wopr.billing.prices import PriceSheet
from wopr.core.ids import BotId, KeyId, TenantId, TurnId
from wopr.core.money import Nanos

DAY_SECONDS = 86_400
UsageKind = Literal["chat", "completion", "embedding", "speech", "transcription"]
UsageStatus = Literal["ok", "cut", "failed"]
Interval = tuple[datetime, datetime]


@dataclass(frozen=True)
class UsageRecord:
    """One metered request. `units` are characters of speech or seconds of audio; costs are nano-dollars."""

    request_id: UUID
    tenant_id: TenantId
    key_id: KeyId | None
    bot_id: BotId | None
    turn_id: TurnId | None
    kind: UsageKind
    model: str
    node_id: str | None
    prompt_tokens: int
    completion_tokens: int
    units: int
    cost: Nanos
    upstream_cost: Nanos
    status: UsageStatus
    started_at: datetime
    duration_ms: int
    first_token_ms: int | None


@dataclass(frozen=True)
class BotRuntime:
    """A stretch of time during which a bot of this size ran, from `start` to `end`."""

    tenant_id: TenantId
    bot_id: BotId
    size: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class _Period:
    """A stored stretch; `cost` is what it was charged with so far."""

    start: datetime
    end: datetime
    size: str = ""
    cost: int = 0


KEEP_PERIOD = text(
    "INSERT INTO runtime_periods (bot_id, started_at, ended_at, tenant_id, size, cost) "
    "VALUES (:bot, :start, :end, :tenant, :size, :cost) "
    "ON CONFLICT (bot_id, started_at) DO UPDATE SET ended_at = :end, cost = :cost"
)


async def charge_runtime(session: AsyncSession, runtime: BotRuntime, sheet: PriceSheet) -> Nanos:
    """Charge the seconds of the stretch that were not charged before; what they cost in nano-dollars.

    Whole seconds are charged; the rest of a second belongs to the next call, so pass the bot's start (or the end of
    what was charged last) each time: what is stored is never charged again. What the balance can't bear becomes debt.
    KeyError for a size that the sheet does not have.
    """
    tenant, bot = runtime.tenant_id, runtime.bot_id
    touched = [codes.customer(tenant), codes.debt(tenant), codes.revenue("runtime", tenant)]
    book = await open_book(session, touched)
    stored = await _stored_periods(session, runtime)
    gaps = by_day(whole_seconds(uncovered(runtime.start, runtime.end, [(p.start, p.end) for p in stored])))
    total, was_out = 0, is_out(book, tenant)
    by_end = {period.end: period for period in stored if period.size == runtime.size}
    for start, end in gaps:
        # A period grows through its day, so that a bot that runs for a year has a row a day and not one a minute.
        earlier = by_end.get(start)
        grown = earlier if earlier is not None and _day(earlier.start) == _day(start) else _Period(start, start)
        seconds = _seconds(start, end)
        cost = sheet.bot_runtime(runtime.size, seconds)
        period = _Period(grown.start, end, runtime.size, grown.cost + cost)
        await session.execute(KEEP_PERIOD, {**asdict(period), "bot": bot, "tenant": tenant})
        by_end[end] = period
        cause = uuid5(bot, f"runtime:{start.isoformat()}")
        charge(book, Charge(cause, tenant, "runtime", cost, f"bot:{bot}", f"{seconds} s of a {runtime.size} bot"))
        total += cost
    await write(session, book)
    await tell_when_out(session, book, tenant, was_out)
    return Nanos(total)


async def note_running(session: AsyncSession, tenant_id: UUID, bot_id: UUID, size: str) -> None:
    """The bot runs from now on, in this size: for the forecast, before anything is charged."""
    await session.execute(
        text(
            "INSERT INTO runtime_bots (bot_id, tenant_id, size) VALUES (:bot, :tenant, :size) "
            "ON CONFLICT (bot_id) DO UPDATE SET size = :size"
        ),
        {"bot": bot_id, "tenant": tenant_id, "size": size},
    )


async def note_stopped(session: AsyncSession, bot_id: UUID) -> None:
    """The bot runs no longer."""
    await session.execute(text("DELETE FROM runtime_bots WHERE bot_id = :bot"), {"bot": bot_id})


async def running_cost_day(session: AsyncSession, tenant_id: TenantId, sheet: PriceSheet) -> Nanos:
    """What the tenant's bots that run now cost in a day, in nano-dollars."""
    found = await session.execute(
        text("SELECT size, count(*) FROM runtime_bots WHERE tenant_id = :tenant GROUP BY size"), {"tenant": tenant_id}
    )
    known = [(size, count) for size, count in found if size in sheet.bots]
    return Nanos(sum(sheet.bot_runtime(size, DAY_SECONDS) * count for size, count in known))


def uncovered(start: datetime, end: datetime, periods: Sequence[Interval]) -> list[Interval]:
    """The parts of start..end that none of the (sorted) periods covers."""
    gaps: list[Interval] = []
    for period_start, period_end in periods:
        if period_start > start:
            gaps.append((start, min(period_start, end)))
        start = max(start, period_end)
    if end > start:
        gaps.append((start, end))
    return gaps


def whole_seconds(gaps: Sequence[Interval]) -> list[Interval]:
    """The gaps shortened to whole seconds, those under one second left out."""
    cut = [(start, start + timedelta(seconds=int((end - start).total_seconds()))) for start, end in gaps]
    return [(start, end) for start, end in cut if end > start]


def by_day(gaps: Sequence[Interval]) -> list[Interval]:
    """The gaps cut at midnight UTC, at a whole second after their start, so that each piece belongs to one day."""
    pieces: list[Interval] = []
    for start, end in gaps:
        while True:
            midnight = datetime.combine(_day(start) + timedelta(days=1), time.min, UTC)
            cut = start + timedelta(seconds=ceil((midnight - start).total_seconds()))
            if cut >= end:
                break
            pieces.append((start, cut))
            start = cut
        pieces.append((start, end))
    return pieces


async def _stored_periods(session: AsyncSession, runtime: BotRuntime) -> list[_Period]:
    found = await session.execute(
        text(
            "SELECT started_at, ended_at, size, cost FROM runtime_periods WHERE bot_id = :bot AND ended_at >= :start "
            "AND started_at < :end ORDER BY started_at"
        ),
        {"bot": runtime.bot_id, "start": runtime.start, "end": runtime.end},
    )
    return [_Period(*row) for row in found]


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _seconds(start: datetime, end: datetime) -> int:
    return round((end - start).total_seconds())
