"""Decides which bots move to another image now: canary bots first, a few at a time, and none to an image that failed.

An image that no bot runs yet gets only as many tries at once as it may fail: however bad it is, no more than three bots
ever see it. How one bot moves is in `updating`.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import case, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.ids import BotId
from wopr.core.platform import Platform
from wopr.fleet import images, updates
from wopr.fleet.images import FAILURES_MAX, Images
from wopr.fleet.models import Bot, BotObserved, BotUpdate
from wopr.fleet.plan import Channel, Desired, Stage, State
from wopr.fleet.runtimes.protocol import Copies, RuntimeFailed
from wopr.ops.incidents import Severity
from wopr.ops.journal import Journal
from wopr.ops.outages import Watch, Watched

WATCH = "bot images"
BEHIND_MAX = 1_000
COPIES_AT_ONCE_MAX = 20
DETAIL_MAX = 300
STUCK_AFTER = timedelta(hours=1)  # such as a bot whose data is too large to start with any image

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Behind:
    """A bot that runs, or should, on another image than the one it is meant to. `paused`: it came back a while ago."""

    bot_id: UUID
    channel: str
    image: str
    wanted: str
    paused: bool = False


@dataclass(frozen=True)
class Moving:
    """A bot that is on its way. `rests`: it is stopped, suspended or stuck in the middle, and holds up nobody."""

    bot_id: UUID
    channel: str
    stage: Stage
    image: str
    wanted: str
    rests: bool = False


@dataclass(frozen=True)
class Fleet:
    """What deciding needs: who is behind, who moves, how often images failed, and which have been seen to work."""

    behind: Sequence[Behind]
    moving: Sequence[Moving]
    failures: Mapping[str, int]
    proven: frozenset[str]


def choose(fleet: Fleet, at_once: int) -> Sequence[Behind]:
    """The bots that begin to move now. Pure."""
    active = [bot for bot in fleet.moving if not bot.rests]
    room = at_once - len(active)
    tries = Counter(bot.image for bot in active)
    awaited = {bot.wanted for bot in fleet.behind if bot.channel == Channel.CANARY}
    awaited |= {bot.image for bot in active if bot.channel == Channel.CANARY}
    chosen: list[Behind] = []
    for bot in sorted(fleet.behind, key=lambda bot: (bot.channel != Channel.CANARY, bot.bot_id)):
        failed = fleet.failures.get(bot.wanted, 0)
        tries_max = at_once if bot.wanted in fleet.proven else FAILURES_MAX - failed
        if bot.paused or failed >= FAILURES_MAX or tries[bot.wanted] >= tries_max:
            continue
        if bot.channel == Channel.STABLE and bot.wanted in awaited:
            continue
        if len(chosen) >= room:
            break
        chosen.append(bot)
        tries[bot.wanted] += 1
    return chosen


def superseded(fleet: Fleet) -> Sequence[Moving]:
    """The bots that wait to move to an image that nobody wants for them any more, or that has failed. Pure."""
    return [
        bot
        for bot in fleet.moving
        if bot.stage is Stage.WAITING and (bot.image != bot.wanted or fleet.failures.get(bot.image, 0) >= FAILURES_MAX)
    ]


class Rollout:
    """One pass after the other; it remembers nothing but what the journal said last."""

    def __init__(self, platform: Platform, copies: Copies | None) -> None:
        self._platform = platform
        self._copies = copies
        self._watch = Watch(Journal(platform.settings.wopr_home), WATCH, after_seconds=0.0)

    async def run_pass(self) -> Mapping[str, int]:
        """Remove copies that were kept for long enough, then let the next bots begin; tell of images that failed."""
        if self._copies is None:
            return {}
        dropped = await self._drop(self._copies)
        now = self._platform.clock.now()
        async with self._platform.db.begin() as session:
            known = await images.read(session, self._platform.settings)
            fleet = await _look(session, known, now)
            left = superseded(fleet)
            for bot in left:
                await updates.leave(session, bot.bot_id, Stage.WAITING, "Another image is wanted by now.", now)
            begun = choose(fleet, self._platform.settings.bot_updates_at_once)
            for candidate in begun:
                await updates.begin(session, candidate.bot_id, candidate.image, candidate.wanted, now)
            bad = await _bad(session, known)
        await asyncio.to_thread(self._watch.settle, bad, now)
        return {
            "behind": len(fleet.behind),
            "moving": len(fleet.moving) - len(left) + len(begun),
            "begun": len(begun),
            "copies_dropped": dropped,
            "quarantined": len(bad),
        }

    async def _drop(self, copies: Copies) -> int:
        async with self._platform.db.begin() as session:
            found = await updates.expired(session, self._platform.clock.now(), COPIES_AT_ONCE_MAX)
            kept = [(row.bot_id, row.copy_generation) for row in found]
        dropped = 0
        for bot_id, generation in kept:
            try:
                if generation is not None:
                    await copies.drop(BotId(bot_id), generation)
            except RuntimeFailed as error:
                log.warning("bot.copy_not_removed", bot_id=str(bot_id), error=error.message)
                continue
            async with self._platform.db.begin() as session:
                await updates.forget(session, bot_id)
            dropped += 1
        return dropped


async def _look(session: AsyncSession, known: Images, now: datetime) -> Fleet:
    wanted = case(
        (Bot.channel == Channel.PINNED.value, Bot.pinned_image),
        (Bot.channel == Channel.CANARY.value, known.wanted(Channel.CANARY, None)),
        else_=known.wanted(Channel.STABLE, None),
    )
    living = (
        select(Bot, BotObserved.state, BotUpdate)
        .join(BotObserved, BotObserved.bot_id == Bot.id)
        .outerjoin(BotUpdate, BotUpdate.bot_id == Bot.id)
        .where(Bot.deleted_at.is_(None), Bot.desired != Desired.DELETED.value)
    )
    moving = [
        Moving(bot.id, bot.channel, Stage(row.stage), row.image_to, known.wanted(bot.channel, bot.pinned_image), rests)
        for bot, state, row in await session.execute(living.where(BotUpdate.stage.not_in(updates.AT_REST)))
        for rests in [_rests(bot, state, row, now)]
    ]
    late = living.where(
        Bot.desired == Desired.RUNNING.value,
        Bot.image.is_not(None),
        Bot.image != wanted,
        BotObserved.state != State.SUSPENDED.value,
        or_(BotUpdate.stage.is_(None), BotUpdate.stage.in_(updates.AT_REST)),
    ).order_by(Bot.channel == Channel.STABLE.value, Bot.id)
    behind = [
        Behind(bot.id, bot.channel, bot.image or "", aim, _paused(row, aim, now))
        for bot, _, row in await session.execute(late.limit(BEHIND_MAX))
        for aim in [known.wanted(bot.channel, bot.pinned_image)]
    ]
    aims = {bot.wanted for bot in behind}
    works = select(Bot.image).join(BotObserved, BotObserved.bot_id == Bot.id)
    works = works.outerjoin(BotUpdate, BotUpdate.bot_id == Bot.id).where(
        Bot.image.in_(aims),
        Bot.deleted_at.is_(None),
        BotObserved.state == State.RUNNING.value,
        or_(BotUpdate.stage.is_(None), BotUpdate.stage.in_(updates.AT_REST)),
    )
    proven = await session.scalars(works.distinct()) if aims else ()
    return Fleet(behind, moving, known.failures, frozenset(image for image in proven if image))


def _rests(bot: Bot, state: str, row: BotUpdate, now: datetime) -> bool:
    return bot.desired != Desired.RUNNING.value or state == State.SUSPENDED.value or row.began_at < now - STUCK_AFTER


def _paused(row: BotUpdate | None, wanted: str, now: datetime) -> bool:
    """Whether the bot came back from this very image a moment ago."""
    if row is None or row.stage != Stage.RETURNED.value or row.image_to != wanted:
        return False
    return row.kept_until is not None and row.kept_until > now


async def _bad(session: AsyncSession, known: Images) -> list[Watched]:
    """The images that are wanted and have failed too often, as the operator is told of them."""
    pinned = await session.scalars(select(Bot.pinned_image).where(Bot.pinned_image.is_not(None)).distinct())
    wanted = {known.wanted(Channel.STABLE, None), known.wanted(Channel.CANARY, None), *pinned}
    return [
        Watched(
            key=f"bot-image:{image}",
            title=f"The bots' image {image[-71:]} failed on {known.failures[image]} bots: nothing more moves to it",
            severity=Severity.SEV3,
            down=True,
            detail=error[:DETAIL_MAX],
        )
        for image, error in (await images.errors(session)).items()
        if image in wanted and known.quarantined(image)
    ]
