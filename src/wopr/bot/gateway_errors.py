"""What went wrong at the gateway, and who must act: pure decisions, apart from the client that meets them."""

import json
from collections.abc import Mapping
from enum import Enum, auto

from wopr.bot.contract import ErrorBody, ErrorCode

AWAY_STATUS = (502, 503)  # a proxy without a gateway behind it, a gateway that starts or stops, no engine at the moment

NOBODY_SERVES = "no_backend"  # the gateway's code for a model that no machine has now, or never will again

# What the HTTP routes answer when a gateway request of theirs failed.
HTTP_STATUS: Mapping[str, int] = {
    ErrorCode.CREDIT_EMPTY: 402,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.REQUEST_REFUSED: 422,
    ErrorCode.NO_SPEECH: 422,
    ErrorCode.GATEWAY_UNREACHABLE: 503,
    ErrorCode.GATEWAY_TIMEOUT: 504,
}


class Retry(Enum):
    """Whether the same request may succeed later; `patience.py` decides how long that is waited for."""

    NEVER = auto()
    BRIEFLY = auto()  # something failed
    BUSY = auto()  # the gateway says when
    ABSENT = auto()  # nobody listens at the address, so nothing was received or charged
    AWAY = auto()  # the gateway or the engine went away before it answered
    IF_ANSWERING = auto()  # it went away in the middle: what arrived was probably charged


class GatewayError(Exception):
    """A request to the gateway failed."""

    def __init__(self, body: ErrorBody, *, retry: Retry = Retry.NEVER, retry_after: float | None = None) -> None:
        super().__init__(body.code)
        self.body = body
        self.retry = retry
        self.retry_after = retry_after
        self.context_exceeded = False

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.retry is not Retry.NEVER

    @property
    def http_status(self) -> int:
        """The status for a caller who waits for the result of this very request."""
        return HTTP_STATUS.get(self.body.code, 502)


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """Reads an answer other than 2xx."""
    if status == 402:
        return _error(
            ErrorCode.CREDIT_EMPTY,
            "The account's credit is used up, or too little of it is left for this.",
            "Add credit, then ask again.",
        )
    if status in (401, 403):
        return _error(
            ErrorCode.KEY_REFUSED,
            "The platform refused the bot's service key: it was revoked, or the account is suspended.",
            "Look at the account's billing page; if all is well there, restart the bot to give it a new key.",
        )
    if status == 429:
        return GatewayError(
            ErrorBody(ErrorCode.RATE_LIMITED, "The model is busy at the moment.", "Try again in a few seconds."),
            retry=Retry.BUSY,
            retry_after=_retry_after(headers.get("Retry-After", "")),
        )
    said, code = _said(body)
    if status >= 500 or status == 408:
        message = f"The inference service failed (status {status})."
        remedy = "Try again in a minute; the status page shows whether a service is down."
        if NOBODY_SERVES in code:
            message = "No machine has the bot's model at the moment."
            remedy = "Try again in a minute; if it stays so, choose another model in the bot's settings."
        return GatewayError(
            ErrorBody(ErrorCode.GATEWAY_FAILED, message, remedy),
            retry=Retry.AWAY if status in AWAY_STATUS else Retry.BRIEFLY,
        )
    error = _error(
        ErrorCode.REQUEST_REFUSED,
        f"The inference service refused the request (status {status})" + (f": {said}" if said else "."),
        "Choose a model and a voice that there are in the bot's settings.",
    )
    error.context_exceeded = status in (400, 413) and _about_context(said, code)
    return error


def in_stream(data: Mapping[str, object]) -> GatewayError:
    """Reads an error that arrived inside a stream that had begun."""
    inner = data.get("error")
    fields = inner if isinstance(inner, Mapping) else {}
    code = str(fields.get("code", ""))
    if code in ("insufficient_quota", "insufficient_credit", ErrorCode.CREDIT_EMPTY):
        return from_answer(402, {}, b"")
    body = ErrorBody(
        ErrorCode.STREAM_BROKEN,
        "The inference service broke off in the middle of the answer.",
        "Ask again to get a whole answer; what arrived is kept.",
    )
    # An answer that took too long takes as long again.
    return GatewayError(body, retry=Retry.NEVER if code == "timeout" else Retry.IF_ANSWERING)


def stream_broken() -> GatewayError:
    """The connection ended before the answer did."""
    return in_stream({})


def unreachable(*, sent: bool) -> GatewayError:
    """No connection, or it closed before an answer, when the request had been `sent`."""
    return GatewayError(
        ErrorBody(
            ErrorCode.GATEWAY_UNREACHABLE,
            "The platform's inference gateway can't be reached.",
            "Try again in a minute; the status page shows whether the platform is down.",
        ),
        retry=Retry.AWAY if sent else Retry.ABSENT,
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
