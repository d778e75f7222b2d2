"""The API as the official library speaks it: refusals, pages, expansion, idempotency, refunds, disputes."""

import base64

import pytest
import stripe

from .conftest import Shop, stripe_client


def refusal(call: object, *args: object) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        call(*args)
    return caught.value


def test_a_request_without_a_key_or_with_a_live_one_is_refused(shop: Shop) -> None:
    assert shop.browser.get("/v1/customers").json()["error"]["message"].startswith("You did not provide an API key")
    live = shop.browser.get("/v1/customers", headers={"authorization": "Bearer sk_live_1234567890abcdef"})
    assert live.status_code == 401
    assert "1234567890" not in live.text
    with stripe_client(shop.url, "nonsense") as wrong:
        assert isinstance(refusal(wrong.v1.customers.list), stripe.AuthenticationError)


def test_basic_authentication_works_as_with_curl(shop: Shop) -> None:
    token = base64.b64encode(b"sk_test_key:").decode()
    answer = shop.browser.get(
        "/v1/customers", headers={"authorization": f"Basic {token}", "stripe-version": "2019-01-01"}
    )
    assert answer.json()["object"] == "list"
    assert answer.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"colour": "red"}, "parameter_unknown", "colour"),
        (
            {"line_items": [{"price": "price_plan", "quantity": 1, "colour": "red"}]},
            "parameter_unknown",
            "line_items[0][colour]",
        ),
        ({"success_url": ""}, "parameter_missing", "success_url"),
        ({"success_url": "nowhere"}, "url_invalid", "success_url"),
        ({"mode": "later"}, None, "mode"),
        ({"line_items": []}, "parameter_missing", "line_items"),
        ({"line_items": [{"price": "price_none", "quantity": 1}]}, "resource_missing", "line_items[0][price]"),
        ({"line_items": [{"price": "price_plan"}]}, None, "line_items[0][quantity]"),
        (
            {"line_items": [{"price": "price_plan", "quantity": "many"}]},
            "parameter_invalid_integer",
            "line_items[0][quantity]",
        ),
        ({"mode": "payment"}, None, "line_items[0]"),
        ({"customer": "cus_none"}, "resource_missing", "customer"),
        ({"payment_intent_data": {"description": "x"}}, None, "payment_intent_data"),
        ({"expires_at": 1}, None, "expires_at"),
        ({"subscription_data": {"trial_period_days": 3}}, None, "subscription_data[trial_period_days]"),
    ],
)
def test_a_malformed_session_is_refused_as_stripe_does(
    shop: Shop, change: dict[str, object], code: str | None, param: str
) -> None:
    error = refusal(lambda: shop.checkout(**change))
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.http_status, error.code, error.param) == (400, code, param)


def test_amounts_below_the_minimum_are_refused(shop: Shop) -> None:
    assert refusal(shop.top_up, 20).code == "amount_too_small"


def test_unknown_objects_and_addresses_are_404(shop: Shop) -> None:
    error = refusal(shop.client.v1.customers.retrieve, "cus_none")
    assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id")
    answer = shop.browser.get("/v1/nothing", headers={"authorization": "Bearer sk_test_key"})
    assert answer.status_code == 404
    assert "Unrecognized request URL (GET: /v1/nothing)" in answer.json()["error"]["message"]


def test_the_same_idempotency_key_gives_the_same_answer_and_another_body_an_error(shop: Shop) -> None:
    create = shop.client.v1.customers.create
    first = create({"email": "a@example.com"}, {"idempotency_key": "once"})
    again = create({"email": "a@example.com"}, {"idempotency_key": "once"})
    assert first.id == again.id
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert len(shop.client.v1.customers.list().data) == 1
    error = refusal(create, {"email": "b@example.com"}, {"idempotency_key": "once"})
    assert isinstance(error, stripe.IdempotencyError)
    assert error.http_status == 400


def test_lists_are_cut_into_pages_in_both_directions(shop: Shop) -> None:
    made = [shop.client.v1.customers.create({"email": f"{i}@example.com"}).id for i in range(5)]
    newest = made[::-1]
    page = shop.client.v1.customers.list({"limit": 2})
    assert ([c.id for c in page.data], page.has_more) == (newest[:2], True)
    assert [c.id for c in shop.client.v1.customers.list({"limit": 2}).auto_paging_iter()] == newest
    back = shop.client.v1.customers.list({"limit": 2, "ending_before": newest[4]})
    assert ([c.id for c in back.data], back.has_more) == (newest[2:4], True)
    assert [c.id for c in shop.client.v1.customers.list({"email": "3@example.com"}).data] == [made[3]]
    assert refusal(shop.client.v1.customers.list, {"limit": 101}).param == "limit"


def test_what_cannot_be_expanded_is_refused(shop: Shop) -> None:
    customer = shop.client.v1.customers.create({"email": "a@example.com"})
    error = refusal(shop.client.v1.customers.retrieve, customer.id, {"expand": ["shoe_size"]})
    assert "cannot be expanded (shoe_size)" in str(error)


