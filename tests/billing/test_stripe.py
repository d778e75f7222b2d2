"""Payments through the official library against the stand-in: paid once, in any order, taken back, never dropped."""

import asyncio
from dataclasses import dataclass
from itertools import permutations
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import text
from tests.billing.conftest import USD, Customer, make_customer, money_of

from wopr.billing import inbox
from wopr.billing.apply import Facts, apply_due, apply_event, record
from wopr.billing.checkout import Payer, Wish, confirm_checkout, start_checkout
from wopr.billing.invariants import invariants
from wopr.billing.loops import fetch_missed
from wopr.billing.payments import EventHead, Session, TakeBack
from wopr.billing.prices import load_prices
from wopr.billing.statements import list_movements, plan_of
from wopr.billing.stripe import StripeApi, connect
from wopr.core.clock import ManualClock
from wopr.core.errors import Conflict, NotFound, UpstreamFailed
from wopr.core.platform import Platform

GOOD_CARD = "4242424242424242"
DECLINED_CARD = "4000000000000002"
DISPUTED_CARD = "4000000000000259"


@dataclass(frozen=True)
class Shop:
    """A customer at the payment company."""

    platform: Platform
    customer: Customer

    @property
    def base(self) -> str:
        return self.platform.settings.stripe_api_base

    async def buy(self, mode: str, cents: int | None = None, card: str = GOOD_CARD) -> str:
        """Open a payment page and pay there as a person does; the session's id."""
        url = await start_checkout(self.platform, self.payer, Wish(mode, cents))
        form = {"number": card, "expiry": "12 / 40", "cvc": "123", "name": "Ada", "email": self.customer.email}
        answer = await self.platform.http.post(url, data=form)
        assert answer.status_code == (402 if card == DECLINED_CARD else 303), answer.text
        return url.rpartition("/")[2]

    @property
    def payer(self) -> Payer:
        return Payer(self.customer.id, self.customer.email)

    async def get(self, path: str, **params: str) -> Any:
        answer = await self.platform.http.get(f"{self.base}{path}", params=params, headers=AUTH)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def events(self) -> list[EventHead]:
        """Everything that happened at the payment company, oldest first, as far as we act on it."""
        found = (await self.get("/v1/events", limit="100"))["data"]
        heads = [EventHead(e["id"], e["type"], e["data"]["object"].get("id", "")) for e in reversed(found)]
        return [head for head in heads if head.type in inbox.HANDLED]

    async def trigger(self, event: str, **wish: str | int) -> None:
        answer = await self.platform.http.post(f"{self.base}/_emulator/trigger", json={"event": event, **wish})
        assert answer.status_code == 200, answer.text

    async def deliver(self, events: list[EventHead]) -> None:
        """The events arrive one after the other and are applied."""
        for event in events:
            async with self.platform.db.begin() as session:
                await inbox.store(session, [event], self.platform.clock.now())
            await apply_due(self.platform)

    async def money(self) -> tuple[int, int]:
        found = await money_of(self.platform.db, self.customer.id)
        return found.available, found.debt

    async def spend(self, nanos: int) -> None:
        await spend(self.platform, self.customer.id, nanos)

    async def states(self) -> dict[str, str]:
        async with self.platform.db.begin() as session:
            page = await inbox.list_events(session, limit=100)
        return {event.id: event.state for event in page.events}


AUTH = {"authorization": "Bearer sk_test_wopr"}


async def spend(platform: Platform, tenant_id: UUID, nanos: int) -> None:
    from uuid import uuid4

    from wopr.billing import codes, ledger

    async with platform.db.begin() as session:
        transfer = ledger.Transfer(
            uuid4(), codes.customer(tenant_id), codes.revenue("runtime", tenant_id), nanos, "test_spending"
        )
        await ledger.post(session, [transfer])


@pytest.fixture
async def shop(platform: Platform, customer: Customer) -> Shop:
    return Shop(platform, customer)


async def test_a_topup_becomes_credit_once_however_often_it_is_told(shop: Shop) -> None:
    session_id = await shop.buy("payment", 1000)
    assert await shop.money() == (0, 0)
    events = await shop.events()
    await shop.deliver([*events, *events])
    again = [EventHead(f"{e.id}_again", e.type, e.object_id) for e in events]
    await shop.deliver(again)
    assert await shop.money() == (10 * USD, 0)
    assert await confirm_checkout(shop.platform, shop.customer.id, session_id) == "applied"
    assert await shop.money() == (10 * USD, 0)


async def test_coming_back_from_the_payment_page_is_enough_when_webhooks_are_slow(shop: Shop) -> None:
    session_id = await shop.buy("subscription")
    assert await confirm_checkout(shop.platform, shop.customer.id, session_id) == "applied"
    assert await shop.money() == (5 * USD, 0)
    async with shop.platform.db.begin() as session:
        plan = await plan_of(session, shop.customer.id)
    assert (plan.status, plan.cancels_at) == ("active", None)
    assert plan.renews_at is not None
    with pytest.raises(Conflict):
        await start_checkout(shop.platform, shop.payer, Wish("subscription"))
    await shop.deliver(await shop.events())
    assert await shop.money() == (5 * USD, 0)


