"""An operation with all that it said of itself: what the pages about releases, migrations and nodes are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wopr.ops.entry import Entry
from wopr.ops.logbook.operations import ended_at, grouped, outcome_of
from wopr.ops.logbook.text import facts, plain, seconds_between, span, table, when


@dataclass(frozen=True)
class Deed:
    """One operation. `data` is what it said when it began, overlaid by what it said when it ended.

    `seconds` is how long it took: what it measured itself, else from its first to its last entry.
    """

    id: str
    name: str
    actor: str
    started_at: str
    ended_at: str | None
    outcome: str
    data: Mapping[str, Any]
    steps: tuple[Entry, ...]

    @property
    def seconds(self) -> float | None:
        told = self.data.get("seconds")
        if isinstance(told, int | float) and not isinstance(told, bool):
            return float(told)
        return seconds_between(self.started_at, self.ended_at or "")

    def get(self, name: str) -> str:
        """One of its data as text; empty when it said nothing of it."""
        value = self.data.get(name)
        return "" if value is None else plain(value)


def deeds(entries: Sequence[Entry], *names: str) -> Sequence[Deed]:
    """The operations whose name is, or begins with a part that is, one of `names`, in the order of their beginning."""
    wanted = [group for group in grouped(entries).values() if group[0].name.partition(".")[0] in names]
    return [_deed(group) for group in wanted]


def deed_section(title: str, deed: Deed, shown: Sequence[str] = ()) -> str:
    """One operation in full: what it said beside the fields in `shown`, and its steps with their times."""
    head = f"{when(deed.started_at)} UTC, {span(deed.seconds)}, by {plain(deed.actor)}: {deed.outcome}\n"
    known = facts(deed.data, shown)
    return f"## {plain(title)}\n\n{head}" + (f"\n{known}" if known else "") + _steps(deed)


def _steps(deed: Deed) -> str:
    if not deed.steps:
        return ""
    rows = []
    for entry in deed.steps:
        told = facts(entry.data, ("step",)).replace("\n- ", "; ").removeprefix("- ")
        after = seconds_between(deed.started_at, entry.at)
        rows.append((when(entry.at), f"+{span(after)}", entry.data.get("step", ""), told))
    return "\n" + table(("Time (UTC)", "After", "Step", "Seen"), rows)


def _deed(group: Sequence[Entry]) -> Deed:
    data: dict[str, Any] = {}
    for entry in group:
        if entry.phase != "step":
            data |= entry.data
    return Deed(
        id=group[0].operation,
        name=group[0].name,
        actor=group[0].actor,
        started_at=group[0].at,
        ended_at=ended_at(group),
        outcome=outcome_of(group),
        data=data,
        steps=tuple(entry for entry in group if entry.phase == "step"),
    )
