"""Bots that the platform can't start, for the incident that opens by itself: their customers are told that we know."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.fleet.models import Bot, BotObserved
from wopr.fleet.plan import Desired, State
from wopr.ops.incidents import Severity
from wopr.ops.outages import Watched


async def bots_that_do_not_start(session: AsyncSession) -> Sequence[Watched]:
    """One thing for all of them: a registry that is away concerns every bot that it has to start."""
    query = (
        select(func.count(), func.max(BotObserved.operator_error))
        .join(Bot, Bot.id == BotObserved.bot_id)
        .where(
            Bot.deleted_at.is_(None),
            Bot.desired == Desired.RUNNING.value,
            BotObserved.state.in_((State.STARTING.value, State.FAILED.value)),
            BotObserved.instance_id.is_(None),
            BotObserved.operator_error.is_not(None),
        )
    )
    count, why = (await session.execute(query)).one()
    title = "1 bot does not start" if count == 1 else f"{count} bots do not start"
    return [Watched("bots:start", title, Severity.SEV3, count > 0, detail=why or "")]
