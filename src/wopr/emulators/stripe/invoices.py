"""Invoices: drafted for a subscription's period, finalised, and paid by a card."""

from dataclasses import dataclass
from typing import Literal

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.blank import blank
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listed, listing, page, retrieve
from wopr.emulators.stripe.cards import Decline
from wopr.emulators.stripe.payments import Declined, Intention, charge_card, open_intent
from wopr.emulators.stripe.wire import TEXT, choice, hash_of
from wopr.emulators.stripe.world import World, new_id

Reason = Literal["subscription_create", "subscription_cycle", "subscription_update"]
_DRAFT_SECONDS = 3600  # Stripe leaves an hour in which a renewal's invoice can still be changed
_DESCRIPTIONS = {"subscription_create": "Subscription creation"}


@dataclass(frozen=True)
class Line:
    """One thing that is billed: a price, how many, for which period (epoch seconds), and the subscription's item."""

    price: Document
    quantity: int
    start: int
    end: int
    item_id: str | None = None


def draft_invoice(
    world: World, subscription: Document, lines: list[Line], reason: Reason, period: tuple[int, int]
) -> Document:
    """A draft invoice for a subscription, announced."""
    customer = world.load("customer", subscription["customer"])
    parent = {
        "subscription": subscription["id"],
        "metadata": subscription["metadata"],
        "subscription_proration_date": None,
    }
    invoice = world.new(
        "invoice",
        "in_1",
        customer=customer["id"],
        account_name=world.settings.business_name,
        billing_reason=reason,
        currency=subscription["currency"],
        customer_email=customer.get("email"),
        customer_name=customer.get("name"),
        parent={"type": "subscription_details", "quote_details": None, "subscription_details": parent},
        period_start=period[0],
        period_end=period[1],
        test_clock=subscription["test_clock"],
    )
    rows = [_line(invoice["id"], line, subscription, world) for line in lines]
    total = sum(row["amount"] for row in rows)
    sums = ("amount_due", "amount_remaining", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax")
    invoice |= dict.fromkeys(sums, total)
    invoice["lines"] = listed(rows, f"/v1/invoices/{invoice['id']}/lines")
    if reason == "subscription_cycle":
        invoice["automatically_finalizes_at"] = invoice["created"] + _DRAFT_SECONDS
    invoice["_payment_intent"] = None
    world.save(invoice)
    world.emit("invoice.created", invoice)
    return invoice


def finalize_invoice(world: World, invoice: Document, intent_id: str | None = None) -> Document:
    """Give the invoice its number and the payment that it waits for."""
    customer = world.load("customer", invoice["customer"])
    sequence = customer["next_invoice_sequence"]
    world.save(customer | {"next_invoice_sequence": sequence + 1})
    now = world.now(invoice["customer"])
    final = invoice | {"status": "open", "automatically_finalizes_at": None, "effective_at": now}
    final["number"] = f"{customer['invoice_prefix']}-{sequence:04d}"
    final["status_transitions"] = invoice["status_transitions"] | {"finalized_at": now}
    final["hosted_invoice_url"] = f"{world.base_url}/i/{invoice['id']}"
    final["invoice_pdf"] = f"{world.base_url}/i/{invoice['id']}"
    world.save(final)
    world.emit("invoice.finalized", final)
    if intent_id is None and final["total"] > 0:
        description = _DESCRIPTIONS.get(invoice["billing_reason"], "Subscription update")
        wanted = Intention(
            final["total"], final["currency"], final["customer"], description, setup_future_usage="off_session"
        )
        intent_id = open_intent(world, wanted)["id"]
    final["_payment_intent"] = intent_id
    _add_payment(world, final)
    return world.save(final)


def pay_invoice(world: World, invoice: Document, method: Document | None, decline: Decline | None) -> Document:
    """Charge a card for the invoice; raises Declined after recording the attempt."""
    tried = invoice | {"attempted": True, "attempt_count": invoice["attempt_count"] + 1, "next_payment_attempt": None}
    if invoice["total"] > 0:
        intent = world.load("payment_intent", invoice["_payment_intent"])
        if method is None:
            no_card = Decline(
                "invoice_payment_intent_requires_action", None, "The customer has no card that could be charged."
            )
            raise _failed(world, tried, Declined(no_card, intent))
        try:
            charge_card(world, intent, method, decline)
        except Declined as refusal:
            raise _failed(world, tried, refusal) from refusal
    now = world.now(invoice["customer"])
    paid = tried | {"status": "paid", "amount_paid": invoice["total"], "amount_remaining": 0, "auto_advance": False}
    paid["status_transitions"] = invoice["status_transitions"] | {"paid_at": now}
    world.save(paid)
    payment = world.first("invoice_payment", invoice=invoice["id"])
    if payment is not None:
        payment |= {
            "status": "paid",
            "amount_paid": invoice["total"],
            "status_transitions": {"canceled_at": None, "paid_at": now},
        }
        world.save(payment)
    world.emit("invoice.paid", paid)
    world.emit("invoice.payment_succeeded", paid)
    if payment is not None:
        world.emit("invoice_payment.paid", payment)
    return paid


def subscription_of(invoice: Document) -> str:
    """The id of the subscription that the invoice bills."""
    return str(invoice["parent"]["subscription_details"]["subscription"])


def _failed(world: World, tried: Document, refusal: Declined) -> Declined:
    world.save(tried)
    world.emit("invoice.payment_failed", tried)
    return refusal


def _add_payment(world: World, invoice: Document) -> None:
    if invoice["_payment_intent"] is None:
        return
    payment = world.new(
        "invoice_payment",
        "inpay_1",
        amount_requested=invoice["total"],
        currency=invoice["currency"],
        invoice=invoice["id"],
        payment={"type": "payment_intent", "payment_intent": invoice["_payment_intent"]},
    )
    world.save(payment | {"created": world.now(invoice["customer"])})


def _line(invoice_id: str, line: Line, subscription: Document, world: World) -> Document:
    price = line.price
    product = world.load("product", price["product"])
    amount = price["unit_amount"] * line.quantity
    each = f"${price['unit_amount'] / 100:.2f}"
    every = f" / {price['recurring']['interval']}" if price["recurring"] else ""
    details: Document = {"invoice_item": None, "proration": False, "proration_details": {"credited_items": None}}
    details |= {"subscription": subscription["id"], "subscription_item": line.item_id}
    one_time = {
        "invoice_item": new_id("ii_1"),
        "proration": False,
        "proration_details": None,
        "subscription": subscription["id"],
    }
    return blank(
        "line_item",
        id=new_id("il_1"),
        amount=amount,
        currency=price["currency"],
        description=f"{line.quantity} × {product['name']} (at {each}{every})",
        invoice=invoice_id,
        parent={
            "type": "subscription_item_details" if line.item_id else "invoice_item_details",
            "subscription_item_details": details if line.item_id else None,
            "invoice_item_details": None if line.item_id else one_time,
        },
        period={"start": line.start, "end": line.end},
        pricing={
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        quantity=line.quantity,
        subscription=subscription["id"],
        subtotal=amount,
    )


def _lines(world: World, call: Call) -> Document:
    return listed(world.load("invoice", call.id)["lines"]["data"], f"/v1/invoices/{call.id}/lines")


def _payments(world: World, call: Call) -> Document:
    """The payments of invoices; since 2025-03-31.basil this is how a payment intent leads to its invoice."""
    wanted = {"invoice": call.get("invoice"), "status": call.get("status")}
    wanted["payment.payment_intent"] = call.get("payment", {}).get("payment_intent")
    where = {name: value for name, value in wanted.items() if value is not None}
    return page(world, call, Query("invoice_payment", where), "/v1/invoice_payments")


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/invoices",
        listing(
            "invoice",
            "/v1/invoices",
            customer="customer",
            status="status",
            subscription="parent.subscription_details.subscription",
        ),
        {
            **PAGE,
            "customer": TEXT,
            "subscription": TEXT,
            "status": choice("draft", "open", "paid", "uncollectible", "void"),
        },
    ),
    Endpoint("GET", "/v1/invoices/{id}", retrieve("invoice")),
    Endpoint("GET", "/v1/invoices/{id}/lines", _lines, PAGE),
    Endpoint(
        "GET",
        "/v1/invoice_payments",
        _payments,
        {
            **PAGE,
            "invoice": TEXT,
            "status": choice("open", "paid", "canceled"),
            "payment": hash_of(type=choice("payment_intent", "charge", "payment_record"), payment_intent=TEXT),
        },
    ),
    Endpoint("GET", "/v1/invoice_payments/{id}", retrieve("invoice_payment")),
)