async def test_somebody_elses_payment_page_can_not_be_confirmed(shop: Shop) -> None:
    session_id = await shop.buy("payment", 500)
    other = await make_customer(shop.platform.db)
    with pytest.raises(NotFound):
        await confirm_checkout(shop.platform, other.id, session_id)


async def test_a_payment_that_is_not_paid_grants_nothing(shop: Shop) -> None:
    session_id = await shop.buy("payment", 500, DECLINED_CARD)
    assert await confirm_checkout(shop.platform, shop.customer.id, session_id) == "pending"
    await shop.deliver([EventHead("evt_early", "checkout.session.completed", session_id), *await shop.events()])
    assert await shop.money() == (0, 0)
    assert set((await shop.states()).values()) == {"applied"}


async def test_a_renewal_grants_the_next_month_and_a_cancellation_is_mirrored(shop: Shop) -> None:
    await shop.buy("subscription")
    await shop.trigger("invoice.paid")
    await shop.trigger("customer.subscription.deleted")
    await shop.deliver(await shop.events())
    assert await shop.money() == (10 * USD, 0)
    async with shop.platform.db.begin() as session:
        assert (await plan_of(session, shop.customer.id)).status == "canceled"


@pytest.mark.parametrize("spent", [0, 7])
async def test_payment_and_refund_end_the_same_in_every_order(shop: Shop, spent: int) -> None:
    await shop.buy("payment", 1000)
    await shop.trigger("charge.refunded", amount=400)
    events = await shop.events()
    assert len(events) >= 3
    await shop.deliver([events[0]])
    await shop.spend(spent * USD) if spent else None
    await shop.deliver(events)
    expected = (6 - spent) * USD
    assert await shop.money() == (max(expected, 0), max(-expected, 0))


async def test_every_order_of_events_leads_to_the_same_money(shop: Shop) -> None:
    await shop.buy("payment", 1000)
    await shop.trigger("charge.refunded", amount=400)
    events = await shop.events()
    results = set()
    for number, order in enumerate(permutations(events)):
        renamed = [EventHead(f"{number}{e.id}", e.type, e.object_id) for e in order]
        await shop.deliver(renamed)
        results.add(await shop.money())
    assert results == {(6 * USD, 0)}


async def test_a_refund_that_comes_first_brings_its_payment_along(shop: Shop) -> None:
    await shop.buy("subscription")
    await shop.trigger("charge.refunded")
    events = await shop.events()
    await shop.deliver([e for e in events if e.type == "refund.created"])
    assert await shop.money() == (0, 0)
    async with shop.platform.db.begin() as session:
        page, _ = await list_movements(session, shop.customer.id)
    assert [movement.amount for movement in page] == [-5 * USD, 5 * USD]


async def test_a_refund_of_spent_credit_is_a_debt_that_the_next_payment_settles(shop: Shop) -> None:
    await shop.buy("payment", 1000)
    await shop.deliver(await shop.events())
    await shop.spend(8 * USD)
    await shop.trigger("charge.refunded")
    await shop.deliver(await shop.events())
    assert await shop.money() == (0, 8 * USD)
    await shop.buy("payment", 1000)
    await shop.deliver(await shop.events())
    assert await shop.money() == (2 * USD, 0)
    async with shop.platform.db.begin() as session:
        assert await invariants(session) == []


async def test_a_dispute_takes_credit_and_a_won_one_gives_it_back(shop: Shop) -> None:
    await shop.buy("payment", 1000)
    await shop.trigger("charge.dispute.created")
    await shop.deliver(await shop.events())
    assert await shop.money() == (0, 0)
    await shop.trigger("charge.dispute.closed", outcome="won")
    await shop.deliver(await shop.events())
    assert await shop.money() == (10 * USD, 0)


async def test_a_lost_dispute_takes_credit_once(shop: Shop) -> None:
    await shop.buy("payment", 1000, DISPUTED_CARD)
    await shop.trigger("charge.dispute.closed", outcome="lost")
    await shop.deliver(await shop.events())
    assert await shop.money() == (0, 0)


async def test_a_refund_and_a_dispute_of_one_payment_take_no_more_than_it_granted(shop: Shop) -> None:
    await shop.buy("payment", 1000)
    await shop.deliver(await shop.events())
    async with shop.platform.db.begin() as session:
        intent = await session.scalar(text("SELECT payment_intent_id FROM stripe_payments"))
    plan = load_prices().plan

    async def happens(kind: str, cents: int, gone: bool) -> tuple[int, int]:
        taken = TakeBack(f"{kind}_1", kind, gone, "usd", cents, intent)
        for _ in range(2):
            async with shop.platform.db.begin() as session:
                await record(session, Facts(takebacks=[taken]), plan)
        return await shop.money()

    assert await happens("refund", 400, True) == (6 * USD, 0)
    assert await happens("dispute", 1000, True) == (0, 0)
    assert await happens("dispute", 1000, False) == (6 * USD, 0)
    assert await happens("refund", 400, False) == (10 * USD, 0)
    async with shop.platform.db.begin() as session:
        assert await invariants(session) == []


