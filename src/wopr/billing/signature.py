"""Stripe's webhook signature: HMAC-SHA256 over `t.body`, keyed with the whole `whsec_…` string, prefix included.

Source: Stripe's documentation, "Verify webhook signatures manually". Several `v1` may stand in the header while a
secret is being rolled; one that fits is enough. (Standard Webhooks decodes the part behind `whsec_`; Stripe does not.)
"""

import hashlib
import hmac
from datetime import datetime

from wopr.core.errors import BadRequest, NotConfigured

TOLERANCE_SECONDS = 300
SIGNATURES_MAX = 20


def verify(body: bytes, header: str | None, secret: str, now: datetime) -> None:
    """BadRequest unless `header` signs the raw body with `secret` not more than five minutes away from `now`."""
    if not secret.strip():
        raise NotConfigured(
            "Webhooks need STRIPE_WEBHOOK_SECRET, which is empty.",
            remedy="Set it to the endpoint's whole whsec_ string.",
        )
    moment, signatures = _parse(header or "")
    if moment is None or not signatures:
        raise _bad("The Stripe-Signature header is missing or can't be read.")
    expected = hmac.new(secret.encode(), str(moment).encode() + b"." + body, hashlib.sha256).hexdigest().encode()
    if not any(hmac.compare_digest(expected, given) for given in signatures):
        raise _bad("The signature does not fit the body.")
    if abs(now.timestamp() - moment) > TOLERANCE_SECONDS:
        raise _bad("The signature is too old.")


def _parse(header: str) -> tuple[int | None, list[bytes]]:
    moment = None
    signatures: list[bytes] = []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:
            moment = int(value)
        elif name == "v1" and len(signatures) < SIGNATURES_MAX:
            signatures.append(value.encode())
    return moment, signatures


def _bad(message: str) -> BadRequest:
    return BadRequest(
        message,
        code="bad_signature",
        remedy="Is STRIPE_WEBHOOK_SECRET the whole secret of this endpoint, and this machine's clock right?",
    )
