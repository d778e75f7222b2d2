"""The conversation with a bot. A turn belongs to the bot: this page starts turns and attaches to them, and loses
nothing by being reloaded: history comes with the page, and a running turn is replayed from its first event.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from wopr.client import ApiError
from wopr.client.conversation import Conversation, Message, Saying, Turn
from wopr.web.proxy import pass_stream
from wopr.web.rendering import redirect
from wopr.web.visit import Guest, Member, Visit, guest, member

router = APIRouter()
MESSAGES_SHOWN = 60
CONVERSATIONS_SHOWN = 30
AUDIO_BYTES_MAX = 10 * 1024 * 1024
NEW = "new"
AWAY = frozenset({402, 409, 502, 503, 504})
SUSPENDED = frozenset({"suspended", "account_suspended"})


@dataclass(frozen=True, slots=True)
class Thread:
    """What the page shows of a conversation, with the turn that may still be running."""

    conversation_id: str
    messages: Sequence[Message]
    turn: Turn | None
    older: str | None


class Said(BaseModel):
    """What the chat's script sends."""

    text: str
    conversation_id: str | None = None
    turn_id: str | None = None
    speak: bool = False


@router.get("/bots/{bot_id}")
async def chat(visit: Member, bot_id: str, c: str = "", turn: str = "", before: str = "") -> Response:
    """The latest conversation, the one asked for by `c`, or a new one."""
    bot = await visit.api.fleet.bot(bot_id)
    conversations, reached = await _conversations(visit, bot_id)
    wanted = c or (conversations[0].id if conversations else NEW)
    thread = (
        await _thread(visit, bot_id, wanted, turn_id=turn, before=before) if reached else Thread(NEW, (), None, None)
    )
    values = {
        "bot": bot,
        "tab": "chat",
        "thread": thread,
        "conversations": conversations[:CONVERSATIONS_SHOWN],
        "reached": reached,
    }
    return visit.page("pages/chat.html", values)


@router.post("/bots/{bot_id}/say")
async def say_by_form(
    visit: Member,
    bot_id: str,
    text: Annotated[str, Form()] = "",
    conversation_id: Annotated[str, Form()] = "",
) -> Response:
    """Say something without scripts: start the turn and come back to the page, which renews itself until the answer."""
    if not text.strip():
        return redirect(f"/bots/{bot_id}")
    saying = Saying(text=text.strip(), conversation_id=conversation_id or None, turn_id=str(uuid.uuid4()))
    started = await visit.api.fleet.say(bot_id, saying)
    return redirect(f"/bots/{bot_id}?c={started.conversation_id}&turn={started.turn_id}")


@router.post("/bots/{bot_id}/turns")
async def say(visit: Guest, bot_id: str, said: Said) -> Response:
    """Start a turn for the chat's script, which sends its own turn id so that sending twice is one turn."""
    saying = Saying(said.text, None, said.conversation_id or None, said.speak, said.turn_id)
    started = await visit.api.fleet.say(bot_id, saying)
    return JSONResponse(started.model_dump(), 202)


@router.get("/bots/{bot_id}/turns/{turn_id}/events")
async def events(visit: Guest, request: Request, bot_id: str, turn_id: str, after: str = "") -> Response:
    """The turn's events, passed through as they come."""
    last = request.headers.get("last-event-id") or after
    path = f"/fleet/bots/{bot_id}/turns/{turn_id}/events"
    return await pass_stream(visit.api, path, last_event_id=last)


@router.get("/bots/{bot_id}/turns/{turn_id}")
async def turn_state(visit: Guest, bot_id: str, turn_id: str) -> Response:
    """Where a turn is, for a script that lost its stream."""
    return JSONResponse({"state": (await visit.api.fleet.turn(bot_id, turn_id)).state})


@router.get("/bots/{bot_id}/turns/{turn_id}/answer")
async def answer(visit: Guest, bot_id: str, turn_id: str) -> Response:
    """The finished answer as safe HTML, which takes the place of the streamed text."""
    bot, turn = await asyncio.gather(visit.api.fleet.bot(bot_id), visit.api.fleet.turn(bot_id, turn_id))
    return visit.page("parts/answer.html", {"turn": turn, "bot": bot})


