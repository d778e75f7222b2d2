"""The stretches of time in which bots ran, as observed, and the charge for them.

A run is opened when its instance answers and seen again by every pass; it is charged only for what was seen. So nothing
is charged twice (the charge and its mark are one transaction, and billing stores the periods, too), an API that
restarts leaves no gap (the run is adopted with its instance), and time that nobody observed costs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing.prices import PriceSheet
from wopr.billing.usage import BotRuntime, charge_runtime, note_running, note_stopped
from wopr.core.db import Database
from wopr.core.ids import BotId, TenantId
from wopr.fleet.facts import Facts
from wopr.fleet.models import UNCHARGED, BotRun
from wopr.fleet.runtimes.protocol import Instance

CHARGES_MAX = 10_000
SEEN_AGAIN = timedelta(seconds=30)
CHARGE_AFTER_MIN = timedelta(seconds=30)
CHARGE_AFTER_MAX = timedelta(hours=1)


@dataclass(frozen=True)
class Run:
    """An instance that runs."""

    instance_id: UUID
    bot_id: UUID
    tenant_id: UUID
    size: str


async def open_run(session: AsyncSession, run: Run, now: datetime) -> None:
    """Remember that the instance runs from now on; one that is known already only was seen again."""
    await session.execute(
        insert(BotRun)
        .values(
            id=run.instance_id,
            bot_id=run.bot_id,
            tenant_id=run.tenant_id,
            size=run.size,
            started_at=now,
            seen_at=now,
            charged_until=now,
        )
        .on_conflict_do_nothing()
    )
    await note_running(session, run.tenant_id, run.bot_id, run.size)


async def close_runs(session: AsyncSession, bot_id: UUID, keep: UUID | None, ended_at: datetime | None) -> None:
    """End every run of the bot but the instance `keep`. Without a time it ended when it was last seen."""
    end = BotRun.seen_at if ended_at is None else func.greatest(BotRun.seen_at, ended_at)
    others = update(BotRun).where(BotRun.bot_id == bot_id, BotRun.ended_at.is_(None))
    if keep is not None:
        others = others.where(BotRun.id != keep)
    await session.execute(others.values(ended_at=end, seen_at=end).execution_options(synchronize_session=False))
    if keep is None:
        await note_stopped(session, bot_id)


def long_unseen(bots: Iterable[Facts], instances: Mapping[BotId, Instance], now: datetime) -> list[UUID]:
    """The instances that run now and whose runs were not noted for a while, so that most passes write nothing.

    What that leaves uncharged is less than SEEN_AGAIN of a run that ends while nobody watches: one that ends before our
    eyes has a time of its own.
    """
    due = now - SEEN_AGAIN
    return [
        bot.instance_id
        for bot in bots
        if bot.seen_at is not None and bot.seen_at <= due and bot.instance_id is not None
        if (living := instances.get(BotId(bot.id))) is not None and living.id == bot.instance_id
    ]


async def mark_seen(session: AsyncSession, instance_ids: Sequence[UUID], now: datetime) -> None:
    """These instances run at this moment."""
    if not instance_ids:
        return
    await session.execute(
        update(BotRun)
        .where(BotRun.id == func.any(bindparam("ids", list(instance_ids), ARRAY(Uuid))))
        .where(BotRun.ended_at.is_(None), BotRun.seen_at < now)
        .values(seen_at=now)
        .execution_options(synchronize_session=False)
    )


async def charge_runs(db: Database, sheet: PriceSheet) -> int:
    """Charge what was seen and not charged yet, one transaction a run; how many runs were charged.

    A run that goes on is charged when as much again has passed as was charged before, at least once an hour: a new
    customer sees at once what a bot costs, and a year of running is not half a million movements.
    """
    async with db.begin() as session:
        waiting = BotRun.seen_at - BotRun.charged_until
        so_far = BotRun.charged_until - BotRun.started_at
        due = select(BotRun.id).where(
            text(UNCHARGED),
            waiting >= timedelta(seconds=1),
            or_(
                BotRun.ended_at.is_not(None),
                waiting >= func.least(CHARGE_AFTER_MAX, func.greatest(CHARGE_AFTER_MIN, so_far)),
            ),
        )
        ids = list(await session.scalars(due.order_by(BotRun.tenant_id).limit(CHARGES_MAX)))
    charged = 0
    for run_id in ids:
        async with db.begin() as session:
            charged += await _charge(session, run_id, sheet)
    return charged


async def _charge(session: AsyncSession, run_id: UUID, sheet: PriceSheet) -> int:
    run = await session.get(BotRun, run_id, with_for_update={"skip_locked": True})
    if run is None:
        return 0
    seconds = int((run.seen_at - run.charged_until).total_seconds())
    if seconds < 1:
        return 0
    until = run.charged_until + timedelta(seconds=seconds)
    size = run.size if run.size in sheet.bots else "standard"
    runtime = BotRuntime(TenantId(run.tenant_id), BotId(run.bot_id), size, run.charged_until, until)
    await charge_runtime(session, runtime, sheet)
    run.charged_until = until
    return 1
