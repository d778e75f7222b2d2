"""What is seen of an installation's services, for RUNBOOK.md, and the incident of one that stays down.

`wopr status` leaves it when somebody looks, the deliverer once a minute by itself: who is in trouble may be the API, or
its database, and then nobody there tells.
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from wopr.delivery.glance import Glance
from wopr.ops.journal import Journal, JournalFailed
from wopr.ops.logbook.deployments import deployments, last_good
from wopr.ops.logbook.incidents import Severity
from wopr.ops.logbook.observed import SERVICES, sights
from wopr.ops.logbook.text import instant
from wopr.ops.observed import observe
from wopr.ops.outages import Watch, Watched

Rows = Sequence[Mapping[str, Any]]  # whatever json can write
WATCH = "status"


def observe_installation(journal: Journal, glance: Glance, after_seconds: float) -> None:
    """What was seen of an installation that serves. What its nodes' watchdog sees is an incident already."""
    if glance.state.active is None:
        return
    answers = [{"name": a.name, "address": "", "state": a.state, "detail": a.detail} for a in glance.answers]
    nodes = [
        {"name": f"{service} on {node['id']}", "address": node["host"], "state": "ok" if healthy else "down"}
        for node in glance.nodes
        for service, healthy in sorted((node["services"] or {}).items())
    ]
    with contextlib.suppress(OSError, JournalFailed):
        observe(journal, SERVICES, [{name: value for name, value in row.items() if value} for row in answers + nodes])
        settle_down(journal, answers, after_seconds)


def settle_down(journal: Journal, rows: Rows, after_seconds: float) -> None:
    """Open an incident for what was down for so long, and end those of what works again. `rows` were observed."""
    down = [row for row in rows if row["state"] == "down"]
    # Most installations have nothing down and no incident, and then the journal need not be read.
    if not journal.path.exists() or (not down and f'"watch":"{WATCH}"'.encode() not in journal.path.read_bytes()):
        return
    entries = journal.read()
    if last_good(deployments(entries)) is None:
        return
    since = {sight.name: instant(sight.since) for sight in sights(entries, SERVICES, "state")[0]}
    watched = [
        Watched(
            key=f"status:{row['name']}",
            title=f"{row['name']} does not answer",
            severity=Severity.SEV1 if row["name"] in ("api", "database") else Severity.SEV2,
            down=row["state"] == "down",
            since=since.get(str(row["name"])),
            detail=str(row["detail"]),
        )
        for row in rows
    ]
    Watch(journal, WATCH, after_seconds).settle(watched, datetime.now(UTC))
