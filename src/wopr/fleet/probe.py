"""Finds bots that live but no longer answer, and takes their readiness away; what follows is the planner's business.

A bot answers its health route while it works on turns, so silence is not being busy. One missed answer is no proof.
"""

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

import httpx
import structlog

from wopr.bot import contract
from wopr.core.notify import notify
from wopr.core.platform import Platform
from wopr.fleet import look
from wopr.fleet.bots import BOTS_CHANNEL
from wopr.fleet.runtimes.protocol import Instance, Runtime

MISSES_MAX = 2
ANSWER_SECONDS_MAX = 5.0
PROBES_MAX = 200
AT_ONCE_MAX = 20

log = structlog.get_logger(__name__)


class Probe:
    """Remembers who missed an answer; forgetting that at a restart only delays the verdict by a pass."""

    def __init__(self, platform: Platform, runtime: Runtime, http: httpx.AsyncClient) -> None:
        self._platform = platform
        self._runtime = runtime
        self._http = http
        self._missed: dict[UUID, int] = {}
        self._next = 0

    async def run_pass(self) -> Mapping[str, int]:
        """Ask the next ones of all instances whether they answer."""
        chosen = self._choose(sorted((await self._runtime.observe()).values(), key=lambda instance: instance.id))
        room = asyncio.Semaphore(AT_ONCE_MAX)
        answers = await asyncio.gather(*(self._answers(instance, room) for instance in chosen))
        missed = {}
        for instance, answered in zip(chosen, answers, strict=True):
            if not answered:
                missed[instance.id] = self._missed.get(instance.id, 0) + 1
        mute = [instance for instance in chosen if missed.get(instance.id, 0) >= MISSES_MAX]
        for instance in mute:
            await self._take_readiness(instance)
        self._missed = {id_: count for id_, count in missed.items() if count < MISSES_MAX}
        return {"asked": len(chosen), "silent": len(missed), "given_up": len(mute)}

    def _choose(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        if self._next >= len(instances):
            self._next = 0
        # Whoever missed an answer is asked again in every pass, whosever turn it is.
        doubtful = [instance for instance in instances if instance.id in self._missed]
        turn = instances[self._next : self._next + PROBES_MAX]
        self._next += PROBES_MAX
        return [*doubtful, *(instance for instance in turn if instance.id not in self._missed)]

    async def _answers(self, instance: Instance, room: asyncio.Semaphore) -> bool:
        async with room:
            try:
                url = instance.url + contract.ROUTE_HEALTH
                return (await self._http.get(url, timeout=ANSWER_SECONDS_MAX)).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

    async def _take_readiness(self, instance: Instance) -> None:
        log.warning("bot.silent", bot_id=str(instance.bot_id), instance_id=str(instance.id))
        async with self._platform.db.begin() as session:
            await look.mark_silent(session, instance)
            await notify(session, BOTS_CHANNEL, str(instance.bot_id))
