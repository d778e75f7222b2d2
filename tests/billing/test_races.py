"""Races between processes: exactly the credit is spent, and nobody waits for ever."""

import asyncio
import sys
from uuid import uuid4

from tests.billing.conftest import money_of

from wopr.billing import codes, ledger
from wopr.billing.grants import grant_credit
from wopr.billing.invariants import invariants
from wopr.billing.ledger import InsufficientCredit, Transfer
from wopr.core.db import Database
from wopr.core.ids import TenantId

WORKER = """
import asyncio, sys
from uuid import UUID, uuid4
from wopr.billing import codes, ledger
from wopr.core import db as databases
from wopr.core.db import Database

databases.POOL_WAIT_SECONDS_MAX = 100  # no test depends on how quick the machine is

async def main(url, tenant, requests, cost):
    db = Database(url, pool_size=8)
    async def one():
        transfer = ledger.Transfer(
            uuid4(), codes.customer(tenant), codes.revenue("inference", tenant), cost, "test_spending"
        )
        try:
            async with db.begin() as session:
                await ledger.post(session, [transfer])
        except ledger.InsufficientCredit:
            return 0
        return 1
    print(sum(await asyncio.gather(*(one() for _ in range(requests)))))
    await db.dispose()

asyncio.run(main(sys.argv[1], UUID(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""


async def test_200_requests_of_four_processes_against_credit_for_10_spend_exactly_10(db: Database) -> None:
    tenant_id = TenantId(uuid4())
    async with db.begin() as session:
        await grant_credit(session, tenant_id, 10 * 7 + 3, "race")
    command = [sys.executable, "-c", WORKER, db.url, str(tenant_id), "50", "7"]
    pipe = asyncio.subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*command, stdout=pipe) for _ in range(4)]
    outputs = await asyncio.wait_for(asyncio.gather(*(worker.communicate() for worker in workers)), 120)
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sum(int(output) for output, _ in outputs) == 10
    money = await money_of(db, tenant_id)
    assert (money.available, money.held, money.debt) == (3, 0, 0)
    async with db.begin() as session:
        assert await invariants(session) == []


async def test_transfers_in_both_directions_do_not_lock_each_other_out(db: Database) -> None:
    tenants = [TenantId(uuid4()) for _ in range(4)]
    async with db.begin() as session:
        for tenant_id in tenants:
            await grant_credit(session, tenant_id, 10_000, "race")

    async def move(number: int) -> None:
        here, there = tenants[number % 4], tenants[(number * 7 + 1 + number // 4) % 4]
        if here == there:
            return
        pair = [
            Transfer(uuid4(), codes.customer(here), codes.customer(there), 5, "test_move"),
            Transfer(uuid4(), codes.customer(there), codes.STRIPE, 1, "test_move"),
        ]
        async with db.begin() as session:
            await ledger.post(session, pair if number % 2 else pair[::-1])

    await asyncio.wait_for(asyncio.gather(*(move(number) for number in range(120))), 60)
    async with db.begin() as session:
        assert await invariants(session) == []


async def test_the_same_transfer_from_many_sides_at_once_moves_money_once(db: Database) -> None:
    tenant_id = TenantId(uuid4())
    transfer = Transfer(uuid4(), codes.STRIPE, codes.customer(tenant_id), 100, "payment")

    async def once() -> int:
        async with db.begin() as session:
            return await ledger.post(session, [transfer])

    assert sum(await asyncio.gather(*(once() for _ in range(20)))) == 1
    assert (await money_of(db, tenant_id)).available == 100


async def test_holds_can_not_overdraw_either(db: Database) -> None:
    tenant_id = TenantId(uuid4())
    async with db.begin() as session:
        await grant_credit(session, tenant_id, 25, "race")

    async def once() -> int:
        held = Transfer(uuid4(), codes.customer(tenant_id), codes.revenue("inference", tenant_id), 10, "lease")
        try:
            async with db.begin() as session:
                return await ledger.hold(session, [held])
        except InsufficientCredit:
            return 0

    assert sum(await asyncio.gather(*(once() for _ in range(30)))) == 2
    money = await money_of(db, tenant_id)
    assert (money.available, money.held) == (5, 20)
