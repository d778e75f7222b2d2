"""Bots that are all down at once come back a few at a time, whoever hangs, and those first that somebody asks for."""

import asyncio
import heapq
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.starting import most_at_once, said_listening

from wopr.core.ids import BotId, new_id
from wopr.fleet.executor import Executor
from wopr.fleet.look import Sight
from wopr.fleet.plan import (
    CRASHES_MAX,
    READY_SECONDS_MAX,
    TURN,
    Action,
    Desired,
    Observed,
    Stage,
    Standing,
    Wanted,
    begins_start,
    plan,
)
from wopr.fleet.reconcile import Reconciler
from wopr.fleet.runtimes.process import ProcessRuntime
from wopr.fleet.runtimes.protocol import Instance
from wopr.fleet.starts import HURRIED_IN_A_ROW_MAX, Starts

World = Any  # of conftest.py, which can't be imported
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BOTS = 10_000
PLACES = 8


def ids(count: int) -> list[UUID]:
    return [new_id() for _ in range(count)]


def test_no_more_than_the_places_start_and_each_that_is_done_lets_the_next_one_in() -> None:
    starts, bots = Starts(2), ids(4)
    assert [starts.take(bot) for bot in bots] == [True, True, False, False]
    assert list(starts.next()) == []
    assert starts.take(bots[0]), "who has a place keeps it"
    starts.release(bots[0])
    assert list(starts.next()) == [bots[2]]
    assert starts.waiting() == {bots[3]}
    starts.withdraw([bots[3]])
    starts.release(bots[1])
    assert list(starts.next()) == []


def test_who_comes_later_does_not_pass_those_that_wait_unless_somebody_asks_for_it() -> None:
    starts, (first, waits, late, asked) = Starts(1), ids(4)
    assert starts.take(first)
    assert not starts.take(waits)
    starts.release(first)
    assert not starts.take(late), "a place is free, and somebody waits for it"
    assert starts.take(asked, hurry=True)
    starts.release(asked)
    assert list(starts.next()) == [waits]
    assert not starts.take(late, hurry=True), "it waited already, and goes first now"
    assert starts.waiting() == {late}


def test_those_that_nobody_asks_for_get_one_place_of_four() -> None:
    starts, others, asked = Starts(1), ids(2), ids(8)
    first = new_id()
    assert starts.take(first)
    for bot in others:
        starts.ask(bot)
    for bot in asked:
        starts.ask(bot, hurry=True)
    order, holder = [], first
    while starts.waiting():
        starts.release(holder)
        (holder,) = starts.next()
        order.append(holder)
    assert HURRIED_IN_A_ROW_MAX == 3
    assert order == [*asked[:3], others[0], *asked[3:6], others[1], *asked[6:]]


def test_what_starts_already_counts_although_no_place_was_free_and_who_is_busy_is_not_called() -> None:
    starts, living, (busy, idle) = Starts(2), ids(3), ids(2)
    for bot in living:
        starts.occupy(bot)
    for bot in (busy, idle):
        assert not starts.take(bot)
    starts.release(living[0])
    assert list(starts.next()) == [], "two of two places are taken still"
    starts.release(living[1])
    assert list(starts.next(busy={busy})) == [idle]
    assert starts.waiting() == {busy}


@given(st.lists(st.tuples(st.sampled_from("tahornw"), st.integers(0, 9)), max_size=60), st.integers(1, 4))
def test_whatever_happens_nobody_is_lost_and_the_places_are_kept(calls: list[tuple[str, int]], places: int) -> None:
    starts, bots = Starts(places), [UUID(int=number) for number in range(10)]
    holds: set[UUID] = set()
    waits: set[UUID] = set()
    seen_starting = 0
    for call, number in calls:
        bot = bots[number]
        if call in "th":
            if starts.take(bot, hurry=call == "h"):
                holds.add(bot)
            waits = (waits | {bot}) - holds
        elif call == "a":
            starts.ask(bot)
            waits = (waits | {bot}) - holds
        elif call == "o":
            starts.occupy(bot)
            seen_starting += bot not in holds
            holds.add(bot)
        elif call == "r":
            starts.release(bot)
            holds.discard(bot)
        elif call == "n":
            holds |= set(starts.next())
        else:
            starts.withdraw([bot])
            waits.discard(bot)
        waits -= holds
        assert starts.waiting() == waits
        assert len(holds) <= places + seen_starting


def test_a_start_and_the_end_before_a_restart_need_a_place_and_nothing_else_does() -> None:
    wanted = Wanted(Desired.RUNNING, 2, "new")
    lives = Observed(2, ready=True, waited_seconds=0.0, crashes=(), image="new")

    def needs(wanted: Wanted, seen: Observed, *, may_run: bool = True) -> bool:
        return begins_start(wanted, plan(wanted, seen, Standing(may_run), NOW))

    assert needs(wanted, replace(lives, generation=None))
    assert needs(wanted, replace(lives, generation=1))
    assert needs(wanted, replace(lives, image="old"))
    assert needs(replace(wanted, stage=Stage.TRYING), replace(lives, generation=None))
    assert not needs(wanted, lives)
    assert not needs(wanted, replace(lives, ready=False))
    assert not needs(wanted, lives, may_run=False)
    assert not needs(replace(wanted, desired=Desired.STOPPED), lives)
    for stage in (Stage.WAITING, Stage.COPYING, Stage.RETURNING):
        assert not needs(replace(wanted, stage=stage), lives)
        assert not needs(replace(wanted, stage=stage), replace(lives, generation=None))


