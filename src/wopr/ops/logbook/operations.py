"""Every operation in one list: what began when, how it ended, and what it said of itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wopr.ops.entry import GENESIS, Entry
from wopr.ops.logbook.text import HEADER, ROWS_MAX, newest, older, table, when

SUMMARY_CHARACTERS_MAX = 160
ORIGIN = re.compile(r"Rendered from (\d+) entries, the last with hash ([0-9a-f]{64})\.")
OPEN_BY_NATURE = {"incident": "open"}


@dataclass(frozen=True)
class Line:
    """One operation as the logbook tells it. `outcome` is done, failed, unfinished, noted, or open for an incident."""

    started_at: str
    ended_at: str | None
    operation: str
    name: str
    actor: str
    outcome: str
    summary: str
    steps: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def grouped(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by operation, in the order in which the operations began."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.operation, []).append(entry)
    return groups


def operations(entries: Sequence[Entry]) -> Sequence[Line]:
    """Entries gathered by operation, in the order in which they began."""
    return [line_of(group) for group in grouped(entries).values()]


def outcome_of(group: Sequence[Entry]) -> str:
    """How an operation ended. What is added to it afterwards changes nothing of that."""
    phases = [entry.phase for entry in group]
    if "end" in phases:
        return "done"
    if "fail" in phases:
        return "failed"
    if phases[0] == "note":
        return "noted"
    return OPEN_BY_NATURE.get(group[0].name, "unfinished")


def ended_at(group: Sequence[Entry]) -> str | None:
    """When an operation ended; None while it runs, and for one that was killed."""
    last = next((entry.at for entry in group if entry.phase in ("end", "fail")), None)
    return last or (group[-1].at if group[0].phase == "note" else None)


def line_of(group: Sequence[Entry]) -> Line:
    """One operation from its entries."""
    first, last = group[0], group[-1]
    data = {**first.data, **(last.data if last is not first else {})}
    summary = ", ".join(f"{key} {_text(value)}" for key, value in data.items() if value not in (None, "", [], {}))
    return Line(
        started_at=first.at,
        ended_at=ended_at(group),
        operation=first.operation,
        name=first.name,
        actor=first.actor,
        outcome=outcome_of(group),
        summary=summary[:SUMMARY_CHARACTERS_MAX],
        steps=tuple(str(entry.data.get("step", "")) for entry in group if entry.phase == "step"),
    )


def operations_page(entries: Sequence[Entry]) -> str:
    """OPERATIONS.md. Its head says from how much of the journal all pages were rendered."""
    lines = operations(entries)
    last_hash = entries[-1].hash if entries else GENESIS
    origin = f"Rendered from {len(entries)} entries, the last with hash {last_hash}."
    head = f"# WOPR Operations\n\n{HEADER}> {origin}\n"
    if not lines:
        return f"{head}\nNothing was recorded yet.\n"
    last = lines[-1]
    rows = [(when(x.started_at), x.name, x.outcome, x.actor, x.summary) for x in newest(lines, ROWS_MAX)]
    shown = table(("Started (UTC)", "Operation", "Outcome", "By", "What"), rows)
    told = f"**Last Operation:** {last.name} ({when(last.started_at)}, {last.outcome})"
    return f"{head}\n{told}\n\n{shown}{older(lines, ROWS_MAX)}"


def _text(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    return " ".join(str(item.get("name", "…")) if isinstance(item, Mapping) else str(item) for item in value)
