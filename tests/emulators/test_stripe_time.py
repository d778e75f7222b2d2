"""What happens as time passes: renewals, declined ones, cancellations, expiries; on test clocks and on the whole."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.emulators.stripe.periods import moved, next_end

from .conftest import Shop

DAY = 86400
START = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp())


def subscribed_on_clock(shop: Shop, number: str = "4242424242424242") -> tuple[str, str]:
    """A clock and the subscription of its customer."""
    clock = shop.client.v1.test_helpers.test_clocks.create({"frozen_time": START, "name": "renewals"})
    customer = shop.client.v1.customers.create({"email": "c@example.com", "test_clock": clock.id})
    session = shop.checkout(customer=customer.id)
    assert shop.pay(session.id, number).status_code == 303
    done = shop.client.v1.checkout.sessions.retrieve(session.id)
    return clock.id, done.subscription


def test_a_subscription_renews_on_its_clock(shop: Shop) -> None:
    clock, subscription_id = subscribed_on_clock(shop)
    advance = shop.client.v1.test_helpers.test_clocks.advance
    advance(clock, {"frozen_time": START + 28 * DAY + 60})
    assert shop.client.v1.test_helpers.test_clocks.retrieve(clock).status == "ready"
    invoices = shop.client.v1.invoices.list({"subscription": subscription_id}).data
    assert [(i.status, i.billing_reason) for i in invoices] == [
        ("draft", "subscription_cycle"),
        ("paid", "subscription_create"),
    ]
    advance(clock, {"frozen_time": START + 28 * DAY + 3700})
    renewed = shop.client.v1.subscriptions.retrieve(subscription_id, {"expand": ["latest_invoice"]})
    assert (renewed.status, renewed.latest_invoice.status, renewed.latest_invoice.amount_paid) == (
        "active",
        "paid",
        500,
    )
    item = renewed["items"].data[0]
    assert datetime.fromtimestamp(item.current_period_start, UTC) == datetime(2027, 2, 28, 12, tzinfo=UTC)
    assert datetime.fromtimestamp(item.current_period_end, UTC) == datetime(2027, 3, 31, 12, tzinfo=UTC)
    paid = shop.settled("invoice.paid", 2)[1].data.object
    assert paid.parent.subscription_details.subscription == subscription_id
    assert paid.lines.data[0].period.end == item.current_period_end


def test_skipping_many_months_bills_each_of_them(shop: Shop) -> None:
    clock, subscription_id = subscribed_on_clock(shop)
    shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START + 200 * DAY})
    invoices = shop.client.v1.invoices.list({"subscription": subscription_id, "limit": 50}).data
    assert [i.status for i in invoices] == ["paid"] * 7
    assert len({i.number for i in invoices}) == 7


def test_a_card_that_fails_later_makes_the_plan_overdue_and_then_ends_it(shop: Shop) -> None:
    clock, subscription_id = subscribed_on_clock(shop, "4000000000000341")
    shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START + 29 * DAY})
    overdue = shop.client.v1.subscriptions.retrieve(subscription_id, {"expand": ["latest_invoice"]})
    assert (overdue.status, overdue.latest_invoice.status, overdue.latest_invoice.attempt_count) == (
        "past_due",
        "open",
        1,
    )
    assert overdue.latest_invoice.next_payment_attempt is not None
    assert shop.settled("invoice.payment_failed")[0].data.object.id == overdue.latest_invoice.id
    shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START + 50 * DAY})
    ended = shop.client.v1.subscriptions.retrieve(subscription_id)
    assert (ended.status, ended.cancellation_details.reason) == ("canceled", "payment_failed")
    assert len(shop.settled("invoice.payment_failed", 4)) == 4
    shop.settled("customer.subscription.deleted")


def test_a_new_card_in_the_portal_pays_what_is_overdue(shop: Shop) -> None:
    clock, subscription_id = subscribed_on_clock(shop, "4000000000000341")
    shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START + 29 * DAY})
    customer = shop.client.v1.subscriptions.retrieve(subscription_id).customer
    portal = shop.client.v1.billing_portal.sessions.create({"customer": customer})
    assert "Payment overdue" in shop.browser.get(portal.url).text
    card = {"number": "4000000000000002", "expiry": "12/40", "cvc": "123", "name": "Ada"}
    refused = shop.browser.post(f"{portal.url}/card", data=card)
    assert (refused.status_code, "was declined" in refused.text) == (402, True)
    assert shop.browser.post(f"{portal.url}/card", data=card | {"number": "5555555555554444"}).status_code == 303
    paid = shop.client.v1.subscriptions.retrieve(
        subscription_id, {"expand": ["latest_invoice", "default_payment_method"]}
    )
    assert (paid.status, paid.latest_invoice.status) == ("active", "paid")
    assert paid.default_payment_method.card.brand == "mastercard"


def test_a_plan_that_cancels_at_period_end_ends_then_and_not_before(shop: Shop) -> None:
    clock, subscription_id = subscribed_on_clock(shop)
    shop.client.v1.subscriptions.update(subscription_id, {"cancel_at_period_end": True})
    shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START + 27 * DAY})
    assert shop.client.v1.subscriptions.retrieve(subscription_id).status == "active"
    shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START + 40 * DAY})
    ended = shop.client.v1.subscriptions.retrieve(subscription_id)
    assert (ended.status, ended.ended_at) == ("canceled", ended["items"].data[0].current_period_end)
    assert len(shop.client.v1.invoices.list({"subscription": subscription_id}).data) == 1


def test_the_whole_stand_in_can_be_moved_on(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    left_open = shop.checkout()
    moved_on = shop.browser.post("/_emulator/advance", json={"days": 32}).json()
    assert moved_on["offset_seconds"] == 32 * DAY
    assert shop.client.v1.checkout.sessions.retrieve(left_open.id).status == "expired"
    assert [i.status for i in shop.client.v1.invoices.list().data] == ["paid", "paid"]
    shop.settled("invoice.paid", 2)
    shop.settled("checkout.session.expired")
    assert shop.browser.get("/_emulator/clock").json()["offset_seconds"] == 32 * DAY
    assert shop.browser.post("/_emulator/advance", json={"days": 0}).status_code == 400


def test_a_page_with_an_end_can_still_be_made_and_paid_after_the_clock_moved_on(shop: Shop) -> None:
    assert shop.browser.post("/_emulator/advance", json={"days": 31}).status_code == 200
    wanted = int(time.time()) + 3600
    session = shop.top_up(expires_at=wanted)
    assert session.expires_at == wanted + 31 * DAY
    assert shop.pay(session.id).status_code == 303
    unpaid = shop.top_up(expires_at=wanted)
    assert shop.browser.post("/_emulator/advance", json={"days": 1}).status_code == 200
    assert shop.client.v1.checkout.sessions.retrieve(unpaid.id).status == "expired"


def test_a_clock_goes_forward_only_and_takes_its_customers_along(shop: Shop) -> None:
    clock, subscription_id = subscribed_on_clock(shop)
    with pytest.raises(Exception, match="later time"):
        shop.client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": START - 1})
    customer = shop.client.v1.subscriptions.retrieve(subscription_id).customer
    assert shop.client.v1.test_helpers.test_clocks.delete(clock).deleted is True
    assert shop.client.v1.customers.retrieve(customer).deleted is True
    assert shop.client.v1.subscriptions.retrieve(subscription_id).status == "canceled"


def test_billing_now_begins_a_new_period(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    subscription = shop.client.v1.subscriptions.list().data[0]
    update = {"billing_cycle_anchor": "now", "proration_behavior": "none"}
    changed = shop.client.v1.subscriptions.update(subscription.id, {**update, "expand": ["latest_invoice"]})
    assert (changed.latest_invoice.status, changed.latest_invoice.billing_reason) == ("paid", "subscription_update")


@given(
    anchor=st.integers(0, 4_000_000_000),
    steps=st.integers(1, 40),
    interval=st.sampled_from(["day", "week", "month", "year"]),
    count=st.integers(1, 3),
)
def test_periods_touch_and_never_drift_from_their_anchor(anchor: int, steps: int, interval: str, count: int) -> None:
    ends = [anchor]
    for _ in range(steps):
        ends.append(next_end(anchor, ends[-1], interval, count))  # type: ignore[arg-type]
    assert ends == [moved(anchor, interval, count * i) for i in range(steps + 1)]  # type: ignore[arg-type]
    assert ends == sorted(set(ends))
