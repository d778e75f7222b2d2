"""What people do on the hosted pages, and what becomes of it."""

from urllib.parse import urlsplit

import pytest

from .conftest import Shop


def test_a_subscription_is_paid_on_the_hosted_page(shop: Shop) -> None:
    session = shop.checkout(
        client_reference_id="tenant-1", metadata={"tenant": "1"}, subscription_data={"metadata": {"k": "v"}}
    )
    assert (session.status, session.payment_status, session.amount_total) == ("open", "unpaid", 500)
    answer = shop.pay(session.id)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"https://wopr.test/return?session_id={session.id}"
    expand = ["line_items", "customer", "subscription.latest_invoice.payments"]
    done = shop.client.v1.checkout.sessions.retrieve(session.id, {"expand": expand})
    assert (done.status, done.payment_status, done.url, done.client_reference_id) == (
        "complete",
        "paid",
        None,
        "tenant-1",
    )
    assert done.customer.email == "ada@example.com"
    assert done.customer_details.name == "Ada Lovelace"
    assert done.line_items.data[0].price.id == "price_plan"
    assert done.subscription.status == "active"
    assert done.subscription.metadata["k"] == "v"
    invoice = done.subscription.latest_invoice
    assert (invoice.status, invoice.amount_paid, invoice.billing_reason) == ("paid", 500, "subscription_create")
    assert invoice.parent.subscription_details.subscription == done.subscription.id
    assert invoice.payments.data[0].payment.payment_intent.startswith("pi_")
    item = done.subscription["items"].data[0]
    assert 27 * 86400 < item.current_period_end - item.current_period_start < 32 * 86400


def test_a_single_payment_needs_no_customer_and_can_make_one(shop: Shop) -> None:
    guest = shop.top_up(2500, payment_intent_data={"metadata": {"tenant": "7"}})
    assert shop.pay(guest.id).status_code == 303
    guest = shop.client.v1.checkout.sessions.retrieve(guest.id, {"expand": ["payment_intent.latest_charge"]})
    assert guest.customer is None
    assert guest.payment_intent.status == "succeeded"
    assert guest.payment_intent.metadata["tenant"] == "7"
    assert (guest.payment_intent.latest_charge.amount, guest.payment_intent.latest_charge.paid) == (2500, True)
    member = shop.top_up(500, customer_creation="always")
    shop.pay(member.id)
    customer = shop.client.v1.checkout.sessions.retrieve(member.id).customer
    assert customer.startswith("cus_")
    assert shop.client.v1.customers.payment_methods.list(customer).data == []
    keeping = shop.top_up(500, customer=customer, payment_intent_data={"setup_future_usage": "off_session"})
    shop.pay(keeping.id)
    assert [m.card.last4 for m in shop.client.v1.customers.payment_methods.list(customer).data] == ["4242"]


def test_an_existing_customer_is_used_and_not_asked_for_the_address(shop: Shop) -> None:
    customer = shop.client.v1.customers.create({"email": "grace@example.com", "metadata": {"tenant": "9"}})
    session = shop.checkout(customer=customer.id)
    page = shop.browser.get(session.url)
    assert "grace@example.com" in page.text
    assert 'name="email"' not in page.text
    shop.pay(session.id, email="other@example.com")
    done = shop.client.v1.checkout.sessions.retrieve(session.id)
    assert (done.customer, done.customer_details.email) == (customer.id, "grace@example.com")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        ("4000000000000002", "card_declined", "Your card was declined."),
        ("4000000000009995", "card_declined", "Your card has insufficient funds."),
        ("4000000000000069", "expired_card", "Your card has expired."),
        ("4000000000000127", "incorrect_cvc", "security code is incorrect"),
        ("4111111111111111", "card_declined", "test mode"),
    ],
)
def test_a_declined_card_leaves_the_session_open_and_nothing_paid(
    shop: Shop, number: str, code: str, words: str
) -> None:
    session = shop.top_up()
    answer = shop.pay(session.id, number)
    assert answer.status_code == 402
    assert words in answer.text
    session = shop.client.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert (session.status, session.payment_status) == ("open", "unpaid")
    assert session.payment_intent.last_payment_error.code == code
    assert shop.pay(session.id).status_code == 303
    paid = shop.client.v1.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert paid.payment_intent.id == session.payment_intent.id
    assert (paid.payment_intent.status, paid.payment_intent.last_payment_error) == ("succeeded", None)


