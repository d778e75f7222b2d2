"""Talking to a bot over HTTP: turns that outlive their connection, history, voice and receipts."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from wopr.client.billing import Usage
from wopr.client.sse import Event, resume_events
from wopr.client.transport import Answer, Sending, Transport, parse

VOICE_TIMEOUT_SECONDS = 120.0
FINAL_EVENTS = frozenset({"completed", "failed", "cancelled"})
FINAL_STATES = frozenset({"completed", "failed", "cancelled", "interrupted"})


@dataclass(frozen=True, slots=True)
class Saying:
    """What a person says to a bot: text, or WAV bytes. A `turn_id` of the caller's makes repeating harmless."""

    text: str | None = None
    audio: bytes | None = None
    conversation_id: str | None = None
    speak: bool = False
    turn_id: str | None = None

    def body(self) -> dict[str, object]:
        """The request's JSON; what is not set is left out."""
        audio = base64.b64encode(self.audio).decode() if self.audio else None
        named: dict[str, object | None] = {
            "text": self.text,
            "audio_base64": audio,
            "conversation_id": self.conversation_id,
            "speak": self.speak or None,
            "turn_id": self.turn_id,
        }
        return {name: value for name, value in named.items() if value is not None}


class TurnStarted(Answer):
    """A turn that the bot took on."""

    turn_id: str
    conversation_id: str
    state: str


class Turn(Answer):
    """A question and its answer: state running, completed, failed, cancelled or interrupted."""

    turn_id: str
    conversation_id: str
    state: str
    user_text: str | None = None
    text: str | None = None
    error: Any = None  # Any: a message, or an object with code, message and remedy
    request_ids: tuple[str, ...] = ()
    usage: dict[str, Any] | None = None  # Any: token counts by name
    created_at: datetime | None = None
    finished_at: datetime | None = None


class Receipt(Answer):
    """What one answer cost, request by request."""

    turn_id: str
    total_usd: Decimal
    lines: list[Usage]


class Conversation(Answer):
    """A thread of messages with one bot."""

    id: str
    title: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    messages: int = 0


class Conversations(Answer):
    """The threads of one bot, newest first."""

    conversations: list[Conversation]


class Message(Answer):
    """One message of a thread; role user or assistant."""

    id: str | int
    role: str
    text: str
    turn_id: str | None = None
    created_at: datetime | None = None
    has_audio: bool = False


class Messages(Answer):
    """Messages of a thread, oldest first."""

    messages: list[Message]


class Transcript(Answer):
    """What was said."""

    text: str


class ConversationApi:
    """Routes under /fleet/bots/{id} for turns, conversations and voice."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def say(self, bot_id: str, saying: Saying) -> TurnStarted:
        """Start a turn; it goes on without a listener."""
        return await self._transport.post(f"/fleet/bots/{bot_id}/turns", TurnStarted, saying.body())

    async def turn(self, bot_id: str, turn_id: str) -> Turn:
        """The state of a turn and its text so far."""
        return await self._transport.get(f"/fleet/bots/{bot_id}/turns/{turn_id}", Turn)

    def turn_events(self, bot_id: str, turn_id: str, last_event_id: str = "") -> AsyncIterator[Event]:
        """Events started, transcript, delta, and last completed, failed or cancelled; resumes by itself.

        `restarted` among them means that the deltas so far are void: the answer broke off and is another one now.
        """
        path = turn_events_path(bot_id, turn_id)
        return resume_events(self._transport, path, final=FINAL_EVENTS, last_event_id=last_event_id)

    async def cancel_turn(self, bot_id: str, turn_id: str) -> None:
        """Ask a running turn to stop."""
        await self._transport.request("POST", f"/fleet/bots/{bot_id}/turns/{turn_id}/cancel", Sending(json={}))

    async def turn_audio(self, bot_id: str, turn_id: str) -> bytes:
        """The answer spoken, as WAV."""
        sending = Sending(timeout_seconds=VOICE_TIMEOUT_SECONDS)
        answer = await self._transport.request("GET", f"/fleet/bots/{bot_id}/turns/{turn_id}/audio", sending)
        return answer.content

    async def receipt(self, bot_id: str, turn_id: str) -> Receipt:
        """What the answer cost."""
        return await self._transport.get(f"/fleet/bots/{bot_id}/turns/{turn_id}/receipt", Receipt)

    async def transcribe(self, bot_id: str, wav: bytes) -> str:
        """The text of what was said in a WAV recording."""
        headers = {"content-type": "audio/wav"}
        sending = Sending(content=wav, headers=headers, timeout_seconds=VOICE_TIMEOUT_SECONDS)
        answer = await self._transport.request("POST", f"/fleet/bots/{bot_id}/transcriptions", sending)
        return parse(answer, Transcript).text

    async def conversations(self, bot_id: str) -> list[Conversation]:
        """The threads of a bot."""
        return (await self._transport.get(f"/fleet/bots/{bot_id}/conversations", Conversations)).conversations

    async def messages(
        self, bot_id: str, conversation_id: str, *, before: str | None = None, limit: int | None = None
    ) -> list[Message]:
        """Messages of a thread, oldest first; `before` a message id pages back."""
        path = f"/fleet/bots/{bot_id}/conversations/{conversation_id}/messages"
        return (await self._transport.get(path, Messages, before=before, limit=limit)).messages

    async def delete_conversation(self, bot_id: str, conversation_id: str) -> None:
        """Delete a thread."""
        await self._transport.request("DELETE", f"/fleet/bots/{bot_id}/conversations/{conversation_id}")


def turn_events_path(bot_id: str, turn_id: str) -> str:
    """Where a turn's events are read; the UI passes this stream through."""
    return f"/fleet/bots/{bot_id}/turns/{turn_id}/events"
