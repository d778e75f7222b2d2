"""What a process has in its hands while it runs: settings, database, clocks, HTTP client, notifications."""

from dataclasses import dataclass, field

import httpx

from wopr.core.clock import Clock, SystemClock
from wopr.core.database_url import database_url
from wopr.core.db import Database
from wopr.core.notify import Notifier
from wopr.core.settings import Settings
from wopr.core.steady import SteadyClock

HTTP_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Platform:
    """Built once by the composition root and handed around; nothing reaches for a global."""

    settings: Settings
    db: Database
    clock: Clock
    http: httpx.AsyncClient
    notifier: Notifier
    # For times that one process stores and another reads.
    steady: SteadyClock = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steady", SteadyClock(self.db, self.clock))

    async def close(self) -> None:
        """Give everything back, in the reverse order of its making."""
        await self.notifier.stop()
        await self.http.aclose()
        await self.db.dispose()


def build_platform(settings: Settings, clock: Clock | None = None) -> Platform:
    """A platform on the database of the settings. Starts nothing."""
    db = Database(database_url(settings), settings.database_pool_size)
    http = httpx.AsyncClient(timeout=HTTP_TIMEOUT_SECONDS, follow_redirects=False)
    return Platform(settings, db, clock or SystemClock(), http, Notifier(db))
