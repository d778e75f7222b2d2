"""Typed HTTP client of the platform's API: the one place where its paths and answers are spelled for callers.

The UI, the command line and tests use it::

    async with ApiClient("http://127.0.0.1:3100", key="wopr_write_…") as api:
        bots = await api.fleet.bots()
"""

from wopr.client.api import ApiClient
from wopr.client.errors import ApiError
from wopr.client.sse import Event
from wopr.client.transport import Caller, shared_http

__all__ = ["ApiClient", "ApiError", "Caller", "Event", "shared_http"]
