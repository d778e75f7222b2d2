"""Customers and the cards that they left."""

import hashlib
from typing import Any

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listing, page, retrieve
from wopr.emulators.stripe.cards import Card, behaviour
from wopr.emulators.stripe.catalog import merged_metadata
from wopr.emulators.stripe.errors import invalid
from wopr.emulators.stripe.wire import ANYTHING, METADATA, NOT_EMULATED, TEXT, choice, hash_of, list_of
from wopr.emulators.stripe.world import World, new_id

_ADDRESS = hash_of(city=TEXT, country=TEXT, line1=TEXT, line2=TEXT, postal_code=TEXT, state=TEXT)
_FIELDS = {
    "address": _ADDRESS,
    "description": TEXT,
    "email": TEXT,
    "invoice_settings": hash_of(default_payment_method=TEXT, footer=TEXT, custom_fields=ANYTHING),
    "metadata": METADATA,
    "name": TEXT,
    "phone": TEXT,
    "preferred_locales": list_of(TEXT),
    "shipping": hash_of(address=_ADDRESS, name=TEXT, phone=TEXT),
    "tax_exempt": choice("none", "exempt", "reverse"),
    "balance": NOT_EMULATED,
    "source": NOT_EMULATED,
    "tax": NOT_EMULATED,
    "cash_balance": NOT_EMULATED,
}


def create_customer(world: World, data: dict[str, Any]) -> Document:
    """Store a customer and say so."""
    fields = {k: v for k, v in data.items() if v is not None and k not in ("expand", "invoice_settings")}
    if fields.get("email") and "@" not in fields["email"]:
        raise invalid(f"Invalid email address: {fields['email']}", "email", "email_invalid")
    customer_id = new_id("cus")
    clock_id = fields.get("test_clock")
    created = (
        world.load("test_helpers.test_clock", clock_id, "test_clock", 400)["frozen_time"] if clock_id else world.now()
    )
    customer = world.new("customer", "cus", **fields) | {"id": customer_id, "created": created}
    customer["invoice_prefix"] = customer_id[-8:].upper()
    world.save(customer)
    world.emit("customer.created", customer)
    return customer


def attach_card(world: World, card: Card, customer: Document | None, email: str | None) -> Document:
    """Store the card; with a customer, as the one that later charges use."""
    known = behaviour(card.number)
    cvc_check = "fail" if known.declined and known.declined.code == "incorrect_cvc" else "pass"
    method = world.new(
        "payment_method",
        "pm_1",
        customer=customer["id"] if customer else None,
        billing_details={"address": None, "email": email, "name": card.name, "phone": None, "tax_id": None},
        card={
            "brand": known.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": cvc_check},
            "country": "US",
            "display_brand": known.brand,
            "exp_month": card.exp_month,
            "exp_year": card.exp_year,
            "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
            "funding": known.funding,
            "generated_from": None,
            "last4": card.number[-4:],
            "networks": {"available": [known.brand], "preferred": None},
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
    )
    # Only documented test numbers decide anything, so the number is kept: it is nobody's card.
    return world.save(method | {"_number": card.number if known.declined is None else ""})


def use_card(world: World, customer: Document, method: Document) -> Document:
    """Make a card the one that the customer's invoices are charged to."""
    before = world.load("customer", customer["id"])
    changed = before | {"invoice_settings": before["invoice_settings"] | {"default_payment_method": method["id"]}}
    world.save(method | {"customer": customer["id"]})
    world.emit("payment_method.attached", method | {"customer": customer["id"]})
    world.emit("customer.updated", changed, before)
    return world.save(changed)


def default_card(world: World, customer_id: str, preferred: str | None = None) -> Document | None:
    """The card that is charged when the customer is not there."""
    customer = world.load("customer", customer_id)
    chosen = preferred or customer["invoice_settings"]["default_payment_method"]
    return world.documents.get(chosen, "payment_method") if chosen else None


def _create(world: World, call: Call) -> Document:
    customer = create_customer(world, dict(call.params))
    return _with_settings(world, customer, call)


def _update(world: World, call: Call) -> Document:
    before = _existing(world, call.id)
    plain = {k: v for k, v in call.params.items() if k not in ("expand", "metadata", "invoice_settings")}
    customer = before | plain | {"metadata": merged_metadata(before["metadata"], call.params.get("metadata"))}
    customer = _with_settings(world, customer, call)
    world.emit("customer.updated", customer, before)
    return customer


def _with_settings(world: World, customer: Document, call: Call) -> Document:
    settings = call.get("invoice_settings", {})
    if settings.get("default_payment_method"):
        method = world.load(
            "payment_method", settings["default_payment_method"], "invoice_settings[default_payment_method]", 400
        )
        if method["customer"] != customer["id"]:
            raise invalid(
                "The payment method must be attached to the customer first.", "invoice_settings[default_payment_method]"
            )
    customer["invoice_settings"] = customer["invoice_settings"] | settings
    return world.save(customer)


def _existing(world: World, customer_id: str) -> Document:
    customer = world.load("customer", customer_id)
    if customer.get("deleted"):
        raise invalid(f"No such customer: '{customer_id}'", "id", "resource_missing", 404)
    return customer


def _delete(world: World, call: Call) -> Document:
    customer = _existing(world, call.id)
    for subscription in world.documents.select(Query("subscription", {"customer": call.id})):
        if subscription["status"] not in ("canceled", "incomplete_expired"):
            raise invalid("The stand-in deletes no customer with a running subscription: cancel it first.", "id")
    world.emit("customer.deleted", customer)
    gone = {"id": call.id, "object": "customer", "deleted": True}
    return world.save(gone)


def _methods(world: World, call: Call) -> Document:
    return page(world, call, Query("payment_method", {"customer": call.id}), f"/v1/customers/{call.id}/payment_methods")


ENDPOINTS = (
    Endpoint("POST", "/v1/customers", _create, {**_FIELDS, "test_clock": TEXT, "payment_method": NOT_EMULATED}),
    Endpoint(
        "GET",
        "/v1/customers",
        listing("customer", "/v1/customers", email="email", test_clock="test_clock"),
        {**PAGE, "email": TEXT, "test_clock": TEXT},
    ),
    Endpoint("GET", "/v1/customers/{id}", retrieve("customer")),
    Endpoint("POST", "/v1/customers/{id}", _update, _FIELDS),
    Endpoint("DELETE", "/v1/customers/{id}", _delete),
    Endpoint("GET", "/v1/customers/{id}/payment_methods", _methods, {**PAGE, "type": choice("card")}),
    Endpoint(
        "GET",
        "/v1/payment_methods",
        listing("payment_method", "/v1/payment_methods", customer="customer", type="type"),
        {**PAGE, "customer": TEXT, "type": choice("card")},
    ),
    Endpoint("GET", "/v1/payment_methods/{id}", retrieve("payment_method")),
)
