"""Goal G6: settlements a second with 1,000 customers and with one hot customer, on an embedded PostgreSQL.

A settlement is a usage row, its posting and the roll of the credit lease that bore it. Processes settle in batches;
the table shows several sizes. Everything shares the machine's cores.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from report import table
from sqlalchemy import text

from wopr.billing import codes
from wopr.billing.grants import grant_credit
from wopr.billing.invariants import invariants
from wopr.billing.leases import Lease, LeaseRoll, lease_rolls
from wopr.billing.usage import UsageRecord
from wopr.core.db import Database
from wopr.core.ids import KeyId, TenantId, new_id
from wopr.core.money import NANOS_PER_USD, Nanos
from wopr.core.postgres import EmbeddedPostgres
from wopr.migrations.run import upgrade

CUSTOMERS = 1_000
CONNECTIONS = 4
SECONDS = 4.0
COST = Nanos(1_000)
SLICE = Nanos(NANOS_PER_USD // 100)
Step = Callable[[], Awaitable[int]]


def record(tenant_id: TenantId) -> UsageRecord:
    return UsageRecord(
        request_id=uuid4(),
        tenant_id=tenant_id,
        key_id=KeyId(tenant_id),  # one key a customer
        bot_id=None,
        turn_id=None,
        kind="chat",
        model="handbook",
        node_id="local",
        prompt_tokens=100,
        completion_tokens=50,
        units=0,
        cost=COST,
        upstream_cost=Nanos(100),
        status="ok",
        started_at=datetime.now(UTC),
        duration_ms=20,
        first_token_ms=5,
    )


async def settle(db: Database, held: dict[TenantId, Lease | None], tenants: Sequence[TenantId], each: int) -> int:
    """Roll the leases of these customers, `each` settlements for every one, in one transaction."""
    rolls = [
        LeaseRoll(
            tenant_id,
            lease.id if (lease := held.get(tenant_id)) else None,
            SLICE,
            Nanos(1),
            [record(tenant_id) for _ in range(each)],
        )
        for tenant_id in tenants
    ]
    async with db.begin() as session:
        held.update(await lease_rolls(session, rolls, datetime.now(UTC)))
    return len(tenants) * each


async def rate(steps: Sequence[Step]) -> tuple[float, float]:
    """Settlements and transactions a second while every connection repeats its step."""
    done = transactions = 0
    begun = time.perf_counter()

    async def work(step: Step) -> None:
        nonlocal done, transactions
        while time.perf_counter() - begun < SECONDS:
            done += await step()
            transactions += 1

    await asyncio.gather(*(work(step) for step in steps))
    elapsed = time.perf_counter() - begun
    return done / elapsed, transactions / elapsed


async def measure(url: str) -> list[tuple[str, ...]]:
    db = Database(url, pool_size=CONNECTIONS)
    tenants = [TenantId(new_id()) for _ in range(CUSTOMERS)]
    async with db.begin() as session:
        for tenant_id in tenants:
            await grant_credit(session, tenant_id, 1_000 * NANOS_PER_USD, "benchmark")
    held: dict[TenantId, Lease | None] = {}
    shares = [[t for t in tenants if codes.shard(t) % CONNECTIONS == n] for n in range(CONNECTIONS)]

    def many(customers: int, each: int) -> list[Step]:
        def step(share: list[TenantId]) -> Step:
            return lambda: settle(db, held, random.sample(share, customers), each)

        return [step(share) for share in shares]

    def hot(each: int) -> list[Step]:
        return [lambda: settle(db, {}, tenants[:1], each)]

    rows: list[tuple[str, ...]] = []
    for name, steps, goal in (
        ("1,000 customers, 1 a transaction, 10 requests", many(1, 10), "–"),
        ("1,000 customers, 25 a transaction, 1 request", many(25, 1), "–"),
        ("1,000 customers, 50 a transaction, 5 requests", many(50, 5), "5,000"),
        ("1,000 customers, 100 a transaction, 10 requests", many(100, 10), "5,000"),
        ("one hot customer, 50 requests", hot(50), "3,000"),
        ("one hot customer, 500 requests", hot(500), "3,000"),
    ):
        settlements, transactions = await rate(steps)
        rows.append((name, f"{settlements:,.0f}", f"{transactions:,.0f}", goal))
    async with db.begin() as session:
        problems = await invariants(session)
    async with db.begin() as session:
        count = await session.scalar(text("SELECT count(*) FROM usage_records"))
    rows.append((f"invariants after {count:,} settlements", f"{len(problems)} problems", "–", "0"))
    await db.dispose()
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wopr-bench-") as folder:
        server = EmbeddedPostgres(Path(folder))
        server.prepare()
        process = server.start()
        try:
            url = server.wait_ready(process)
            asyncio.run(upgrade(url))
            rows = asyncio.run(measure(url))
        finally:
            server.stop(process)
    table("Settlements", ("what", "settlements/s", "transactions/s", "goal"), rows)


if __name__ == "__main__":
    main()
