"""Refusals in the API's shape: `{"id", "message", "request_id"}`. Source: its documentation, "HTTP Statuses"."""

from collections.abc import Mapping


class Refusal(Exception):
    """A request that DigitalOcean would refuse."""

    def __init__(self, status: int, name: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.headers = headers or {}


class ActionFailed(Exception):
    """An action could not be carried out; it ends as `errored`."""


def invalid(message: str) -> Refusal:
    """A request that is understood and can't be done."""
    return Refusal(422, "unprocessable_entity", message)


def malformed(message: str) -> Refusal:
    """A body that is no JSON object."""
    return Refusal(400, "bad_request", message)


def not_found() -> Refusal:
    """An object that does not exist."""
    return Refusal(404, "not_found", "The resource you were accessing could not be found.")


def conflict(message: str) -> Refusal:
    """A change that another object stands against."""
    return Refusal(409, "conflict", message)


def unauthorized() -> Refusal:
    """A missing or unknown token."""
    return Refusal(401, "unauthorized", "Unable to authenticate you.")


def busy() -> Refusal:
    """A droplet on which an action is under way."""
    return invalid("Droplet already has a pending event.")


def limited(retry_after_seconds: int) -> Refusal:
    """Too many requests."""
    headers = {"retry-after": str(max(1, retry_after_seconds))}
    return Refusal(429, "too_many_requests", "API Rate limit exceeded.", headers)


def broken(status: int) -> Refusal:
    """A failure on their side."""
    names = {
        429: "too_many_requests",
        500: "server_error",
        502: "bad_gateway",
        503: "service_unavailable",
        504: "gateway_timeout",
    }
    message = "API Rate limit exceeded." if status == 429 else "Unexpected server-side error"
    return Refusal(status, names.get(status, "server_error"), message, {"retry-after": "1"} if status != 500 else None)
