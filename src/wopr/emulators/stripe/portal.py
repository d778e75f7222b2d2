"""The customer portal: sessions that the platform opens, and what a person can do with one."""

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.calls import Call, Endpoint
from wopr.emulators.stripe.cards import Card, behaviour
from wopr.emulators.stripe.customers import attach_card, use_card
from wopr.emulators.stripe.errors import invalid
from wopr.emulators.stripe.invoices import subscription_of
from wopr.emulators.stripe.payments import Declined
from wopr.emulators.stripe.subscriptions import RUNNING, collect
from wopr.emulators.stripe.wire import ANYTHING, NOT_EMULATED, TEXT, URL, needed
from wopr.emulators.stripe.world import World


def subscriptions_of(world: World, customer_id: str) -> list[Document]:
    """The customer's subscriptions, newest first."""
    return world.documents.select(Query("subscription", {"customer": customer_id}))


def change_card(world: World, customer: Document, card: Card) -> None:
    """Store a new card, use it for everything, and pay what is overdue with it; raises Declined when it is refused."""
    decline = behaviour(card.number).declined
    if decline is not None:
        raise Declined(decline, {})
    method = attach_card(world, card, customer, customer.get("email"))
    use_card(world, customer, method)
    for subscription in subscriptions_of(world, customer["id"]):
        if subscription["status"] in RUNNING:
            changed = world.save(subscription | {"default_payment_method": method["id"]})
            world.emit("customer.subscription.updated", changed, subscription)
    for invoice in world.documents.select(
        Query("invoice", {"customer": customer["id"], "status": "open"}, oldest_first=True)
    ):
        subscription = world.load("subscription", subscription_of(invoice))
        if subscription["status"] in RUNNING and invoice["attempted"]:
            collect(world, invoice, subscription)


def _create(world: World, call: Call) -> Document:
    customer = world.load("customer", call.params["customer"], "customer", 400)
    if customer.get("deleted"):
        raise invalid(f"No such customer: '{customer['id']}'", "customer", "resource_missing")
    fields = {name: call.get(name) for name in ("customer", "return_url", "locale") if call.get(name)}
    session = world.new("billing_portal.session", "bps_1", **fields)
    session["url"] = f"{world.base_url}/p/session/{session['id']}"
    return world.save(session)


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/billing_portal/sessions",
        _create,
        {
            "customer": needed(TEXT),
            "return_url": URL,
            "locale": ANYTHING,
            "configuration": TEXT,
            "flow_data": NOT_EMULATED,
        },
    ),
)
