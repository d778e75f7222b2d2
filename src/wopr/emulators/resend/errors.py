"""Refusals in Resend's shape: `{"statusCode", "name", "message"}`. Source: Resend's documentation of errors."""


class ResendError(Exception):
    """A request that Resend would refuse."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = name


def missing(field: str) -> ResendError:
    """A field that must be there."""
    return ResendError(422, "missing_required_field", f"Missing `{field}` field.")


def malformed_address(field: str) -> ResendError:
    """An address that is none."""
    name = "invalid_from_address" if field == "from" else "validation_error"
    form = "The email address needs to follow the `email@example.com` or `Name <email@example.com>` format."
    return ResendError(422, name, f"Invalid `{field}` field. {form}")


def invalid_parameter(message: str) -> ResendError:
    """A value of the wrong kind or an unknown field."""
    return ResendError(422, "validation_error", message)


def unverified(domain: str) -> ResendError:
    """A sender whose domain is not ours."""
    text = f"The {domain} domain is not verified. Please, add and verify your domain on https://resend.com/domains"
    return ResendError(403, "validation_error", text)


def not_found(what: str) -> ResendError:
    """An object that does not exist."""
    return ResendError(404, "not_found", f"{what} not found")
