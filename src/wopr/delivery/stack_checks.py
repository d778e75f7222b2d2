"""Checks of an installation as it runs on its host, for `wopr check`: whether what runs is what was released.

Everything is looked at once, side by side; each check is a pure rule over what was seen.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from wopr.core.errors import WoprError
from wopr.core.settings import Settings
from wopr.delivery import commands
from wopr.delivery.admission import admitting, lets_in, private_addresses
from wopr.delivery.compose_text import Unreadable, read_compose
from wopr.delivery.env_file import read_env
from wopr.delivery.glance import Glance, glance
from wopr.delivery.hosts import Host, Output
from wopr.delivery.images_on_host import name_of
from wopr.delivery.lock import STALE_SECONDS
from wopr.delivery.look import look
from wopr.delivery.place import ROLES, Place
from wopr.delivery.release import Judgement, Snapshot, read_inputs
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

DUMP_AGE_MAX = timedelta(days=7)
FREE_KILOBYTES_MIN = 2 * 1024**2
CLOCK_SECONDS_MAX = 5.0
RESTARTS_MAX = 5
SHOWN_MAX = 4
# The newest dump that was restored and compared: its facts, and its age by the clock of the host that keeps it.
DUMP_SCRIPT = (
    'newest=$(ls "$1"/*.json 2>/dev/null | sort | tail -n 1); [ -n "$newest" ] || exit 0;'
    ' echo $(( $(date +%s) - $(stat -c %Y "$newest") )); [ -f "${newest%.json}.dump" ] && echo there || echo gone;'
    ' cat "$newest"'
)
CLOCK_SCRIPT = "date +%s.%N"


@dataclass(frozen=True)
class Stack:
    """What was seen. `inspected` are the containers as the engine describes them, `inputs` the operator's files now."""

    seen: Glance
    inspected: Sequence[Mapping[str, Any]]
    inputs: Snapshot
    dump: Output
    free: Output
    clock_seconds: float | None
    compose: Output
    addresses: Output


Rule = Callable[[Stack], Finding]


def checks(host: Host, place: Place) -> Sequence[Check]:
    """Every check of what runs; all of them share one look."""
    shared: list[asyncio.Task[Stack]] = []

    def check(name: str, proves: str, rule: Rule) -> Check:
        async def judge() -> Finding:
            if not shared:
                shared.append(asyncio.create_task(look_stack(host, place)))
            try:
                stack = await asyncio.shield(shared[0])
            except WoprError as error:
                return failed(error.message, error.remedy or "docker info")
            return rule(stack) if stack.seen.state.active else skipped(f"nothing is released in {place.dir}")

        return Check(name, proves, judge)

    return [
        check("stack.containers", "every container that should run does", containers),
        check("stack.restarts", "no container dies again and again", restarts),
        check("stack.serving", "API, pages and database answer through Caddy", serving),
        check("stack.release", "what runs is the release that was recorded", release),
        check("stack.verdict", "the release that serves was found good", verdict),
        check("stack.environment", "every change of .env is in effect", environment),
        check("stack.configuration", "compose.yaml and Caddyfile are in effect as they lie there", configuration),
        check("stack.migrations", "the database is where the release that serves wants it", migrations),
        check("stack.lock", "no dead deployer holds the lock", lock),
        check("stack.dump", "a dump that restores is at hand, and not old", dump),
        check("stack.disk", "the engine has room for the next release", disk),
        check("stack.clock", "the host's clock is right", clock),
        check("stack.compose", "the host has a compose that works", compose),
        check("stack.admission", "rented nodes let this host in", admission),
    ]


async def look_stack(host: Host, place: Place) -> Stack:
    """Look at everything side by side. HostFailed when the host can't be reached."""
    (seen, inputs), (inspected, newest, free, found, time, addresses) = await asyncio.gather(
        asyncio.gather(glance(host, place), read_inputs(host, place)),
        asyncio.gather(
            look(host, commands.observe(place)),
            look(host, ("sh", "-c", DUMP_SCRIPT, "dump", place.dumps)),
            look(host, commands.free_kilobytes(place.dir)),
            look(host, commands.which_compose()),
            look(host, ("sh", "-c", CLOCK_SCRIPT)),
            look(host, commands.addresses()),
        ),
    )
    now = datetime.now(UTC).timestamp()
    return Stack(
        seen=seen,
        inspected=json.loads(inspected.out or b"[]") if inspected.ok else [],
        inputs=inputs,
        dump=newest,
        free=free,
        clock_seconds=float(time.text) - now if time.ok else None,
        compose=found,
        addresses=addresses,
    )


