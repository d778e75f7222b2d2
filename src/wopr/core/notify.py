"""LISTEN and NOTIFY: how one process tells the others that something changed.

A notification is a hint, never the only carrier of a fact: caches are emptied when the connection was lost, and every
reconciler also looks by itself from time to time.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.db import Database

RECONNECT_SECONDS = 1.0
CHECK_SECONDS = 5.0
# Handed to every subscriber after the connection was away: what came meanwhile is unknown.
LOST = ""

log = structlog.get_logger(__name__)
Handler = Callable[[str], None]


async def notify(session: AsyncSession, channel: str, payload: str) -> None:
    """Tell every listener, when and only when the transaction commits."""
    await session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


async def notify_all(session: AsyncSession, channel: str, payloads: Sequence[str]) -> None:
    """The same with many payloads, in one statement."""
    statement = text("SELECT count(pg_notify(:channel, payload)) FROM unnest(CAST(:payloads AS text[])) AS payload")
    await session.execute(statement, {"channel": channel, "payloads": list(payloads)})


class Notifier:
    """One listening connection a process. Handlers run in the event loop and must not block."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._handlers: dict[str, list[Handler]] = {}
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.connected = asyncio.Event()

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Call `handler(payload)` for each notification, and with `LOST` after an interruption."""
        self._handlers.setdefault(channel, []).append(handler)
        self._changed.set()

    async def start(self) -> None:
        """Begin to listen in the background."""
        self._task = asyncio.create_task(self._run(), name="notifier")

    async def stop(self) -> None:
        """Stop listening and close the connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("notifier.lost", error=str(error), retry_seconds=RECONNECT_SECONDS)
            self.connected.clear()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        connection = await self._db.connect_raw()
        connection.add_termination_listener(self._terminated)
        try:
            listening: set[str] = set()
            while True:
                self._changed.clear()
                for channel in set(self._handlers) - listening:
                    await connection.add_listener(channel, self._receive)
                    listening.add(channel)
                    self._dispatch(channel, LOST)
                self.connected.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._changed.wait()
                await connection.execute("SELECT 1", timeout=CHECK_SECONDS)
        finally:
            connection.terminate()

    def _terminated(self, _connection: Any) -> None:
        # At once, not at the next check: whoever relies on hearing of changes must know that it doesn't.
        self.connected.clear()
        self._changed.set()

    def _receive(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:  # asyncpg types it loosely
        self._dispatch(channel, str(payload))

    def _dispatch(self, channel: str, payload: str) -> None:
        for handler in self._handlers.get(channel, ()):
            handler(payload)
