"""What went wrong at the gateway, and who must act: pure decisions, apart from the client that meets them."""

import json
from collections.abc import Mapping

from wopr.bot.contract import ErrorBody, ErrorCode

ATTEMPTS_MAX = 6
RETRY_DELAYS_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)  # together they bridge a restart of the gateway
RATE_LIMIT_ATTEMPTS_MAX = 4
RETRY_AFTER_SECONDS_MAX = 20.0
RETRY_AFTER_SECONDS_DEFAULT = 1.0

# What the HTTP routes answer when a gateway request of theirs failed.
HTTP_STATUS: Mapping[str, int] = {
    ErrorCode.CREDIT_EMPTY: 402,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.REQUEST_REFUSED: 422,
    ErrorCode.NO_SPEECH: 422,
    ErrorCode.GATEWAY_UNREACHABLE: 503,
    ErrorCode.GATEWAY_TIMEOUT: 504,
}


class GatewayError(Exception):
    """A request to the gateway failed. `retryable` says whether the same request may succeed in a moment."""

    def __init__(self, body: ErrorBody, *, retry_after: float | None = None, retryable: bool = False) -> None:
        super().__init__(body.code)
        self.body = body
        self.retry_after = retry_after
        self.retryable = retryable
        self.context_exceeded = False

    @property
    def http_status(self) -> int:
        """The status for a caller who waits for the result of this very request."""
        return HTTP_STATUS.get(self.body.code, 502)


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """Reads an answer other than 2xx."""
    if status == 402:
        return _error(ErrorCode.CREDIT_EMPTY, "The account's credit is used up.", "Top up the credit, then ask again.")
    if status in (401, 403):
        return _error(
            ErrorCode.KEY_REFUSED,
            "The platform refused the bot's service key: it was revoked, or the account is suspended.",
            "Look at the account's billing page; if all is well there, restart the bot to give it a new key.",
        )
    if status == 429:
        return GatewayError(
            ErrorBody(ErrorCode.RATE_LIMITED, "The model is busy at the moment.", "Try again in a few seconds."),
            retry_after=_retry_after(headers.get("Retry-After", "")),
            retryable=True,
        )
    if status >= 500 or status == 408:
        return GatewayError(
            ErrorBody(
                ErrorCode.GATEWAY_FAILED,
                f"The inference service failed (status {status}).",
                "Try again in a minute; the status page shows whether a service is down.",
            ),
            retryable=True,
        )
    said, code = _said(body)
    error = _error(
        ErrorCode.REQUEST_REFUSED,
        f"The inference service refused the request (status {status})" + (f": {said}" if said else "."),
        "Check the bot's model and voice in its settings.",
    )
    error.context_exceeded = status in (400, 413) and _about_context(said, code)
    return error


def in_stream(data: Mapping[str, object]) -> GatewayError:
    """Reads an error that arrived inside a stream that had begun."""
    inner = data.get("error")
    fields = inner if isinstance(inner, Mapping) else {}
    if str(fields.get("code", "")) in ("insufficient_quota", "insufficient_credit", ErrorCode.CREDIT_EMPTY):
        return from_answer(402, {}, b"")
    return _error(
        ErrorCode.STREAM_BROKEN,
        "The inference service broke off in the middle of the answer.",
        "Ask again to get a whole answer; what arrived is kept.",
    )


def stream_broken() -> GatewayError:
    """The connection ended before the answer did."""
    return in_stream({})


def unreachable() -> GatewayError:
    """No connection, or it closed before an answer."""
    return GatewayError(
        ErrorBody(
            ErrorCode.GATEWAY_UNREACHABLE,
            "The platform's inference gateway can't be reached.",
            "Try again in a minute; the status page shows whether the platform is down.",
        ),
        retryable=True,
    )


def timed_out(seconds: float) -> GatewayError:
    """Silence for longer than we wait."""
    return _error(
        ErrorCode.GATEWAY_TIMEOUT,
        f"The inference service said nothing for {seconds:.0f} seconds.",
        "Try again; a smaller model answers sooner.",
    )


def no_speech() -> GatewayError:
    """A transcription without a word."""
    return _error(
        ErrorCode.NO_SPEECH,
        "There were no words in the recording.",
        "Check the microphone, speak a little longer and try again, or type the message.",
    )


def malformed(what: str) -> GatewayError:
    """An answer that isn't what the protocol says."""
    return _error(ErrorCode.GATEWAY_FAILED, f"The inference service sent {what}.", "Try again in a minute.")


def retry_delay(error: GatewayError, attempt: int) -> float | None:
    """Seconds to wait before the next attempt (the first one is number 1), or None to give up."""
    if not error.retryable:
        return None
    if error.body.code == ErrorCode.RATE_LIMITED:
        wait = error.retry_after if error.retry_after is not None else RETRY_AFTER_SECONDS_DEFAULT
        return wait if attempt < RATE_LIMIT_ATTEMPTS_MAX and wait <= RETRY_AFTER_SECONDS_MAX else None
    return RETRY_DELAYS_SECONDS[attempt - 1] if attempt < ATTEMPTS_MAX else None


def _error(code: ErrorCode, message: str, remedy: str) -> GatewayError:
    return GatewayError(ErrorBody(code, message, remedy))


def _retry_after(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None  # the form with a date isn't used by the gateway
    return seconds if 0 <= seconds < float("inf") else None


def _said(body: bytes) -> tuple[str, str]:
    try:
        data = json.loads(body)
    except ValueError:
        return "", ""
    inner = data.get("error") if isinstance(data, dict) else None
    if not isinstance(inner, dict):
        return "", ""
    return str(inner.get("message", ""))[:300], f"{inner.get('code', '')} {inner.get('type', '')}"


def _about_context(said: str, code: str) -> bool:
    # OpenAI says context_length_exceeded, llama.cpp exceed_context_size_error; others only say it in the message.
    return "context" in code or ("context" in said and any(word in said for word in ("length", "size", "window")))
