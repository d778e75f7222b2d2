"""Bots on a Swarm of three machines: spread by free memory, tied to their memory, and what happens when machines go."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from tests.machines.fleet import answering, spec
from tests.machines.swarm import Swarm
from tests.machines.swarmfleet import Services

from wopr.fleet.runtimes.nodes import NodeAway, NoRoom
from wopr.fleet.runtimes.protocol import BotSpec, Ended

CONFINED = """
import json, os, socket, sys
from concurrent.futures import ThreadPoolExecutor
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def writes(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False
def reaches(address):
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
        return True
    except OSError:
        return False
addresses = sys.argv[1:]
with ThreadPoolExecutor(len(addresses)) as pool:
    reached = [address for address, there in zip(addresses, pool.map(reaches, addresses)) if there]
print(json.dumps({
    "capabilities": status["CapBnd"].strip("0 \\n"), "no_new_privileges": status["NoNewPrivs"].strip(),
    "user": os.getuid(), "root": writes("/etc/x"), "data": writes("/data/x"), "tmp": writes("/tmp/x"),
    "reached": reached,
}))
"""
REACH = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


def of_size(memory_mib: int) -> BotSpec:
    made = spec()
    return replace(made, limits=replace(made.limits, memory_bytes=memory_mib * 2**20))


async def test_new_bots_go_where_most_memory_is_free(services: Services) -> None:
    runtime = services.make()
    first = [await runtime.start(of_size(1024)) for _ in range(3)]
    homes = [services.home_of(instance.bot_id).name for instance in first]
    assert sorted(homes) == ["n1", "n2", "n3"]
    await runtime.remove(first[1].bot_id)
    assert services.volumes(first[1].bot_id) == []
    # Stopped bots keep their place: they can be started only there.
    await runtime.stop(first[2].bot_id)
    assert services.home_of((await runtime.start(of_size(512))).bot_id).name == homes[1]


async def test_where_no_machine_has_the_memory_the_operator_is_told(services: Services, swarm: Swarm) -> None:
    runtime = services.make()
    with pytest.raises(NoRoom, match="No machine of the Swarm has"):
        await runtime.start(of_size(1_000_000))
    for node in swarm.nodes:
        swarm.label(node, "wopr.bots", "no")
    try:
        with pytest.raises(NoRoom):
            await runtime.start(spec())
    finally:
        for node in swarm.nodes:
            swarm.label(node, "wopr.bots", "")
    assert swarm.services("wopr.bot") == []


async def test_a_bot_is_confined_and_reached_by_the_api_alone(services: Services, swarm: Swarm) -> None:
    runtime = services.make()
    for node in swarm.nodes[1:]:
        swarm.label(node, "wopr.bots", "no")
    try:
        bot, neighbour = [await runtime.start(spec()) for _ in range(2)]
    finally:
        for node in swarm.nodes[1:]:
            swarm.label(node, "wopr.bots", "")
    assert (await answering(bot)).status_code == 200
    assert (await answering(neighbour)).status_code == 200
    node, container = services.containers(neighbour.bot_id)[0]
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    inner = node.engine.docker("inspect", "--format", form, container).stdout.strip()
    port = neighbour.url.rpartition(":")[2]
    closed = [f"{inner}:7437", f"{node.address}:{port}", f"{swarm.nodes[1].address}:7946"]
    told: dict[str, Any] = json.loads(services.inside(bot.bot_id, CONFINED, *closed).stdout)
    assert told == {
        "capabilities": "",
        "no_new_privileges": "1",
        "user": 10001,
        "root": False,
        "data": True,
        "tmp": True,
        "reached": [],
    }
    # Another machine of the Swarm is no caller either.
    other = swarm.nodes[2]
    tried = swarm.outer.docker("exec", other.container, "python3", "-c", REACH, node.address, port, check=False)
    assert tried.returncode != 0
    host = json.loads(node.engine.docker("inspect", container).stdout)[0]["HostConfig"]
    limits = spec().limits
    assert (host["Memory"], host["PidsLimit"]) == (limits.memory_bytes, limits.processes)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)


async def test_a_drained_machine_gives_its_bots_back_with_their_memory(services: Services, swarm: Swarm) -> None:
    ended: list[Ended] = []
    runtime = services.make()
    runtime.watch(ended.append)
    wanted = spec()
    instance = await runtime.start(wanted)
    await answering(instance)
    services.inside(instance.bot_id, "open('/data/remembered', 'w').write('everything')")
    home = services.home_of(instance.bot_id)
    swarm.drain(home)
    try:
        deadline = time.monotonic() + 20
        while not ended and time.monotonic() < deadline:
            await runtime.observe()
        assert "The machine that has its memory is drained" in ended[0].reason
        assert "The machine that has its memory is drained" in runtime.held(instance.bot_id)
        with pytest.raises(NodeAway, match="The machine that has its memory is drained"):
            await runtime.start(wanted)
    finally:
        swarm.activate(home)
    again = await runtime.start(wanted)
    assert (await answering(again)).status_code == 200
    assert services.home_of(instance.bot_id) == home
    assert services.inside(instance.bot_id, "print(open('/data/remembered').read())").stdout.strip() == "everything"
