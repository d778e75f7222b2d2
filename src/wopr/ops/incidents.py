"""Opening, telling and resolving incidents. They live in the journal, so they work while the database is down."""

from collections.abc import Mapping, Sequence
from typing import Any

from wopr.core.errors import Invalid, NotFound
from wopr.core.ids import new_id
from wopr.ops.journal import Journal
from wopr.ops.logbook.incidents import INCIDENT, Incident, Severity, incidents

__all__ = [
    "KINDS",
    "Incident",
    "Severity",
    "all_incidents",
    "check_severity",
    "find_incident",
    "note_incident",
    "open_incident",
    "open_incidents",
    "resolve_incident",
]

# What a note may be: something seen, somebody took it up, customers are well again, another severity, an insight.
KINDS = ("note", "acknowledged", "mitigated", "severity", "analysis")


def open_incident(
    journal: Journal,
    title: str,
    severity: Severity | str,
    detected_by: str,
    facts: Mapping[str, Any] | None = None,  # whatever json can write
) -> str:
    """Open an incident and return its id.

    `facts` may hold `key` (what it is about: while an incident with the same key is open, that one's id is returned and
    nothing is written), `began_at` and `detected_at` (ISO 8601), `impact`, `root_cause`, and whatever else was seen.
    """
    given = {name: value for name, value in (facts or {}).items() if value not in (None, "")}
    grave = check_severity(severity)
    with journal.held() as held:
        key = str(given.get("key", ""))
        same = next((i for i in incidents(held.read()) if key and i.open and i.key == key), None)
        if same is not None:
            return same.id
        identifier = str(new_id())
        about = {**given, "title": title, "severity": grave, "detected_by": detected_by}
        held.append(identifier, INCIDENT, "begin", about)
    journal.keep()
    return identifier


def note_incident(
    journal: Journal,
    incident: str,
    text: str,
    kind: str = "note",
    facts: Mapping[str, Any] | None = None,  # whatever json can write
) -> None:
    """Add a line to its timeline, also after it was resolved.

    `facts` may hold `severity`, `root_cause`, `impact`, `follow_up` (a list) and `happened_at`. NotFound, Invalid.
    """
    if kind not in KINDS:
        raise Invalid(f"{kind!r} is no kind of note.", remedy=f"Use one of {', '.join(KINDS)}.")
    given = dict(facts or {})
    if given.get("severity"):
        given["severity"] = check_severity(given["severity"])
    with journal.held() as held:
        found = _find(incidents(held.read()), incident)
        held.append(found.id, INCIDENT, "step", {"step": text, "kind": kind, **given})
    journal.keep()


def resolve_incident(
    journal: Journal,
    incident: str,
    text: str = "",
    facts: Mapping[str, Any] | None = None,  # whatever json can write
) -> bool:
    """End an incident; False when it was over already. `facts` as for `note_incident`. NotFound."""
    with journal.held() as held:
        found = _find(incidents(held.read()), incident)
        if not found.open:
            return False
        held.append(found.id, INCIDENT, "end", {"step": text, **(facts or {})})
    journal.keep()
    return True


def all_incidents(journal: Journal) -> Sequence[Incident]:
    """Every incident, in the order in which they were opened."""
    return incidents(journal.read())


def open_incidents(journal: Journal) -> Sequence[Incident]:
    """Those that are not over."""
    return [incident for incident in all_incidents(journal) if incident.open]


def find_incident(journal: Journal, name: str) -> Incident:
    """One incident by its name (`INC-0007`, `7`) or by its id or the beginning of it. NotFound."""
    return _find(all_incidents(journal), name)


def check_severity(value: Severity | str) -> str:
    """`sev2`, `2` and the like as SEV2; Invalid when it is none."""
    text = str(value).strip().upper()
    text = f"SEV{text}" if text.isdigit() else text
    if text not in tuple(Severity):
        raise Invalid(f"{value!r} is no severity.", remedy="Use SEV1, SEV2, SEV3 or SEV4.")
    return text


def _find(known: Sequence[Incident], name: str) -> Incident:
    text = name.strip()
    digits = text.upper().removeprefix("INC-")
    # Ids begin with letters and digits as well, so a short number is always the incident's number.
    if digits.isdigit() and len(digits) <= 6:
        found = [incident for incident in known if incident.number == int(digits)]
    else:
        found = [incident for incident in known if text and incident.id.startswith(text.lower())]
    if len(found) != 1:
        many = "more than one incident" if found else "no incident"
        raise NotFound(f"There is {many} {name!r}.", remedy="wopr incident list")
    return found[0]
