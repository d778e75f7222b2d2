"""Bots over HTTP: their life, logs and templates. Talking to one is in `conversation.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal

from wopr.client.billing import UsagePage
from wopr.client.conversation import ConversationApi
from wopr.client.sse import Event, read_events
from wopr.client.transport import Answer, Json, Sending, parse


class Bot(Answer):
    """A bot: what is wanted of it (`desired`) and what is (`state`)."""

    id: str
    name: str
    template: str | None = None
    persona: str | None = None
    instructions: str | None = None
    model: str | None = None
    voice: str | None = None
    size: str | None = None
    desired: str = "running"
    state: str = "starting"
    reason: str | None = None
    restarts: int = 0
    last_error: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    price_month_usd: Decimal | None = None
    tenant_id: str | None = None
    tenant_name: str | None = None
    operator_error: str | None = None
    channel: str | None = None
    image: str | None = None


class Bots(Answer):
    """A list of bots."""

    bots: list[Bot]
    next_cursor: str | None = None


class LogLine(Answer):
    """One line that a bot wrote; stream is stdout or stderr."""

    at: datetime | None = None
    stream: str = "stdout"
    text: str = ""


class LogLines(Answer):
    """The end of a bot's log."""

    lines: list[LogLine]


class BotImage(Answer):
    """An image of bots: the channels that want it now, how many bots run on it, how many came back from it."""

    image: str
    channels: list[str]
    set_at: datetime | None = None
    set_by: str | None = None
    bots: int = 0
    failures: int = 0
    quarantined: bool = False
    last_error: str | None = None


class BotUpdate(Answer):
    """A bot's move to another image."""

    bot_id: str
    stage: str
    image_from: str
    image_to: str
    began_at: datetime | None = None
    kept_until: datetime | None = None
    error: str = ""


class BotImages(Answer):
    """All of them, for administrators."""

    images: list[BotImage]
    updates: list[BotUpdate]


class Changed(Answer):
    """Whether anything was to be done."""

    changed: bool


class Template(Answer):
    """A ready-made character to start from."""

    id: str
    name: str
    summary: str | None = None
    persona: str | None = None
    instructions: str | None = None
    model: str | None = None
    voice: str | None = None


class Templates(Answer):
    """All templates."""

    templates: list[Template]


class FleetApi(ConversationApi):
    """Routes under /fleet, and the administrator's list of bots."""

    async def bots(self) -> list[Bot]:
        """All bots of the tenant."""
        return (await self._transport.get("/fleet/bots", Bots)).bots

    async def bot(self, bot_id: str) -> Bot:
        """One bot; another tenant's is 404."""
        return await self._transport.get(f"/fleet/bots/{bot_id}", Bot)

    async def create(self, settings: Json, *, once: str | None = None) -> Bot:
        """Make a bot from name and any of template, persona, instructions, model, voice, size.

        Repeated with the same `once` (any word of yours) it gives the bot made before.
        """
        return await self._transport.post("/fleet/bots", Bot, settings, once=once)

    async def update(self, bot_id: str, changes: Json) -> Bot:
        """Change settings of a bot."""
        answer = await self._transport.request("PATCH", f"/fleet/bots/{bot_id}", Sending(json=changes))
        return parse(answer, Bot)

    async def delete(self, bot_id: str) -> None:
        """Delete a bot with its memory."""
        await self._transport.request("DELETE", f"/fleet/bots/{bot_id}")

    async def start(self, bot_id: str) -> Bot:
        """Want it running."""
        return await self._transport.post(f"/fleet/bots/{bot_id}/start", Bot)

    async def stop(self, bot_id: str) -> Bot:
        """Want it stopped."""
        return await self._transport.post(f"/fleet/bots/{bot_id}/stop", Bot)

    async def restart(self, bot_id: str) -> Bot:
        """Stop it and start it again."""
        return await self._transport.post(f"/fleet/bots/{bot_id}/restart", Bot)

    async def logs(self, bot_id: str, tail: int = 200) -> list[LogLine]:
        """The last lines of the log."""
        return (await self._transport.get(f"/fleet/bots/{bot_id}/logs", LogLines, tail=tail)).lines

    async def follow_logs(self, bot_id: str, tail: int = 200) -> AsyncIterator[Event]:
        """`line` events as the bot writes them, until the connection ends; resuming is the caller's choice."""
        params: dict[str, str | int | None] = {"tail": tail, "follow": "true"}
        sending = Sending(params=params, headers={"accept": "text/event-stream"})
        async with self._transport.stream("GET", f"/fleet/bots/{bot_id}/logs", sending) as response:
            async for event in read_events(response):
                yield event

    async def usage(self, bot_id: str, cursor: str | None = None) -> UsagePage:
        """Metered requests of one bot, newest first."""
        return await self._transport.get(f"/fleet/bots/{bot_id}/usage", UsagePage, cursor=cursor)

    async def templates(self) -> list[Template]:
        """Ready-made characters."""
        return (await self._transport.get("/fleet/templates", Templates)).templates

    async def admin_bots(self, cursor: str | None = None) -> Bots:
        """Bots of all customers, for administrators."""
        return await self._transport.get("/api/admin/bots", Bots, cursor=cursor)

    async def images(self) -> BotImages:
        """The images of bots, for administrators."""
        return await self._transport.get("/api/admin/bot-images", BotImages)

    async def set_image(self, channel: str, image: str) -> bool:
        """Let the bots of a channel have an image; False when nothing was to be done. For administrators."""
        sending = Sending(json={"image": image})
        answer = await self._transport.request("PUT", f"/api/admin/bot-images/{channel}", sending)
        return parse(answer, Changed).changed

    async def set_channel(self, bot_id: str, channel: str, image: str | None = None) -> bool:
        """Put a bot on a channel, or pin it to an image; False when nothing was to be done. For administrators."""
        sending = Sending(json={"channel": channel, "image": image})
        answer = await self._transport.request("PUT", f"/api/admin/bots/{bot_id}/channel", sending)
        return parse(answer, Changed).changed
