"""Copies of bots' volumes on a Swarm: the same copier as on one machine, by an errand where the volume is."""

import json

from wopr.core.ids import BotId
from wopr.fleet.runtimes import containers, node_agent, volumes
from wopr.fleet.runtimes.containers import copier_name, copy_name, volume_name
from wopr.fleet.runtimes.engine import NOT_FOUND, EngineRefused
from wopr.fleet.runtimes.errands import Errand, Errands
from wopr.fleet.runtimes.manager import Manager, home_of
from wopr.fleet.runtimes.nodes import Node, require_works
from wopr.fleet.runtimes.volumes import COPY_SECONDS_MAX, CopyFailed

# The program on the machine gives up by itself, and says why.
PATIENCE_SECONDS = 60.0


class NodeCopies:
    """The copies of one installation, wherever in the Swarm."""

    def __init__(self, manager: Manager, errands: Errands, installation: str) -> None:
        self._manager = manager
        self._errands = errands
        self._installation = installation

    async def make(self, bot_id: BotId, generation: int, image: str) -> None:
        # One that could not be removed yet has the same name when the same generation is copied again.
        await self._errands.forget(_drop_name(bot_id, generation))
        await self._copy(volumes.Errand(bot_id, generation, back=False), image)

    async def restore(self, bot_id: BotId, generation: int, image: str) -> None:
        await self._copy(volumes.Errand(bot_id, generation, back=True), image)

    async def drop(self, bot_id: BotId, generation: int) -> None:
        """On a machine that is away, it is deleted when that is back: the wish lies with the Swarm."""
        service = await self._manager.service(bot_id)
        if service is None:
            return  # everything of the bot goes, or went, with its removal
        name, arguments = _drop_name(bot_id, generation), ("remove", copy_name(bot_id, generation))
        await self._errands.leave(Errand(name, home_of(service), str(bot_id), arguments))

    async def _copy(self, wanted: volumes.Errand, image: str) -> None:
        bot_id = wanted.bot_id
        node = await self._machine(bot_id)
        told = {
            "name": copier_name(bot_id),
            "container": volumes.describe(wanted, self._installation, image),
            "volume": volume_name(bot_id),
            "copy": copy_name(bot_id, wanted.generation),
            "labels": containers.labels_of(self._installation, bot_id),
            "back": wanted.back,
        }
        arguments = ("copy", json.dumps(told, sort_keys=True))
        errand = Errand(copier_name(bot_id), node.id, str(bot_id), arguments)
        result = await self._errands.run(errand, COPY_SECONDS_MAX + PATIENCE_SECONDS)
        if result.code == node_agent.COPY_GONE:
            raise CopyFailed(
                f"On the machine {node.name}, {result.text}.", remedy="Restore the bot's volume from a backup."
            )
        if result.code == node_agent.NO_COPIER:
            raise EngineRefused(NOT_FOUND, f"on the machine {node.name}, {result.text}")
        if result.code != 0:
            raise CopyFailed(
                f"The data of the bot could not be copied on the machine {node.name}: {result.text}.",
                remedy="See whether that machine's disk is full: docker system df",
            )

    async def _machine(self, bot_id: BotId) -> Node:
        service = await self._manager.service(bot_id)
        if service is None:
            raise CopyFailed("No machine has data of this bot yet.", remedy="It is copied once it was started.")
        return require_works((await self._manager.nodes()).get(home_of(service)))


def _drop_name(bot_id: BotId, generation: int) -> str:
    return f"wopr-drop-{bot_id}-{generation}"
