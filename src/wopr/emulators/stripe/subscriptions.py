"""Subscriptions: begun by a checkout, renewed by the clock, paused by a declined card, ended by a person or by time."""

from dataclasses import dataclass
from typing import Literal

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.blank import blank
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listed, page, retrieve
from wopr.emulators.stripe.catalog import merged_metadata
from wopr.emulators.stripe.customers import default_card
from wopr.emulators.stripe.errors import invalid, not_emulated
from wopr.emulators.stripe.invoices import Line, Reason, draft_invoice, finalize_invoice, pay_invoice
from wopr.emulators.stripe.payments import Declined, later_decline
from wopr.emulators.stripe.periods import next_end
from wopr.emulators.stripe.wire import ANYTHING, BOOLEAN, INTEGER, METADATA, NOT_EMULATED, TEXT, choice, hash_of
from wopr.emulators.stripe.world import World, new_id

RETRY_DAYS = (3, 5, 7)
"""Days between a declined renewal and each further attempt; after the last one the subscription ends."""

RUNNING = ("active", "past_due", "trialing", "unpaid")
CancelReason = Literal["cancellation_requested", "payment_failed", "payment_disputed"]


@dataclass(frozen=True)
class Beginning:
    """What a customer subscribes to. `once` are things that only the first invoice bills."""

    customer: Document
    prices: tuple[tuple[Document, int], ...]
    once: tuple[tuple[Document, int], ...] = ()
    metadata: dict[str, str] | None = None
    description: str | None = None


def begin(world: World, beginning: Beginning, intent_id: str | None) -> tuple[Document, Document]:
    """A subscription that waits for its first payment, and the open invoice for it."""
    customer = beginning.customer
    now = world.now(customer["id"])
    first_price = beginning.prices[0][0]
    end = next_end(now, now, first_price["recurring"]["interval"], first_price["recurring"]["interval_count"])
    subscription = world.new(
        "subscription",
        "sub_1",
        customer=customer["id"],
        billing_cycle_anchor=now,
        currency=first_price["currency"],
        description=beginning.description,
        metadata=beginning.metadata or {},
        start_date=now,
        test_clock=customer.get("test_clock"),
    )
    items = [_item(subscription["id"], price, quantity, (now, end)) for price, quantity in beginning.prices]
    subscription["items"] = listed(items, f"/v1/subscription_items?subscription={subscription['id']}")
    world.save(subscription)
    world.emit("customer.subscription.created", subscription)
    once = [Line(price, quantity, now, now) for price, quantity in beginning.once]
    invoice = draft_invoice(world, subscription, once + _lines(subscription), "subscription_create", (now, now))
    subscription["latest_invoice"] = invoice["id"]
    world.save(subscription)
    return subscription, finalize_invoice(world, invoice, intent_id)


def activate(world: World, subscription: Document, method: Document) -> Document:
    """The first payment came: the subscription runs."""
    running = subscription | {"status": "active", "default_payment_method": method["id"]}
    world.save(running)
    world.emit("customer.subscription.updated", running, subscription)
    return running


def renew(
    world: World, subscription: Document, reason: Reason = "subscription_cycle", new_anchor: bool = False
) -> Document:
    """Open the next period now and draft its invoice; paying it is another step, an hour later."""
    now = world.now(subscription["customer"])
    before = subscription["items"]["data"][0]
    recurring = before["price"]["recurring"]
    anchor = now if new_anchor else subscription["billing_cycle_anchor"]
    end = next_end(anchor, now, recurring["interval"], recurring["interval_count"])
    items = [item | {"current_period_start": now, "current_period_end": end} for item in subscription["items"]["data"]]
    renewed = subscription | {"billing_cycle_anchor": anchor, "items": subscription["items"] | {"data": items}}
    period = (before["current_period_start"], now)
    invoice = draft_invoice(world, renewed, _lines(renewed), reason, period)
    renewed["latest_invoice"] = invoice["id"]
    world.save(renewed)
    world.emit("customer.subscription.updated", renewed, subscription)
    return invoice


