"""Errors in the words of OpenAI's API, so that its official clients raise the classes that their users expect."""

import json

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from wopr.core.errors import BadRequest, WoprError
from wopr.inference.gateway.asgi import JSON_TYPE, Header

# What a database that is away or too slow looks like, through SQLAlchemy or beside it.
DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

TYPE_BY_STATUS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}


class BadParameter(BadRequest):
    """A parameter of the request can't be used; `param` names it."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_value") -> None:
        super().__init__(message, code=code)
        self.param = param


class MethodNotAllowed(WoprError):
    """The path exists, the method does not."""

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This path wants {allowed}.")
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        return {"allow": self.allowed}


class TimedOut(WoprError):
    """The model took too long."""

    status = 504
    default_code = "timeout"


def error_document(error: WoprError) -> dict[str, dict[str, str | None]]:
    """`{"error": {message, type, param, code}}`."""
    message = f"{error.message} {error.remedy}".strip()
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": message,
            "type": TYPE_BY_STATUS.get(error.status, fallback),
            "param": getattr(error, "param", None),
            "code": error.code,
        }
    }


def error_body(error: WoprError) -> bytes:
    """The document as bytes."""
    return json.dumps(error_document(error), ensure_ascii=False).encode()


def error_headers(error: WoprError) -> list[Header]:
    """Content type, Retry-After, and where trying again can't help the word that keeps clients from it."""
    headers = [JSON_TYPE]
    headers += [(name.encode(), value.encode()) for name, value in error.headers().items()]
    if error.status == 402 or (error.status == 409 and error.retry_after_seconds is None):
        headers.append((b"x-should-retry", b"false"))
    return headers


def error_event(error: WoprError) -> bytes:
    """The error inside a stream that has begun already."""
    return b"data: " + error_body(error) + b"\n\n"