class Machine:
    """A machine on which every bot is down: two processors, and half a second of one for each start. Time is a number.

    Decided by the planner and the places; some bots hang. What happens is kept: each start, and how many at once.
    """

    def __init__(self, count: int, places: int, hanging: int) -> None:
        self.bots = ids(count)
        self.hang = set(random.Random(1).sample(self.bots, hanging))
        self.starts = Starts(places)
        self.crashes: dict[UUID, tuple[datetime, ...]] = {}
        self.booting: dict[UUID, float] = {}
        self.began: Counter[UUID] = Counter()
        self.ready_at: dict[UUID, float] = {}
        self.most = 0
        self.time = 0.0
        self._events: list[tuple[float, int, UUID]] = []
        self._order = itertools.count()

    def run(self, until: float) -> None:
        for bot in self.bots:
            self.starts.ask(bot)
        self._let_in()
        while self._events and self.time < until:
            self.time, _, bot = heapq.heappop(self._events)
            self._look(bot)
            self._let_in()

    def _let_in(self) -> None:
        for bot in self.starts.next():
            self._look(bot)

    def _look(self, bot: UUID) -> None:
        """One bot after the other, as the reconciler goes."""
        now = NOW + timedelta(seconds=self.time)
        if bot in self.ready_at:
            return
        begun = self.booting.get(bot)
        waited = 0.0 if begun is None else self.time - begun
        takes = 0.5 * max(1.0, len(self.booting) / 2)
        ready = begun is not None and bot not in self.hang and waited >= takes
        seen = Observed(None if begun is None else 1, ready, waited, self.crashes.get(bot, ()))
        step = plan(Wanted(Desired.RUNNING, 1), seen, Standing(True), now)
        if step.action is Action.START:
            if self.starts.take(bot):
                self.booting[bot] = self.time
                self.began[bot] += 1
                self.most = max(self.most, len(self.booting))
                self._later(bot, self.time + 0.5)
        elif step.action is Action.AWAIT_READY:
            next_look = takes if takes > waited else READY_SECONDS_MAX
            self._later(bot, max(self.time + 0.1, self.time - waited + min(next_look, READY_SECONDS_MAX)))
        elif step.action is Action.GIVE_UP:
            self._end(bot)
            self.crashes[bot] = (*self.crashes.get(bot, ()), now)[-CRASHES_MAX:]
            self._look(bot)
        elif ready:
            self._end(bot)
            self.ready_at[bot] = self.time
        elif step.look_again_at is not None:
            self._later(bot, (step.look_again_at - NOW).total_seconds())

    def _end(self, bot: UUID) -> None:
        del self.booting[bot]
        self.starts.release(bot)

    def _later(self, bot: UUID, at: float) -> None:
        heapq.heappush(self._events, (at, next(self._order), bot))


def test_ten_thousand_bots_that_are_down_come_up_one_start_each_however_many_hang() -> None:
    machine = Machine(BOTS, PLACES, hanging=20)
    machine.run(until=2 * 3600.0)
    well = [bot for bot in machine.bots if bot not in machine.hang]
    assert machine.most == PLACES
    assert set(machine.ready_at) == set(well)
    assert {machine.began[bot] for bot in well} == {1}
    # Those that hang cost places for their time and no more; half a second of two processors a bot is the least.
    waited_for = sum(machine.began[bot] for bot in machine.hang) * READY_SECONDS_MAX / PLACES
    assert max(machine.ready_at.values()) < (BOTS / 4 + waited_for) * 1.1


