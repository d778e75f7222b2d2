"""Everything that runs by itself: a table of named loops, each run by one process at a time.

A process takes a loop's lease in PostgreSQL before a pass and renews it while the pass lasts; when it dies, another
takes over after the lease ran out. A pass must be safe to run twice. What it did, and its last error, is in the table.
"""

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import DateTime, String, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from wopr.core.db import Base, Database
from wopr.core.ids import new_id
from wopr.core.metrics import LOOP_FAILURES, LOOP_SECONDS
from wopr.core.notify import Notifier

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
CLAIM_AGAIN_SECONDS = 3.0
RECORD_AGAIN_SECONDS = 3.0
PASS_SECONDS_MAX = 600.0
ERROR_CHARACTERS_MAX = 2_000

log = structlog.get_logger(__name__)
Counts = Mapping[str, int]


class LoopLease(Base):
    """One row a loop: who runs it until when, and how its last pass went."""

    __tablename__ = "loop_leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str | None] = mapped_column(String(128))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_counts: Mapped[dict[str, int] | None] = mapped_column(JSONB)
    last_error: Mapped[str | None] = mapped_column(Text)


@dataclass(frozen=True)
class Loop:
    """One line of the table of loops.

    `run` does one pass and returns counts of what it did. `wake` names notification channels that start a pass at once;
    `period_seconds` is the slow rhythm that catches what a lost notification would have said. `close` ends what passes
    left running, when the process stops. `beside` is another loop with which this one shares what a process knows: it
    runs only where the other does.
    """

    name: str
    period_seconds: float
    why: str
    run: Callable[[], Awaitable[Counts]]
    wake: Sequence[str] = ()
    close: Callable[[], Awaitable[None]] | None = None
    beside: str = ""


@dataclass
class LoopRunner:
    """Runs a table of loops in this process until it is stopped."""

    db: Database
    notifier: Notifier
    loops: Sequence[Loop]
    holder: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{new_id().hex[-8:]}")
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _held_until: dict[str, float] = field(default_factory=dict)
    _recorded: dict[str, tuple[tuple[dict[str, int], str | None] | None, float]] = field(default_factory=dict)

    async def start(self) -> None:
        """Start one task a loop."""
        for loop in self.loops:
            wakeup = asyncio.Event()
            for channel in loop.wake:
                self.notifier.subscribe(channel, functools.partial(_ring, wakeup))
            self._tasks.append(asyncio.create_task(self._forever(loop, wakeup), name=f"loop {loop.name}"))

    async def stop(self) -> None:
        """Cancel every loop and give the leases back, so that another process need not wait for them to run out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(loop.close() for loop in self.loops if loop.close is not None), return_exceptions=True)
        with contextlib.suppress(Exception):  # leaving is not worth an error: the leases run out by themselves
            async with self.db.begin() as session:
                await session.execute(
                    text("UPDATE loop_leases SET holder = NULL, expires_at = NULL WHERE holder = :holder"),
                    {"holder": self.holder},
                )

    async def _forever(self, loop: Loop, wakeup: asyncio.Event) -> None:
        while True:
            wakeup.clear()
            pause = loop.period_seconds
            try:
                if not await self._pass(loop):
                    pause = max(pause, CLAIM_AGAIN_SECONDS)
            except Exception as error:
                # The one place where everything is caught: a loop that died silently would be worse than any error.
                LOOP_FAILURES.labels(loop.name).inc()
                log.error("loop.failed", loop=loop.name, error=f"{type(error).__name__}: {error}", exc_info=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wakeup.wait()

    async def _pass(self, loop: Loop) -> bool:
        """One pass; False when another process holds the lease."""
        if loop.beside and self._held_until.get(loop.beside, 0.0) < time.monotonic():
            return False
        if not self._surely_held(loop.name) and not await self._claim(loop.name):
            return False
        begun = time.monotonic()
        work = asyncio.ensure_future(_timed(loop))
        counts: Counts = {}
        failure = None
        try:
            while not (await asyncio.wait([work], timeout=RENEW_SECONDS))[0]:
                if not await self._renew(loop.name):
                    raise RuntimeError("the lease was lost during the pass, which was cancelled")
            counts = work.result()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
            raise
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            if failure is not None or (work.done() and not work.cancelled()):
                await self._record(loop.name, (dict(counts), failure), time.monotonic() - begun)
        return True

    def _surely_held(self, name: str) -> bool:
        """Whether the lease taken by an earlier pass has so much time left that asking the database is needless."""
        return self._held_until.get(name, 0.0) - time.monotonic() > LEASE_SECONDS / 2

    async def _claim(self, name: str) -> bool:
        async with self.db.begin() as session:
            await session.execute(
                text("INSERT INTO loop_leases (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name}
            )
            return await self._take(
                session, name, "holder IS NULL OR holder = :holder OR expires_at < now()", started=True
            )

    async def _renew(self, name: str) -> bool:
        async with self.db.begin() as session:
            return await self._take(session, name, "holder = :holder", started=False)

    async def _take(self, session: AsyncSession, name: str, condition: str, *, started: bool) -> bool:
        # `condition` is one of two constants above, never a value from outside.
        first = ", last_started_at = now()" if started else ""
        begun = time.monotonic()
        row = await session.execute(
            text(
                "UPDATE loop_leases SET holder = :holder, expires_at = now() + make_interval(secs => :seconds)"  # noqa: S608
                f"{first} WHERE name = :name AND ({condition}) RETURNING name"
            ),
            {"name": name, "holder": self.holder, "seconds": LEASE_SECONDS},
        )
        taken = row.first() is not None
        self._held_until[name] = begun + LEASE_SECONDS if taken else 0.0
        return taken

    async def _record(self, name: str, outcome: tuple[dict[str, int], str | None], seconds: float) -> None:
        """Write how the pass went; a loop that passes often and says the same is written every few seconds only."""
        said, at = self._recorded.get(name, (None, 0.0))
        now = time.monotonic()
        if said == outcome and now - at < RECORD_AGAIN_SECONDS:
            return
        self._recorded[name] = (outcome, now)
        async with self.db.begin() as session:
            lease = await session.get(LoopLease, name)
            if lease is None or lease.holder != self.holder:
                return
            lease.last_counts, lease.last_error = outcome
            ended: datetime = (await session.execute(text("SELECT now()"))).scalar_one()
            # Not every pass claims the lease anew, so the start is written with the end.
            lease.last_started_at, lease.last_finished_at = ended - timedelta(seconds=seconds), ended


def _ring(wakeup: asyncio.Event, _payload: str) -> None:
    wakeup.set()


async def _timed(loop: Loop) -> Counts:
    with LOOP_SECONDS.labels(loop.name).time():
        async with asyncio.timeout(PASS_SECONDS_MAX):
            return await loop.run()
