"""The stack of a VPS with its own PostgreSQL: containers of the platform reach it, and a customer's bot does not."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from tests import live
from tests.machines.engine import Engine
from tests.machines.test_live_installation import Site, keep_cookies, outside, site  # noqa: F401 (site is a fixture)
from tests.ports import port

# Asks for TLS as clients do first; only PostgreSQL answers with one of these letters (protocol 3.0, SSLRequest).
KNOCK = """
import socket, struct, sys
from concurrent.futures import ThreadPoolExecutor
def knock(target):
    host, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 3) as connection:
            connection.sendall(struct.pack("!ii", 8, 80877103))
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False
with ThreadPoolExecutor(len(sys.argv)) as pool:
    for target, there in zip(sys.argv[1:], pool.map(knock, sys.argv[1:])):
        if there:
            print(target)
"""
FORWARD = """
import asyncio
async def pump(source, target):
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()
async def serve(reader, writer):
    there = await asyncio.open_connection("postgres", 5432)
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 5432) as server:
        print("forwarding", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def published(engine: Engine, image: str, network: str) -> Iterator[int]:
    """The database at a port of the host, as an operator may publish it to look into it; the port."""
    number = port()
    options = ("--network", network, "--publish", f"{number}:5432", "--entrypoint", "python")
    forwarder = engine.run(image, "-c", FORWARD, options=options)
    try:
        live.wait_for(lambda: "forwarding" in engine.logs(forwarder), "the port to be published")
        yield number
    finally:
        engine.remove(forwarder)


def knock(command: "subprocess.CompletedProcess[str]") -> set[str]:
    """Where PostgreSQL answered."""
    assert command.returncode == 0, command.stderr
    return set(command.stdout.split())


def test_a_bot_of_the_stack_does_not_reach_its_postgresql(
    site: Site,  # noqa: F811
    bot_image: str,
) -> None:
    installed, engine = site.installed, site.installed.engine
    installed.release(installed.platform, "--bot", site.bot_image, *site.settings())
    network, container = f"{installed.name}-platform", f"{installed.name}-postgres"
    hosts = [
        address.address
        for found in psutil.net_if_addrs().values()
        for address in found
        if address.family == 2 and not address.address.startswith("127.")
    ]
    with outside(site), live.sign_up(site, "Ada Lovelace") as ada, published(engine, bot_image, network) as number:
        keep_cookies(ada)
        ada.pay(2_500)
        bot_id = ada.make_bot("Ada")
        inside = {"postgres:5432", f"{container}:5432", f"{engine.address(container)}:5432"}
        at_the_host = {f"{host}:{number}" for host in hosts}
        targets = sorted(inside | at_the_host | {f"{host}:5432" for host in hosts})
        ours = engine.once(bot_image, "-c", KNOCK, *targets, options=("--network", network, "--entrypoint", "python"))
        assert inside <= knock(ours)
        others = engine.once(bot_image, "-c", KNOCK, *targets, options=("--entrypoint", "python"))
        assert at_the_host <= knock(others), "any container reaches what the host publishes"
        bots = engine.docker("exec", f"wopr-bot-{bot_id}", "python", "-c", KNOCK, *targets, check=False)
        assert knock(bots) == set()
