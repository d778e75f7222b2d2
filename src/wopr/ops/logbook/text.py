"""How the logbook's pages write times, spans and cells, so that all of them look alike and no entry breaks a page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from wopr.ops.entry import ORIGIN

Row = TypeVar("Row")
HEADER = "> Rendered from the journal by `wopr logbook render`. Never edit by hand.\n"
CELL_CHARACTERS_MAX = 300
# How many a table lists, and how many have a section of their own.
ROWS_MAX = 500
SECTIONS_MAX = 100


def instant(at: str) -> datetime | None:
    """The moment that a text names; None when it names none."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def when(at: str) -> str:
    """A moment as the pages write it: to the second, in UTC."""
    moment = instant(at)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else plain(at)


def seconds_between(begin: str, end: str) -> float | None:
    """Seconds from one moment to another; None when either is unknown."""
    first, last = instant(begin), instant(end)
    return (last - first).total_seconds() if first and last else None


def span(seconds: float | None) -> str:
    """A duration as people say it: `0.8 s`, `12 s`, `3 min 5 s`, `2 h 4 min`, `3 d 1 h`."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, small, small_name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def plain(value: object) -> str:
    """Any value on one line, harmless in Markdown: no markup of HTML, no line that begins a heading."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split()).replace("<", "&lt;")


def cell(value: object) -> str:
    """Any value as one cell of a table."""
    text = plain(value)
    if len(text) > CELL_CHARACTERS_MAX:
        text = text[: CELL_CHARACTERS_MAX - 1] + "…"
    return text.replace("\\", "\\\\").replace("|", "\\|")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the caller says what stands there when there are no rows."""
    lines = [f"| {' | '.join(headers)} |", "|" + "|".join("-" * (len(h) + 2) for h in headers) + "|"]
    lines += [f"| {' | '.join(cell(each) for each in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def newest(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """The last `most` of these, the newest first: pages stay readable, and small enough for a commit each."""
    return list(reversed(rows[-most:]))


def older(rows: Sequence[object], most: int) -> str:
    """What a page says of those that it leaves out; empty when it shows all."""
    return f"\n{len(rows) - most} older ones are in the journal: `wopr logbook show`.\n" if len(rows) > most else ""


def short_digest(reference: object) -> str:
    """`name@sha256:0123…` as `sha256:0123…` with twelve digits; anything else as it is."""
    text = str(reference or "")
    found = re.search(r"sha256:([0-9a-f]{12})[0-9a-f]*", text)
    return f"`sha256:{found.group(1)}`" if found else (f"`{plain(text)}`" if text else "–")


def facts(data: Mapping[str, Any], leave_out: Iterable[str] = ()) -> str:
    """What is known beside the fields that a page shows by name, as one line a fact; empty values are left out."""
    out = {*leave_out, ORIGIN}
    return "".join(
        f"- {plain(key).replace('_', ' ')}: {_value(value)}\n"
        for key, value in sorted(data.items())
        if key not in out and value not in (None, "", [], {})
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{plain(k)} {_value(v)}" for k, v in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value)
    return plain(value)
