"""Events: in Stripe's order, signed, delivered until they arrive, and not lost when the process is."""

from pathlib import Path

import pytest
import stripe
from tests.serving import until

from .conftest import SECRET, Receiver, Shop, open_shop


def test_a_subscription_tells_its_story_in_order(shop: Shop) -> None:
    shop.pay(shop.checkout(client_reference_id="tenant-1").id)
    completed = shop.settled("checkout.session.completed")[0]
    assert completed.data.object.client_reference_id == "tenant-1"
    assert completed.data.object.payment_status == "paid"
    stored = [event.type for event in shop.client.v1.events.list({"limit": 50}).data][::-1]
    assert stored == [
        "customer.created",
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "payment_intent.created",
        "payment_method.attached",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice_payment.paid",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]
    until(lambda: sorted(shop.receiver.types()) == sorted(stored))


def test_an_event_says_which_request_caused_it(shop: Shop) -> None:
    shop.client.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "k1"})
    event = shop.settled("customer.created")[0]
    assert event.request.idempotency_key == "k1"
    assert event.request.id.startswith("req_")
    assert event.api_version == stripe.api_version
    fetched = shop.client.v1.events.retrieve(event.id)
    assert fetched.data.object.email == "a@example.com"
    until(lambda: shop.client.v1.events.retrieve(event.id).pending_webhooks == 0)


def test_an_update_carries_what_was_before(shop: Shop) -> None:
    customer = shop.client.v1.customers.create({"email": "a@example.com"})
    shop.client.v1.customers.update(customer.id, {"name": "Ada"})
    event = shop.settled("customer.updated")[0]
    assert event.data.previous_attributes.to_dict() == {"name": None}


def test_events_are_listed_by_type_time_and_page(shop: Shop) -> None:
    for number in range(3):
        shop.client.v1.customers.create({"email": f"{number}@example.com"})
        shop.client.v1.products.create({"name": "Thing"})
    wanted = {"types": ["customer.created"], "limit": 2}
    page = shop.client.v1.events.list({**wanted, "created": {"gte": 1_700_000_000}})
    assert ([e.data.object.email for e in page.data], page.has_more) == (["2@example.com", "1@example.com"], True)
    rest = shop.client.v1.events.list({**wanted, "starting_after": page.data[-1].id})
    assert ([e.data.object.email for e in rest.data], rest.has_more) == (["0@example.com"], False)
    assert shop.client.v1.events.list({**wanted, "created": {"gte": 4_000_000_000}}).data == []
    assert len(shop.client.v1.events.list({"type": "product.created"}).data) == 3


def test_the_signature_covers_the_body_and_needs_the_whole_secret(shop: Shop) -> None:
    shop.client.v1.customers.create({"email": "a@example.com"})
    shop.settled("customer.created")
    body, header = shop.receiver.received[0]
    for wrong_body, wrong_secret in ((body + b" ", SECRET), (body, SECRET.removeprefix("whsec_"))):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(wrong_body, header, wrong_secret)


def test_a_delivery_that_fails_is_tried_again_until_it_arrives(shop: Shop) -> None:
    shop.receiver.answers += [500, 302, 404]
    shop.client.v1.customers.create({"email": "a@example.com"})
    until(lambda: len(shop.receiver.received) == 4)
    until(lambda: shop.browser.get("/_emulator/deliveries").json()["deliveries"][0]["state"] == "delivered")
    delivery = shop.browser.get("/_emulator/deliveries").json()["deliveries"][0]
    assert (delivery["attempts"], delivery["last_status"]) == (4, 200)
    assert {event.id for event in shop.receiver.events()} == {delivery["event"]}


def test_a_delivery_that_never_succeeds_is_given_up_visibly_and_can_be_sent_again(shop: Shop) -> None:
    shop.receiver.answers += [500] * 4
    shop.client.v1.customers.create({"email": "a@example.com"})

    def first() -> dict[str, object]:
        return shop.browser.get("/_emulator/deliveries").json()["deliveries"][0]

    until(lambda: first()["state"] == "failed")
    assert first()["last_error"] == "HTTP 500"
    assert shop.browser.post(f"/_emulator/deliveries/{first()['id']}/resend").status_code == 200
    until(lambda: first()["state"] == "delivered")


def test_an_endpoint_made_by_the_api_gets_only_what_it_asked_for(shop: Shop) -> None:
    made = shop.client.v1.webhook_endpoints.create({"url": shop.receiver.url, "enabled_events": ["customer.created"]})
    assert made.secret.startswith("whsec_")
    assert not hasattr(shop.client.v1.webhook_endpoints.retrieve(made.id), "secret")
    customer = shop.client.v1.customers.create({"email": "a@example.com"})
    shop.client.v1.customers.update(customer.id, {"name": "Ada"})
    until(lambda: len(shop.receiver.received) == 3)
    verified = []
    for body, header in shop.receiver.received:
        try:
            verified.append(stripe.Webhook.construct_event(body, header, made.secret).type)
        except stripe.SignatureVerificationError:
            continue
    assert verified == ["customer.created"]
    assert shop.client.v1.webhook_endpoints.delete(made.id).deleted is True
    assert made.id not in [e.id for e in shop.client.v1.webhook_endpoints.list().data]


def test_a_restart_keeps_paid_sessions_and_undelivered_events(tmp_path: Path, receiver: Receiver) -> None:
    state = tmp_path / "stripe.sqlite3"
    receiver.answers += [500] * 100
    with open_shop(state, receiver, retry_delays_seconds=(3600,)) as shop:
        session = shop.checkout()
        shop.pay(session.id)
        until(lambda: receiver.received)
    receiver.answers.clear()
    receiver.received.clear()
    with open_shop(state, receiver) as shop:
        assert shop.client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"
        pending = [d for d in shop.browser.get("/_emulator/deliveries").json()["deliveries"] if d["state"] == "pending"]
        assert pending
        for delivery in pending:
            shop.browser.post(f"/_emulator/deliveries/{delivery['id']}/resend")
        shop.settled("checkout.session.completed")


@pytest.mark.parametrize(
    "event_type",
    [
        "charge.dispute.closed",
        "charge.dispute.created",
        "charge.failed",
        "charge.refunded",
        "charge.succeeded",
        "checkout.session.completed",
        "checkout.session.expired",
        "customer.created",
        "customer.subscription.deleted",
        "customer.subscription.updated",
        "invoice.paid",
        "invoice.payment_failed",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
        "refund.created",
    ],
)
def test_every_trigger_works_on_an_empty_stand_in(shop: Shop, event_type: str) -> None:
    answer = shop.browser.post("/_emulator/trigger", json={"event": event_type})
    assert answer.status_code == 200
    assert event_type in [event["type"] for event in answer.json()["events"]]
    shop.settled(event_type)
    assert event_type in shop.browser.get("/_emulator/triggers").json()["triggers"]
    assert event_type in shop.browser.get("/_emulator/").text


def test_triggers_act_on_what_is_there(shop: Shop) -> None:
    session = shop.top_up(700)
    shop.browser.post("/_emulator/trigger", json={"event": "checkout.session.completed"})
    assert shop.client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"
    shop.browser.post("/_emulator/trigger", json={"event": "charge.refunded", "amount": 200})
    assert shop.client.v1.refunds.list().data[0].amount == 200
    unknown = shop.browser.post("/_emulator/trigger", json={"event": "rain"})
    assert unknown.status_code == 400
    assert "charge.refunded" in unknown.json()["error"]["message"]
