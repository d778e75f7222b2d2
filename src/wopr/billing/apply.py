"""Turn Stripe's events into credit: fetch the object anew, then effect and mark in one transaction.

Because only the present state of the object counts, events may come in any order and any number of times. A refund
brings its payment along, so it can't be too early. What belongs to nobody is reported as unmatched, never dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.tenants import get_tenant
from wopr.billing import inbox
from wopr.billing.grants import Payment, Reversal, grant_payment, reverse_payment
from wopr.billing.payments import EventHead, Invoice, Session, Subscription, TakeBack
from wopr.billing.prices import PlanPrice, load_prices
from wopr.billing.stripe import StripeApi, connect
from wopr.core.errors import Conflict, NotConfigured, NotFound, Unavailable, UpstreamFailed, WoprError
from wopr.core.ids import TenantId, new_id
from wopr.core.money import from_cents
from wopr.core.platform import Platform

BATCH = 50
CURRENCY = "usd"

log = structlog.get_logger(__name__)


class Unmatched(NotFound):
    """A payment whose customer can't be found."""

    default_code = "unmatched"


class Refused(Conflict):
    """A payment that we can't take as credit, however often it is tried."""

    default_code = "refused"


@dataclass(frozen=True)
class Facts:
    """What Stripe says now about the objects that an event concerns."""

    sessions: list[Session] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)
    invoices: list[Invoice] = field(default_factory=list)
    takebacks: list[TakeBack] = field(default_factory=list)


async def apply_due(platform: Platform) -> Mapping[str, int]:
    """Apply the events whose turn it is, until there are none."""
    counts = {"applied": 0, "failed": 0, "unmatched": 0}
    events = await _due(platform)
    if not events:
        return counts
    async with connect(platform.settings) as api:
        while events:
            for event in events:
                state = await apply_event(platform, api, event)
                counts["failed" if state == "pending" else state] += 1
            events = await _due(platform)
    return counts


async def apply_event(platform: Platform, api: StripeApi, event: EventHead) -> inbox.State:
    """Apply one event; the state in which it is now (`pending`: failed, and tried again later)."""
    try:
        facts = await gather(api, event)
        async with platform.db.begin() as session:
            if await inbox.mark_applied(session, event.id, platform.clock.now()):
                await record(session, facts, load_prices(platform.settings.wopr_prices).plan)
    except Unmatched as error:
        return await _fail(platform, event, "unmatched", error)
    except Refused as error:
        return await _fail(platform, event, "failed", error)
    except (UpstreamFailed, Unavailable, NotConfigured, OperationalError, InterfaceError) as error:
        return await _fail(platform, event, "pending", error, outage=True)
    except (WoprError, SQLAlchemyError, KeyError, TypeError, ValueError) as error:
        # Whatever is wrong with one event must not keep the others waiting.
        return await _fail(platform, event, "pending", error)
    return "applied"


async def gather(api: StripeApi, event: EventHead) -> Facts:
    """Everything that the event's object says now."""
    kind, subject = event.type, event.object_id
    if kind.startswith("checkout.session."):
        return await _about_session(api, await api.session(subject))
    if kind.startswith("invoice."):
        return Facts(invoices=[await api.invoice(subject)])
    if kind.startswith("customer.subscription."):
        return Facts(subscriptions=[await api.subscription(subject)])
    if kind == "charge.refunded":
        return await _about_takebacks(api, await api.refunds_of(subject))
    if kind.startswith(("refund.", "charge.refund.")):
        return await _about_takebacks(api, [await api.refund(subject)])
    if kind.startswith("charge.dispute."):
        return await _about_takebacks(api, [await api.dispute(subject)])
    return Facts()


async def record(session: AsyncSession, facts: Facts, plan: PlanPrice) -> None:
    """Bring our side to what is true. Unmatched or Refused roll everything back."""
    for paid in facts.sessions:
        await _record_session(session, paid)
    for subscription in facts.subscriptions:
        await _record_subscription(session, subscription)
    for invoice in facts.invoices:
        await _record_invoice(session, invoice, plan)
    for takeback in facts.takebacks:
        await _record_takeback(session, takeback)


async def _due(platform: Platform) -> list[EventHead]:
    async with platform.db.begin() as session:
        return await inbox.due(session, platform.clock.now(), BATCH)


async def _about_session(api: StripeApi, session: Session) -> Facts:
    subscription = [await api.subscription(session.subscription_id)] if session.subscription_id else []
    invoices = [await api.invoice(session.invoice_id)] if session.invoice_id else []
    return Facts(sessions=[session], subscriptions=subscription, invoices=invoices)


async def _about_takebacks(api: StripeApi, takebacks: list[TakeBack]) -> Facts:
    intents = {takeback.payment_intent_id for takeback in takebacks if takeback.payment_intent_id}
    facts = Facts(takebacks=takebacks)
    for intent in sorted(intents):
        if (session := await api.session_of(intent)) is not None:
            facts.sessions.append(session)
        elif (invoice := await api.invoice_of(intent)) is not None:
            facts.invoices.append(invoice)
    return facts


async def _record_session(session: AsyncSession, found: Session) -> None:
    owner = await _owner(session, found.customer_id, found.tenant_hint, found.id)
    if found.paid:
        await session.execute(
            text("UPDATE stripe_checkouts SET paid_at = now() WHERE session_id = :session AND paid_at IS NULL"),
            {"session": found.id},
        )
    if found.mode != "payment" or not found.paid or found.amount_cents <= 0:
        return
    _require_dollars(found.currency, found.id)
    payment_id = found.payment_intent_id or found.id
    granted = from_cents(found.amount_cents)
    await grant_payment(
        session, Payment(payment_id, owner, "topup", found.payment_intent_id, found.amount_cents, granted)
    )


