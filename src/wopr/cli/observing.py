"""What looking commands leave in the journal: what they saw, when it differs from the last time, for RUNBOOK.md.

Looking never fails because of it, and where nothing was ever done nothing is left.
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wopr.core.settings import Settings
    from wopr.ops.journal import Journal

Rows = Sequence[Mapping[str, Any]]  # whatever json can write


def observe_services(rows: Rows) -> None:
    """What `wopr status` saw of each service. Where a release serves, one that stays down opens an incident."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal, JournalFailed
    from wopr.ops.logbook.observed import ADDRESSES, SERVICES
    from wopr.ops.observed import observe, observe_secrets

    settings = load_settings()
    journal = Journal(settings.wopr_home)
    if not journal.path.exists():
        return
    with contextlib.suppress(OSError, JournalFailed):
        told = [{name: value for name, value in row.items() if value} for row in rows]
        public = [{"name": "api", "address": settings.api_url}, {"name": "ui", "address": settings.ui_url}]
        news = [
            observe(journal, SERVICES, told, keep=False),
            observe(journal, ADDRESSES, public, keep=False),
            observe_secrets(journal, keep=False),
        ]
        if any(news):
            journal.keep()
        _settle(journal, settings, rows)


def observe_checks(rows: Rows) -> None:
    """What `wopr check` found."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal, JournalFailed
    from wopr.ops.logbook.observed import CHECKS
    from wopr.ops.observed import observe

    journal = Journal(load_settings().wopr_home)
    with contextlib.suppress(OSError, JournalFailed):
        observe(journal, CHECKS, [{name: value for name, value in row.items() if name != "remedy"} for row in rows])


def _settle(journal: "Journal", settings: "Settings", rows: Rows) -> None:
    down = [row for row in rows if row["state"] == "down"]
    # Most installations have nothing down and no incident, and then the journal need not be read.
    if not down and b'"watch":"status"' not in journal.path.read_bytes():
        return
    from wopr.ops.logbook.deployments import deployments, last_good
    from wopr.ops.logbook.incidents import Severity
    from wopr.ops.logbook.observed import SERVICES, sights
    from wopr.ops.logbook.text import instant
    from wopr.ops.outages import Watch, Watched

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
    Watch(journal, "status", settings.incident_after_seconds).settle(watched, datetime.now(UTC))
