"""The incidents of releases: a bad one's, which the next good one ends, for by then customers have what was meant; and
that of a release which serves and whose image does not work as a deliverer."""

from collections.abc import Sequence

from wopr.delivery.context import Context
from wopr.delivery.migrate import fatal
from wopr.delivery.release import Part, Release
from wopr.ops.incidents import open_incident, open_incidents, resolve_incident
from wopr.ops.journal import Journal

# Who resolves them. One journal may know several installations, each with releases from 1 on.
WATCH = "releases"
DELIVERER_WATCH = "deliverer"


def where(ctx: Context) -> str:
    """The installation as its incidents name it."""
    return f"{ctx.host.describe()} {ctx.place.dir}"


def tell_failure(journal: Journal, place: str, release: Release, serving: Part | None, *, served: bool) -> None:
    """Open an incident for a bad release. `serving` is the one before it, where that serves now; `served` says whether
    customers met the bad one."""
    left = [migration["revision"] for migration in release.migrations if fatal(migration)] if serving else []
    facts = {
        "key": key(place, release.number),
        "watch": WATCH,
        "installation": place,
        "release": release.number,
        "platform": release.platform,
        "reason": release.reason,
        "serving": serving.release if serving else None,
        "impact": _impact(left, served=served) if serving else "nothing serves",
    }
    severity = "SEV1" if not serving else "SEV2" if left else "SEV3"
    open_incident(journal, f"Release {release.number} failed: {release.reason}"[:200], severity, "wopr deploy", facts)


def _impact(left: Sequence[str], *, served: bool) -> str:
    impact = "the bad one served until the release before it was back"
    if not served:
        impact = "none: the release before it kept serving"
    if not left:
        return impact
    return (
        f"{impact}, on a database that {', '.join(left)} changed for the bad one: see the dump taken before, in dumps/"
    )


def end_failures(journal: Journal, place: str, good: Release) -> None:
    """Resolve what failed releases of this installation opened: this one turned out good.

    Its reason says how that is known where nobody observed it to the end.
    """
    known = f"serves: {good.reason}" if good.reason else "was observed, is good and serves"
    for incident in open_incidents(journal):
        if incident.watch == WATCH and incident.facts.get("installation") == place:
            resolve_incident(journal, incident.id, f"Release {good.number} {known}.")


def key(place: str, number: int) -> str:
    """What the incidents of one release are about."""
    return f"release-{number} {place}"


def tell_old_deliverer(journal: Journal, place: str, image: str, problem: str) -> None:
    """Open an incident for an image that serves and does not work as a deliverer: the one before delivers on."""
    facts = {
        "key": f"deliverer {place}",
        "watch": DELIVERER_WATCH,
        "installation": place,
        "platform": image,
        "reason": problem,
        "impact": "none: the deliverer of the release before goes on",
    }
    title = f"The deliverer stays with its older image: {problem}"[:200]
    open_incident(journal, title, "SEV4", "wopr deliver", facts)


def end_old_deliverer(journal: Journal, place: str, image: str) -> None:
    """Resolve what `tell_old_deliverer` opened: the deliverer runs with the image that serves."""
    for incident in open_incidents(journal):
        if incident.watch == DELIVERER_WATCH and incident.facts.get("installation") == place:
            resolve_incident(journal, incident.id, f"The deliverer runs with {image}.")
