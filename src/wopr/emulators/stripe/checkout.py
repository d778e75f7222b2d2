"""Checkout sessions: created by the platform, paid by a person on the hosted page, completed or expired."""

from typing import Any

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.blank import blank
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listed, listing, retrieve
from wopr.emulators.stripe.cards import Card, behaviour
from wopr.emulators.stripe.catalog import PRICE_DATA, price_from_data
from wopr.emulators.stripe.customers import attach_card, create_customer
from wopr.emulators.stripe.errors import StripeError, invalid, missing_parameter
from wopr.emulators.stripe.invoices import pay_invoice
from wopr.emulators.stripe.payments import Intention, charge_card, open_intent
from wopr.emulators.stripe.refunds import open_dispute
from wopr.emulators.stripe.subscriptions import Beginning, activate, begin
from wopr.emulators.stripe.wire import (
    ANYTHING,
    BOOLEAN,
    INTEGER,
    METADATA,
    NOT_EMULATED,
    TEXT,
    URL,
    Shape,
    choice,
    hash_of,
    list_of,
    needed,
)
from wopr.emulators.stripe.world import World, new_id

_LIFE_SECONDS = 24 * 3600
_LIFE_SECONDS_MIN = 30 * 60
_AMOUNT_CENTS_MIN = 50
_LINE_ITEMS_MAX = 100
_REFERENCE_LENGTH_MAX = 200


def pay_session(world: World, session: Document, card: Card, email: str) -> Document:
    """The person pressed the button: charge the card, complete the session; raises Declined when the bank says no."""
    decline = behaviour(card.number).declined
    customer = world.load("customer", session["customer"]) if session["customer"] else None
    email = (customer or {}).get("email") or email
    if decline is not None:
        method = attach_card(world, card, None, email)
        charge_card(world, _session_intent(world, session, customer, email), method, decline)
    if customer is None and (session["mode"] == "subscription" or session["customer_creation"] == "always"):
        customer = create_customer(world, {"email": email, "name": card.name})
    kept = session["mode"] == "subscription" or session["_payment_intent_data"].get("setup_future_usage")
    method = attach_card(world, card, customer if kept else None, email)
    if session["mode"] == "subscription" and customer is not None:
        done = _subscribe(world, session, customer, method)
    else:
        done = _pay_once(world, session, customer, method, email)
    completed = session | done | {"status": "complete", "payment_status": "paid", "url": None}
    completed["customer"] = customer["id"] if customer else None
    details: Document = {
        "address": None,
        "email": email,
        "name": card.name,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [],
    }
    completed["customer_details"] = details
    world.save(completed)
    world.emit("checkout.session.completed", completed)
    if behaviour(card.number).disputed:
        charge = world.first("charge", payment_method=method["id"], paid=True)
        if charge is not None:
            open_dispute(world, charge)
    return completed


def expire_session(world: World, session: Document) -> Document:
    """Close an open session without payment."""
    if session["status"] != "open":
        words = (
            "Only Checkout Sessions with a status in ['open'] can be expired. This Checkout Session has a status of "
        )
        raise invalid(f"{words}{session['status']}.")
    expired = world.save(session | {"status": "expired", "url": None})
    world.emit("checkout.session.expired", expired)
    return expired


