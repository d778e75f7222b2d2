"""Billing over HTTP: signed webhooks, the account's money, and the operator's view."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from stripe import WebhookSignature
from tests.billing.conftest import USD, WEBHOOK_SECRET, Customer, make_customer
from tests.billing.test_leases import record

from wopr.accounts.keys import issue
from wopr.accounts.principal import Scope
from wopr.billing import api
from wopr.billing.apply import apply_due
from wopr.billing.grants import grant_credit
from wopr.billing.leases import settle_batch
from wopr.billing.prices import load_prices
from wopr.billing.usage import BotRuntime, charge_runtime
from wopr.client.billing import Billing, Inbox, LedgerCheck, Transactions, UsagePage
from wopr.core.ids import BotId, TurnId
from wopr.core.platform import Platform
from wopr.main import install_error_handlers


@dataclass(frozen=True)
class Web:
    """The routes, and who calls them."""

    http: httpx.AsyncClient
    platform: Platform
    customer: Customer

    async def key(self, customer: Customer, scope: Scope) -> dict[str, str]:
        async with self.platform.db.begin() as session:
            issued = await issue(session, customer.id, name="test", scope=scope, user_id=customer.user_id)
        return {"authorization": f"Bearer {issued.secret}"}

    async def get(self, path: str, scope: Scope = Scope.READ, **params: Any) -> Any:
        answer = await self.http.get(path, params=params, headers=await self.key(self.customer, scope))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def event(self, document: object, secret: str = WEBHOOK_SECRET, **headers: str) -> httpx.Response:
        body = json.dumps(document)
        signed = {"stripe-signature": WebhookSignature.generate_signature_header(body, secret, int(time.time()))}
        return await self.http.post("/api/billing/webhook", content=body, headers=signed | headers)


@pytest.fixture
async def web(platform: Platform, customer: Customer) -> AsyncIterator[Web]:
    app = FastAPI()
    app.state.platform = platform
    install_error_handlers(app)
    app.include_router(api.router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        yield Web(http, platform, customer)


async def make_admin(web: Web) -> dict[str, str]:
    admin = await make_customer(web.platform.db)
    async with web.platform.db.begin() as session:
        await session.execute(text("UPDATE users SET platform_admin = true WHERE id = :id"), {"id": admin.user_id})
    return await web.key(admin, Scope.ADMIN)


def event(event_id: str = "evt_1", kind: str = "checkout.session.completed", subject: str = "cs_1") -> Any:
    return {"id": event_id, "object": "event", "type": kind, "data": {"object": {"id": subject}}}


async def test_a_signed_event_is_stored_once_and_answered(web: Web) -> None:
    for _ in range(3):
        answer = await web.event(event())
        assert (answer.status_code, answer.json()) == (200, {"received": True})
    await web.event(event("evt_2", "customer.created", "cus_1"))
    async with web.platform.db.begin() as session:
        found = await session.execute(text("SELECT id, state FROM stripe_inbox ORDER BY seq"))
        assert [tuple(row) for row in found] == [("evt_1", "pending"), ("evt_2", "applied")]


async def test_what_is_not_signed_by_stripe_is_refused_and_not_stored(web: Web) -> None:
    assert (await web.event(event(), secret="whsec_other")).status_code == 400
    unsigned = await web.http.post("/api/billing/webhook", content=json.dumps(event()))
    assert unsigned.status_code == 400
    assert unsigned.json()["error"]["code"] == "bad_signature"
    for nonsense in (
        [],
        {},
        "x",
        {"id": 1, "type": "x", "data": {}},
        {"id": "e", "type": "t", "data": None},
        event(""),
    ):
        assert (await web.event(nonsense)).status_code == 400
    large = await web.http.post("/api/billing/webhook", content=b"x" * (api.WEBHOOK_BYTES_MAX + 1))
    assert large.status_code == 413
    async with web.platform.db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM stripe_inbox")) == 0


async def test_the_whole_story_of_a_payment_through_the_routes(web: Web) -> None:
    admin = await web.key(web.customer, Scope.ADMIN)
    made = await web.http.post("/api/billing/checkout", json={"mode": "subscription"}, headers=admin)
    assert made.status_code == 200, made.text
    page = await web.platform.http.get(made.json()["url"])
    assert 'href="http://ui.example/billing?done=payment-cancelled"' in page.text, (
        "who turns back is told what happened"
    )
    card = {"number": "4242424242424242", "expiry": "12/40", "cvc": "123", "name": "Ada", "email": "a@example.com"}
    paid = await web.platform.http.post(made.json()["url"], data=card)
    assert paid.headers["location"].startswith("http://ui.example/billing/return?session_id=cs_test_")
    session_id = paid.headers["location"].partition("session_id=")[2]
    done = await web.http.post("/api/billing/checkout/confirm", json={"session_id": session_id}, headers=admin)
    assert done.json() == {
        "state": "applied",
        "balance": {"available_usd": "5.00", "held_usd": "0.00", "debt_usd": "0.00"},
    }
    assert (await web.event(event(subject=session_id))).status_code == 200
    assert (await apply_due(web.platform))["applied"] == 1
    view = Billing.model_validate(await web.get("/api/billing"))
    assert (view.balance.available_usd, view.plan.status, view.entitlement.state) == (5, "active", "active")
    portal = await web.http.post("/api/billing/portal", json={}, headers=admin)
    assert portal.status_code == 200


async def test_what_was_spent_is_shown_by_day_and_by_request_and_the_movements_sum_to_the_balance(web: Web) -> None:
    now, sheet = web.platform.clock.now(), load_prices()
    bot, turn = BotId(uuid4()), TurnId(uuid4())
    charged = replace(record(web.customer.id, USD // 4), bot_id=bot, turn_id=turn, started_at=now)
    plain = replace(record(web.customer.id, USD // 4), started_at=now)
    async with web.platform.db.begin() as session:
        await grant_credit(session, web.customer.id, USD, "welcome")
    async with web.platform.db.begin() as session:
        await settle_batch(session, [charged, plain])
    async with web.platform.db.begin() as session:
        hour = BotRuntime(web.customer.id, bot, "standard", now - timedelta(minutes=1), now)
        runtime = await charge_runtime(session, hour, sheet)
    view = Billing.model_validate(await web.get("/api/billing"))
    assert len(view.spend) == 30
    spent = USD // 2 + runtime
    assert int(view.spend_30d_usd * USD) == spent
    assert sum(int(day.total_usd * USD) for day in view.spend[-2:]) == spent
    assert view.lasts_days is not None
    movements = Transactions.model_validate(await web.get("/api/billing/transactions", limit=2)).transactions
    assert [m.kind for m in movements] == ["runtime", "inference", "grant"]
    assert sum(m.amount_usd for m in movements) == view.balance.available_usd
    of_turn = UsagePage.model_validate(await web.get("/api/billing/usage", turn_id=str(turn)))
    assert [str(row.cost_usd) for row in of_turn.usage] == ["0.25"]
    assert str(of_turn.total_usd) == "0.25"
    everything = UsagePage.model_validate(await web.get("/api/billing/usage", limit=1))
    assert everything.next_cursor is not None
    other = await make_customer(web.platform.db)
    answer = await web.http.get("/api/billing/usage", headers=await web.key(other, Scope.READ))
    assert answer.json()["usage"] == []


async def test_prices_are_public_and_costs_are_not(web: Web) -> None:
    answer = await web.http.get("/api/billing/prices")
    assert answer.json()["plan"]["price_usd"] == "5.00"
    assert answer.json()["topups_cents"] == [500, 1000, 2500, 5000, 10000]
    assert "cost" not in answer.text


async def test_the_operator_grants_credit_looks_for_trouble_and_retries(web: Web) -> None:
    admin = await make_admin(web)
    path = f"/api/admin/tenants/{web.customer.id}/credit"
    given = await web.http.post(path, json={"amount_usd": "2.5", "reason": "sorry"}, headers=admin)
    assert given.json()["balance"]["available_usd"] == "2.50"
    taken = await web.http.post(path, json={"amount_usd": "-3", "reason": "oops"}, headers=admin)
    assert (taken.status_code, taken.json()["error"]["code"]) == (402, "insufficient_credit")
    listed = await web.http.get("/api/admin/tenants", params={"query": web.customer.email}, headers=admin)
    assert [(t["id"], t["available_usd"]) for t in listed.json()["tenants"]] == [(str(web.customer.id), "2.50")]
    await web.event(event(subject="cs_unknown"))
    await apply_due(web.platform)
    found = Inbox.model_validate((await web.http.get("/api/admin/inbox", headers=admin)).json())
    assert [(e.state, e.attempts, bool(e.last_error)) for e in found.events] == [("pending", 1, True)]
    again = await web.http.post("/api/admin/inbox/evt_1/retry", headers=admin)
    assert (again.json()["state"], again.json()["attempts"]) == ("pending", 0)
    assert (await web.http.post("/api/admin/inbox/evt_x/retry", headers=admin)).status_code == 404
    checked = LedgerCheck.model_validate((await web.http.get("/api/admin/ledger", headers=admin)).json())
    assert (checked.ok, checked.problems) == (True, ())
    missing = await web.http.post(
        f"/api/admin/tenants/{uuid4()}/credit", json={"amount_usd": "1", "reason": "x"}, headers=admin
    )
    assert missing.status_code == 404


async def test_the_same_key_grants_once_and_another_amount_under_it_is_refused(web: Web) -> None:
    admin = await make_admin(web) | {"idempotency-key": "click-1"}
    path = f"/api/admin/tenants/{web.customer.id}/credit"
    for replayed in ("false", "true"):
        given = await web.http.post(path, json={"amount_usd": "2", "reason": "sorry"}, headers=admin)
        assert given.json()["balance"]["available_usd"] == "2.00"
        assert given.headers.get("idempotent-replayed", "false") == replayed
    other = await web.http.post(path, json={"amount_usd": "3", "reason": "sorry"}, headers=admin)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    elsewhere = f"/api/admin/tenants/{uuid4()}/credit"
    other = await web.http.post(elsewhere, json={"amount_usd": "2", "reason": "sorry"}, headers=admin)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


async def test_the_same_key_opens_the_same_payment_page_and_no_second_session_at_stripe(web: Web) -> None:
    keyed = await web.key(web.customer, Scope.ADMIN) | {"idempotency-key": "form-1"}
    wish = {"mode": "payment", "amount_cents": 500}
    answers = [await web.http.post("/api/billing/checkout", json=wish, headers=keyed) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replayed"] == "true"
    other = await web.http.post("/api/billing/checkout", json=wish | {"amount_cents": 1000}, headers=keyed)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    # A process that died between Stripe's answer and ours: the repeated request finds its page and makes no other.
    async with web.platform.db.begin() as session:
        await session.execute(text("DELETE FROM idempotent_answers"))
        await session.execute(text("UPDATE stripe_checkouts SET session_id = NULL"))
    again = await web.http.post("/api/billing/checkout", json=wish, headers=keyed)
    assert again.json() == answers[0].json()
    async with web.platform.db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM stripe_checkouts")) == 1


async def test_who_may_not_is_told_so(web: Web) -> None:
    for method, path, scope, status in (
        ("GET", "/api/billing", None, 401),
        ("POST", "/api/billing/checkout", Scope.WRITE, 403),
        ("POST", "/api/billing/portal", Scope.READ, 403),
        ("POST", "/api/billing/checkout/confirm", Scope.WRITE, 403),
        ("GET", "/api/admin/tenants", Scope.ADMIN, 403),
        ("GET", "/api/admin/inbox", Scope.ADMIN, 403),
        ("GET", "/api/admin/ledger", Scope.ADMIN, 403),
        ("POST", "/api/admin/inbox/evt_1/retry", Scope.ADMIN, 403),
        ("GET", "/api/billing/transactions?cursor=x", Scope.READ, 400),
        ("GET", "/api/billing/usage?cursor=x", Scope.READ, 400),
        ("GET", "/api/billing/usage?limit=0", Scope.READ, 422),
        ("GET", "/api/billing/usage?what=1", Scope.READ, 422),
    ):
        headers = await web.key(web.customer, scope) if scope else {}
        body = {"session_id": "cs_1"} if path.endswith("confirm") else {}
        body |= {"mode": "subscription"} if path.endswith("checkout") else {}
        answer = await web.http.request(method, path, json=body if method == "POST" else None, headers=headers)
        assert answer.status_code == status, path
        assert answer.json()["error"]["message"]
