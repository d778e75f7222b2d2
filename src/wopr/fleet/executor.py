"""Takes the steps that the planner names. Nothing is decided here, and nothing is done inside a transaction."""

import asyncio
from uuid import UUID

import httpx
import structlog

from wopr.bot import contract
from wopr.core.platform import Platform
from wopr.fleet import look, updates
from wopr.fleet.look import Sight
from wopr.fleet.models import BotObserved
from wopr.fleet.plan import READY_SECONDS_MAX, Action, Plan
from wopr.fleet.runtimes.protocol import BotSpec, Instance, Runtime, RuntimeFailed
from wopr.fleet.updating import MOVES, Updater

READY_POLL_SECONDS = 0.02
READY_POLL_SECONDS_MAX = 0.25
READY_REQUEST_SECONDS = 2.0
# Codes of a start that another image may not have: the engine would not run it, or it is not there any more.
BLAMED = ("engine_refused", "pull_failed", "image_unknown", "registry_refused", "registry_away")

log = structlog.get_logger(__name__)


class Executor:
    """The hands of the reconciler: a runtime, and a client to ask a new bot whether it answers."""

    def __init__(self, platform: Platform, runtime: Runtime, http: httpx.AsyncClient) -> None:
        self._platform = platform
        self._runtime = runtime
        self._http = http
        self._updater = Updater(platform, runtime, http)

    async def act(self, sight: Sight, step: Plan, spec: BotSpec | None) -> None:
        """Take one step. Each is safe to take twice."""
        if step.action is Action.START and spec is not None:
            await self._start(spec)
        elif step.action is Action.AWAIT_READY and sight.instance is not None:
            await self._await_ready(sight.instance, sight.waited_seconds)
        elif step.action is Action.STOP:
            await self._stop(sight)
        elif step.action is Action.GIVE_UP:
            await self._stop(sight)
            await self._crashed(sight.bot_id, step.reason)
        elif step.action is Action.REMOVE:
            await self._remove(sight)
        elif step.action in MOVES:
            await self._updater.act(sight, step.action)

    async def _start(self, spec: BotSpec) -> None:
        try:
            instance = await self._runtime.start(spec)
        except RuntimeFailed as error:
            log.error("bot.start_failed", bot_id=str(spec.bot_id), error=error.message)
            to_operators = f"{error.message} {error.remedy}".strip()
            await self._crashed(spec.bot_id, error.for_customers, to_operators, blamed=error.code in BLAMED)
            return
        log.info("bot.started", bot_id=str(spec.bot_id), generation=spec.generation, instance_id=str(instance.id))
        # Known from here on, so that its end is missed even when it comes before the first answer.
        async with self._platform.db.begin() as session:
            await look.mark_started(session, instance)

    async def _await_ready(self, instance: Instance, waited_seconds: float) -> None:
        """Ask until it answers, ends or has had its time; what follows from each is the planner's business."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        deadline = begun + READY_SECONDS_MAX - waited_seconds
        while loop.time() < deadline:
            if await self._answers(instance):
                async with self._platform.db.begin() as session:
                    await look.mark_ready(session, instance, self._platform.clock.now())
                return
            present = await self._runtime.locate(instance.bot_id)
            if present is None or present.id != instance.id:
                return
            # Many may be waited for at once: whoever takes long is asked less and less often.
            waited = loop.time() - begun
            await asyncio.sleep(min(READY_POLL_SECONDS_MAX, max(READY_POLL_SECONDS, waited / 10)))

    async def _answers(self, instance: Instance) -> bool:
        try:
            answer = await self._http.get(instance.url + contract.ROUTE_HEALTH, timeout=READY_REQUEST_SECONDS)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    async def _stop(self, sight: Sight) -> None:
        await self._runtime.stop(sight.bot_id)
        async with self._platform.db.begin() as session:
            await look.mark_stopped(session, sight.bot_id, self._platform.clock.now())
        log.info("bot.stopped", bot_id=str(sight.bot_id))

    async def _remove(self, sight: Sight) -> None:
        await self._runtime.remove(sight.bot_id)
        async with self._platform.db.begin() as session:
            await look.mark_deleted(session, sight.bot_id, self._platform.clock.now())
        log.info("bot.removed", bot_id=str(sight.bot_id))

    async def _crashed(
        self, bot_id: UUID, reason: str, to_operators: str | None = None, *, blamed: bool = True
    ) -> None:
        """Count a crash. `blamed`: it may be the image's fault, and not that of a machine that is away."""
        now = self._platform.clock.now()
        async with self._platform.db.begin() as session:
            observed = await session.get(BotObserved, bot_id, with_for_update=True)
            if observed is not None:
                look.add_crash(observed, now, reason, to_operators)
            if blamed:
                await updates.judge(session, bot_id, to_operators or reason, now)