def test_a_subscription_can_be_paid_after_a_declined_card(shop: Shop) -> None:
    session = shop.checkout()
    assert shop.pay(session.id, "4000000000000002").status_code == 402
    assert shop.client.v1.subscriptions.list({"status": "all"}).data == []
    assert shop.pay(session.id).status_code == 303
    assert [s.status for s in shop.client.v1.subscriptions.list().data] == ["active"]
    assert len([c for c in shop.client.v1.charges.list().data if c.paid]) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"number": "4242 4242 4242 4241"}, "card number is invalid"),
        ({"number": "4242"}, "card number is incomplete"),
        ({"expiry": "01/20"}, "expiration date is in the past"),
        ({"expiry": "13/40"}, "expiration date is invalid"),
        ({"cvc": "12"}, "security code is incomplete"),
        ({"name": " "}, "name is incomplete"),
        ({"email": "nobody"}, "email is incomplete"),
    ],
)
def test_the_form_names_what_is_wrong_and_keeps_the_rest(shop: Shop, changed: dict[str, str], words: str) -> None:
    answer = shop.pay(shop.checkout().id, **({"number": "4242424242424242"} | changed))
    assert answer.status_code == 402
    assert words in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "Ada Lovelace" in answer.text or "name" in changed
    assert 'value="123"' not in answer.text
    assert shop.client.v1.charges.list().data == []


def test_pressing_the_button_twice_charges_once(shop: Shop) -> None:
    session = shop.top_up()
    first, second = shop.pay(session.id), shop.pay(session.id)
    assert first.headers["location"] == second.headers["location"]
    assert len(shop.client.v1.charges.list().data) == 1
    assert "all done" in shop.browser.get(f"/c/pay/{session.id}").text


def test_an_expired_session_takes_no_money(shop: Shop) -> None:
    session = shop.checkout()
    assert shop.client.v1.checkout.sessions.expire(session.id).status == "expired"
    answer = shop.pay(session.id)
    assert answer.status_code == 410
    assert "expired" in answer.text
    assert shop.browser.get("/c/pay/cs_test_unknown").status_code == 404


def test_pages_load_nothing_from_outside(shop: Shop) -> None:
    page = shop.browser.get(shop.checkout().url)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "no real money" in page.text
    assert "http://" not in page.text.replace(shop.url, "").replace("http://www.w3.org", "")
    assert shop.browser.get("/static/pages.css").status_code == 200


def test_the_portal_cancels_and_resumes_the_plan(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    subscription = shop.client.v1.subscriptions.list().data[0]
    portal = shop.client.v1.billing_portal.sessions.create(
        {"customer": subscription.customer, "return_url": "https://wopr.test/b"}
    )
    page = shop.browser.get(portal.url)
    assert "https://wopr.test/b" in page.text
    assert "$5.00 per month" in page.text
    assert "Receipt" in page.text
    path = f"{urlsplit(portal.url).path}/subscriptions/{subscription.id}"
    shop.browser.post(path, data={"action": "cancel"})
    canceled = shop.client.v1.subscriptions.retrieve(subscription.id)
    assert (canceled.status, canceled.cancel_at_period_end) == ("active", True)
    assert canceled.cancellation_details.reason == "cancellation_requested"
    assert "Cancels" in shop.browser.get(portal.url).text
    shop.browser.post(path, data={"action": "resume"})
    assert shop.client.v1.subscriptions.retrieve(subscription.id).cancel_at_period_end is False


def test_the_portal_of_one_customer_does_not_touch_the_plan_of_another(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    subscription = shop.client.v1.subscriptions.list().data[0]
    stranger = shop.client.v1.customers.create({"email": "eve@example.com"})
    portal = shop.client.v1.billing_portal.sessions.create({"customer": stranger.id})
    answer = shop.browser.post(
        f"{urlsplit(portal.url).path}/subscriptions/{subscription.id}", data={"action": "cancel"}
    )
    assert answer.status_code == 404
    assert shop.client.v1.subscriptions.retrieve(subscription.id).cancel_at_period_end is False


def test_receipts_and_invoices_have_pages(shop: Shop) -> None:
    shop.pay(shop.checkout().id)
    invoice = shop.client.v1.invoices.list().data[0]
    assert invoice.number in shop.browser.get(invoice.hosted_invoice_url).text
    charge = shop.client.v1.charges.list().data[0]
    assert "$5.00" in shop.browser.get(charge.receipt_url).text
