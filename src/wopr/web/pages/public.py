"""What anybody may see: the landing page and the status of the platform."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from wopr.client import ApiError
from wopr.client.ops import ServiceStatus, Status
from wopr.web.visit import MaybeMember

router = APIRouter()


@router.get("/")
async def landing(visit: MaybeMember) -> Response:
    """What it is, what it costs, how it works."""
    return visit.page("pages/landing.html")


@router.get("/status")
async def status(visit: MaybeMember) -> Response:
    """Is it up? Answers also while the API is away, since that is when people look."""
    try:
        summary = await visit.api.ops.status()
    except ApiError as error:
        away = ServiceStatus(
            name="api", status="down", detail="does not answer" if error.unreachable else error.message
        )
        summary = Status(status="down", services=(away,))
    return visit.page("pages/status.html", {"summary": summary})