def test_without_places_all_start_at_once_and_hardly_any_is_ready_in_its_time() -> None:
    machine = Machine(BOTS, BOTS, hanging=0)
    machine.run(until=60.0)
    assert machine.most == BOTS
    assert sum(machine.began.values()) > 2 * BOTS
    assert len(machine.ready_at) < BOTS / 50


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bots get as long as they need, however slow this machine is."""
    for module in ("plan", "executor"):
        monkeypatch.setattr(f"wopr.fleet.{module}.READY_SECONDS_MAX", 300.0)


async def fleet_of(world: World, count: int, places: int) -> list[tuple[Any, str]]:
    """So many bots that run, with their customers, and so many places from now on."""
    settings = world.platform.settings.model_copy(update={"bot_starts_at_once": places, "bots_max": count})
    world.platform = replace(world.platform, settings=settings)
    customer = await world.customer()
    return [(customer, (await customer.create(f"Bot {number}"))["id"]) for number in range(count)]


async def all_run(world: World, count: int) -> bool:
    return bool(await world.sql("SELECT count(*) FROM bot_observed WHERE state = 'running'") == count)


def most_starting(world: World, bots: list[tuple[Any, str]], lines: dict[str, Any]) -> int:
    begun = {bot_id: datetime.fromisoformat(world.record(bot_id).started_at) for _, bot_id in bots}
    return most_at_once((at, said_listening(lines[bot_id], at)) for bot_id, at in begun.items())


@pytest.mark.parametrize("watched", [True, False], ids=["crashed", "down"])
async def test_bots_that_all_ended_at_once_come_back_a_few_at_a_time_and_know_what_they_knew(
    world: World, monkeypatch: pytest.MonkeyPatch, until: Until, watched: bool
) -> None:
    patient(monkeypatch)
    bots = await fleet_of(world, 12, places=2)
    first = world.reconciler() if not watched else await world.work()
    if not watched:
        await first.settle()
    await until(lambda: all_run(world, len(bots)))
    customer, told = bots[0]
    turn = (await customer.http.post(f"/fleet/bots/{told}/turns", json={"text": "my cat is Minka"})).json()

    async def answered() -> bool:
        path = f"/fleet/bots/{told}/turns/{turn['turn_id']}"
        return bool((await customer.http.get(path)).json()["state"] == "completed")

    await until(answered)
    if not watched:
        await first.close()
    before = {bot_id: world.record(bot_id) for _, bot_id in bots}
    for record in before.values():
        os.kill(record.pid, signal.SIGKILL)
    if not watched:
        await world.work()

    async def all_new() -> bool:
        same = [bot_id for bot_id, record in before.items() if world.record(bot_id) == record]
        return not same and await all_run(world, len(bots))

    await until(all_new)
    runtime = ProcessRuntime(world.home)
    lines = {bot_id: await runtime.logs(BotId(UUID(bot_id)), 1_000) for _, bot_id in bots}
    assert most_starting(world, bots, lines) <= 2
    restarts = {(await customer.bot(bot_id))["restarts"] for _, bot_id in bots}
    assert restarts == {1 if watched else 0}
    assert await answered()


async def test_a_bot_that_hangs_keeps_its_place_only_for_its_time(
    world: World, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    patient(monkeypatch)
    bots = await fleet_of(world, 3, places=1)
    customer, hangs = bots[0]
    await_ready, timed = Executor._await_ready, Reconciler._timed
    reconciler = world.reconciler()

    def time_is_over(asked: Reconciler, sight: Sight) -> Sight:
        seen = timed(asked, sight)
        return replace(seen, waited_seconds=1_000.0) if str(seen.bot_id) == hangs and seen.instance else seen

    async def hang(executor: Executor, instance: Instance, waited_seconds: float) -> None:
        """It answers nobody while another one waits for its place; then its time is over."""
        if str(instance.bot_id) != hangs:
            await await_ready(executor, instance, waited_seconds)
            return
        while not reconciler._starts.waiting() and not await all_run(world, 2):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        monkeypatch.setattr(Reconciler, "_timed", time_is_over)

    monkeypatch.setattr(Executor, "_await_ready", hang)
    work = asyncio.create_task(forever(reconciler))
    try:
        await until(lambda: all_run(world, 2))
        assert (await customer.bot(hangs))["state"] == "starting"
        monkeypatch.undo()
        patient(monkeypatch)
        await until(lambda: all_run(world, 3))
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_a_bot_that_waits_says_so_and_goes_first_when_somebody_talks_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr("wopr.fleet.talk.WAIT_SECONDS_MAX", 120.0)  # however slow this machine is
    bots = await fleet_of(world, 5, places=1)
    reconciler = world.reconciler()
    await world.platform.notifier.start()
    await world.platform.notifier.connected.wait()
    order: list[str] = []
    go = asyncio.Event()
    started = reconciler._runtime.start

    async def start(spec: Any) -> Any:
        order.append(str(spec.bot_id))
        await go.wait()
        return await started(spec)

    reconciler._runtime.start = start
    work = asyncio.create_task(forever(reconciler))
    try:
        await until(lambda: shown(world, 4))
        customer, asked = next((c, bot_id) for c, bot_id in reversed(bots) if bot_id not in order)
        assert (await customer.bot(asked))["state"] == "starting"
        turn = asyncio.create_task(customer.http.post(f"/fleet/bots/{asked}/turns", json={"text": "hello"}))

        async def is_next() -> bool:
            return UUID(asked) in reconciler._starts._hurried

        await until(is_next)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("wopr.fleet.talk.WAIT_SECONDS_MAX", 0.0)
            refused = await customer.http.post(f"/fleet/bots/{asked}/turns", json={"text": "hello?"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "bot_starting")
        assert TURN in refused.json()["error"]["message"]
        go.set()
        assert (await turn).status_code == 202
        await until(lambda: all_run(world, 5))
        assert order.index(asked) == 1
        assert sorted(order) == sorted(bot_id for _, bot_id in bots)
    finally:
        go.set()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def forever(reconciler: Reconciler) -> None:
    while True:
        await reconciler.run_pass()


async def shown(world: World, count: int) -> bool:
    query = "SELECT count(*) FROM bot_observed WHERE state = 'starting' AND reason = :turn"
    return bool(await world.sql(query, turn=TURN) == count)