async def _record_invoice(session: AsyncSession, found: Invoice, plan: PlanPrice) -> None:
    owner = await _owner(session, found.customer_id, found.tenant_hint, None)
    if not found.paid or found.amount_cents <= 0:
        return
    _require_dollars(found.currency, found.id)
    # A discount lowers the credit, a tax does not raise it.
    granted = min(plan.credit, from_cents(found.amount_cents))
    await grant_payment(
        session, Payment(found.id, owner, "subscription", found.payment_intent_id, found.amount_cents, granted)
    )


async def _record_subscription(session: AsyncSession, found: Subscription) -> None:
    owner = await _owner(session, found.customer_id, found.tenant_hint, None)
    await session.execute(
        text(
            "INSERT INTO stripe_subscriptions (id, tenant_id, status, renews_at, cancels_at, created_at) "
            "VALUES (:id, :tenant, :status, :renews, :cancels, :created) ON CONFLICT (id) DO UPDATE SET "
            "status = :status, renews_at = :renews, cancels_at = :cancels, updated_at = now()"
        ),
        {
            "id": found.id,
            "tenant": owner,
            "status": found.status,
            "renews": found.renews_at,
            "cancels": found.cancels_at,
            "created": found.created_at,
        },
    )


async def _record_takeback(session: AsyncSession, found: TakeBack) -> None:
    payment = (
        await session.execute(
            text(
                "SELECT id, tenant_id, paid_cents, granted FROM stripe_payments WHERE payment_intent_id = :intent "
                "FOR UPDATE"
            ),
            {"intent": found.payment_intent_id},
        )
    ).one_or_none()
    if payment is None:
        raise Unmatched(
            f"The {found.kind} {found.id} is of the payment {found.payment_intent_id}, which granted no credit here.",
            remedy="If it was a customer's payment, see the event of that payment first.",
        )
    _require_dollars(found.currency, found.id)
    # The share of the credit that is the share of the money: a tax in the payment took no credit.
    share = payment.granted * found.amount_cents // payment.paid_cents
    amount = min(share, payment.granted - await _taken_by_others(session, payment.id, found.id))
    if amount <= 0:
        return
    reversal = Reversal(found.id, found.kind, TenantId(payment.tenant_id), amount, found.gone)
    if await reverse_payment(session, reversal):
        await session.execute(
            text(
                "INSERT INTO stripe_takebacks (id, payment_id, taken) VALUES (:id, :payment, :taken) "
                "ON CONFLICT (id) DO UPDATE SET taken = :taken"
            ),
            {"id": found.id, "payment": payment.id, "taken": amount if found.gone else 0},
        )


async def _taken_by_others(session: AsyncSession, payment_id: str, own_id: str) -> int:
    """What other refunds and disputes of the payment took: a refund and a lost dispute must not take it twice."""
    taken = await session.scalar(
        text("SELECT coalesce(sum(taken), 0)::bigint FROM stripe_takebacks WHERE payment_id = :payment AND id <> :own"),
        {"payment": payment_id, "own": own_id},
    )
    return int(taken or 0)


async def _owner(session: AsyncSession, customer_id: str | None, hint: UUID | None, session_id: str | None) -> TenantId:
    """Whose payment it is: by the page that we made, by the reference we gave it, by the customer. Else Unmatched."""
    known = await session.scalar(
        text("SELECT tenant_id FROM stripe_checkouts WHERE session_id = :session"), {"session": session_id}
    )
    if known is None and hint is not None and await _exists(session, hint):
        known = hint
    if known is None:
        known = await session.scalar(
            text("SELECT tenant_id FROM stripe_customers WHERE customer_id = :customer"), {"customer": customer_id}
        )
    if known is None:
        raise Unmatched(
            f"No customer of ours belongs to {session_id or customer_id or 'this payment'}.",
            remedy="Find out whose payment it is, then grant the credit by hand or refund it.",
        )
    if customer_id is not None:
        await session.execute(
            text(
                "INSERT INTO stripe_customers (tenant_id, idempotency_key, email, customer_id) "
                "VALUES (:tenant, :key, '', :customer) ON CONFLICT DO NOTHING"
            ),
            {"tenant": known, "key": new_id(), "customer": customer_id},
        )
    return TenantId(known)


async def _exists(session: AsyncSession, tenant_id: UUID) -> bool:
    try:
        await get_tenant(session, tenant_id)
    except NotFound:
        return False
    return True


def _require_dollars(currency: str, subject: str) -> None:
    if currency != CURRENCY:
        raise Refused(
            f"{subject} was paid in {currency or 'no currency'}, and credit is in {CURRENCY}.",
            remedy="Refund it at Stripe, or grant the credit by hand.",
        )


async def _fail(
    platform: Platform, event: EventHead, state: inbox.State, error: Exception, *, outage: bool = False
) -> inbox.State:
    reason = error.message if isinstance(error, WoprError) else f"{type(error).__name__}: {error}"
    log.warning("inbox.event_failed", event_id=event.id, type=event.type, state=state, reason=reason)
    async with platform.db.begin() as session:
        await inbox.mark_failed(session, event.id, inbox.Failure(state, reason, outage), platform.clock.now())
    return state
