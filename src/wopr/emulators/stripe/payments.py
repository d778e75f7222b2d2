"""Payment intents, charges and the balance: what happens when a card is asked for money."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.blank import ADDRESS
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listing, retrieve
from wopr.emulators.stripe.cards import Decline, behaviour
from wopr.emulators.stripe.catalog import merged_metadata
from wopr.emulators.stripe.wire import METADATA, TEXT
from wopr.emulators.stripe.world import World, public

_AVAILABLE_AFTER_SECONDS = 2 * 86400


@dataclass(frozen=True)
class Intention:
    """What a payment is for."""

    amount: int
    currency: str
    customer: str | None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    receipt_email: str | None = None
    setup_future_usage: str | None = None


class Declined(Exception):
    """The bank said no; what was recorded about it is on the payment intent and must be kept."""

    def __init__(self, decline: Decline, intent: Document) -> None:
        super().__init__(decline.message)
        self.decline = decline
        self.intent = intent


def open_intent(world: World, intention: Intention) -> Document:
    """A payment intent that waits for a card."""
    intent = world.new(
        "payment_intent",
        "pi_3",
        amount=intention.amount,
        currency=intention.currency,
        customer=intention.customer,
        description=intention.description,
        metadata=dict(intention.metadata or {}),
        receipt_email=intention.receipt_email,
        setup_future_usage=intention.setup_future_usage,
    )
    intent["client_secret"] = f"{intent['id']}_secret_{secrets.token_hex(12)}"
    world.save(intent)
    world.emit("payment_intent.created", intent)
    return intent


def charge_card(world: World, intent: Document, method: Document, decline: Decline | None) -> Document:
    """Ask the bank. Returns the successful charge; raises Declined after recording the failed one."""
    charge = _new_charge(world, intent, method)
    if decline is not None:
        raise Declined(decline, _record_decline(world, intent, charge, method, decline))
    fee = charge["amount"] * 29 // 1000 + 30  # Stripe's price in the United States: 2.9 % and 30 cents
    entry = book(world, "charge", charge["amount"], charge, fee)
    charge |= {"balance_transaction": entry["id"], "paid": True, "captured": True, "amount_captured": charge["amount"]}
    charge |= {"status": "succeeded", "outcome": _outcome("approved_by_network", "Payment complete.")}
    charge["receipt_url"] = f"{world.base_url}/receipts/{charge['id']}"
    world.save(charge)
    world.emit("charge.succeeded", charge)
    paid = intent | {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"]}
    paid |= {"payment_method": method["id"], "last_payment_error": None}
    world.save(paid)
    world.emit("payment_intent.succeeded", paid)
    return charge


def later_decline(method: Document) -> Decline | None:
    """What the bank says to a charge without the customer."""
    known = behaviour(method["_number"])
    return known.declined or known.later


def book(world: World, kind: str, amount: int, source: Document, fee: int = 0) -> Document:
    """An entry on the account's balance, in cents; negative takes money away."""
    now = world.now(source.get("customer"))
    details = [
        {"amount": fee, "application": None, "currency": source["currency"], "description": "Stripe processing fees"}
    ]
    entry = world.new(
        "balance_transaction",
        "txn_3",
        amount=amount,
        available_on=now + _AVAILABLE_AFTER_SECONDS,
        currency=source["currency"],
        description=source.get("description"),
        fee=fee,
        fee_details=[detail | {"type": "stripe_fee"} for detail in details] if fee else [],
        net=amount - fee,
        reporting_category=kind if kind != "adjustment" else "dispute",
        source=source["id"],
        status="pending",
        type=kind,
    )
    return world.save(entry | {"created": now})


def _new_charge(world: World, intent: Document, method: Document) -> Document:
    card = {
        k: method["card"][k]
        for k in ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4", "wallet")
    }
    extra = {
        "amount_authorized": intent["amount"],
        "network": card["brand"],
        "three_d_secure": None,
        "installments": None,
        "mandate": None,
    }
    return world.new(
        "charge",
        "ch_3",
        amount=intent["amount"],
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        metadata=dict(intent["metadata"]),
        receipt_email=intent["receipt_email"],
        billing_details=method["billing_details"] | {"address": dict(ADDRESS)},
        calculated_statement_descriptor=world.settings.business_name.upper(),
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": "card", "card": card | extra},
    )


