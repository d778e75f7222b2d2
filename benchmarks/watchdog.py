"""Goals D8, D9 and D10: how soon a bad service is out of routing, how soon it serves again, and what is never touched.

D8 and D10 run on the machine's clock: real services on ports of this machine, the real watchdog and ladder in their
loops' rhythm, DigitalOcean's client against the stand-in, whose machines take 40 s to boot. D9 runs 24 hours by a clock
of its own: nodes that are busy for long, hiccups, a watchdog that is cut off again and again, processes that
take over by a clock that was set five minutes on or back; whatever ends a machine that works is a false reboot.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from report import median, run, say, table
from sqlalchemy import text
from tests.inference.nodes.conftest import FakeService
from tests.inference.nodes.rented_world import Machine, World, rented_world

from wopr.cloud.compute import Machine as Rented
from wopr.cloud.compute import MachineStatus
from wopr.core.clock import Clock, ManualClock, SystemClock
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.loops import Loop, LoopRunner
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.postgres import EmbeddedPostgres
from wopr.core.settings import Settings
from wopr.inference import probes
from wopr.inference.life import Life
from wopr.inference.nodes import Making, Node
from wopr.inference.provision_loop import PERIOD_SECONDS as PROVISION_SECONDS
from wopr.inference.rented import PROVISION_CHANNEL
from wopr.inference.repair import Sight, plan_repair
from wopr.inference.repair_loop import PERIOD_SECONDS as REPAIR_SECONDS
from wopr.inference.repair_state import HARD, Rung
from wopr.inference.sights import Check, Look, Trouble
from wopr.inference.watchdog import Watchdog, judge
from wopr.migrations.run import upgrade

BOOT_SECONDS = 40.0
WATCH_SECONDS = 2.0
DEAD_SECONDS, HUNG_SECONDS, AGAIN_SECONDS = 3.0, 15.0, 60.0
HOURS, NODES = 24, 12
CLOCK_WRONG_SECONDS = (-300, 0, 300)
PATIENCE_SECONDS = 600.0
# Nothing tells it from a model that loads, for which the machine's other services are not ended.
LOADS = "service dead, after a restart it runs and does not listen"
# A real one also installs drivers and Docker, and downloads images and models.
REPLACED = "machine gone from the cloud, a new one (its setup not counted)"


class RealTime(World):
    """The loops run by themselves; what is waited for is waited for."""

    async def drive(self, passes: int = 1) -> None:
        await asyncio.sleep(WATCH_SECONDS * passes)

    async def loops(self) -> None:
        async def forever(work: Callable[[], Awaitable[object]], seconds: float) -> None:
            while True:
                await work()
                await asyncio.sleep(seconds)

        await asyncio.gather(
            forever(self.watchdog.watch, WATCH_SECONDS), forever(self.repairer.run_pass, REPAIR_SECONDS)
        )

    @asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """The loop that makes nodes runs as well. What wakes it is in its rhythm: every report does."""
        notifier = self.platform.notifier
        why, wake = "a machine that is gone is made anew", (PROVISION_CHANNEL,)
        loop = Loop("provision_nodes", PROVISION_SECONDS, why, self.provisioner.run_pass, wake)
        runner = LoopRunner(self.platform.db, notifier, [loop])
        await notifier.start()
        await runner.start()
        try:
            yield
        finally:
            await runner.stop()
            await notifier.stop()


async def stage(stack: AsyncExitStack, url: str, home: Path, clock: Clock) -> World:
    db = Database(url)
    stack.push_async_callback(db.dispose)
    http = await stack.enter_async_context(httpx.AsyncClient())
    settings = Settings(wopr_home=home, platform_secret=SecretStr("a-secret-of-benchmarks"))
    platform = Platform(settings, db, clock, http, Notifier(db))
    life = Life(platform.notifier, clock.monotonic)
    watchdog = Watchdog(platform, life)
    stack.push_async_callback(watchdog.close)
    return await stack.enter_async_context(rented_world(platform, clock, life, watchdog))


async def out_of_routing(url: str, home: Path, rounds: int) -> list[tuple[object, ...]]:
    """D8: seconds from the fault until the row says that the service is not to be asked."""
    faults: Mapping[str, tuple[float, Callable[[FakeService], Awaitable[None]]]] = {
        "dead: nothing listens": (DEAD_SECONDS, FakeService.stop),
        "hung: answers /health and nothing else": (HUNG_SECONDS, _hang),
        "hung: takes connections and is silent": (HUNG_SECONDS, _choke),
        "answers nonsense": (HUNG_SECONDS, _rave),
    }
    rows: list[tuple[object, ...]] = []
    async with AsyncExitStack() as stack:
        world = await stage(stack, url, home, SystemClock())
        world.__class__ = RealTime
        looping = asyncio.create_task(world.loops())  # type: ignore[attr-defined]
        stack.callback(looping.cancel)
        await world.add("d8", provider=None)
        service = world.machines["d8"].services["llama"]
        for name, (goal, break_) in faults.items():
            took = []
            for _ in range(rounds):
                await asyncio.sleep(random.uniform(6, 6 + WATCH_SECONDS))
                began = time.monotonic()
                await break_(service)
                await _until(world, "d8", lambda node: not node.service_health["llama"])
                took.append(time.monotonic() - began)
                await _mend(service)
                await _until(world, "d8", _serves)
            say(f"D8 {name}: {max(took):.1f} s at most")
            kept = "yes" if max(took) <= goal else "no"
            rows.append((name, rounds, f"{median(took):.1f}", f"{max(took):.1f}", f"{goal:.0f}", kept))
    return rows


async def _until(world: World, name: str, done: Callable[[Node], bool]) -> Node:
    """The node once its row says so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not done(node := await world.node(name)):  # noqa: ASYNC110 - a database is asked
            await asyncio.sleep(0.02)
    return node


