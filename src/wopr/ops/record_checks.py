"""Checks of what is written down: the journal, its logbook, open incidents, and secrets that grow old."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning
from wopr.ops.incidents import Severity, open_incidents
from wopr.ops.journal import Journal
from wopr.ops.logbook.history import unrendered
from wopr.ops.logbook.observed import SECRETS, sights
from wopr.ops.logbook.text import instant
from wopr.ops.proof import damages

SECRET_AGE_MAX = timedelta(days=365)
SHOWN_MAX = 3
ENDED = ("end", "fail")
GRAVE = (Severity.SEV1, Severity.SEV2)


def checks(journal: Journal) -> Sequence[Check]:
    """Every check of the records in the journal's home folder."""

    def check(name: str, proves: str, rule: Callable[[Journal], Finding]) -> Check:
        async def look() -> Finding:
            return rule(journal) if journal.path.exists() else skipped("nothing was ever done here")

        return Check(name, proves, look)

    return [
        check("journal.intact", "nothing in journal and logbook was changed", intact),
        check("logbook.current", "the logbook says what the journal says", current),
        check("incidents.open", "no grave incident is open", incidents),
        check("secrets.age", "no secret is older than a year", secrets),
    ]


def intact(journal: Journal) -> Finding:
    found = damages(journal)
    if found:
        where = f"line {found[0].line} " if found[0].line else ""
        return failed(f"{where}{found[0].reason}", f"wopr logbook verify; compare {journal.path} with your backup.")
    return ok(f"{len(journal.read())} entries")


def current(journal: Journal) -> Finding:
    """Every operation that ended is in the pages; what is under way, and notes, come in with the next that ends."""
    ended = [entry.name for entry in unrendered(journal.home) if entry.phase in ENDED]
    if ended:
        return warning(f"not in the pages yet: {', '.join(ended[-SHOWN_MAX:])}", "wopr logbook render")
    if not shutil.which("git"):
        return warning("without git no one can see who changed a page", "apt-get install git")
    return ok("every operation is in its pages")


def incidents(journal: Journal) -> Finding:
    grave = [one for one in open_incidents(journal) if one.severity in GRAVE]
    if grave:
        told = "; ".join(f"{one.name} {one.title}" for one in grave[:SHOWN_MAX])
        return failed(
            told, f"wopr incident show {grave[0].name}; wopr incident resolve {grave[0].name} once it is over."
        )
    return ok("none of SEV1 or SEV2")


def secrets(journal: Journal) -> Finding:
    """By when a value was first seen: what is older than the journal is at least as old as that."""
    seen, _ = sights(journal.read(), SECRETS, "mark")
    if not seen:
        return skipped("not observed yet: wopr status")
    limit = datetime.now(UTC) - SECRET_AGE_MAX
    old = [sight.name for sight in seen if (since := instant(sight.since)) is not None and since < limit]
    if old:
        return warning(f"unchanged for a year: {', '.join(old[:SHOWN_MAX])}", "wopr secrets rotate NAME")
    return ok(f"{len(seen)} secrets")
