"""Nodes that break are brought back by themselves, whatever is killed on the way, and people hear of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import text
from tests.inference.nodes.rented_world import World, rented_world

from wopr.accounts.admin import ensure_administrator
from wopr.cloud.compute import Action, CloudError
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import care, probes
from wopr.inference.life import HEARD_SECONDS, Life
from wopr.inference.repair_state import Phase, Rung, repair_of
from wopr.inference.watchdog import Watchdog
from wopr.ops.incidents import all_incidents
from wopr.ops.journal import Journal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is a hang after moments."""
    monkeypatch.setattr(probes, "CHECK_SECONDS_LEAST", 0.3)
    monkeypatch.setattr(probes, "VITALS_APART_SECONDS", 0.1)


@pytest.fixture
async def hook() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A webhook's receiver and what it got."""
    got: list[dict[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/hook", take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got
    await runner.cleanup()


@pytest.fixture
async def platform(
    db: Database, clock: ManualClock, tmp_path: Path, hook: tuple[str, list[dict[str, str]]]
) -> AsyncIterator[Platform]:
    settings = Settings(
        database_url=SecretStr(db.url),
        wopr_home=tmp_path,
        platform_secret=SecretStr("a-secret-of-tests"),
        alert_webhook_url=SecretStr(hook[0]),
    )
    async with db.begin() as session:
        await ensure_administrator(session, "ada@example.com")
    async with httpx.AsyncClient() as http:
        yield Platform(settings, db, clock, http, Notifier(db))


@pytest.fixture
async def world(platform: Platform, clock: ManualClock, life: Life, watchdog: Watchdog) -> AsyncIterator[World]:
    async with rented_world(platform, clock, life, watchdog) as made:
        yield made


def operations(world: World) -> list[tuple[str, str]]:
    entries = Journal(world.platform.settings.wopr_home).read()
    return [(entry.name, entry.phase) for entry in entries if entry.name.startswith("nodes.")]


async def mails(world: World) -> list[str]:
    async with world.platform.db.begin() as session:
        found = await session.execute(text("SELECT subject FROM mails ORDER BY created_at, id"))
        return [row[0] for row in found]


async def test_a_service_that_hangs_is_restarted_and_serves_after_three_good_looks(world: World) -> None:
    machine = await world.add()
    machine.hang(Rung.RESTART)
    seconds = await world.until_serves()
    assert (machine.restarts, machine.boots) == ([("llama",)], ["created"])
    assert operations(world) == [("nodes.restart", "begin"), ("nodes.restart", "end")]
    assert (await world.node()).repair["host_key"] == "ssh-ed25519 AAAA"
    assert await mails(world) == []
    assert seconds < 60


async def test_the_other_services_of_a_restarted_node_serve_on(world: World) -> None:
    machine = await world.add()
    await machine.die(Rung.RESTART)
    while not machine.restarts:
        await world.drive()
        assert (await world.node()).service_health["qwen"]
    assert (await world.node()).repair.get("out") is None


@pytest.mark.parametrize(
    ("cure", "boots"), [(Rung.REBOOT, ["created", "reboot"]), (Rung.POWER_CYCLE, ["created", "power_cycle"])]
)
async def test_the_ladder_goes_up_until_something_helps(
    world: World, cure: Rung, boots: list[str], hook: tuple[str, list[dict[str, str]]]
) -> None:
    machine = await world.add()
    await machine.die(cure)
    await world.until_serves()
    assert machine.boots == boots
    assert operations(world)[:2] == [("nodes.restart", "begin"), ("nodes.restart", "fail")]
    assert operations(world)[-1] == (f"nodes.{cure}", "end")
    assert "serves again" in (await mails(world))[-1]
    assert [call["subject"] for call in hook[1]] == await mails(world)
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert not incident.open


async def test_a_machine_that_is_deaf_is_not_asked_to_reboot(world: World) -> None:
    machine = await world.add()
    await machine.die(Rung.POWER_CYCLE)
    machine.deaf = True
    await world.until_serves()
    assert machine.boots == ["created", "power_cycle"]
    assert ("nodes.reboot", "begin") not in operations(world)


async def test_a_machine_that_was_switched_off_is_switched_on(world: World) -> None:
    machine = await world.add()
    await world.power_off("gpu-1")
    await world.until_serves()
    assert len(machine.boots) == 2
    assert machine.restarts == []


async def test_what_nothing_helps_is_replaced_by_the_loop_that_makes_nodes(world: World) -> None:
    machine = await world.add()
    await machine.die(Rung.REPLACE)
    old = (await world.node()).making.machine_id
    while (await world.node()).provision_stage == "done":
        await world.drive()
    node = await world.node()
    assert (node.provision_stage, node.making.machine_id) == ("creating", old)
    assert repair_of(node).rung is Rung.REPLACE
    before = node.repair
    await world.drive(5)
    assert (await world.node()).repair == before


async def test_without_a_cloud_a_person_is_called(world: World) -> None:
    machine = await world.add(provider=None)
    await machine.die(Rung.REPLACE)
    while not (called := (await world.node()).repair.get("phase") == Phase.CALLED):
        await world.drive()
    assert called
    assert machine.boots == ["created"]
    assert "needs you" in (await mails(world))[-1]
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert incident.open
    await machine.heal()
    await world.until_serves()
    assert "serves again" in (await mails(world))[-1]


async def test_this_machines_own_services_are_left_to_what_started_them(world: World) -> None:
    machine = await world.add("local", provider=None)
    await machine.die(Rung.RESTART)
    await world.drive(10)
    assert (await world.node("local")).status == "degraded"
    assert (machine.restarts, operations(world), await mails(world)) == ([], [], [])


async def test_nothing_is_done_while_the_cloud_can_not_be_reached(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    await world.power_off("gpu-1")

    async def away(_tag: str) -> None:
        raise CloudError("The cloud does not answer.", retry=True)

    monkeypatch.setattr(type(world.cloud), "tagged", lambda _self, tag: away(tag))
    await world.drive(40)
    assert len(machine.boots) == 1
    monkeypatch.undo()
    await world.until_serves()


@pytest.mark.parametrize("kill_before", [True, False])
async def test_a_kill_around_the_clouds_call_is_followed_by_the_same_step(
    world: World, monkeypatch: pytest.MonkeyPatch, kill_before: bool
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    act = type(world.cloud).act
    killed: list[str] = []

    async def killing(self: object, machine_id: str, action: Action) -> str:
        if not killed:
            killed.append(machine_id)
            if not kill_before:
                await act(world.cloud, machine_id, action)
            raise asyncio.CancelledError
        return await act(world.cloud, machine_id, action)

    monkeypatch.setattr(type(world.cloud), "act", killing)
    while not killed:
        try:
            await world.drive()
        except asyncio.CancelledError:
            world.repairer = world.new_repairer()
    await world.until_serves()
    assert set(machine.boots[1:]) == {"reboot"}
    assert len(machine.boots) <= 3


async def test_two_processes_take_a_step_once(world: World) -> None:
    machine = await world.add()
    await machine.die(Rung.RESTART)
    other = world.new_repairer()
    for _ in range(30):
        await world.watchdog.watch()
        await asyncio.gather(world.repairer.run_pass(), other.run_pass())
        world.clock.advance(2)
        await asyncio.sleep(0)
    begun = [name for name, phase in operations(world) if phase == "begin"]
    assert begun == ["nodes.restart"]


async def test_a_person_asks_for_a_reboot_and_gets_it(world: World) -> None:
    machine = await world.add()
    async with world.platform.db.begin() as session:
        await care.ask_repair(session, NodeId("gpu-1"), Rung.REBOOT)
    await world.drive()
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]


async def test_a_restart_that_was_asked_for_and_can_not_be_done_goes_no_further(world: World) -> None:
    machine = await world.add()
    machine.deaf = True
    async with world.platform.db.begin() as session:
        await care.ask_repair(session, NodeId("gpu-1"), Rung.RESTART)
    await world.drive(10)
    assert operations(world) == [("nodes.restart", "begin"), ("nodes.restart", "fail")]
    assert machine.boots == ["created"]
    assert (await world.node()).repair.get("rung") is None


async def test_a_drained_node_is_told_to_be_empty_once_nothing_runs(world: World, clock: ManualClock) -> None:
    await world.add()
    async with world.platform.db.begin() as session:
        await session.execute(text("UPDATE gpu_nodes SET desired = 'drained'"))
    clock.advance(HEARD_SECONDS)
    world.life.hear("process gpu-1/llama=2+")
    await world.drive()
    assert (await world.node()).repair == {"running": 2}
    clock.advance(HEARD_SECONDS)
    await world.drive()
    assert repair_of(await world.node()).drained_at is None
    await world.drive(3)
    assert repair_of(await world.node()).drained_at is not None


async def test_a_clock_that_is_corrected_by_five_minutes_cuts_no_waiting_short(
    world: World, clock: ManualClock
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    while not machine.restarts:
        await world.drive()
    clock._now += timedelta(minutes=5)
    await world.drive(5)
    assert repair_of(await world.node()).rung is Rung.RESTART
