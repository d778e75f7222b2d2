"""Moments as people type them: `2h` ago, a date, a date with a time, `today`; read for options like `--since`."""

import re
from datetime import UTC, datetime, time, timedelta

import typer

UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)(?:\s+ago)?")


def moment(text: str, option: str, *, end: bool = False) -> datetime:
    """The moment that `text` names, in UTC; a date alone means its first moment, with `end` its last.

    BadParameter, which ends with exit code 2, when it names none.
    """
    now = datetime.now(UTC)
    word = text.strip().lower()
    if found := AGO.fullmatch(word):
        return now - timedelta(**{UNITS[found.group(2)]: float(found.group(1))})
    if word in ("today", "yesterday", "now"):
        if word == "now":
            return now
        word = (now - timedelta(days=word == "yesterday")).date().isoformat()
    try:
        when = datetime.fromisoformat(word.upper().replace("Z", "+00:00"))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no moment: write 2h, 7d, 2026-11-23 or 2026-11-23T17:30", param_hint=option
        ) from error
    if end and len(word) == len("2026-11-23"):
        when = datetime.combine(when.date(), time.max)
    return when if when.tzinfo else when.replace(tzinfo=UTC)
