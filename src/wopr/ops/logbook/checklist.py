"""Whether one may go live, from what was done and seen: the go-live list with what proves each line, and what stands
against it. RUNBOOK.md shows it, `wopr check --go-live` tells it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from wopr.ops.entry import Entry
from wopr.ops.logbook import facts
from wopr.ops.logbook.deployments import Deployment, deployments, last_good
from wopr.ops.logbook.incidents import Incident, Severity, incidents
from wopr.ops.logbook.observed import CHECKS, OBSERVED, SERVICES, Sight, sights
from wopr.ops.logbook.operations import Line, operations
from wopr.ops.logbook.text import when

BY_THE_WAY = (OBSERVED, "journal", "logbook", "incident")
WRONG, STANDS = "failed", "ok"
GRADES = {Severity.SEV1: "CRITICAL", Severity.SEV2: "HIGH"}


@dataclass(frozen=True)
class Known:
    """Everything that the page is made from."""

    entries: Sequence[Entry]
    lines: Sequence[Line] = field(default_factory=tuple)
    deployed: Sequence[Deployment] = field(default_factory=tuple)
    troubles: Sequence[Incident] = field(default_factory=tuple)
    checks: Mapping[str, Sight] = field(default_factory=dict)
    services: Sequence[Sight] = field(default_factory=tuple)


@dataclass(frozen=True)
class Item:
    """A line of the go-live list: whether it is so, and what shows it."""

    says: str
    done: bool
    evidence: str


@dataclass(frozen=True)
class Blocker:
    """What stands against going live: a check that failed, or an open incident. `since` as the journal writes times."""

    name: str
    severity: str
    says: str
    since: str


def known_from(entries: Sequence[Entry]) -> Known:
    """What the journal tells."""
    return Known(
        entries=entries,
        lines=[line for line in operations(entries) if line.name not in BY_THE_WAY],
        deployed=deployments(entries),
        troubles=[incident for incident in incidents(entries) if incident.open],
        checks={sight.name: sight for sight in sights(entries, CHECKS, "verdict")[0]},
        services=sights(entries, SERVICES, "state")[0],
    )


def with_checks(seen: Known, rows: Sequence[Mapping[str, str]]) -> Known:
    """The same with these checks, as they were found just now."""
    now = datetime.now(UTC).isoformat()
    before = seen.checks
    same = {
        row["name"] for row in rows if row["name"] in before and before[row["name"]].get("verdict") == row["verdict"]
    }
    found = {
        row["name"]: Sight(row["name"], row, before[row["name"]].since if row["name"] in same else now) for row in rows
    }
    return replace(seen, checks=found)


def checklist(seen: Known) -> Sequence[Item]:
    """Every line of the list, in its order."""
    return [Item(proof.says, *_proven(seen, proof)) for proof in facts.GO_LIVE]


def blockers(seen: Known) -> Sequence[Blocker]:
    """Everything that stands against going live: failed checks, then incidents that are open."""
    found = [
        Blocker(sight.name, "HIGH", f"{sight.get('proves')}: {sight.get('evidence')}", sight.since)
        for sight in seen.checks.values()
        if sight.get("verdict") == WRONG
    ]
    return found + [
        Blocker(incident.name, GRADES[Severity(incident.severity)], incident.title, incident.opened_at)
        for incident in seen.troubles
        if incident.severity in GRADES
    ]


def _proven(seen: Known, proof: facts.Proof) -> tuple[bool, str]:
    """Whether the line is so, and what shows it."""
    if proof.services:
        return _serving(seen)
    if proof.deed == "deploy":
        serving = last_good(seen.deployed)
        return serving is not None, f"release {serving.number}, {when(serving.deed.started_at)}" if serving else ""
    if proof.deed:
        return _did(seen, proof.deed)
    found = [seen.checks.get(name) for name in proof.checks]
    if any(sight is None for sight in found):
        return False, "not observed yet: `wopr check`"
    present = [sight for sight in found if sight is not None]
    evidence = "; ".join(sight.get("evidence") for sight in present if sight.get("evidence"))
    good = all(sight.get("verdict") == STANDS for sight in present)
    return good and proof.evidence in evidence, evidence


def _serving(seen: Known) -> tuple[bool, str]:
    down = [sight.name for sight in seen.services if sight.get("state") != STANDS]
    if not seen.services:
        return False, "not observed yet: `wopr status`"
    return not down, f"not ok: {', '.join(down)}" if down else f"{len(seen.services)} services"


def _did(seen: Known, deed: str) -> tuple[bool, str]:
    last = next((line for line in reversed(seen.lines) if line.name == deed), None)
    if last is None:
        return False, f"not run yet: `wopr {deed}`"
    return last.outcome == "done" and "passed False" not in last.summary, f"{last.outcome} {when(last.started_at)}"
