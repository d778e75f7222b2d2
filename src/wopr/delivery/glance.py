"""Everything about an installation at one glance: containers, slots, what serves, the database, nodes, who works on it.

All questions are asked side by side, and one that gets no answer is a line that says so: whoever looks, looks because
something may be wrong.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from wopr.core.errors import WoprError
from wopr.delivery import commands
from wopr.delivery.commands import API_PORT, UI_PORT, Command
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import Host, Output
from wopr.delivery.lock import Seen
from wopr.delivery.lock import show as look_at_lock
from wopr.delivery.place import ROLES, SLOTS, Place
from wopr.delivery.release import Release, State, read_releases, read_state
from wopr.delivery.setup import settings_there

ASK_SECONDS = 8.0
DIGEST_CHARACTERS = 12
CORE = ("caddy", "postgres")
SQL = """
SELECT json_build_object(
  'bytes', pg_database_size(current_database()),
  'connections', (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
  'migration', (SELECT max(version_num) FROM alembic_version),
  'nodes', (SELECT coalesce(json_agg(n ORDER BY n.id), '[]') FROM (
    SELECT id, host, status, provision_stage AS stage, service_health AS services, last_error AS error
    FROM gpu_nodes) n))
"""


@dataclass(frozen=True)
class Box:
    """A container. `state` is ok, degraded or down; `since` is when it was started."""

    name: str
    service: str
    state: str
    status: str
    image: str
    release: str
    since: datetime | None
    restarts: int


@dataclass(frozen=True)
class Answer:
    """Whether something that serves answers, and what it said."""

    name: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Glance:
    """What was seen. `nodes` are rows of `gpu_nodes`; `bots` counts the bots' containers by their state."""

    state: State
    serving: Release | None
    boxes: Sequence[Box]
    answers: Sequence[Answer]
    database: Mapping[str, Any] = field(default_factory=dict)
    nodes: Sequence[Mapping[str, Any]] = ()
    bots: Mapping[str, int] = field(default_factory=dict)
    lock: Seen | None = None
    trouble: str = ""  # why the containers could not be listed

    @property
    def verdict(self) -> str:
        """down when customers can't use it, degraded when something is not as it should be, else ok."""
        if not self.state.active or any(answer.state == "down" for answer in self.answers):
            return "down"
        lesser = any(box.state != "ok" for box in self.boxes)
        nodes = any(not healthy for node in self.nodes for healthy in (node["services"] or {}).values())
        return "degraded" if lesser or nodes else "ok"


def ask_database(place: Place) -> Command:
    """Size, connections, migration and nodes, as one JSON document."""
    program = ("psql", "-U", "wopr", "-d", "wopr_platform", "-tAc", SQL)
    return ("docker", "exec", place.container("postgres"), *program)


def ask_bots(installation: str) -> Command:
    """The state of each bot's container, one a line."""
    labels = ("--filter", f"label=wopr.installation={installation}", "--filter", "label=wopr.bot")
    return ("docker", "ps", "-a", *labels, "--format", "{{.State}}")


async def installation_name(host: Host, place: Place) -> str:
    """The name that marks the bots' containers and volumes of an installation."""
    settings = await settings_there(host, place)
    return settings.get("WOPR_INSTALLATION") or place.name


async def glance(host: Host, place: Place) -> Glance:
    """Look at everything. HostFailed only when the host itself can't be reached."""
    asked = (
        commands.observe(place),
        commands.through_caddy(place, "/ready", API_PORT),
        commands.through_caddy(place, "/ready", UI_PORT),
        ask_database(place),
        ask_bots(await installation_name(host, place)),
    )
    state = await read_state(host, place)
    found, releases, lock = await asyncio.gather(
        asyncio.gather(*(_ask(host, command) for command in asked)),
        read_releases(host, place),
        _lock(host, place),
    )
    containers, api, pages, rows, bots = found
    told = _json(rows) if rows.ok else {}
    boxes = read_boxes(_json(containers) or [], state)
    database = Answer("database", "ok" if told else "down", "" if told else rows.complaint)
    active = state.active.release if state.active else None
    return Glance(
        state=state,
        serving=next((one for one in releases if one.number == active), None),
        boxes=boxes,
        answers=(_answer("api", api), _answer("pages", pages), database),
        database={name: value for name, value in told.items() if name != "nodes"},
        nodes=told.get("nodes", ()),
        bots={word: bots.text.split().count(word) for word in sorted(set(bots.text.split()))} if bots.ok else {},
        lock=lock,
        trouble="" if containers.ok or containers.out.strip() else containers.complaint,
    )


def read_boxes(inspected: Sequence[Mapping[str, Any]], state: State) -> list[Box]:
    """The containers from what `docker inspect` says of them, by name, and one for each that should be and is not."""
    boxes = [_kept(box) if _idle(box, state) else box for box in map(_box, inspected)]
    there = {box.service for box in boxes}
    wanted = [*CORE, *(f"{role}-{state.active.slot}" for role in ROLES if state.active)] if state.active else []
    gone = [Box(name, name, "down", "not there", "", "", None, 0) for name in wanted if name not in there]
    return sorted([*boxes, *gone], key=lambda box: box.name)


def _idle(box: Box, state: State) -> bool:
    """Whether a container belongs to a slot that is to be still: what served before is kept there, stopped."""
    used = {part.slot for part in (state.active, state.candidate, state.leaving) if part}
    still = {f"{role}-{slot}" for role in ROLES for slot in SLOTS if slot not in used}
    return box.service in still and box.status.startswith("exited")


def _kept(box: Box) -> Box:
    return replace(box, state="ok", status="kept for a rollback")


def slots(state: State) -> dict[str, tuple[str, int | None]]:
    """For each slot what it is for now, and its release."""
    parts = (("active", state.active), ("coming in", state.candidate), ("leaving", state.leaving))
    found = {part.slot: (word, part.release) for word, part in reversed(parts) if part}
    return {slot: found.get(slot, ("idle", None)) for slot in SLOTS}


def short(image: str) -> str:
    """An image by its last name and the beginning of its digest or id."""
    name, sign, digest = image.rpartition("sha256:")
    return f"{name.rpartition('/')[2]}{digest[:DIGEST_CHARACTERS]}" if sign else image.rpartition("/")[2]


async def _ask(host: Host, command: Command) -> Output:
    """What a command said; one that can't be run or takes too long has failed with that reason."""
    try:
        return await host.run(command, timeout=ASK_SECONDS)
    except HostFailed as error:
        return Output(1, b"", error.message.encode())


async def _lock(host: Host, place: Place) -> Seen | None:
    try:
        return await look_at_lock(host, place)
    except WoprError:
        return None


def _json(output: Output) -> Any:  # whatever json holds
    try:
        return json.loads(output.out or b"null")
    except ValueError:
        return None


def _answer(name: str, output: Output) -> Answer:
    return Answer(name, "ok") if output.ok else Answer(name, "down", output.complaint[:200])


def _box(one: Mapping[str, Any]) -> Box:
    labels, state = one["Config"].get("Labels") or {}, one["State"]
    health = (state.get("Health") or {}).get("Status", "")
    status = state["Status"] + (f", {health}" if health and health != "none" else "")
    bad = "down" if state["Status"] != "running" else "degraded" if health == "unhealthy" else "ok"
    image = one["Config"].get("Image", "")
    return Box(
        name=one["Name"].lstrip("/"),
        service=labels.get(commands.SERVICE_LABEL, ""),
        state=bad,
        status=status,
        image=short(image if "sha256:" in image else f"{image.rpartition('/')[2]} {one.get('Image', '')}"),
        release=labels.get(commands.RELEASE_LABEL, ""),
        since=_time(state.get("StartedAt", "")) if state["Status"] == "running" else None,
        restarts=int(one.get("RestartCount", 0)),
    )


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(f"{text[:19]}+00:00")
    except ValueError:
        return None
