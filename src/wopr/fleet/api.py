"""The fleet's routes: thin; what they mean is in `bots` (what is wanted) and `talk` (the bots themselves)."""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.guard import KeyHeader, Once, PlatformAdmin, Reader, Writer
from wopr.accounts.principal import Principal
from wopr.accounts.tenants import tenant_names
from wopr.billing.statements import UsageFilter, list_usage, usage_total
from wopr.bot import contract
from wopr.core.errors import BadRequest
from wopr.core.idempotency import key_reused
from wopr.core.ids import BotId, new_id
from wopr.core.money import to_usd_string
from wopr.core.platform import Platform
from wopr.core.routing import PlatformDep
from wopr.fleet import bodies, bots, feeds, images, talk
from wopr.fleet.bots import Asking
from wopr.fleet.build import Fleet, SharedFleet
from wopr.fleet.standing import require_credit
from wopr.fleet.templates import TEMPLATES

ADMIN_PAGE = 100
GONE = "–"  # a customer whose account no longer exists
RECEIPT_LINES_MAX = 200
DIFFERENT_TURN = 409  # what a bot answers to a turn's id that it knows from another message

router = APIRouter()
SSE_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
Answers = dict[int | str, dict[str, Any]]  # FastAPI's own type
SSE_ANSWER: Answers = {200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}}
AUDIO_ANSWER: Answers = {200: {"content": {"audio/wav": {}}, "description": "The answer, spoken."}}
AUDIO_BODY = {
    "requestBody": {"required": True, "content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}
}
ANY_JSON: Answers = {200: {"content": {"application/json": {}}, "description": "As the bot answers."}}


async def fleet_of(request: Request, platform: PlatformDep) -> Fleet:
    """The fleet of this application, made at its first use."""
    shared: SharedFleet | None = getattr(request.app.state, "fleet", None)
    if shared is None:
        shared = request.app.state.fleet = SharedFleet(platform)
    return shared.get()


FleetDep = Annotated[Fleet, Depends(fleet_of)]


@dataclass(frozen=True)
class Visit:
    """One caller, and what serves them."""

    platform: Platform
    fleet: Fleet
    principal: Principal

    def line(self, bot_id: UUID) -> talk.Line:
        return talk.Line(self.platform, self.fleet, self.principal.tenant_id, bot_id)

    def asking(self) -> Asking:
        return Asking(self.principal, self.platform.settings, self.platform.clock.now())

    async def choosing(self, session: AsyncSession) -> Asking:
        """The same as `asking`, for requests that name models and voices."""
        return replace(self.asking(), choices=await self.fleet.find_choices(session, self.platform.settings))


async def reading(platform: PlatformDep, fleet: FleetDep, principal: Reader) -> Visit:
    """A caller who may look."""
    return Visit(platform, fleet, principal)


async def writing(platform: PlatformDep, fleet: FleetDep, principal: Writer) -> Visit:
    """A caller who may change."""
    return Visit(platform, fleet, principal)


Reading = Annotated[Visit, Depends(reading)]
Writing = Annotated[Visit, Depends(writing)]
ConversationPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@router.get("/fleet/templates", operation_id="templates_list", tags=["fleet"])
async def list_templates(visit: Reading) -> bodies.Templates:
    """Ready-made characters."""
    settings = visit.platform.settings
    async with visit.platform.db.begin() as session:
        choices = await visit.fleet.find_choices(session, settings)
    offered = [replace(template, voice=choices.voice_or_another(template.voice)) for template in TEMPLATES]
    bodied = [bodies.TemplateBody(**asdict(template), model=settings.bot_model) for template in offered]
    return bodies.Templates(templates=bodied)


@router.get("/fleet/bots", operation_id="bots_list", tags=["fleet"])
async def list_bots(visit: Reading) -> bodies.BotList:
    """Every bot of the tenant."""
    async with visit.platform.db.begin() as session:
        found = await bots.list_own(session, visit.platform.settings, visit.principal.tenant_id)
    return bodies.BotList(bots=[_body(bot) for bot in found])


@router.post("/fleet/bots", operation_id="bots_create", tags=["fleet"], status_code=201)
async def create_bot(visit: Writing, wanted: bodies.NewBot, once: Once) -> bodies.BotBody:
    """Make a bot, which starts at once."""

    async def make(session: AsyncSession) -> bodies.BotBody:
        return _body(await bots.create(session, await visit.choosing(session), wanted.wishes()))

    return await once.in_transaction(bodies.BotBody, make)


@router.get("/fleet/bots/{bot_id}", operation_id="bots_get", tags=["fleet"])
async def get_bot(visit: Reading, bot_id: UUID) -> bodies.BotBody:
    """One bot."""
    async with visit.platform.db.begin() as session:
        return _body(await bots.get(session, visit.platform.settings, visit.principal.tenant_id, bot_id))


@router.patch("/fleet/bots/{bot_id}", operation_id="bots_update", tags=["fleet"])
async def update_bot(visit: Writing, bot_id: UUID, changes: bodies.BotChanges) -> bodies.BotBody:
    """Change a bot; a running one restarts to learn of it."""
    async with visit.platform.db.begin() as session:
        return _body(await bots.change(session, await visit.choosing(session), bot_id, changes.wishes()))


@router.delete("/fleet/bots/{bot_id}", operation_id="bots_delete", tags=["fleet"], status_code=204)
async def delete_bot(visit: Writing, bot_id: UUID) -> None:
    """Delete a bot with everything it remembers."""
    async with visit.platform.db.begin() as session:
        await bots.delete(session, visit.asking(), bot_id)


@router.post("/fleet/bots/{bot_id}/start", operation_id="bots_start", tags=["fleet"])
async def start_bot(visit: Writing, bot_id: UUID) -> bodies.BotBody:
    """Want it running."""
    async with visit.platform.db.begin() as session:
        return _body(await bots.start(session, visit.asking(), bot_id))


@router.post("/fleet/bots/{bot_id}/stop", operation_id="bots_stop", tags=["fleet"])
async def stop_bot(visit: Writing, bot_id: UUID) -> bodies.BotBody:
    """Want it stopped; it keeps its memory and costs nothing."""
    async with visit.platform.db.begin() as session:
        return _body(await bots.stop(session, visit.asking(), bot_id))


@router.post("/fleet/bots/{bot_id}/restart", operation_id="bots_restart", tags=["fleet"])
async def restart_bot(visit: Writing, bot_id: UUID) -> bodies.BotBody:
    """Replace its process by a fresh one."""
    async with visit.platform.db.begin() as session:
        return _body(await bots.start(session, visit.asking(), bot_id, again=True))


@router.get(
    "/fleet/bots/{bot_id}/logs",
    operation_id="bots_logs",
    tags=["fleet"],
    response_model=bodies.LogLines,
    responses={200: {"content": {"text/event-stream": {}}, "description": "The lines, or a stream with `follow`."}},
)
async def read_logs(
    visit: Reading,
    bot_id: UUID,
    tail: Annotated[int, Query(ge=0, le=5_000)] = 200,
    follow: bool = False,
) -> bodies.LogLines | Response:
    """The end of the log; with `follow` as `line` events that go on."""
    async with visit.platform.db.begin() as session:
        await bots.get(session, visit.platform.settings, visit.principal.tenant_id, bot_id)
    if follow:
        return _sse(feeds.line_events(visit.fleet.runtime.follow(BotId(bot_id), tail)))
    lines = await visit.fleet.runtime.logs(BotId(bot_id), tail)
    return bodies.LogLines(lines=[bodies.LogLineBody.model_validate(line) for line in lines])


@router.post("/fleet/bots/{bot_id}/turns", operation_id="turns_create", tags=["turns"], status_code=202)
async def create_turn(visit: Writing, bot_id: UUID, said: bodies.NewTurn, key: KeyHeader = None) -> Response:
    """Say something; the turn goes on without a listener. Its events are under `…/turns/{turn_id}/events`."""
    line = visit.line(bot_id)
    async with visit.platform.db.begin() as session:
        bot = await bots.get(session, visit.platform.settings, line.tenant_id, bot_id)
        talk.refuse_unreachable(bot)
        await require_credit(session, line.tenant_id, visit.platform.settings, visit.platform.clock.now())
    # The bot itself does a turn once, by its id: the same message again must get the same ids.
    turn_id = str(said.turn_id or (uuid5(bot_id, key) if key else new_id()))
    request = contract.TurnRequest(
        turn_id=turn_id,
        conversation_id=said.conversation_id or turn_id,
        text=said.text,
        audio_base64=said.audio_base64,
        speak=said.speak,
    )
    answer = await talk.call(line, talk.Message("POST", contract.ROUTE_TURNS, json=request.to_json()))
    if answer.status == DIFFERENT_TURN and said.turn_id is None:
        raise key_reused()
    return _passed(answer)


@router.get("/fleet/bots/{bot_id}/turns/{turn_id}", operation_id="turns_get", tags=["turns"], responses=ANY_JSON)
async def get_turn(visit: Reading, bot_id: UUID, turn_id: UUID) -> Response:
    """The turn as it is now, with its text so far."""
    return _passed(await talk.call(visit.line(bot_id), talk.Message("GET", contract.turn_path(str(turn_id)))))


@router.get(
    "/fleet/bots/{bot_id}/turns/{turn_id}/events", operation_id="turns_events", tags=["turns"], responses=SSE_ANSWER
)
async def turn_events(
    visit: Reading,
    bot_id: UUID,
    turn_id: UUID,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53)] = None,
    after: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """The turn's events from the first, or after the one named, until the final one.

    `started`, `transcript` (of a recording), `delta`s, then `completed`, `failed` or `cancelled`. `restarted` between
    them makes the deltas so far void: the answer broke off and is another one now.
    """
    seen = last_event_id if last_event_id is not None else after
    params = {"after": seen} if seen is not None else {}
    message = talk.Message("GET", contract.turn_events_path(str(turn_id)), params=params)
    answer = await talk.stream(visit.line(bot_id), message)
    return _passed(answer) if isinstance(answer, talk.BotAnswer) else _sse(answer)


