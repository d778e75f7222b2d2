"""What is on the host now: containers, which of them are ready, releases."""

import json
from typing import Any, cast

from wopr.delivery import commands
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import Host
from wopr.delivery.place import ROLES, SLOTS, Place, Slot
from wopr.delivery.plan import Container, Observed
from wopr.delivery.release import read_releases


async def containers(host: Host, place: Place) -> list[Container]:
    """Every container of the installation. HostFailed when the engine does not answer."""
    got = await host.run(commands.observe(place))
    if not got.ok and not got.out.strip():
        raise HostFailed(
            f"Docker on {host.describe()} does not answer: {got.complaint}", remedy="Is it running? docker info"
        )
    # One that went away between the two looks makes the second complain; what it did find is in its answer.
    return [_container(one) for one in json.loads(got.out or b"[]")]


async def observe(host: Host, place: Place) -> Observed:
    """Everything that the plan is made from."""
    found = await containers(host, place)
    ready: dict[Slot, bool] = {}
    for slot in SLOTS:
        running = {one.service for one in found if one.slot == slot and one.runs}
        if {f"{role}-{slot}" for role in ROLES} <= running:
            ready[slot] = not await unready(host, place, slot)
    return Observed(found, ready, await read_releases(host, place))


async def unready(host: Host, place: Place, slot: Slot) -> str:
    """Why a slot is not ready; nothing when it is."""
    for name in place.slot_containers(slot):  # one after the other: looking must not slow down what is starting
        answer = await host.run(commands.probe(name, "/ready"))
        if not answer.ok:
            return f"{name.removeprefix(place.name + '-')}: {reasons(answer.text) or answer.complaint}"
    return ""


def reasons(body: str) -> str:
    """The reasons in the body of a `/ready` that said no."""
    start = body.find("{")
    try:
        return "; ".join(json.loads(body[start:])["reasons"]) if start >= 0 else ""
    except (ValueError, KeyError, TypeError):
        return ""


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
    )
