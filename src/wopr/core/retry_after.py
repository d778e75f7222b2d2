"""When a company's API may be asked again, as its answers say it: one reading for all of them."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_SECONDS_MAX = 3600.0


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """`Retry-After`, written as seconds or as a date, in seconds from `now`; at most an hour. None: it says nothing."""
    if not header:
        return None
    text = header.strip()
    if re.fullmatch(r"\d{1,9}", text):
        seconds = float(text)
    else:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)
