"""What a Swarm's manager tells: machines, services and tasks of one installation, in one call each."""

import json
from collections.abc import Mapping, Sequence

from wopr.core.ids import BotId
from wopr.fleet.runtimes.containers import LABEL_BOT, LABEL_INSTALLATION, container_name
from wopr.fleet.runtimes.engine import NOT_FOUND, Engine, EngineRefused, Json
from wopr.fleet.runtimes.nodes import Node, node_of
from wopr.fleet.runtimes.protocol import RuntimeFailed
from wopr.fleet.runtimes.services import LABEL_NODE, Task, task_of

NO_MANAGER = 503
OUT_OF_SEQUENCE = "out of sequence"
BUSY = "Another process is starting this bot at the moment."


class NoSwarm(RuntimeFailed):
    """The engine manages no Swarm."""

    default_code = "no_swarm"


class Manager:
    """Reads and changes bots' services. Every change names the version that it was made from, so that none is lost."""

    def __init__(self, engine: Engine, installation: str) -> None:
        self._engine = engine
        self._installation = installation

    async def nodes(self) -> dict[str, Node]:
        """Every machine by its id. Raises `NoSwarm`."""
        try:
            listed: Sequence[Json] = await self._engine.call("GET", "nodes")
        except EngineRefused as error:
            if error.http_status != NO_MANAGER:
                raise
            raise NoSwarm(
                f"The engine at {self._engine.address} manages no Swarm.",
                remedy="Run `docker swarm init` there, let DOCKER_HOST name a manager, or set BOT_RUNTIME=docker.",
            ) from error
        return {node.id: node for node in map(node_of, listed)}

    async def tasks(self) -> list[Task]:
        """The tasks of all bots that are meant to run."""
        return await self._tasks({"label": self._labels(), "desired-state": ["running"]})

    async def tasks_of(self, bot_id: BotId) -> list[Task]:
        """All tasks of one bot that Swarm remembers, oldest first."""
        # A label that is named twice, with and without a value, would match every bot's.
        labels = [f"{LABEL_INSTALLATION}={self._installation}", f"{LABEL_BOT}={bot_id}"]
        found = [task for task in await self._tasks({"label": labels}) if task.bot_id == bot_id]
        return sorted(found, key=lambda task: str(task.listed["CreatedAt"]))

    async def services(self) -> list[Json]:
        """The services of all bots."""
        query = {"filters": json.dumps({"label": self._labels()})}
        found: list[Json] = await self._engine.call("GET", "services", query=query)
        return found

    async def service(self, bot_id: BotId) -> Json | None:
        """A bot's service; RuntimeFailed when it belongs to another installation."""
        name = container_name(bot_id)
        try:
            found: Json = await self._engine.call("GET", f"services/{name}")
        except EngineRefused as error:
            if error.http_status == NOT_FOUND:
                return None
            raise
        owner = (found["Spec"].get("Labels") or {}).get(LABEL_INSTALLATION)
        if owner != self._installation:
            raise RuntimeFailed(
                f"This bot has a service that belongs to the installation {owner}, not to {self._installation}.",
                remedy=f"Set WOPR_INSTALLATION={owner} if that is this one, or run docker service rm {name}.",
            )
        return found

    async def running_on(self, service: str, node_id: str) -> str | None:
        """The id of the task of a service of ours that runs on a machine."""
        filters = json.dumps({"service": [service], "node": [node_id], "desired-state": ["running"]})
        try:
            listed = await self._engine.call("GET", "tasks", query={"filters": filters})
        except EngineRefused as error:
            if error.http_status != NOT_FOUND:
                raise
            return None
        return next((str(task["ID"]) for task in listed if task["Status"]["State"] == "running"), None)

    async def create(self, description: Json, auth: Mapping[str, str] | None) -> None:
        """Make a service. Raises `RuntimeFailed` when another process was quicker."""
        try:
            await self._engine.call("POST", "services/create", body=description, auth=auth)
        except EngineRefused as error:
            raise _busy(error) from error

    async def update(self, service: Json, description: Json, auth: Mapping[str, str] | None = None) -> None:
        """Change a service from what was read. Raises `RuntimeFailed` when another process was quicker."""
        query = {"version": service["Version"]["Index"]}
        try:
            await self._engine.call(
                "POST", f"services/{service['ID']}/update", query=query, body=description, auth=auth
            )
        except EngineRefused as error:
            raise _busy(error) from error

    async def delete(self, service: Json) -> None:
        """Delete a service; one that is gone is fine."""
        try:
            await self._engine.call("DELETE", f"services/{service['ID']}")
        except EngineRefused as error:
            if error.http_status != NOT_FOUND:
                raise

    def _labels(self) -> list[str]:
        return [f"{LABEL_INSTALLATION}={self._installation}", LABEL_BOT]

    async def _tasks(self, filters: Mapping[str, Sequence[str]]) -> list[Task]:
        listed = await self._engine.call("GET", "tasks", query={"filters": json.dumps(filters)})
        return [task for task in map(task_of, listed) if task is not None]


def home_of(service: Json) -> str:
    """The id of the machine that has the bot's memory."""
    return str((service["Spec"].get("Labels") or {}).get(LABEL_NODE, ""))


def _busy(error: EngineRefused) -> RuntimeFailed:
    if OUT_OF_SEQUENCE in error.reason or "already exists" in error.reason or "conflicts" in error.reason:
        return RuntimeFailed(BUSY)
    return error