@router.post(
    "/fleet/bots/{bot_id}/turns/{turn_id}/cancel", operation_id="turns_cancel", tags=["turns"], status_code=202
)
async def cancel_turn(visit: Writing, bot_id: UUID, turn_id: UUID) -> Response:
    """Ask a running turn to stop; one that has ended stays as it is."""
    return _passed(await talk.call(visit.line(bot_id), talk.Message("POST", contract.turn_cancel_path(str(turn_id)))))


@router.get(
    "/fleet/bots/{bot_id}/turns/{turn_id}/audio", operation_id="turns_audio", tags=["turns"], responses=AUDIO_ANSWER
)
async def turn_audio(visit: Writing, bot_id: UUID, turn_id: UUID) -> Response:
    """The answer as sound, made (and charged) at the first request and kept: a key for reading may not ask for it."""
    return _passed(await talk.call(visit.line(bot_id), talk.Message("GET", contract.turn_audio_path(str(turn_id)))))


@router.get("/fleet/bots/{bot_id}/turns/{turn_id}/receipt", operation_id="turns_receipt", tags=["turns"])
async def turn_receipt(visit: Reading, bot_id: UUID, turn_id: UUID) -> bodies.Receipt:
    """What the answer cost; complete as soon as its requests are settled, a second or so after its end."""
    tenant_id, wanted = visit.principal.tenant_id, UsageFilter(bot_id, turn_id)
    async with visit.platform.db.begin() as session:
        await bots.get(session, visit.platform.settings, tenant_id, bot_id)
        rows, _ = await list_usage(session, tenant_id, wanted, None, RECEIPT_LINES_MAX)
        total = await usage_total(session, tenant_id, wanted)
    lines = [bodies.usage_body(row) for row in reversed(rows)]
    return bodies.Receipt(turn_id=turn_id, total_usd=to_usd_string(total), lines=lines)


