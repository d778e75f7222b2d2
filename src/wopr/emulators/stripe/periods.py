"""Billing periods by the calendar: from the 31st, a shorter month ends on its last day and later ones on the 31st."""

import calendar
from datetime import UTC, datetime, timedelta
from typing import Literal

Interval = Literal["day", "week", "month", "year"]


def next_end(anchor: int, after: int, interval: Interval, count: int) -> int:
    """The first period boundary after `after` (epoch seconds), counted in steps from the anchor."""
    step = 1
    while (boundary := moved(anchor, interval, count * step)) <= after:
        step += 1
    return boundary


def moved(anchor: int, interval: Interval, count: int) -> int:
    """The anchor moved by a number of days, weeks, months or years."""
    start = datetime.fromtimestamp(anchor, UTC)
    if interval in ("day", "week"):
        return int((start + timedelta(days=count * (7 if interval == "week" else 1))).timestamp())
    months = start.year * 12 + start.month - 1 + count * (12 if interval == "year" else 1)
    year, month = divmod(months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp())
