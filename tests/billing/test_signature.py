"""Stripe's signature: the whole secret, several v1, age, an altered body, an empty secret."""

import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from stripe import WebhookSignature

from wopr.billing.signature import verify
from wopr.core.errors import BadRequest, NotConfigured

SECRET = "whsec_5dZ1XrVyFHCrQZ0ArvhFz"
BODY = '{"id":"evt_1","type":"invoice.paid","name":"Zoë"}'.encode()
MOMENT = 1_767_225_600
NOW = datetime.fromtimestamp(MOMENT, UTC)


def header(secret: str = SECRET, moment: int = MOMENT) -> str:
    return WebhookSignature.generate_signature_header(BODY.decode(), secret, moment)


def test_what_the_official_library_signs_is_accepted() -> None:
    verify(BODY, header(), SECRET, NOW)


def test_the_documented_vector_is_accepted() -> None:
    expected = hmac.new(SECRET.encode(), f"{MOMENT}.".encode() + BODY, hashlib.sha256).hexdigest()
    verify(BODY, f"t={MOMENT},v1={expected},v0=ignored", SECRET, NOW)


def test_the_key_is_the_whole_string_prefix_included() -> None:
    with pytest.raises(BadRequest):
        verify(BODY, header(SECRET.removeprefix("whsec_")), SECRET, NOW)


def test_one_fitting_v1_among_several_is_enough() -> None:
    fitting = header().partition("v1=")[2]
    verify(BODY, f"t={MOMENT},v1={'0' * 64},v1={fitting}", SECRET, NOW)
    verify(BODY, f"t={MOMENT}, v1={fitting} ,v1={'0' * 64}", SECRET, NOW)


@pytest.mark.parametrize("body", [BODY + b" ", BODY.replace(b"paid", b"void"), b""])
def test_an_altered_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        verify(body, header(), SECRET, NOW)


@pytest.mark.parametrize("offset", [-301, 301, 86_400, -(10**9)])
def test_an_old_or_future_signature_is_refused(offset: int) -> None:
    with pytest.raises(BadRequest):
        verify(BODY, header(moment=MOMENT + offset), SECRET, NOW)


@pytest.mark.parametrize("offset", [-300, 300])
def test_five_minutes_of_clock_skew_are_allowed(offset: int) -> None:
    verify(BODY, header(moment=MOMENT + offset), SECRET, NOW)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "t=",
        "v1=",
        f"t={MOMENT}",
        "t=x,v1=y",
        "t=¹,v1=y",
        f"v1={'0' * 64}",
        f"t={MOMENT},v0=abc",
        "é=é",
        "t=-1,v1=a",
    ],
)
def test_a_header_that_can_not_be_read_is_refused(bad: str | None) -> None:
    with pytest.raises(BadRequest):
        verify(BODY, bad, SECRET, NOW)


@pytest.mark.parametrize("secret", ["", "  "])
def test_an_empty_secret_is_refused_even_when_the_signature_fits_it(secret: str) -> None:
    signed = hmac.new(secret.encode(), f"{MOMENT}.".encode() + BODY, hashlib.sha256).hexdigest()
    with pytest.raises(NotConfigured):
        verify(BODY, f"t={MOMENT},v1={signed}", secret, NOW)