@router.post(
    "/fleet/bots/{bot_id}/transcriptions",
    operation_id="transcriptions_create",
    tags=["turns"],
    openapi_extra=AUDIO_BODY,
    responses=ANY_JSON,
)
async def transcribe(visit: Writing, bot_id: UUID, request: Request) -> Response:
    """The words of a WAV recording, to be read and changed before they are said."""
    recording = await request.body()
    if not recording:
        raise BadRequest("There is no recording.", remedy="Send a WAV file as the body.")
    headers = {"content-type": "audio/wav"}
    message = talk.Message("POST", contract.ROUTE_TRANSCRIPTIONS, content=recording, headers=headers, once=True)
    return _passed(await talk.call(visit.line(bot_id), message))


@router.get(
    "/fleet/bots/{bot_id}/conversations", operation_id="conversations_list", tags=["conversations"], responses=ANY_JSON
)
async def list_conversations(visit: Reading, bot_id: UUID) -> Response:
    """The threads with this bot, the latest first."""
    return _passed(await talk.call(visit.line(bot_id), talk.Message("GET", contract.ROUTE_CONVERSATIONS)))


@router.get(
    "/fleet/bots/{bot_id}/conversations/{conversation_id}/messages",
    operation_id="messages_list",
    tags=["conversations"],
    responses=ANY_JSON,
)
async def list_messages(
    visit: Reading,
    bot_id: UUID,
    conversation_id: ConversationPath,
    before: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    limit: Annotated[int, Query(ge=1, le=contract.MESSAGES_LIMIT_MAX)] = contract.MESSAGES_LIMIT_DEFAULT,
) -> Response:
    """A page of messages, oldest first; `before` a message's id pages backward."""
    params = {"limit": limit} | ({"before": before} if before is not None else {})
    message = talk.Message("GET", contract.messages_path(conversation_id), params=params)
    return _passed(await talk.call(visit.line(bot_id), message))


