"""Payment pages: a customer at Stripe for the tenant, a checkout session, the portal.

What is asked of Stripe is stored first, with its idempotency key, so that a crash or a second click between the two
makes nothing twice. No transaction is open while Stripe answers.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import quote
from uuid import UUID

from sqlalchemy import text

from wopr.accounts.limits import Rule, take
from wopr.billing import inbox
from wopr.billing.apply import apply_event
from wopr.billing.payments import EventHead, Session
from wopr.billing.prices import load_prices
from wopr.billing.stripe import CheckoutOrder, StripeApi, connect
from wopr.core.errors import Conflict, Invalid, NotFound, UpstreamFailed
from wopr.core.ids import TenantId, new_id
from wopr.core.money import from_cents, show_price
from wopr.core.platform import Platform

# A page lives an hour; a wish whose page was never confirmed is repeated while Stripe still takes its end (30 minutes).
PAGE_LIFE = timedelta(hours=1)
PAGE_LIFE_MIN = timedelta(minutes=32)
CONFIRM_BY_TENANT = Rule("checkout-confirm:tenant", burst=30, refill_seconds=2)
LATEST_PAGE = text(
    "SELECT id, session_id, return_to, created_at FROM stripe_checkouts WHERE tenant_id = :tenant AND mode = :mode "
    "AND amount_cents IS NOT DISTINCT FROM :cents AND paid_at IS NULL AND created_at > :alive "
    "AND (mode = 'subscription' OR return_to IS NOT DISTINCT FROM :back) "
    "AND (session_id IS NOT NULL OR created_at > :young) ORDER BY created_at DESC LIMIT 1"
)
RUNNING = ("active", "trialing", "past_due", "unpaid", "paused")
T = TypeVar("T")


@dataclass(frozen=True)
class Payer:
    """Who pays: the tenant, and the address for Stripe's receipts."""

    tenant_id: TenantId
    email: str


@dataclass(frozen=True)
class Wish:
    """What to pay: `subscription`, or `payment` of one of the top-ups. `return_to` is a path of the UI."""

    mode: str
    amount_cents: int | None = None
    return_to: str | None = None


async def start_checkout(platform: Platform, payer: Payer, wish: Wish) -> str:
    """The address of a payment page. Invalid for an amount that is not sold, Conflict for a second subscription.

    The same wish leads to the same page while that can still be paid: two tabs are no two subscriptions.
    """
    settings = platform.settings
    price_id = ""
    if wish.mode == "subscription":
        if wish.amount_cents is not None:
            raise Invalid("The plan has one price.", code="amount", remedy="Leave amount_cents out.")
        price_id = settings.require("stripe_default_price_id", "The subscription")
        await _refuse_second_subscription(platform, payer.tenant_id)
    else:
        _require_offered(wish.amount_cents, load_prices(settings.wopr_prices).topups_cents)
    _path(wish.return_to)
    async with connect(settings) as api:
        page = await _page(platform, payer.tenant_id, wish)
        if page.session_id is not None:
            known = await _session(api, page.session_id)
            if known is not None and known.open and known.url is not None:
                return known.url
            if known is not None and known.paid and wish.mode == "subscription":
                raise _subscribed()  # paid a moment ago; its event is on the way
            page = await _page(platform, payer.tenant_id, wish, instead_of=page.id)
        success, cancel = _addresses(settings.ui_url, page.return_to)

        async def make(customer_id: str) -> tuple[str, str]:
            order = CheckoutOrder(
                key=page.id,
                tenant_id=payer.tenant_id,
                customer_id=customer_id,
                expires_at=page.created_at + PAGE_LIFE,
                success_url=success,
                cancel_url=cancel,
                price_id=price_id,
                amount_cents=wish.amount_cents or 0,
            )
            return await api.create_checkout(order)

        session_id, url = await _with_customer(platform, api, payer, make)
    async with platform.db.begin() as session:
        await session.execute(
            text("UPDATE stripe_checkouts SET session_id = :session WHERE id = :id"),
            {"session": session_id, "id": page.id},
        )
    return url


async def open_portal(platform: Platform, payer: Payer, return_to: str | None) -> str:
    """The address of Stripe's page for cards, invoices and the end of the subscription."""
    back = platform.settings.ui_url.rstrip("/") + _path(return_to)
    async with connect(platform.settings) as api:
        return await _with_customer(platform, api, payer, lambda customer_id: api.create_portal(customer_id, back))


async def confirm_checkout(platform: Platform, tenant_id: TenantId, session_id: str) -> inbox.State:
    """Look at a payment now instead of waiting for its event: `pending` while it is not paid.

    NotFound for a page of somebody else. When Stripe does not answer, the inbox tries again later.
    """
    event = EventHead(f"return:{session_id}", "checkout.session.completed", session_id)
    async with platform.db.begin() as session:
        page = (
            await session.execute(
                text("SELECT tenant_id, paid_at FROM stripe_checkouts WHERE session_id = :session"),
                {"session": session_id},
            )
        ).one_or_none()
    if page is None or page.tenant_id != tenant_id:
        raise NotFound("There is no such payment.", remedy="See the transactions under Billing.")
    if page.paid_at is not None:
        return "applied"
    await take(platform.db, CONFIRM_BY_TENANT, str(tenant_id), platform.clock.now())
    async with platform.db.begin() as session:
        await inbox.ask_again(session, event, platform.clock.now())
    async with connect(platform.settings) as api:
        state = await apply_event(platform, api, event)
        paid = state == "applied" and (await api.session(session_id)).paid
    return "pending" if state == "applied" and not paid else state


