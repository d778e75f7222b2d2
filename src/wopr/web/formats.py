"""How numbers, money and times are written on pages. Pure; the current time is always given."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from wopr.core.money import from_usd, show, show_cost, show_exact, show_price

MINUTE, HOUR, DAY = 60, 3600, 86400
NOTHING = "–"
BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


def usd(amount: Decimal | None) -> str:
    """What one has, or a movement of it. The rule of all money on pages stands in `wopr.core.money`."""
    return NOTHING if amount is None else show(from_usd(amount))


def usd_cost(amount: Decimal | None) -> str:
    """What was spent, is set aside or is owed."""
    return NOTHING if amount is None else show_cost(from_usd(amount))


def persona(text: str | None) -> str:
    """Whom a persona describes, in a line: its first sentence, no longer addressed to the bot."""
    first = (text or "").strip().partition(". ")[0].partition("\n")[0].rstrip(".")
    told = first.removeprefix("You are ")
    return f"{told[:1].upper()}{told[1:]}." if told else ""


def usd_exact(amount: Decimal | None) -> str:
    """Every place, for receipts."""
    return NOTHING if amount is None else show_exact(from_usd(amount))


def usd_price(amount: Decimal | None) -> str:
    """A price."""
    return NOTHING if amount is None else show_price(from_usd(amount))


def signed_usd(amount: Decimal) -> str:
    """With a sign in either direction, for movements."""
    return usd(amount) if amount < 0 else f"+{usd(amount)}"


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago, roughly; a date when it is more than a month."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    if seconds < 0:
        return ahead(moment, now)
    if seconds < 10:
        return "just now"
    for limit, unit, name in ((MINUTE, 1, " s"), (HOUR, MINUTE, " min"), (DAY, HOUR, " h"), (31 * DAY, DAY, " d")):
        if seconds < limit:
            return f"{int(seconds // unit)}{name} ago"
    return day(moment)


def since(moment: datetime, now: datetime) -> str:
    """For how long already, roughly: `42 s`, `3 h`, `40 d`."""
    seconds = max(0, int((now - moment).total_seconds()))
    for limit, unit, name in ((MINUTE, 1, "s"), (HOUR, MINUTE, "min"), (DAY, HOUR, "h")):
        if seconds < limit:
            return f"{seconds // unit} {name}"
    days = seconds // DAY
    return f"{days} day{'s' if days > 1 else ''}"


def ahead(moment: datetime, now: datetime) -> str:
    """How far in the future, roughly."""
    days = (moment - now).total_seconds() / DAY
    if days < 1:
        return "today"
    return f"in {int(days)} day{'s' if days >= 2 else ''}" if days < 31 else day(moment)


def day(moment: datetime | date | None) -> str:
    """A date as people write it: `23 Nov 2026`."""
    return f"{moment.day} {moment:%b %Y}" if moment else "–"


def clock(moment: datetime | None) -> str:
    """Date and time in UTC; scripts rewrite it in the reader's own time zone."""
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC" if moment else "–"


def iso(moment: datetime | None) -> str:
    """For `<time datetime>`."""
    return moment.astimezone(UTC).isoformat() if moment else ""


def seconds(milliseconds: float | None) -> str:
    """A duration: `240 ms`, `1.9 s`."""
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def period(value: float | None) -> str:
    """A period of a loop: `every 5 s`, `every 10 min`."""
    if not value:
        return "–"
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if value >= unit and value % unit == 0:
            return f"{value / unit:g} {name}"
    return f"{value:g} s"


def count(number: float | None) -> str:
    """Thousands apart: `12,408`."""
    return "–" if number is None else f"{number:,.0f}"


def browser_name(user_agent: str | None) -> str:
    """`Chrome on Linux`, as far as the browser says it."""
    text = user_agent or ""
    browser = next((name for mark, name in BROWSERS if mark in text), "")
    system = next((name for mark, name in SYSTEMS if mark in text), "")
    if browser and system:
        return f"{browser} on {system}"
    return browser or system or (text[:40] if text else "Unknown browser")