@router.delete(
    "/fleet/bots/{bot_id}/conversations/{conversation_id}",
    operation_id="conversations_delete",
    tags=["conversations"],
    status_code=204,
)
async def delete_conversation(visit: Writing, bot_id: UUID, conversation_id: ConversationPath) -> Response:
    """Delete a thread with what the bot remembers of it."""
    message = talk.Message("DELETE", contract.conversation_path(conversation_id))
    return _passed(await talk.call(visit.line(bot_id), message))


@router.get("/fleet/bots/{bot_id}/usage", operation_id="bots_usage", tags=["fleet"])
async def bot_usage(
    visit: Reading, bot_id: UUID, cursor: Annotated[str | None, Query(max_length=40)] = None
) -> bodies.UsagePage:
    """The bot's metered requests, newest first, and what they cost together."""
    tenant_id, wanted = visit.principal.tenant_id, UsageFilter(bot_id)
    async with visit.platform.db.begin() as session:
        await bots.get(session, visit.platform.settings, tenant_id, bot_id)
        rows, following = await list_usage(session, tenant_id, wanted, cursor)
        total = await usage_total(session, tenant_id, wanted)
    page = [bodies.usage_body(row) for row in rows]
    return bodies.UsagePage(usage=page, total_usd=to_usd_string(total), next_cursor=following)


@router.get("/api/admin/bots", operation_id="admin_bots_list", tags=["admin"])
async def list_all_bots(
    platform: PlatformDep, _admin: PlatformAdmin, cursor: UUID | None = None
) -> bodies.AdminBotList:
    """Bots of all customers, newest first."""
    async with platform.db.begin() as session:
        found = await bots.list_all(session, platform.settings, cursor, ADMIN_PAGE + 1)
        names = await tenant_names(session, {bot.tenant_id for bot in found})
    page = [
        bodies.AdminBotBody(
            **bodies.bot_fields(bot),
            tenant_id=bot.tenant_id,
            tenant_name=names.get(bot.tenant_id, GONE),
            operator_error=bot.operator_error,
            channel=bot.channel,
            image=bot.image,
        )
        for bot in found[:ADMIN_PAGE]
    ]
    return bodies.AdminBotList(bots=page, next_cursor=str(page[-1].id) if len(found) > ADMIN_PAGE else None)


@router.get("/api/admin/bot-images", operation_id="bot_images_list", tags=["admin"])
async def list_bot_images(platform: PlatformDep, _admin: PlatformAdmin) -> bodies.BotImages:
    """The images of bots: which channels want them, how many bots run on them, which failed, and who is moving."""
    async with platform.db.begin() as session:
        known, moving = await images.overview(session, platform.settings)
    return bodies.BotImages(
        images=[bodies.BotImageBody.model_validate(image) for image in known],
        updates=[bodies.BotUpdateBody.model_validate(update) for update in moving],
    )


@router.put("/api/admin/bot-images/{channel}", operation_id="bot_images_set", tags=["admin"])
async def set_bot_image(
    platform: PlatformDep, admin: PlatformAdmin, channel: str, wanted: bodies.WantedImage
) -> bodies.Changed:
    """Let the bots of a channel have an image; an image that failed is tried again."""
    pair, now = (channel, wanted.image), platform.clock.now()
    async with platform.db.begin() as session:
        return bodies.Changed(changed=await images.set_image(session, platform.settings, pair, admin.email, now))


@router.put("/api/admin/bots/{bot_id}/channel", operation_id="admin_bots_channel", tags=["admin"])
async def put_bot_on_channel(
    platform: PlatformDep, _admin: PlatformAdmin, bot_id: UUID, wanted: bodies.WantedChannel
) -> bodies.Changed:
    """Put a bot on a channel, or pin it to an image."""
    async with platform.db.begin() as session:
        return bodies.Changed(
            changed=await images.choose(session, platform.settings, bot_id, wanted.channel, wanted.image)
        )


def _body(bot: bots.BotView) -> bodies.BotBody:
    return bodies.BotBody(**bodies.bot_fields(bot))


def _passed(answer: talk.BotAnswer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


def _sse(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers=SSE_HEADERS)