def return_address(session: Document) -> str:
    """Where the browser goes after payment."""
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def create_session(world: World, params: dict[str, Any]) -> Document:
    """Store an open session; `params` are checked parameters."""
    _check_combination(params)
    customer_id = params.get("customer")
    customer = world.load("customer", customer_id, "customer", 400) if customer_id else {}
    if customer.get("deleted"):
        raise invalid(f"No such customer: '{customer_id}'", "customer", "resource_missing")
    items = [_line_item(world, item, index, params["mode"]) for index, item in enumerate(params["line_items"])]
    total = sum(item["amount_total"] for item in items)
    _check_items(items, params["mode"], total)
    now = world.now(customer_id)
    kept = {k: v for k, v in params.items() if v is not None and k not in _NOT_ON_SESSION}
    session = world.new("checkout.session", "cs_test_a1", **kept) | {
        "id": f"cs_test_a1{new_id('x')[2:]}{new_id('x')[2:]}"
    }
    session |= {"created": now, "amount_subtotal": total, "amount_total": total, "currency": items[0]["currency"]}
    # Callers reckon from the machine's clock, of which the whole world may be ahead.
    ahead = 0 if customer.get("test_clock") else world.offset()
    session["expires_at"] = _expiry(params.get("expires_at"), now, ahead)
    session["url"] = f"{world.base_url}/c/pay/{session['id']}"
    if params["mode"] == "payment" and not customer_id and not session["customer_creation"]:
        session["customer_creation"] = "if_required"
    if params["mode"] == "subscription" and not customer_id:
        session["customer_creation"] = "always"
    session |= {"_line_items": items, "_test_clock": customer.get("test_clock"), "_intent": None}
    session["_subscription_data"] = params.get("subscription_data") or {}
    session["_payment_intent_data"] = params.get("payment_intent_data") or {}
    return world.save(session)


def _subscribe(world: World, session: Document, customer: Document, method: Document) -> Document:
    recurring = [(i["price"], i["quantity"]) for i in session["_line_items"] if i["price"]["type"] == "recurring"]
    once = [(i["price"], i["quantity"]) for i in session["_line_items"] if i["price"]["type"] == "one_time"]
    data = session["_subscription_data"]
    beginning = Beginning(customer, tuple(recurring), tuple(once), data.get("metadata"), data.get("description"))
    intent = _adopted_intent(world, session, customer)
    subscription, invoice = begin(world, beginning, intent)
    world.emit("payment_method.attached", method)
    paid = pay_invoice(world, invoice, method, None)
    subscription = activate(world, world.load("subscription", subscription["id"]), method)
    return {"subscription": subscription["id"], "invoice": paid["id"]}


def _pay_once(world: World, session: Document, customer: Document | None, method: Document, email: str) -> Document:
    intent = _session_intent(world, session, customer, email)
    charge_card(world, intent, method, None)
    if customer and intent["setup_future_usage"]:
        world.emit("payment_method.attached", method)
    return {"payment_intent": intent["id"]}


def _session_intent(world: World, session: Document, customer: Document | None, email: str) -> Document:
    """The session's payment intent, made at the first attempt and used again by the next."""
    customer_id = customer["id"] if customer else None
    stored = world.load("checkout.session", session["id"])
    if stored["_intent"]:
        intent = world.load("payment_intent", stored["_intent"])
        return world.save(intent | {"customer": customer_id})
    data = session["_payment_intent_data"]
    description = data.get("description") or ("Subscription creation" if session["mode"] == "subscription" else None)
    wanted = Intention(
        session["amount_total"],
        session["currency"],
        customer_id,
        description,
        data.get("metadata"),
        data.get("receipt_email") or email,
        data.get("setup_future_usage") or ("off_session" if session["mode"] == "subscription" else None),
    )
    intent = open_intent(world, wanted)
    known = {"payment_intent": intent["id"]} if session["mode"] == "payment" else {}
    world.save(stored | known | {"_intent": intent["id"]})
    return intent


def _adopted_intent(world: World, session: Document, customer: Document) -> str | None:
    """The payment intent of a declined first attempt, which then pays the invoice; None without such an attempt."""
    intent_id = world.load("checkout.session", session["id"])["_intent"]
    if intent_id is None:
        return None
    intent = world.load("payment_intent", intent_id)
    return str(world.save(intent | {"customer": customer["id"]})["id"])


