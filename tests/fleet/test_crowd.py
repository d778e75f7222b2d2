"""What a pass costs hardly depends on how many bots there are: counted in statements and calls, not in seconds."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from sqlalchemy import text
from tests.crowd import Crowd, crowd, statements

from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.fleet.build import bot_http
from wopr.fleet.plan import TURN
from wopr.fleet.reconcile import STANDING_SECONDS, Reconciler
from wopr.fleet.runs import SEEN_AGAIN

PLACES = 4
SIZES = (20, 200)


class Ahead(SystemClock):
    """A clock that is set forward between two passes."""

    seconds = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds


def platform_of(db: Database, folder: Path, http: httpx.AsyncClient) -> Platform:
    settings = Settings(wopr_home=folder, platform_secret="of the tests", bot_starts_at_once=PLACES)
    return Platform(settings, db, Ahead(), http, Notifier(db))


async def idle_passes(db: Database, folder: Path, bots: int) -> tuple[list[Counter[str]], Crowd]:
    """What the first pass of a process costs, the next one, and one that must look at credit and note running time."""
    runtime = await crowd(db, bots)
    costs = []
    async with bot_http() as http:
        platform = platform_of(db, folder, http)
        reconciler = Reconciler(platform, runtime, http)
        for leap in (0.0, 0.0, max(STANDING_SECONDS, SEEN_AGAIN.total_seconds()) + 1):
            assert isinstance(platform.clock, Ahead)
            platform.clock.seconds += leap
            with statements(db) as counted:
                counts = await reconciler._pass(0.0)
            assert counts == {"bots": bots, "running": bots}
            costs.append(counted)
        await reconciler.close()
    return costs, runtime


async def test_a_pass_with_nothing_to_do_sends_as_few_statements_for_many_bots_as_for_few(
    db: Database, tmp_path: Path
) -> None:
    few, _ = await idle_passes(db, tmp_path, SIZES[0])
    async with db.begin() as session:
        await session.execute(text("UPDATE bots SET deleted_at = now()"))
    many, runtime = await idle_passes(db, tmp_path, SIZES[1])
    for cost in (*few, *many):
        del cost["rows"]
    assert many == few
    first, idle, noting = many
    assert idle == {"SELECT": 1}, "one statement for all of them"
    assert sum(first.values()) <= 5, "the first pass of a process, as after a restart of the API, also reads the credit"
    assert sum(noting.values()) <= 6
    assert runtime.calls == {"observe": 3}, "nothing is asked of an engine but one list"


async def test_an_idle_pass_reads_a_row_a_bot_and_writes_none(db: Database, tmp_path: Path) -> None:
    (_, idle, _), _ = await idle_passes(db, tmp_path, SIZES[1])
    assert idle["rows"] == SIZES[1]


@pytest.fixture
async def bots_address() -> Any:
    """Where every bot of a crowd answers."""

    async def healthy(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/health", healthy)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_crowd_that_is_down_is_started_with_a_fixed_number_of_calls_each_and_those_that_wait_cost_none(
    db: Database, tmp_path: Path, bots_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wopr.fleet.reconcile.DRAIN_SECONDS_MAX", 600.0)  # one pass, however slow this machine is
    runtime = await crowd(db, count := 100)
    runtime.url = bots_address
    most = tasks = 0
    async with bot_http() as http, AsyncExitStack() as closing:
        reconciler = Reconciler(platform_of(db, tmp_path, http), runtime, http)
        closing.push_async_callback(reconciler.close)
        await reconciler.settle()
        runtime.fall()
        runtime.calls.clear()

        def on_start(_bot_id: Any) -> None:
            nonlocal most, tasks
            most, tasks = max(most, len(reconciler._starts._holders)), max(tasks, len(reconciler._tasks))

        runtime.on_start = on_start
        with statements(db) as counted:
            await reconciler.settle()
        assert len(runtime.instances) == count
        assert runtime.calls["start"] == count, "one start each"
        assert runtime.calls["observe"] == 1
        assert runtime.calls["locate"] <= 4 * count
        assert most == tasks == PLACES, "a bot that waits has neither a task nor a lock"
        assert counted.total() - counted["rows"] <= 30 * count
        async with db.begin() as session:
            waits = "SELECT count(*) FROM bot_observed WHERE reason = :turn OR state <> 'running'"
            assert await session.scalar(text(waits), {"turn": TURN}) == 0


async def test_another_process_counts_what_starts_already_and_lets_go_of_who_is_not_to_start_any_more(
    db: Database, tmp_path: Path
) -> None:
    runtime = await crowd(db, count := 20)  # at an address where nobody answers
    async with bot_http() as http:
        first = Reconciler(platform_of(db, tmp_path, http), runtime, http)
        runtime.fall()
        under_way = asyncio.Event()
        runtime.on_start = lambda _bot: under_way.set() if runtime.calls["start"] == PLACES else None
        working = asyncio.create_task(first.run_pass())
        await under_way.wait()
        while len(runtime.instances) < PLACES:  # noqa: ASYNC110 - they are about to return
            await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await first.close()

        heir = Reconciler(platform_of(db, tmp_path, http), runtime, http)
        await heir._look_at_all()
        assert heir._starts._holders == set(runtime.instances)
        waiting = heir._starts.waiting()
        assert len(waiting) == count - PLACES
        assert not heir._tasks
        stopped, *_ = waiting
        async with db.begin() as session:
            await session.execute(text("UPDATE bots SET desired = 'stopped' WHERE id = :bot"), {"bot": stopped})
        await heir._look_at_all()
        assert heir._starts.waiting() == waiting - {stopped}
        assert runtime.calls["start"] == PLACES
        await heir.close()
