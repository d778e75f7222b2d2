"""Request and answer bodies of the fleet's routes."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, model_validator

from wopr.bot import contract
from wopr.core.money import to_usd_string
from wopr.core.routing import ApiModel
from wopr.fleet.bots import BotView, Wishes
from wopr.fleet.plan import Channel, Desired, Stage, State

AUDIO_BASE64_CHARACTERS_MAX = contract.AUDIO_BYTES_MAX * 4 // 3 + 4
TEXT_MAX = 20_000

ConversationId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class BotChanges(ApiModel):
    """What may be changed of a bot; what is left out stays."""

    name: str | None = Field(default=None, max_length=200)
    persona: str | None = Field(default=None, max_length=TEXT_MAX)
    instructions: str | None = Field(default=None, max_length=TEXT_MAX)
    model: str | None = Field(default=None, max_length=200)
    voice: str | None = Field(default=None, max_length=200)
    size: str | None = Field(default=None, max_length=40)

    def wishes(self) -> Wishes:
        return Wishes(**self.model_dump())


class NewBot(BotChanges):
    """A bot to be made: a name, and a template, words of one's own, or both."""

    name: str = Field(max_length=200)
    template: str | None = Field(default=None, max_length=60)


class BotBody(ApiModel):
    """A bot: what is wanted of it (`desired`) and what is (`state`)."""

    id: UUID
    name: str
    template: str | None
    persona: str
    instructions: str
    model: str
    voice: str
    size: str
    desired: Desired
    state: State
    reason: str
    restarts: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    price_month_usd: str


class BotList(ApiModel):
    """Every bot of the tenant."""

    bots: list[BotBody]
    next_cursor: str | None = None


class AdminBotBody(BotBody):
    """A bot with its customer, and why it did not start in the operator's words."""

    tenant_id: UUID
    tenant_name: str
    operator_error: str | None
    channel: Channel
    image: str | None


class WantedImage(ApiModel):
    """An image by its digest."""

    image: str = Field(min_length=1, max_length=400)


class WantedChannel(ApiModel):
    """How a bot gets new versions; `image` with `pinned` only."""

    channel: Channel
    image: str | None = Field(default=None, max_length=400)


class Changed(ApiModel):
    """Whether anything was to be done."""

    changed: bool


class BotImageBody(ApiModel):
    """An image of bots. `channels` want it now; `quarantined`: it failed too often, and no bot is moved to it."""

    image: str
    channels: list[str]
    set_at: datetime | None
    set_by: str | None
    bots: int
    failures: int
    quarantined: bool
    last_error: str | None


class BotUpdateBody(ApiModel):
    """A bot's move to another image, or one that is over and whose copy is kept."""

    bot_id: UUID
    stage: Stage
    image_from: str
    image_to: str
    began_at: datetime
    kept_until: datetime | None
    error: str


class BotImages(ApiModel):
    """Every image that matters now, and the moves of bots."""

    images: list[BotImageBody]
    updates: list[BotUpdateBody]


class AdminBotList(ApiModel):
    """A page of bots of all customers, newest first."""

    bots: list[AdminBotBody]
    next_cursor: str | None


class NewTurn(ApiModel):
    """What is said to a bot: text, or a WAV recording in base64. The same `turn_id` again starts nothing."""

    text: str | None = Field(default=None, max_length=contract.TEXT_CHARS_MAX)
    audio_base64: str | None = Field(default=None, max_length=AUDIO_BASE64_CHARACTERS_MAX)
    conversation_id: ConversationId | None = None
    speak: bool = False
    turn_id: UUID | None = None

    @model_validator(mode="after")
    def one_of_both(self) -> "NewTurn":
        """Exactly one of text and audio."""
        if bool(self.text and self.text.strip()) == bool(self.audio_base64):
            raise ValueError("send either text or audio_base64")
        return self


class LogLineBody(ApiModel):
    """One line that the bot wrote."""

    at: datetime
    stream: str
    text: str


class LogLines(ApiModel):
    """The end of the log, oldest first."""

    lines: list[LogLineBody]


class UsageBody(ApiModel):
    """One metered request of a bot."""

    request_id: UUID
    bot_id: UUID | None
    turn_id: UUID | None
    kind: str
    model: str
    node_id: str | None
    prompt_tokens: int
    completion_tokens: int
    units: int
    cost_usd: str
    status: str
    started_at: datetime
    duration_ms: int
    first_token_ms: int | None


class Receipt(ApiModel):
    """What one answer cost, request by request in their order."""

    turn_id: UUID
    total_usd: str
    lines: list[UsageBody]


class UsagePage(ApiModel):
    """Metered requests of a bot, newest first; the total is over all pages."""

    usage: list[UsageBody]
    total_usd: str
    next_cursor: str | None


class TemplateBody(ApiModel):
    """A ready-made character."""

    id: str
    name: str
    summary: str
    persona: str
    instructions: str
    model: str
    voice: str


class Templates(ApiModel):
    """Every template."""

    templates: list[TemplateBody]


def bot_fields(bot: BotView) -> dict[str, Any]:  # the values of a body, of many types
    """A bot's fields as `BotBody` takes them."""
    names = [name for name in BotBody.model_fields if name != "price_month_usd"]
    return {name: getattr(bot, name) for name in names} | {"price_month_usd": to_usd_string(bot.price_month)}


def usage_body(row: Any) -> UsageBody:  # a row of usage_records, as billing hands it out
    """One row of billing's usage."""
    names = [name for name in UsageBody.model_fields if name != "cost_usd"]
    return UsageBody(cost_usd=to_usd_string(row.cost), **{name: getattr(row, name) for name in names})
