"""A person restarts a rented machine: done at once, and known to the ladder of repair, which would else disturb it.

The ladder takes it as a rung that was asked for and done: the machine gets the time to boot, counts among those that
are touched, and serves again after three good looks. The journal has one operation of it, which ends with these.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wopr.cloud.compute import Action, CloudError, Compute
from wopr.core.db import Database
from wopr.core.errors import Conflict
from wopr.core.ids import NodeId, new_id
from wopr.inference.nodes import SERVING, Node, get
from wopr.inference.repair import failures_of
from wopr.inference.repair_loop import OPERATIONS, write_repair
from wopr.inference.repair_state import Phase, Repair, Rung, repair_of
from wopr.ops.journal import Journal

WHY = "somebody asked for it"


@dataclass(frozen=True)
class Desk:
    """What it takes: the rows, the cloud whose machine it is, where it is written down."""

    db: Database
    cloud: Compute
    journal: Journal


async def reboot(desk: Desk, node_id: str, now: int, *, hard: bool = False) -> str:
    """Restart a node's machine: asked of its system, or by cutting its power. The id of the cloud's action.

    NotFound; Conflict for a node without a rented machine, or whose machine is being restarted; CloudError. `now` is in
    seconds since 1970.
    """
    rung = Rung.POWER_CYCLE if hard else Rung.REBOOT
    operation = str(new_id())
    async with desk.db.begin() as session:
        node = await get(session, NodeId(node_id))
        machine_id = _machine_of(node)
        meant = _meant(node, rung, operation, now)
        if meant is not None and not await write_repair(session, node, meant):
            raise Conflict(f"Something else is being done to {node_id} at this moment.", remedy="Ask again.")
    before = repair_of(node)
    await _write(desk, operation, rung, "begin", {"node": node_id, "machine": machine_id, "why": WHY})
    try:
        action = await desk.cloud.act(machine_id, Action.POWER_CYCLE if hard else Action.REBOOT)
    except CloudError as error:
        if meant is None or not error.uncertain:
            await _write(desk, operation, rung, "fail", {"error": error.message})
            if meant is not None:
                await _store(desk, node, meant, before)
        else:
            # Only the answer was lost: the ladder waits for the machine as if it were being restarted.
            await _end(desk, before)
        raise
    if meant is None:
        await _write(desk, operation, rung, "end", {"action": action})
    else:
        await _end(desk, before)
        await _store(desk, node, meant, replace(meant, action=action))
    return action


def _machine_of(node: Node) -> str:
    if node.making.machine_id is None:
        raise Conflict(
            f"{node.id} has no rented machine that could be restarted.",
            remedy=f"`wopr nodes show {node.id}` tells how far it is.",
        )
    if node.repair.get("phase") == Phase.UNDER_WAY:
        raise Conflict(
            f"The machine of {node.id} is being restarted already.", remedy="`wopr nodes list` shows when it is done."
        )
    return node.making.machine_id


def _meant(node: Node, rung: Rung, operation: str, now: int) -> Repair | None:
    """Where the ladder then stands; None for a node that it does not look after, such as one that is being made."""
    if node.desired != SERVING or node.provision_stage != "done" or not node.host:
        return None
    before = repair_of(node)
    return replace(
        before.history(hard=(*before.hard, now)),
        rung=rung,
        phase=Phase.UNDER_WAY,
        since=now,
        services=tuple(sorted(node.ports)),
        why=WHY,
        operation=operation,
        out=True,
        looks=failures_of(node),
        told=before.told,
        rests=before.rests,
    )


async def _store(desk: Desk, node: Node, meant: Repair, after: Repair) -> None:
    async with desk.db.begin() as session:
        await write_repair(session, replace(node, repair=meant.to_json()), after)


async def _end(desk: Desk, before: Repair) -> None:
    """The rung on which the ladder stood is over: this restart took its place."""
    if before.operation is not None and before.rung is not None:
        await _write(desk, before.operation, before.rung, "fail", {"error": WHY})


async def _write(
    desk: Desk,
    operation: str,
    rung: Rung,
    phase: str,
    data: Mapping[str, Any],  # what json can write
) -> None:
    await asyncio.to_thread(desk.journal.append, operation, OPERATIONS[rung], phase, data)
