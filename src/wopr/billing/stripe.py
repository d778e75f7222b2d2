"""The one door to Stripe: the official library, asynchronous, with our types on this side.

The library takes half a second to import and is therefore loaded when a payment is the matter, not before.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from wopr.billing import payments
from wopr.billing.payments import TENANT_KEY, EventHead, Invoice, Session, Subscription, TakeBack
from wopr.core.errors import NotConfigured, NotFound, UpstreamFailed
from wopr.core.settings import Settings

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.params import EventListParams
    from stripe.params.checkout import SessionCreateParams

TIMEOUT_SECONDS = 20.0
RETRIES_MAX = 2
PAGE = 100
PAGES_MAX = 10
RETRY_AFTER_SECONDS = 30.0


@dataclass(frozen=True)
class CheckoutOrder:
    """A payment page to be made. `key` is stored before and makes a second try with the same customer the same page.

    `expires_at` (30 minutes to 24 hours from now) must be the same each time, too, or Stripe refuses the key.
    """

    key: UUID
    tenant_id: UUID
    customer_id: str
    expires_at: datetime
    success_url: str
    cancel_url: str
    price_id: str = ""
    amount_cents: int = 0


@dataclass(frozen=True)
class Price:
    """What a customer pays, and how often: `every` is empty for a single payment, else like `1 month`."""

    cents: int | None
    currency: str
    every: str
    active: bool
    live: bool


@dataclass(frozen=True)
class HookEndpoint:
    """An address that gets events; `events` holds `*` where it gets all."""

    url: str
    enabled: bool
    events: frozenset[str]

    def gets(self, event: str) -> bool:
        return event in self.events or "*" in self.events


class StripeApi:
    """What billing asks of Stripe. Every method may raise UpstreamFailed (try again), NotFound, NotConfigured."""

    def __init__(self, client: StripeClient) -> None:
        self._client = client.v1

    async def create_customer(self, tenant_id: UUID, email: str, key: UUID) -> str:
        """A customer for a tenant; the id. The same key makes it once."""
        made = await _ask(
            self._client.customers.create_async(
                {"email": email, "metadata": {TENANT_KEY: str(tenant_id)}}, {"idempotency_key": f"customer-{key}"}
            )
        )
        return str(made["id"])

    async def create_checkout(self, order: CheckoutOrder) -> tuple[str, str]:
        """A checkout session; its id and the address of its page."""
        once = f"checkout-{order.key}-{order.customer_id}"
        made = await _ask(self._client.checkout.sessions.create_async(_session(order), {"idempotency_key": once}))
        return str(made["id"]), str(made["url"])

    async def create_portal(self, customer_id: str, return_url: str) -> str:
        """The address of the customer's portal page."""
        made = await _ask(
            self._client.billing_portal.sessions.create_async({"customer": customer_id, "return_url": return_url})
        )
        return str(made["url"])

    async def session(self, session_id: str) -> Session:
        """A checkout session as it is now."""
        return payments.parse_session(await _ask(self._client.checkout.sessions.retrieve_async(session_id)))

    async def invoice(self, invoice_id: str) -> Invoice:
        """An invoice as it is now, with the payment that paid it."""
        found = await _ask(self._client.invoices.retrieve_async(invoice_id))
        paid = await _ask(self._client.invoice_payments.list_async({"invoice": invoice_id, "status": "paid"}))
        return payments.parse_invoice(found, paid)

    async def subscription(self, subscription_id: str) -> Subscription:
        """A subscription as it is now."""
        return payments.parse_subscription(await _ask(self._client.subscriptions.retrieve_async(subscription_id)))

    async def refund(self, refund_id: str) -> TakeBack:
        """A refund as it is now."""
        return payments.parse_refund(await _ask(self._client.refunds.retrieve_async(refund_id)))

    async def refunds_of(self, charge_id: str) -> list[TakeBack]:
        """Every refund of a charge (at most a page: Stripe allows fewer)."""
        found = await _ask(self._client.refunds.list_async({"charge": charge_id, "limit": PAGE}))
        return [payments.parse_refund(item) for item in found["data"]]

    async def dispute(self, dispute_id: str) -> TakeBack:
        """A dispute as it is now."""
        return payments.parse_dispute(await _ask(self._client.disputes.retrieve_async(dispute_id)))

    async def session_of(self, payment_intent_id: str) -> Session | None:
        """The checkout session that made a payment; None when none did."""
        found = await _ask(self._client.checkout.sessions.list_async({"payment_intent": payment_intent_id, "limit": 1}))
        return payments.parse_session(found["data"][0]) if found["data"] else None

    async def invoice_of(self, payment_intent_id: str) -> Invoice | None:
        """The invoice that a payment paid; None when it paid none."""
        found = await _ask(
            self._client.invoice_payments.list_async(
                {"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}, "limit": 1}
            )
        )
        return await self.invoice(str(found["data"][0]["invoice"])) if found["data"] else None

    async def events_since(self, since: datetime, types: list[str]) -> list[EventHead]:
        """The events of these types (at most 20) since then, newest first, at most PAGES_MAX pages."""
        heads: list[EventHead] = []
        for _ in range(PAGES_MAX):
            wanted: EventListParams = {"types": types, "limit": PAGE, "created": {"gte": int(since.timestamp())}}
            if heads:
                wanted["starting_after"] = heads[-1].id
            found = await _ask(self._client.events.list_async(wanted))
            heads += [payments.parse_event(item) for item in found["data"]]
            if not found["has_more"]:
                break
        return heads

    async def price(self, price_id: str) -> Price:
        """A price of the account."""
        found = await _ask(self._client.prices.retrieve_async(price_id))
        every = found.get("recurring") or {}
        return Price(
            cents=found["unit_amount"],
            currency=found["currency"],
            every=f"{every['interval_count']} {every['interval']}" if every else "",
            active=bool(found["active"]),
            live=bool(found["livemode"]),
        )

    async def endpoints(self) -> list[HookEndpoint]:
        """Where the account sends its events; at most PAGE of them."""
        found = await _ask(self._client.webhook_endpoints.list_async({"limit": PAGE}))
        return [
            HookEndpoint(str(one["url"]), one["status"] == "enabled", frozenset(one["enabled_events"]))
            for one in found["data"]
        ]


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[StripeApi]:
    """Stripe's API for one piece of work; NotConfigured without STRIPE_SECRET_KEY."""
    key = settings.require("stripe_secret_key", "Payment")
    await asyncio.to_thread(_load)
    import aiohttp
    import stripe

    http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))
    client = stripe.StripeClient(
        key,
        base_addresses={"api": settings.stripe_api_base.rstrip("/")},
        max_network_retries=RETRIES_MAX,
        http_client=http,
    )
    try:
        yield StripeApi(client)
    finally:
        await http.close_async()  # type: ignore[no-untyped-call]


