"""Brings what is in line with what is wanted: looks, asks the planner for one step, takes it, looks again.

Woken by NOTIFY (a bot changed, a customer's credit or standing changed), by the end of an instance and by its own
timers; each pass begins with a look at everything, which catches what a lost notification would have said. A process
that dies in the middle leaves nothing that the next look doesn't see.
"""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import httpx
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.accounts.tenants import TENANTS_CHANNEL
from wopr.billing.leases import BALANCE_CHANNEL
from wopr.core.ids import BotId
from wopr.core.notify import LOST
from wopr.core.platform import Platform
from wopr.fleet import images, look, runs
from wopr.fleet.bots import BOTS_CHANNEL
from wopr.fleet.executor import Executor
from wopr.fleet.locks import BotLocks
from wopr.fleet.look import Sight
from wopr.fleet.models import Bot
from wopr.fleet.plan import Action, Desired, Plan, Standing, State, plan
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, Runtime
from wopr.fleet.standing import standing, standings
from wopr.fleet.updating import MOVES

PASS_SECONDS = 10.0
DRAIN_SECONDS_MAX = 30.0
STEPS_MAX = 8
RETRY_SECONDS = 2.0
STANDING_SECONDS = 30.0
AT_ONCE_MAX = 16
RUNNING = Desired.RUNNING.value
AT_REST = (State.STOPPED, State.SUSPENDED)
UNHURRIED = (Action.AWAIT_READY, *MOVES)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Decision:
    """What was seen of a bot, and the step that follows.

    `unseen_rest`: it comes to rest without having been stopped, as nothing of it was seen. A starter that was killed
    before it could write its record leaves a process that only a stop finds.
    """

    sight: Sight
    step: Plan
    spec: BotSpec | None
    unseen_rest: bool


