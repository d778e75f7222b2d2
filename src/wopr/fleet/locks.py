"""One worker a bot: session-level advisory locks on a connection of their own, so that a dead process lets go.

The reconciler's lease already leaves one process to work; these keep apart the one that lost its lease and goes on
for a moment, and the one that took over. A runtime has its own last guard below them.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from wopr.core.db import Database

LOCK_SECONDS_MAX = 5.0
CLOSE_SECONDS_MAX = 2.0


class BotLocks:
    """Locks of one process. PostgreSQL lets one session take a lock twice, so what is held here is remembered, too."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: asyncpg.Connection[Any] | None = None
        self._turn = asyncio.Lock()
        self._held: set[UUID] = set()

    @contextlib.asynccontextmanager
    async def hold(self, bot_id: UUID) -> AsyncIterator[bool]:
        """Whether the lock is ours while the block runs; False when another worker has it."""
        if bot_id in self._held:
            yield False
            return
        self._held.add(bot_id)
        try:
            if not await self._call("pg_try_advisory_lock", bot_id):
                yield False
                return
            try:
                yield True
            finally:
                # A connection that broke has let go of its locks already.
                with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.shield(self._call("pg_advisory_unlock", bot_id))
        finally:
            self._held.discard(bot_id)

    async def close(self) -> None:
        """Close the connection, and with it let go of every lock."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=CLOSE_SECONDS_MAX)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()

    async def _call(self, function: str, bot_id: UUID) -> bool:
        # `function` is one of the two constants above, never a value from outside.
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._db.connect_raw()
            query = f"SELECT {function}($1)"
            try:
                return bool(await self._connection.fetchval(query, _number(bot_id), timeout=LOCK_SECONDS_MAX))
            except (TimeoutError, asyncio.CancelledError):
                # Whether the lock was taken is unknown now; without the connection it is free for sure.
                self._connection.terminate()
                raise


def _number(bot_id: UUID) -> int:
    return int.from_bytes(hashlib.sha256(b"bot" + bot_id.bytes).digest()[:8], "big", signed=True)