async def test_a_payment_without_a_customer_is_reported_and_can_be_retried(shop: Shop, clock: ManualClock) -> None:
    await shop.trigger("checkout.session.completed", amount=700)
    event = next(e for e in await shop.events() if e.type == "checkout.session.completed")
    await shop.deliver([event])
    assert await shop.states() == {event.id: "unmatched"}
    async with shop.platform.db.begin() as session:
        await session.execute(
            text(
                "INSERT INTO stripe_checkouts (id, tenant_id, mode, session_id) VALUES (:id, :id, 'payment', :session)"
            ),
            {"id": shop.customer.id, "session": event.object_id},
        )
        await inbox.retry(session, event.id, clock.now())
    await apply_due(shop.platform)
    assert await shop.states() == {event.id: "applied"}
    assert await shop.money() == (7 * USD, 0)


async def test_a_page_whose_answer_was_lost_is_matched_by_its_reference(shop: Shop) -> None:
    await shop.buy("payment", 500)
    async with shop.platform.db.begin() as session:
        await session.execute(text("UPDATE stripe_checkouts SET session_id = NULL"))
        await session.execute(text("DELETE FROM stripe_customers"))
    await shop.deliver(await shop.events())
    assert await shop.money() == (5 * USD, 0)


async def test_another_currency_fails_with_the_reason(shop: Shop) -> None:
    session = {
        "mode": "payment",
        "success_url": "http://ui.example/",
        "client_reference_id": str(shop.customer.id),
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "eur",
        "line_items[0][price_data][unit_amount]": "500",
        "line_items[0][price_data][product_data][name]": "Credit",
    }
    made = await shop.platform.http.post(f"{shop.base}/v1/checkout/sessions", data=session, headers=AUTH)
    assert made.status_code == 200, made.text
    await shop.trigger("checkout.session.completed", target=made.json()["id"])
    event = next(e for e in await shop.events() if e.type == "checkout.session.completed")
    await shop.deliver([event])
    async with shop.platform.db.begin() as open_session:
        page = await inbox.list_events(open_session, "failed")
    assert [e.id for e in page.events] == [event.id]
    assert "eur" in (page.events[0].last_error or "")
    assert await shop.money() == (0, 0)


async def test_events_that_never_arrived_are_fetched(shop: Shop) -> None:
    await shop.buy("payment", 2500)
    assert (await fetch_missed(shop.platform))["missed"] > 0
    assert (await fetch_missed(shop.platform))["missed"] == 0
    await apply_due(shop.platform)
    assert await shop.money() == (25 * USD, 0)


async def test_an_outage_of_stripe_costs_no_payment_its_credit(shop: Shop, clock: ManualClock) -> None:
    class Away:
        async def session(self, _session_id: str) -> Session:
            raise UpstreamFailed("Stripe could not be reached.")

    session_id = await shop.buy("payment", 1000)
    event = EventHead("evt_1", "checkout.session.completed", session_id)
    async with shop.platform.db.begin() as session:
        await inbox.store(session, [event], clock.now())
    for _ in range(3 * inbox.ATTEMPTS_MAX):
        assert await apply_event(shop.platform, cast("StripeApi", Away()), event) == "pending"
        clock.advance(inbox.DELAY_SECONDS_MAX)
    assert await apply_due(shop.platform) == {"applied": 1, "failed": 0, "unmatched": 0}
    assert await shop.money() == (10 * USD, 0)


async def test_an_event_about_nothing_is_tried_again_and_at_last_fails_visibly(shop: Shop, clock: ManualClock) -> None:
    event = EventHead("evt_1", "checkout.session.completed", "cs_test_unknown")
    await shop.deliver([event])
    assert await shop.states() == {"evt_1": "pending"}
    assert (await apply_due(shop.platform))["failed"] == 0  # not before its time
    for _ in range(inbox.ATTEMPTS_MAX):
        clock.advance(inbox.DELAY_SECONDS_MAX)
        await apply_due(shop.platform)
    assert await shop.states() == {"evt_1": "failed"}


async def test_a_crash_between_effect_and_mark_changes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.buy("payment", 1000)
    events = [e for e in await shop.events() if e.type == "checkout.session.completed"]
    from wopr.billing import apply

    original = apply.record

    async def dies(*arguments: Any) -> None:
        await original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(apply, "record", dies)
    with pytest.raises(KeyboardInterrupt):
        await shop.deliver(events)
    assert await shop.money() == (0, 0)
    monkeypatch.setattr(apply, "record", original)
    await shop.deliver(events)
    assert await shop.money() == (10 * USD, 0)


async def test_workers_that_apply_the_same_event_at_once_credit_it_once(shop: Shop) -> None:
    await shop.buy("payment", 1000)
    event = next(e for e in await shop.events() if e.type == "checkout.session.completed")
    async with shop.platform.db.begin() as session:
        await inbox.store(session, [event], shop.platform.clock.now())
    async with connect(shop.platform.settings) as stripe:
        states = await asyncio.gather(*(apply_event(shop.platform, stripe, event) for _ in range(6)))
    assert set(states) == {"applied"}
    assert await shop.money() == (10 * USD, 0)
