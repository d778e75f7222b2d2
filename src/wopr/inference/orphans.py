"""Machines with our tag that no row knows: which of them leaked and are destroyed, and which are left for a person.

A leak is a machine that this installation ordered and that never became a node. Any other may serve: an older database
that was restored does not know the nodes that were rented since, but the journal, which is a file, does. Without a
journal that knows the order nothing is destroyed. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wopr.cloud.compute import Machine
from wopr.ops.entry import Entry

MINUTE = 60
# Longer than an order takes to be known, and than clocks differ: a machine of nobody is then really one.
ORPHAN_SECONDS = 15 * MINUTE
CREATE, SERVE, DISCARD = "nodes.create", "nodes.serve", "nodes.discard"


@dataclass(frozen=True)
class Past:
    """What the journal tells: nodes for which a machine was ordered, machines that served and were not given back."""

    ordered: frozenset[str]
    serving: frozenset[str]


@dataclass(frozen=True)
class Orphans:
    """Machines of nobody: leaks, and those that a person must look at."""

    leaked: Sequence[Machine]
    doubtful: Sequence[Machine]


def past_of(entries: Sequence[Entry]) -> Past:
    """What the journal's entries tell of machines."""
    begun = [entry for entry in entries if entry.phase == "begin"]
    told = {name: [entry.data for entry in begun if entry.name == name] for name in (CREATE, SERVE, DISCARD)}
    served = {str(data.get("machine")) for data in told[SERVE]} - {str(data.get("machine")) for data in told[DISCARD]}
    return Past(frozenset(str(data.get("node")) for data in told[CREATE]), frozenset(served))


def unknown(machines: Sequence[Machine], known_ids: frozenset[str], now: int) -> Sequence[Machine]:
    """Those that no row knows, older than an order can take to be known. `now` is in seconds since 1970."""
    return [m for m in machines if m.id not in known_ids and now - m.created_at > ORPHAN_SECONDS]


def judged(machines: Sequence[Machine], past: Past, prefix: str) -> Orphans:
    """What becomes of them. `prefix`: how the names of this installation's machines begin."""
    leaked = [m for m in machines if m.name.removeprefix(prefix) in past.ordered and m.id not in past.serving]
    return Orphans(leaked, [m for m in machines if m not in leaked])
