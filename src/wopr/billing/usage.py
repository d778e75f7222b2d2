"""What was used: one record a request, one period a stretch of running time, each charged once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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


async def charge_runtime(session: AsyncSession, runtime: BotRuntime, sheet: PriceSheet) -> Nanos:
    """Charge the seconds of the stretch that were not charged before; what they cost in nano-dollars.

    Whole seconds are charged; the rest of a second belongs to the next call, so keep `end` of one call as `start` of
    the next, or simply pass the bot's start each time: what is stored is never charged again. What the balance can't
    bear becomes debt. KeyError for a size that the sheet does not have.
    """
    tenant, bot = runtime.tenant_id, runtime.bot_id
    touched = [codes.customer(tenant), codes.debt(tenant), codes.revenue("runtime", tenant)]
    book = await open_book(session, touched)
    stored = await session.execute(
        text(
            "SELECT started_at, ended_at FROM runtime_periods WHERE bot_id = :bot AND ended_at > :start "
            "AND started_at < :end ORDER BY started_at"
        ),
        {"bot": bot, "start": runtime.start, "end": runtime.end},
    )
    gaps = whole_seconds(uncovered(runtime.start, runtime.end, [(row[0], row[1]) for row in stored]))
    total, was_out = 0, is_out(book, tenant)
    for start, end in gaps:
        seconds = round((end - start).total_seconds())
        cost = sheet.bot_runtime(runtime.size, seconds)
        await session.execute(
            text(
                "INSERT INTO runtime_periods (bot_id, started_at, ended_at, tenant_id, size, cost) "
                "VALUES (:bot, :start, :end, :tenant, :size, :cost)"
            ),
            {"bot": bot, "start": start, "end": end, "tenant": tenant, "size": runtime.size, "cost": cost},
        )
        what = f"{seconds} s of a {runtime.size} bot"
        cause = uuid5(bot, f"runtime:{start.isoformat()}")
        charge(book, Charge(cause, tenant, "runtime", cost, f"bot:{bot}", what))
        total += cost
    await write(session, book)
    await tell_when_out(session, book, tenant, was_out)
    return Nanos(total)


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
