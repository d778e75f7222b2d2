"""Bots spread over the machines of a Docker Swarm, one service each, pinned to the machine that has its volume.

The API talks to a manager only. Bots are reached at a port of their machine that Docker chooses (`mode=host`), so the
API needs no place on an overlay network, and bots share none: each machine keeps its own behind a fence.
While a machine is away its bots wait for it: their memory is there, and nothing is started empty in its stead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_urlsafe
from uuid import UUID

import structlog

from wopr.core.ids import BotId, new_id
from wopr.core.vault import Vault
from wopr.fleet.runtimes import containers, enginelog, services
from wopr.fleet.runtimes.agents import Charge
from wopr.fleet.runtimes.caretaker import Caretaker
from wopr.fleet.runtimes.containers import Start, copier_name, parse_time
from wopr.fleet.runtimes.docker import GRACE_SECONDS, NOWHERE
from wopr.fleet.runtimes.engine import NOT_FOUND, Engine, EngineRefused, Json
from wopr.fleet.runtimes.errands import Errand, Errands
from wopr.fleet.runtimes.images import PullFailed, ask_registry, registry_of
from wopr.fleet.runtimes.manager import Manager, home_of
from wopr.fleet.runtimes.nodecopies import NodeCopies
from wopr.fleet.runtimes.nodeimages import NodeImages
from wopr.fleet.runtimes.nodequota import NodeQuotas
from wopr.fleet.runtimes.nodes import Node, NoRoom, choose, require_works, why_away
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, LogLine, RuntimeFailed
from wopr.fleet.runtimes.services import SwarmPlace, Task, generation_of, instance_of
from wopr.fleet.runtimes.taskwatch import TaskWatch

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = GRACE_SECONDS + 10.0
POLL_SECONDS = 0.05
POLL_SECONDS_MAX = 0.5
NEXT_TASK_SECONDS = 0.5
NO_NODE = "no suitable node"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Away:
    """A machine that can't run the bots whose memory it has."""

    node: str
    bots: int
    reason: str


@dataclass(frozen=True)
class SwarmInstallation:
    """Everything that the runtime is told. `report` hears which machines are away, with the next `tend`."""

    image: str
    charge: Charge
    tokens: Vault = field(repr=False)
    report: Callable[[Sequence[Away]], None] = field(default=lambda away: None)


