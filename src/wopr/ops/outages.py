"""Opens an incident when something stays down and resolves it when it is well again, without anybody being asked.

What is looked at is handed in: nodes' services by the API, loops of this database, containers by `wopr status` and by
the deliverer. Deciding is pure; an incident is known by its key, so that several watchers never open it twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wopr.ops.incidents import Incident, Severity, open_incident, open_incidents, resolve_incident
from wopr.ops.journal import Journal

DETAIL_CHARACTERS_MAX = 300


@dataclass(frozen=True)
class Watched:
    """One thing that is looked at. `since` is when it went down, as far as known.

    `covered`: it is down as a part of something larger that has an incident of its own, so it opens none.
    """

    key: str
    title: str
    severity: Severity
    down: bool
    since: datetime | None = None
    detail: str = ""
    covered: bool = False


@dataclass(frozen=True)
class Decision:
    """What is to be opened, and what is over with the reason."""

    opens: tuple[Watched, ...]
    resolves: tuple[tuple[Incident, str], ...]


@dataclass
class Watch:
    """A watcher with a name: it resolves only what it opened. It remembers since when things are down."""

    journal: Journal
    name: str
    after_seconds: float
    _first_seen: dict[str, datetime] = field(default_factory=dict)
    _open: Sequence[Incident] = ()
    _read_at: tuple[int, int] = (-1, -1)

    def settle(self, watched: Sequence[Watched], now: datetime) -> Mapping[str, int]:
        """Open and resolve what these sights ask for; counts of what was done. Blocks for the journal's disk."""
        for thing in watched:
            if thing.down:
                self._first_seen.setdefault(thing.key, thing.since or now)
            else:
                self._first_seen.pop(thing.key, None)
        decision = decide(self._incidents(), self.name, watched, self._long_enough(now))
        for thing in decision.opens:
            began = thing.since or self._first_seen[thing.key]
            facts = {"key": thing.key, "watch": self.name, "began_at": _iso(began), "detected_at": _iso(now)}
            detail = {"detail": thing.detail[:DETAIL_CHARACTERS_MAX]} if thing.detail else {}
            open_incident(self.journal, thing.title, thing.severity, self.name, {**facts, **detail})
        for incident, reason in decision.resolves:
            resolve_incident(self.journal, incident.id, reason)
        down = sum(thing.down for thing in watched)
        return {
            "watched": len(watched),
            "down": down,
            "opened": len(decision.opens),
            "resolved": len(decision.resolves),
        }

    def _long_enough(self, now: datetime) -> frozenset[str]:
        waited = {key: (now - first).total_seconds() for key, first in self._first_seen.items()}
        return frozenset(key for key, seconds in waited.items() if seconds >= self.after_seconds)

    def _incidents(self) -> Sequence[Incident]:
        """The open incidents; the journal is read only when it has changed."""
        path = self.journal.path
        stat = path.stat() if path.exists() else None
        at = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
        if at != self._read_at:
            self._open, self._read_at = open_incidents(self.journal), at
        return self._open


def decide(
    incidents: Sequence[Incident], watch: str, watched: Sequence[Watched], long_enough: frozenset[str]
) -> Decision:
    """What follows from the sights, given what is open and which keys have been down for long enough. Pure."""
    open_keys = {incident.key for incident in incidents}
    by_key = {thing.key: thing for thing in watched}
    opens = tuple(
        thing
        for thing in watched
        if thing.down and not thing.covered and thing.key in long_enough and thing.key not in open_keys
    )
    resolves = []
    for incident in incidents:
        if incident.watch != watch or not incident.key:
            continue
        thing = by_key.get(incident.key)
        if thing is None:
            resolves.append((incident, "it is there no more"))
        elif not thing.down:
            resolves.append((incident, "it is well again"))
    return Decision(opens, tuple(resolves))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
