"""Billing's routes: thin, one transaction each; the payment company is asked outside of any."""

import json
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.guard import Once, PlatformAdmin, Reader, TenantAdmin
from wopr.accounts.tenants import get_tenant, list_tenants
from wopr.billing import bodies, inbox, present, statements
from wopr.billing.checkout import Payer, Wish, confirm_checkout, open_portal, start_checkout
from wopr.billing.entitlement import entitlement
from wopr.billing.grants import grant_credit
from wopr.billing.invariants import invariants
from wopr.billing.ledger import balance, balances
from wopr.billing.payments import parse_event
from wopr.billing.prices import load_prices
from wopr.billing.signature import verify
from wopr.billing.usage import running_cost_day
from wopr.core.errors import BadRequest, TooLarge
from wopr.core.ids import TenantId
from wopr.core.money import from_usd, to_usd_string
from wopr.core.routing import PlatformDep

WEBHOOK_BYTES_MAX = 1_000_000
router = APIRouter()
Cursor = Annotated[str | None, Query(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/api/billing", operation_id="billing_get", tags=["billing"])
async def billing(principal: Reader, platform: PlatformDep) -> bodies.BillingBody:
    """Balance, plan, entitlement and thirty days of spending."""
    now, sheet = platform.clock.now(), load_prices(platform.settings.wopr_prices)
    async with platform.db.begin() as session:
        money = await balance(session, principal.tenant_id)
        plan = await statements.plan_of(session, principal.tenant_id)
        state = await entitlement(session, principal.tenant_id, now, sheet.stages)
        spend = await statements.spend_by_day(session, principal.tenant_id, now)
        running = await running_cost_day(session, principal.tenant_id, sheet)
    return bodies.BillingBody(
        balance=present.balance_body(money),
        lasts_days=statements.lasts_days(money, spend, running, now),
        plan=present.plan_body(plan, sheet),
        entitlement=present.entitlement_body(state),
        spend=[present.day_body(day) for day in spend],
        spend_30d_usd=to_usd_string(sum(day.inference + day.runtime for day in spend)),
    )


@router.get("/api/billing/transactions", operation_id="billing_transactions", tags=["billing"])
async def transactions(
    principal: Reader, platform: PlatformDep, cursor: Cursor = None, limit: Limit = 50
) -> bodies.TransactionsBody:
    """Movements of credit, newest first; their sum is the balance."""
    async with platform.db.begin() as session:
        page, following = await statements.list_movements(session, principal.tenant_id, cursor, limit)
    return bodies.TransactionsBody(transactions=[present.transaction_body(m) for m in page], next_cursor=following)


@router.get("/api/billing/prices", operation_id="billing_prices", tags=["billing"])
async def prices(platform: PlatformDep) -> bodies.PricesBody:
    """Every price; needs no sign-in."""
    return present.prices_body(load_prices(platform.settings.wopr_prices))


@router.get("/api/billing/usage", operation_id="billing_usage", tags=["billing"])
async def usage(
    principal: Reader,
    platform: PlatformDep,
    wanted: Annotated[bodies.UsageQuery, Query()],
) -> bodies.UsagePageBody:
    """Metered requests, newest first, with what they cost together."""
    chosen = statements.UsageFilter(wanted.bot_id, wanted.turn_id)
    async with platform.db.begin() as session:
        page, following = await statements.list_usage(session, principal.tenant_id, chosen, wanted.cursor, wanted.limit)
        total = await statements.usage_total(session, principal.tenant_id, chosen)
    rows = [present.usage_body(row) for row in page]
    return bodies.UsagePageBody(usage=rows, total_usd=to_usd_string(total), next_cursor=following)


@router.post("/api/billing/checkout", operation_id="billing_checkout", tags=["billing"])
async def checkout(
    principal: TenantAdmin, platform: PlatformDep, body: bodies.CheckoutBody, once: Once
) -> bodies.AddressBody:
    """A payment page for the subscription or a top-up."""
    payer = Payer(principal.tenant_id, principal.email)

    async def open_page() -> bodies.AddressBody:
        return bodies.AddressBody(
            url=await start_checkout(platform, payer, Wish(body.mode, body.amount_cents, body.return_to))
        )

    return await once.outside(bodies.AddressBody, open_page)


@router.post("/api/billing/checkout/confirm", operation_id="billing_checkout_confirm", tags=["billing"])
async def confirm(principal: TenantAdmin, platform: PlatformDep, body: bodies.ConfirmBody) -> bodies.ConfirmedBody:
    """Look at a payment now: for the page to which the payment page leads back."""
    state = await confirm_checkout(platform, principal.tenant_id, body.session_id)
    async with platform.db.begin() as session:
        money = await balance(session, principal.tenant_id)
    return bodies.ConfirmedBody(state=state, balance=present.balance_body(money))


@router.post("/api/billing/portal", operation_id="billing_portal", tags=["billing"])
async def portal(principal: TenantAdmin, platform: PlatformDep, body: bodies.PortalBody) -> bodies.AddressBody:
    """The payment company's page for cards, invoices and the end of the subscription."""
    payer = Payer(principal.tenant_id, principal.email)
    return bodies.AddressBody(url=await open_portal(platform, payer, body.return_to))


@router.post("/api/billing/webhook", operation_id="billing_webhook", tags=["billing"])
async def webhook(request: Request, platform: PlatformDep) -> bodies.ReceivedBody:
    """Stripe's events: verified over the raw body, stored once, answered; applied by the loop `apply_inbox`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > WEBHOOK_BYTES_MAX:
            raise TooLarge("An event of Stripe is smaller than this.")
    secret = platform.settings.require("stripe_webhook_secret", "The payment webhook")
    now = platform.clock.now()
    verify(body, request.headers.get("stripe-signature"), secret, now)
    try:
        event = parse_event(json.loads(body))
    except (ValueError, AttributeError) as error:
        raise BadRequest("This is not an event of Stripe.", code="bad_event") from error
    async with platform.db.begin() as session:
        await inbox.store(session, [event], now)
    return bodies.ReceivedBody()


@router.get("/api/admin/tenants", operation_id="admin_tenants", tags=["admin"])
async def tenants(
    _admin: PlatformAdmin,
    platform: PlatformDep,
    query: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Cursor = None,
) -> bodies.TenantsBody:
    """Customers, newest first, with their credit."""
    async with platform.db.begin() as session:
        page = await list_tenants(session, query, cursor)
        money = await balances(session, [tenant.id for tenant in page.tenants])
    rows = [present.tenant_body(tenant, money[tenant.id]) for tenant in page.tenants]
    return bodies.TenantsBody(tenants=rows, next_cursor=page.next_cursor)


@router.post("/api/admin/tenants/{tenant_id}/credit", operation_id="admin_tenants_credit", tags=["admin"])
async def credit(_admin: PlatformAdmin, tenant_id: UUID, body: bodies.CreditBody, once: Once) -> bodies.CreditedBody:
    """Grant credit (or take it away), with the reason in the ledger."""
    owner = TenantId(tenant_id)

    async def grant(session: AsyncSession) -> bodies.CreditedBody:
        await get_tenant(session, owner)
        transfer_id = await grant_credit(session, owner, from_usd(body.amount_usd), body.reason)
        money = await balance(session, owner)
        return bodies.CreditedBody(transfer_id=transfer_id, balance=present.balance_body(money))

    return await once.in_transaction(bodies.CreditedBody, grant)


@router.get("/api/admin/inbox", operation_id="admin_inbox", tags=["admin"])
async def events(
    _admin: PlatformAdmin, platform: PlatformDep, state: inbox.State | None = None, cursor: Cursor = None
) -> bodies.InboxBody:
    """Payment events, newest first."""
    async with platform.db.begin() as session:
        page = await inbox.list_events(session, state, cursor)
    rows = [bodies.InboxEventBody.model_validate(event) for event in page.events]
    return bodies.InboxBody(events=rows, next_cursor=page.next_cursor)


@router.post("/api/admin/inbox/{event_id}/retry", operation_id="admin_inbox_retry", tags=["admin"])
async def retry(_admin: PlatformAdmin, platform: PlatformDep, event_id: str) -> bodies.InboxEventBody:
    """Apply a payment event once more."""
    async with platform.db.begin() as session:
        event = await inbox.retry(session, event_id, platform.clock.now())
    return bodies.InboxEventBody.model_validate(event)


@router.get("/api/admin/ledger", operation_id="admin_ledger", tags=["admin"])
async def ledger(_admin: PlatformAdmin, platform: PlatformDep) -> bodies.LedgerBody:
    """Check the ledger's promises now."""
    async with platform.db.begin() as session:
        problems = await invariants(session)
    rows = [bodies.ProblemBody.model_validate(problem) for problem in problems]
    return bodies.LedgerBody(ok=not rows, problems=rows)
