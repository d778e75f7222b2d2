"""A bot's move to another image, as its row tells it: each transition is one statement that only one process can make.

waiting → copying → trying → kept, or from trying → returning → returned. What is done between two of them is in
`updating`, and may be done again: a process that is killed at any point leaves the stage to the next one.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.notify import notify
from wopr.fleet.bots import BOTS_CHANNEL
from wopr.fleet.models import Bot, BotImageFailure, BotObserved, BotUpdate
from wopr.fleet.plan import Stage

AT_REST = (Stage.KEPT.value, Stage.RETURNED.value)
RETRY_PAUSE = timedelta(minutes=10)
ERROR_CHARACTERS_MAX = 500


async def begin(session: AsyncSession, bot_id: UUID, image_from: str, image_to: str, now: datetime) -> bool:
    """Have a bot move; False when it is moving already."""
    fresh = {
        "stage": Stage.WAITING.value,
        "image_from": image_from,
        "image_to": image_to,
        "began_at": now,
        "error": "",
        "kept_until": None,
    }
    statement = insert(BotUpdate).values(bot_id=bot_id, **fresh)
    known = BotUpdate.stage.in_(AT_REST)
    done = await session.execute(statement.on_conflict_do_update(index_elements=["bot_id"], set_=fresh, where=known))
    await notify(session, BOTS_CHANNEL, str(bot_id))
    return _rows(done) == 1


async def advance(session: AsyncSession, bot_id: UUID, before: Stage, after: Stage) -> bool:
    """Go on from one stage to the next; False when another process did."""
    return await _move(session, bot_id, before, stage=after.value)


async def try_new(session: AsyncSession, row: BotUpdate) -> bool:
    """The copy is made: from now on the bot starts with the new image."""
    if not await _move(session, row.bot_id, Stage.COPYING, stage=Stage.TRYING.value):
        return False
    await _start_with(session, row.bot_id, row.image_to)
    return True


async def accept(session: AsyncSession, row: BotUpdate, keep_until: datetime) -> bool:
    """The bot answered on its new image; the copy is kept until then."""
    return await _move(session, row.bot_id, Stage.TRYING, stage=Stage.KEPT.value, kept_until=keep_until)


async def judge(session: AsyncSession, bot_id: UUID, reason: str, now: datetime) -> bool:
    """A start failed: when the bot was trying a new image, that one is to blame, and the bot returns."""
    error = reason[:ERROR_CHARACTERS_MAX]
    if not await _move(session, bot_id, Stage.TRYING, stage=Stage.RETURNING.value, error=error):
        return False
    image = await session.scalar(select(BotUpdate.image_to).where(BotUpdate.bot_id == bot_id))
    seen = {"last_error": error, "last_bot_id": bot_id, "last_at": now}
    statement = insert(BotImageFailure).values(image=image, failures=1, **seen)
    counted = {**seen, "failures": BotImageFailure.failures + 1}
    await session.execute(statement.on_conflict_do_update(index_elements=["image"], set_=counted))
    return True


async def settle_back(session: AsyncSession, row: BotUpdate, now: datetime) -> bool:
    """The data of before is back: from now on the bot starts with the old image."""
    until = now + RETRY_PAUSE
    if not await _move(session, row.bot_id, Stage.RETURNING, stage=Stage.RETURNED.value, kept_until=until):
        return False
    await _start_with(session, row.bot_id, row.image_from)
    return True


async def leave(session: AsyncSession, bot_id: UUID, before: Stage, error: str, until: datetime) -> bool:
    """Give a move up before anything of the bot changed; it is left alone until then. No image is to blame."""
    return await _move(
        session, bot_id, before, stage=Stage.RETURNED.value, kept_until=until, error=error[:ERROR_CHARACTERS_MAX]
    )


async def expired(session: AsyncSession, now: datetime, limit: int) -> Sequence[BotUpdate]:
    """Updates at rest whose copies have been kept for long enough."""
    query = select(BotUpdate).where(BotUpdate.stage.in_(AT_REST), BotUpdate.kept_until <= now).limit(limit)
    return (await session.scalars(query)).all()


async def forget(session: AsyncSession, bot_id: UUID) -> None:
    """Drop the row; the copy is gone already."""
    await session.execute(
        delete(BotUpdate).where(BotUpdate.bot_id == bot_id).execution_options(synchronize_session=False)
    )


async def note_copy(session: AsyncSession, bot_id: UUID, generation: int) -> bool:
    """Store which copy is about to be made, before it is; False when the bot isn't at that stage any more."""
    return await _move(session, bot_id, Stage.COPYING, copy_generation=generation)


async def _move(session: AsyncSession, bot_id: UUID, before: Stage, **values: object) -> bool:
    done = await session.execute(
        update(BotUpdate)
        .where(BotUpdate.bot_id == bot_id, BotUpdate.stage == before.value)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return _rows(done) == 1


async def _start_with(session: AsyncSession, bot_id: UUID, image: str) -> None:
    """The image to start with, as a new generation; crashes of the other image don't delay it."""
    await session.execute(
        update(Bot)
        .where(Bot.id == bot_id)
        .values(image=image, generation=Bot.generation + 1)
        .execution_options(synchronize_session=False)
    )
    await session.execute(
        update(BotObserved)
        .where(BotObserved.bot_id == bot_id)
        .values(crashes=[])
        .execution_options(synchronize_session=False)
    )


def _rows(done: object) -> int:
    return cast("CursorResult[Any]", done).rowcount  # Any: the library's own parameter, for rows that are not read
