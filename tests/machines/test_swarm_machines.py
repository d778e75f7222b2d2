"""Machines of a Swarm by themselves: end bots that keep too much, remove what was deleted while they were away."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from tests.machines.fleet import answering, spec
from tests.machines.moving import Place, opened
from tests.machines.registry import Registry
from tests.machines.swarm import Node, Swarm
from tests.machines.swarmfleet import Publish, Services, login
from tests.stack import clean_environment

from wopr.core.db import Database
from wopr.fleet.runtimes.protocol import BotSpec, Ended, RuntimeFailed
from wopr.fleet.runtimes.quota import DiskShort, OverQuota

WAIT_SECONDS = 90.0
MIB = 2**20
FILL = "import os; open('/data/filled', 'wb').write(bytes(4 * 2**20)); os.sync()"
EMPTY = "import os; os.remove('/data/filled')"
# Each counts 16 KiB, so that together they are 4 MiB.
CRUMBS = "import os; os.mkdir('/data/crumbs'); [open(f'/data/crumbs/{n}', 'w').close() for n in range(256)]"
SWEEP = "import shutil; shutil.rmtree('/data/crumbs')"
# On and on, and never much in a moment.
WRITE = """
import os, time
for number in range(100):
    with open(f"/data/own{number}", "wb", buffering=0) as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())
    time.sleep(0.25)