@router.get("/bots/{bot_id}/turns/{turn_id}/receipt")
async def receipt(request: Request, bot_id: str, turn_id: str) -> Response:
    """What the answer cost: a part of the page for scripts, a page of its own without them."""
    part = bool(request.headers.get("hx-request"))
    visit = await (guest(request) if part else member(request))
    slip = await visit.api.fleet.receipt(bot_id, turn_id)
    if part:
        return visit.page("parts/receipt.html", {"receipt": slip})
    bot = await visit.api.fleet.bot(bot_id)
    return visit.page("pages/receipt.html", {"receipt": slip, "bot": bot, "tab": "usage"})


@router.post("/bots/{bot_id}/turns/{turn_id}/cancel")
async def cancel(visit: Guest, request: Request, bot_id: str, turn_id: str) -> Response:
    """Stop an answer."""
    await visit.api.fleet.cancel_turn(bot_id, turn_id)
    if "application/json" in request.headers.get("accept", ""):
        return Response(status_code=202)
    return redirect(f"/bots/{bot_id}")


@router.get("/bots/{bot_id}/turns/{turn_id}/audio")
async def audio(visit: Guest, bot_id: str, turn_id: str) -> Response:
    """The answer spoken."""
    return Response(await visit.api.fleet.turn_audio(bot_id, turn_id), media_type="audio/wav")


@router.post("/bots/{bot_id}/transcriptions")
async def transcribe(visit: Guest, request: Request, bot_id: str) -> Response:
    """A recording as text, which the person may edit before it is sent."""
    return JSONResponse({"text": await visit.api.fleet.transcribe(bot_id, await _limited_body(request))})


@router.post("/bots/{bot_id}/conversations/{conversation_id}/delete")
async def delete_conversation(visit: Member, bot_id: str, conversation_id: str) -> Response:
    """Forget a conversation."""
    await visit.api.fleet.delete_conversation(bot_id, conversation_id)
    return redirect(f"/bots/{bot_id}?c={NEW}", "conversation-deleted")


async def _conversations(visit: Visit, bot_id: str) -> tuple[list[Conversation], bool]:
    """The bot's threads; a bot that is not running can't be asked, which is no fault of the page."""
    try:
        return await visit.api.fleet.conversations(bot_id), True
    except ApiError as error:
        if error.status in AWAY or error.code in SUSPENDED:
            return [], False
        raise


async def _thread(visit: Visit, bot_id: str, conversation_id: str, *, turn_id: str, before: str) -> Thread:
    if conversation_id == NEW:
        return Thread(NEW, (), None, None)
    fleet = visit.api.fleet
    messages = await fleet.messages(bot_id, conversation_id, before=before or None, limit=MESSAGES_SHOWN)
    older = str(messages[0].id) if len(messages) >= MESSAGES_SHOWN else None
    pending = turn_id or unanswered(messages)
    turn = await _turn(visit, bot_id, pending) if pending and not before else None
    if turn and any(message.role == "assistant" and message.turn_id == turn.turn_id for message in messages):
        turn = None if turn.state != "running" else turn
        messages = [message for message in messages if not (turn and message.turn_id == turn.turn_id)]
    elif turn:
        messages = [message for message in messages if message.turn_id != turn.turn_id]
    return Thread(conversation_id, messages, turn, older)


def unanswered(messages: Sequence[Message]) -> str | None:
    """The turn of the last message, when it is a person's that has no answer yet."""
    if messages and messages[-1].role == "user":
        return messages[-1].turn_id
    return None


async def _turn(visit: Visit, bot_id: str, turn_id: str) -> Turn | None:
    try:
        return await visit.api.fleet.turn(bot_id, turn_id)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


async def _limited_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > AUDIO_BYTES_MAX:
            raise HTTPException(413, "A recording may have 10 MB at most, which is about five minutes.")
    return bytes(body)
