"""What one UI process has in its hands: addresses, the pool of connections to the API, templates and static files."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from wopr.core.settings import Settings
from wopr.web.assets import Assets
from wopr.web.prices import PriceBoard

STRIPE_PAGES = ("https://checkout.stripe.com", "https://billing.stripe.com")
"""Where Stripe's hosted pages live: https://docs.stripe.com/security/guide#content-security-policy"""


@dataclass(frozen=True)
class Site:
    """Built once by `build_web`; nothing reaches for a global."""

    api_url: str
    ui_origin: str
    api_public_url: str
    payment_origins: tuple[str, ...]
    mailbox: str | None
    http: httpx.AsyncClient
    assets: Assets
    prices: PriceBoard

    @property
    def secure(self) -> bool:
        """Whether people reach the UI over TLS."""
        return self.ui_origin.startswith("https://")

    def pays_at(self, url: str) -> bool:
        """Whether an address is one of the payment company's pages, which forms may lead to."""
        return origin_of(url) in self.payment_origins


def payment_origins(settings: Settings) -> tuple[str, ...]:
    """Origins of the hosted payment pages: Stripe's, or the address that stands in for Stripe's API."""
    base = origin_of(settings.stripe_api_base)
    if urlsplit(base).hostname == "api.stripe.com":
        return STRIPE_PAGES
    # A stand-in on this machine may call itself by either name.
    return tuple(dict.fromkeys((base, base.replace("127.0.0.1", "localhost"), base.replace("localhost", "127.0.0.1"))))


def mailbox(settings: Settings) -> str | None:
    """Where mails can be read when a stand-in on this machine keeps them; None when they are really sent."""
    base = origin_of(settings.resend_api_base)
    return base if urlsplit(base).hostname in ("localhost", "127.0.0.1") else None


def origin_of(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