def _check_combination(params: dict[str, Any]) -> None:
    mode = params["mode"]
    if not params.get("line_items"):
        raise missing_parameter("line_items")
    if len(params["line_items"]) > _LINE_ITEMS_MAX:
        raise invalid(f"You can have at most {_LINE_ITEMS_MAX} line items.", "line_items")
    if params.get("customer") and params.get("customer_email"):
        raise invalid("You may only specify one of these parameters: customer, customer_email.", "customer_email")
    if params.get("customer_email") and "@" not in params["customer_email"]:
        raise invalid(f"Invalid email address: {params['customer_email']}", "customer_email", "email_invalid")
    if len(params.get("client_reference_id") or "") > _REFERENCE_LENGTH_MAX:
        raise invalid("Invalid string: client_reference_id must be at most 200 characters", "client_reference_id")
    for name, only in (
        ("subscription_data", "subscription"),
        ("payment_intent_data", "payment"),
        ("customer_creation", "payment"),
    ):
        if params.get(name) and mode != only:
            raise invalid(f"You can not pass `{name}` in `{mode}` mode.", name)
    if params.get("customer_creation") and params.get("customer"):
        raise invalid("You may only specify one of these parameters: customer, customer_creation.", "customer_creation")


def _check_items(items: list[Document], mode: str, total: int) -> None:
    recurring = [item["price"]["recurring"] for item in items if item["price"]["type"] == "recurring"]
    if mode == "subscription" and not recurring:
        raise invalid(
            "You must provide at least one recurring price in `subscription` mode when using prices.", "line_items"
        )
    if any(
        r["interval"] != recurring[0]["interval"] or r["interval_count"] != recurring[0]["interval_count"]
        for r in recurring
    ):
        raise invalid("Checkout does not support multiple prices with different billing intervals.", "line_items")
    if len({item["currency"] for item in items}) > 1:
        raise invalid("All prices in a Checkout Session must use the same currency.", "line_items")
    if total < _AMOUNT_CENTS_MIN:
        message = "The Checkout Session's total amount due must add up to at least $0.50 usd"
        raise invalid(message, None, "amount_too_small")


def _line_item(world: World, data: dict[str, Any], index: int, mode: str) -> Document:
    param = f"line_items[{index}]"
    if bool(data.get("price")) == bool(data.get("price_data")):
        raise _one_of(param) if data.get("price") else missing_parameter(f"{param}[price]")
    if data.get("quantity") is None:
        raise invalid(f"Quantity is required. Add `quantity` to `{param}`", f"{param}[quantity]")
    if data.get("price"):
        price = world.load("price", data["price"], f"{param}[price]", 400)
        if not price["active"]:
            message = "The price specified is inactive. This field only accepts active prices."
            raise invalid(message, f"{param}[price]", "price_inactive")
    else:
        price = price_from_data(world, data["price_data"], f"{param}[price_data]")
    if mode == "payment" and price["type"] == "recurring":
        message = "You specified `payment` mode but passed a recurring price. "
        raise invalid(message + "Either switch to `subscription` mode or use only one-time prices.", param)
    amount = price["unit_amount"] * data["quantity"]
    return blank(
        "item",
        id=new_id("li_1"),
        amount_subtotal=amount,
        amount_total=amount,
        currency=price["currency"],
        description=world.load("product", price["product"])["name"],
        price=price,
        quantity=data["quantity"],
    )


def _one_of(param: str) -> StripeError:
    return invalid("You may only specify one of these parameters: price, price_data.", f"{param}[price_data]")


def _expiry(given: int | None, now: int, ahead: int) -> int:
    if given is None:
        return now + _LIFE_SECONDS
    wanted = given + ahead
    if not now + _LIFE_SECONDS_MIN - 60 <= wanted <= now + _LIFE_SECONDS + 60:
        message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation."
        raise invalid(message, "expires_at")
    return wanted


def _expire(world: World, call: Call) -> Document:
    return expire_session(world, world.load("checkout.session", call.id))


def _items(world: World, call: Call) -> Document:
    stored = world.load("checkout.session", call.id)
    return listed(stored["_line_items"], f"/v1/checkout/sessions/{call.id}/line_items")


def _update(world: World, call: Call) -> Document:
    session = world.load("checkout.session", call.id)
    return world.save(session | {"metadata": session["metadata"] | (call.params.get("metadata") or {})})


