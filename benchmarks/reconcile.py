"""Goal S2: what a look at all costs when there are 10,000 bots, all as they should be, on an embedded PostgreSQL.

The reconciler is the real one; the runtime says of every bot that it runs. A pass looks at all bots once and is
followed by the next after PASS_SECONDS and the loop's period. Counted is the processor time of the API's process and
of PostgreSQL's together, without the waiting, and every statement that is sent.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
from report import median, table
from sqlalchemy import event, text

from wopr.billing.grants import grant_credit
from wopr.core.db import Database
from wopr.core.ids import BotId, TenantId, new_id
from wopr.core.money import NANOS_PER_USD
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.postgres import EmbeddedPostgres
from wopr.core.settings import Settings
from wopr.fleet.reconcile import PASS_SECONDS, Reconciler
from wopr.fleet.runs import SEEN_AGAIN
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, LogLine
from wopr.migrations.run import upgrade

BOTS = 10_000
CUSTOMERS = 4_000
PASSES = 12
LOOP_PERIOD_SECONDS = 1.0
GOAL = 0.05
MAKE = """
INSERT INTO users (id, email) SELECT id, id || '@example.com' FROM unnest(CAST(:tenants AS uuid[])) AS id;
INSERT INTO tenants (id, name) SELECT id, 'Someone' FROM unnest(CAST(:tenants AS uuid[])) AS id;
INSERT INTO memberships (tenant_id, user_id, role) SELECT id, id, 'owner' FROM unnest(CAST(:tenants AS uuid[])) AS id;
INSERT INTO bots (id, tenant_id, name, persona, instructions, model, voice, size)
SELECT id, tenant, 'bot ' || id, repeat('You are a bot. ', 20), repeat('Be kind. ', 50), 'handbook', 'rms', 'standard'
FROM unnest(CAST(:bots AS uuid[]), CAST(:owners AS uuid[])) AS b(id, tenant);
INSERT INTO bot_observed (bot_id, state, instance_id, ready_at)
SELECT bot, 'running', instance, now()
FROM unnest(CAST(:bots AS uuid[]), CAST(:instances AS uuid[])) AS b(bot, instance);
INSERT INTO bot_runs (id, bot_id, tenant_id, size, started_at, seen_at, charged_until)
SELECT instance, bot, tenant, 'standard', now(), now(), now()
FROM unnest(CAST(:bots AS uuid[]), CAST(:instances AS uuid[]), CAST(:owners AS uuid[])) AS b(bot, instance, tenant);
"""


class Full:
    """A runtime in which every bot lives."""

    copies = None  # no image is changed here

    def __init__(self, instances: Mapping[BotId, Instance]) -> None:
        self.instances = instances
        self.touched = 0

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        """Nothing ends."""

    async def observe(self) -> Mapping[BotId, Instance]:
        return self.instances

    async def locate(self, bot_id: BotId) -> Instance | None:
        self.touched += 1
        return self.instances.get(bot_id)

    def held(self, bot_id: BotId) -> str:
        return ""

    async def prepare(self, bot_id: BotId, image: str) -> None:
        """There is nothing to fetch."""

    async def start(self, spec: BotSpec) -> Instance:
        self.touched += 1
        return self.instances[spec.bot_id]

    async def stop(self, bot_id: BotId) -> None:
        self.touched += 1

    async def remove(self, bot_id: BotId) -> None:
        self.touched += 1

    async def tend(self) -> int:
        return 0

    async def guard(self) -> int:
        return 0

    async def prune(self, needed: Sequence[str]) -> int:
        return 0

    async def logs(self, bot_id: BotId, tail: int) -> Sequence[LogLine]:
        return []

    async def follow(self, bot_id: BotId, tail: int) -> AsyncIterator[LogLine]:
        for line in await self.logs(bot_id, tail):
            yield line

    async def close(self) -> None:
        """There is nothing to give back."""


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
    """One pass: processor seconds of this process and of PostgreSQL's, seconds that passed, statements by kind."""

    ours: float
    theirs: float
    elapsed: float
    statements: Counter[str]

    @property
    def wrote(self) -> bool:
        return self.statements["UPDATE"] + self.statements["INSERT"] > 0


