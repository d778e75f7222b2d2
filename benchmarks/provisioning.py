"""Goal D11: kill -9 of the process that makes and gives back nodes, 500 times at random moments: what is leaked?

Every third time the cloud makes what is ordered and keeps its answer to itself, so that the process dies before anybody
knows the machine.

The loop is the real one over HTTP against the cloud in a box with simulated machines, on an embedded PostgreSQL. It
runs in a process that is killed at a random moment, at the latest when it could have made a node from its order to
serving (which is measured first); between two kills people order nodes, give some back and have some made again.
Clocks are accelerated: with each kill 40 seconds pass, for the cloud as well. At the end everything is given back and
the account must be empty. `--kills 50` for a quick look.
"""

import argparse
import asyncio
import ctypes
import multiprocessing
import multiprocessing.context
import os
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import uvicorn
from pydantic import SecretStr
from report import run, say, table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.cloud.digitalocean import digitalocean
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.errors import Conflict
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.postgres import EmbeddedPostgres
from wopr.core.settings import Settings
from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
from wopr.emulators.digitalocean import world as stand_in_world
from wopr.inference import nodes, rented
from wopr.inference.orphans import ORPHAN_SECONDS
from wopr.inference.pager import Pager
from wopr.inference.provision_loop import Provisioner
from wopr.migrations.run import upgrade

KILLS = 500
STEP_SECONDS = 40
# The order is carried out, and the answer would come long after the kill.
LOST = {"hang_seconds": 20, "after": True, "method": "POST", "path": "/v2/droplets"}
NODES_MAX = 8
END_PASSES_MAX = 400
TERMS = rented.Terms("tor1", "s-1vcpu-1gb", 600, 8_930_000)
FORK = multiprocessing.get_context("fork")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Laboratory:
    """Where everything is. `shift`: by how many seconds the clocks of the loop and of the cloud are ahead."""

    settings: Settings
    url: str
    shift: Any  # a shared ctypes double

    def now(self) -> int:
        return int(time.time() + self.shift.value)

    def act(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Work in one transaction, in a loop of its own: nothing of it may live when the process forks."""

        async def act() -> Result:
            assert self.settings.database_url is not None
            db = Database(self.settings.database_url.get_secret_value(), pool_size=2)
            try:
                async with db.begin() as session:
                    return await work(session)
            finally:
                await db.dispose()

        return asyncio.run(act())

    def droplets(self) -> list[dict[str, Any]]:
        """Every machine of the account, those included that are being destroyed."""
        shown: list[dict[str, Any]] = httpx.get(f"{self.url}/_emulator/state", timeout=30).json()["droplets"]
        return shown

    def faults(self) -> int:
        """How many answers are still to be lost."""
        planted: list[Any] = httpx.get(f"{self.url}/_emulator/faults", timeout=30).json()["faults"]
        return len(planted)


class Ahead(SystemClock):
    """The machine's clock, ahead of itself."""

    def __init__(self, shift: Any) -> None:
        self._shift = shift

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._shift.value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="wopr-bench-") as folder:
        home = Path(folder)
        server = EmbeddedPostgres(home / "pg", {"fsync": "off"})
        server.prepare()
        database = server.start()
        url = server.wait_ready(database)
        shift = FORK.Value(ctypes.c_double, 0.0)
        listener = socket.create_server(("127.0.0.1", 0))
        cloud = FORK.Process(target=serve_cloud, args=(listener, home / "cloud.sqlite3", shift), daemon=True)
        cloud.start()
        try:
            asyncio.run(upgrade(url))
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            settings = Settings(
                wopr_home=home / "home",
                database_url=SecretStr(url),
                platform_secret=SecretStr("a secret for benchmarks, long enough"),
                do_api_token=SecretStr("dop_v1_bench"),
                do_api_base=address,
                gpu_nodes_max=NODES_MAX,
            )
            measure(Laboratory(settings, address, shift), given.kills, chance)
        finally:
            cloud.kill()
            cloud.join()
            server.stop(database)


def measure(lab: Laboratory, kills: int, chance: random.Random) -> None:
    """Kill, and count what is left."""
    did: Counter[str] = Counter()
    made: set[int] = set()
    alive_seconds_max = making_seconds(lab)
    begun = time.monotonic()
    for number in range(kills):
        did[lab.act(lambda session: people(session, chance, lab.now()))] += 1
        if number % 3 == 0 and not lab.faults():
            httpx.post(f"{lab.url}/_emulator/faults", json=LOST, timeout=30).raise_for_status()
        waiting = lab.faults()
        child = FORK.Process(target=serve_loop, args=(lab,))
        child.start()
        time.sleep(chance.uniform(0.0, alive_seconds_max))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        did["lost"] += waiting - lab.faults()
        lab.shift.value += STEP_SECONDS
        made |= {droplet["id"] for droplet in lab.droplets()}
        if (number + 1) % 50 == 0:
            say(f"{number + 1} kills, {len(made)} machines so far, {len(lab.droplets())} now")
    killed_seconds = time.monotonic() - begun
    httpx.delete(f"{lab.url}/_emulator/faults", timeout=30).raise_for_status()
    orphaned, doubled = give_everything_back(lab)
    left = lab.droplets()
    rows = lab.act(nodes.list_nodes)
    table(
        f"D11: {kills} kills while nodes are made and given back",
        ("what", "number", "goal"),
        [
            (f"kill -9 within {alive_seconds_max:.1f} s", kills, kills),
            ("orders, given back, made again", f"{did['order']}, {did['destroy']}, {did['retry']}", "–"),
            ("orders that were carried out and whose answer was lost with the process", did["lost"], "–"),
            ("machines that were made", len(made), "–"),
            ("machines of nobody that were found and destroyed at the end", orphaned, "–"),
            ("nodes with two machines at the end", doubled, 0),
            ("machines leaked", len(left), 0),
            ("rows left", len(rows), 0),
            ("seconds", f"{killed_seconds:.0f}", "–"),
        ],
    )
    if left or rows or doubled:
        raise SystemExit(1)


