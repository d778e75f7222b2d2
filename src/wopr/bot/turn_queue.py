"""Turns in order: one at a time for a conversation, a few at once for the bot, each a task that needs no listener."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

from wopr.bot import turns
from wopr.bot.answer import Means, answer
from wopr.bot.contract import ErrorBody, ErrorCode, TurnAccepted, TurnRequest, TurnState
from wopr.bot.gateway_errors import GatewayError
from wopr.bot.live_turn import LiveTurn
from wopr.bot.log import log
from wopr.bot.turns import INTERRUPTED, Outcome, StoredEvent

AT_ONCE_MAX = 4
WAITING_MAX = 64
WAITING_AUDIO_BYTES_MAX = 32 * 1024 * 1024  # recordings wait in memory
TURN_SECONDS_MAX = 600.0
WAIT_SECONDS_MAX = 900.0
HANDOVER_SECONDS = 0.05


class QueueFull(Exception):
    """More turns wait than the bot takes."""


class TurnQueue:
    """Owns the tasks of the turns under way."""

    def __init__(self, means: Means, on_finished: asyncio.Event) -> None:
        self.finished = 0  # turns that ended since the start
        self._means = means
        self._on_finished = on_finished
        self._live: dict[str, LiveTurn] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._creating = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether any turn is under way."""
        return bool(self._live)

    @property
    def running(self) -> int:
        """How many turns are under way, those that wait for their turn included."""
        return len(self._live)

    async def create(self, request: TurnRequest, audio: bytes | None) -> tuple[TurnAccepted, bool]:
        """Stores the turn and starts it; the same turn again is only reported, and True beside it says so.

        Raises `QueueFull`, `DifferentTurn`.
        """
        async with self._creating:
            if request.turn_id not in self._live:
                self._need_room(0 if audio is None else len(audio))
            created = await self._means.database.run(partial(turns.create, request=request), durable=True)
            if created.seq is not None and created.started is not None:
                live = LiveTurn(self._means.database, created.seq, created.started)
                live.audio_bytes = 0 if audio is None else len(audio)
                self._live[request.turn_id] = live
                request = replace(request, audio_base64=None)  # decoded, and large
                live.work = asyncio.create_task(self._work(live, request, audio))
                self._tasks[request.turn_id] = asyncio.create_task(self._see_through(live, request.turn_id))
        return TurnAccepted(request.turn_id, request.conversation_id, created.state), created.seq is None

    async def cancel(self, turn_id: str) -> None:
        """Ends the turn at once, with what it has said; a turn that has ended stays as it is."""
        await self._end([turn_id], TurnState.CANCELLED)

    async def stop(self) -> None:
        """Ends all turns because the process ends."""
        await self._end(list(self._live), TurnState.INTERRUPTED)

    async def follow(self, turn_id: str, after: int) -> AsyncGenerator[StoredEvent | None, None]:
        """Events above number `after`, the stored ones and then the new ones; None when a heartbeat is due.

        A turn that doesn't exist has none.
        """
        while True:
            live = self._live.get(turn_id)
            if live is not None:
                async with aclosing(live.follow(after)) as events:
                    async for event in events:
                        yield event
                return
            stored = await self._means.database.run(partial(turns.events_after, turn_id=turn_id, after=after))
            for event in stored or ():
                after = event.seq
                yield event
            if not stored or stored[-1].name.final:
                view = await self._means.database.run(partial(turns.get, turn_id=turn_id))
                if view is None or view.state.final:
                    return
            # Between its commit and its start a new turn is stored but not yet live.
            await asyncio.sleep(HANDOVER_SECONDS)

    def _need_room(self, audio_bytes: int) -> None:
        waiting = sum(live.audio_bytes for live in self._live.values())
        if len(self._live) >= WAITING_MAX or (audio_bytes and waiting + audio_bytes > WAITING_AUDIO_BYTES_MAX):
            raise QueueFull

    async def _end(self, turn_ids: list[str], state: TurnState) -> None:
        tasks = []
        for turn_id in turn_ids:
            live, task = self._live.get(turn_id), self._tasks.get(turn_id)
            if live is None or task is None or live.work is None:
                continue
            if live.ending is None:
                live.ending = state
                live.work.cancel()
            tasks.append(task)
        if tasks:
            await asyncio.wait(tasks)

    async def _work(self, live: LiveTurn, request: TurnRequest, audio: bytes | None) -> Outcome:
        lock = self._locks.setdefault(request.conversation_id, asyncio.Lock())
        async with asyncio.timeout(WAIT_SECONDS_MAX) as waiting, AsyncExitStack() as until_here:
            await lock.acquire()
            live.conversation = lock  # released when the end is stored, or the next turn would miss this answer
            await until_here.enter_async_context(self._slots)
            waiting.reschedule(asyncio.get_running_loop().time() + TURN_SECONDS_MAX)
            return await answer(self._means, live, request, audio)

    async def _see_through(self, live: LiveTurn, turn_id: str) -> None:
        """Never cancelled itself, so that every turn gets its end stored."""
        begun = time.monotonic()
        assert live.work is not None
        await asyncio.wait({live.work})
        outcome = _outcome(live, turn_id)
        await live.finish(outcome)
        if live.conversation is not None:
            live.conversation.release()
        self._live.pop(turn_id, None)
        self._tasks.pop(turn_id, None)
        self.finished += 1
        self._on_finished.set()
        log(
            "turn_finished",
            turn_id=turn_id,
            state=outcome.state,
            code=outcome.error.code if outcome.error else None,
            duration_ms=round((time.monotonic() - begun) * 1000),
        )


def _outcome(live: LiveTurn, turn_id: str) -> Outcome:
    """Reads how the work ended; everything but a whole answer keeps its partial text."""
    work = live.work
    assert work is not None
    if work.cancelled():
        if live.ending is TurnState.CANCELLED:
            return _partial(live, TurnState.CANCELLED, None)
        return _partial(live, TurnState.INTERRUPTED, INTERRUPTED)
    error = work.exception()
    if error is None:
        return work.result()
    if isinstance(error, GatewayError):
        return _partial(live, TurnState.FAILED, error.body)
    if isinstance(error, TimeoutError):
        body = ErrorBody(ErrorCode.TURN_TIMEOUT, "The answer took too long.", "Ask for something shorter.")
        return _partial(live, TurnState.FAILED, body)
    log("turn_crashed", "error", turn_id=turn_id, error=type(error).__name__, detail=_where(error))
    body = ErrorBody(
        ErrorCode.INTERNAL, "The bot failed while it answered.", "Try again; the bot's log names the cause."
    )
    return _partial(live, TurnState.FAILED, body)


def _partial(live: LiveTurn, state: TurnState, error: ErrorBody | None) -> Outcome:
    spent = live.spent
    return Outcome(state, text=live.text, error=error, usage=spent.usage, request_ids=tuple(spent.request_ids))


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
