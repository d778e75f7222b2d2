"""The wall around every answer: a strict Content-Security-Policy, the other headers, and the check of forms.

A raw ASGI layer, so that errors, static files and streams pass through it as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wopr.web import faults
from wopr.web.faults import SAFE_METHODS
from wopr.web.site import Site

COOKIES_KEY = "wopr.set_cookies"
"""Where a request keeps the Set-Cookie headers of the API, which are passed on to the browser as they are."""

REFUSED = (
    "<!doctype html><html lang=en><title>Refused</title><h1>This form came from another site</h1>"
    "<p>Nothing was changed. Go back to WOPR, reload the page and send the form from there.</p></html>"
)


class Shield:
    """Adds the headers and refuses forms of other sites."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site
        self._headers = security_headers(site)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[COOKIES_KEY] = []

        async def shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._dress(MutableHeaders(scope=message), scope[COOKIES_KEY])
            await send(message)

        if scope["method"] not in SAFE_METHODS and not same_origin(Headers(scope=scope), self._site.ui_origin):
            await HTMLResponse(REFUSED, 403)(scope, receive, shielded)
            return
        # A copy, so that the server below still knows that HEAD wants no body.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        await self._guarded(asked, receive, shielded)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The outermost handler: an unexpected error becomes a page, with the headers, and a line in the log."""
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001 - the outermost handler
            response = faults.unexpected(Request(scope), error)
            if not started:
                await response(scope, receive, send)

    def _dress(self, headers: MutableHeaders, cookies: Iterable[str]) -> None:
        for name, value in self._headers.items():
            headers[name] = value
        if "cache-control" not in headers:
            headers["cache-control"] = "private, no-store"
        for cookie in cookies:
            headers.append("set-cookie", cookie)


def security_headers(site: Site) -> dict[str, str]:
    """The same on every answer. Redirects that follow a form count for `form-action`, hence the payment pages."""
    form_targets = " ".join(("'self'", *site.payment_origins))
    policy = {
        "default-src": "'self'",
        "img-src": "'self' data: blob:",
        "media-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "form-action": form_targets,
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), payment=(), usb=(), microphone=(self)",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "x-frame-options": "DENY",
    }
    if site.secure:
        headers["strict-transport-security"] = "max-age=31536000; includeSubDomains"
    return headers


def same_origin(headers: Headers, ui_origin: str) -> bool:
    """Whether a changing request comes from our own pages.

    Browsers send Origin with every POST; a program without a browser sends neither that nor Sec-Fetch-Site, and has no
    cookie that somebody else could abuse, so it is let through only without one.
    """
    origin = headers.get("origin")
    if origin is None:
        return "cookie" not in headers and headers.get("sec-fetch-site") in (None, "same-origin")
    if origin.lower() == ui_origin:
        return True
    return origin != "null" and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
