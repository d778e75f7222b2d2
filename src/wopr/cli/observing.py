"""What looking commands leave in the journal: what they saw, when it differs from the last time, for RUNBOOK.md.

Looking never fails because of it, and where nothing was ever done nothing is left.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wopr.ops.journal import Journal

Rows = Sequence[Mapping[str, Any]]  # whatever json can write


def observe_services(rows: Rows) -> None:
    """What `wopr status` saw of each service. Where a release serves, one that stays down opens an incident."""
    from wopr.core.settings import load_settings
    from wopr.delivery.observing import settle_down
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
        settle_down(journal, rows, settings.incident_after_seconds)


def observe_checks(journal: "Journal", rows: Rows) -> None:
    """What `wopr check` found."""
    from wopr.ops.journal import JournalFailed
    from wopr.ops.logbook.observed import CHECKS
    from wopr.ops.observed import observe

    with contextlib.suppress(OSError, JournalFailed):
        observe(journal, CHECKS, [{name: value for name, value in row.items() if name != "remedy"} for row in rows])
