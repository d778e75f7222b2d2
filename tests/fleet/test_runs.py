"""Running time is charged once and without gaps, for exactly what was observed."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from wopr.billing.prices import load_prices
from wopr.billing.usage import running_cost_day
from wopr.core.ids import new_id
from wopr.fleet.runs import Run, charge_runs, close_runs, mark_seen, open_run

World = Any  # of conftest.py, which can't be imported

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHEET = load_prices()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def running(world: World, tenant_id: UUID, bot_id: UUID, start: datetime) -> UUID:
    run = Run(new_id(), bot_id, tenant_id, "standard")
    async with world.platform.db.begin() as session:
        await open_run(session, run, start)
        await open_run(session, run, start + timedelta(seconds=3))
    return run.instance_id


async def seen(world: World, run: UUID, moment: datetime) -> None:
    async with world.platform.db.begin() as session:
        await mark_seen(session, [run], moment)


async def periods(world: World) -> list[tuple[float, float]]:
    rows = await world.sql(
        "SELECT json_agg(json_build_array(extract(epoch FROM started_at), extract(epoch FROM ended_at)) "
        "ORDER BY started_at) FROM runtime_periods"
    )
    return [(a - START.timestamp(), b - START.timestamp()) for a, b in rows or []]


def covered(found: list[tuple[float, float]]) -> tuple[float, float]:
    """The one stretch that periods without a gap or an overlap make together."""
    assert all(end == start for (_, end), (start, _) in pairwise(found))
    return found[0][0], found[-1][1]


async def test_a_charge_takes_what_was_seen_since_the_last_one(world: World) -> None:
    customer = await world.customer()
    run = await running(world, customer.tenant_id, new_id(), at(0))
    assert await charge_runs(world.platform.db, SHEET) == 0
    for moment, charges in ((10.0, 0), (30.4, 1), (59.0, 0), (60.9, 1), (119.0, 0), (120.9, 1)):
        await seen(world, run, at(moment))
        assert await charge_runs(world.platform.db, SHEET) == charges, moment
        assert await charge_runs(world.platform.db, SHEET) == 0
    assert covered(await periods(world)) == (0, 120)
    cost = await world.sql("SELECT sum(cost)::bigint FROM runtime_periods")
    assert 0 <= SHEET.bot_runtime("standard", 120) - cost <= 2  # less than a nano-dollar is dropped in each charge


async def test_a_bot_that_runs_for_long_is_charged_every_hour(world: World) -> None:
    customer = await world.customer()
    run = await running(world, customer.tenant_id, new_id(), at(0))
    charges = 0
    for minute in range(1, 24 * 60 + 1):
        if minute % 15 == 0:
            await seen(world, run, at(minute * 60))
            charges += await charge_runs(world.platform.db, SHEET)
    assert 24 <= charges <= 26
    assert covered(await periods(world))[0] == 0
    assert covered(await periods(world))[1] > 23 * 3600


async def test_two_chargers_at_once_charge_once(world: World) -> None:
    customer = await world.customer()
    for _ in range(4):
        await seen(world, await running(world, customer.tenant_id, new_id(), at(0)), at(60))
    counts = await asyncio.gather(*(charge_runs(world.platform.db, SHEET) for _ in range(3)))
    assert sum(counts) == 4
    assert await world.sql("SELECT sum(cost)::bigint FROM runtime_periods") == 4 * SHEET.bot_runtime("standard", 60)


async def test_an_ended_run_is_charged_to_its_end_and_time_in_which_nobody_looked_is_free(world: World) -> None:
    customer = await world.customer()
    bot = new_id()
    first = await running(world, customer.tenant_id, bot, at(0))
    await seen(world, first, at(10))
    async with world.platform.db.begin() as session:
        await close_runs(session, bot, None, None)  # found dead much later: it ended when it was last seen
    second = await running(world, customer.tenant_id, bot, at(100))
    async with world.platform.db.begin() as session:
        await close_runs(session, bot, second, at(100))
        await close_runs(session, bot, None, at(105))
    await charge_runs(world.platform.db, SHEET)
    await seen(world, first, at(500))
    await seen(world, second, at(500))
    assert await charge_runs(world.platform.db, SHEET) == 0
    assert await periods(world) == [(0, 10), (100, 105)]


async def test_a_running_bot_is_charged_across_a_restart_of_the_api_and_a_stopped_one_is_not(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    first = world.reconciler()
    await first.settle()
    await first.close()
    await earlier(world)
    second = world.reconciler()
    await second.settle()
    assert await world.sql("SELECT count(*) FROM bot_runs") == 1
    assert await world.sql("SELECT seen_at >= started_at + interval '40 s' AND ended_at IS NULL FROM bot_runs")
    await customer.http.post(f"/fleet/bots/{bot['id']}/stop")
    await second.settle()
    assert await world.sql("SELECT ended_at IS NOT NULL AND ended_at = seen_at FROM bot_runs")
    ended = await world.sql("SELECT ended_at FROM bot_runs")
    await second.settle()
    assert await world.sql("SELECT seen_at FROM bot_runs") == ended


async def test_a_look_at_what_runs_as_it_should_writes_nothing_until_its_time_must_be_noted(world: World) -> None:
    customer = await world.customer()
    for name in ("Ada", "Bob"):
        await customer.create(name)
    reconciler = world.reconciler()
    await reconciler.settle()
    written = "SELECT string_agg(x.xmin::text, ' ' ORDER BY x.xmin::text) FROM {} x"
    tables = ("bots", "bot_observed", "bot_runs", "runtime_bots")
    before = [await world.sql(written.format(table)) for table in tables]
    for _ in range(2):
        await reconciler.settle()
    assert [await world.sql(written.format(table)) for table in tables] == before
    await earlier(world)
    await reconciler.settle()
    assert await world.sql("SELECT bool_and(seen_at >= started_at + interval '40 s') FROM bot_runs")


async def earlier(world: World) -> None:
    """As if everything that runs had been noted 40 s ago for the last time."""
    await world.sql(
        "UPDATE bot_runs SET started_at = started_at - interval '40 s', seen_at = seen_at - interval '40 s', "
        "charged_until = charged_until - interval '40 s'"
    )


async def test_what_runs_is_known_to_billing_before_it_is_charged(world: World) -> None:
    customer, bot_id = await world.customer(), new_id()
    await running(world, customer.tenant_id, bot_id, at(0))
    async with world.platform.db.begin() as session:
        assert await running_cost_day(session, customer.tenant_id, SHEET) == SHEET.bot_month("standard") // 30
        await close_runs(session, bot_id, None, at(1))
        assert await running_cost_day(session, customer.tenant_id, SHEET) == 0