def _load() -> None:
    """Import the library in a thread: half a second in which the event loop would stand still."""
    importlib.import_module("stripe")


async def _ask(call: Awaitable[Any]) -> dict[str, Any]:
    """The answer as plain data; the library's errors become ours, by who must act."""
    import stripe

    try:
        answer = await call
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise NotConfigured(
            f"Stripe refuses our key: {error.user_message or error}", remedy="Correct STRIPE_SECRET_KEY."
        ) from error
    except stripe.InvalidRequestError as error:
        if error.code == "resource_missing" or error.http_status == 404:
            raise NotFound(f"Stripe does not know this: {error.user_message or error}") from error
        raise UpstreamFailed(
            f"Stripe refused the request: {error.user_message or error}",
            remedy="See the message; Stripe's logs have more.",
        ) from error
    except stripe.StripeError as error:
        raise UpstreamFailed(
            f"Stripe could not be reached or failed: {error.user_message or error}",
            remedy="Try again in a minute.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        ) from error
    plain: dict[str, Any] = answer.to_dict()
    return plain


def _session(order: CheckoutOrder) -> SessionCreateParams:
    tenant = {TENANT_KEY: str(order.tenant_id)}
    params: SessionCreateParams = {
        "customer": order.customer_id,
        "client_reference_id": str(order.tenant_id),
        "metadata": tenant,
        "success_url": order.success_url,
        "cancel_url": order.cancel_url,
        "expires_at": int(order.expires_at.timestamp()),
    }
    if order.price_id:
        return params | {
            "mode": "subscription",
            "line_items": [{"price": order.price_id, "quantity": 1}],
            "subscription_data": {"metadata": tenant},
        }
    return params | {
        "mode": "payment",
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": "usd",
                    "unit_amount": order.amount_cents,
                    "product_data": {"name": "WOPR credit"},
                },
            }
        ],
        "payment_intent_data": {"metadata": tenant},
    }
