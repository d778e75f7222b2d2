"""Whether a release does well while it serves: its containers, its readiness, requests through Caddy, its errors.

A release that came in is looked at again and again for a while. One bad look may be chance; several in a row, a crash,
or clearly more errors than the release before it had, and it goes back.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from wopr.cloud.ssh import complaints
from wopr.delivery import commands
from wopr.delivery.commands import API_PORT, UI_PORT
from wopr.delivery.hosts import Host
from wopr.delivery.look import coming, containers, look, unready
from wopr.delivery.place import ROLES, Place, Slot
from wopr.delivery.plan import Container

START_LOOK_SECONDS = 0.1
LOOK_SECONDS = 0.5
BAD_LOOKS_MAX = 4
ERROR_SHARE_MAX = 0.05
ERROR_GROWTH_MAX = 3.0
REQUESTS_MIN = 20
LOG_LINES = 30
SAID_CHARACTERS_MAX = 300
# Asked by ourselves and by Caddy all the time; they would hide what customers meet.
OWN_ROUTES = ("/ready", "/readyz", "/health", "/livez", "/metrics")
REQUESTS_LINE = re.compile(r"^wopr_http_requests_total\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
FIXED_REASON = "could not begin"
UI_AT = 2  # among the ports that are asked through Caddy


@dataclass(frozen=True)
class Counts:
    """Requests answered, and those of them that ended with 5xx."""

    requests: float = 0.0
    errors: float = 0.0

    def since(self, earlier: "Counts") -> "Counts":
        return Counts(self.requests - earlier.requests, self.errors - earlier.errors)

    @property
    def share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


def counted(exposition: str) -> Counts:
    """The counts in the text of `/metrics`, without the routes that machines ask."""
    requests = errors = 0.0
    for labels, value in REQUESTS_LINE.findall(exposition):
        if any(f'route="{route}"' in labels for route in OWN_ROUTES):
            continue
        requests += float(value)
        errors += float(value) if 'status="5' in labels else 0.0
    return Counts(requests, errors)


def worse(before: Counts, now: Counts) -> str:
    """Why the errors of a release are too many; nothing when they are not.

    `before` is what the release before it counted, `now` what this one did since it serves.
    """
    if now.requests < REQUESTS_MIN or now.share <= max(ERROR_SHARE_MAX, before.share * ERROR_GROWTH_MAX):
        return ""
    return f"{now.share:.0%} of {now.requests:.0f} requests ended with 5xx, {before.share:.1%} before"


def broken(found: Sequence[Container], place: Place, slot: Slot) -> Container | None:
    """The container of a slot that crashed or keeps crashing: seen from its state, not by waiting."""
    here = [one for one in found if one.slot == slot]
    return next((one for one in here if one.restarts or one.status in ("exited", "dead", "restarting")), None)


async def wait_ready(host: Host, place: Place, slot: Slot, seconds: float) -> str:
    """Wait until a slot is ready; the reason when it will not be: at once for a crash, else after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        found, reason = await asyncio.gather(containers(host, place), coming(host, place, slot, left))
        if crashed := broken(found, place, slot):
            return await _crash(host, crashed)
        missing = [role for role in ROLES if f"{role}-{slot}" not in {one.service for one in found}]
        reason = f"no container for {missing[0]}" if missing else reason
        if not reason:
            return ""
        if FIXED_REASON in reason or time.monotonic() >= deadline:
            return reason if FIXED_REASON in reason else f"not ready within {seconds:g} s: {reason}"
        await asyncio.sleep(START_LOOK_SECONDS)


async def watch(host: Host, place: Place, slot: Slot, seconds: float, before: Counts) -> str:
    """Look at the release that serves from a slot for so many seconds, once at least; why it must go, or nothing."""
    started = await counts(host, place, slot)
    deadline = time.monotonic() + seconds
    bad_looks = 0
    while True:
        if crashed := broken(await containers(host, place), place, slot):
            return await _crash(host, crashed)
        reason = await unready(host, place, slot) or await through(host, place)
        bad_looks = bad_looks + 1 if reason else 0
        if bad_looks >= BAD_LOOKS_MAX:
            return reason
        if many := worse(before, (await counts(host, place, slot)).since(started)):
            return many
        if time.monotonic() >= deadline and not bad_looks:
            return ""
        await asyncio.sleep(min(LOOK_SECONDS, max(0.1, deadline - time.monotonic())))


async def through(host: Host, place: Place) -> str:
    """Why a request through Caddy to the API or the pages is not answered; nothing when both are."""
    answer = await look(host, commands.through_caddy(place, "/ready", API_PORT, UI_PORT))
    name = "pages" if answer.code == UI_AT else "API"
    return "" if answer.ok else f"no way through Caddy to the {name}: {answer.complaint}"


async def counts(host: Host, place: Place, slot: Slot) -> Counts:
    """What the API of a slot counted so far; nothing where it does not answer."""
    got = await look(host, commands.from_slot(place, slot, "/metrics"))
    return counted(got.out.decode("utf-8", "replace")) if got.ok else Counts()


async def _crash(host: Host, crashed: Container) -> str:
    """What a container that crashed said last."""
    wrote = await host.run(commands.logs(crashed.name, LOG_LINES))
    said = complaints((wrote.err + wrote.out).decode("utf-8", "replace"))
    # One that is being started again has no exit code of its own any more.
    code = f" (exit code {crashed.exit_code})" if crashed.exit_code else ""
    return f"{crashed.service} crashed{code}{f': {said[-1][:SAID_CHARACTERS_MAX]}' if said else ''}"
