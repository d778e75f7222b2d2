"""What is on the host now: containers, which of them are ready, releases."""

import asyncio
import json
from typing import Any, cast

from wopr.delivery import commands
from wopr.delivery.errors import HostAway, HostFailed
from wopr.delivery.hosts import Host, Output
from wopr.delivery.place import ROLES, SLOTS, Place, Slot
from wopr.delivery.plan import Container, Observed
from wopr.delivery.quarantine import read_quarantine
from wopr.delivery.release import Judgement, State, read_releases

PROBE_SECONDS_MAX = 15.0
TRY_SECONDS, TRIES_MAX = 0.15, 12


async def containers(host: Host, place: Place) -> list[Container]:
    """Every container of the installation. HostAway when the engine does not answer, or not to the end."""
    try:
        got = await host.run(commands.observe(place))
    except HostFailed as error:
        raise HostAway(error.message, remedy=error.remedy or "docker info") from error
    if not got.ok and not got.out.strip():
        raise HostAway(
            f"Docker on {host.describe()} does not answer: {got.complaint}",
            remedy="Is it installed, and does it run? docker info",
        )
    # One that went away between the two looks makes the second complain; what it did find is in its answer.
    return [_container(one) for one in json.loads(got.out or b"[]")]


async def observe(host: Host, place: Place, state: State) -> Observed:
    """Everything that the plan is made from. Slots are asked only where one leaves or what serves has no verdict, the
    quarantine only where a release has none: else nothing depends on it."""
    found, releases = await asyncio.gather(containers(host, place), read_releases(host, place))
    pending = {one.number: one.content() for one in releases if one.verdict == Judgement.PENDING}
    running = {one.service for one in found if one.runs}
    matters = state.leaving or (state.active and state.active.release in pending)
    whole = [slot for slot in SLOTS if matters and {f"{role}-{slot}" for role in ROLES} <= running]
    answers = await asyncio.gather(*(unready(host, place, slot) for slot in whole))
    entries = await read_quarantine(host, place) if pending else []
    condemned = {one.release: one.reason for one in entries if pending.get(one.release) == one.content}
    ready = {slot: not answer for slot, answer in zip(whole, answers, strict=True)}
    return Observed(found, ready, releases, condemned)


async def look(host: Host, command: commands.Command) -> Output:
    """Ask something of what runs. A look that hangs, as under load an exec may, is a no: who waits asks again."""
    try:
        return await host.run(command, timeout=PROBE_SECONDS_MAX)
    except HostFailed as error:
        return Output(1, b"", error.message.encode())


async def unready(host: Host, place: Place, slot: Slot) -> str:
    """Why a slot is not ready; nothing when it is."""
    names = place.slot_containers(slot)
    answers = await asyncio.gather(*(look(host, commands.probe(name, "/ready")) for name in names))
    return next(filter(None, (_why(place, *one) for one in zip(names, answers, strict=True))), "")


async def coming(host: Host, place: Place, slot: Slot, seconds: float) -> str:
    """Why a slot that was just started is not ready; nothing when it is, or becomes so within the next moment, which
    ends after `seconds` at the latest."""
    names = place.slot_containers(slot)
    tries = max(1, min(TRIES_MAX, int(seconds / TRY_SECONDS)))
    answers = await asyncio.gather(*(look(host, commands.probe_patiently(name, "/ready", tries)) for name in names))
    return next(filter(None, (_why(place, *one) for one in zip(names, answers, strict=True))), "")


def reasons(body: str) -> str:
    """The reasons in the body of a `/ready` that said no."""
    start = body.find("{")
    try:
        return "; ".join(json.loads(body[start:])["reasons"]) if start >= 0 else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _why(place: Place, name: str, answer: Output) -> str:
    if answer.ok:
        return ""
    return f"{name.removeprefix(place.name + '-')}: {reasons(answer.text) or answer.complaint}"


def _container(described: dict[str, Any]) -> Container:
    labels = described["Config"].get("Labels") or {}
    slot, release = labels.get(commands.SLOT_LABEL), labels.get(commands.RELEASE_LABEL, "")
    state = described["State"]
    return Container(
        name=described["Name"].lstrip("/"),
        service=labels.get(commands.SERVICE_LABEL, ""),
        slot=cast(Slot, slot) if slot in SLOTS else None,
        release=int(release) if release.isdigit() else None,
        status=state["Status"],
        restarts=int(described.get("RestartCount", 0)),
        exit_code=int(state.get("ExitCode", 0)),
        image=described["Config"].get("Image", ""),
        made=labels.get(commands.MADE_LABEL, ""),
    )
