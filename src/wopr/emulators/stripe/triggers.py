"""Makes the stand-in act as people and banks do: what `wopr trigger stripe …` asks for.

Each trigger uses the newest fitting object and makes one first when there is none, so that every trigger works on an
empty stand-in as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.cards import Card
from wopr.emulators.stripe.checkout import create_session, expire_session, open_sessions, pay_session
from wopr.emulators.stripe.customers import create_customer, default_card
from wopr.emulators.stripe.errors import invalid
from wopr.emulators.stripe.invoices import finalize_invoice
from wopr.emulators.stripe.payments import Declined
from wopr.emulators.stripe.refunds import close_dispute, open_dispute, refund_charge
from wopr.emulators.stripe.subscriptions import (
    RUNNING,
    collect,
    end_subscription,
    renew,
    renew_now,
    set_cancel_at_period_end,
)
from wopr.emulators.stripe.world import World

_GOOD_CARD = Card("4242424242424242", 12, 2040, "Terry Trigger")
_BAD_CARD = Card("4000000000000002", 12, 2040, "Terry Trigger")
_DECLINED_LATER = "4000000000000341"
_EMAIL = "terry.trigger@example.com"


@dataclass(frozen=True)
class Wish:
    """What to act on, where it matters: the id of an object, cents, the outcome of a dispute; whether only to try."""

    target: str | None = None
    amount: int | None = None
    outcome: str | None = None
    dry_run: bool = False


def trigger(world: World, event_type: str, wish: Wish) -> list[Document]:
    """Make the event happen; returns the events that it caused. StripeError names what is known when it is unknown."""
    act = TRIGGERS.get(event_type)
    if act is None:
        raise invalid(f"Unknown trigger {event_type}. Known are: {', '.join(sorted(TRIGGERS))}.", "event")
    world.emitted.clear()
    with world.documents.rehearsal() if wish.dry_run else world.documents.transaction():
        act(world, wish)
    return list(world.emitted)


def _complete(world: World, wish: Wish) -> None:
    session = _session(world, wish)
    _pay(world, session, _GOOD_CARD)


def _decline(world: World, wish: Wish) -> None:
    try:
        _pay(world, _session(world, wish), _BAD_CARD)
    except Declined:
        return  # recorded, and that is what was wanted


def _pay(world: World, session: Document, card: Card) -> Document:
    return pay_session(world, session, card, session["customer_email"] or _EMAIL)


def _expire(world: World, wish: Wish) -> None:
    expire_session(world, _session(world, wish))


def _renew(world: World, wish: Wish) -> None:
    renew_now(world, _subscription(world, wish), "subscription_cycle")


def _fail_renewal(world: World, wish: Wish) -> None:
    subscription = _subscription(world, wish)
    method = default_card(world, subscription["customer"], subscription["default_payment_method"])
    invoice = finalize_invoice(world, renew(world, subscription, new_anchor=True))
    if method is None:
        collect(world, invoice, world.load("subscription", subscription["id"]))
        return
    # The bank refuses this once: the card behaves as the one that is declined later, and then as before again.
    world.save(method | {"_number": _DECLINED_LATER})
    collect(world, invoice, world.load("subscription", subscription["id"]))
    world.save(method)


def _cancel_later(world: World, wish: Wish) -> None:
    subscription = _subscription(world, wish)
    set_cancel_at_period_end(world, subscription, not subscription["cancel_at_period_end"])


def _cancel(world: World, wish: Wish) -> None:
    end_subscription(world, _subscription(world, wish), "cancellation_requested")


def _refund(world: World, wish: Wish) -> None:
    refund_charge(world, _charge(world, wish), wish.amount, "requested_by_customer")


def _dispute(world: World, wish: Wish) -> None:
    open_dispute(world, _charge(world, wish))


def _close_dispute(world: World, wish: Wish) -> None:
    if wish.target:
        dispute = world.load("dispute", wish.target)
    else:
        dispute = world.first("dispute", status="needs_response") or open_dispute(world, _charge(world, wish))
    close_dispute(world, dispute, "won" if wish.outcome == "won" else "lost")


def _new_customer(world: World, wish: Wish) -> None:
    del wish
    create_customer(world, {"email": _EMAIL, "name": _GOOD_CARD.name})


def _session(world: World, wish: Wish) -> Document:
    if wish.target:
        return world.load("checkout.session", wish.target)
    waiting = open_sessions(world)
    if waiting:
        return waiting[0]
    price = {"currency": "usd", "unit_amount": wish.amount or 500, "product_data": {"name": "Credit"}}
    return _new_session(world, "payment", {"price_data": price, "quantity": 1})


def _new_session(world: World, mode: str, item: Mapping[str, object]) -> Document:
    return create_session(world, {"mode": mode, "success_url": "http://localhost/", "line_items": [dict(item)]})


def _subscription(world: World, wish: Wish) -> Document:
    if wish.target:
        return world.load("subscription", wish.target)
    for subscription in world.documents.select(Query("subscription")):
        if subscription["status"] in RUNNING:
            return subscription
    session = _new_session(world, "subscription", {"price": world.settings.default_price_id, "quantity": 1})
    return world.load("subscription", _pay(world, session, _GOOD_CARD)["subscription"])


def _charge(world: World, wish: Wish) -> Document:
    if wish.target:
        return world.load("charge", wish.target)
    for charge in world.documents.select(Query("charge", {"paid": True, "refunded": False, "disputed": False})):
        return charge
    price = {"currency": "usd", "unit_amount": max(500, wish.amount or 0), "product_data": {"name": "Credit"}}
    _pay(world, _new_session(world, "payment", {"price_data": price, "quantity": 1}), _GOOD_CARD)
    return world.documents.select(Query("charge", {"paid": True}, limit=1))[0]


TRIGGERS: Mapping[str, Callable[[World, Wish], None]] = {
    "charge.dispute.closed": _close_dispute,
    "charge.dispute.created": _dispute,
    "charge.failed": _decline,
    "charge.refunded": _refund,
    "charge.succeeded": _complete,
    "checkout.session.completed": _complete,
    "checkout.session.expired": _expire,
    "customer.created": _new_customer,
    "customer.subscription.deleted": _cancel,
    "customer.subscription.updated": _cancel_later,
    "invoice.paid": _renew,
    "invoice.payment_failed": _fail_renewal,
    "payment_intent.payment_failed": _decline,
    "payment_intent.succeeded": _complete,
    "refund.created": _refund,
}
