"""What `wopr nodes` works with when machines are rented: database, cloud, and how to follow what the loop does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx
    from sqlalchemy.ext.asyncio import AsyncSession

    from wopr.cli.progress import Progress, Stage
    from wopr.cloud.compute import Compute
    from wopr.core.db import Database
    from wopr.core.settings import Settings
    from wopr.inference.nodes import Node

SETTLED = ("done", "failed")
LOOK_SECONDS = 1.0
Result = TypeVar("Result")


@dataclass
class Door:
    """What a command works with: the database, and the cloud when it asks for it."""

    settings: "Settings"
    http: "httpx.AsyncClient"
    _db: "Database | None" = None

    @property
    def db(self) -> "Database":
        """The database; what only asks the cloud needs none."""
        from wopr.core.database_url import database_url
        from wopr.core.db import Database

        if self._db is None:
            self._db = Database(database_url(self.settings), pool_size=2)
        return self._db

    async def close(self) -> None:
        if self._db is not None:
            await self._db.dispose()

    def cloud(self) -> "Compute":
        from wopr.cloud.digitalocean import digitalocean

        return digitalocean(self.settings, self.http)

    async def write(self, work: "Callable[[AsyncSession], Awaitable[Result]]") -> "Result":
        async with self.db.begin() as session:
            return await work(session)

    async def look(self, node_id: str) -> "Node | None":
        """The node, if there is one."""
        from wopr.inference.nodes import list_nodes

        return next((node for node in await self.write(list_nodes) if node.id == node_id), None)


def run(work: Callable[[Door], Awaitable[Result]]) -> Result:
    """Do the work with a door that is closed afterwards."""
    return asyncio.run(_with_door(work))


async def _with_door(work: Callable[[Door], Awaitable[Result]]) -> Result:
    import httpx

    from wopr.core.settings import load_settings

    async with httpx.AsyncClient() as http:
        door = Door(load_settings(), http)
        try:
            return await work(door)
        finally:
            await door.close()


async def until_settled(door: Door, node_ids: Sequence[str], stages: "Progress") -> "dict[str, Node | None]":
    """Tell each stage of each node until all are done or failed; the nodes, None for one that was removed."""
    from wopr.inference.nodes import list_nodes

    told: dict[str, int] = dict.fromkeys(node_ids, 0)
    running: dict[str, Stage] = {}
    while True:
        nodes = {str(node.id): node for node in await door.write(list_nodes)}
        for node_id in node_ids:
            node = nodes.get(node_id)
            if node is None and (before := running.pop(node_id, None)):
                before.failed(last_line(why(node)))
            # From the log of its making: one that comes and goes between two looks is told as well.
            reached = [str(entry["stage"]) for entry in node.making.log] if node else []
            for stage in reached[told[node_id] :]:
                if before := running.pop(node_id, None):
                    before.failed(last_line(why(node))) if stage == "failed" else before.done()
                if stage not in SETTLED:
                    running[node_id] = stages.stage(node_id, stage.replace("_", " "))
            told[node_id] = len(reached)
        if all((node := nodes.get(node_id)) is None or node.provision_stage in SETTLED for node_id in node_ids):
            return {node_id: nodes.get(node_id) for node_id in node_ids}
        await asyncio.sleep(LOOK_SECONDS)


async def until_gone(door: Door, node_id: str) -> None:
    """Wait until the node's row is gone, and with it its machine."""
    while await door.look(node_id) is not None:  # noqa: ASYNC110 - another process does it
        await asyncio.sleep(LOOK_SECONDS)


def why(node: "Node | None") -> str:
    """Why its making failed, as far as somebody said."""
    return "it was removed meanwhile" if node is None else node.making.error or node.last_error or "nobody knows why"


def last_line(words: str) -> str:
    """The line in which programs say what went wrong."""
    return (words.strip().splitlines() or [""])[-1]