def test_metadata_is_merged_and_cleared_key_by_key(shop: Shop) -> None:
    customer = shop.client.v1.customers.create({"email": "a@example.com", "metadata": {"a": "1", "b": "2"}})
    changed = shop.client.v1.customers.update(customer.id, {"metadata": {"b": "", "c": "3"}, "name": "Ada"})
    assert (changed.metadata.to_dict(), changed.name, changed.email) == ({"a": "1", "c": "3"}, "Ada", "a@example.com")


def test_products_and_prices_are_made_and_used(shop: Shop) -> None:
    product = shop.client.v1.products.create({"name": "Gold"})
    price = shop.client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 900, "recurring": {"interval": "year"}}
    )
    assert (price.type, price.recurring.interval, price.recurring.interval_count) == ("recurring", "year", 1)
    session = shop.checkout(line_items=[{"price": price.id, "quantity": 2}])
    assert session.amount_total == 1800
    assert "per year" in " ".join(shop.browser.get(session.url).text.replace("<span>", "").split())
    shop.client.v1.prices.update(price.id, {"active": False})
    assert refusal(lambda: shop.checkout(line_items=[{"price": price.id, "quantity": 1}])).code == "price_inactive"


def paid_charge(shop: Shop, cents: int = 1000) -> stripe.Charge:
    shop.pay(shop.top_up(cents).id)
    return shop.client.v1.charges.list().data[0]


def test_refunds_take_back_a_part_and_then_the_rest(shop: Shop) -> None:
    charge = paid_charge(shop)
    part = shop.client.v1.refunds.create(
        {"payment_intent": charge.payment_intent, "amount": 300, "reason": "duplicate"}
    )
    assert (part.status, part.amount, part.charge) == ("succeeded", 300, charge.id)
    after = shop.client.v1.charges.retrieve(charge.id, {"expand": ["refunds"]})
    assert (after.amount_refunded, after.refunded, after.refunds.data[0].id) == (300, False, part.id)
    assert "greater than unrefunded amount" in str(
        refusal(shop.client.v1.refunds.create, {"charge": charge.id, "amount": 701})
    )
    shop.client.v1.refunds.create({"charge": charge.id})
    assert shop.client.v1.charges.retrieve(charge.id).refunded is True
    assert refusal(shop.client.v1.refunds.create, {"charge": charge.id}).code == "charge_already_refunded"
    refunds = shop.settled("refund.created", 2)
    assert [e.data.object.amount for e in shop.settled("charge.refunded", 2)] == [1000, 1000]
    assert sum(e.data.object.amount for e in refunds) == 1000


def test_a_dispute_takes_the_money_and_winning_it_gives_it_back(shop: Shop) -> None:
    shop.pay(shop.top_up(2000).id, "4000000000000259")
    dispute = shop.client.v1.disputes.list().data[0]
    assert (dispute.status, dispute.amount, dispute.reason) == ("needs_response", 2000, "fraudulent")
    charge = shop.client.v1.charges.retrieve(dispute.charge)
    assert charge.disputed is True
    assert refusal(shop.client.v1.refunds.create, {"charge": charge.id}).code == "charge_disputed"
    won = shop.client.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})
    assert won.status == "won"
    assert shop.settled("charge.dispute.closed")[0].data.object.status == "won"
    # In the order in which they happened; they arrive in any, here as from Stripe.
    happened = [event.type for event in reversed(shop.client.v1.events.list({"limit": 100}).data)]
    assert next(kind for kind in happened if kind.startswith("charge.dispute")) == "charge.dispute.created"
    assert "won" in str(refusal(shop.client.v1.disputes.close, dispute.id))


def test_the_balance_is_what_was_paid_less_fees(shop: Shop) -> None:
    paid_charge(shop, 1000)
    balance = shop.client.v1.balance.retrieve()
    assert (balance.pending[0].amount, balance.available[0].amount) == (1000 - 59, 0)


def test_an_invoice_is_found_from_its_payment_intent(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    charge = shop.client.v1.charges.list().data[0]
    payment = {"type": "payment_intent", "payment_intent": charge.payment_intent}
    found = shop.client.v1.invoice_payments.list({"payment": payment})
    assert [p.invoice for p in found.data] == [shop.client.v1.invoices.list({"status": "paid"}).data[0].id]


def test_a_subscription_is_canceled_at_once(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    subscription = shop.client.v1.subscriptions.list().data[0]
    gone = shop.client.v1.subscriptions.cancel(subscription.id)
    assert gone.status == "canceled"
    assert gone.ended_at is not None
    assert shop.client.v1.subscriptions.list({"customer": gone.customer}).data == []
    assert shop.client.v1.subscriptions.list({"status": "all"}).data[0].id == gone.id
    assert refusal(shop.client.v1.subscriptions.cancel, subscription.id).http_status == 404
    assert shop.settled("customer.subscription.deleted")[0].data.object.id == subscription.id
