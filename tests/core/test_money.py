"""Money goes in and out as decimal strings and never loses a nano-dollar."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.core.money import NANOS_MAX, from_cents, from_usd, to_usd_string


@given(st.integers(-NANOS_MAX, NANOS_MAX))
def test_every_amount_survives_the_way_out_and_back(nanos: int) -> None:
    assert from_usd(to_usd_string(nanos)) == nanos


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (1, "0.000000001"), (5_000_000_000, "5.00"), (-4_999_120_000, "-4.99912"), (10, "0.00000001")],
)
def test_amounts_are_plain_decimals_without_exponent(nanos: int, text: str) -> None:
    assert to_usd_string(nanos) == text


@pytest.mark.parametrize("text", ["", "five", "NaN", "Infinity", "-Infinity", "1e40", "9223372036.854775808"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|bigint"):
        from_usd(text)


def test_cents_are_exact() -> None:
    assert from_cents(500) == from_usd(Decimal(5))
