"""When something goes wrong: a page that says what, and what to do; JSON for scripts, a hint for htmx."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from wopr.client import ApiError
from wopr.web.rendering import local_path, render

log = structlog.get_logger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SUSPENDED = frozenset({"suspended", "account_suspended"})
SUSPENDED_TITLE = "This account is suspended"
TITLES = {
    400: "That request made no sense to us",
    402: "Your credit is used up",
    403: "You may not do that",
    409: "That does not fit the present state",
    413: "That is too large",
    422: "Something in the form is not right",
    429: "That was a bit too quick",
}


async def api_error(request: Request, error: Exception) -> Response:
    """The API refused, or is away."""
    assert isinstance(error, ApiError)
    if error.status == 401:
        return to_sign_in(request)
    status = 503 if error.unreachable else error.status
    if wants_json(request):
        body = {"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}
        return JSONResponse(body, status)
    if error.unreachable:
        log.warning("api_away", path=request.url.path, code=error.code, message=error.message)
        retry = request.url.path if request.method in SAFE_METHODS else "/dashboard"
        return _page(request, "pages/away.html", {"retry": retry}, 503)
    if status == 404:
        return _page(request, "pages/not_found.html", {}, 404)
    title = SUSPENDED_TITLE if error.code in SUSPENDED else TITLES.get(status, "That did not work")
    values = {"title": title, "error": error}
    return _page(request, "pages/refused.html", values, status)


async def http_error(request: Request, error: Exception) -> Response:
    """No such page, or not by this method."""
    assert isinstance(error, HTTPException)
    if wants_json(request):
        return JSONResponse(
            {"error": {"code": f"http_{error.status_code}", "message": str(error.detail)}}, error.status_code
        )
    if error.status_code in (404, 405):
        return _page(request, "pages/not_found.html", {}, error.status_code)
    refused = ApiError(error.status_code, "refused", str(error.detail))
    title = TITLES.get(error.status_code, "That did not work")
    return _page(request, "pages/refused.html", {"title": title, "error": refused}, error.status_code)


async def unreadable(request: Request, error: Exception) -> Response:
    """A form or an address with a part that can't be read."""
    refused = ApiError(422, "invalid", "A part of what was sent is missing or can't be read.", "Go back and try again.")
    return await api_error(request, refused)


def unexpected(request: Request, error: Exception) -> Response:
    """Our fault: the details go to the log, never to the reader."""
    log.exception("page_failed", path=request.url.path, error=repr(error))
    if wants_json(request):
        return JSONResponse(
            {"error": {"code": "internal", "message": "This page failed.", "remedy": "Try again."}}, 500
        )
    return _page(request, "pages/broken.html", {}, 500)


def _page(request: Request, name: str, values: Mapping[str, object], status: int) -> Response:
    """The page of a fault. Who came with a session is led back to the bots: the API is not asked, which may be away."""
    return render(request, name, {"returning": bool(request.cookies.get("wopr_session")), **values}, status)


def to_sign_in(request: Request) -> Response:
    """Sign in first, then come back to where you were."""
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = "/sign-in"
    if request.method in SAFE_METHODS and back not in ("/", "/dashboard"):
        target += f"?next={quote(local_path(back), safe='/')}"
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": "/sign-in"})
    if wants_json(request):
        body = {"error": {"code": "unauthenticated", "message": "You are signed out.", "remedy": "Sign in again."}}
        return JSONResponse(body, 401)
    return RedirectResponse(target, 303)


def wants_json(request: Request) -> bool:
    """Scripts of ours ask for JSON or for an event stream; people ask for pages."""
    accept = request.headers.get("accept", "")
    return "application/json" in accept or "text/event-stream" in accept
