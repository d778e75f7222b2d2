"""Which image bots shall run on: what operators set for a channel, or pin one bot to, and which images failed.

Without any setting it is BOT_IMAGE. Images are named by their digest: a tag would let bots of one channel differ.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.errors import Conflict, Invalid, NotFound
from wopr.core.ids import new_id
from wopr.core.notify import notify
from wopr.core.settings import Settings
from wopr.fleet.models import Bot, BotImage, BotImageFailure, BotUpdate
from wopr.fleet.plan import Channel
from wopr.fleet.updates import AT_REST

IMAGES_CHANNEL = "wopr_bot_images"
FAILURES_MAX = 3
HISTORY_MAX = 20
UPDATES_MAX = 200
# A digest with or without a repository before it; engines name their own images without one.
REFERENCE = re.compile(r"^(?:[a-z0-9][a-z0-9._:/-]{0,254}@)?sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class Images:
    """What is set, newest first, and how often each image failed."""

    stable: Sequence[str]
    canary: Sequence[str]
    fallback: str
    failures: Mapping[str, int] = field(default_factory=dict)

    def wanted(self, channel: str, pinned: str | None) -> str:
        """The image that a bot shall run on."""
        return self._choices(channel, pinned)[0]

    def fit(self, channel: str, pinned: str | None) -> str:
        """The image for a bot that never ran: the newest that has not failed too often, if there is one."""
        choices = self._choices(channel, pinned)
        return next((image for image in choices if not self.quarantined(image)), choices[0])

    def quarantined(self, image: str) -> bool:
        """Whether no bot is moved to this image any more."""
        return self.failures.get(image, 0) >= FAILURES_MAX

    def _choices(self, channel: str, pinned: str | None) -> Sequence[str]:
        if channel == Channel.PINNED and pinned is not None:
            return (pinned,)
        return (*(self.canary if channel == Channel.CANARY else self.stable), self.fallback)


@dataclass(frozen=True)
class ImageView:
    """An image as operators see it; `channels` are those that want it now."""

    image: str
    channels: tuple[str, ...]
    set_at: datetime | None
    set_by: str | None
    bots: int
    failures: int
    quarantined: bool
    last_error: str | None


@dataclass(frozen=True)
class UpdateView:
    """A bot's move that is under way or whose copy is still kept."""

    bot_id: UUID
    stage: str
    image_from: str
    image_to: str
    began_at: datetime
    kept_until: datetime | None
    error: str


async def read(session: AsyncSession, settings: Settings) -> Images:
    """What is set now."""
    newest = select(BotImage.image).order_by(BotImage.id.desc()).limit(HISTORY_MAX)
    failed = await session.execute(select(BotImageFailure.image, BotImageFailure.failures))
    return Images(
        stable=(await session.scalars(newest.where(BotImage.channel == Channel.STABLE.value))).all(),
        canary=(await session.scalars(newest)).all(),
        fallback=settings.bot_image,
        failures={row.image: row.failures for row in failed},
    )


async def needed(session: AsyncSession, settings: Settings) -> Sequence[str]:
    """Every image that a bot runs on, is to run on, may go back to, or may begin with."""
    known = await read(session, settings)
    mine = select(Bot.image, Bot.pinned_image).where(Bot.deleted_at.is_(None))
    moves = select(BotUpdate.image_from, BotUpdate.image_to)
    found = {image for rows in (mine, moves) for row in await session.execute(rows) for image in row if image}
    for channel in (Channel.STABLE, Channel.CANARY):
        found |= {known.wanted(channel, None), known.fit(channel, None)}
    return sorted(found | {known.fallback})


async def errors(session: AsyncSession) -> Mapping[str, str]:
    """Why the last bot came back, by image."""
    rows = await session.execute(select(BotImageFailure.image, BotImageFailure.last_error))
    return {row.image: row.last_error for row in rows}