def making_seconds(lab: Laboratory) -> float:
    """How long a process takes that makes a node and is not killed."""
    lab.act(lambda session: rented.add(session, ["gpu-first"], TERMS, NODES_MAX, lab.now()))
    loop = FORK.Process(target=serve_loop, args=(lab,))
    begun = time.monotonic()
    loop.start()
    try:
        wait(lambda: lab.act(lambda session: nodes.get(session, NodeId("gpu-first"))).status == "active", lab)
        return time.monotonic() - begun
    finally:
        os.kill(loop.pid or 0, signal.SIGKILL)
        loop.join()


async def report_ready(session: AsyncSession, now: int) -> None:
    """Machines that are awaited say that they are ready. They have no port: nothing is to be reached."""
    await session.execute(
        text(
            "UPDATE gpu_nodes SET provision_stage = 'registering', ports = '{}', stage_at = :now "
            "WHERE provision_stage = 'waiting_agent'"
        ),
        {"now": now},
    )


async def people(session: AsyncSession, chance: random.Random, now: int) -> str:
    """What somebody does between two kills, and what machines report."""
    await report_ready(session, now)
    known = [node for node in await nodes.list_nodes(session) if node.desired != "gone"]
    settled = [node for node in known if node.provision_stage in ("done", "failed")]
    what = chance.choice(["order", "destroy", "retry"])
    try:
        if what == "destroy" and len(known) > 2:
            await rented.give_back(session, chance.choice(known).id, now)
            return "destroy"
        if what == "retry" and settled:
            await rented.begin_anew(session, chance.choice(settled).id, now)
            return "retry"
        await rented.add(session, [f"gpu-{chance.randrange(10**9)}"], TERMS, NODES_MAX, now)
    except Conflict:
        return "nothing"
    return "order"


def give_everything_back(lab: Laboratory) -> tuple[int, int]:
    """No node is wanted any more, and nobody is killed: how many orphans there were, and doubled machines."""
    loop = FORK.Process(target=serve_loop, args=(lab,))
    loop.start()
    try:
        doubled = sum(count > 1 for count in Counter(droplet["name"] for droplet in lab.droplets()).values())

        async def nobody(session: AsyncSession) -> None:
            for node in await nodes.list_nodes(session):
                await rented.give_back(session, node.id, lab.now())

        lab.act(nobody)
        wait(lambda: not lab.act(nodes.list_nodes), lab)
        orphaned = len(lab.droplets())
    finally:
        os.kill(loop.pid or 0, signal.SIGKILL)
        loop.join()
    lab.shift.value += ORPHAN_SECONDS + 60
    sweeper = FORK.Process(target=serve_loop, args=(lab,))
    sweeper.start()
    try:
        wait(lambda: not lab.droplets(), lab)
    finally:
        os.kill(sweeper.pid or 0, signal.SIGKILL)
        sweeper.join()
    return orphaned, doubled


def wait(condition: Callable[[], bool], lab: Laboratory) -> None:
    """Until it is so, or it won't be; machines report meanwhile."""
    for _ in range(END_PASSES_MAX):
        if condition():
            return
        lab.act(lambda session: report_ready(session, lab.now()))
        time.sleep(0.2)


def serve_cloud(listener: socket.socket, state: Path, shift: Any) -> None:
    """The cloud in a box, with the accelerated clock."""
    stand_in_world.time = SimpleNamespace(time=lambda: time.time() + shift.value)  # type: ignore[assignment, attr-defined]
    settings = DigitalOceanSettings(state=state, requests_per_hour=10**9, requests_per_minute=10**9, droplet_limit=200)
    app = build_digitalocean(settings)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def serve_loop(lab: Laboratory) -> None:
    """What is killed: passes without a pause."""

    async def forever() -> None:
        assert lab.settings.database_url is not None
        db = Database(lab.settings.database_url.get_secret_value(), pool_size=4)
        async with httpx.AsyncClient(timeout=30) as http:
            platform = Platform(lab.settings, db, Ahead(lab.shift), http, Notifier(db))
            loop = Provisioner(platform, lambda: digitalocean(lab.settings, http), Pager(platform))
            while True:
                await loop.run_pass()

    asyncio.run(forever())


if __name__ == "__main__":
    run(main)
