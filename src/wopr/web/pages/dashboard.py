"""The first page after signing in: bots, money, and what to do first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from wopr.client import ApiError
from wopr.client.billing import Billing
from wopr.client.fleet import Bot
from wopr.web.chart import spend_chart
from wopr.web.formats import usd, usd_price
from wopr.web.rendering import environment
from wopr.web.visit import Member, Visit

router = APIRouter()
BOTS_PER_PAGE = 24
UNSETTLED = frozenset({"starting", "stopping", "deleting"})


@dataclass(frozen=True, slots=True)
class BotPage:
    """A part of a long list, with what is needed to leaf through it."""

    bots: Sequence[Bot]
    total: int
    number: int
    pages: int
    query: str
    unsettled: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One of the first steps. Only the next one leads anywhere: those after it would lead to a refusal."""

    title: str
    text: str
    done: bool
    path: str = ""
    action: str = ""
    sends: bool = False  # its button is a form's
    next: bool = False


@router.get("/dashboard")
async def dashboard(visit: Member, page: int = 1, q: str = "") -> Response:
    """Bots as cards, the balance, thirty days of spend, first steps."""
    bots, talked = await asyncio.gather(visit.api.fleet.bots(), _has_talked(visit))
    values = {
        "shown": bot_page(bots, page, q),
        "chart": spend_chart(visit.billing.spend) if visit.billing else None,
        "steps": first_steps(visit, bots, talked),
    }
    return visit.page("pages/dashboard.html", values)


@router.get("/dashboard/bots")
async def bot_cards(visit: Member, page: int = 1, q: str = "") -> Response:
    """The cards alone, for the page to renew while a bot changes its state."""
    return visit.page("parts/bot_cards.html", {"shown": bot_page(await visit.api.fleet.bots(), page, q)})


@router.get("/parts/balance")
async def balance(visit: Member) -> Response:
    """The balance alone, renewed after an answer."""
    if visit.billing is None:
        raise ApiError(503, "billing_away", "The balance can't be read at the moment.")
    lasts = environment().get_template("parts/lasts.html").render(billing=visit.billing)
    return JSONResponse({"balance": usd(visit.billing.balance.total_usd), "lasts": lasts.strip()})


def bot_page(bots: Sequence[Bot], number: int, query: str) -> BotPage:
    """The bots whose name contains the query, newest first, a page at a time."""
    wanted = query.strip().lower()
    found = [bot for bot in bots if bot.state != "deleted" and wanted in bot.name.lower()]
    pages = max(1, -(-len(found) // BOTS_PER_PAGE))
    number = min(max(number, 1), pages)
    shown = found[(number - 1) * BOTS_PER_PAGE : number * BOTS_PER_PAGE]
    return BotPage(shown, len(bots), number, pages, query.strip(), any(bot.state in UNSETTLED for bot in shown))


def first_steps(visit: Visit, bots: Sequence[Bot], talked: bool) -> list[Step]:
    """What is left to do until the first answer; empty once everything is done."""
    paid = _has_paid(visit.billing)
    verified = visit.identity is not None and visit.identity.user.email_verified
    talk = f"/bots/{bots[0].id}" if bots else ""
    price = visit.prices.plan_usd
    start = f"Start for {usd_price(price)} a month" if price else "Start the plan"
    steps = [
        Step("Confirm your address", "Follow the link in the mail that we sent you.", verified),
        Step("Add credit", "A month of one bot, and talking to it.", paid, "/billing/subscribe", start, sends=True),
        Step("Make a bot", "Pick a character and a name.", bool(bots), "/bots/new", "New bot"),
        Step("Say hello", "By text or by voice.", talked, talk, "Open the chat"),
    ]
    following = next((step for step in steps if step.path and not step.done), None)
    return [] if all(step.done for step in steps) else [replace(one, next=one is following) for one in steps]


def _has_paid(billing: Billing | None) -> bool:
    if billing is None:
        return False
    return billing.plan.status in ("active", "past_due") or billing.entitlement.state != "unfunded"


async def _has_talked(visit: Visit) -> bool:
    try:
        page = await visit.api.billing.usage(limit=1)
    except ApiError:
        return False
    return bool(page.usage)
