"""What every request passes: the bearer check, errors as JSON, one log line."""

import hmac
import json
import sqlite3
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from wopr.bot.contract import OPEN_ROUTES, ContractError, ErrorBody, ErrorCode
from wopr.bot.gateway_errors import GatewayError
from wopr.bot.log import log

CODES = {
    400: ErrorCode.BAD_REQUEST,
    401: ErrorCode.UNAUTHENTICATED,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.BAD_REQUEST,
    409: ErrorCode.CONFLICT,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.TOO_MANY_TURNS,
    503: ErrorCode.NOT_READY,
}
REMEDIES = {
    404: "Check the address.",
    405: "Use a method that this address knows.",
    413: "Send less at once.",
}


class Refused(Exception):
    """A request that the bot won't serve; becomes the error answer."""

    def __init__(self, status: int, message: str, remedy: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(CODES[status], message, remedy)
        self.headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}


def bearer_check(token: str) -> Middleware:
    """Refuses everything but the open routes without the token; compares in constant time."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path not in OPEN_ROUTES and not hmac.compare_digest(shown, expected):
            raise Refused(
                401, "The bearer token is missing or wrong.", "Send the bot's token as Authorization: Bearer."
            )
        return await handler(request)

    return check


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost handler: no error leaves as HTML or with a stack trace; logs the request."""
    begun = time.monotonic()
    status = 500
    try:
        try:
            response = await handler(request)
        except (Refused, GatewayError, ContractError, web.HTTPException, sqlite3.Error) as error:
            response = _known(error)
        except ConnectionError:
            status = 499  # the caller left; nobody is there to be answered
            raise
        except Exception as error:  # noqa: BLE001 - the outermost handler
            log("request_crashed", "error", error=type(error).__name__, method=request.method)
            response = answer_error(
                500, ErrorBody(ErrorCode.INTERNAL, "The bot failed.", "Try again; the bot's log names the cause.")
            )
        status = response.status
        return response
    finally:
        _log_request(request, status, time.monotonic() - begun)


def answer_error(status: int, body: ErrorBody, headers: dict[str, str] | None = None) -> web.Response:
    """An error answer in the form of the contract."""
    return web.json_response(body.envelope(), status=status, headers=headers)


def _known(error: Refused | GatewayError | ContractError | web.HTTPException | sqlite3.Error) -> web.StreamResponse:
    if isinstance(error, Refused):
        return answer_error(error.status, error.body, error.headers)
    if isinstance(error, GatewayError):
        return answer_error(error.http_status, error.body)
    if isinstance(error, ContractError):
        body = ErrorBody(ErrorCode.BAD_REQUEST, str(error), "Correct the request as the message says.")
        return answer_error(400, body)
    if isinstance(error, sqlite3.Error):
        log("storage_failed", "error", error=str(error))
        remedy = "Check that the bot's disk isn't full, then try again."
        return answer_error(503, ErrorBody(ErrorCode.INTERNAL, "The bot's database doesn't work.", remedy))
    body = ErrorBody(
        CODES.get(error.status, ErrorCode.BAD_REQUEST),
        f"{error.reason}.",
        REMEDIES.get(error.status, "Check the request."),
    )
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return answer_error(error.status, body, allow)


def _log_request(request: web.Request, status: int, seconds: float) -> None:
    # The route's template and never the path: paths of probes are noise, and ids are in the turns' own lines.
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    if route in OPEN_ROUTES:
        return
    log("request", method=request.method, route=route, status=status, duration_ms=round(seconds * 1000))


def read_json(body: bytes) -> object:
    """Raises `ContractError` for anything but JSON."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise ContractError("the body must be JSON") from error
