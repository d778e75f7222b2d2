"""RUNBOOK.md in the format in which the operator wrote it by hand, filled from what was done and what was seen."""

from collections.abc import Mapping, Sequence

from wopr.ops.entry import Entry
from wopr.ops.logbook import facts as known
from wopr.ops.logbook.checklist import STANDS, WRONG, Known, blockers, checklist, known_from
from wopr.ops.logbook.deployments import last_good, rollback_target
from wopr.ops.logbook.nodes import node_stories
from wopr.ops.logbook.observed import (
    ADDRESSES,
    CHECKS,
    OBSERVED,
    SECRETS,
    STACK,
    VPS,
    last_seen,
    rows_of,
    sights,
)
from wopr.ops.logbook.text import plain, short_digest, table, when

HEADER = "> Updated by `wopr` after every operation. Never edit by hand: it is rendered from the journal.\n"
DOWN = "down"


def runbook_page(entries: Sequence[Entry]) -> str:
    """RUNBOOK.md."""
    seen = known_from(entries)
    sections = (
        ("Current State", _current_state(seen)),
        ("Production Blockers (must resolve before go-live)", _blockers(seen)),
        ("Go-Live Checklist", _checklist(seen)),
        ("Stack", _stack(seen)),
        ("VPS", _vps(seen)),
        ("GPU Node", _gpu(seen)),
        ("Secrets Inventory", _secrets(seen)),
        ("Known Gotchas", _gotchas(seen)),
        ("Rollback Procedure", _rollback(seen)),
        ("Health Check URLs (when live)", _addresses(seen)),
    )
    return f"# WOPR Production Runbook\n\n{HEADER}\n" + "\n".join(f"## {name}\n\n{text}" for name, text in sections)


def _current_state(seen: Known) -> str:
    last = seen.lines[-1] if seen.lines else None
    updated = when(seen.entries[-1].at) + " UTC" if seen.entries else "never"
    told = f"{last.name} {last.outcome} ({when(last.started_at)}): {plain(last.summary)}" if last else "none"
    return f"**Status:** {_status(seen)}\n**Last Updated:** {updated}\n**Last Operation:** {told.rstrip(': ')}\n"


def _status(seen: Known) -> str:
    serving = last_good(seen.deployed)
    down = [sight.name for sight in seen.services if sight.get("state") == DOWN]
    if serving is not None:
        state = f"LIVE — release {serving.number} since {when(serving.deed.started_at)}"
    elif seen.services and len(down) < len(seen.services):
        state = "PRE-PRODUCTION — runs on this machine, not deployed"
    else:
        state = "PRE-PRODUCTION — not yet deployed to VPS"
    parts = [state]
    # Before anything is deployed, services that do not run are not trouble.
    if down and (serving is not None or len(down) < len(seen.services)):
        parts.append(f"down: {', '.join(map(plain, down))}")
    if seen.troubles:
        parts.append("open incidents: " + ", ".join(f"{i.name} ({i.severity})" for i in seen.troubles))
    return "; ".join(parts)


def _blockers(seen: Known) -> str:
    standing = [(b.name, b.severity, b.says, f"Open since {when(b.since)}") for b in blockers(seen)]
    rows = standing + _mended(seen)
    if not seen.checks and not rows:
        return "Nothing was checked yet: `wopr check` does.\n"
    head = f"{len(standing)} outstanding.\n" if standing else "No CRITICAL or HIGH blockers outstanding.\n"
    return head + ("\n" + table(("Issue", "Severity", "Description", "Status"), rows) if rows else "")


def _mended(seen: Known) -> list[tuple[str, str, str, str]]:
    """Blockers that were there once: checks that failed when they were last otherwise."""
    wrong: dict[str, Mapping[str, object]] = {}
    for entry in seen.entries:
        if entry.name == OBSERVED and entry.data.get("what") == CHECKS:
            wrong |= {str(row.get("name")): row for row in rows_of(entry) if row.get("verdict") == WRONG}
    return [
        (name, "HIGH", f"{row.get('proves')}: {row.get('evidence')}", f"**Done** — {when(seen.checks[name].since)}")
        for name, row in sorted(wrong.items())
        if name in seen.checks and seen.checks[name].get("verdict") != WRONG
    ]


def _checklist(seen: Known) -> str:
    lines = [_ticked(item.done, item.says, item.evidence) for item in checklist(seen)]
    used = {name for proof in known.GO_LIVE for name in proof.checks}
    for name, sight in sorted(seen.checks.items()):
        if name not in used:
            verdict = sight.get("verdict")
            why = "" if verdict == STANDS else f"{verdict}: {sight.get('evidence')}"
            lines.append(_ticked(verdict in (STANDS, "skipped"), f"{plain(sight.get('proves'))} (`{name}`)", why))
    return "".join(lines)


