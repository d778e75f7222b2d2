"""Releases as the journal tells them: which digests served from when, what came before, and how each attempt ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wopr.ops.entry import Entry
from wopr.ops.logbook.deeds import Deed, deed_section, deeds
from wopr.ops.logbook.text import HEADER, ROWS_MAX, SECTIONS_MAX, newest, older, plain, short_digest, span, table, when

GOOD = "good"
RECOVERED = "recovered: settle"
SHOWN = ("release", "platform", "bot", "previous", "previous_platform", "trigger", "verdict", "reason", "seconds")


@dataclass(frozen=True)
class Deployment:
    """One deploy or rollback. `previous` is the known-good digest of the platform that ran before it."""

    deed: Deed
    number: str
    platform: str
    bot: str
    previous: str
    verdict: str

    @property
    def serves(self) -> bool:
        """Whether what it brought was good, so that the next rollback may go there."""
        return self.verdict == GOOD and bool(self.platform)


def deployments(entries: Sequence[Entry]) -> Sequence[Deployment]:
    """Every deploy and rollback, in order."""
    found: list[Deployment] = []
    for deed in deeds(entries, "deploy", "rollback"):
        found = [_settled(each, deed) for each in found]
        earlier = last_good(found)
        verdict = deed.get("verdict") or (GOOD if deed.outcome == "done" else deed.outcome)
        found.append(
            Deployment(
                deed=deed,
                number=_said(deed, "release"),
                platform=_said(deed, "platform"),
                bot=_said(deed, "bot"),
                previous=_previous(deed) or (earlier.platform if earlier else ""),
                verdict=verdict,
            )
        )
    return found


def last_good(known: Sequence[Deployment]) -> Deployment | None:
    """What serves, as far as the journal knows: the last one that was good."""
    return next((each for each in reversed(known) if each.serves), None)


def rollback_target(known: Sequence[Deployment]) -> str:
    """The digest to which a rollback would go now: the newest good one that differs from what serves; empty: none."""
    serving = last_good(known)
    if serving is None:
        return ""
    return next((d.platform for d in reversed(known) if d.serves and d.platform != serving.platform), "")


def deployments_page(entries: Sequence[Entry]) -> str:
    """DEPLOYMENTS.md."""
    known = deployments(entries)
    head = f"# WOPR Deployments\n\n{HEADER}"
    if not known:
        return f"{head}\nNothing was deployed yet.\n"
    serving, target = last_good(known), rollback_target(known)
    now = (
        f"release {serving.number}, {short_digest(serving.platform)}" if serving else "nothing that is known to be good"
    )
    rows = [
        (
            each.number or "–",
            when(each.deed.started_at),
            each.deed.name,
            short_digest(each.platform),
            short_digest(each.bot),
            short_digest(each.previous),
            each.deed.get("trigger") or each.deed.actor,
            span(each.deed.seconds),
            each.verdict,
        )
        for each in newest(known, ROWS_MAX)
    ]
    headers = ("No.", "Time (UTC)", "What", "Platform", "Bot", "Previous known-good", "Trigger", "Duration", "Verdict")
    parts = [
        f"{head}\n**Serving:** {now}\n**A rollback goes to:** {short_digest(target) if target else 'nothing: no other'}"
        + ("\n" if target else " release was good\n"),
        table(headers, rows),
    ]
    parts += [_section(each) for each in newest(known, SECTIONS_MAX)]
    return "\n".join(parts) + older(known, SECTIONS_MAX)


def _said(deed: Deed, name: str) -> str:
    """What it said at its end, or, when it was killed before, at its last step that told."""
    return deed.get(name) or next((plain(e.data[name]) for e in reversed(deed.steps) if e.data.get(name)), "")


def _previous(deed: Deed) -> str:
    return deed.get("previous_platform") or (deed.get("previous") if "sha256:" in deed.get("previous") else "")


def _settled(each: Deployment, later: Deed) -> Deployment:
    """The next run judges a release whose deployer was killed."""
    for step in later.steps:
        if step.data.get("step") == RECOVERED and str(step.data.get("release")) == each.number:
            return replace(each, verdict=plain(step.data.get("verdict")))
    return each


def _section(each: Deployment) -> str:
    title = f"{each.deed.name} of release {each.number}" if each.number else each.deed.name
    digests = [("Platform", each.platform), ("Bot", each.bot), ("Previous known-good", each.previous)]
    rows = [(name, f"`{plain(value)}`") for name, value in digests if value]
    reason = each.deed.get("reason")
    rows += [("Verdict", f"{each.verdict}: {reason}" if reason else each.verdict)]
    rows += [("Trigger", each.deed.get("trigger"))] if each.deed.get("trigger") else []
    section = deed_section(f"{when(each.deed.started_at)} {title}", each.deed, SHOWN)
    return f"{section}\n{table(('Field', 'Value'), rows)}"
