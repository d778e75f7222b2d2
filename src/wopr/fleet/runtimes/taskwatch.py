"""Notices that bots of a Swarm ended, and finds out why. Swarm reports no end of a task to anybody, so it is asked.

Each look is one listing of tasks and one of machines; looking takes at most a twentieth of the time, however many bots
there are.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

import structlog

from wopr.core.ids import BotId
from wopr.core.vault import Vault
from wopr.fleet.runtimes import enginelog
from wopr.fleet.runtimes.containers import LABEL_DATA, parse_time, reason_of
from wopr.fleet.runtimes.ends import TEXT_CHARACTERS_MAX
from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.manager import Manager
from wopr.fleet.runtimes.nodequota import NodeQuotas
from wopr.fleet.runtimes.nodes import Node, why_away
from wopr.fleet.runtimes.protocol import Ended, Instance, RuntimeFailed
from wopr.fleet.runtimes.services import BY_ITSELF, Task, instance_of

LOOK_SECONDS = 1.0
SHARE_OF_TIME = 20
EXPECTED_MAX = 10_000
Homes = dict[BotId, str]

log = structlog.get_logger(__name__)


class TaskWatch:
    """Knows what lives, and tells `on_end` of what ended without anybody's wish."""

    def __init__(self, engine: Engine, manager: Manager, tokens: Vault, quotas: NodeQuotas) -> None:
        self.on_end: Callable[[Ended], None] | None = None
        self.nodes: Mapping[str, Node] = {}
        self._engine = engine
        self._manager = manager
        self._tokens = tokens
        self._quotas = quotas
        self._living: dict[BotId, tuple[Instance, str]] = {}
        self._expected: dict[UUID, None] = {}
        self._looked_at = float("-inf")
        self._took = 0.0
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Look again and again from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="swarm tasks")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def expect(self, instance_id: UUID) -> None:
        """This instance's coming end is our own doing."""
        self._expected[instance_id] = None
        while len(self._expected) > EXPECTED_MAX:
            del self._expected[next(iter(self._expected))]

    def know(self, instance: Instance, node_id: str) -> None:
        """It was started a moment ago: its end is told even if no look ever sees it alive."""
        self._living[instance.bot_id] = (instance, node_id)
        self._looked_at = float("-inf")

    async def settle(self, bot_id: BotId) -> None:
        """Tell the end of what was known to live before anybody acts on its absence: it may have been a crash."""
        if bot_id in self._living:
            await self._look()

    def doubt(self) -> None:
        """Look afresh when asked the next time."""
        self._looked_at = float("-inf")

    async def view(self) -> Mapping[BotId, Instance]:
        """What lives, from a look that is hardly older than the time between two."""
        if monotonic() - self._looked_at > self._pause:
            await self._look()
        return {bot_id: instance for bot_id, (instance, _) in self._living.items()}

    @property
    def _pause(self) -> float:
        return max(LOOK_SECONDS, self._took * SHARE_OF_TIME)

    async def _run(self) -> None:
        away = False
        while True:
            await asyncio.sleep(self._pause)
            try:
                await self._look()
                away = False
            except RuntimeFailed as error:
                if not away:
                    log.warning("swarm.manager_lost", error=error.message)
                away = True
                self._looked_at = float("-inf")

    async def _look(self) -> None:
        async with self._lock:
            before = monotonic()
            known = dict(self._living)
            self.nodes, tasks = await asyncio.gather(self._manager.nodes(), self._manager.tasks())
            found: dict[BotId, tuple[Instance, str]] = {}
            for task in tasks:
                instance = instance_of(task, self.nodes, self._tokens)
                if instance is not None:
                    found[instance.bot_id] = (instance, task.node_id)
            # What was started during the listing is seen by the next one.
            news = {bot_id: entry for bot_id, entry in self._living.items() if known.get(bot_id) != entry}
            self._living = found | news
            self._took, self._looked_at = monotonic() - before, before
            gone = [entry for bot_id, entry in known.items() if _missing(entry[0], found.get(bot_id))]
            for instance, node_id in gone:
                await self._tell(instance, node_id)

    async def _tell(self, instance: Instance, node_id: str) -> None:
        if self._expected.pop(instance.id, self) is None or self.on_end is None:
            return
        away = why_away(self.nodes.get(node_id))
        if away:
            self.on_end(Ended(instance.bot_id, instance.id, datetime.now(UTC), away, machine=True))
            return
        tasks = [task for task in await self._manager.tasks_of(instance.bot_id) if task.instance_id == instance.id]
        if tasks and tasks[-1].state in BY_ITSELF:
            at = parse_time(tasks[-1].listed["Status"]["Timestamp"])
            self.on_end(Ended(instance.bot_id, instance.id, at, await self._explain(tasks[-1])))

    async def _explain(self, task: Task) -> str:
        allowed = int(task.listed["Spec"]["ContainerSpec"]["Labels"].get(LABEL_DATA, 0))
        excess = await self._quotas.excess(task.bot_id, task.node_id)
        if excess is not None and (excess.limit == 0 or excess.size > allowed > 0):
            return excess.reason
        limits = task.listed["Spec"].get("Resources", {}).get("Limits") or {}
        reason = reason_of(task.exit_code, False, int(limits.get("MemoryBytes") or 0))
        lines = await enginelog.tail(self._engine, task.id, 50, "tasks")
        errors = [line for line in lines if line.stream == "stderr"]
        return f"{reason}: {errors[-1].text[:TEXT_CHARACTERS_MAX]}" if errors else reason


def _missing(instance: Instance, present: tuple[Instance, str] | None) -> bool:
    return present is None or present[0].id != instance.id
