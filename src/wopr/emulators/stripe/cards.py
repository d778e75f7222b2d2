"""Stripe's documented test cards and what each of them does, and the checks of a card before anybody is asked.

Source: Stripe's documentation, "Test card numbers" and "Decline codes".
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Decline:
    """Why the bank says no, in Stripe's codes and words."""

    code: str
    decline_code: str | None
    message: str
    advice: str | None = None


@dataclass(frozen=True)
class TestCard:
    """A documented number: its brand, and what happens when it is charged."""

    brand: str = "visa"
    funding: str = "credit"
    declined: Decline | None = None
    later: Decline | None = None  # what happens to charges after the first one, made without the customer
    disputed: bool = False


@dataclass(frozen=True)
class CardInput:
    """What a person typed into the card form."""

    number: str
    expiry: str
    cvc: str
    name: str


@dataclass(frozen=True)
class Card:
    """A card that passed the form's checks."""

    number: str
    exp_month: int
    exp_year: int
    name: str


GENERIC_DECLINE = Decline("card_declined", "generic_decline", "Your card was declined.", "try_again_later")
REAL_CARD = Decline(
    "card_declined",
    "test_mode_live_card",
    "Your card was declined. Your request was in test mode, but used a non test card. "
    "For a list of valid test cards, visit: https://stripe.com/docs/testing.",
)

TEST_CARDS = {
    "4242424242424242": TestCard(),
    "4000056655665556": TestCard(funding="debit"),
    "5555555555554444": TestCard("mastercard"),
    "5200828282828210": TestCard("mastercard", "debit"),
    "378282246310005": TestCard("amex"),
    "6011111111111117": TestCard("discover"),
    "3056930009020004": TestCard("diners"),
    "3566002020360505": TestCard("jcb"),
    "4000000000000341": TestCard(later=GENERIC_DECLINE),
    "4000000000000259": TestCard(disputed=True),
    "4000000000000002": TestCard(declined=GENERIC_DECLINE),
    "4000000000009995": TestCard(
        declined=Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.", "try_again_later")
    ),
    "4000000000009987": TestCard(
        declined=Decline("card_declined", "lost_card", "Your card was declined.", "do_not_try_again")
    ),
    "4000000000009979": TestCard(
        declined=Decline("card_declined", "stolen_card", "Your card was declined.", "do_not_try_again")
    ),
    "4000000000000069": TestCard(declined=Decline("expired_card", None, "Your card has expired.", "confirm_card_data")),
    "4000000000000127": TestCard(
        declined=Decline("incorrect_cvc", None, "Your card's security code is incorrect.", "confirm_card_data")
    ),
    "4000000000000119": TestCard(
        declined=Decline(
            "processing_error",
            None,
            "An error occurred while processing your card. Try again in a little bit.",
            "try_again_later",
        )
    ),
}


def behaviour(number: str) -> TestCard:
    """What a card does; a number that is not documented is declined as a real card in test mode."""
    return TEST_CARDS.get(number, TestCard(_brand(number), declined=REAL_CARD))


def check(card: CardInput, now: datetime) -> tuple[Card | None, dict[str, str]]:
    """The card, or what is wrong with each field in the words of Stripe's page."""
    problems: dict[str, str] = {}
    number = "".join(card.number.split()).replace("-", "")
    if not number.isascii() or not number.isdigit() or len(number) < 13:
        problems["number"] = "Your card number is incomplete."
    elif not luhn_valid(number):
        problems["number"] = "Your card number is invalid."
    month, year, problem = _expiry(card.expiry, now)
    if problem:
        problems["expiry"] = problem
    digits = 4 if number.startswith(("34", "37")) else 3
    if len(card.cvc) != digits or not card.cvc.isascii() or not card.cvc.isdigit():
        problems["cvc"] = "Your card's security code is incomplete."
    if not card.name.strip():
        problems["name"] = "Your name is incomplete."
    return (None if problems else Card(number, month, year, card.name.strip())), problems


def luhn_valid(number: str) -> bool:
    """The check digit that every card number carries (ISO/IEC 7812-1)."""
    total = 0
    for position, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(number) <= 19


def _expiry(text: str, now: datetime) -> tuple[int, int, str | None]:
    compact = "".join(text.split()).replace("/", "")
    if not compact.isascii() or not compact.isdigit() or len(compact) not in (3, 4, 6):
        return 0, 0, "Your card's expiration date is incomplete."
    compact = compact.zfill(4)
    month, year = int(compact[:2]), int(compact[2:])
    year += 2000 if year < 100 else 0
    if not 1 <= month <= 12 or year > now.year + 50:
        return 0, 0, "Your card's expiration date is invalid."
    if (year, month) < (now.year, now.month):
        return 0, 0, "Your card's expiration date is in the past."
    return month, year, None


def _brand(number: str) -> str:
    prefixes = {
        "4": "visa",
        "5": "mastercard",
        "2": "mastercard",
        "34": "amex",
        "37": "amex",
        "6": "discover",
        "35": "jcb",
        "36": "diners",
    }
    return next(
        (brand for prefix, brand in sorted(prefixes.items(), reverse=True) if number.startswith(prefix)), "unknown"
    )
