"""The stand-in's world: its documents, its time, and the events that every change leaves behind.

All changes go through here, so that each is stored together with its event and the deliveries of that event.
"""

import json
import secrets
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from wopr.emulators.documents import Document, Documents, Query
from wopr.emulators.stripe.blank import blank
from wopr.emulators.stripe.errors import no_such
from wopr.emulators.stripe.settings import API_VERSION, StripeSettings

_ALPHABET = string.ascii_letters + string.digits
_OFFSET = "clock_offset_seconds"


@dataclass(frozen=True)
class Origin:
    """The request that causes changes; both are None for what happens by itself."""

    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass
class World:
    """One account's objects. `origin` is the request being answered, `held_at` the moment being played by the clock."""

    documents: Documents
    settings: StripeSettings
    origin: Origin = Origin()
    held_at: int | None = None
    base_url: str = ""
    emitted: list[Document] = field(default_factory=list)

    def now(self, customer_id: str | None = None) -> int:
        """Epoch seconds: the moment being played, else the customer's test clock, else the world's own clock."""
        if self.held_at is not None:
            return self.held_at
        customer = self.documents.get(customer_id, "customer") if customer_id else None
        clock = self.documents.get(customer["test_clock"]) if customer and customer.get("test_clock") else None
        return int(clock["frozen_time"]) if clock else int(time.time()) + self.offset()

    def offset(self) -> int:
        """Seconds by which the world's clock is ahead of the machine's."""
        return int(self.documents.note(_OFFSET, "0"))

    def set_offset(self, seconds: int) -> None:
        """Put the world's clock ahead of the machine's."""
        self.documents.set_note(_OFFSET, str(seconds))

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        """Everything inside happens at this moment."""
        before, self.held_at = self.held_at, moment
        try:
            yield
        finally:
            self.held_at = before

    def new(self, kind: str, prefix: str, **fields: object) -> Document:
        """A new object with an id of its own, not stored yet."""
        customer = fields.get("customer")
        made = {"id": new_id(prefix), "created": self.now(customer if isinstance(customer, str) else None)}
        return blank(kind, **(made | fields))

    def save(self, document: Document) -> Document:
        """Store an object's present state."""
        return self.documents.put(document)

    def load(self, kind: str, document_id: str, param: str = "id", status: int = 404) -> Document:
        """The object, or Stripe's refusal that names the parameter."""
        document = self.documents.get(document_id, kind)
        if document is None:
            raise no_such(kind, document_id, param, status)
        return document

    def first(self, kind: str, **where: str | int | bool | None) -> Document | None:
        """The newest object of a kind with these fields; `__` stands for a dot."""
        found = self.documents.select(Query(kind, {k.replace("__", "."): v for k, v in where.items()}, limit=1))
        return found[0] if found else None

    def emit(self, event_type: str, document: Document, before: Document | None = None) -> Document:
        """Record an event about the object as it is now, and a delivery for every endpoint that wants it."""
        data: Document = {"object": public(document)}
        if before is not None:
            data["previous_attributes"] = _difference(public(before), data["object"])
        endpoints = [e for e in self._endpoints() if {"*", event_type} & set(e["enabled_events"])]
        customer_id = document["id"] if document["object"] == "customer" else document.get("customer")
        event = blank(
            "event",
            id=new_id("evt_1"),
            api_version=API_VERSION,
            created=self.now(customer_id if isinstance(customer_id, str) else None),
            data=data,
            pending_webhooks=len(endpoints),
            request={"id": self.origin.request_id, "idempotency_key": self.origin.idempotency_key},
            type=event_type,
        )
        self.save(event)
        self.emitted.append(event)
        for endpoint in endpoints:
            self.save(_delivery(event, endpoint))
        return event

    def _endpoints(self) -> list[Document]:
        return self.documents.select(Query("webhook_endpoint", {"status": "enabled"}, oldest_first=True))


def new_id(prefix: str) -> str:
    """An id that looks like Stripe's."""
    return f"{prefix}{'' if prefix[-1] in '13' else '_'}{''.join(secrets.choice(_ALPHABET) for _ in range(24))}"


def public(document: Document) -> Document:
    """What others may see of a document: everything but the stand-in's own notes, as a copy."""
    copy: Document = json.loads(json.dumps({k: v for k, v in document.items() if not k.startswith("_")}))
    return copy


def _difference(before: Document, after: Document) -> Document:
    return {name: value for name, value in before.items() if after.get(name) != value}


def _delivery(event: Document, endpoint: Document) -> Document:
    return {
        "id": new_id("dlv"),
        "object": "_delivery",
        "event": event["id"],
        "type": event["type"],
        "endpoint": endpoint["id"],
        "url": endpoint["url"],
        "state": "pending",
        "attempts": 0,
        "due_at": time.time(),
        "last_status": None,
        "last_error": None,
    }