def _serves(node: Node) -> bool:
    return node.status == "active" and not node.repair.get("rung")


async def _hang(service: FakeService) -> None:
    service.works.clear()


async def _choke(service: FakeService) -> None:
    service.breathes.clear()


async def _rave(service: FakeService) -> None:
    service.nonsense = True


async def _mend(service: FakeService) -> None:
    service.nonsense = False
    service.works.set()
    service.breathes.set()
    if service.runner is None:
        await service.start()


async def serving_again(url: str, home: Path) -> list[tuple[object, ...]]:
    """D10: seconds from the fault until the ladder is done with the node."""
    rows: list[tuple[object, ...]] = []
    plans: Sequence[tuple[str, Rung, bool]] = (
        ("service dead, a restart helps", Rung.RESTART, False),
        ("service hangs, a restart helps", Rung.RESTART, True),
        ("service dead, it ends again after a restart", Rung.REBOOT, False),
        (LOADS, Rung.REBOOT, False),
        ("system hangs, only its power helps", Rung.POWER_CYCLE, False),
        ("machine switched off", Rung.PERSON, False),
        (REPLACED, Rung.REPLACE, False),
    )
    async with AsyncExitStack() as stack:
        world = await stage(stack, url, home, SystemClock())
        world.__class__ = RealTime
        looping = asyncio.create_task(world.loops())  # type: ignore[attr-defined]
        stack.callback(looping.cancel)
        await stack.enter_async_context(world.making())  # type: ignore[attr-defined]
        for number, (name, cure, hangs) in enumerate(plans):
            node = f"d10-{number}"
            machine = await world.add(node)
            machine.boot_seconds = BOOT_SECONDS
            machine.stays_up = name == LOADS
            began = time.monotonic()
            await _break(world, node, machine, cure, hangs=hangs)
            await _until(world, node, lambda found: not _serves(found))
            found = await _until(world, node, _serves)
            took = time.monotonic() - began
            say(f"D10 {name}: {took:.1f} s")
            last = found.repair.get("last")
            async with world.platform.db.begin() as session:  # as if each were the only one of its hour
                await session.execute(text("UPDATE gpu_nodes SET repair = '{}'"))
            rows.append((name, last, f"{took:.1f}", f"{AGAIN_SECONDS:.0f}", "yes" if took <= AGAIN_SECONDS else "no"))
    return rows


async def _break(world: World, node: str, machine: Machine, cure: Rung, *, hangs: bool) -> None:
    if cure is Rung.PERSON:
        await world.power_off(node)
    elif cure is Rung.REPLACE:
        await world.vanish(node)
    elif hangs:
        machine.hang(cure)
    else:
        machine.deaf = cure is Rung.POWER_CYCLE
        await machine.die(cure)


