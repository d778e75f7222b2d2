"""The logbook: pages rendered from the journal, a pure function of it, so that they regenerate byte for byte."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wopr.ops.journal import Entry

SUMMARY_CHARACTERS_MAX = 160
HEADER = "> Rendered from the journal by `wopr logbook render`. Never edit by hand.\n"


@dataclass(frozen=True)
class Line:
    """One operation as the logbook tells it. `outcome` is done, failed, unfinished or noted."""

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


def operations(entries: Sequence[Entry]) -> Sequence[Line]:
    """Entries gathered by operation, in the order in which they began."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.operation, []).append(entry)
    return [_line(group) for group in groups.values()]


def render(entries: Sequence[Entry]) -> Mapping[str, str]:
    """Every page by its file name."""
    lines = operations(entries)
    return {"OPERATIONS.md": _operations_page(lines), "INCIDENTS.md": _incidents_page(lines)}


def _line(group: Sequence[Entry]) -> Line:
    first, last = group[0], group[-1]
    outcomes = {"end": "done", "fail": "failed", "note": "noted"}
    outcome = outcomes.get(last.phase, "unfinished")
    data = {**first.data, **(last.data if last is not first else {})}
    summary = ", ".join(f"{key} {_text(value)}" for key, value in data.items() if value not in (None, "", [], {}))
    return Line(
        started_at=first.at,
        ended_at=last.at if outcome != "unfinished" else None,
        operation=first.operation,
        name=first.name,
        actor=first.actor,
        outcome=outcome,
        summary=summary[:SUMMARY_CHARACTERS_MAX],
        steps=tuple(str(entry.data.get("step", "")) for entry in group if entry.phase == "step"),
    )


def _operations_page(lines: Sequence[Line]) -> str:
    rows = [
        f"| {_when(x.started_at)} | {x.name} | {x.outcome} | {_cell(x.actor)} | {_cell(x.summary)} |"
        for x in reversed(lines)
    ]
    last = (
        f"**Last Operation:** {lines[-1].name} ({_when(lines[-1].started_at)}, {lines[-1].outcome})\n\n"
        if lines
        else ""
    )
    head = "| Started (UTC) | Operation | Outcome | By | What |\n|---|---|---|---|---|\n"
    body = head + "\n".join(rows) + "\n" if rows else "Nothing was recorded yet.\n"
    return f"# WOPR Operations\n\n{HEADER}\n{last}{body}"


def _incidents_page(lines: Sequence[Line]) -> str:
    wrong = [line for line in lines if line.outcome in ("failed", "unfinished")]
    parts = [f"# WOPR Incidents\n\n{HEADER}"]
    for line in reversed(wrong):
        steps = "".join(f"- {step}\n" for step in line.steps)
        parts.append(
            f"## {_when(line.started_at)} {line.name}: {line.outcome}\n\n{line.summary}\n"
            + (f"\n{steps}" if steps else "")
        )
    if not wrong:
        parts.append("No operation has failed.\n")
    return "\n".join(parts)


def _when(at: str) -> str:
    return at[:19].replace("T", " ")


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
