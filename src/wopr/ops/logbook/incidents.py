"""Incidents as the journal tells them: what was wrong from when to when, what was done, why, what follows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from wopr.ops.entry import Entry
from wopr.ops.logbook.text import (
    HEADER,
    ROWS_MAX,
    SECTIONS_MAX,
    facts,
    mean,
    newest,
    older,
    plain,
    seconds_between,
    span,
    table,
    when,
)

INCIDENT = "incident"
# What a begin entry says in fields of its own; everything else it holds are facts.
FIELDS = ("title", "severity", "detected_by", "began_at", "detected_at", "key", "watch", "number")


class Severity(StrEnum):
    """SEV1: nobody can use the platform. SEV2: a function is gone for everybody. SEV3: impaired. SEV4: no customer
    notices."""

    SEV1 = "SEV1"
    SEV2 = "SEV2"
    SEV3 = "SEV3"
    SEV4 = "SEV4"


@dataclass(frozen=True)
class Moment:
    """One line of a timeline. `kind` is opened, note, acknowledged, mitigated, severity, analysis or resolved."""

    at: str
    kind: str
    text: str
    actor: str


@dataclass(frozen=True)
class Incident:
    """One incident. Times are ISO 8601 in UTC; `began_at` is when it was first wrong; when nobody said
    when that was (not `began_known`), the moment at which it was opened.

    `key` says what it is about, so that the same trouble opens one incident only; `watch` who resolves it by itself.
    """

    id: str
    number: int
    title: str
    severity: str
    detected_by: str
    began_at: str
    opened_at: str
    detected_at: str
    acknowledged_at: str | None = None
    mitigated_at: str | None = None
    resolved_at: str | None = None
    resolved_by: str = ""
    key: str = ""
    watch: str = ""
    root_cause: str = ""
    impact: str = ""
    follow_up: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    timeline: tuple[Moment, ...] = ()
    began_known: bool = True

    @property
    def name(self) -> str:
        """How people call it."""
        return f"INC-{self.number:04d}"

    @property
    def open(self) -> bool:
        return self.resolved_at is None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "open": self.open, **asdict(self)}


def incidents(entries: Sequence[Entry]) -> Sequence[Incident]:
    """Every incident, in the order in which they were opened; numbers count from 1."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.name == INCIDENT and (entry.phase == "begin" or entry.operation in groups):
            groups.setdefault(entry.operation, []).append(entry)
    return [_incident(number, group) for number, group in enumerate(groups.values(), 1)]


def incidents_page(entries: Sequence[Entry]) -> str:
    """INCIDENTS.md."""
    known = incidents(entries)
    parts = [f"# WOPR Incidents\n\n{HEADER}"]
    if not known:
        return parts[0] + "\nNo incident was recorded.\n"
    rows = [
        (i.name, i.severity, "**open**" if i.open else "resolved", when(i.opened_at), _lasted(i), i.title)
        for i in newest(known, ROWS_MAX)
    ]
    parts.append(table(("Incident", "Severity", "State", "Opened (UTC)", "Lasted", "What"), rows))
    parts.append(_means(known))
    parts += [_section(incident) for incident in newest(known, SECTIONS_MAX)]
    return "\n".join(parts) + older(known, SECTIONS_MAX)


def time_to_detect(incident: Incident) -> float | None:
    """Seconds from the first wrong moment until somebody or something saw it; None when nobody said when that was."""
    return seconds_between(incident.began_at, incident.detected_at) if incident.began_known else None


def time_to_acknowledge(incident: Incident) -> float | None:
    """Seconds from detection until a person took it up; None when none had to."""
    return seconds_between(incident.detected_at, incident.acknowledged_at or "")


def time_to_resolve(incident: Incident) -> float | None:
    """Seconds from the first wrong moment until it was over."""
    return seconds_between(incident.began_at, incident.resolved_at or "")


MEASURES: Mapping[str, tuple[Callable[[Incident], float | None], str]] = {
    "mttd": (time_to_detect, "from the first wrong moment to its detection"),
    "mtta": (time_to_acknowledge, "from detection until a person took it up"),
    "mttr": (time_to_resolve, "from the first wrong moment to the end"),
}


