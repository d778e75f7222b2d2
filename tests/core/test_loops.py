"""Loops run in one process at a time, record what they did, and are taken over when their process dies."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy import text

from wopr.core.db import Database
from wopr.core.loops import Loop, LoopLease, LoopRunner
from wopr.core.notify import Notifier, notify


class Counting:
    """A pass that counts itself and lets tests wait for a number of passes."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.passes = 0
        self._failure = failure
        self._changed = asyncio.Condition()

    async def __call__(self) -> Mapping[str, int]:
        async with self._changed:
            self.passes += 1
            self._changed.notify_all()
        if self._failure is not None:
            raise self._failure
        return {"done": self.passes}

    async def reached(self, passes: int) -> None:
        async with self._changed, asyncio.timeout(60):
            await self._changed.wait_for(lambda: self.passes >= passes)


@asynccontextmanager
async def running(db: Database, *loops: Loop) -> AsyncIterator[LoopRunner]:
    notifier = Notifier(db)
    await notifier.start()
    runner = LoopRunner(db, notifier, loops)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop()
        await notifier.stop()


async def lease(db: Database, name: str) -> LoopLease:
    async with db.begin() as session:
        found = await session.get(LoopLease, name)
        assert found is not None
        return found


async def recorded(db: Database, name: str) -> LoopLease:
    """The lease once its first pass has been written down."""
    async with asyncio.timeout(60):
        while True:
            async with db.begin() as session:
                found = await session.get(LoopLease, name)
                if found is not None and found.last_finished_at is not None:
                    return found


async def test_what_passes_left_running_ends_with_the_process(db: Database) -> None:
    passed, closed = Counting(), asyncio.Event()

    async def close() -> None:
        closed.set()

    async with running(db, Loop("closes", 60, "test", passed, close=close)):
        await passed.reached(1)
        assert not closed.is_set()
    assert closed.is_set()


async def test_a_pass_records_its_counts(db: Database) -> None:
    work = Counting()
    async with running(db, Loop("count", 60, "a test", work)):
        found = await recorded(db, "count")
    assert found.last_counts == {"done": 1}
    assert found.last_error is None


async def test_the_start_that_is_shown_belongs_to_the_end_that_is_shown_although_the_lease_is_claimed_seldom(
    db: Database,
) -> None:
    work = Counting()
    async with running(db, Loop("count", 0.01, "a test", work)):
        await work.reached(20)
        found = await recorded(db, "count")
        while found.last_counts == {"done": 1}:
            found = await recorded(db, "count")
    assert found.last_started_at is not None
    assert found.last_finished_at is not None
    assert 0 <= (found.last_finished_at - found.last_started_at).total_seconds() < 1


async def test_a_loop_beside_another_runs_only_in_the_process_that_runs_the_other(db: Database) -> None:
    leads, other, follows = Counting(), Counting(), Counting()
    behind = (
        Loop("leads", 0.01, "a test", Counting()),
        Loop("follows", 0.01, "a test", follows, beside="leads"),
        Loop("other", 0.01, "a test", other),
    )
    async with AsyncExitStack() as second:
        async with running(db, Loop("leads", 0.01, "a test", leads)):
            await leads.reached(1)
            await second.enter_async_context(running(db, *behind))
            await other.reached(20)
            assert follows.passes == 0
        await follows.reached(1)


async def test_a_failed_pass_records_its_error_and_the_next_one_runs(db: Database) -> None:
    work = Counting(ValueError("broken on purpose"))
    async with running(db, Loop("count", 0.01, "a test", work)):
        await work.reached(2)
        found = await recorded(db, "count")
    assert found.last_error is not None
    assert "broken on purpose" in found.last_error


async def test_a_notification_starts_a_pass_at_once(db: Database) -> None:
    work = Counting()
    async with running(db, Loop("count", 3600, "a test", work, wake=("ring",))) as runner:
        await runner.notifier.connected.wait()
        before = work.passes
        async with db.begin() as session:
            await notify(session, "ring", "now")
        await work.reached(before + 1)


async def test_a_lease_held_elsewhere_is_respected(db: Database) -> None:
    async with db.begin() as session:
        await session.execute(
            text(
                "INSERT INTO loop_leases (name, holder, expires_at) VALUES ('held', 'other', now() + interval '1 hour')"
            )
        )
    held, free = Counting(), Counting()
    async with running(db, Loop("held", 0.01, "a test", held), Loop("free", 0.01, "a test", free)):
        await free.reached(5)
    assert held.passes == 0


async def test_a_dead_holders_lease_is_taken_over(db: Database) -> None:
    async with db.begin() as session:
        await session.execute(
            text("INSERT INTO loop_leases (name, holder, expires_at) VALUES ('left', 'dead', now() - interval '9 s')")
        )
    work = Counting()
    async with running(db, Loop("left", 0.01, "a test", work)):
        await work.reached(1)


async def test_stopping_gives_the_lease_back(db: Database) -> None:
    work = Counting()
    async with running(db, Loop("count", 60, "a test", work)):
        await recorded(db, "count")
    assert (await lease(db, "count")).holder is None