async def set_image(session: AsyncSession, settings: Settings, wanted: tuple[str, str], by: str, now: datetime) -> bool:
    """Let a channel (the first of `wanted`) have an image, and forget its failures. False: nothing to do. Invalid."""
    channel, image = wanted
    if channel not in (Channel.STABLE, Channel.CANARY):
        raise Invalid(f"{channel!r} is no channel that has an image.", remedy="Use stable or canary.")
    clean = require_digest(image)
    known = await read(session, settings)
    newest = await session.scalar(
        select(BotImage.image).where(BotImage.channel == channel).order_by(BotImage.id.desc()).limit(1)
    )
    if newest == clean and not known.failures.get(clean):
        return False
    await session.execute(delete(BotImageFailure).where(BotImageFailure.image == clean))
    session.add(BotImage(id=new_id(), channel=channel, image=clean, set_at=now, set_by=by))
    await session.flush()
    await notify(session, IMAGES_CHANNEL, channel)
    return True


async def choose(session: AsyncSession, settings: Settings, bot_id: UUID, channel: str, pinned: str | None) -> bool:
    """Put a bot on a channel, or pin it to an image. False: nothing to do. Invalid, NotFound; Conflict: it failed."""
    if channel not in tuple(Channel) or (channel == Channel.PINNED) != (pinned is not None):
        raise Invalid("Choose stable, canary, or pinned with an image.", remedy="wopr bots pin BOT IMAGE")
    clean = require_digest(pinned) if pinned is not None else None
    if clean is not None and (await read(session, settings)).quarantined(clean):
        raise Conflict(
            f"{clean} failed on {FAILURES_MAX} bots.",
            code="image_quarantined",
            remedy="Repair it, or let it be tried again: wopr bots image set CHANNEL IMAGE",
        )
    bot = await session.scalar(select(Bot).where(Bot.id == bot_id, Bot.deleted_at.is_(None)).with_for_update())
    if bot is None:
        raise NotFound("There is no such bot.", code="bot_not_found", remedy="wopr bots list")
    if (bot.channel, bot.pinned_image) == (channel, clean):
        return False
    bot.channel, bot.pinned_image = channel, clean
    await session.flush()
    await notify(session, IMAGES_CHANNEL, channel)
    return True


async def overview(session: AsyncSession, settings: Settings) -> tuple[Sequence[ImageView], Sequence[UpdateView]]:
    """Every image that matters now, those that channels want first, and the moves of bots."""
    known = await read(session, settings)
    history = {row.image: row for row in await session.scalars(select(BotImage).order_by(BotImage.id).limit(1_000))}
    failed = {row.image: row for row in await session.scalars(select(BotImageFailure))}
    count = select(Bot.image, func.count().label("bots")).where(Bot.deleted_at.is_(None)).group_by(Bot.image)
    on_it = {row.image: row.bots for row in await session.execute(count) if row.image is not None}
    wanted = {channel.value: known.wanted(channel, None) for channel in (Channel.STABLE, Channel.CANARY)}
    views = []
    for image in dict.fromkeys([*wanted.values(), *known.canary, *failed, *on_it]):
        entry, failure = history.get(image), failed.get(image)
        views.append(
            ImageView(
                image=image,
                channels=tuple(channel for channel, one in wanted.items() if one == image),
                set_at=entry.set_at if entry else None,
                set_by=entry.set_by if entry else None,
                bots=on_it.get(image, 0),
                failures=failure.failures if failure else 0,
                quarantined=known.quarantined(image),
                last_error=failure.last_error if failure else None,
            )
        )
    moving = select(BotUpdate).order_by(BotUpdate.stage.in_(AT_REST), BotUpdate.began_at.desc()).limit(UPDATES_MAX)
    return views, [_update_view(row) for row in await session.scalars(moving)]


def require_digest(image: str) -> str:
    """The image's name, which ends with its digest. Invalid otherwise."""
    clean = image.strip()
    if not REFERENCE.match(clean):
        raise Invalid(
            f"{clean[:200]!r} does not name an image by its digest.",
            code="no_digest",
            remedy="Write it as ghcr.io/wopr-network/wopr-bot@sha256:…; `wopr images push` prints it.",
        )
    return clean


def _update_view(row: BotUpdate) -> UpdateView:
    return UpdateView(row.bot_id, row.stage, row.image_from, row.image_to, row.began_at, row.kept_until, row.error)