def _record_decline(world: World, intent: Document, charge: Document, method: Document, decline: Decline) -> Document:
    outcome = _outcome("declined_by_network", "The bank did not return any further details with this decline.", decline)
    failure = {"status": "failed", "failure_code": decline.code, "failure_message": decline.message, "outcome": outcome}
    world.save(charge | failure)
    error = card_error(decline, charge["id"]) | {"payment_method": public(method)}
    failed = intent | {"status": "requires_payment_method", "last_payment_error": error, "latest_charge": charge["id"]}
    world.save(failed)
    world.emit("charge.failed", charge | failure)
    world.emit("payment_intent.payment_failed", failed)
    return failed


def card_error(decline: Decline, charge_id: str) -> Document:
    """The error object of a declined card."""
    error: Document = {"type": "card_error", "code": decline.code, "message": decline.message, "charge": charge_id}
    error["doc_url"] = f"https://stripe.com/docs/error-codes/{decline.code.replace('_', '-')}"
    if decline.decline_code:
        error["decline_code"] = decline.decline_code
    if decline.advice:
        error["advice_code"] = decline.advice
    return error


def _outcome(status: str, message: str, decline: Decline | None = None) -> Document:
    return {
        "advice_code": decline.advice if decline else None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": status,
        "reason": (decline.decline_code or decline.code) if decline else None,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": message,
        "type": "issuer_declined" if decline else "authorized",
    }


def _balance(world: World, call: Call) -> Document:
    del call
    now = world.now()
    entries = world.documents.select(Query("balance_transaction", limit=1_000_000))
    sums = {"available": 0, "pending": 0}
    for entry in entries:
        sums["available" if entry["available_on"] <= now else "pending"] += entry["net"]
    rows = {
        name: [{"amount": cents, "currency": "usd", "source_types": {"card": cents}}] for name, cents in sums.items()
    }
    return {"object": "balance", "livemode": False, **rows}


def _update(kind: str, event: str) -> Callable[[World, Call], Document]:
    def run(world: World, call: Call) -> Document:
        before = world.load(kind, call.id)
        changed = before | {"metadata": merged_metadata(before["metadata"], call.params.get("metadata"))}
        changed |= {"description": call.params["description"]} if "description" in call.params else {}
        world.save(changed)
        if event:
            world.emit(event, changed, before)
        return changed

    return run


def _account(world: World, call: Call) -> Document:
    del call
    name = world.settings.business_name
    return {
        "id": "acct_standin",
        "object": "account",
        "business_profile": {"name": name, "url": None},
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": name, "timezone": "Etc/UTC"}},
        "type": "standard",
    }


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/payment_intents",
        listing("payment_intent", "/v1/payment_intents", customer="customer"),
        {**PAGE, "customer": TEXT},
    ),
    Endpoint("GET", "/v1/payment_intents/{id}", retrieve("payment_intent"), {"client_secret": TEXT}),
    Endpoint(
        "POST", "/v1/payment_intents/{id}", _update("payment_intent", ""), {"metadata": METADATA, "description": TEXT}
    ),
    Endpoint(
        "GET",
        "/v1/charges",
        listing("charge", "/v1/charges", customer="customer", payment_intent="payment_intent"),
        {**PAGE, "customer": TEXT, "payment_intent": TEXT},
    ),
    Endpoint("GET", "/v1/charges/{id}", retrieve("charge")),
    Endpoint(
        "POST", "/v1/charges/{id}", _update("charge", "charge.updated"), {"metadata": METADATA, "description": TEXT}
    ),
    Endpoint("GET", "/v1/balance", _balance),
    Endpoint("GET", "/v1/account", _account),
    Endpoint(
        "GET",
        "/v1/balance_transactions",
        listing("balance_transaction", "/v1/balance_transactions", source="source", type="type"),
        {**PAGE, "source": TEXT, "type": TEXT},
    ),
    Endpoint("GET", "/v1/balance_transactions/{id}", retrieve("balance_transaction")),
)
