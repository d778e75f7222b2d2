"""`wopr status --dir`: an installation on its host at one glance, live when asked."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from wopr.cli import output
from wopr.cli.installation import Where
from wopr.cli.output import bad, bold, colored, dim, good, result, say, table, warn

if TYPE_CHECKING:
    from wopr.delivery.glance import Box, Glance
    from wopr.delivery.place import Place
    from wopr.ops.incidents import Incident
    from wopr.ops.logbook.deployments import Deployment

WATCH_SECONDS = 2.0
DEPLOYS_SHOWN = 3
TITLE_CHARACTERS = 100
MEGABYTE = 1024 * 1024
SERVICES = ("llama", "chatterbox", "whisper", "qwen")


@dataclass(frozen=True)
class Sight:
    """What is shown: the glance, and what the journal knows of late. `seconds` is how long looking took."""

    place: "Place"
    host: str
    glance: "Glance"
    deploys: "Sequence[Deployment]"
    incidents: "Sequence[Incident]"
    seconds: float


def show(where: Where, *, watch: bool, as_json: bool) -> None:
    """Show it once, or again and again. Exit code 1 when customers can't use it."""
    sight = asyncio.run(_look(where, watch=watch))
    if as_json:
        output.json_document(document(sight))
    elif not watch:
        _write(sight)
    _observe(where, sight.glance)
    if sight.glance.verdict == "down":
        raise typer.Exit(output.FAILED)


def document(sight: Sight) -> dict[str, Any]:
    """For `--json`."""
    from dataclasses import asdict

    from wopr.delivery.glance import slots

    glance, held = sight.glance, sight.glance.lock.held if sight.glance.lock else None
    return {
        "verdict": glance.verdict,
        "host": sight.host,
        "folder": sight.place.dir,
        "release": asdict(glance.serving) if glance.serving else None,
        "slots": {slot: {"is": word, "release": number} for slot, (word, number) in slots(glance.state).items()},
        "lock": asdict(held) if held and held.owner else None,
        "containers": [asdict(box) for box in glance.boxes],
        "answers": [asdict(answer) for answer in glance.answers],
        "database": dict(glance.database),
        "nodes": [dict(node) for node in glance.nodes],
        "bots": dict(glance.bots),
        "deploys": [_deploy(each) for each in sight.deploys],
        "incidents": [{"number": i.number, "severity": i.severity, "title": i.title} for i in sight.incidents],
        "seconds": round(sight.seconds, 3),
    }


async def _look(where: Where, *, watch: bool) -> Sight:
    """Look; with `watch` show it and look again until Ctrl-C, over one connection."""
    from wopr.delivery.api_journal import take_in
    from wopr.delivery.glance import glance

    host = where.machine()
    try:
        place = await where.place(host)
        while True:
            started = time.perf_counter()
            await take_in(host, place, where.journal())
            (deploys, incidents), seen = await asyncio.gather(asyncio.to_thread(_late, where), glance(host, place))
            sight = Sight(place, host.describe(), seen, deploys, incidents, time.perf_counter() - started)
            if not watch:
                return sight
            say("\x1b[2J\x1b[H" if colored(sys.stderr) else "")
            _write(sight)
            await asyncio.to_thread(_observe, where, seen)
            await asyncio.sleep(WATCH_SECONDS)
    finally:
        await host.close()


def _observe(where: Where, seen: "Glance") -> None:
    """Leave what was seen in the installation's journal."""
    from wopr.core.settings import load_settings
    from wopr.delivery.observing import observe_installation

    observe_installation(where.journal(), seen, load_settings().incident_after_seconds)


def _late(where: Where) -> "tuple[Sequence[Deployment], Sequence[Incident]]":
    """The last deploys, newest first, and the incidents that are open, from the journal."""
    from wopr.ops.incidents import open_incidents
    from wopr.ops.logbook.deployments import deployments

    journal = where.journal()
    return list(deployments(journal.read()))[-DEPLOYS_SHOWN:][::-1], open_incidents(journal)


def _write(sight: Sight) -> None:
    glance, paint = sight.glance, {"ok": good, "degraded": warn, "down": bad}
    result(f"{bold(sight.host)} {sight.place.dir}: {paint[glance.verdict](glance.verdict)} {_head(sight)}")
    if glance.trouble:
        output.complain(
            f"Docker on {sight.host} does not answer: {glance.trouble}",
            remedy="Is it installed, and does it run? docker info",
        )
    elif not glance.boxes:
        say("Nothing was released here yet: wopr deploy")
    if not glance.boxes:
        return
    table(("container", "state", "release", "image", "up", "restarts"), [_box(box) for box in glance.boxes], "")
    result("")
    for answer in glance.answers:
        result(f"{answer.name:<10}{paint[answer.state](answer.state):<4} {answer.detail}{_more(answer.name, glance)}")
    for node in glance.nodes:
        health = node["services"] or {}
        told = (f"{name} {_mark(health.get(name))}" for name in SERVICES)
        result(f"node      {node['id']} ({node['host'] or '–'}) {node['status']}, {node['stage']}: {', '.join(told)}")
    if not glance.nodes:
        result(f"node      {dim('none is registered')}")
    if glance.bots:
        result(f"bots      {', '.join(f'{count} {word}' for word, count in glance.bots.items())}")
    for each in sight.deploys:
        seen = _deploy(each)
        number = f"release {seen['release']} " if seen["release"] else ""
        result(f"{seen['what']:<10}{seen['at']} {number}{seen['verdict']} {dim(seen['by'])}")
    for incident in sight.incidents:
        result(f"incident  {bad(f'INC-{incident.number:04}')} {incident.severity} {incident.title[:TITLE_CHARACTERS]}")


def _head(sight: Sight) -> str:
    """Release, slots and lock in one line."""
    from wopr.delivery.glance import short, slots

    glance = sight.glance
    parts = [
        f"{slot} {word}" + (f" ({number})" if number else "") for slot, (word, number) in slots(glance.state).items()
    ]
    if glance.serving:
        parts.insert(0, f"release {glance.serving.number} {short(glance.serving.platform)}")
    held = glance.lock.held if glance.lock else None
    parts.append(f"locked by {held.owner} for {held.operation}" if held and held.owner else "unlocked")
    return ", ".join(parts)


def _box(box: "Box") -> tuple[object, ...]:
    paint = {"ok": good, "degraded": warn, "down": bad}[box.state]
    up = _age((datetime.now(UTC) - box.since).total_seconds()) if box.since else ""
    return (box.name, paint(box.status), box.release, box.image, up, box.restarts or "")


def _more(name: str, glance: "Glance") -> str:
    if name != "database" or not glance.database:
        return ""
    told = glance.database
    return f"{told['bytes'] // MEGABYTE} MB, {told['connections']} connections, migration {told['migration']}"


def _mark(healthy: object) -> str:
    return good("ok") if healthy else dim("unknown") if healthy is None else bad("down")


def _deploy(each: "Deployment") -> dict[str, str]:
    deed = each.deed
    return {
        "what": deed.name,
        "at": deed.started_at[:19],
        "release": each.number,
        "verdict": each.verdict,
        "platform": each.platform,
        "by": deed.actor,
    }


def _age(seconds: float) -> str:
    """A length of time in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
