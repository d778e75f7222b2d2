"""The pages that people see: checkout, portal and invoice. They work without JavaScript; a little formats the card."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from wopr.emulators.documents import Document, Query
from wopr.emulators.pages import page
from wopr.emulators.stripe.cards import CardInput, check
from wopr.emulators.stripe.checkout import pay_session, return_address
from wopr.emulators.stripe.payments import Declined
from wopr.emulators.stripe.portal import change_card, subscriptions_of
from wopr.emulators.stripe.subscriptions import RUNNING, set_cancel_at_period_end
from wopr.emulators.stripe.world import World

_FORM_BYTES_MAX = 20_000
_HISTORY_MAX = 24
_FIELD_OF_DECLINE = {"expired_card": "expiry", "incorrect_cvc": "cvc"}


@dataclass(frozen=True)
class Form:
    """What a person typed, and what is wrong with it."""

    values: dict[str, str]
    problems: dict[str, str]


def router(world: World, after_change: Callable[[], None]) -> APIRouter:
    """The routes of the pages."""
    routes = APIRouter(include_in_schema=False)
    _add_checkout(routes, world, after_change)
    _add_portal(routes, world, after_change)

    @routes.get("/i/{invoice_id}")
    async def invoice(request: Request, invoice_id: str) -> HTMLResponse:
        found = world.documents.get(invoice_id, "invoice")
        if found is None:
            return _missing(request)
        return page(request, "stripe_invoice.html", {"invoice": found, "business": world.settings.business_name})

    @routes.get("/receipts/{charge_id}")
    async def receipt(request: Request, charge_id: str) -> HTMLResponse:
        found = world.documents.get(charge_id, "charge")
        if found is None:
            return _missing(request)
        return page(request, "stripe_receipt.html", {"charge": found, "business": world.settings.business_name})

    return routes


def _add_checkout(routes: APIRouter, world: World, after_change: Callable[[], None]) -> None:
    @routes.get("/c/pay/{session_id}")
    async def show(request: Request, session_id: str) -> Response:
        session = world.documents.get(session_id, "checkout.session")
        if session is None:
            return _missing(request)
        return _checkout(request, world, session, Form({"email": _known_email(world, session) or ""}, {}))

    @routes.post("/c/pay/{session_id}")
    async def pay(request: Request, session_id: str) -> Response:
        session = world.documents.get(session_id, "checkout.session")
        if session is None:
            return _missing(request)
        values = await _form(request)
        session = world.load("checkout.session", session_id)  # as it is after the form has arrived
        if session["status"] == "complete":  # the button was pressed twice: the same happy end, and no second charge
            return RedirectResponse(return_address(session), 303)
        if session["status"] == "expired":
            return _checkout(request, world, session, Form(values, {}))
        form = _pay(world, session, values)
        after_change()
        if form.problems:
            return _checkout(request, world, session, form)
        return RedirectResponse(return_address(session), 303)


def _add_portal(routes: APIRouter, world: World, after_change: Callable[[], None]) -> None:
    @routes.get("/p/session/{session_id}")
    async def show(request: Request, session_id: str) -> Response:
        session = world.documents.get(session_id, "billing_portal.session")
        return _portal(request, world, session, Form({}, {})) if session else _missing(request)

    @routes.post("/p/session/{session_id}/subscriptions/{subscription_id}")
    async def change(request: Request, session_id: str, subscription_id: str) -> Response:
        session = world.documents.get(session_id, "billing_portal.session")
        subscription = world.documents.get(subscription_id, "subscription")
        if session is None or subscription is None or subscription["customer"] != session["customer"]:
            return _missing(request)
        wanted = (await _form(request)).get("action") == "cancel"
        with world.documents.transaction():
            subscription = world.load("subscription", subscription_id)
            if subscription["status"] in RUNNING and subscription["cancel_at_period_end"] != wanted:
                set_cancel_at_period_end(world, subscription, wanted)
        after_change()
        return RedirectResponse(f"/p/session/{session_id}", 303)

    @routes.post("/p/session/{session_id}/card")
    async def card(request: Request, session_id: str) -> Response:
        session = world.documents.get(session_id, "billing_portal.session")
        if session is None:
            return _missing(request)
        form = _new_card(world, session, await _form(request))
        after_change()
        if form.problems:
            return _portal(request, world, session, form)
        return RedirectResponse(f"/p/session/{session_id}", 303)


def _pay(world: World, session: Document, values: dict[str, str]) -> Form:
    known_email = _known_email(world, session)
    email = known_email or values.get("email", "").strip()
    card, problems = check(_card_input(values), datetime.now(UTC))
    if not known_email and ("@" not in email.strip("@") or " " in email):
        problems["email"] = "Your email is incomplete."
    if card is None or problems:
        return Form(values, problems)
    try:
        with world.documents.transaction():
            decline = _attempt(lambda: pay_session(world, session, card, email))
    finally:
        world.held_at = None
    return Form(values, decline)


def _attempt(act: Callable[[], object]) -> dict[str, str]:
    """What the bank objects to. Swallowed inside the transaction, so that the failed charge and its events are kept."""
    try:
        act()
    except Declined as refusal:
        field = _FIELD_OF_DECLINE.get(refusal.decline.code, "number")
        return {field: refusal.decline.message}
    return {}


def _new_card(world: World, session: Document, values: dict[str, str]) -> Form:
    card, problems = check(_card_input(values), datetime.now(UTC))
    if card is None:
        return Form(values, problems)
    with world.documents.transaction():
        customer = world.load("customer", session["customer"])
        return Form(values, _attempt(lambda: change_card(world, customer, card)))


def _card_input(values: dict[str, str]) -> CardInput:
    return CardInput(*(values.get(name, "").strip() for name in ("number", "expiry", "cvc", "name")))


def _checkout(request: Request, world: World, session: Document, form: Form) -> HTMLResponse:
    items = session["_line_items"]
    recurring = next((i["price"]["recurring"] for i in items if i["price"]["recurring"]), None)
    status = {"open": 200, "complete": 200, "expired": 410}[session["status"]]
    if form.problems:
        status = 402
    content = {
        "session": session,
        "items": items,
        "recurring": recurring,
        "business": world.settings.business_name,
        "known_email": _known_email(world, session),
        "form": form,
        "return_to": return_address(session),
        "products": {i["price"]["product"]: world.load("product", i["price"]["product"]) for i in items},
    }
    return page(request, "stripe_checkout.html", content, status)


def _portal(request: Request, world: World, session: Document, form: Form) -> HTMLResponse:
    customer = world.load("customer", session["customer"])
    subscriptions = subscriptions_of(world, customer["id"])
    chosen = next((s["default_payment_method"] for s in subscriptions if s["status"] in RUNNING), None)
    method_id = chosen or (customer.get("invoice_settings") or {}).get("default_payment_method")
    content = {
        "session": session,
        "customer": customer,
        "subscriptions": [(s, _product_name(world, s)) for s in subscriptions],
        "running": RUNNING,
        "card": world.documents.get(method_id, "payment_method") if method_id else None,
        "charges": world.documents.select(Query("charge", {"customer": customer["id"]}, limit=_HISTORY_MAX)),
        "business": world.settings.business_name,
        "form": form,
    }
    return page(request, "stripe_portal.html", content, 402 if form.problems else 200)


def _product_name(world: World, subscription: Document) -> str:
    return str(world.load("product", subscription["items"]["data"][0]["price"]["product"])["name"])


def _known_email(world: World, session: Document) -> str | None:
    customer = world.documents.get(session["customer"], "customer") if session["customer"] else None
    email: str | None = (customer or {}).get("email") or session["customer_email"]
    return email


async def _form(request: Request) -> dict[str, str]:
    body = (await request.body())[:_FORM_BYTES_MAX]
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _missing(request: Request) -> HTMLResponse:
    return page(request, "missing.html", {"what": "This page"}, 404)
