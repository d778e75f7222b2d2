"""The trial of a node that is being made: every service answers one real request, from here and with the node's key.

It asks by the watchdog's own code, so that what becomes a node is what the watchdog calls well. A service may load its
model at its first request, so a trial has the watchdog's patience, which is longer than a pass may wait: it goes on,
and the pass that finds it ended judges it. One that is lost with its process is simply begun again.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from wopr.core.ids import NodeId
from wopr.inference.nodes import Backend, Node, services_of
from wopr.inference.probes import Wish, look
from wopr.inference.sights import Look, Memory, memories_of

PASS_WAITS_SECONDS = 10.0
HEALTH, WORK = Wish(), Wish(ask_models=True, check=True)


@dataclass
class Trials:
    """The trials that are under way, by node and what is asked there: another address or key is another trial."""

    waits_seconds: float = PASS_WAITS_SECONDS
    _under_way: dict[tuple[NodeId, Sequence[Backend]], "asyncio.Task[Sequence[Look] | None]"] = field(
        default_factory=dict
    )

    async def looks(self, node: Node) -> Sequence[Look] | None:
        """How the services took their requests; None while that is not known, or not all of them answer /health."""
        if not node.host:
            return None
        backends = tuple(services_of(node))
        key = node.id, backends
        trial = self._under_way.get(key)
        if trial is None:
            trial = self._under_way[key] = asyncio.create_task(_trial(node, backends), name=f"trial of {node.id}")
        await asyncio.wait([trial], timeout=self.waits_seconds)
        if not trial.done():
            return None
        del self._under_way[key]
        return trial.result()

    async def keep(self, node_ids: Collection[str]) -> None:
        """Give up the trials of all other nodes."""
        others = {key: trial for key, trial in self._under_way.items() if key[0] not in node_ids}
        for key, trial in others.items():
            trial.cancel()
            del self._under_way[key]
        await asyncio.gather(*others.values(), return_exceptions=True)


def complaint(looks: Sequence[Look]) -> str:
    """Which services did not do what they were asked, and what they did instead; empty when all did. Pure."""
    wrong = [f"{seen.service}: {_fault(seen)}" for seen in looks if seen.check is None]
    return f"its services answer /health, but not every real request: {'; '.join(wrong)}" if wrong else ""


async def _trial(node: Node, backends: Sequence[Backend]) -> Sequence[Look] | None:
    healths = await asyncio.gather(*(look(backend, Memory(), HEALTH) for backend in backends))
    if any(seen.trouble or seen.advancing for seen in healths):
        return None
    memories = memories_of(node.probe_state)
    return await asyncio.gather(*(look(one, memories.get(one.service, Memory()), WORK) for one in backends))


def _fault(seen: Look) -> str:
    return seen.error or "it is busy, and gave no answer in time"
