"""`ApiClient`: one caller's door to all routes, grouped by slice."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from wopr.client.accounts import AccountsApi
from wopr.client.billing import BillingApi
from wopr.client.fleet import FleetApi
from wopr.client.inference import InferenceApi
from wopr.client.ops import OpsApi
from wopr.client.transport import Caller, Transport, shared_http


class ApiClient:
    """Calls the API as one caller; refusals are raised as `ApiError`.

    `key` is a `wopr_…` secret; `cookie` is a whole Cookie header. For a browser's identity behind the UI use `acting`,
    which shares the connections of a pool made with `shared_http`.
    """

    def __init__(
        self, base_url: str, *, key: str | None = None, cookie: str | None = None, http: httpx.AsyncClient | None = None
    ) -> None:
        self._owned = http is None
        self._bind(http or shared_http(base_url), Caller(key=key, cookie=cookie, origin=_origin(base_url, cookie)))

    @classmethod
    def acting(cls, http: httpx.AsyncClient, caller: Caller) -> Self:
        """A client for one request of somebody else, on a shared pool that it does not close."""
        client = cls.__new__(cls)
        client._owned = False
        client._bind(http, caller)
        return client

    def _bind(self, http: httpx.AsyncClient, caller: Caller) -> None:
        self.transport = Transport(http, caller)
        self.accounts = AccountsApi(self.transport)
        self.billing = BillingApi(self.transport)
        self.fleet = FleetApi(self.transport)
        self.inference = InferenceApi(self.transport)
        self.ops = OpsApi(self.transport)

    @property
    def set_cookies(self) -> list[str]:
        """Set-Cookie headers that the API sent so far, to be passed on to the browser."""
        return self.transport.set_cookies

    def use_session(self) -> None:
        """Send the cookies received so far with every further request: for programs that sign in."""
        pairs = [header.split(";", 1)[0] for header in self.set_cookies]
        origin = _origin(str(self.transport.http.base_url), "cookie")
        self.transport.caller = Caller(cookie="; ".join(pairs), origin=origin)

    async def aclose(self) -> None:
        """Close the connections, if they are this client's own."""
        if self._owned:
            await self.transport.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _origin(base_url: str, cookie: str | None) -> str | None:
    """Cookie requests that change something must name their origin; keys need none."""
    return base_url.rstrip("/") if cookie else None
