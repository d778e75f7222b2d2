"""The bot's HTTP routes; thin, the work is in the modules they call."""

import asyncio
import sqlite3
from contextlib import aclosing
from functools import partial

from aiohttp import web

from wopr.bot import contract, conversations, turns, voice
from wopr.bot.answer import Means
from wopr.bot.contract import ContractError, TurnAccepted, TurnRequest, TurnView
from wopr.bot.gateway import Spent
from wopr.bot.log import log
from wopr.bot.middleware import Refused, bearer_check, errors_as_json, read_json
from wopr.bot.readiness import Readiness
from wopr.bot.speech import SpeechFiles
from wopr.bot.turn_queue import QueueFull, TurnQueue
from wopr.bot.turns import DifferentTurn, StoredEvent

QUEUE_RETRY_SECONDS = 5
SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class Routes:
    """The handlers with what they work on."""

    def __init__(self, means: Means, queue: TurnQueue, readiness: Readiness) -> None:
        self._means = means
        self._queue = queue
        self._readiness = readiness
        self._speech = SpeechFiles(means)

    def application(self) -> web.Application:
        """The application, ready to be served."""
        check = bearer_check(self._means.settings.token)
        app = web.Application(middlewares=[errors_as_json, check], client_max_size=contract.BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get(contract.ROUTE_HEALTH, self.health),
                web.get(contract.ROUTE_READY, self.ready),
                web.get(contract.ROUTE_TURNS, self.count_turns),
                web.post(contract.ROUTE_TURNS, self.create_turn),
                web.get(contract.ROUTE_TURN, self.get_turn),
                web.get(contract.ROUTE_TURN_EVENTS, self.events),
                web.post(contract.ROUTE_TURN_CANCEL, self.cancel),
                web.get(contract.ROUTE_TURN_AUDIO, self.audio),
                web.post(contract.ROUTE_TRANSCRIPTIONS, self.transcribe),
                web.get(contract.ROUTE_CONVERSATIONS, self.list_conversations),
                web.get(contract.ROUTE_MESSAGES, self.list_messages),
                web.delete(contract.ROUTE_CONVERSATION, self.delete_conversation),
            ]
        )
        return app

    async def health(self, _: web.Request) -> web.StreamResponse:
        """The process serves."""
        return web.json_response(dict(contract.HEALTH_BODY))

    async def ready(self, _: web.Request) -> web.StreamResponse:
        """The bot can answer, or why not."""
        reasons = self._readiness.reasons
        if not reasons:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not_ready", "reasons": reasons}, status=503)

    async def count_turns(self, _: web.Request) -> web.StreamResponse:
        """How many turns are under way, for who would like to stop the bot between two of them."""
        return web.json_response(contract.TurnsView(self._queue.running).to_json())

    async def create_turn(self, request: web.Request) -> web.StreamResponse:
        """Starts a turn; the same one again is only reported."""
        self._need_database()
        if self._readiness.stopping:
            raise Refused(503, "The bot is stopping.", "Try again when it is back.", QUEUE_RETRY_SECONDS)
        turn = TurnRequest.from_json(read_json(await request.read()))
        try:
            audio = None if turn.audio_base64 is None else voice.decode(turn.audio_base64)
            accepted, known = await self._queue.create(turn, audio)
        except voice.NotSound as error:
            raise Refused(400, f"{error}.".capitalize(), "Send a WAV recording of at most 10 MB.") from error
        except DifferentTurn as error:
            raise Refused(409, "This turn_id was used for another message.", "Use a new turn_id.") from error
        except QueueFull as error:
            raise Refused(
                429, "Too many messages are waiting.", "Wait for an answer, then try again.", QUEUE_RETRY_SECONDS
            ) from error
        headers = {contract.REPLAYED_HEADER: "true"} if known else {}
        return web.json_response(accepted.to_json(), status=202, headers=headers)

    async def get_turn(self, request: web.Request) -> web.StreamResponse:
        """The turn as it is now."""
        return web.json_response((await self._turn(request)).to_json())

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Replays and follows a turn's events; ends after the final one."""
        turn = await self._turn(request)
        after = _whole(request.headers.get(contract.LAST_EVENT_ID_HEADER) or request.query.get("after") or "0", "after")
        response = web.StreamResponse(headers=SSE_HEADERS)
        await response.prepare(request)
        try:
            async with aclosing(self._queue.follow(turn.turn_id, after)) as events:
                async for event in events:
                    await response.write(_wire(event))
        except sqlite3.Error as error:
            # Half a stream is out, so an error answer is no longer possible; the listener comes back and is told then.
            log("storage_failed", "error", error=str(error))
            response.force_close()
        await response.write_eof()
        return response

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Ends a turn at once; a turn that has ended stays as it is."""
        turn = await self._turn(request)
        await self._queue.cancel(turn.turn_id)
        turn = await self._turn(request)
        return web.json_response(TurnAccepted(turn.turn_id, turn.conversation_id, turn.state).to_json(), status=202)

    async def audio(self, request: web.Request) -> web.StreamResponse:
        """The answer as sound, made now when it wasn't before."""
        turn = await self._turn(request)
        if not turn.state.final:
            raise Refused(409, "The turn is still running.", "Wait for its final event.")
        if not voice.speakable(turn.text):
            raise Refused(404, "The turn has no answer that could be spoken.", "Ask for the audio of another turn.")
        path = await self._speech.get(turn.turn_id, turn.text)
        return web.FileResponse(path, headers={"Content-Type": "audio/wav", "Cache-Control": "private, no-store"})

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """Words of a WAV body, without a turn."""
        recording = await request.read()
        try:
            voice.check(recording)
        except voice.NotSound as error:
            raise Refused(400, f"{error}.".capitalize(), "Send a WAV recording of at most 10 MB.") from error
        return web.json_response({"text": await self._means.gateway.transcribe("", recording, Spent())})

    async def list_conversations(self, _: web.Request) -> web.StreamResponse:
        """The latest first."""
        self._need_database()
        found = await self._means.database.run(conversations.list_all)
        return web.json_response({"conversations": [item.to_json() for item in found]})

    async def list_messages(self, request: web.Request) -> web.StreamResponse:
        """A page of messages, oldest first."""
        self._need_database()
        before = request.query.get("before")
        limit = _whole(request.query.get("limit", str(contract.MESSAGES_LIMIT_DEFAULT)), "limit")
        page = partial(
            conversations.messages,
            conversation_id=request.match_info["conversation_id"],
            before=None if before is None else _whole(before, "before"),
            limit=min(max(limit, 1), contract.MESSAGES_LIMIT_MAX),
        )
        found = await self._means.database.run(page)
        if found is None:
            raise _no_conversation()
        return web.json_response({"messages": [item.to_json() for item in found]})

    async def delete_conversation(self, request: web.Request) -> web.StreamResponse:
        """Ends its turns, then removes everything of it: messages, memories, sound."""
        self._need_database()
        conversation_id = request.match_info["conversation_id"]
        run = self._means.database.run
        turn_ids = await run(partial(conversations.turn_ids, conversation_id=conversation_id))
        if turn_ids is None:
            raise _no_conversation()
        for turn_id in turn_ids:
            await self._queue.cancel(turn_id)
        await run(partial(conversations.delete, conversation_id=conversation_id), durable=True)
        for turn_id in turn_ids:
            await asyncio.to_thread(voice.remove, self._means.settings.data, turn_id)
        return web.Response(status=204)

    async def _turn(self, request: web.Request) -> TurnView:
        self._need_database()
        turn = await self._means.database.run(partial(turns.get, turn_id=request.match_info["turn_id"]))
        if turn is None:
            raise Refused(404, "There is no such turn.", "Check the turn's id.")
        return turn

    def _need_database(self) -> None:
        if not self._readiness.database_open:
            raise Refused(503, "The bot is starting.", "Try again in a moment.", 1)


def _no_conversation() -> Refused:
    return Refused(404, "There is no such conversation.", "Check the conversation's id.")


def _wire(event: StoredEvent | None) -> bytes:
    if event is None:
        return b": still here\n\n"
    return f"id: {event.seq}\nevent: {event.name}\ndata: {event.payload}\n\n".encode()


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise ContractError(f"{name} must be a whole number")
    return int(text)
