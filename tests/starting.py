"""How many bots start at once, as seen from outside: from the start of the process to its own word that it listens."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from wopr.fleet.runtimes.protocol import LogLine

Span = tuple[datetime, datetime]


def most_at_once(spans: Iterable[Span]) -> int:
    """The most that overlap. One that ends in the moment in which another begins does not overlap it."""
    moments = sorted(moment for begin, end in spans for moment in ((begin, 1), (end, -1)))
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def said_listening(lines: Sequence[LogLine], begun: datetime) -> datetime:
    """When the instance that began then said in its log that it takes requests."""
    return next(line.at for line in lines if line.at >= begun and '"listening"' in line.text)