def untouched() -> list[tuple[object, ...]]:
    """D9: 24 hours of looks as they are when nothing is broken, judged and planned by the real code; false steps."""
    chance = random.Random(9)
    clock = ManualClock()
    nodes = {f"gpu-{number}": _node(f"gpu-{number}") for number in range(NODES)}
    busy = dict.fromkeys(nodes, 0.0)
    cut_until = 0.0
    cuts = prompts = looks = 0
    ahead, set_until, sets = 0, 0.0, -1
    false: dict[str, int] = {"restart": 0, "reboot": 0}
    held = 0
    while clock.monotonic() < HOURS * 3600:
        now = clock.monotonic()
        if now >= cut_until and chance.random() < 1 / 900:
            cut_until, cuts = now + chance.uniform(10, 600), cuts + 1
        if now >= set_until:
            ahead, set_until, sets = chance.choice(CLOCK_WRONG_SECONDS), now + chance.uniform(60, 3600), sets + 1
        epoch = 1_800_000_000 + int(now) + ahead
        for name, node in nodes.items():
            if busy[name] <= now and chance.random() < 1 / 150:
                busy[name], prompts = now + chance.uniform(5, probes.WORK_SECONDS_MAX - 5), prompts + 1
            seen = [_sight(service, now, cut_until, busy[name], chance) for service in node.ports]
            verdict = judge(node, seen, epoch)
            looks += len(seen)
            assert verdict is not None
            state = {service: memory.to_json() for service, memory in verdict.memories.items()}
            nodes[name] = replace(node, status=verdict.status, service_health=verdict.service_health, probe_state=state)
        cloud = None if now < cut_until and chance.random() < 0.5 else _machines(nodes)
        plan = plan_repair(list(nodes.values()), Sight(cloud), epoch)
        for step in plan.steps:
            false["reboot" if step.rung in HARD else "restart"] += 1
        held += bool(plan.held)
        clock.advance(WATCH_SECONDS)
    return [(HOURS, NODES, looks, prompts, cuts, sets, held, false["restart"], false["reboot"], 0)]


def _sight(service: str, now: float, cut_until: float, busy_until: float, chance: random.Random) -> Look:
    """What a look at a service that works sees: through a cut nothing, of a busy one silence, now and then a hiccup."""
    if now < cut_until:
        return Look(service, Trouble.UNREACHABLE, "no connection within 1.5 s")
    if service == "llama" and now < busy_until:
        return Look(service, Trouble.SLOW, "requests run there", silent_seconds=10.0)
    if chance.random() < 1 / 5_000:
        return Look(service, Trouble.SILENT, "no answer within 3 s")
    return Look(service, check=Check(0.1))


def _node(name: str) -> Node:
    ports = {"llama": 8080, "chatterbox": 8081, "whisper": 8082, "qwen": 8083}
    health = dict.fromkeys(ports, True)
    return Node(NodeId(name), "10.0.0.1", ports=ports, service_health=health, provider="d", making=Making(name))


def _machines(nodes: Mapping[str, Node]) -> Any:
    return {name: Rented(name, name, MachineStatus.ACTIVE, "", "", None, None, (), 0) for name in nodes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="out, again, untouched; without any: all")
    parser.add_argument("--rounds", type=int, default=5, help="of each fault of D8")
    arguments = parser.parse_args()
    run(lambda: bench(arguments.parts or ["out", "again", "untouched"], arguments.rounds))


def bench(parts: Sequence[str], rounds: int) -> None:
    if "untouched" in parts:
        headers = (
            "hours",
            "nodes",
            "looks",
            "long prompts",
            "times cut off",
            "clocks set",
            "passes held back",
            "restarts",
            "reboots",
        )
        table("D9: false repairs in 24 accelerated hours", (*headers, "goal (reboots)"), untouched())
    if not {"out", "again"} & set(parts):
        return
    with tempfile.TemporaryDirectory(prefix="wopr-bench-") as folder:
        home = Path(folder)
        postgres = EmbeddedPostgres(home)
        postgres.prepare()
        process = postgres.start()
        try:
            url = postgres.wait_ready(process)
            asyncio.run(upgrade(url))
            if "out" in parts:
                rows = asyncio.run(out_of_routing(url, home, rounds))
                columns = ("fault", "times", "median s", "at most s", "goal s", "kept")
                table("D8: a bad service out of routing, nobody asking it", columns, rows)
            if "again" in parts:
                rows = asyncio.run(serving_again(url, home))
                named = ("fault", "what helped", "serves again after s", "goal s", "kept")
                table("D10: until it serves again, after three good looks; a boot takes 40 s", named, rows)
        finally:
            postgres.stop(process)


if __name__ == "__main__":
    main()
