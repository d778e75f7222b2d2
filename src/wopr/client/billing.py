"""Billing over HTTP: balance, prices, payments, usage, and the administrator's side of money. Dollars are `Decimal`."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from wopr.client.transport import Answer, Json, Sending, Transport, once_header

ZERO = Decimal(0)
MOVEMENTS = {
    "topup": "Top-up",
    "subscription": "Subscription",
    "inference": "Talking",
    "runtime": "Running bots",
    "grant": "Credit from WOPR",
    "refund": "Refund",
    "dispute": "Disputed payment",
}
"""The kinds of movements, as a customer calls them."""
STAGES_TAKEN = {"suspended": 1, "archived": 2, "deleted": 3}
"""How many of the announced steps (stop, archive, delete) lie behind a tenant in that state."""


class Balance(Answer):
    """Credit in dollars: free to spend, held by running requests, and owed."""

    available_usd: Decimal
    held_usd: Decimal = ZERO
    debt_usd: Decimal = ZERO

    @property
    def total_usd(self) -> Decimal:
        """What the customer has: also what is set aside for running requests, most of which comes back."""
        return self.available_usd + self.held_usd


class Plan(Answer):
    """The subscription: status none, active, past_due or canceled."""

    status: str = "none"
    price_usd: Decimal | None = None
    renews_at: datetime | None = None
    cancels_at: datetime | None = None


class Entitlement(Answer):
    """What the account may do, and the date of each next step when credit is out."""

    state: str = "active"
    warn_since: datetime | None = None
    suspends_at: datetime | None = None
    archives_at: datetime | None = None
    deletes_at: datetime | None = None

    def steps_ahead(self, now: datetime) -> list[tuple[str, datetime]]:
        """What happens next without a payment, and when: suspends, archives, deletes; what happened is left out."""
        steps = (("suspends", self.suspends_at), ("archives", self.archives_at), ("deletes", self.deletes_at))
        taken = STAGES_TAKEN.get(self.state, 0)
        return [(name, at) for name, at in steps[taken:] if at is not None and at > now]


class DaySpend(Answer):
    """What one day cost, in dollars."""

    date: date
    inference_usd: Decimal = ZERO
    runtime_usd: Decimal = ZERO

    @property
    def total_usd(self) -> Decimal:
        """Both kinds together."""
        return self.inference_usd + self.runtime_usd


class Billing(Answer):
    """The whole state of an account's money."""

    balance: Balance
    lasts_days: float | None = None
    plan: Plan = Plan()
    entitlement: Entitlement = Entitlement()
    spend: tuple[DaySpend, ...] = ()
    spend_30d_usd: Decimal = ZERO

    @property
    def may_begin(self) -> bool:
        """Whether new work may begin: a bot made or started, something said."""
        return self.entitlement.state == "active"

    @property
    def runs_out_in_days(self) -> float | None:
        """When credit ends at the present pace; None while it doesn't, or when an active plan renews it."""
        renewed = self.plan.status == "active" and self.plan.cancels_at is None
        return None if renewed or self.balance.total_usd <= 0 else self.lasts_days


class Transaction(Answer):
    """One movement of credit; the amount is signed."""

    id: str
    created_at: datetime
    kind: str
    description: str | None = None
    amount_usd: Decimal

    @property
    def label(self) -> str:
        """What kind of movement it is, in words."""
        return MOVEMENTS.get(self.kind, self.kind.replace("_", " ").capitalize())

    @property
    def note(self) -> str:
        """What the description says beyond the label; empty when it says the same."""
        told = self.description or ""
        return "" if _letters(told) == _letters(self.label) else told


class Transactions(Answer):
    """A page of movements, newest first."""

    transactions: list[Transaction]
    next_cursor: str | None = None


class Usage(Answer):
    """One metered request: what it used, where it ran and what it cost."""

    request_id: str
    kind: str
    model: str
    cost_usd: Decimal
    bot_id: str | None = None
    turn_id: str | None = None
    node_id: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    units: int | float = 0
    status: str = "ok"
    started_at: datetime | None = None
    duration_ms: float | None = None
    first_token_ms: float | None = None


class UsagePage(Answer):
    """A page of metered requests, newest first."""

    usage: list[Usage]
    total_usd: Decimal | None = None
    next_cursor: str | None = None


class Redirect(Answer):
    """Where the person continues, on Stripe's pages."""

    url: str


class Confirmed(Answer):
    """A checkout as the inbox knows it: state pending, applied, failed or unmatched."""

    state: str
    balance: Balance