def mean_times(known: Sequence[Incident]) -> dict[str, float | None]:
    """Mean seconds to detect, to acknowledge and to resolve, each over the incidents for which it is known."""
    return {name: mean(measure(incident) for incident in known) for name, (measure, _) in MEASURES.items()}


def _incident(number: int, group: Sequence[Entry]) -> Incident:
    first = group[0]
    data = first.data
    said = {"severity": str(data.get("severity", Severity.SEV3))}
    follow_up: list[str] = []
    times: dict[str, str | None] = {"acknowledged": None, "mitigated": None, "resolved": None}
    resolved_by = ""
    for entry in group:
        said |= {n: str(entry.data[n]) for n in ("severity", "root_cause", "impact") if entry.data.get(n)}
        given = entry.data.get("follow_up") or []
        follow_up += map(str, given) if isinstance(given, list) else [str(given)]
        kind = _kind(entry)
        if kind in times:
            times[kind] = times[kind] or str(entry.data.get("happened_at") or entry.at)
        if kind == "resolved":
            resolved_by = resolved_by or entry.actor
    return Incident(
        id=first.operation,
        number=number,
        title=str(data.get("title", "")),
        detected_by=str(data.get("detected_by", "")),
        began_at=str(data.get("began_at") or first.at),
        began_known=bool(data.get("began_at")),
        opened_at=first.at,
        detected_at=str(data.get("detected_at") or first.at),
        acknowledged_at=times["acknowledged"],
        mitigated_at=times["mitigated"] or times["resolved"],
        resolved_at=times["resolved"],
        resolved_by=resolved_by,
        key=str(data.get("key", "")),
        watch=str(data.get("watch", "")),
        severity=said["severity"],
        root_cause=said.get("root_cause", ""),
        impact=said.get("impact", ""),
        follow_up=tuple(follow_up),
        facts={name: value for name, value in data.items() if name not in FIELDS},
        timeline=tuple(Moment(entry.at, _kind(entry), _told(entry), entry.actor) for entry in group),
    )


def _kind(entry: Entry) -> str:
    if entry.phase == "begin":
        return "opened"
    return "resolved" if entry.phase == "end" else str(entry.data.get("kind", "note"))


def _told(entry: Entry) -> str:
    if entry.phase == "begin":
        return f"{entry.data.get('severity', '')} opened by {entry.data.get('detected_by', '')}"
    text = str(entry.data.get("step", ""))
    return text or ("resolved" if entry.phase == "end" else "")


def _lasted(incident: Incident) -> str:
    return span(time_to_resolve(incident)) if not incident.open else "–"


def _means(known: Sequence[Incident]) -> str:
    means = mean_times(known)
    rows = [
        (name.upper(), said, span(means[name]), sum(measure(incident) is not None for incident in known))
        for name, (measure, said) in MEASURES.items()
    ]
    return "## Mean times\n\n" + table(("", "Measured", "Mean", "Incidents"), rows)


def _section(incident: Incident) -> str:
    rows = [
        ("Severity", incident.severity),
        ("State", "open" if incident.open else f"resolved by {incident.resolved_by}"),
        ("Began", when(incident.began_at) if incident.began_known else "–"),
        ("Opened", when(incident.opened_at)),
        ("Detected", f"{when(incident.detected_at)} by {incident.detected_by or 'unknown'}"),
        ("Acknowledged", when(incident.acknowledged_at) if incident.acknowledged_at else "–"),
        ("Mitigated", when(incident.mitigated_at) if incident.mitigated_at else "–"),
        ("Resolved", when(incident.resolved_at) if incident.resolved_at else "–"),
        ("Impact", incident.impact or "not written yet"),
        ("Root cause", incident.root_cause or "not written yet"),
    ]
    timeline = [(when(m.at), m.kind, m.text, m.actor) for m in incident.timeline]
    known = facts(incident.facts)
    follow = "".join(f"- {plain(each)}\n" for each in incident.follow_up) or "Nothing was noted.\n"
    return (
        f"## {incident.name} {plain(incident.title)}\n\n{table(('Field', 'Value'), rows)}"
        + (f"\n{known}" if known else "")
        + f"\n### Timeline\n\n{table(('Time (UTC)', 'Kind', 'What', 'By'), timeline)}"
        + f"\n### Follow-up\n\n{follow}"
    )
