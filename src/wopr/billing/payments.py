"""Stripe's objects as billing understands them, parsed once at the edge from what the API answers.

Shapes of API version 2025-03-31.basil and later (an invoice names its subscription in `parent`, periods stand on the
items), with the places where older versions had the same facts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

# Documents of another company: dictionaries of anything, of which each function takes the fields that it knows.
Document = Mapping[str, Any]
TENANT_KEY = "wopr_tenant"


@dataclass(frozen=True)
class Session:
    """A checkout session; `url` is the address of its page, None when it is no longer open."""

    id: str
    mode: str
    open: bool
    paid: bool
    currency: str
    amount_cents: int
    customer_id: str | None
    tenant_hint: UUID | None
    payment_intent_id: str | None
    subscription_id: str | None
    invoice_id: str | None
    url: str | None


@dataclass(frozen=True)
class Invoice:
    """An invoice of a subscription."""

    id: str
    paid: bool
    currency: str
    amount_cents: int
    customer_id: str | None
    tenant_hint: UUID | None
    payment_intent_id: str | None


@dataclass(frozen=True)
class Subscription:
    """A subscription and when it renews or ends."""

    id: str
    status: str
    customer_id: str | None
    tenant_hint: UUID | None
    renews_at: datetime | None
    cancels_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class TakeBack:
    """A refund or a dispute: money that left, and whether it is (still) gone."""

    id: str
    kind: str
    gone: bool
    currency: str
    amount_cents: int
    payment_intent_id: str | None


@dataclass(frozen=True)
class EventHead:
    """An event: only which object it is about; the object itself is fetched anew."""

    id: str
    type: str
    object_id: str


def parse_event(document: Document) -> EventHead:
    """An event's head; ValueError when the document is none."""
    subject = document.get("data", {}).get("object", {}) if isinstance(document.get("data"), Mapping) else None
    names = (document.get("id"), document.get("type"))
    if not all(isinstance(name, str) and name for name in names) or not isinstance(subject, Mapping):
        raise ValueError("not an event of Stripe")
    object_id = subject.get("id")
    return EventHead(str(names[0]), str(names[1]), object_id if isinstance(object_id, str) else "")


def parse_session(document: Document) -> Session:
    """A checkout session; only `payment_status` paid counts as paid."""
    return Session(
        id=document["id"],
        mode=document["mode"],
        open=document.get("status") == "open",
        paid=document.get("payment_status") == "paid",
        currency=_currency(document),
        amount_cents=int(document.get("amount_total") or 0),
        customer_id=_id(document.get("customer")),
        tenant_hint=_uuid(document.get("client_reference_id")) or _tenant(document),
        payment_intent_id=_id(document.get("payment_intent")),
        subscription_id=_id(document.get("subscription")),
        invoice_id=_id(document.get("invoice")),
        url=_id(document.get("url")),
    )


def parse_invoice(document: Document, payments: Document) -> Invoice:
    """An invoice, with the list of its payments."""
    parent = (document.get("parent") or {}).get("subscription_details") or document.get("subscription_details") or {}
    intents = [(payment.get("payment") or {}).get("payment_intent") for payment in payments.get("data", ())]
    return Invoice(
        id=document["id"],
        paid=document.get("status") == "paid",
        currency=_currency(document),
        amount_cents=int(document.get("amount_paid") or 0),
        customer_id=_id(document.get("customer")),
        tenant_hint=_tenant(parent) or _tenant(document),
        payment_intent_id=next((_id(i) for i in intents if i), None) or _id(document.get("payment_intent")),
    )


def parse_subscription(document: Document) -> Subscription:
    """A subscription; it renews at the end of its first item's period unless it is to end."""
    items = (document.get("items") or {}).get("data") or [{}]
    period_end = items[0].get("current_period_end") or document.get("current_period_end")
    cancels = document.get("cancel_at") or (period_end if document.get("cancel_at_period_end") else None)
    return Subscription(
        id=document["id"],
        status=document["status"],
        customer_id=_id(document.get("customer")),
        tenant_hint=_tenant(document),
        renews_at=None if cancels or document.get("ended_at") else _time(period_end),
        cancels_at=_time(cancels),
        created_at=_time(document["created"]) or datetime.fromtimestamp(0, UTC),
    )


def parse_refund(document: Document) -> TakeBack:
    """A refund; one that failed or was canceled came back to us."""
    return TakeBack(
        id=document["id"],
        kind="refund",
        gone=document.get("status") not in ("failed", "canceled"),
        currency=_currency(document),
        amount_cents=int(document["amount"]),
        payment_intent_id=_id(document.get("payment_intent")),
    )


def parse_dispute(document: Document) -> TakeBack:
    """A dispute; inquiries (`warning_…`) move no money, a won one came back."""
    status = str(document.get("status"))
    return TakeBack(
        id=document["id"],
        kind="dispute",
        gone=status in ("needs_response", "under_review", "lost"),
        currency=_currency(document),
        amount_cents=int(document["amount"]),
        payment_intent_id=_id(document.get("payment_intent")),
    )


def _id(value: object) -> str | None:
    """The id of a reference, which is a string or, when it was expanded, the object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and value else None


def _currency(document: Document) -> str:
    return str(document.get("currency") or "").lower()


def _tenant(document: Document) -> UUID | None:
    metadata = document.get("metadata")
    return _uuid(metadata.get(TENANT_KEY)) if isinstance(metadata, Mapping) else None


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _time(epoch: object) -> datetime | None:
    return datetime.fromtimestamp(epoch, UTC) if isinstance(epoch, int) else None