"""


@pytest.fixture
async def place(services: Services, private: Registry, db: Database, tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(services, db, tmp_path, **login(private)) as made:
        yield made


def small(mib: int, bot: BotSpec | None = None) -> BotSpec:
    """A bot that may keep so little."""
    made = bot or spec()
    return replace(made, limits=replace(made.limits, data_bytes=mib * MIB))


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.2)


def left(node: Node, bot_id: UUID) -> list[str]:
    """What a machine has of a bot: volumes, and containers whether they run or not."""
    chosen = ("--filter", f"label=wopr.bot={bot_id}", "--quiet")
    return [
        *node.engine.docker("volume", "ls", *chosen).stdout.split(),
        *node.engine.docker("ps", "--all", *chosen).stdout.split(),
    ]


@pytest.mark.parametrize(("fill", "empty"), [(FILL, EMPTY), (CRUMBS, SWEEP)], ids=["large-file", "empty-files"])
async def test_a_bot_that_keeps_too_much_is_ended_and_told_and_fits_a_larger_size(
    services: Services, fill: str, empty: str
) -> None:
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime = services.make()
    runtime.watch(ended.put_nowait)
    wanted = small(2)
    neighbour = await runtime.start(small(2))
    await answering(await runtime.start(wanted))
    assert services.inside(wanted.bot_id, fill).returncode in (0, 137), "it may be ended on the way"
    end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
    assert end.bot_id == wanted.bot_id
    assert "it was stopped, as its data takes 4 MiB of the 2 MiB that its size allows" in end.reason
    heir = services.make()
    for process in (runtime, heir):
        with pytest.raises(OverQuota, match="4 MiB of the 2 MiB") as refused:
            await process.start(wanted)
        assert "larger size" in refused.value.remedy
    larger = small(64, spec(wanted.bot_id, 2))
    instance = await heir.start(larger)
    assert (await answering(instance)).status_code == 200
    # What it cleans up is seen, too: it may be small again.
    assert services.inside(wanted.bot_id, empty).returncode == 0

    async def fits() -> bool:
        await heir.tend()
        try:
            await heir.start(small(2, spec(wanted.bot_id, 3)))
        except OverQuota:
            return False
        return True

    await eventually(fits)
    assert (await answering(neighbour)).status_code == 200
    assert ended.empty()


async def test_where_a_machines_disk_is_nearly_full_the_bot_that_writes_is_ended_until_there_is_room(
    services: Services,
) -> None:
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    # As if little was left: the machines' disk is the one of everything here.
    runtime = services.make(bot_disk_reserve=99)
    runtime.watch(ended.put_nowait)
    wanted, neighbour = spec(size="large"), await runtime.start(spec())
    await answering(await runtime.start(wanted))
    assert (await asyncio.to_thread(services.inside, wanted.bot_id, WRITE)).returncode == 137, "its end"
    end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
    assert end.bot_id == wanted.bot_id
    assert "it was stopped, as the disk of its machine is nearly full, and it wrote most" in end.reason
    with pytest.raises(DiskShort, match="nearly full") as refused:
        await runtime.start(wanted)
    assert "Make room" in refused.value.remedy
    assert (await answering(neighbour)).status_code == 200
    later = services.make()

    async def starts() -> bool:
        await later.tend()
        try:
            await later.start(wanted)
        except DiskShort:
            return False
        return True

    await eventually(starts)
    assert ended.empty()


async def test_a_machine_that_comes_back_measures_again_and_its_full_bots_stay_ended(
    services: Services, swarm: Swarm
) -> None:
    swarm.label(swarm.manager, "wopr.bots", "no")
    runtime, wanted = services.make(), small(2)
    try:
        await answering(await runtime.start(wanted))
    finally:
        swarm.label(swarm.manager, "wopr.bots", "")
    home = services.home_of(wanted.bot_id)
    # It fills up in the moment in which the power goes: nobody has measured it.
    assert services.inside(wanted.bot_id, FILL).returncode == 0
    swarm.lose(home)
    home.start()
    swarm.ready()
    heir = services.make()

    async def refused() -> bool:
        await heir.tend()
        try:
            await heir.start(wanted)
        except OverQuota:
            return True
        except RuntimeFailed:
            return False  # its agent is not up yet
        return False

    await eventually(refused)
    assert services.containers(wanted.bot_id) == []
    larger = await heir.start(small(64, spec(wanted.bot_id, 2)))
    assert (await answering(larger)).status_code == 200


async def test_a_machine_whose_agent_had_much_to_tell_still_takes_bots(services: Services, swarm: Swarm) -> None:
    for node in swarm.nodes[1:]:
        swarm.label(node, "wopr.bots", "no")
    try:
        runtime = services.make()
        bots = [small(2) for _ in range(6)]
        for bot in bots:
            await answering(await runtime.start(bot))
            assert services.inside(bot.bot_id, FILL).returncode == 0
        await eventually(lambda: _none(services, bots))
        assert (await answering(await services.make().start(spec()))).status_code == 200
    finally:
        for node in swarm.nodes[1:]:
            swarm.label(node, "wopr.bots", "")


async def _none(services: Services, bots: list[BotSpec]) -> bool:
    return not any(services.containers(bot.bot_id) for bot in bots)


async def test_bots_that_are_deleted_while_their_machine_is_lost_leave_nothing_once_it_is_back(
    place: Place, services: Services, swarm: Swarm, publish: Publish
) -> None:
    for node in swarm.nodes[:2]:
        swarm.label(node, "wopr.bots", "no")
    try:
        moved, plain, stays = [await place.bot(f"memory {number}") for number in range(3)]
    finally:
        for node in swarm.nodes[:2]:
            swarm.label(node, "wopr.bots", "")
    home = swarm.nodes[2]
    await place.sql(
        "UPDATE bots SET channel = 'pinned', pinned_image = :image WHERE id = :bot", image=publish(), bot=moved
    )
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'kept' FROM bot_updates", moved))
    assert place.has_copy(moved)
    swarm.lose(home)
    try:
        await place.sql("UPDATE bots SET desired = 'deleted' WHERE id IN (:one, :two)", one=moved, two=plain)

        async def deleted() -> bool:
            return bool(await place.sql("SELECT count(*) = 2 FROM bots WHERE deleted_at IS NOT NULL"))

        await place.settle(deleted)
        # The copy of the one that was moved went with it; nobody will ask for it any more.
        assert await place.sql("SELECT count(*) FROM bot_updates") == 0
    finally:
        home.start()
        swarm.ready()
    await place.settle(lambda: place.is_so("SELECT state = 'running' FROM bot_observed", stays))
    assert place.seen(stays)[1] == "memory 2"

    async def swept() -> bool:
        await place.runtime.tend()
        return not swarm.services("wopr.errand")

    await eventually(swept)
    assert (left(home, moved), left(home, plain)) == ([], [])
    assert services.volumes(stays) == [home.name]


async def test_a_teardown_names_the_machines_that_it_does_not_reach_and_the_command_for_them(
    services: Services, swarm: Swarm, tmp_path: Path
) -> None:
    made = await services.make().start(spec())
    home = services.home_of(made.bot_id)
    await services.make().stop(made.bot_id)
    folder = tmp_path / "installation"
    folder.mkdir()
    name = services.manager.run_id
    (folder / ".env").write_text(f"BOT_RUNTIME=swarm\nWOPR_INSTALLATION={name}\n")
    command = (sys.executable, "-m", "wopr", "teardown", "--wipe", "--dry-run", "--dir", str(folder), "--name", name)
    variables = clean_environment() | {"DOCKER_HOST": services.manager.socket, "WOPR_HOME": str(folder)}

    def said(*words: str) -> str:
        done = subprocess.run((*command, *words), capture_output=True, text=True, env=variables, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = json.loads(said("--json"))["elsewhere"]
    others = [node for node in swarm.nodes if node is not swarm.manager]
    assert sorted(told["machines"]) == sorted(f"{node.name} (ready)" for node in others)
    assert all(f"{node.name} (ready)" in said() for node in others)
    services.sweep()
    assert services.volumes(made.bot_id) == [home.name], "it is not gone with its service"
    assert json.loads(said("--json"))["elsewhere"] == told, "the settings tell it as well"
    there = variables | {"DOCKER_HOST": home.engine.socket}
    await asyncio.to_thread(subprocess.run, ("sh", "-c", told["command"]), check=True, capture_output=True, env=there)
    assert services.volumes(made.bot_id) == []
