"""Whether a release does well while it serves: its containers, its readiness, what a customer could ask, what customers
are answered.

A release that came in is looked at again and again for a while. One bad look may be chance; several in a row, a crash,
or clearly more errors than before it, and it goes back. An engine that can't be asked says nothing of a release.
"""

import asyncio
import time
from collections.abc import Sequence

from wopr.cloud.ssh import complaints
from wopr.delivery import answers, commands
from wopr.delivery.answers import Counts
from wopr.delivery.errors import HostAway
from wopr.delivery.hosts import Host
from wopr.delivery.look import coming, containers, look, unready
from wopr.delivery.place import ROLES, Place, Slot
from wopr.delivery.plan import Container

START_LOOK_SECONDS = 0.1
LOOK_SECONDS = 0.5
BAD_LOOKS_MAX = 4
LOG_LINES = 30
SAID_CHARACTERS_MAX = 300
FIXED_REASON = "could not begin"
UI_AT = 2  # among what is asked on trial
TRIAL_TRIES = 10
AWAY_SECONDS_MAX = 120.0
# An engine that comes back has started what ran on it just then.
BACK_READY_SECONDS = 60.0


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
    """Look at the release that serves from a slot for so many seconds, once at least; why it must go, or nothing.

    The seconds begin anew where the engine did not answer meanwhile; HostAway when it is not back in good time.
    """
    since = await answers.since_now(host, place)
    deadline = time.monotonic() + seconds
    bad_looks = 0
    while True:
        try:
            crashed, reason = await _looked(host, place, slot)
        except HostAway:
            await _back(host, place, slot)
            deadline, bad_looks = time.monotonic() + seconds, 0
            continue
        bad_looks = bad_looks + 1 if reason else 0
        if crashed or bad_looks >= BAD_LOOKS_MAX:
            return reason
        if many := answers.worse(before, await since.look()):
            return many
        if time.monotonic() >= deadline and not bad_looks:
            return ""
        await asyncio.sleep(min(LOOK_SECONDS, max(0.1, deadline - time.monotonic())))


async def _looked(host: Host, place: Place, slot: Slot) -> tuple[bool, str]:
    """One look: whether the release crashed, and what is wrong with it. HostAway when nobody answers."""
    if crashed := broken(await containers(host, place), place, slot):
        return True, await _crash(host, crashed)
    return False, await unready(host, place, slot) or await tried(host, commands.trials(place))


async def _back(host: Host, place: Place, slot: Slot) -> None:
    """Wait until the engine answers again, and for what it then starts."""
    until = time.monotonic() + AWAY_SECONDS_MAX
    while True:
        try:
            await wait_ready(host, place, slot, BACK_READY_SECONDS)
            return
        except HostAway:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(LOOK_SECONDS)


async def tried(host: Host, trials: commands.Command) -> str:
    """Why what a customer could ask of API and pages is not answered; nothing when it is."""
    answer = await look(host, trials)
    name = "pages" if answer.code == UI_AT else "API"
    return "" if answer.ok else f"no right answer from the {name}: {answer.complaint}"


async def tried_patiently(host: Host, trials: commands.Command) -> str:
    """As `tried`, several times: of a machine that is busy one answer may be late."""
    for _ in range(TRIAL_TRIES - 1):
        if not await tried(host, trials):
            return ""
    return await tried(host, trials)


async def _crash(host: Host, crashed: Container) -> str:
    """What a container that crashed said last."""
    wrote = await host.run(commands.logs(crashed.name, LOG_LINES))
    said = complaints((wrote.err + wrote.out).decode("utf-8", "replace"))
    # One that is being started again has no exit code of its own any more.
    code = f" (exit code {crashed.exit_code})" if crashed.exit_code else ""
    return f"{crashed.service} crashed{code}{f': {said[-1][:SAID_CHARACTERS_MAX]}' if said else ''}"
