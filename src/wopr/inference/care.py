"""What people ask of a node: to keep requests away from it, to empty it, to have it back, to repair it now."""

from dataclasses import replace

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.errors import Conflict, Invalid
from wopr.core.ids import NodeId
from wopr.core.notify import notify
from wopr.inference.models import GpuNode
from wopr.inference.nodes import GONE, NODES_CHANNEL, SERVING, Node, get
from wopr.inference.repair_loop import write_repair
from wopr.inference.repair_state import HARD, Rung, repair_of

CORDONED, DRAINED = "cordoned", "drained"
# What a person may want of a node here; giving one back is another thing.
WISHES = (SERVING, CORDONED, DRAINED)
RUNGS = tuple(rung for rung in Rung if rung is not Rung.PERSON)


async def want(session: AsyncSession, node_id: NodeId, desired: str) -> tuple[Node, bool]:
    """Want it serving, cordoned or drained; the node, and whether that is news. NotFound, Invalid, Conflict."""
    if desired not in WISHES:
        raise Invalid(f"{desired!r} is nothing that a node can be.", remedy=f"Use one of {', '.join(WISHES)}.")
    node = await get(session, node_id)
    if node.desired == GONE:
        raise Conflict(f"{node_id} is being given back.", remedy="`wopr nodes list` shows when it is gone.")
    # Only what is wanted: whoever writes `repair` at this moment finds it changed and looks again.
    await session.execute(
        update(GpuNode).where(GpuNode.id == node_id, GpuNode.desired != desired).values(desired=desired)
    )
    return await get(session, node_id), node.desired != desired


async def ask_repair(session: AsyncSession, node_id: NodeId, rung: Rung) -> Node:
    """Have the ladder take this rung now, whatever the watchdog thinks. NotFound; Conflict when it can't be."""
    if rung not in RUNGS:
        raise Invalid(f"{rung} can't be asked for.", remedy=f"Use one of {', '.join(RUNGS)}.")
    node = await get(session, node_id)
    if node.provision_stage != "done" or not node.host or node.desired == GONE:
        raise Conflict(f"{node_id} is being made or given back.", remedy="`wopr nodes list` shows how far it is.")
    if rung in HARD and node.provider is None:
        raise Conflict(
            f"{node_id} was registered by hand: nobody but you can {rung.replace('_', '-')} it.",
            remedy=f"Restart its services with `wopr nodes repair {node_id}`, or see to the machine yourself.",
        )
    if not await write_repair(session, node, replace(repair_of(node), asked=rung)):
        raise Conflict(f"Something else is being done to {node_id} at this moment.", remedy="Ask again.")
    await notify(session, NODES_CHANNEL, node_id)
    return await get(session, node_id)
