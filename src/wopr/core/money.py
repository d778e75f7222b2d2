"""Money is whole nano-dollars (1e-9 USD) in Python integers and PostgreSQL bigints; decimals exist only at the edge.

A bigint holds 9.2 billion dollars. A token can cost less than a micro-dollar, hence nano.
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import NewType

Nanos = NewType("Nanos", int)

NANOS_PER_USD = 1_000_000_000
NANOS_PER_CENT = 10_000_000
NANOS_MAX = 2**63 - 1


def from_usd(dollars: Decimal | str) -> Nanos:
    """Nano-dollars of a decimal amount of dollars, rounded half to even; ValueError when it is no amount."""
    try:
        value = Decimal(dollars)
        nanos = int((value * NANOS_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise ValueError(f"not an amount of dollars: {dollars!r}") from error
    if abs(nanos) > NANOS_MAX:
        raise ValueError(f"more dollars than a bigint of nano-dollars holds: {dollars!r}")
    return Nanos(nanos)


def from_cents(cents: int) -> Nanos:
    """Nano-dollars of whole cents, the unit in which payment companies count."""
    return Nanos(cents * NANOS_PER_CENT)


def to_usd_string(nanos: int) -> str:
    """A plain decimal string of dollars without exponent or needless zeros, at least two places: `4.99912`, `5.00`."""
    sign = "-" if nanos < 0 else ""
    dollars, rest = divmod(abs(nanos), NANOS_PER_USD)
    places = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{dollars}.{places}"
