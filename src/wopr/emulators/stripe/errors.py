"""Refusals in Stripe's own shape: `{"error": {"type", "code", "message", "param", ...}}` with the documented status.

Source: Stripe's documentation of errors, error codes and decline codes.
"""

from wopr.emulators.documents import Document

_DOCUMENTATION = "https://stripe.com/docs/error-codes"
_NAMES = {
    "checkout.session": "checkout session",
    "billing_portal.session": "session",
    "test_helpers.test_clock": "test clock",
}


class StripeError(Exception):
    """A request that Stripe would refuse; carries the HTTP status and the error object."""

    def __init__(self, status: int, error: Document) -> None:
        super().__init__(error["message"])
        self.status = status
        self.error = error


def invalid(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> StripeError:
    """An `invalid_request_error`."""
    error: Document = {"message": message, "type": "invalid_request_error"}
    if param is not None:
        error["param"] = param
    if code is not None:
        error |= {"code": code, "doc_url": f"{_DOCUMENTATION}#{code.replace('_', '-')}"}
    return StripeError(status, error)


def unknown_parameter(param: str) -> StripeError:
    """A parameter that the endpoint does not have."""
    return invalid(f"Received unknown parameter: {param}", param, "parameter_unknown")


def missing_parameter(param: str) -> StripeError:
    """A parameter that the endpoint needs."""
    return invalid(f"Missing required param: {param}.", param, "parameter_missing")


def not_emulated(param: str) -> StripeError:
    """A parameter that Stripe has and this stand-in does not: refused, since ignoring it would be a lie."""
    return invalid(f"The stand-in does not emulate the parameter {param}; real Stripe accepts it.", param)


def no_such(kind: str, document_id: str, param: str, status: int = 404) -> StripeError:
    """An object that does not exist: 404 when it is the one asked for, 400 when a parameter names it."""
    name = _NAMES.get(kind, kind)
    return invalid(f"No such {name}: '{document_id}'", param, "resource_missing", status)


def unauthenticated(message: str) -> StripeError:
    """A missing or unknown API key."""
    return StripeError(401, {"message": message, "type": "invalid_request_error"})


def idempotency_conflict(key: str) -> StripeError:
    """An idempotency key that was used for another request before."""
    message = (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        f"Try using a key other than '{key}' if you meant to execute a different request."
    )
    return StripeError(400, {"message": message, "type": "idempotency_error"})
