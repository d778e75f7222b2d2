"""What stands in front of every route: a request id, a limit on the body, security headers, metrics, the last handler.

Plain ASGI, so that streams pass through chunk by chunk and a client that leaves is noticed.
"""

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from wopr.core.ids import new_id
from wopr.core.metrics import HTTP_REQUESTS, HTTP_SECONDS

BODY_BYTES_MAX = 12 * 1024 * 1024

# The names of the ASGI specification; the values are as loose as it leaves them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)
TOO_LARGE_STATUS = 413
TOO_LARGE = {
    "error": {"code": "too_large", "message": "The body is larger than 12 MB.", "remedy": "Send less at once."}
}
INTERNAL_ERROR = {
    "error": {
        "code": "internal",
        "message": "Something went wrong on our side; it was logged.",
        "remedy": "Try again; if it stays, tell us the request id in the header x-request-id.",
    }
}

log = structlog.get_logger(__name__)


class Edge:
    """Wraps an ASGI application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, str(new_id()))
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        try:
            if _declared_length(scope) > BODY_BYTES_MAX:
                await exchange.answer(TOO_LARGE_STATUS, TOO_LARGE)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except _BodyTooLarge:
            await exchange.answer(TOO_LARGE_STATUS, TOO_LARGE)
        except Exception:
            log.error("request.failed", path=scope["path"], exc_info=True)
            await exchange.answer(500, INTERNAL_ERROR)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")
            exchange.count(scope)


class _BodyTooLarge(Exception):
    """The body grew over the limit while it was read."""


class _Exchange:
    """One request: counts the body, remembers the status, adds the headers."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self.request_id = request_id
        self._status = 0
        self._received_bytes = 0
        self._too_large = False
        self._started = time.perf_counter()

    async def receive(self) -> Message:
        message = await self._receive()
        self._received_bytes += len(message.get("body", b""))
        if self._received_bytes > BODY_BYTES_MAX:
            self._too_large = True
            raise _BodyTooLarge
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._too_large and message["status"] != TOO_LARGE_STATUS:
                # Whoever read the body took the exception for a broken one; what was wrong is its size.
                raise _BodyTooLarge
            self._status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
            headers.append((b"x-request-id", self.request_id.encode()))
            message = {**message, "headers": headers}
        await self._send(message)

    async def answer(self, status: int, body: dict[str, dict[str, str]]) -> None:
        """Answer with an error, unless the answer has begun already: then it can only be cut."""
        if self._status:
            return
        raw = json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": raw})

    def count(self, scope: Scope) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        HTTP_REQUESTS.labels(scope["method"], route, str(self._status)).inc()
        HTTP_SECONDS.labels(route).observe(time.perf_counter() - self._started)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