def _ticked(done: bool, says: str, evidence: str) -> str:
    return f"- [{'x' if done else ' '}] {says}{f' — {plain(evidence)}' if evidence else ''}\n"


def _stack(seen: Known) -> str:
    rows = [
        (s.name, _image(s.get("image")), s.get("port") or "–", f"{s.get('status')} since {when(s.since)}")
        for s in sights(seen.entries, STACK, "status")[0]
    ]
    rows = rows or [
        (s.name, "–", s.get("address").rpartition(":")[2].strip("/"), f"{s.get('state')} since {when(s.since)}")
        for s in seen.services
    ]
    if not rows:
        return "Nothing was observed yet: `wopr status` looks.\n"
    return table(("Service", "Image", "Port", "Status"), rows)


def _image(reference: str) -> str:
    name, digest = reference.partition("@")[::2]
    return f"{name} {short_digest(digest)}" if digest else reference


def _vps(seen: Known) -> str:
    _, rows = last_seen(seen.entries, VPS)
    told = dict(rows[0]) if rows else {}
    names = (("Provider", "DigitalOcean"), ("Status", "Not yet provisioned"), ("Region", "TBD"), ("Size", "TBD"))
    shown = [(name, told.pop(name.lower(), "") or unknown) for name, unknown in (*names, ("IP", "TBD"))]
    shown += [(plain(name).capitalize(), value) for name, value in sorted(told.items()) if name != "name"]
    return table(("Field", "Value"), shown)


def _gpu(seen: Known) -> str:
    stories = [story for story in node_stories(seen.entries) if not story.gone]
    if not stories:
        return table(("Field", "Value"), [("Status", "Not yet provisioned")])
    rows = [(f"[{plain(story.id)}]({story.page})", story.status) for story in stories]
    return table(("Node", "Status"), rows) + "\nSee [GPU.md](GPU.md).\n"


def _secrets(seen: Known) -> str:
    present, gone = sights(seen.entries, SECRETS, "mark")
    here = {sight.name: sight for sight in present}
    lost = {sight.name: sight for sight in gone}
    observed, _ = last_seen(seen.entries, SECRETS)
    told = {name: (purpose, notes) for name, purpose, notes in known.SECRETS}
    rows = []
    for name in (*told, *sorted(set(here) - set(told))):
        purpose, notes = told.get(name, ("", ""))
        if name in here:
            state = f"set, unchanged since {when(here[name].since)}"
        else:
            state = (
                f"removed {when(lost[name].since)}" if name in lost else "not set" if observed else "not observed yet"
            )
        rows.append((name, purpose, state, notes))
    where = (
        "All secrets live in the `.env` of the installation's folder or in `secrets.env` — never committed anywhere.\n"
    )
    return f"{where}\n{table(('Secret', 'Purpose', 'State', 'Notes'), rows)}"


def _gotchas(seen: Known) -> str:
    lines = []
    for says, check in known.GOTCHAS:
        sight = seen.checks.get(check)
        proof = f" — `{check}`: {sight.get('verdict') if sight else 'not observed yet'}" if check else ""
        lines.append(f"- {says}{proof}\n")
    return "".join(lines)


def _rollback(seen: Known) -> str:
    target = rollback_target(seen.deployed)
    digest = f"`{plain(target)}`" if target else "none: no other release was good yet"
    return (
        "If a deploy is bad:\n\n"
        "1. `wopr rollback` on the VPS, or from elsewhere `wopr rollback --host user@vps`: it restores the previous "
        "known-good digests, configuration and environment, waits until they serve, and logs incident and deployment\n"
        "2. `curl` the API's `/health` — verify recovery\n\n"
        "By hand, when `wopr` itself is broken:\n\n"
        "1. SSH to the VPS, `cd` to the installation's folder\n"
        "2. Pin the previous known-good digest (below, or DEPLOYMENTS.md) in `stack.env`\n"
        "3. `docker compose -p wopr --env-file stack.env -f compose.yaml up -d --force-recreate`\n"
        "4. `curl` the API's `/health` — verify recovery\n"
        "5. `wopr incident open`, and `wopr logbook note` with what was done\n\n"
        f"**Previous known-good digest:** {digest}\n"
    )


def _addresses(seen: Known) -> str:
    _, rows = last_seen(seen.entries, ADDRESSES)
    told = {str(row.get("name")): str(row.get("address")).rstrip("/") for row in rows}
    if not told:
        return "Not observed yet: `wopr status` looks.\n"
    lines = []
    if "api" in told:
        lines.append(f'- API: `{plain(told["api"])}/health` → `{{"status":"ok"}}`\n')
    if "ui" in told:
        secure = " with valid TLS" if told["ui"].startswith("https://") else ""
        lines.append(f"- UI: `{plain(told['ui'])}` → 200{secure}\n")
    return "".join(lines)