def containers(stack: Stack) -> Finding:
    wrong = [f"{box.service or box.name} is {box.status}" for box in stack.seen.boxes if box.state != "ok"]
    if stack.seen.trouble:
        return failed(stack.seen.trouble, "docker info")
    if wrong:
        return failed(_few(wrong), "wopr status shows each; wopr deploy brings missing ones back.")
    return ok(f"{len(stack.seen.boxes)} containers")


def restarts(stack: Stack) -> Finding:
    often = [f"{box.service} {box.restarts} times" for box in stack.seen.boxes if box.restarts > RESTARTS_MAX]
    if often:
        return failed(f"restarted: {_few(often)}", "docker logs --tail 50 CONTAINER tells why it ends.")
    return ok(f"none more than {RESTARTS_MAX} times")


def serving(stack: Stack) -> Finding:
    down = [f"{answer.name}: {answer.detail or 'no answer'}" for answer in stack.seen.answers if answer.state != "ok"]
    if down:
        return failed(_few(down), "wopr status; wopr rollback goes back to the release before.")
    return ok(", ".join(answer.name for answer in stack.seen.answers))


def release(stack: Stack) -> Finding:
    """The active slot's containers carry the active release's number and run its image."""
    active, recorded = stack.seen.state.active, stack.seen.serving
    if active is None or recorded is None:
        return failed("the active release is not recorded", "Restore the folder releases/ from a backup.")
    others = []
    for one in _slot(stack):
        labels, image = one["Config"].get("Labels") or {}, one["Config"].get("Image", "")
        number = labels.get(commands.RELEASE_LABEL, "")
        if image != recorded.platform:
            others.append(f"{_name(one)} runs {image}")
        elif number and number != str(active.release):
            others.append(f"{_name(one)} is of release {number}")
    if others:
        return failed(f"release {active.release} was recorded, but {_few(others)}", "wopr deploy makes it so again.")
    return ok(f"release {active.release} in slot {active.slot}")


def verdict(stack: Stack) -> Finding:
    recorded = stack.seen.serving
    if recorded is None:
        return skipped("the active release is not recorded")
    if recorded.verdict == Judgement.GOOD:
        return ok(f"release {recorded.number} is {recorded.verdict}")
    if recorded.verdict == Judgement.PENDING:
        return warning(f"release {recorded.number} is still watched, or its deployer was killed", "wopr releases")
    return failed(f"release {recorded.number} is {recorded.verdict}: {recorded.reason}", "wopr rollback")


def environment(stack: Stack) -> Finding:
    """`docker compose restart` does not read `.env` again: containers must be made anew for a change to take effect."""
    wanted = read_env(stack.inputs.files.get("env", b"")).values
    fixed = _fixed(stack)
    stale = sorted(
        {
            name
            for one in _slot(stack)
            for name, value in _environment(one).items()
            if name in wanted and name not in fixed and not _is_in_effect(name, wanted[name], value)
        }
    )
    if stale:
        return failed(f"not in effect: {_few(stale)}", "wopr deploy; a restart does not read .env again.")
    recorded = stack.seen.serving
    if recorded is not None and recorded.env_hash != stack.inputs.env_hash:
        return warning(f".env was changed after release {recorded.number}", "wopr deploy")
    return ok("as at the release")


def configuration(stack: Stack) -> Finding:
    recorded = stack.seen.serving
    if recorded is not None and recorded.config_hash != stack.inputs.config_hash:
        return warning(f"compose.yaml or Caddyfile was changed after release {recorded.number}", "wopr deploy")
    return ok("as at the release")


def migrations(stack: Stack) -> Finding:
    """Migrations run before the server starts: a database behind its release means that somebody started it by hand."""
    recorded, at = stack.seen.serving, stack.seen.database.get("migration")
    if recorded is None or not stack.seen.database:
        return skipped("needs the database")
    if at != recorded.migration_head:
        says = f"the database is at {at or 'nothing'}, release {recorded.number} wants {recorded.migration_head}"
        return failed(says, "wopr migrate apply")
    return ok(str(at))


