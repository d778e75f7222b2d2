"""Checks of the payments' account at Stripe, for `wopr check`: asked over its API, as the platform asks."""

from collections.abc import Awaitable, Callable, Sequence

from wopr.billing.inbox import HANDLED
from wopr.billing.stripe import StripeApi, connect
from wopr.core.errors import WoprError
from wopr.core.settings import Settings
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

WEBHOOK_PATH = "/api/billing/webhook"
MONTHLY = "1 month"
SHOWN_MAX = 3
Look = Callable[[StripeApi, Settings], Awaitable[Finding]]


def checks(settings: Settings) -> Sequence[Check]:
    """Every check that asks Stripe."""

    def check(name: str, proves: str, look: Look) -> Check:
        async def asked() -> Finding:
            if settings.stripe_secret_key is None:
                return skipped("STRIPE_SECRET_KEY is not set")
            try:
                async with connect(settings) as stripe:
                    return await look(stripe, settings)
            except WoprError as error:
                return failed(error.message, error.remedy or "https://status.stripe.com")

        return Check(name, proves, asked)

    return [
        check("stripe.price", "the subscription's price is there, and is monthly", price),
        check("stripe.webhook", "Stripe tells our address of every event that we act on", webhook),
    ]


async def price(stripe: StripeApi, settings: Settings) -> Finding:
    """The price of STRIPE_DEFAULT_PRICE_ID: a wrong or archived one makes every checkout fail."""
    if not (price_id := settings.stripe_default_price_id):
        return skipped("STRIPE_DEFAULT_PRICE_ID is not set")
    found = await stripe.price(price_id)
    says = f"{(found.cents or 0) / 100:.2f} {found.currency.upper()} every {found.every or 'never again'}"
    if not found.active:
        return failed(f"{price_id} is archived", "Set STRIPE_DEFAULT_PRICE_ID to an active price.")
    if found.every != MONTHLY or found.currency != "usd":
        return failed(f"{price_id} is {says}", "Set STRIPE_DEFAULT_PRICE_ID to a monthly price in US dollars.")
    return ok(says + (", live" if found.live else ", test mode"))


async def webhook(stripe: StripeApi, settings: Settings) -> Finding:
    """Without the endpoint customers pay and wait for the hourly look at what was missed."""
    # A stand-in beside us is told the inner address.
    addresses = [address.rstrip("/") + WEBHOOK_PATH for address in (settings.api_url, settings.internal_url)]
    wanted = addresses[0]
    endpoints = await stripe.endpoints()
    ours = next((one for one in endpoints if one.url.rstrip("/") in addresses), None)
    add = f"Add {wanted} as an endpoint in Stripe's dashboard, and its secret as STRIPE_WEBHOOK_SECRET."
    if ours is None:
        others = ", ".join(one.url for one in endpoints[:SHOWN_MAX]) or "none"
        return failed(f"no endpoint has our address; there is {others}", add)
    if not ours.enabled:
        return failed(f"{ours.url} is disabled", "Enable it in Stripe's dashboard.")
    if missing := [event for event in HANDLED if not ours.gets(event)]:
        return warning(f"it does not get {', '.join(missing[:SHOWN_MAX])}", "Add these events to the endpoint.")
    return ok(f"{ours.url}, {len(HANDLED)} kinds of events")