class SwarmRuntime:
    """The runtime of one Swarm for one installation."""

    def __init__(self, engine: Engine, installation: SwarmInstallation) -> None:
        charge = installation.charge
        self._engine = engine
        self._installation = installation
        self._credentials = charge.credentials
        self._manager = Manager(engine, charge.installation)
        self._caretaker = Caretaker(engine, charge)
        self._errands = Errands(engine, charge)
        self._images = NodeImages(self._errands, charge.installation, charge.credentials)
        self.copies = NodeCopies(self._manager, self._errands, charge.installation)
        self._quotas = NodeQuotas(engine, self._manager, charge.agents)
        self._watch = TaskWatch(engine, self._manager, installation.tokens, self._quotas)
        self._homes: dict[BotId, str] = {}
        self._placing = asyncio.Lock()
        self._place = SwarmPlace(
            charge.installation,
            charge.policy.network.name,
            tuple(str(server) for server in charge.policy.name_servers),
            GRACE_SECONDS,
            installation.tokens,
        )

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        self._watch.on_end = on_end

    async def observe(self) -> Mapping[BotId, Instance]:
        await self._watch.begin()
        return await self._watch.view()

    def held(self, bot_id: BotId) -> str:
        home = self._homes.get(bot_id)
        return why_away(self._watch.nodes.get(home)) if home and self._watch.nodes else ""

    async def locate(self, bot_id: BotId) -> Instance | None:
        nodes = await self._look_at_nodes()
        service = await self._manager.service(bot_id)
        if service is None:
            self._homes.pop(bot_id, None)
            return None
        self._homes[bot_id] = home_of(service)
        instance = self._living(await self._manager.tasks_of(bot_id), nodes)
        if instance is None:
            await self._watch.settle(bot_id)
        return instance

    async def prepare(self, bot_id: BotId, image: str) -> None:
        """Have the image on the bot's machine; for a bot that has none yet, its registry is asked for it."""
        image = image or self._installation.image
        service = await self._manager.service(bot_id)
        if service is None:
            await ask_registry(self._engine, image, self._credentials)
            return
        node = require_works((await self._look_at_nodes()).get(home_of(service)))
        await self._images.ensure(node, image)

    async def start(self, spec: BotSpec) -> Instance:
        await self._watch.begin()
        nodes = await self._look_at_nodes()
        service = await self._manager.service(spec.bot_id)
        tasks = await self._manager.tasks_of(spec.bot_id) if service is not None else []
        present = next((task for task in reversed(tasks) if task.current), None)
        if present is not None and generation_of(present) == spec.generation:
            return self._living(tasks, nodes) or await self._await_task(present.bot_id, present.instance_id)
        begin = Start(new_id(), datetime.now(UTC), token_urlsafe(32))
        if service is not None and (told := services.coming(service, tasks, spec.generation, begin.at)) is not None:
            return await self._await_task(spec.bot_id, told)
        # All that can fail comes before the old instance is ended.
        await self._caretaker.ensure(nodes)
        if service is None:
            node = await self._launch(spec, begin, nodes)
        else:
            node = require_works(nodes.get(home_of(service)))
            await self._caretaker.require(node)
            await self._quotas.refuse(spec, node)
            image = self._image(spec)
            if image != services.image_of(service):
                await self._images.ensure(node, image)
            await self._relaunch(service, tasks, services.describe(spec, begin, node, self._place, image))
        self._homes[spec.bot_id] = node.id
        return await self._await_task(spec.bot_id, begin.instance_id)

    async def stop(self, bot_id: BotId) -> None:
        service = await self._manager.service(bot_id)
        if service is None:
            return
        tasks = await self._manager.tasks_of(bot_id)
        for task in tasks:
            self._watch.expect(task.instance_id)
        if service["Spec"]["Mode"]["Replicated"]["Replicas"]:
            await self._manager.update(service, services.asleep(service["Spec"]))
        await self._await_end(bot_id)
        self._watch.doubt()

    async def remove(self, bot_id: BotId) -> None:
        """On a machine that is away, the data is removed when it is back: the wish lies with the Swarm."""
        await self.stop(bot_id)
        service = await self._manager.service(bot_id)
        if service is None:
            return
        nodes, home = await self._look_at_nodes(), home_of(service)
        # In this order: whoever dies in between leaves a wish behind, and no data that nobody knows of.
        arguments = ("clear", self._installation.charge.installation, str(bot_id))
        errand = Errand(f"wopr-remove-{bot_id}", home, str(bot_id), arguments)
        if home in nodes:
            await self._errands.forget(copier_name(bot_id))
            await self._errands.leave(errand)
        await self._manager.delete(service)
        self._homes.pop(bot_id, None)
        if home not in nodes:
            # Nobody can reach it any more; should it still be there, its operator must know what to do on it.
            log.warning("bot.data_left", bot=str(bot_id), machine=home, remedy=f"There: {self._clearing(bot_id)}")
        elif nodes[home].works:
            await self._errands.finish(errand.name)
        self._watch.doubt()

    async def tend(self) -> int:
        """Looks after the machines and tells which are away; forgets what was done on them."""
        nodes = await self._look_at_nodes()
        if not await self._manager.services():
            return await self._errands.sweep(nodes)
        done = int(await self._caretaker.ensure(nodes)) + await self._errands.sweep(nodes)
        await self._quotas.read(nodes.values())
        await asyncio.to_thread(self._installation.report, await self._away(nodes))
        return done

    async def guard(self) -> int:
        return 0  # each machine's agent does

    async def prune(self, needed: Sequence[str]) -> int:
        if not await self._manager.services():
            return 0  # no bots, and nobody who would do it there
        nodes = await self._look_at_nodes()
        return await self._images.prune([node for node in nodes.values() if node.works], needed)

    async def logs(self, bot_id: BotId, tail: int) -> Sequence[LogLine]:
        """The log of the last tasks that Swarm remembers. A machine that is away tells none."""
        nodes = await self._look_at_nodes()
        lines: list[LogLine] = []
        for task in reversed(await self._manager.tasks_of(bot_id)):
            node = nodes.get(task.node_id)
            if len(lines) < tail and node is not None and node.works:
                lines = [*await self._tail(task, tail - len(lines)), *lines]
        return lines

    async def follow(self, bot_id: BotId, tail: int) -> AsyncIterator[LogLine]:
        known = await self.logs(bot_id, tail)
        for line in known:
            yield line
        last = known[-1].at if known else None
        while True:
            service = await self._manager.service(bot_id)
            if service is not None:
                query = {"tail": "all"} if last is None else {"tail": "all", "since": f"{last.timestamp():.9f}"}
                pieces = self._engine.log(service["ID"], query, follow=True, kind="services")
                async for line in enginelog.lines_of(pieces):
                    if last is None or line.at > last:
                        last = line.at
                        yield line
            await asyncio.sleep(NEXT_TASK_SECONDS)

    async def close(self) -> None:
        await self._watch.close()
        await self._engine.close()

    def _clearing(self, bot_id: BotId) -> str:
        """The command that removes what a bot kept, on the machine that has it."""
        labels = containers.labels_of(self._installation.charge.installation, bot_id)
        filters = " ".join(f"--filter label={name}={value}" for name, value in labels.items())
        return f"docker volume ls -q {filters} | xargs -r docker volume rm"

    def _image(self, spec: BotSpec) -> str:
        return spec.image or self._installation.image

    async def _look_at_nodes(self) -> Mapping[str, Node]:
        self._watch.nodes = await self._manager.nodes()
        return self._watch.nodes

    def _living(self, tasks: Sequence[Task], nodes: Mapping[str, Node]) -> Instance | None:
        found = (instance_of(task, nodes, self._installation.tokens) for task in reversed(tasks))
        return next((instance for instance in found if instance is not None), None)

    async def _launch(self, spec: BotSpec, begin: Start, nodes: Mapping[str, Node]) -> Node:
        """The first start of a bot: its machine is chosen, and keeps it."""
        async with self._placing:
            promised = services.promised(await self._manager.services())
            node = choose(nodes.values(), promised, spec.limits.memory_bytes)
            await self._caretaker.require(node)
            image = self._image(spec)
            description = services.describe(spec, begin, node, self._place, image)
            await self._manager.create(description, self._credentials.auth_for(image))
        return node

    async def _relaunch(self, service: Json, tasks: Sequence[Task], description: Json) -> None:
        for task in tasks:
            self._watch.expect(task.instance_id)
        if any(task.ending for task in tasks):
            # It was given up while its machine was away, and is being ended there now that it is back.
            await self._await_end(tasks[0].bot_id, lambda task: task.ending)
        image = description["TaskTemplate"]["ContainerSpec"]["Image"]
        await self._manager.update(service, description, self._credentials.auth_for(image))

    async def _await_task(self, bot_id: BotId, instance_id: UUID) -> Instance:
        """The instance, once it runs or has ended already."""
        pause = POLL_SECONDS
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                while True:
                    tasks = await self._manager.tasks_of(bot_id)
                    task = next((task for task in tasks if task.instance_id == instance_id), None)
                    if task is not None and (instance := await self._settled(task)) is not None:
                        return instance
                    await asyncio.sleep(pause)
                    pause = min(POLL_SECONDS_MAX, pause * 1.2)
        except TimeoutError:
            raise RuntimeFailed(
                f"Its machine has not started it within {START_SECONDS_MAX:.0f} s; it may still be fetching the image.",
                remedy=f"It is waited for. See: docker service ps --no-trunc wopr-bot-{bot_id}",
            ) from None

    async def _settled(self, task: Task) -> Instance | None:
        """The instance of a task that runs or ran, None while it is on its way. Raises when it never will."""
        nodes = self._watch.nodes
        instance = instance_of(task, nodes, self._installation.tokens)
        if instance is not None:
            self._watch.know(instance, task.node_id)
            return instance
        if task.state == "rejected":
            await self._withdraw(task.bot_id)
            raise await self._refusal(task)
        if task.state == "pending" and NO_NODE in task.error:
            await self._withdraw(task.bot_id)
            require_works((await self._look_at_nodes()).get(self._homes.get(task.bot_id, "")))
            raise NoRoom(
                f"Its machine has no room for it: {task.error}.",
                remedy="Its memory is on that machine: stop or delete other bots there. See docker node ls.",
            )
        if task.over:
            began = parse_time(task.listed["CreatedAt"])
            ended = Instance(task.instance_id, task.bot_id, generation_of(task), NOWHERE, began, "")
            self._watch.know(ended, task.node_id)
            await self._watch.settle(task.bot_id)
            return ended
        return None

    async def _refusal(self, task: Task) -> RuntimeFailed:
        """Why a machine refused a task; when it lacks the image, the registry knows more than it does."""
        image = str(task.listed["Spec"]["ContainerSpec"]["Image"])
        if "image" not in task.error.lower():
            return RuntimeFailed(
                f"Its machine refused to start it: {task.error}",
                code=EngineRefused.default_code,
                remedy="Look at that machine's engine.",
            )
        try:
            await ask_registry(self._engine, image, self._credentials)
        except PullFailed as failure:
            return failure
        return PullFailed(
            f"Its machine could not get the image {image} from {registry_of(image)}: {task.error}",
            remedy="Look at that machine's network, and whether the image is made for its processor.",
        )

    async def _withdraw(self, bot_id: BotId) -> None:
        """Have nothing wait in the Swarm that starts by itself one day."""
        service = await self._manager.service(bot_id)
        if service is not None:
            await self._manager.update(service, services.asleep(service["Spec"]))

    async def _await_end(self, bot_id: BotId, awaited: Callable[[Task], bool] = lambda task: not task.over) -> None:
        """Wait until none of these tasks is on a machine that works; one that is lost may be silent for ever."""
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                while True:
                    nodes = await self._look_at_nodes()
                    tasks = await self._manager.tasks_of(bot_id)
                    if not any(awaited(task) and _answers(nodes.get(task.node_id)) for task in tasks):
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise RuntimeFailed(
                f"It has not ended within {STOP_SECONDS_MAX:.0f} s.", remedy="It is tried again."
            ) from None

    async def _away(self, nodes: Mapping[str, Node]) -> list[Away]:
        """The machines that bots wait for."""
        waiting: dict[str, int] = {}
        for service in await self._manager.services():
            home = home_of(service)
            if home not in nodes or not nodes[home].works:
                waiting[home] = waiting.get(home, 0) + 1
        return [
            Away(nodes[home].name if home in nodes else home, count, why_away(nodes.get(home)))
            for home, count in sorted(waiting.items())
        ]

    async def _tail(self, task: Task, count: int) -> list[LogLine]:
        try:
            return await enginelog.tail(self._engine, task.id, count, "tasks")
        except EngineRefused as error:
            if error.http_status == NOT_FOUND:
                return []
            raise


def _answers(node: Node | None) -> bool:
    return node is not None and node.state == "ready"
