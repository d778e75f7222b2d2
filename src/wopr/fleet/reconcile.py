"""Brings what is in line with what is wanted: looks, asks the planner for one step, takes it, looks again.

Woken by NOTIFY (a bot changed, a customer's credit or standing changed), by the end of an instance and by its own
timers; each pass begins with a look at everything, which catches what a lost notification would have said. A process
that dies in the middle leaves nothing that the next look doesn't see.

Bots that are to start wait for a place (`starts`) and cost nothing meanwhile: no task, no lock, no statement of theirs.
"""

import asyncio
import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from wopr.fleet.facts import Facts
from wopr.fleet.locks import BotLocks
from wopr.fleet.look import Sight
from wopr.fleet.models import Bot
from wopr.fleet.plan import TURN, Action, Desired, Plan, Standing, State, begins_start, plan, recent
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, Runtime
from wopr.fleet.standing import standing, standings
from wopr.fleet.starts import Starts
from wopr.fleet.updating import MOVES

PASS_SECONDS = 10.0
DRAIN_SECONDS_MAX = 30.0
STEPS_MAX = 8
RETRY_SECONDS = 2.0
STANDING_SECONDS = 30.0
AT_ONCE_MAX = 16
# Each holds a lock of PostgreSQL, which has few thousand for all who use it.
TASKS_MAX = 1_000
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
        self._told: set[UUID] = set()
        self._tenants: set[UUID] = set()
        self._all_dirty = True
        self._ended: dict[BotId, Ended] = {}
        self._asked: dict[BotId, tuple[UUID, float]] = {}
        self._standings: dict[UUID, tuple[float, Standing]] = {}
        self._woken = asyncio.Event()
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._timers: dict[UUID, asyncio.TimerHandle] = {}
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        self._starts = Starts(platform.settings.bot_starts_at_once)
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
        return bool(self._dirty or self._told or self._tenants or self._all_dirty)

    def _listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        self._runtime.watch(self._on_end)
        notifier = self._platform.notifier
        notifier.subscribe(BOTS_CHANNEL, self._on(self._told))
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
        """Work on the marked bots that nobody works on yet, as many as may be at once; the others stay marked."""
        if self._all_dirty:
            self._all_dirty = False
            await self._look_at_all()
        while self._tenants:
            tenant_id = self._tenants.pop()
            self._standings.pop(tenant_id, None)
            async with self._platform.db.begin() as session:
                self._told |= set(await look.of_tenant(session, tenant_id))
        for bot_id in self._starts.next(busy=self._tasks):
            self._work_on(bot_id)
        for marked in (self._told, self._dirty):
            idle = (bot_id for bot_id in marked if bot_id not in self._tasks)
            for bot_id in list(itertools.islice(idle, max(0, TASKS_MAX - len(self._tasks)))):
                self._work_on(bot_id, told=marked is self._told)

    def _work_on(self, bot_id: UUID, *, told: bool = False) -> None:
        self._dirty.discard(bot_id)
        self._told.discard(bot_id)
        task = asyncio.create_task(self._converge(bot_id, told), name=f"bot {bot_id}")
        self._tasks[bot_id] = task
        task.add_done_callback(functools.partial(self._done, bot_id))

    def _done(self, bot_id: UUID, task: asyncio.Task[None]) -> None:
        if self._tasks.get(bot_id) is task:
            del self._tasks[bot_id]
        self._starts.release(bot_id)
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

    async def _look_at_all(self) -> None:
        """Mark the bots for which something is to be done. Instances that belong to no bot are stopped."""
        waited = self._starts.waiting()
        instances = await self._runtime.observe()
        now = self._platform.clock.now()
        known = self._known_standings()
        async with self._platform.db.begin() as session:
            bots = await look.read_all(session)
            unknown = {bot.tenant_id for bot in bots if bot.desired == RUNNING and bot.tenant_id not in known}
            if unknown:
                found = await standings(session, unknown, self._platform.settings, now)
                known |= found
                self._standings |= {tenant: (self._platform.clock.monotonic(), one) for tenant, one in found.items()}
            await runs.mark_seen(session, runs.long_unseen(bots, instances, now), now)
        self._counts["bots"], self._counts["running"] = len(bots), len(instances)
        to_start: list[Facts] = []
        for bot in bots:
            instance = instances.get(BotId(bot.id))
            real = bot.real(instance, held=self._runtime.held(BotId(bot.id)))
            step = plan(bot.wanted, real, known.get(bot.tenant_id, Standing(True)), now)
            if begins_start(bot.wanted, step):
                to_start.append(bot)
            elif not bot.settled(step, instance):
                self._dirty.add(bot.id)
                if step.action is Action.AWAIT_READY:
                    self._starts.occupy(bot.id)
            if step.look_again_at is not None and bot.id not in self._timers:
                self._later(bot.id, (step.look_again_at - now).total_seconds())
        await self._queue(to_start, waited, now)
        await self._stop_strays(instances, {bot.id for bot in bots})

    async def _queue(self, to_start: Sequence[Facts], waited: frozenset[UUID], now: datetime) -> None:
        """Have these wait for their turn, those that failed lately at the end, and say so of those that must wait."""
        self._starts.withdraw(waited - {bot.id for bot in to_start})
        for bot in sorted(to_start, key=lambda bot: bool(recent(tuple(bot.crashes), now))):
            if bot.id not in self._tasks:
                self._starts.ask(bot.id)
        for bot_id in self._starts.next(busy=self._tasks):
            self._work_on(bot_id)
        left = self._starts.waiting()
        untold = [bot.id for bot in to_start if bot.id in left and not bot.shows(State.STARTING, TURN)]
        if untold:
            async with self._platform.db.begin() as session:
                await look.show(session, untold, (State.STARTING, TURN), now)
        if left:
            self._counts["waiting"] = len(left)

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

    async def _converge(self, bot_id: UUID, told: bool) -> None:
        async with self._locks.hold(bot_id) as ours:
            if not ours:
                self._later(bot_id, RETRY_SECONDS)
                return
            for _ in range(STEPS_MAX):
                if not await self._step(bot_id, told):
                    return
            self._later(bot_id, RETRY_SECONDS)

    async def _step(self, bot_id: UUID, told: bool) -> bool:
        """Look, plan, act once; False when there is nothing more to do now.

        What may take long takes no room: bots that hang or have much to copy must not keep the others from their turn.
        """
        async with self._room:
            decision = await self._decide(bot_id, told)
            if decision is None:
                return False
            if decision.step.action is Action.NOTHING:
                if decision.unseen_rest:
                    await self._runtime.stop(BotId(bot_id))
                return False
            if decision.step.action not in UNHURRIED:
                await self._executor.act(decision.sight, decision.step, decision.spec)
                if decision.step.action is Action.GIVE_UP:
                    self._starts.release(bot_id)
                return True
        await self._executor.act(decision.sight, decision.step, None)
        return True

    async def _decide(self, bot_id: UUID, told: bool) -> _Decision | None:
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
            step = self._admitted(sight, plan(sight.facts.wanted, sight.real, allowed, now), told, now)
            before = State(sight.observed.state)
            if not sight.settled(step):
                await look.record(session, sight, step, now)
            spec = await self._spec_of(session, sight.bot) if step.action is Action.START else None
        self._count(step.action, crashed)
        if step.look_again_at is not None:
            self._wait_until(bot_id, step.look_again_at, now)
        return _Decision(sight, step, spec, before in (State.STARTING, State.RUNNING) and step.state in AT_REST)

    def _admitted(self, sight: Sight, step: Plan, told: bool, now: datetime) -> Plan:
        """The step, or waiting in its place while there is no room for a start."""
        if step.action is Action.AWAIT_READY:
            self._starts.occupy(sight.bot.id)
        elif begins_start(sight.facts.wanted, step):
            # Whoever asks for a bot that fails again and again must not keep the others from their turn.
            hurry = told and not recent(sight.real.crashes, now)
            if not self._starts.take(sight.bot.id, hurry=hurry):
                return Plan(Action.NOTHING, State.STARTING, TURN)
        return step

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
