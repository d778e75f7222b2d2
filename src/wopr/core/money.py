"""Money is whole nano-dollars (1e-9 USD) in Python integers and PostgreSQL bigints; decimals exist only at the edge.

A bigint holds 9.2 billion dollars. A token can cost less than a micro-dollar, hence nano.

How people see it, on pages, in mails and in errors:

- What an account has, got or used has four places, always (`show`, `show_cost`): a cheap answer is seen to cost
  something, columns line up, and no number changes its width from one moment to the next. Nothing is shown better than
  it is: what one has is rounded down, what one spends or owes is rounded up.
- A price has the places that it needs: `$5`, `$1.50`, `$0.006` (`show_price`).
- A receipt has every place down to the last that is not zero, and two at least (`show_exact`).
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import NewType

Nanos = NewType("Nanos", int)

NANOS_PER_USD = 1_000_000_000
NANOS_PER_CENT = 10_000_000
NANOS_MAX = 2**63 - 1
NANOS_PER_SHOWN_PLACE = 100_000
SHOWN_PLACES = 4
MINUS = "\N{MINUS SIGN}"


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


def show(nanos: int) -> str:
    """What one has, or what came in or went out, rounded down: `$4.9999`, `−$0.0001`."""
    shown = nanos // NANOS_PER_SHOWN_PLACE
    dollars, rest = divmod(abs(shown), NANOS_PER_USD // NANOS_PER_SHOWN_PLACE)
    return f"{MINUS if shown < 0 else ''}${dollars:,}.{rest:0{SHOWN_PLACES}d}"


def show_cost(nanos: int) -> str:
    """What is spent, held or owed, as a positive number, rounded up: `$0.0001`."""
    return show(-(-nanos // NANOS_PER_SHOWN_PLACE) * NANOS_PER_SHOWN_PLACE)


def show_exact(nanos: int) -> str:
    """Every place of it: `$0.000412`."""
    text = to_usd_string(abs(nanos))
    dollars, _, places = text.partition(".")
    return f"{MINUS if nanos < 0 else ''}${int(dollars):,}.{places}"


def show_price(nanos: int) -> str:
    """A price in a sentence: `$5`, `$1.50`, `$0.006`."""
    return show_exact(nanos).removesuffix(".00")