async def fill(db: Database) -> dict[BotId, Instance]:
    """Customers with credit and their bots, all running; what lives of them."""
    tenants = [new_id() for _ in range(CUSTOMERS)]
    bots, instances = [new_id() for _ in range(BOTS)], [uuid4() for _ in range(BOTS)]
    owners = [tenants[number % CUSTOMERS] for number in range(BOTS)]
    async with db.begin() as session:
        for statement in MAKE.split(";\n"):
            if statement.strip():
                values = {"tenants": tenants, "bots": bots, "owners": owners, "instances": instances}
                await session.execute(text(statement), {k: v for k, v in values.items() if f":{k} " in statement})
        for tenant in tenants:
            await grant_credit(session, TenantId(tenant), NANOS_PER_USD, "benchmark")
    async with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))
    now = datetime.now(UTC)
    return {BotId(bot): _instance(bot, one, now) for bot, one in zip(bots, instances, strict=True)}


def _instance(bot: UUID, instance: UUID, now: datetime) -> Instance:
    return Instance(instance, BotId(bot), 1, "http://127.0.0.1:1", now, "token")


async def measure(url: str, server_pid: int, folder: Path) -> list[tuple[str, ...]]:
    db = Database(url, pool_size=4)
    statements: Counter[str] = Counter()

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements[statement.split(maxsplit=1)[0].upper()] += 1

    event.listen(db.engine.sync_engine, "before_cursor_execute", count)
    runtime, clock = Full(await fill(db)), Moving()
    async with httpx.AsyncClient() as http:
        platform = Platform(Settings(wopr_home=folder), db, clock, http, Notifier(db))
        reconciler = Reconciler(platform, runtime, http)
        await reconciler._look_at_all()  # the first reads everybody's standing, loads code and warms PostgreSQL
        costs = []
        for _ in range(PASSES):
            clock.leapt += PASS_SECONDS + LOOP_PERIOD_SECONDS
            statements.clear()
            ours, theirs, begun = time.process_time(), seconds_of(server_pid), time.perf_counter()
            to_do = await reconciler._look_at_all()
            elapsed = time.perf_counter() - begun
            costs.append(
                Cost(time.process_time() - ours, seconds_of(server_pid) - theirs, elapsed, Counter(statements))
            )
            assert not to_do, f"{len(to_do)} bots were not as they should be"
            assert not runtime.touched
        await reconciler.close()
    await db.dispose()
    return rows_of(costs)


def rows_of(costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    quiet = [cost for cost in costs if not cost.wrote]
    writing = [cost for cost in costs if cost.wrote]
    for name, chosen in (
        ("looks", quiet),
        (f"looks, and notes running time (every {SEEN_AGAIN.seconds} s)", writing),
    ):
        if chosen:
            ours, theirs = median([cost.ours for cost in chosen]), median([cost.theirs for cost in chosen])
            said = ", ".join(f"{count} {kind}" for kind, count in sorted(chosen[-1].statements.items()))
            seconds = median([cost.elapsed for cost in chosen])
            rows.append((name, f"{len(chosen)}", f"{seconds:.2f} s", f"{ours:.2f} s", f"{theirs:.2f} s", said, "–"))
    period = PASS_SECONDS + LOOP_PERIOD_SECONDS
    ours, theirs = sum(cost.ours for cost in costs), sum(cost.theirs for cost in costs)
    share = (ours + theirs) / (len(costs) * period)
    cells = (
        f"{len(costs)}",
        f"{share:.1%} of a core",
        f"{ours:.2f} s",
        f"{theirs:.2f} s",
        "–",
        f"{GOAL:.0%} of a core",
    )
    rows.append((f"S2: all together, one each {period:.0f} s", *cells))
    return rows


def seconds_of(pid: int) -> float:
    """Processor seconds of PostgreSQL's processes that live (those of the pool do, while it is measured)."""
    server = psutil.Process(pid)
    total = 0.0
    for process in (server, *server.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wopr-bench-") as folder:
        server = EmbeddedPostgres(Path(folder))
        server.prepare()
        process = server.start()
        try:
            url = server.wait_ready(process)
            asyncio.run(upgrade(url))
            rows = asyncio.run(measure(url, process.pid, Path(folder)))
        finally:
            server.stop(process)
    headers = ("pass", "passes", "takes", "API's processor", "PostgreSQL's", "statements", "goal")
    table(f"A look at {BOTS:,} bots of {CUSTOMERS:,} customers, nothing changed", headers, rows)


if __name__ == "__main__":
    main()