def lock(stack: Stack) -> Finding:
    held = stack.seen.lock
    if held is None or held.held is None or not held.held.owner:
        return ok("free")
    says = f"{held.held.owner} holds it for {held.held.operation}, last heard {held.age_seconds:.0f} s ago"
    if held.age_seconds > STALE_SECONDS:
        return warning(says, "wopr deploy takes it over by itself; wopr lock release frees it.")
    return ok(says)


def dump(stack: Stack) -> Finding:
    lines = stack.dump.text.splitlines()
    if not lines:
        return warning("there is no dump yet", "wopr migrate dump takes one and restores it for proof.")
    age, there, facts = timedelta(seconds=int(lines[0])), lines[1], json.loads("\n".join(lines[2:]))
    says = f"{facts['rows']} rows in {facts['tables']} tables, {age.days} days old"
    if there != "there":
        return failed(f"{facts['path']} is gone", "wopr migrate dump")
    return ok(says) if age <= DUMP_AGE_MAX else warning(says, "wopr migrate dump")


def disk(stack: Stack) -> Finding:
    if not stack.free.ok or not stack.free.text.isdigit():
        return failed(stack.free.complaint, "df -h")
    free = int(stack.free.text)
    says = f"{free / 1024**2:.1f} GB free"
    return ok(says) if free >= FREE_KILOBYTES_MIN else failed(says, "docker image prune; 2 GB are needed.")


def clock(stack: Stack) -> Finding:
    """Signatures of webhooks, sessions and one-time codes all rest on the time."""
    if stack.clock_seconds is None:
        return skipped("the host tells no time")
    says = f"{abs(stack.clock_seconds):.1f} s {'ahead of' if stack.clock_seconds > 0 else 'behind'} this machine"
    return ok(says) if abs(stack.clock_seconds) <= CLOCK_SECONDS_MAX else failed(says, "timedatectl set-ntp true")


def compose(stack: Stack) -> Finding:
    if not stack.compose.text:
        return failed("neither docker compose nor docker-compose is there", "apt-get install docker-compose-plugin")
    return ok(stack.compose.text)


def admission(stack: Stack) -> Finding:
    """A host that was moved or restored may have another address than its nodes were told of."""
    wanted = read_env(stack.inputs.files.get("env", b"")).values
    if not wanted.get("DO_API_TOKEN"):
        return skipped("DO_API_TOKEN is not set: no node is rented")
    own = private_addresses(stack.addresses.text)
    if not own:
        return skipped("the host has no private address that can be told")
    admitted = wanted.get("GPU_ADMIT") or str(Settings.model_fields["gpu_admit"].default)
    if not lets_in(admitted, own):
        says = f"GPU_ADMIT={admitted} admits none of this host's private addresses ({_few(own)})"
        return failed(says, f"GPU_ADMIT={admitting(own)} in .env, then wopr deploy; the firewall follows.")
    return ok(f"{admitted} has {_few(own)}")


def _slot(stack: Stack) -> Sequence[Mapping[str, Any]]:
    """The containers of the slot that serves, as the engine describes them."""
    active = stack.seen.state.active
    wanted = {f"{role}-{active.slot}" for role in ROLES} if active else set()
    return [one for one in stack.inspected if _name(one) in wanted]


def _fixed(stack: Stack) -> set[str]:
    """What the compose file sets itself for the slot that serves: it wins over `.env`."""
    text = stack.inputs.files.get("compose.yaml", b"").decode("utf-8", "replace")
    try:
        services = read_compose(text, {})
    except Unreadable:
        return set()
    names = {_name(one) for one in _slot(stack)}
    return {name for service in services if service.name in names for name in service.environment}


def _is_in_effect(name: str, wanted: str, value: str) -> bool:
    """A release names the bots' image by digest, whatever `.env` calls it."""
    return wanted == value or (name == "BOT_IMAGE" and "@" in value and name_of(wanted) == name_of(value))


def _environment(one: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(pair.partition("=")[::2] for pair in one["Config"].get("Env") or [])


def _name(one: Mapping[str, Any]) -> str:
    return str((one["Config"].get("Labels") or {}).get(commands.SERVICE_LABEL, ""))


def _few(said: Sequence[str]) -> str:
    return ", ".join(said[:SHOWN_MAX]) + (f" and {len(said) - SHOWN_MAX} more" if len(said) > SHOWN_MAX else "")
