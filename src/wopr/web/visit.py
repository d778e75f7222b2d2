"""One request of one browser: who it is, what its account looks like, and the API on its behalf."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import HTMLResponse

from wopr.client import ApiClient, ApiError, Caller
from wopr.client.accounts import Identity
from wopr.client.billing import Billing
from wopr.web.prices import Prices
from wopr.web.rendering import render
from wopr.web.shield import COOKIES_KEY
from wopr.web.site import Site


@dataclass(frozen=True)
class Visit:
    """What a page needs. `identity` is None only for visitors, see `Guest`."""

    request: Request
    site: Site
    api: ApiClient
    prices: Prices
    identity: Identity | None = None
    billing: Billing | None = None

    def page(self, name: str, values: Mapping[str, Any] | None = None, status: int = 200) -> HTMLResponse:
        """The page with everything that all pages show. Any: templates take whatever the page gives them."""
        shared = {"identity": self.identity, "billing": self.billing, "prices": self.prices}
        return render(self.request, name, {**shared, **(values or {})}, status)


async def guest(request: Request) -> Visit:
    """Anybody; signed in or not is not asked."""
    site: Site = request.app.state.site
    return Visit(request, site, api_for(request), await site.prices.current())


async def maybe_member(request: Request) -> Visit:
    """Anybody, with the identity where there is one: for pages that greet both."""
    visit = await guest(request)
    if not request.cookies.get("wopr_session"):
        return visit
    try:
        identity = await visit.api.accounts.session()
    except ApiError:
        return visit
    return Visit(request, visit.site, visit.api, visit.prices, identity)


async def member(request: Request) -> Visit:
    """Somebody signed in; others are sent to the sign-in page by the handler of 401."""
    site: Site = request.app.state.site
    api = api_for(request)
    if not request.headers.get("cookie"):
        raise ApiError(401, "unauthenticated", "Sign in to see this page.")
    identity, billing, prices = await asyncio.gather(api.accounts.session(), _billing(api), site.prices.current())
    return Visit(request, site, api, prices, identity, billing)


async def administrator(visit: Annotated[Visit, Depends(member)]) -> Visit:
    """An administrator of the platform; for everybody else these pages don't exist."""
    if visit.identity is None or not visit.identity.user.platform_admin:
        raise ApiError(404, "not_found", "There is no such page.")
    return visit


Guest = Annotated[Visit, Depends(guest)]
MaybeMember = Annotated[Visit, Depends(maybe_member)]
Member = Annotated[Visit, Depends(member)]
Administrator = Annotated[Visit, Depends(administrator)]


def api_for(request: Request) -> ApiClient:
    """The API as this browser: its cookies, its address, and our origin, which the shield has checked."""
    site: Site = request.app.state.site
    peer = request.client.host if request.client else ""
    chain = [part for part in (request.headers.get("x-forwarded-for"), peer) if part]
    caller = Caller(
        cookie=request.headers.get("cookie"),
        origin=site.ui_origin,
        forwarded_for=", ".join(chain) or None,
        user_agent=request.headers.get("user-agent"),
    )
    api = ApiClient.acting(site.http, caller)
    api.transport.set_cookies = request.scope[COOKIES_KEY]
    return api


async def _billing(api: ApiClient) -> Billing | None:
    """The money in the frame of a page; the page itself works without it."""
    try:
        return await api.billing.summary()
    except ApiError as error:
        if error.status == 401:
            raise
        return None
