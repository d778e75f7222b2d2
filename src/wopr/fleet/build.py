"""Puts the fleet of one process together. Making it touches nothing; it begins to work with its first pass."""

from dataclasses import dataclass

import httpx

from wopr.core.errors import NotConfigured
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.fleet.runtimes.process import ProcessRuntime
from wopr.fleet.runtimes.protocol import Runtime

CONNECTIONS_MAX = 2_000
CONNECT_SECONDS = 2.0
READ_SECONDS = 60.0


@dataclass(frozen=True)
class Fleet:
    """Where bots run, and the connections to them. Any number of processes may have one at once."""

    runtime: Runtime
    http: httpx.AsyncClient

    async def close(self) -> None:
        """Give back connections and watches; the bots go on."""
        await self.http.aclose()
        await self.runtime.close()


def build_fleet(platform: Platform) -> Fleet:
    """The fleet of these settings."""
    return Fleet(_runtime(platform.settings), bot_http())


def bot_http() -> httpx.AsyncClient:
    """Connections to bots: never through a proxy of the machine, many at once, since each open chat holds one."""
    limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=100)
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    # Bots are reached by plain HTTP; loading certificates would only cost time and memory.
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False, verify=False)  # noqa: S501


def _runtime(settings: Settings) -> Runtime:
    if settings.bot_runtime == "process":
        return ProcessRuntime(settings.wopr_home)
    raise NotConfigured(
        f"BOT_RUNTIME={settings.bot_runtime} is not a way to run bots here.", remedy="Set BOT_RUNTIME=process."
    )
