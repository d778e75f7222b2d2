"""Gateway: G8 and G9, clients that leave at random moments: error of the bill, holds left, time to stop the engine."""

import argparse
import asyncio
import contextlib
import random
import socket
import struct
import time
from uuid import UUID

import common
from sqlalchemy import text

from wopr.billing.ledger import balance

HELD_SECONDS = 60.0
TOKEN = b'"content":"tok'


async def leave(lab: common.Lab, port: int, key: str, number: int) -> tuple[str, int, float]:
    """One stream that is left after some tokens: its request id, the tokens delivered, and when we left.

    Delivered is what has reached this side's socket when it is closed, read or not: a busy client reads late, and
    nobody can bill by what a program has looked at.
    """
    body = common.chat_body(stream=True, tokens=400) | {"model": "paced", "user": str(number), "seconds": 0.005}
    loop = asyncio.get_running_loop()
    wanted, received = random.randint(1, 60), b""  # a load, not a secret
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, common.request_bytes(port, body, key))
        while received.count(TOKEN) < wanted:
            received += await loop.sock_recv(connection, 65536)
        with contextlib.suppress(BlockingIOError):
            while piece := connection.recv(65536):
                received += piece
    left = time.monotonic()
    head = received.partition(b"\r\n\r\n")[0] + b"\r\n"
    request_id = head.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    return request_id, received.count(TOKEN), left


async def measure(arguments: argparse.Namespace) -> None:
    async with common.laboratory() as lab:
        customer = await lab.customer("1000")
        server = await lab.gateway()
        gate = asyncio.Semaphore(arguments.concurrency)

        async def one(number: int) -> tuple[str, int, float]:
            async with gate:
                return await leave(lab, server.port, customer.key, number)

        outcomes = await asyncio.gather(*(one(number) for number in range(arguments.requests)))
        ended = time.monotonic()
        held = 1
        while held and time.monotonic() - ended < HELD_SECONDS:
            async with lab.db.begin() as session:
                held = (await balance(session, customer.tenant_id)).held
            await asyncio.sleep(0.1)
        freed = time.monotonic() - ended
        async with lab.db.begin() as session:
            rows = await session.execute(text("SELECT request_id, completion_tokens, status FROM usage_records"))
            charged = {row.request_id: row for row in rows}
        errors = [
            charged[UUID(name)].completion_tokens - tokens for name, tokens, _ in outcomes if UUID(name) in charged
        ]
        stopped = {}
        for line in (lab.home / "cancels").read_text().splitlines():
            name, _, moment = line.partition(" ")
            stopped[int(name)] = float(moment)
        delays = sorted(stopped[n] - left for n, (_, _, left) in enumerate(outcomes) if n in stopped)
        rows_ = [
            [
                len(outcomes),
                len(outcomes) - len(errors),
                sum(error == 0 for error in errors),
                sum(error == 1 for error in errors),
                f"{max(errors)} / {min(errors)}",
                held,
                f"{freed:.1f}",
                len(outcomes) - len(delays),
                f"{1000 * delays[len(delays) // 2]:.1f} / {1000 * delays[int(len(delays) * 0.99)]:.1f}",
            ]
        ]
        header = ["disconnects", "without bill", "exact", "one token more", "most more / less", "held after"]
        header += ["free after s", "not stopped", "stop p50 / p99 ms"]
        print(common.table(header, rows_))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=20)
    common.run(measure(parser.parse_args()))
