"""Seconds since 1970 that all processes agree on and that go on evenly: PostgreSQL's, counted on monotonically.

What waits for minutes and is kept in the database needs an absolute time. One process may begin a wait and another end
it, on a machine with another clock; and when somebody corrects a machine's clock, nothing may have lasted five minutes
longer for it.
"""

from dataclasses import dataclass

from sqlalchemy import text

from wopr.core.clock import Clock
from wopr.core.db import Database


@dataclass
class SteadyClock:
    """One a process. The database is asked once, when the time is first needed."""

    db: Database
    clock: Clock
    _offset: float | None = None

    async def epoch(self) -> int:
        """Whole seconds since 1970."""
        if self._offset is None:
            async with self.db.begin() as session:
                await session.connection()  # to open one takes its time
                asked = self.clock.monotonic()
                told = float(await session.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
            self._offset = told - asked
        return int(self._offset + self.clock.monotonic())