def open_sessions(world: World) -> list[Document]:
    """Sessions that can still be paid, newest first."""
    return world.documents.select(Query("checkout.session", {"status": "open"}))


_NOT_ON_SESSION = {"expand", "line_items", "subscription_data", "payment_intent_data", "expires_at", "customer_update"}
_ITEM = hash_of(
    price=TEXT,
    price_data=PRICE_DATA,
    quantity=Shape("integer", minimum=1),
    adjustable_quantity=NOT_EMULATED,
    metadata=METADATA,
    tax_rates=NOT_EMULATED,
)
_NOTHING_ENABLED = hash_of(enabled=choice("false"))
_SESSION = {
    "mode": needed(choice("payment", "subscription")),
    "success_url": needed(URL),
    "cancel_url": URL,
    "line_items": list_of(_ITEM),
    "client_reference_id": TEXT,
    "customer": TEXT,
    "customer_email": TEXT,
    "customer_creation": choice("always", "if_required"),
    "customer_update": hash_of(
        name=choice("auto", "never"), address=choice("auto", "never"), shipping=choice("auto", "never")
    ),
    "currency": choice("usd"),
    "expires_at": INTEGER,
    "metadata": METADATA,
    "payment_intent_data": hash_of(
        metadata=METADATA,
        description=TEXT,
        receipt_email=TEXT,
        setup_future_usage=choice("on_session", "off_session"),
        statement_descriptor=TEXT,
        statement_descriptor_suffix=TEXT,
        capture_method=choice("automatic", "automatic_async"),
    ),
    "subscription_data": hash_of(
        metadata=METADATA,
        description=TEXT,
        trial_period_days=NOT_EMULATED,
        trial_end=NOT_EMULATED,
        billing_cycle_anchor=NOT_EMULATED,
        billing_mode=ANYTHING,
        proration_behavior=choice("none", "create_prorations"),
    ),
    "allowed_payment_method_types": list_of(choice("card")),
    "payment_method_collection": choice("always", "if_required"),
    "ui_mode": choice("hosted_page"),
    "allow_promotion_codes": BOOLEAN,
    "automatic_tax": _NOTHING_ENABLED,
    "invoice_creation": _NOTHING_ENABLED,
    "tax_id_collection": _NOTHING_ENABLED,
    "adaptive_pricing": _NOTHING_ENABLED,
    "billing_address_collection": choice("auto"),
    "locale": TEXT,
    "submit_type": choice("auto", "book", "donate", "pay", "subscribe"),
    "custom_text": ANYTHING,
    "consent_collection": NOT_EMULATED,
    "custom_fields": NOT_EMULATED,
    "discounts": NOT_EMULATED,
    "shipping_address_collection": NOT_EMULATED,
    "shipping_options": NOT_EMULATED,
    "phone_number_collection": _NOTHING_ENABLED,
    "saved_payment_method_options": NOT_EMULATED,
    "after_expiration": NOT_EMULATED,
    "return_url": NOT_EMULATED,
}
_SESSIONS = "/v1/checkout/sessions"
ENDPOINTS = (
    Endpoint("POST", _SESSIONS, lambda world, call: create_session(world, dict(call.params)), _SESSION),
    Endpoint(
        "GET",
        _SESSIONS,
        listing(
            "checkout.session",
            _SESSIONS,
            customer="customer",
            subscription="subscription",
            payment_intent="payment_intent",
            status="status",
        ),
        {
            **PAGE,
            "customer": TEXT,
            "subscription": TEXT,
            "payment_intent": TEXT,
            "status": choice("open", "complete", "expired"),
        },
    ),
    Endpoint("GET", f"{_SESSIONS}/{{id}}", retrieve("checkout.session")),
    Endpoint("POST", f"{_SESSIONS}/{{id}}", _update, {"metadata": METADATA}),
    Endpoint("POST", f"{_SESSIONS}/{{id}}/expire", _expire),
    Endpoint("GET", f"{_SESSIONS}/{{id}}/line_items", _items, PAGE),
)