class AdminTenant(Answer):
    """A customer as the operator sees it."""

    id: str
    name: str | None = None
    owner_email: str | None = None
    created_at: datetime | None = None
    suspended: bool = False
    available_usd: Decimal = ZERO


class AdminTenants(Answer):
    """A page of customers."""

    tenants: list[AdminTenant]
    next_cursor: str | None = None


class InboxEvent(Answer):
    """A payment event as received: state pending, applied, failed or unmatched."""

    id: str
    type: str
    state: str
    attempts: int = 0
    last_error: str | None = None
    received_at: datetime | None = None
    applied_at: datetime | None = None

    @property
    def outcome(self) -> str:
        """The state for people: an event of a kind that we never act on is done without a try, and was `ignored`."""
        return "ignored" if self.state == "applied" and self.attempts == 0 else self.state


class Inbox(Answer):
    """Payment events, newest first."""

    events: list[InboxEvent]
    next_cursor: str | None = None


class LedgerCheck(Answer):
    """Whether the ledger's sums agree, and where they don't."""

    ok: bool
    problems: tuple[Any, ...] = ()  # Any: shown as text


class BillingApi:
    """Routes under /api/billing, and those of /api/admin about money."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def summary(self) -> Billing:
        """Balance, plan, entitlement and 30 days of spend."""
        return await self._transport.get("/api/billing", Billing)

    async def transactions(self, cursor: str | None = None, limit: int | None = None) -> Transactions:
        """Movements of credit, newest first."""
        return await self._transport.get("/api/billing/transactions", Transactions, cursor=cursor, limit=limit)

    async def prices(self) -> Json:
        """The public price sheet as JSON."""
        answer = await self._transport.request("GET", "/api/billing/prices")
        sheet: Json = answer.json()
        return sheet

    async def usage(
        self,
        bot_id: str | None = None,
        turn_id: str | None = None,
        *,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> UsagePage:
        """Metered requests, newest first, of the tenant, of one bot or of one turn."""
        params = {"bot_id": bot_id, "turn_id": turn_id, "cursor": cursor, "limit": limit}
        return await self._transport.get("/api/billing/usage", UsagePage, **params)

    async def checkout(
        self, mode: str, amount_cents: int | None = None, return_to: str | None = None, *, once: str | None = None
    ) -> str:
        """Address of the payment page; mode subscription, or payment with an amount.

        Without `once` the same wish leads to the page that can still be paid; with it, to the same page for a day.
        """
        body: dict[str, object] = {"mode": mode}
        if amount_cents is not None:
            body["amount_cents"] = amount_cents
        if return_to is not None:
            body["return_to"] = return_to
        return (await self._transport.post("/api/billing/checkout", Redirect, body, once=once)).url

    async def confirm(self, session_id: str) -> Confirmed:
        """Apply a finished checkout now rather than when its event comes; harmless to repeat."""
        return await self._transport.post("/api/billing/checkout/confirm", Confirmed, {"session_id": session_id})

    async def portal(self, return_to: str | None = None) -> str:
        """Address of the page where the person manages subscription and cards."""
        body = {"return_to": return_to} if return_to else {}
        return (await self._transport.post("/api/billing/portal", Redirect, body)).url

    async def admin_tenants(self, query: str | None = None, cursor: str | None = None) -> AdminTenants:
        """Customers, for administrators."""
        return await self._transport.get("/api/admin/tenants", AdminTenants, query=query, cursor=cursor)

    async def admin_credit(self, tenant_id: str, amount_usd: Decimal, reason: str, *, once: str | None = None) -> None:
        """Grant credit to a customer, with the reason that stands in the ledger; with the same `once` one time."""
        sending = Sending(json={"amount_usd": format(amount_usd, "f"), "reason": reason}, headers=once_header(once))
        await self._transport.request("POST", f"/api/admin/tenants/{tenant_id}/credit", sending)

    async def admin_inbox(self, state: str | None = None, cursor: str | None = None) -> Inbox:
        """Payment events, for administrators."""
        return await self._transport.get("/api/admin/inbox", Inbox, state=state, cursor=cursor)

    async def admin_retry(self, event_id: str) -> None:
        """Apply a payment event again."""
        await self._transport.request("POST", f"/api/admin/inbox/{event_id}/retry", Sending(json={}))

    async def admin_ledger(self) -> LedgerCheck:
        """The ledger's invariants, checked now."""
        return await self._transport.get("/api/admin/ledger", LedgerCheck)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())
