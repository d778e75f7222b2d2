"""A turn under way: its events are stored first and shown to listeners right after.

Text can arrive faster than a disk commits, so one write is under way at a time and whatever arrives meanwhile goes with
the next one, merged into one delta. A listener therefore sees nothing that a kill -9 could take back, and waits for one
commit (well under a millisecond) and not for a timer.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from functools import partial

from wopr.bot import turns
from wopr.bot.contract import HEARTBEAT_SECONDS, ErrorBody, ErrorCode, EventName, TurnState
from wopr.bot.database import Database
from wopr.bot.gateway import Spent
from wopr.bot.log import log
from wopr.bot.retelling import Retelling
from wopr.bot.turns import Outcome, StoredEvent

STORAGE_FAILED = ErrorBody(
    ErrorCode.INTERNAL,
    "The bot can't write to its data folder.",
    "Check that the bot's disk isn't full, then ask again.",
)


class LiveTurn:
    """The events of one turn from its creation to its end, for any number of listeners."""

    def __init__(self, database: Database, turn_seq: int, started: StoredEvent) -> None:
        self.turn_seq = turn_seq
        self.spent = Spent()
        self.audio_bytes = 0  # size of the recording that the turn holds
        self.ending: TurnState | None = None  # set once, by whoever ends the turn before its answer does
        self.work: asyncio.Task[Outcome] | None = None
        self.conversation: asyncio.Lock | None = None  # held while this turn is its conversation's running one
        self._database = database
        self._events = [started]
        self.answer = Retelling(self._delta, self._restarted)
        self._pending: list[tuple[EventName, dict[str, object]]] = []
        self._outcome: Outcome | None = None
        self._writer: asyncio.Task[None] | None = None
        self._broken = False
        self._changed = asyncio.Event()

    @property
    def text(self) -> str:
        """The answer so far."""
        return self.answer.text

    def transcript(self, text: str) -> None:
        """What the bot understood."""
        self._push(EventName.TRANSCRIPT, {"text": text})

    async def finish(self, outcome: Outcome) -> None:
        """Stores the end (through a power cut, too) and shows it."""
        self._outcome = outcome
        self._push(*outcome.event)
        while self._writer is not None and not self._writer.done():
            await self._writer

    async def follow(self, after: int) -> AsyncGenerator[StoredEvent | None, None]:
        """Events above number `after` as they come, up to the final one; None when a heartbeat is due."""
        position = max(after, 0)
        while True:
            changed = self._changed
            while position < len(self._events):
                event = self._events[position]
                position += 1
                yield event
            if self._events[-1].name.final:
                return
            if changed is not self._changed:
                continue  # more arrived while the listener was being served
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await changed.wait()
            except TimeoutError:
                yield None

    def _delta(self, text: str) -> None:
        self._push(EventName.DELTA, {"text": text})

    def _restarted(self) -> None:
        self._push(EventName.RESTARTED, {})

    def _push(self, name: EventName, payload: dict[str, object]) -> None:
        if self._broken:
            return
        self._pending.append((name, payload))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._pending:
            events = self._take()
            outcome = self._outcome if events[-1].name.final else None
            store = partial(self._store, events=events, outcome=outcome)
            try:
                await self._database.run(store, durable=outcome is not None)
            except sqlite3.Error as error:
                log("storage_failed", "error", error=str(error))
                self._give_up()
                return
            self._show(events)

    def _take(self) -> list[StoredEvent]:
        merged: list[tuple[EventName, dict[str, object]]] = []
        for name, payload in self._pending:
            if name is EventName.DELTA and merged and merged[-1][0] is EventName.DELTA:
                merged[-1] = (name, {"text": f"{merged[-1][1]['text']}{payload['text']}"})
            else:
                merged.append((name, payload))
        self._pending.clear()
        first = len(self._events) + 1
        return [StoredEvent(first + n, name, json.dumps(data)) for n, (name, data) in enumerate(merged)]

    def _store(self, connection: sqlite3.Connection, events: list[StoredEvent], outcome: Outcome | None) -> None:
        turns.append(connection, self.turn_seq, events)
        if outcome is not None:
            turns.close(connection, self.turn_seq, outcome)

    def _give_up(self) -> None:
        """The disk refuses: listeners learn it; at the next start the turn is closed as interrupted."""
        self._broken = True
        self._pending.clear()
        payload = json.dumps(STORAGE_FAILED.to_json())
        self._show([StoredEvent(len(self._events) + 1, EventName.FAILED, payload)])
        if self.work is not None:
            self.work.cancel()

    def _show(self, events: list[StoredEvent]) -> None:
        self._events += events
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
