"""What happens by itself as time passes: sessions expire, subscriptions renew or end, invoices are charged again.

`advance` plays everything that is due, in order and each at its own moment, so that skipping three months gives the
same objects and events as living through them. Test clocks move their own customers, the world's clock all others.
"""

from collections.abc import Callable
from dataclasses import dataclass

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listing, retrieve
from wopr.emulators.stripe.checkout import expire_session
from wopr.emulators.stripe.errors import invalid
from wopr.emulators.stripe.invoices import finalize_invoice, subscription_of
from wopr.emulators.stripe.subscriptions import RUNNING, collect, end_subscription, renew
from wopr.emulators.stripe.wire import INTEGER, TEXT, needed
from wopr.emulators.stripe.world import World

_STEPS_MAX = 5000
_CLOCK_LIFE_SECONDS = 30 * 86400
_CLOCK_YEARS_MAX = 2


@dataclass(frozen=True)
class Due:
    """Something that happens at a moment (epoch seconds)."""

    moment: int
    act: Callable[[World], object]


def advance(world: World, clock_id: str | None, until: int) -> int:
    """Play everything due up to `until` for one test clock's customers, or (None) for all others; returns the steps."""
    steps = 0
    while steps < _STEPS_MAX:
        due = min(_due(world, clock_id, until), key=lambda d: d.moment, default=None)
        if due is None:
            break
        with world.at(due.moment):
            due.act(world)
        steps += 1
    return steps


def _due(world: World, clock_id: str | None, until: int) -> list[Due]:
    found: list[Due] = []
    ending = {"items.data[0].current_period_end": until}
    for status in RUNNING:
        running = Query("subscription", {"status": status, "test_clock": clock_id}, at_most=ending)
        found += [_next_of(subscription) for subscription in world.documents.select(running)]
    for status, name in (("draft", "automatically_finalizes_at"), ("open", "next_payment_attempt")):
        waiting = Query(
            "invoice", {"status": status, "test_clock": clock_id, "auto_advance": True}, at_most={name: until}
        )
        found += [Due(invoice[name], _collector(invoice)) for invoice in world.documents.select(waiting)]
    expiring = Query("checkout.session", {"status": "open", "_test_clock": clock_id}, at_most={"expires_at": until})
    return found + [Due(s["expires_at"], _expirer(s)) for s in world.documents.select(expiring)]


def _next_of(subscription: Document) -> Due:
    end = subscription["items"]["data"][0]["current_period_end"]
    if subscription["cancel_at_period_end"]:
        return Due(end, lambda world: end_subscription(world, subscription, "cancellation_requested"))
    return Due(end, lambda world: renew(world, subscription))


def _collector(invoice: Document) -> Callable[[World], object]:
    def act(world: World) -> object:
        current = finalize_invoice(world, invoice) if invoice["status"] == "draft" else invoice
        return collect(world, current, world.load("subscription", subscription_of(invoice)))

    return act


def _expirer(session: Document) -> Callable[[World], object]:
    return lambda world: expire_session(world, session)


def _create_clock(world: World, call: Call) -> Document:
    frozen = call.params["frozen_time"]
    clock = world.new("test_helpers.test_clock", "clock_1", frozen_time=frozen, name=call.get("name"))
    clock["deletes_after"] = clock["created"] + _CLOCK_LIFE_SECONDS
    return world.save(clock)


def _advance_clock(world: World, call: Call) -> Document:
    """Stripe answers while the clock still advances; here it is done by then, and a client that polls sees `ready`."""
    clock = world.load("test_helpers.test_clock", call.id)
    target = call.params["frozen_time"]
    if target <= clock["frozen_time"]:
        raise invalid("The test clock can only advance to a later time.", "frozen_time")
    if target > clock["frozen_time"] + _CLOCK_YEARS_MAX * 366 * 86400:
        raise invalid(f"The test clock can advance by {_CLOCK_YEARS_MAX} years at most.", "frozen_time")
    moving = clock | {"status": "advancing", "status_details": {"advancing": {"target_frozen_time": target}}}
    world.emit("test_helpers.test_clock.advancing", moving, clock)
    advance(world, clock["id"], target)
    ready = world.save(clock | {"frozen_time": target})
    world.emit("test_helpers.test_clock.ready", ready, moving)
    return moving | {"frozen_time": target}


def _delete_clock(world: World, call: Call) -> Document:
    """As at Stripe, a test clock takes its customers and their subscriptions with it."""
    clock = world.load("test_helpers.test_clock", call.id)
    for subscription in world.documents.select(
        Query("subscription", {"test_clock": clock["id"]}, among={"status": RUNNING})
    ):
        end_subscription(world, subscription, None)
    for customer in world.documents.select(Query("customer", {"test_clock": clock["id"]})):
        world.save({"id": customer["id"], "object": "customer", "deleted": True})
    world.documents.remove(clock["id"])
    return {"id": clock["id"], "object": "test_helpers.test_clock", "deleted": True}


_CLOCKS = "/v1/test_helpers/test_clocks"
ENDPOINTS = (
    Endpoint("POST", _CLOCKS, _create_clock, {"frozen_time": needed(INTEGER), "name": TEXT}),
    Endpoint("GET", _CLOCKS, listing("test_helpers.test_clock", _CLOCKS), PAGE),
    Endpoint("GET", f"{_CLOCKS}/{{id}}", retrieve("test_helpers.test_clock")),
    Endpoint("POST", f"{_CLOCKS}/{{id}}/advance", _advance_clock, {"frozen_time": needed(INTEGER)}),
    Endpoint("DELETE", f"{_CLOCKS}/{{id}}", _delete_clock),
)
