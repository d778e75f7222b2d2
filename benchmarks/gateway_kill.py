"""Gateway: G10, kill -9 under load: is any answered request's usage lost or charged twice?"""

import argparse
import asyncio
import contextlib
import random
import signal
from uuid import UUID

import common
from sqlalchemy import text

from wopr.billing.ledger import balance
from wopr.core.money import NANOS_PER_USD

CONNECTIONS = 8
CREDIT_USD = 1000


async def life(lab: common.Lab, key: str, answered: set[UUID]) -> None:
    """One process from its start to its kill, with requests all the while."""
    server = await lab.gateway()
    whole = common.request_bytes(server.port, common.chat_body(stream=False), key)
    stream = common.request_bytes(server.port, common.chat_body(stream=True), key)

    async def worker() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            _, connection = await loop.create_connection(common.LoadConnection, "127.0.0.1", server.port)
            while True:
                data = stream if random.random() < 0.2 else whole  # a load, not a secret
                if await connection.request(data) == 200:
                    answered.add(UUID(connection.request_id))

    workers = [asyncio.create_task(worker()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(random.uniform(0.05, 1.0))
    server.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*workers)
    server.process.wait()
    lab.servers.remove(server)


async def measure(arguments: argparse.Namespace) -> None:
    async with common.laboratory() as lab:
        customer = await lab.customer(str(CREDIT_USD))
        answered: set[UUID] = set()
        for _ in range(arguments.kills):
            await life(lab, customer.key, answered)
        last = await lab.gateway()
        await asyncio.sleep(1)
        last.stop()
        async with lab.db.begin() as session:
            # Leases of killed processes whose number did not reach their log come back when they expire.
            rows = await session.execute(text("SELECT request_id, count(*) FROM usage_records GROUP BY request_id"))
            counts = {row[0]: row[1] for row in rows}
            spent = int(await session.scalar(text("SELECT coalesce(sum(cost), 0) FROM usage_records")) or 0)
            after = await balance(session, customer.tenant_id)
        lost = len(answered - counts.keys())
        twice = sum(count > 1 for count in counts.values())
        adds_up = spent + after.available + after.held - after.debt == CREDIT_USD * NANOS_PER_USD
        left = len(list((lab.home / "wal").glob("*.wal")))
        header = ["kills", "answered", "rows", "lost", "twice", "ledger adds up", "debt", "logs left"]
        row = [arguments.kills, len(answered), len(counts), lost, twice, "yes" if adds_up else "NO", after.debt, left]
        print(common.table(header, [row]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    common.run(measure(parser.parse_args()))