def collect(world: World, invoice: Document, subscription: Document) -> Document:
    """Charge the customer's card for an open invoice, without the customer; follow up on a decline."""
    method = default_card(world, subscription["customer"], subscription["default_payment_method"])
    try:
        paid = pay_invoice(world, invoice, method, later_decline(method) if method else None)
    except Declined:
        return _after_decline(world, world.load("invoice", invoice["id"]), subscription)
    if subscription["status"] == "past_due":
        world.save(subscription | {"status": "active"})
        world.emit("customer.subscription.updated", subscription | {"status": "active"}, subscription)
    return paid


def end_subscription(world: World, subscription: Document, reason: CancelReason | None) -> Document:
    """End it now; nothing further is billed."""
    now = world.now(subscription["customer"])
    details = subscription["cancellation_details"]
    ended = subscription | {"status": "canceled", "ended_at": now, "canceled_at": subscription["canceled_at"] or now}
    ended["cancellation_details"] = details | {"reason": details["reason"] or reason}
    for invoice in world.documents.select(
        Query("invoice", {"parent.subscription_details.subscription": subscription["id"]})
    ):
        if invoice["status"] in ("draft", "open"):
            world.save(
                invoice | {"auto_advance": False, "next_payment_attempt": None, "automatically_finalizes_at": None}
            )
    world.save(ended)
    world.emit("customer.subscription.deleted", ended)
    return ended


def set_cancel_at_period_end(world: World, subscription: Document, wanted: bool) -> Document:
    """Let the subscription end with its period, or run on."""
    if subscription["status"] not in RUNNING:
        raise invalid(
            "A canceled subscription can only update its cancellation_details and metadata.", "cancel_at_period_end"
        )
    changed = subscription | {"cancel_at_period_end": wanted}
    changed["cancel_at"] = subscription["items"]["data"][0]["current_period_end"] if wanted else None
    changed["canceled_at"] = world.now(subscription["customer"]) if wanted else None
    reason = "cancellation_requested" if wanted else None
    changed["cancellation_details"] = subscription["cancellation_details"] | {"reason": reason}
    world.save(changed)
    world.emit("customer.subscription.updated", changed, subscription)
    return changed


def _after_decline(world: World, invoice: Document, subscription: Document) -> Document:
    attempts = invoice["attempt_count"]
    if attempts > len(RETRY_DAYS):
        end_subscription(world, subscription, "payment_failed")
        return world.load("invoice", invoice["id"])
    due = world.now(subscription["customer"]) + RETRY_DAYS[attempts - 1] * 86400
    waiting = world.save(invoice | {"next_payment_attempt": due})
    if subscription["status"] == "active":
        changed = world.save(subscription | {"status": "past_due"})
        world.emit("customer.subscription.updated", changed, subscription)
    return waiting


def _lines(subscription: Document) -> list[Line]:
    items = subscription["items"]["data"]
    return [Line(i["price"], i["quantity"], i["current_period_start"], i["current_period_end"], i["id"]) for i in items]


def _item(subscription_id: str, price: Document, quantity: int, period: tuple[int, int]) -> Document:
    item = blank(
        "subscription_item",
        id=new_id("si"),
        created=period[0],
        current_period_start=period[0],
        current_period_end=period[1],
        price=price,
        quantity=quantity,
        subscription=subscription_id,
    )
    return item | {"plan": _plan(price)}


