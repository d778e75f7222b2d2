"""Goal S2: what 10,000 bots cost when nothing changes, when the API restarts, and when all of them are down.

PostgreSQL is a real one, and so are the reconciler and, in the last table, the runner of the loops; the machine says of
every bot that it runs, or starts it when it is told to, and answers for it. Counted is the processor time of the API's
process and of PostgreSQL's together, without the waiting, and every statement that is sent. Stepwise passes have a
clock that leaps as far as the time between them; the loop itself is watched for LOOP_SECONDS as it runs.
"""

import asyncio
import contextlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import structlog
from aiohttp import web
from pydantic import SecretStr
from report import median, run, say, table
from tests.crowd import Crowd, crowd, statements

from wopr.core.db import Database
from wopr.core.loops import Loop, LoopRunner
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.postgres import EmbeddedPostgres
from wopr.core.settings import Settings
from wopr.fleet.build import bot_http
from wopr.fleet.reconcile import PASS_SECONDS, Reconciler
from wopr.fleet.runs import SEEN_AGAIN
from wopr.migrations.run import upgrade

BOTS = 10_000
PASSES = 12
LOOP_PERIOD_SECONDS = 1.0
LOOP_SECONDS = 66.0
STARTED = 200
GOAL = 0.05


class Moving:
    """A clock that leaps from pass to pass, as far as the time between them."""

    def __init__(self) -> None:
        self.leapt = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.leapt)

    def monotonic(self) -> float:
        return time.monotonic() + self.leapt


@dataclass(frozen=True)
class Cost:
    """Processor seconds of this process and of PostgreSQL's, seconds that passed, statements by kind."""

    ours: float
    theirs: float
    elapsed: float
    statements: Counter[str]

    @property
    def wrote(self) -> bool:
        return self.statements["UPDATE"] + self.statements["INSERT"] > 0

    @property
    def said(self) -> str:
        kinds = sorted((kind, count) for kind, count in self.statements.items() if kind != "rows")
        return ", ".join(f"{count} {kind}" for kind, count in kinds)


@dataclass
class Bench:
    """Ten thousand bots, and who looks after them."""

    db: Database
    server: psutil.Process
    platform: Platform
    runtime: Crowd
    http: httpx.AsyncClient

    def reconciler(self) -> Reconciler:
        """What a new process of the API has."""
        return Reconciler(self.platform, self.runtime, self.http)

    @asynccontextmanager
    async def costing(self, found: list[Cost]) -> AsyncIterator[None]:
        """Adds what the block costs."""
        with statements(self.db) as counted:
            ours, theirs, begun = time.process_time(), seconds_of(self.server), time.perf_counter()
            yield
            elapsed = time.perf_counter() - begun
            found.append(Cost(time.process_time() - ours, seconds_of(self.server) - theirs, elapsed, counted))


def seconds_of(server: psutil.Process) -> float:
    """Processor seconds of PostgreSQL's processes, of those that have ended, too."""
    own = server.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


async def idle(bench: Bench) -> list[tuple[str, ...]]:
    """The first pass of a process, then passes as the loop would make them."""
    clock = bench.platform.clock
    assert isinstance(clock, Moving)
    warm = bench.reconciler()
    await warm._pass(0.0)  # loads code and warms PostgreSQL
    await warm.close()
    first: list[Cost] = []
    costs: list[Cost] = []
    reconciler = bench.reconciler()
    async with bench.costing(first):
        await reconciler._pass(0.0)
    for _ in range(PASSES):
        clock.leapt += PASS_SECONDS + LOOP_PERIOD_SECONDS
        async with bench.costing(costs):
            await reconciler._pass(0.0)
    await reconciler.close()
    assert set(bench.runtime.calls) == {"observe"}, bench.runtime.calls
    rows = [row("the first of a process, as after a restart of the API", first)]
    rows.append(row("looks", [cost for cost in costs if not cost.wrote]))
    rows.append(
        row(f"looks, and notes running time (every {SEEN_AGAIN.seconds} s)", [cost for cost in costs if cost.wrote])
    )
    share = sum(cost.ours + cost.theirs for cost in costs) / (len(costs) * (PASS_SECONDS + LOOP_PERIOD_SECONDS))
    every = f"S2: all together, one each {PASS_SECONDS + LOOP_PERIOD_SECONDS:.0f} s"
    return [*rows, (every, str(len(costs)), f"{share:.1%} of a core", "–", "–", "–", f"{GOAL:.0%} of a core")]


