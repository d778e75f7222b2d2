"""What went wrong, as the API said it: one exception, so that callers decide by status and stable code."""

from __future__ import annotations

import json
from typing import Any

UNREACHABLE_STATUS = 0
"""Status of an `ApiError` that never got an answer: connection refused, reset or timed out."""


class ApiError(Exception):
    """The API refused or could not be reached.

    `status` is the HTTP status, or 0 when there was no answer; `code` is stable and meant for programs, `message` says
    what failed and `remedy` what to do about it.
    """

    def __init__(
        self, status: int, code: str, message: str, remedy: str = "", *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    @property
    def unreachable(self) -> bool:
        """No answer from the API, or an answer that says it can't serve at the moment."""
        return self.status in (UNREACHABLE_STATUS, 502, 503, 504)


def error_from_body(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """Read `{"error":{"code","message","remedy"}}`; FastAPI's `detail` and /v1's `type` are understood too."""
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    detail = _detail(body)
    code = str(detail.get("code") or detail.get("type") or f"http_{status}")
    message = str(detail.get("message") or f"The API answered with status {status}.")
    return ApiError(status, code, message, str(detail.get("remedy") or ""), retry_after_seconds=seconds)


def _detail(body: bytes) -> dict[str, Any]:  # Any: parsed JSON of unknown shape, read field by field above
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error")
    if isinstance(error, dict):
        return error
    detail = parsed.get("detail")
    if isinstance(detail, str):
        return {"message": detail}
    return {}