def _plan(price: Document) -> Document:
    """The older form of a recurring price, which items still carry."""
    recurring = price["recurring"]
    plain = {
        name: price[name]
        for name in ("id", "active", "billing_scheme", "created", "currency", "livemode", "metadata", "product")
    }
    return plain | {
        "object": "plan",
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "meter": None,
        "nickname": price["nickname"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }


def _update(world: World, call: Call) -> Document:
    subscription = world.load("subscription", call.id)
    changed = dict(subscription)
    if "metadata" in call.params:
        changed["metadata"] = merged_metadata(subscription["metadata"], call.params["metadata"])
    if "description" in call.params:
        changed["description"] = call.params["description"]
    if call.get("cancellation_details"):
        changed["cancellation_details"] = subscription["cancellation_details"] | call.get("cancellation_details")
    if call.get("default_payment_method"):
        method = world.load("payment_method", call.get("default_payment_method"), "default_payment_method", 400)
        if method["customer"] != subscription["customer"]:
            raise invalid("The customer does not have this payment method.", "default_payment_method")
        changed["default_payment_method"] = method["id"]
    if changed != subscription:
        world.save(changed)
        world.emit("customer.subscription.updated", changed, subscription)
    wanted = call.get("cancel_at_period_end")
    if wanted is not None and wanted != changed["cancel_at_period_end"]:
        changed = set_cancel_at_period_end(world, changed, wanted)
    if call.get("billing_cycle_anchor") == "now":
        renew_now(world, changed)
    return world.load("subscription", call.id)


def renew_now(world: World, subscription: Document, reason: Reason = "subscription_update") -> Document:
    """Begin a new period at this moment and charge for it, as `billing_cycle_anchor=now` does."""
    if subscription["status"] not in RUNNING:
        raise invalid("This subscription does not run any more, so it can't be renewed.", "billing_cycle_anchor")
    invoice = finalize_invoice(world, renew(world, subscription, reason, new_anchor=True))
    return collect(world, invoice, world.load("subscription", subscription["id"]))


def _cancel(world: World, call: Call) -> Document:
    subscription = world.load("subscription", call.id)
    for name in ("invoice_now", "prorate"):
        if call.get(name):
            raise not_emulated(name)
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise invalid(f"No such subscription: '{call.id}'", "id", "resource_missing", 404)
    details = call.get("cancellation_details", {})
    subscription["cancellation_details"] |= {k: v for k, v in details.items() if v is not None}
    return end_subscription(world, subscription, "cancellation_requested")


def _list(world: World, call: Call) -> Document:
    """Without a status Stripe leaves the canceled ones out; `all` shows every one."""
    status = call.get("status")
    named = {
        "customer": call.get("customer"),
        "test_clock": call.get("test_clock"),
        "status": status if status != "all" else None,
    }
    where: dict[str, str | int | bool | None] = {name: value for name, value in named.items() if value is not None}
    if status is None:
        where["ended_at"] = None
    return page(world, call, Query("subscription", where), "/v1/subscriptions")


_DETAILS = hash_of(comment=TEXT, feedback=TEXT)
_STATUS = choice(
    "active", "past_due", "canceled", "unpaid", "incomplete", "incomplete_expired", "trialing", "paused", "ended", "all"
)
ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/subscriptions",
        _list,
        {**PAGE, "customer": TEXT, "price": NOT_EMULATED, "plan": NOT_EMULATED, "status": _STATUS, "test_clock": TEXT},
    ),
    Endpoint("GET", "/v1/subscriptions/{id}", retrieve("subscription")),
    Endpoint(
        "POST",
        "/v1/subscriptions/{id}",
        _update,
        {
            "cancel_at_period_end": BOOLEAN,
            "cancellation_details": _DETAILS,
            "default_payment_method": TEXT,
            "description": TEXT,
            "metadata": METADATA,
            "billing_cycle_anchor": choice("now", "unchanged"),
            "proration_behavior": choice("none", "create_prorations", "always_invoice"),
            "payment_behavior": ANYTHING,
            "off_session": BOOLEAN,
            "proration_date": INTEGER,
            "cancel_at": NOT_EMULATED,
            "items": NOT_EMULATED,
            "trial_end": NOT_EMULATED,
            "pause_collection": NOT_EMULATED,
            "discounts": NOT_EMULATED,
            "collection_method": choice("charge_automatically"),
        },
    ),
    Endpoint(
        "DELETE",
        "/v1/subscriptions/{id}",
        _cancel,
        {"cancellation_details": _DETAILS, "invoice_now": BOOLEAN, "prorate": BOOLEAN},
    ),
)
