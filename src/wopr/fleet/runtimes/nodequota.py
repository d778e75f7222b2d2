"""What the agents of a Swarm say of bots whose data outgrew their size: they measure, and end them; others ask why.

An agent tells it in its log, which the manager brings from any machine. What is on a machine that is away is as it was.
"""

import asyncio
from collections.abc import Iterable, Mapping

from wopr.core.ids import BotId
from wopr.fleet.runtimes import enginelog, node_guard
from wopr.fleet.runtimes.containers import volume_name
from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.manager import Manager
from wopr.fleet.runtimes.nodes import Node
from wopr.fleet.runtimes.protocol import BotSpec, RuntimeFailed
from wopr.fleet.runtimes.quota import Excess, require_fits

LINES_MAX = 2_000
READ_SECONDS_MAX = 5.0


class NodeQuotas:
    """The volumes that hold too much, by machine, as told when it was asked last."""

    def __init__(self, engine: Engine, manager: Manager, agents: str) -> None:
        self._engine = engine
        self._manager = manager
        self._agents = agents
        self._full: dict[str, Mapping[str, Excess]] = {}

    async def read(self, nodes: Iterable[Node]) -> None:
        """Ask the agents of these machines."""
        await asyncio.gather(*(self._read(node.id) for node in nodes if node.works))

    async def excess(self, bot_id: BotId, node_id: str) -> Excess | None:
        """What a bot's data takes, if it was too much for how the bot ran last. Asks afresh."""
        await self._read(node_id)
        return self._full.get(node_id, {}).get(volume_name(bot_id))

    async def refuse(self, spec: BotSpec, node: Node) -> None:
        """Raises `OverQuota` or `DiskShort` when the bot took too much at the last look."""
        if node.id not in self._full:
            await self._read(node.id)
        require_fits(self._full.get(node.id, {}).get(volume_name(spec.bot_id)), spec)

    async def _read(self, node_id: str) -> None:
        task = await self._manager.running_on(self._agents, node_id)
        if task is None:
            return
        try:
            # A manager waits for the log of a machine that it has not missed yet.
            async with asyncio.timeout(READ_SECONDS_MAX):
                lines = await enginelog.tail(self._engine, task, LINES_MAX, "tasks")
        except (TimeoutError, RuntimeFailed):
            return  # what was told before stands
        self._full[node_id] = parse(line.text for line in lines)


def parse(lines: Iterable[str]) -> dict[str, Excess]:
    """The volumes that hold too much after these lines of an agent. Pure."""
    full: dict[str, Excess] = {}
    for line in lines:
        match line.split():
            case [node_guard.FULL, volume, size, limit] if size.isdecimal() and limit.isdecimal():
                full[volume] = Excess(int(size), int(limit))
            case [node_guard.GREEDY, volume, size] if size.isdecimal():
                full[volume] = Excess(int(size), 0)
            case [node_guard.FITS, volume]:
                full.pop(volume, None)
    return full
