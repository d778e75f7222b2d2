"""Money: the balance, the plan, adding credit, what happened to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.responses import RedirectResponse, Response

from wopr.client import ApiError
from wopr.web.rendering import redirect
from wopr.web.visit import Member, Visit, member

router = APIRouter()
TRANSACTIONS_SHOWN = 25
FIRST_BOT = "/bots/new"
Field = Annotated[str, Form()]


@router.get("/billing")
async def billing(visit: Member, cursor: str = "") -> Response:
    """Balance, plan, top-ups, movements."""
    return await _page(visit, cursor)


@router.get("/billing/return")
async def back(visit: Member, session_id: str = "") -> Response:
    """After a payment: wait, visibly, until the credit is there."""
    values = await _arrival(visit, session_id)
    if await _wants_first_bot(visit, values):
        return redirect(FIRST_BOT, "payment-arrived")
    fresh = await member(visit.request) if values["arrived"] else visit  # The frame shows the new balance, too.
    return fresh.page("pages/billing_return.html", values)


@router.get("/billing/return/state")
async def arrival(visit: Member, session_id: str = "") -> Response:
    """The waiting part alone, renewed until the credit is there."""
    values = await _arrival(visit, session_id)
    answer = visit.page("parts/payment_state.html", values)
    if await _wants_first_bot(visit, values):
        answer.headers["hx-redirect"] = redirect(FIRST_BOT, "payment-arrived").headers["location"]
    return answer


@router.post("/billing/subscribe")
async def subscribe(visit: Member) -> Response:
    """To the payment page of the plan."""
    return await _pay(visit, "subscription", None)


@router.post("/billing/top-up")
async def top_up(visit: Member, amount_cents: Annotated[int, Form()]) -> Response:
    """To the payment page of one of the amounts."""
    return await _pay(visit, "payment", amount_cents)


@router.post("/billing/portal")
async def portal(visit: Member) -> Response:
    """To the page where subscription and cards are managed."""
    try:
        url = await visit.api.billing.portal("/billing")
    except ApiError as error:
        return await _refused(visit, error)
    return leave_for(visit, url)


def leave_for(visit: Visit, url: str) -> Response:
    """To the payment company: directly where the policy for forms knows its address, else by a page that asks."""
    if visit.site.pays_at(url):
        return RedirectResponse(url, 303)
    if not url.startswith(("https://", "http://")):
        raise ApiError(502, "unexpected_answer", "The payment page has an address that we don't open.")
    return visit.page("pages/leaving.html", {"url": url})


async def _pay(visit: Visit, mode: str, amount_cents: int | None) -> Response:
    try:
        url = await visit.api.billing.checkout(mode, amount_cents)
    except ApiError as error:
        return await _refused(visit, error)
    return leave_for(visit, url)


async def _refused(visit: Visit, error: ApiError) -> Response:
    if error.status in (0, 401):
        raise error
    return await _page(visit, "", error, error.status)


async def _page(visit: Visit, cursor: str, problem: ApiError | None = None, status: int = 200) -> Response:
    if visit.billing is None:
        raise ApiError(503, "billing_away", "The account's balance can't be read at the moment.")
    page = await visit.api.billing.transactions(cursor or None, TRANSACTIONS_SHOWN)
    values = {"page": page, "cursor": cursor, "problem": problem}
    return visit.page("pages/billing.html", values, status)


async def _arrival(visit: Visit, session_id: str) -> dict[str, object]:
    """Whether the payment has become credit, and how much is free now."""
    values: dict[str, object] = {"session_id": session_id, "arrived": False, "balance": None, "problem": None}
    if not session_id:
        return values | {"balance": visit.billing.balance if visit.billing else None, "arrived": True}
    try:
        confirmed = await visit.api.billing.confirm(session_id)
    except ApiError as error:
        if error.status in (0, 401):
            raise
        return values | {"problem": error}
    return values | {"arrived": confirmed.state == "applied", "balance": confirmed.balance}


async def _wants_first_bot(visit: Visit, values: dict[str, object]) -> bool:
    """Who has paid and has no bot yet goes on to make one; whoever pays again sees the payment."""
    if not values["arrived"] or not values["session_id"]:
        return False
    try:
        return not await visit.api.fleet.bots()
    except ApiError as error:
        if error.status == 401:
            raise
        return False
