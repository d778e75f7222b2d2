"""Gateway: G5, resident memory when idle and its growth from 10,000 to 100,000 requests."""

import argparse
import asyncio

import common


async def measure(arguments: argparse.Namespace) -> None:
    async with common.laboratory() as lab:
        customer = await lab.customer("10000")
        server = await lab.gateway()
        await asyncio.sleep(1)
        idle = server.memory_megabytes()
        data = common.request_bytes(server.port, common.chat_body(stream=False), customer.key)
        failures = await common.requests(server, data, 8, arguments.first)
        await asyncio.sleep(1)
        first = server.memory_megabytes()
        failures += await common.requests(server, data, 8, arguments.last - arguments.first)
        await asyncio.sleep(1)
        last = server.memory_megabytes()
        header = ["idle MB", f"after {arguments.first} MB", f"after {arguments.last} MB", "growth", "failures"]
        growth = f"{100 * (last - first) / first:.1f} %"
        print(common.table(header, [[f"{idle:.0f}", f"{first:.0f}", f"{last:.0f}", growth, failures]]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=10_000)
    parser.add_argument("--last", type=int, default=100_000)
    common.run(measure(parser.parse_args()))
