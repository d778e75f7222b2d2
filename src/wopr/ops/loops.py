"""The loop that watches for outages in an API process, and what it sees of the other loops."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.loops import Loop, LoopLease
from wopr.core.platform import Platform
from wopr.ops.incidents import Severity
from wopr.ops.journal import Journal
from wopr.ops.logbook.observed import NODES
from wopr.ops.observed import Rows, observe
from wopr.ops.outages import Watch, Watched

NAME = "watch_outages"
PERIOD_SECONDS = 10.0
OBSERVE_SECONDS = 300.0

Look = Callable[[AsyncSession], Awaitable[Sequence[Watched]]]
Nodes = Callable[[AsyncSession], Awaitable[Rows]]


def outages_loop(platform: Platform, looks: Sequence[Look], nodes: Nodes) -> Loop:
    """The line in the table of loops. Each of `looks` says what it sees in the database, `nodes` which machines."""
    journal = Journal(platform.settings.wopr_home)
    watch = Watch(journal, "watchdog", platform.settings.incident_after_seconds)
    observed_at = -OBSERVE_SECONDS

    async def run() -> Mapping[str, int]:
        nonlocal observed_at
        async with platform.db.begin() as session:
            watched = [thing for look in looks for thing in await look(session)]
            rows = await nodes(session)
        # A service that flaps would fill the journal if every change of it were an observation.
        if platform.clock.monotonic() - observed_at >= OBSERVE_SECONDS:
            observed_at = platform.clock.monotonic()
            await asyncio.to_thread(observe, journal, NODES, rows)
        return await asyncio.to_thread(watch.settle, watched, platform.clock.now())

    return Loop(
        name=NAME,
        period_seconds=PERIOD_SECONDS,
        why="Opens an incident when a service or a loop stays down, and resolves it when it is well again.",
        run=run,
    )


async def failing_loops(session: AsyncSession) -> Sequence[Watched]:
    """Every loop, down while its last pass ended with an error."""
    leases = await session.scalars(select(LoopLease).where(LoopLease.name != NAME))
    return [
        Watched(
            key=f"loop:{lease.name}",
            title=f"The loop {lease.name} fails",
            severity=Severity.SEV3,
            down=lease.last_error is not None,
            detail=lease.last_error or "",
        )
        for lease in leases
    ]
