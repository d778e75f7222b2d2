"""Operations over HTTP: health, readiness, the public status and the background loops."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from wopr.client.transport import Answer, Transport


class Health(Answer):
    """`{"status":"ok"}` while the process can serve."""

    status: str


class ServiceStatus(Answer):
    """One service of the platform as the public may see it."""

    name: str
    status: str
    detail: str | None = None


class Status(Answer):
    """The public summary."""

    status: str
    version: str | None = None
    services: tuple[ServiceStatus, ...] = ()


class LoopRun(Answer):
    """A background loop with its last run."""

    name: str
    why: str | None = None
    period_seconds: float | None = None
    last_started_at: datetime | None = None
    last_finished_at: datetime | None = None
    last_counts: dict[str, Any] | None = None  # Any: counts by name
    last_error: str | None = None
    holder: str | None = None


class Loops(Answer):
    """All background loops."""

    loops: list[LoopRun]


class OpsApi:
    """Routes /health, /ready, /api/status and /api/admin/loops."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def health(self) -> Health:
        """Liveness."""
        return await self._transport.get("/health", Health)

    async def ready(self) -> None:
        """Returns when the API is ready; raises `ApiError` 503 with the reasons when not."""
        await self._transport.request("GET", "/ready")

    async def status(self) -> Status:
        """The public summary of all services."""
        return await self._transport.get("/api/status", Status)

    async def loops(self) -> list[LoopRun]:
        """Background loops with their last runs, for administrators."""
        return (await self._transport.get("/api/admin/loops", Loops)).loops