def row(name: str, costs: Sequence[Cost]) -> tuple[str, ...]:
    ours, theirs, took = (median([getattr(cost, what) for cost in costs]) for what in ("ours", "theirs", "elapsed"))
    return (name, str(len(costs)), f"{took:.2f} s", f"{ours:.2f} s", f"{theirs:.2f} s", costs[-1].said, "–")


async def as_it_runs(bench: Bench) -> list[tuple[str, ...]]:
    """The loop in its runner, with its lease and its record, in real time."""
    reconciler, notifier = bench.reconciler(), bench.platform.notifier
    loop = Loop("reconcile_bots", LOOP_PERIOD_SECONDS, "It is measured.", reconciler.run_pass)
    runner = LoopRunner(bench.db, notifier, [loop])
    found: list[Cost] = []
    await notifier.start()
    async with bench.costing(found):
        await runner.start()
        await asyncio.sleep(LOOP_SECONDS)
    await runner.stop()
    await notifier.stop()
    await reconciler.close()
    (cost,) = found
    share = (cost.ours + cost.theirs) / cost.elapsed
    named = f"S2: the loop as it runs, {LOOP_SECONDS:.0f} s with its start"
    times = (f"{share:.1%} of a core", f"{cost.ours:.2f} s", f"{cost.theirs:.2f} s")
    return [(named, "–", *times, cost.said, f"{GOAL:.0%} of a core")]


async def down(bench: Bench) -> list[tuple[str, ...]]:
    """Everything is down: what the look costs that finds it, then what each start does."""
    bench.runtime.fall()
    bench.runtime.calls.clear()
    reconciler = bench.reconciler()
    queued: list[Cost] = []
    starting: list[Cost] = []
    async with bench.costing(queued):
        await reconciler._look_at_all()
    tasks, waiting = len(reconciler._tasks), len(reconciler._starts.waiting())
    enough = asyncio.Event()
    bench.runtime.on_start = lambda _bot: enough.set() if bench.runtime.calls["start"] >= STARTED else None
    async with bench.costing(starting):
        working = asyncio.create_task(forever(reconciler))
        await enough.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    await reconciler.close()
    (cost,) = starting
    sent = sum(count for kind, count in cost.statements.items() if kind != "rows")
    calls = sum(bench.runtime.calls.values())
    times = (f"{seconds / STARTED * 1e3:.1f} ms" for seconds in (cost.elapsed, cost.ours, cost.theirs))
    each = f"{sent / STARTED:.0f} statements, {calls / STARTED:.1f} calls of the engine"
    found = row(f"finds all down: {tasks} start, {waiting:,} wait", queued)
    return [found, (f"of {STARTED} starts, each", "–", *times, each, "–")]


async def forever(reconciler: Reconciler) -> None:
    while True:
        await reconciler.run_pass()


@asynccontextmanager
async def answering() -> AsyncIterator[str]:
    """Where every bot of the crowd answers."""

    async def healthy(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/health", healthy)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def measure(url: str, server_pid: int, folder: Path) -> list[tuple[str, ...]]:
    await upgrade(url)
    db = Database(url, pool_size=4)
    try:
        async with answering() as address, bot_http() as http:
            settings = Settings(wopr_home=folder, platform_secret=SecretStr("of the benchmark"))
            platform = Platform(settings, db, Moving(), http, Notifier(db))
            bench = Bench(db, psutil.Process(server_pid), platform, await crowd(db, BOTS), http)
            bench.runtime.url = address
            rows = await idle(bench)
            say("the loop as it runs")
            rows += await as_it_runs(bench)
            say("all down")
            return rows + await down(bench)
    finally:
        await db.dispose()


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="wopr-bench-") as folder:
        server = EmbeddedPostgres(Path(folder))
        server.prepare()
        process = server.start()
        try:
            rows = asyncio.run(measure(server.wait_ready(process), process.pid, Path(folder)))
        finally:
            server.stop(process)
    headers = ("pass", "passes", "takes", "API's processor", "PostgreSQL's", "statements", "goal")
    table(f"{BOTS:,} bots of 4,000 customers", headers, rows)


if __name__ == "__main__":
    run(main)