class Reconciler:
    """The state of one process' reconciling: which bots to look at, which are being worked on."""

    def __init__(self, platform: Platform, runtime: Runtime, http: httpx.AsyncClient) -> None:
        self._platform = platform
        self._runtime = runtime
        self._executor = Executor(platform, runtime, http)
        self._locks = BotLocks(platform.db)
        self._dirty: set[UUID] = set()
        self._tenants: set[UUID] = set()
        self._all_dirty = True
        self._ended: dict[BotId, Ended] = {}
        self._asked: dict[BotId, tuple[UUID, float]] = {}
        self._standings: dict[UUID, tuple[float, Standing]] = {}
        self._woken = asyncio.Event()
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._timers: dict[UUID, asyncio.TimerHandle] = {}
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        self._counts: Counter[str] = Counter()
        self._listening = False
        self._error: BaseException | None = None

    async def run_pass(self) -> Mapping[str, int]:
        """Work for some seconds, reacting at once to whatever happens meanwhile; counts of what was done."""
        return await self._pass(PASS_SECONDS)

    async def settle(self) -> Mapping[str, int]:
        """Look at everything afresh and work until nothing is left to do now."""
        self._standings.clear()
        return await self._pass(0.0)

    def mark(self, bot_id: UUID) -> None:
        """Look at this bot soon."""
        self._dirty.add(bot_id)
        self._woken.set()

    async def close(self) -> None:
        """Let go of timers, locks and watches; the bots go on."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._locks.close()
        await self._runtime.close()

    async def _pass(self, seconds: float) -> Mapping[str, int]:
        self._listen()
        self._counts, self._error, self._all_dirty = Counter(), None, True
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            while True:
                self._woken.clear()
                await self._begin()
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 and not self._tasks and not self._pending:
                    break
                if left <= -DRAIN_SECONDS_MAX:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(left, 0.05)):
                        await self._woken.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._tasks.clear()
        if self._error is not None:
            raise self._error
        return dict(self._counts)

    @property
    def _pending(self) -> bool:
        return bool(self._dirty or self._tenants or self._all_dirty)

    def _listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        self._runtime.watch(self._on_end)
        notifier = self._platform.notifier
        notifier.subscribe(BOTS_CHANNEL, self._on(self._dirty))
        notifier.subscribe(TENANTS_CHANNEL, self._on(self._tenants))
        notifier.subscribe(BALANCE_CHANNEL, self._on(self._tenants))

    def _on(self, marked: set[UUID]) -> Callable[[str], None]:
        def handle(payload: str) -> None:
            try:
                marked.add(UUID(payload))
            except ValueError:
                if payload == LOST:
                    self._all_dirty = True
                    self._standings.clear()
            self._woken.set()

        return handle

    def _on_end(self, ended: Ended) -> None:
        self._ended[ended.bot_id] = ended
        self.mark(ended.bot_id)

    async def _begin(self) -> None:
        """Start working on every marked bot that nobody works on yet; the others stay marked."""
        if self._all_dirty:
            self._all_dirty = False
            self._dirty |= await self._look_at_all()
        while self._tenants:
            tenant_id = self._tenants.pop()
            self._standings.pop(tenant_id, None)
            async with self._platform.db.begin() as session:
                self._dirty |= set(await look.of_tenant(session, tenant_id))
        for bot_id in self._dirty - self._tasks.keys():
            self._dirty.discard(bot_id)
            task = asyncio.create_task(self._converge(bot_id), name=f"bot {bot_id}")
            self._tasks[bot_id] = task
            task.add_done_callback(functools.partial(self._done, bot_id))

    def _done(self, bot_id: UUID, task: asyncio.Task[None]) -> None:
        if self._tasks.get(bot_id) is task:
            del self._tasks[bot_id]
        self._woken.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._error = error
            self._counts["failed"] += 1
            log.error("bot.reconcile_failed", bot_id=str(bot_id), error=f"{type(error).__name__}: {error}")
            self._later(bot_id, RETRY_SECONDS)

    def _later(self, bot_id: UUID, seconds: float) -> None:
        if (present := self._timers.pop(bot_id, None)) is not None:
            present.cancel()
        self._timers[bot_id] = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._due, bot_id)

    def _due(self, bot_id: UUID) -> None:
        self._timers.pop(bot_id, None)
        self.mark(bot_id)

    async def _look_at_all(self) -> set[UUID]:
        """The bots for which something is to be done. Instances that belong to no bot are stopped."""
        instances = await self._runtime.observe()
        now = self._platform.clock.now()
        marked: set[UUID] = set()
        known = self._known_standings()
        async with self._platform.db.begin() as session:
            bots = await look.read_all(session)
            unknown = {bot.tenant_id for bot in bots if bot.desired == RUNNING and bot.tenant_id not in known}
            if unknown:
                found = await standings(session, unknown, self._platform.settings, now)
                known |= found
                self._standings |= {tenant: (self._platform.clock.monotonic(), one) for tenant, one in found.items()}
            await runs.mark_seen(session, runs.long_unseen(bots, instances, now), now)
        for bot in bots:
            instance = instances.get(BotId(bot.id))
            real = bot.real(instance, held=self._runtime.held(BotId(bot.id)))
            step = plan(bot.wanted, real, known.get(bot.tenant_id, Standing(True)), now)
            if not bot.settled(step, instance):
                marked.add(bot.id)
            if step.look_again_at is not None and bot.id not in self._timers:
                self._later(bot.id, (step.look_again_at - now).total_seconds())
        self._counts["bots"], self._counts["running"] = len(bots), len(instances)
        await self._stop_strays(instances, {bot.id for bot in bots})
        return marked

    def _known_standings(self) -> dict[UUID, Standing]:
        """What was found lately; a change is told by a notification, and this is only what the look at all needs."""
        oldest = self._platform.clock.monotonic() - STANDING_SECONDS
        self._standings = {tenant: entry for tenant, entry in self._standings.items() if entry[0] > oldest}
        return {tenant: found for tenant, (_, found) in self._standings.items()}

    async def _stop_strays(self, instances: Mapping[BotId, Instance], known: set[UUID]) -> None:
        for bot_id in instances.keys() - known:
            log.warning("bot.stray_stopped", bot_id=str(bot_id))
            await self._runtime.stop(bot_id)
            self._counts["strays"] += 1

    async def _converge(self, bot_id: UUID) -> None:
        async with self._locks.hold(bot_id) as ours:
            if not ours:
                self._later(bot_id, RETRY_SECONDS)
                return
            for _ in range(STEPS_MAX):
                if not await self._step(bot_id):
                    return
            self._later(bot_id, RETRY_SECONDS)

    async def _step(self, bot_id: UUID) -> bool:
        """Look, plan, act once; False when there is nothing more to do now.

        What may take long takes no room: bots that hang or have much to copy must not keep the others from their turn.
        """
        async with self._room:
            decision = await self._decide(bot_id)
            if decision is None:
                return False
            if decision.step.action is Action.NOTHING:
                if decision.unseen_rest:
                    await self._runtime.stop(BotId(bot_id))
                return False
            if decision.step.action not in UNHURRIED:
                await self._executor.act(decision.sight, decision.step, decision.spec)
                return True
        await self._executor.act(decision.sight, decision.step, None)
        return True

    async def _decide(self, bot_id: UUID) -> _Decision | None:
        """What is seen and the next step, written down; None for a bot that is gone."""
        now = self._platform.clock.now()
        instance = await self._runtime.locate(BotId(bot_id))
        async with self._platform.db.begin() as session:
            rows = await look.read(session, bot_id)
            if rows is None:
                self._ended.pop(BotId(bot_id), None)
                return None
            sight = self._timed(Sight(*rows, instance, held=self._runtime.held(BotId(bot_id))))
            crashed = await look.record_end(session, sight, self._ended.pop(BotId(bot_id), None))
            allowed = await standing(session, sight.bot.tenant_id, self._platform.settings, now)
            if sight.bot.image is None and instance is not None and instance.image:
                # It ran before bots had images of their own: it goes on with this one until an update moves it.
                sight.bot.image = instance.image
            step = plan(sight.facts.wanted, sight.real, allowed, now)
            before = State(sight.observed.state)
            if not sight.settled(step):
                await look.record(session, sight, step, now)
            spec = await self._spec_of(session, sight.bot) if step.action is Action.START else None
        self._count(step.action, crashed)
        if step.look_again_at is not None:
            self._wait_until(bot_id, step.look_again_at, now)
        return _Decision(sight, step, spec, before in (State.STARTING, State.RUNNING) and step.state in AT_REST)

    async def _spec_of(self, session: AsyncSession, bot: Bot) -> BotSpec:
        """How to start the bot. Where bots have images, one that never ran gets that of its channel."""
        spec = await look.spec_of(session, bot, self._platform.settings)
        if self._runtime.copies is None:
            return spec
        if bot.image is None:
            bot.image = (await images.read(session, self._platform.settings)).fit(bot.channel, bot.pinned_image)
        return replace(spec, image=bot.image)

    def _timed(self, sight: Sight) -> Sight:
        """The sight with the seconds for which this process has been asking the instance whether it answers."""
        if sight.instance is None or sight.ready:
            self._asked.pop(sight.bot_id, None)
            return sight
        now = self._platform.clock.monotonic()
        known = self._asked.get(sight.bot_id)
        if known is None or known[0] != sight.instance.id:
            known = self._asked[sight.bot_id] = (sight.instance.id, now)
        return replace(sight, waited_seconds=now - known[1])

    def _wait_until(self, bot_id: UUID, moment: datetime, now: datetime) -> None:
        self._later(bot_id, (moment - now).total_seconds() + 0.01)

    def _count(self, action: Action, crashed: bool) -> None:
        if crashed:
            self._counts["crashed"] += 1
        if action not in (Action.NOTHING, Action.AWAIT_READY, Action.LET_FINISH):
            self._counts[action.value] += 1
