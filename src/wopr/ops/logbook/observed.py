"""What was seen of the installation, as the journal tells it: the last sight of each kind, and how it came to be so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wopr.ops.entry import Entry

OBSERVED = "observed"
SERVICES, STACK, CHECKS, SECRETS, NODES, VPS, ADDRESSES = (
    "services",
    "stack",
    "checks",
    "secrets",
    "nodes",
    "vps",
    "addresses",
)


@dataclass(frozen=True)
class Sight:
    """One thing seen: a row of what was observed, and since when it looks so."""

    name: str
    row: Mapping[str, Any]
    since: str

    def get(self, field: str) -> str:
        value = self.row.get(field)
        return "" if value is None else str(value)


def last_seen(entries: Sequence[Entry], what: str) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """When `what` was last observed and its rows; an empty time when it never was."""
    entry = next((e for e in reversed(entries) if e.name == OBSERVED and e.data.get("what") == what), None)
    return (entry.at, rows_of(entry)) if entry else ("", [])


def sights(entries: Sequence[Entry], what: str, field: str) -> tuple[Sequence[Sight], Sequence[Sight]]:
    """The rows of `what` as they are now, and those that are there no more.

    A row's `since` is when its `field` took the value that it has, or for one that is gone, when it went.
    """
    present: dict[str, Sight] = {}
    gone: dict[str, Sight] = {}
    for entry in entries:
        if entry.name != OBSERVED or entry.data.get("what") != what:
            continue
        now = {str(row.get("name", "")): row for row in rows_of(entry)}
        for name in [name for name in present if name not in now]:
            gone[name] = Sight(name, present.pop(name).row, entry.at)
        for name, row in now.items():
            before = present.get(name)
            same = before is not None and before.row.get(field) == row.get(field)
            present[name] = Sight(name, row, before.since if before and same else entry.at)
            gone.pop(name, None)
    return list(present.values()), list(gone.values())


def rows_of(entry: Entry) -> Sequence[Mapping[str, Any]]:
    """The rows of an observation; what is no row is left out."""
    rows = entry.data.get("rows")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
