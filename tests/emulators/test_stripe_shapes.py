"""Nothing is invented: every field of an object and every parameter is one that the official library knows."""

from typing import Any

import pytest
import stripe
import stripe.params

from wopr.emulators.stripe.api import ENDPOINTS

from .conftest import Shop

KINDS = {
    "customer": stripe.Customer,
    "product": stripe.Product,
    "price": stripe.Price,
    "payment_method": stripe.PaymentMethod,
    "checkout.session": stripe.checkout.Session,
    "item": stripe.LineItem,
    "billing_portal.session": stripe.billing_portal.Session,
    "payment_intent": stripe.PaymentIntent,
    "charge": stripe.Charge,
    "refund": stripe.Refund,
    "dispute": stripe.Dispute,
    "subscription": stripe.Subscription,
    "subscription_item": stripe.SubscriptionItem,
    "invoice": stripe.Invoice,
    "line_item": stripe.InvoiceLineItem,
    "invoice_payment": stripe.InvoicePayment,
    "balance_transaction": stripe.BalanceTransaction,
    "webhook_endpoint": stripe.WebhookEndpoint,
    "test_helpers.test_clock": stripe.test_helpers.TestClock,
    "event": stripe.Event,
    "plan": stripe.Plan,
}
PARAMETERS = {
    ("POST", "/v1/customers"): stripe.params.CustomerCreateParams,
    ("POST", "/v1/customers/{id}"): stripe.params.CustomerUpdateParams,
    ("POST", "/v1/products"): stripe.params.ProductCreateParams,
    ("POST", "/v1/prices"): stripe.params.PriceCreateParams,
    ("POST", "/v1/checkout/sessions"): stripe.params.checkout.SessionCreateParams,
    ("GET", "/v1/checkout/sessions"): stripe.params.checkout.SessionListParams,
    ("POST", "/v1/billing_portal/sessions"): stripe.params.billing_portal.SessionCreateParams,
    ("GET", "/v1/subscriptions"): stripe.params.SubscriptionListParams,
    ("POST", "/v1/subscriptions/{id}"): stripe.params.SubscriptionUpdateParams,
    ("DELETE", "/v1/subscriptions/{id}"): stripe.params.SubscriptionCancelParams,
    ("GET", "/v1/invoices"): stripe.params.InvoiceListParams,
    ("GET", "/v1/invoice_payments"): stripe.params.InvoicePaymentListParams,
    ("POST", "/v1/refunds"): stripe.params.RefundCreateParams,
    ("POST", "/v1/disputes/{id}"): stripe.params.DisputeUpdateParams,
    ("POST", "/v1/webhook_endpoints"): stripe.params.WebhookEndpointCreateParams,
}


def fields_of(kind: type) -> dict[str, Any]:
    return {
        k: v for base in reversed(kind.__mro__) for k, v in getattr(base, "__annotations__", {}).items() if k[0] != "_"
    }


def optional(annotation: Any) -> bool:
    return "None" in str(annotation) or "Optional" in str(annotation)


def problems(document: Any, path: str = "") -> set[str]:
    """Fields that the library does not know, and needed ones that are missing, in a document and all within it."""
    found: set[str] = set()
    if isinstance(document, list):
        return found.union(*(problems(item, path) for item in document))
    if not isinstance(document, dict):
        return found
    kind = KINDS.get(str(document.get("object")))
    if kind is not None:
        known = fields_of(kind)
        name = document["object"]
        found |= {f"unknown {name}.{key}" for key in document if key not in known}
        if not document.get("deleted"):
            needed = {key for key, annotation in known.items() if not optional(annotation) and key != "OBJECT_NAME"}
            found |= {f"missing {name}.{key}" for key in needed - set(document)}
    return found.union(*(problems(value, f"{path}.{key}") for key, value in document.items()))


def test_every_object_and_event_has_only_fields_that_stripe_has(shop: Shop) -> None:
    clock = shop.client.v1.test_helpers.test_clocks.create({"frozen_time": 1_800_000_000})
    customer = shop.client.v1.customers.create({"email": "c@example.com", "test_clock": clock.id})
    shop.pay(shop.checkout(customer=customer.id).id, "4000000000000341")
    shop.client.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": 1_800_000_000 + 40 * 86400})
    for event_type in shop.browser.get("/_emulator/triggers").json()["triggers"]:
        shop.browser.post("/_emulator/trigger", json={"event": event_type}).raise_for_status()
    shop.client.v1.billing_portal.sessions.create({"customer": customer.id})
    headers = {"authorization": "Bearer sk_test_key"}
    documents = shop.browser.get("/v1/events", params={"limit": 100}, headers=headers).json()["data"]
    for path in (
        "products",
        "prices",
        "payment_methods",
        "balance_transactions",
        "invoice_payments",
        "webhook_endpoints",
    ):
        documents += shop.browser.get(f"/v1/{path}", headers=headers).json()["data"]
    session = shop.client.v1.checkout.sessions.list({"status": "complete"}).data[0]
    documents.append(
        shop.browser.get(f"/v1/checkout/sessions/{session.id}?expand[]=line_items", headers=headers).json()
    )
    seen = {d["object"] for d in documents} | {
        d["data"]["object"]["object"] for d in documents if d["object"] == "event"
    }
    assert {
        "refund",
        "dispute",
        "charge",
        "invoice",
        "subscription",
        "checkout.session",
        "test_helpers.test_clock",
    } <= seen
    assert problems(documents) == set()


@pytest.mark.parametrize(
    "endpoint", [e for e in ENDPOINTS if (e.method, e.path) in PARAMETERS], ids=lambda e: f"{e.method} {e.path}"
)
def test_every_parameter_is_one_that_stripe_has(endpoint: Any) -> None:
    names = set(PARAMETERS[endpoint.method, endpoint.path].__annotations__)
    assert set(endpoint.fields) - names == set()
