"""Gateway: G7, overspend when 200 requests race against credit for 10, with 1, 2 and 4 gateway processes."""

import argparse
import asyncio
import json

import common

from wopr.billing.ledger import balance
from wopr.billing.prices import load_prices
from wopr.core.money import NANOS_PER_USD, to_usd_string

TOKENS = 3  # as many as the upstream answers with


async def race(lab: common.Lab, workers: int, arguments: argparse.Namespace) -> list[object]:
    """One race; a row of the table."""
    body = common.chat_body(stream=False, tokens=TOKENS)
    hold = load_prices().model("bench").cost(len(json.dumps(body)), TOKENS)
    granted = hold * arguments.credit
    customer = await lab.customer(f"{granted / NANOS_PER_USD:.9f}")
    servers = [await lab.gateway(common.CORES[number % len(common.CORES)]) for number in range(workers)]
    statuses: list[int] = []

    async def ask(number: int) -> None:
        server = servers[number % workers]
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(common.LoadConnection, "127.0.0.1", server.port)
        statuses.append(await connection.request(common.request_bytes(server.port, body, customer.key)))
        connection.close()

    await asyncio.gather(*(ask(number) for number in range(arguments.requests)))
    for server in servers:
        server.stop()
    spent = await lab.usage(customer.tenant_id, "coalesce(sum(cost), 0)")
    async with lab.db.begin() as session:
        after = await balance(session, customer.tenant_id)
    overspend = max(0, spent - granted) + after.debt
    adds_up = spent + after.available + after.held - after.debt == granted
    counts = [statuses.count(status) for status in (200, 402, 429)]
    return [workers, *counts, to_usd_string(overspend), "yes" if adds_up else "NO", to_usd_string(after.held)]


async def measure(arguments: argparse.Namespace) -> None:
    async with common.laboratory() as lab:
        rows = [await race(lab, workers, arguments) for workers in arguments.workers]
        header = ["processes", "served", "402", "429", "overspend $", "adds up", "held after $"]
        print(common.table(header, rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--credit", type=int, default=10, help="how many requests the credit bears")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    common.run(measure(parser.parse_args()))
