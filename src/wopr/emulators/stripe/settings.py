"""What the Stripe stand-in is told when it starts, and the API version whose shapes it follows."""

from dataclasses import dataclass
from pathlib import Path

import httpx

API_VERSION = "2026-10-28.endive"
"""The version that the locked `stripe` library pins. Since 2025-03-31.basil an invoice names its subscription in
`parent.subscription_details`, its payments are `invoice_payment` objects, and periods are on subscription items."""

DEFAULT_PRICE_ID = "price_wopr_monthly"
DEFAULT_PRODUCT_ID = "prod_wopr"


@dataclass(frozen=True)
class StripeSettings:
    """Where the state lies, which keys count, and where events go.

    `secret_key` None accepts every `sk_test_…` and `rk_test_…` key. `public_url` is the address that browsers reach;
    without it the address of the request is used. `webhook_transport` is another way to the endpoints than by this
    machine's own names. `retry_delays_seconds` is the pause before each further delivery.
    """

    state: Path | None = None
    secret_key: str | None = None
    default_price_id: str = DEFAULT_PRICE_ID
    default_price_cents: int = 500
    business_name: str = "WOPR"
    public_url: str | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = None
    webhook_transport: httpx.AsyncBaseTransport | None = None
    retry_delays_seconds: tuple[float, ...] = (1, 2, 5, 10, 30, 60, 300, 900, 3600)
    delivery_timeout_seconds: float = 20.0
    tick_seconds: float = 2.0
