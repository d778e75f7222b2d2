"""Has a bot's image at hand on the machine that has its memory, before anything of the bot is touched.

Swarm would fetch it with the new task, after the end of the old one, and keep the reason of a failure to itself. So the
machine's own engine is asked first, by an errand; the registry's credentials travel as a secret of the Swarm.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from time import monotonic
from weakref import WeakValueDictionary

import structlog

from wopr.fleet.runtimes import node_agent
from wopr.fleet.runtimes.engine import PULL_SECONDS_MAX
from wopr.fleet.runtimes.errands import Errand, Errands, Result
from wopr.fleet.runtimes.images import FAILURE_SECONDS, IMAGE_ID, Credentials, PullFailed, explain
from wopr.fleet.runtimes.nodes import Node
from wopr.fleet.runtimes.protocol import RuntimeFailed

# Bots that move one after the other, and a bot that ends what it is saying, don't have it looked at each time.
PRESENT_SECONDS = 60.0
PRUNE_SECONDS_MAX = 120.0
Key = tuple[str, str]

log = structlog.get_logger(__name__)


class NodeImages:
    """The images on the machines of one Swarm: wishes for the same one share a fetch, a failure is believed a while."""

    def __init__(self, errands: Errands, installation: str, credentials: Credentials) -> None:
        self._errands = errands
        self._installation = installation
        self._credentials = credentials
        self._present: dict[Key, float] = {}
        self._failed: dict[Key, tuple[float, PullFailed]] = {}
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def ensure(self, node: Node, image: str) -> None:
        """Fetch the image to this machine unless it is there. Raises `PullFailed` with who must do what, `NodeAway`."""
        key, now = (node.id, image), monotonic()
        self._present = {known: at for known, at in self._present.items() if now - at < PRESENT_SECONDS}
        self._failed = {known: entry for known, entry in self._failed.items() if now - entry[0] < FAILURE_SECONDS}
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self._present:
                return
            if key in self._failed:
                raise self._failed[key][1]
            result = await self._errands.run(self._errand(node, image), PULL_SECONDS_MAX)
            if result.code != 0:
                failure = self._explain(node, image, result)
                log.error("image.pull_failed", image=image, machine=node.name, error=failure.message)
                self._failed[key] = (monotonic(), failure)
                raise failure
            log.info("image.present", image=image, machine=node.name, seconds=round(monotonic() - now, 1))
            self._present[key] = monotonic()

    async def prune(self, machines: Iterable[Node], needed: Sequence[str]) -> int:
        """Let go of old images of bots but for these on each machine that works; on how many."""
        self._present.clear()  # what is fetched from now on is looked at
        done = 0
        for node in machines:
            try:
                result = await self._errands.run(self._pruning(node, needed), PRUNE_SECONDS_MAX)
            except RuntimeFailed as error:  # one machine's trouble keeps nothing on the others
                log.warning("image.not_pruned", machine=node.name, error=error.message)
                continue
            if result.code != 0:
                log.warning("image.not_pruned", machine=node.name, error=result.text)
            done += result.code == 0
        return done

    def _pruning(self, node: Node, needed: Sequence[str]) -> Errand:
        told = f"{self._installation}\0{node.id}"
        name = f"wopr-prune-{hashlib.sha256(told.encode()).hexdigest()[:24]}"
        return Errand(name, node.id, "", ("prune", self._installation, json.dumps(sorted(needed))))

    def _errand(self, node: Node, image: str) -> Errand:
        told = f"{self._installation}\0{node.id}\0{image}"
        name = f"wopr-fetch-{hashlib.sha256(told.encode()).hexdigest()[:24]}"
        return Errand(name, node.id, "", ("pull", self._installation, image), self._credentials.auth_for(image))

    def _explain(self, node: Node, image: str, result: Result) -> PullFailed:
        machine = f"the machine {node.name}"
        if result.code != node_agent.NOT_PULLED:
            return PullFailed(
                f"T{machine[1:]} could not look for {image}: {result.text}",
                remedy="It is tried again. BOT_FIREWALL_IMAGE must be an image with Python that it has or can fetch.",
            )
        if image.startswith(IMAGE_ID):
            return PullFailed(
                f"T{machine[1:]} has no image {image}.",
                code="image_unknown",
                remedy="Name it by its repository and digest, so that it can be fetched, or `docker load` it there.",
            )
        return explain(image, result.text, self._credentials, machine)