@dataclass(frozen=True)
class _Page:
    """A payment page as it was asked for; without a session Stripe has not answered yet."""

    id: UUID
    session_id: str | None
    return_to: str | None
    created_at: datetime


async def _page(platform: Platform, tenant_id: TenantId, wish: Wish, instead_of: UUID | None = None) -> _Page:
    """The page for the wish: the latest that may still be paid, else a new one (always when it is `instead_of` that).

    A subscription is one wish wherever it leads back to. A lock by tenant makes two requests take turns.
    """
    now = platform.clock.now()
    wanted = {"tenant": tenant_id, "mode": wish.mode, "cents": wish.amount_cents, "back": wish.return_to}
    async with platform.db.begin() as session:
        await session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"checkout:{tenant_id}"}
        )
        found = await session.execute(
            LATEST_PAGE, {**wanted, "alive": now - PAGE_LIFE, "young": now - PAGE_LIFE + PAGE_LIFE_MIN}
        )
        row = found.one_or_none()
        if row is not None and row.id != instead_of:
            return _Page(*row)
        page = _Page(new_id(), None, wish.return_to, now)
        await session.execute(
            text(
                "INSERT INTO stripe_checkouts (id, tenant_id, mode, amount_cents, return_to, created_at) "
                "VALUES (:id, :tenant, :mode, :cents, :back, :now)"
            ),
            {**wanted, "id": page.id, "now": now},
        )
    return page


async def _session(api: StripeApi, session_id: str) -> Session | None:
    """The page as it is now, which only Stripe knows at once; None for one of other keys."""
    try:
        return await api.session(session_id)
    except NotFound:
        return None


async def _with_customer(platform: Platform, api: StripeApi, payer: Payer, use: Callable[[str], Awaitable[T]]) -> T:
    """Do something with the tenant's customer. One that Stripe no longer knows (other keys, deleted) is made anew."""
    customer_id = await _customer(platform, api, payer)
    try:
        return await use(customer_id)
    except NotFound:
        await _forget(platform, payer.tenant_id, customer_id)
        customer_id = await _customer(platform, api, payer)
    try:
        return await use(customer_id)
    except NotFound as error:
        raise UpstreamFailed(
            error.message, remedy="Is STRIPE_DEFAULT_PRICE_ID a price of the account that STRIPE_SECRET_KEY belongs to?"
        ) from error


async def _customer(platform: Platform, api: StripeApi, payer: Payer) -> str:
    async with platform.db.begin() as session:
        await session.execute(
            text(
                "INSERT INTO stripe_customers (tenant_id, idempotency_key, email) VALUES (:tenant, :key, :email) "
                "ON CONFLICT DO NOTHING"
            ),
            {"tenant": payer.tenant_id, "key": new_id(), "email": payer.email},
        )
        stored = (
            await session.execute(
                text("SELECT idempotency_key, email, customer_id FROM stripe_customers WHERE tenant_id = :tenant"),
                {"tenant": payer.tenant_id},
            )
        ).one()
    if stored.customer_id is not None:
        return str(stored.customer_id)
    made = await api.create_customer(payer.tenant_id, stored.email, stored.idempotency_key)
    async with platform.db.begin() as session:
        await session.execute(
            text("UPDATE stripe_customers SET customer_id = :customer WHERE tenant_id = :tenant"),
            {"customer": made, "tenant": payer.tenant_id},
        )
    return made


async def _forget(platform: Platform, tenant_id: TenantId, customer_id: str) -> None:
    async with platform.db.begin() as session:
        await session.execute(
            text("DELETE FROM stripe_customers WHERE tenant_id = :tenant AND customer_id = :customer"),
            {"tenant": tenant_id, "customer": customer_id},
        )


async def _refuse_second_subscription(platform: Platform, tenant_id: TenantId) -> None:
    async with platform.db.begin() as session:
        running = await session.scalar(
            text(
                "SELECT count(*) FROM stripe_subscriptions WHERE tenant_id = :tenant "
                "AND status = ANY(CAST(:running AS text[]))"
            ),
            {"tenant": tenant_id, "running": list(RUNNING)},
        )
    if running:
        raise _subscribed()


def _subscribed() -> Conflict:
    return Conflict(
        "There is a subscription already.", code="subscribed", remedy="Manage it in the portal, or add a top-up."
    )


def _require_offered(amount_cents: int | None, offered: tuple[int, ...]) -> None:
    if amount_cents not in offered:
        amounts = ", ".join(show_price(from_cents(cents)) for cents in offered)
        raise Invalid("This amount is not offered.", code="amount", remedy=f"Choose one of {amounts}.")


def _addresses(ui_url: str, return_to: str | None) -> tuple[str, str]:
    base = ui_url.rstrip("/")
    success = f"{base}/billing/return?session_id={{CHECKOUT_SESSION_ID}}"
    if return_to:
        success += f"&return_to={quote(_path(return_to), safe='')}"
    back = _path(return_to)
    return success, f"{base}{back}{'&' if '?' in back else '?'}done=payment-cancelled"


def _path(return_to: str | None) -> str:
    """A path of our own pages; anything that a browser could read as another site is refused."""
    path = return_to or "/billing"
    if not path.startswith("/") or path.startswith("//") or "\\" in path or any(ord(c) < 33 for c in path):
        raise Invalid("return_to must be a path of the web pages.", code="return_to", remedy="For example /dashboard.")
    return path
