"""Faults planted in a real machine of the cloud in a box: each is seen, told and mended by the platform alone.

One API process with its loops looks after one node, which is rented as any other. What is planted is a real fault: a
process killed or stopped, a program that lies, dropped packets, a machine without power, a clock that is wrong. The
clock is the platform's: a node's is never asked.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tests.inference.nodes.conftest import long_recording
from tests.machines.cloud import Cloud
from tests.machines.nodes import weights_served
from tests.machines.registry import Registry
from tests.machines.ward import LOOK_SECONDS, Ward, WrongClock, liar, ward_of, wrong_clock

pytestmark = pytest.mark.asyncio(loop_scope="module")

# More at once than the service works on, for longer than looks are patient.
CUSTOMERS, RECORDING_TIMES = 3, 10
BUSY_SECONDS = 15.0
CLOCK_WRONG_SECONDS = 300
PASSES_SEEN = 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_ward(
    box: Cloud,
    images: Registry,
    weights: Path,
    postgres_url: str,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Ward]:
    """A node that was made, and who looks after it."""
    async with (
        weights_served(weights, []) as models,
        ward_of(box, images, models, (postgres_url, template_database), tmp_path_factory.mktemp("ward")) as ward,
    ):
        await ward.provision()
        yield ward


@pytest_asyncio.fixture(loop_scope="module")
async def ward(whole_ward: Ward) -> Ward:
    """The node serves, and nothing is held against it: what failed a moment ago begins a rung higher."""
    await whole_ward.until_serves()
    await whole_ward.forget_history()
    return whole_ward


@pytest_asyncio.fixture(loop_scope="module")
async def clock(ward: Ward, tmp_path: Path) -> AsyncIterator[WrongClock]:
    """What the API takes for the time, as a test sets it; afterwards it is right again, however the test ended."""
    made = wrong_clock(tmp_path)
    try:
        ward.kill_api()
        ward.start_api(made.environment)
        yield made
    finally:
        ward.kill_api()
        ward.start_api()


async def test_a_killed_process_is_restarted_and_the_repair_outlives_its_api(ward: Ward) -> None:
    ward.on_machine("docker", "kill", "wopr-llama-cpp")
    await ward.until(lambda: "waiting for three good looks" in ward.node()["repair"], "the restart")
    started = ward.started("wopr-llama-cpp")
    ward.kill_api()
    ward.start_api()
    await ward.until_over()
    assert ward.operations() == [("nodes.restart", "begin"), ("nodes.restart", "end")]
    assert ward.started("wopr-llama-cpp") == started, "it was restarted once"


async def test_a_stopped_process_is_restarted(ward: Ward) -> None:
    ward.on_machine("pkill", "-STOP", "-f", "wopr engine qwen")
    await ward.until_repaired()
    assert ward.operations() == [("nodes.restart", "begin"), ("nodes.restart", "end")]
    assert "qwen" in ward.why()


@pytest.mark.parametrize(
    ("service", "container", "port", "hangs", "seen"),
    [
        ("whisper", "wopr-whisper", 8000, True, "answers /health, and nothing else"),
        ("qwen", "wopr-qwen-embeddings", 8083, False, "nothing but zeros"),
    ],
    ids=["hangs", "nonsense"],
)
async def test_a_program_that_answers_health_and_does_not_work_is_restarted(
    ward: Ward, service: str, container: str, port: int, hangs: bool, seen: str
) -> None:
    await ward.plant(container, liar(port, hangs=hangs), until=seen)
    await ward.until_repaired()
    assert ward.operations() == [("nodes.restart", "begin"), ("nodes.restart", "end")]
    assert f"{service}: " in ward.why()
    assert seen in ward.why()


async def test_what_is_slow_because_it_is_busy_is_not_touched(ward: Ward) -> None:
    recording = long_recording(RECORDING_TIMES)
    clock = asyncio.get_running_loop().time
    until = clock() + BUSY_SECONDS

    async def talk(customer: httpx.AsyncClient) -> None:
        while clock() < until:
            files = {"file": ("long.wav", recording, "audio/wav")}
            said = await customer.post("/v1/audio/transcriptions", files=files, data={"model": "whisper-1"})
            assert said.status_code == 200, said.text

    async with ward.customer() as customer, asyncio.TaskGroup() as customers:
        talking = [customers.create_task(talk(customer)) for _ in range(CUSTOMERS)]
        while not all(one.done() for one in talking):
            assert (ward.node()["repair"], ward.operations()) == ("", [])
            await asyncio.sleep(LOOK_SECONDS)
    assert ward.node()["service_health"]["whisper"]


async def test_a_clock_that_is_set_moves_nothing_and_repairs_go_on_by_it(ward: Ward, clock: WrongClock) -> None:
    await ward.until_serves()
    for wrong in (CLOCK_WRONG_SECONDS, -CLOCK_WRONG_SECONDS):
        clock.set(wrong)
        await ward.until(lambda wrong=wrong: abs(ward.ahead_seconds() - wrong) < CLOCK_WRONG_SECONDS / 2, "its clock")
        passes = {ward.passed_at("repair_nodes")}
        while len(passes) < PASSES_SEEN:
            assert (ward.node()["repair"], ward.operations()) == ("", [])
            await asyncio.sleep(LOOK_SECONDS)
            passes.add(ward.passed_at("repair_nodes"))
    ward.on_machine("docker", "kill", "wopr-llama-cpp")
    await ward.until(lambda: "waiting for three good looks" in ward.node()["repair"], "the restart")
    clock.set(CLOCK_WRONG_SECONDS)
    ward.kill_api()
    ward.start_api(clock.environment)
    await ward.until_over()
    assert ward.operations() == [("nodes.restart", "begin"), ("nodes.restart", "end")]


async def test_a_blocked_port_is_opened_by_a_reboot(ward: Ward) -> None:
    ward.on_machine("iptables", "-t", "raw", "-I", "PREROUTING", "-p", "tcp", "--dport", "8081", "-j", "DROP")
    booted = ward.booted_at()
    await ward.until_repaired()
    assert ward.operations() == [
        *(("nodes.restart", "begin"), ("nodes.restart", "fail")),
        *(("nodes.reboot", "begin"), ("nodes.reboot", "end")),
    ]
    assert ward.acted() == ["reboot"]
    assert ward.booted_at() > booted


async def test_a_machine_that_is_cut_off_is_power_cycled(ward: Ward) -> None:
    ward.on_machine("iptables", "-t", "raw", "-I", "PREROUTING", "-j", "DROP")
    await ward.until_repaired()
    assert ward.operations() == [
        *(("nodes.restart", "begin"), ("nodes.restart", "fail")),
        *(("nodes.power_cycle", "begin"), ("nodes.power_cycle", "end")),
    ]
    assert ward.acted() == ["power_cycle"]


async def test_a_machine_without_power_is_switched_on_once_whoever_is_killed(ward: Ward) -> None:
    ward.power_off()
    switched = ("being powered", "power cycle done")
    await ward.until(lambda: ward.node()["repair"].startswith(switched), "the power to be switched on")
    ward.kill_api()
    ward.start_api()
    await ward.until_over()
    assert ward.operations() == [("nodes.power_cycle", "begin"), ("nodes.power_cycle", "end")]
    assert ward.acted() == ["power_off", "power_on"]


async def test_what_nothing_helps_is_replaced_by_another_machine(ward: Ward) -> None:
    old = ward.droplet
    await ward.plant("wopr-whisper", "#!/bin/sh\nexit 3\n")
    await ward.until_repaired()
    begun = dict.fromkeys(name for name, phase in ward.operations() if phase == "begin")
    assert list(begun) == [
        *("nodes.restart", "nodes.reboot", "nodes.power_cycle", "nodes.replace"),
        *("nodes.discard", "nodes.create", "nodes.serve"),
    ]
    assert ward.operations()[-1] == ("nodes.replace", "end")
    assert ward.droplet != old
    assert ward.droplets() == [ward.droplet], "the old machine is gone, and there is none of nobody"
