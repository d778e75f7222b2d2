"""Errors that people meet. Each carries who must act: an HTTP status, a stable code, a message and its remedy.

WoprError
├── BadRequest 400          the request can't be read
├── Unauthenticated 401     no valid session or key
├── PaymentRequired 402     credit is empty
├── Forbidden 403           known, but not allowed
├── NotFound 404            not there, or another tenant's
├── Conflict 409            the present state refuses it
├── TooLarge 413            over a limit on size
├── Invalid 422             readable, but wrong
├── TooManyRequests 429     later; says when
├── UpstreamFailed 502      a service behind us failed
├── Unavailable 503         this process can't serve now
└── NotConfigured 503       a feature's setting is missing; the operator must act
"""

from collections.abc import Mapping
from typing import ClassVar


class WoprError(Exception):
    """The root of the tree.

    `message` says what failed and why, `remedy` what to do about it, `retry_after_seconds` when trying again makes
    sense (None: not by itself).
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        remedy: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.remedy = remedy
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Mapping[str, str]]:
        """The error as the platform's API writes it."""
        return {"error": {"code": self.code, "message": self.message, "remedy": self.remedy}}

    def headers(self) -> dict[str, str]:
        """The headers that belong to the error: Retry-After in whole seconds, rounded up."""
        if self.retry_after_seconds is None:
            return {}
        return {"retry-after": str(max(1, int(-(-self.retry_after_seconds // 1))))}


class BadRequest(WoprError):
    status = 400
    default_code = "bad_request"


class Unauthenticated(WoprError):
    status = 401
    default_code = "unauthenticated"


class PaymentRequired(WoprError):
    status = 402
    default_code = "payment_required"


class Forbidden(WoprError):
    status = 403
    default_code = "forbidden"


class NotFound(WoprError):
    status = 404
    default_code = "not_found"


class Conflict(WoprError):
    status = 409
    default_code = "conflict"


class TooLarge(WoprError):
    status = 413
    default_code = "too_large"


class Invalid(WoprError):
    status = 422
    default_code = "invalid"


class TooManyRequests(WoprError):
    status = 429
    default_code = "too_many_requests"


class UpstreamFailed(WoprError):
    status = 502
    default_code = "upstream_failed"


class Unavailable(WoprError):
    status = 503
    default_code = "unavailable"


class NotConfigured(WoprError):
    status = 503
    default_code = "not_configured"
