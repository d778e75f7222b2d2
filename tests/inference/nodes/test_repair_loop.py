"""Nodes that break are brought back by themselves, whatever is killed on the way, and people hear of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.inference.nodes.rented_world import World, rented_world

from wopr.accounts.admin import ensure_administrator
from wopr.cloud.compute import Action, CloudError
from wopr.cloud.digitalocean import DigitalOcean
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.errors import Conflict
from wopr.core.ids import NodeId
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.inference import care, pager, probes, rented, wire
from wopr.inference import watchdog as watchdog_module
from wopr.inference.life import HEARD_SECONDS, Life
from wopr.inference.nodes import Backend, Node, get
from wopr.inference.rebooting import Desk, reboot
from wopr.inference.repair import REST_SECONDS, SPARING_SECONDS
from wopr.inference.repair_state import Phase, Rung, repair_of
from wopr.inference.sights import Look, Memory, Trouble
from wopr.inference.watchdog import Watchdog
from wopr.ops.incidents import all_incidents
from wopr.ops.journal import Journal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is a hang after moments."""
    monkeypatch.setattr(probes, "CHECK_SECONDS_LEAST", 0.3)
    monkeypatch.setattr(probes, "VITALS_APART_SECONDS", 0.1)


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
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert not incident.open
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
    told = await mails(world)
    assert "serves again" in told[-1]
    async with asyncio.timeout(60):
        while len(hook[1]) < len(told):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [call["subject"] for call in hook[1]] == told
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert not incident.open


async def test_a_pager_that_does_not_answer_holds_nothing_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_given: object) -> bool:
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr(pager, "call_webhook", never)
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    async with asyncio.timeout(60):
        await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert not incident.open
    await world.pager.close()


async def test_a_container_that_can_not_stay_up_is_not_waited_for(world: World) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    seconds = await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    assert seconds < 30
    (failed,) = [e for e in Journal(world.platform.settings.wopr_home).read() if e.phase == "fail"]
    assert "ended again" in failed.data["error"]


async def test_a_container_that_runs_is_given_the_time_to_load_while_others_serve(world: World) -> None:
    machine = await world.add()
    machine.stays_up = True
    await machine.die(Rung.REBOOT)
    assert await world.until_serves() > SPARING_SECONDS
    assert machine.boots == ["created", "reboot"]


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


async def test_a_living_machine_that_lost_its_tag_is_not_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()

    async def nothing(*_given: object) -> list[object]:
        return []

    monkeypatch.setattr(type(world.cloud), "tagged", nothing)
    await machine.die(Rung.REBOOT)
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    assert ("nodes.replace", "begin") not in operations(world)


async def test_a_machine_that_the_cloud_knows_nowhere_is_replaced_and_the_new_one_serves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 0.1)
    await world.add()
    await world.vanish()
    while (await world.node()).provision_stage == "done":
        await world.drive()
    assert [name for name, phase in operations(world) if phase == "begin"] == ["nodes.replace"]
    async with asyncio.timeout(60):
        while (await world.node()).provision_stage != "done":
            await world.provisioner.run_pass()
            await asyncio.sleep(0.02)  # the machine of this process wants its turn
    await world.until_serves()
    assert world.machines["gpu-1"].boots == ["created"]
    assert (await world.node()).repair["last"] == Rung.REPLACE


async def failed_to_be_made(world: World) -> None:
    """A node whose machine was given back by the ladder and whose new one the cloud refuses."""
    machine = await world.add()
    await machine.die(Rung.REPLACE)
    while (await world.node()).provision_stage == "done":
        await world.drive()
    async with world.platform.db.begin() as session:
        await session.execute(text("UPDATE gpu_nodes SET provision_stage = 'failed', status = 'failed'"))
    await world.drive(3)


async def test_a_replacement_that_fails_stays_open_and_is_tried_again(world: World, clock: ManualClock) -> None:
    await failed_to_be_made(world)
    assert repair_of(await world.node()).rung is Rung.PERSON
    assert "needs you" in (await mails(world))[-1]
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert incident.open
    assert operations(world)[-1] == ("nodes.person", "begin")
    ended = len(repair_of(await world.node()).hard)
    clock.advance(2 * REST_SECONDS)
    await world.drive(2)
    node = await world.node()
    assert (node.provision_stage, repair_of(node).rung, repair_of(node).rests) == ("creating", Rung.REPLACE, 1)
    assert len(repair_of(node).hard) == ended + 1


async def test_who_makes_such_a_node_again_closes_its_incident_once_it_serves(world: World) -> None:
    await failed_to_be_made(world)
    async with world.platform.db.begin() as session:
        await rented.begin_anew(session, "gpu-1", await world.platform.steady.epoch())
        kept = repair_of(await get(session, NodeId("gpu-1")))
    assert (kept.rung, kept.host_key) == (Rung.PERSON, None)
    await world.drive(3)
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert incident.open
    await world.machines["gpu-1"].heal()
    async with world.platform.db.begin() as session:
        await session.execute(text("UPDATE gpu_nodes SET provision_stage = 'done', host = '127.0.0.1'"))
    await world.until_serves()
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert not incident.open
    assert operations(world)[-1] == ("nodes.person", "end")


async def test_a_reboot_whose_answer_was_lost_is_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    act = type(world.cloud).act

    async def loses_the_answer(self: object, machine_id: str, action: Action) -> str:
        await act(world.cloud, machine_id, action)
        raise CloudError("DigitalOcean failed with 504.", retry=True, uncertain=True)

    monkeypatch.setattr(type(world.cloud), "act", loses_the_answer)
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    assert len(repair_of(await world.node()).hard) == 1


async def test_a_cloud_that_has_no_time_is_asked_when_it_says_and_at_last_a_person_is_called(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    asked: list[float] = []

    async def refuse(*_given: object) -> str:
        asked.append(world.clock.monotonic())
        raise CloudError("DigitalOcean's limit of requests is reached.", retry=True, retry_after_seconds=60)

    monkeypatch.setattr(type(world.cloud), "act", refuse)
    began = world.clock.monotonic()
    while repair_of(await world.node()).phase is not Phase.CALLED:
        await world.drive()
        assert world.clock.monotonic() - began < 15 * 60
    assert machine.boots == ["created"]
    assert len(asked) <= 12
    assert ("nodes.replace", "begin") not in operations(world)
    assert "limit of requests" in repair_of(await world.node()).why


REFUSED = CloudError("DO_API_TOKEN may not do this.", remedy="Make a token.")


async def refuses(*_given: object) -> str:
    raise REFUSED


@pytest.mark.parametrize("call", ["act", "tagged"])
async def test_what_the_cloud_refuses_for_good_is_for_a_person_and_costs_no_machine(
    world: World, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    monkeypatch.setattr(type(world.cloud), call, refuses)
    for _ in range(2):  # after the rest as before
        began = clock.monotonic()
        while repair_of(await world.node()).phase is not Phase.CALLED:
            await world.drive()
            assert clock.monotonic() - began < 5 * 60
        clock.advance(2 * REST_SECONDS)
        await world.drive(2)
    assert machine.boots == ["created"]
    assert "replace" not in str(operations(world))
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert incident.open
    assert any("may not do this. Make a token." in moment.text for moment in incident.timeline)
    assert "Node gpu-1 needs you" in await mails(world)
    monkeypatch.undo()
    clock.advance(4 * REST_SECONDS)
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]


async def test_a_machine_that_goes_while_it_is_looked_after_is_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    act = type(world.cloud).act

    async def too_late(self: DigitalOcean, machine_id: str, action: Action) -> str:
        await self.destroy(machine_id)
        return await act(self, machine_id, action)

    monkeypatch.setattr(type(world.cloud), "act", too_late)
    while (await world.node()).provision_stage == "done":
        await world.drive()
    assert [name for name, phase in operations(world) if phase == "begin"][-2:] == ["nodes.reboot", "nodes.replace"]


async def test_a_cloud_that_will_not_say_how_a_reboot_went_is_not_taken_to_have_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    monkeypatch.setattr(type(world.cloud), "acted", refuses)
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    assert ("nodes.reboot", "end") in operations(world)


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


async def test_people_are_told_once_that_nothing_is_done_while_we_are_cut_off(
    world: World, clock: ManualClock, hook: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = "Nothing is done for nodes that do not serve: gpu-1, gpu-2"
    for name in ("gpu-1", "gpu-2"):
        await world.add(name)

    async def cut_off(backend: Backend, _memory: Memory, _wish: probes.Wish) -> Look:
        return Look(backend.service, Trouble.UNREACHABLE, "no route")

    for times in (1, 2):
        monkeypatch.setattr(watchdog_module, "look", cut_off)
        await world.drive(10)
        assert len(await mails(world)) == times - 1, "it may be over in a moment"
        clock.advance(120)
        await world.drive(2)
        assert await mails(world) == [subject] * times
        world.repairer = world.new_repairer()
        await world.drive(2)
        clock.advance(120)
        await world.drive(2)
        assert await mails(world) == [call["subject"] for call in hook[1]] == [subject] * times, "as another process"
        monkeypatch.setattr(watchdog_module, "look", probes.look)
        await world.until_serves()
        await world.until_serves("gpu-2")
    for words in ("gpu-1, gpu-2: no node can be reached", "wopr nodes reboot NODE"):
        assert words in hook[1][0]["detail"]


async def test_people_are_told_which_nodes_wait_because_others_are_being_repaired(
    world: World, clock: ManualClock
) -> None:
    machines = [await world.add(name) for name in ("gpu-1", "gpu-2")]
    for machine in machines:
        machine.stays_up = True
        await machine.die(Rung.REPLACE)
    await world.drive(8)
    clock.advance(120)
    await world.drive(2)
    told = [subject for subject in await mails(world) if "Nothing is done" in subject]
    assert told == ["Nothing is done for nodes that do not serve: gpu-2"]


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


def desk(world: World) -> Desk:
    return Desk(world.platform.db, world.cloud, Journal(world.platform.settings.wopr_home))


@pytest.mark.parametrize("hard", [False, True])
async def test_the_ladder_waits_for_a_machine_that_a_person_restarted_and_counts_it(world: World, hard: bool) -> None:
    machine = await world.add()
    ill = await world.add("gpu-2")
    await reboot(desk(world), "gpu-1", await world.platform.steady.epoch(), hard=hard)
    await ill.die(Rung.RESTART)
    await world.drive(2)
    while (await world.node()).repair.get("rung"):
        assert (await world.node("gpu-2")).repair.get("rung") is None, "one node is touched at once"
        await world.drive()
    name = "nodes.power_cycle" if hard else "nodes.reboot"
    assert operations(world)[:2] == [(name, "begin"), (name, "end")]
    assert machine.boots == ["created", "power_cycle" if hard else "reboot"]
    assert machine.restarts == []
    assert len(repair_of(await world.node()).hard) == 1
    await world.until_serves("gpu-2")


async def test_a_machine_is_not_restarted_twice_at_once(world: World) -> None:
    await world.add()
    await reboot(desk(world), "gpu-1", await world.platform.steady.epoch())
    with pytest.raises(Conflict, match="being restarted already"):
        await reboot(desk(world), "gpu-1", await world.platform.steady.epoch())
    await world.until_serves()


async def test_a_restart_that_the_cloud_refuses_leaves_the_node_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add()

    async def refuse(*_given: object) -> str:
        raise CloudError("The droplet is locked.", retry=False)

    monkeypatch.setattr(type(world.cloud), "act", refuse)
    with pytest.raises(CloudError):
        await reboot(desk(world), "gpu-1", await world.platform.steady.epoch())
    assert operations(world) == [("nodes.reboot", "begin"), ("nodes.reboot", "fail")]
    assert repair_of(await world.node()).rung is None


async def test_whoever_asks_for_a_restart_may_be_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = await world.add()
    act = type(world.cloud).act

    async def killing(self: object, machine_id: str, action: Action) -> str:
        await act(world.cloud, machine_id, action)
        raise asyncio.CancelledError

    monkeypatch.setattr(type(world.cloud), "act", killing)
    with pytest.raises(asyncio.CancelledError):
        await reboot(desk(world), "gpu-1", await world.platform.steady.epoch())
    monkeypatch.undo()
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    assert operations(world) == [("nodes.reboot", "begin"), ("nodes.reboot", "end")]


async def test_a_cordoned_nodes_machine_is_restarted_and_nothing_more(world: World) -> None:
    await world.add()
    async with world.platform.db.begin() as session:
        await care.want(session, NodeId("gpu-1"), "cordoned")
    await reboot(desk(world), "gpu-1", await world.platform.steady.epoch())
    assert operations(world) == [("nodes.reboot", "begin"), ("nodes.reboot", "end")]
    assert repair_of(await world.node()).rung is None


@pytest.mark.parametrize("desired", ["cordoned", "drained"])
async def test_a_node_that_is_kept_from_requests_is_repaired_when_a_person_asks(world: World, desired: str) -> None:
    machine = await world.add()
    async with world.platform.db.begin() as session:
        await care.want(session, NodeId("gpu-1"), desired)
        await care.ask_repair(session, NodeId("gpu-1"), Rung.REBOOT)
    await world.drive(2)
    while (await world.node()).repair.get("rung"):
        await world.drive()
    assert machine.boots == ["created", "reboot"]
    assert operations(world) == [("nodes.reboot", "begin"), ("nodes.reboot", "end")]


async def test_what_does_not_help_a_cordoned_node_is_told_and_goes_no_further(world: World) -> None:
    machine = await world.add()
    await machine.die(Rung.REBOOT)
    async with world.platform.db.begin() as session:
        await care.want(session, NodeId("gpu-1"), "cordoned")
        await care.ask_repair(session, NodeId("gpu-1"), Rung.RESTART)
    await world.drive(2)
    while (await world.node()).repair.get("rung"):
        await world.drive()
    assert machine.restarts == [("llama", "qwen")]
    (failed,) = [e for e in Journal(world.platform.settings.wopr_home).read() if e.phase == "fail"]
    assert "ended again" in failed.data["error"]
    assert await mails(world) == []


async def test_asking_for_a_repair_undoes_nothing_that_the_ladder_writes_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add()

    async def slow(session: AsyncSession, node_id: NodeId) -> Node:
        read = await get(session, node_id)
        monkeypatch.undo()
        async with world.platform.db.begin() as other:
            await other.execute(
                text("UPDATE gpu_nodes SET repair = CAST(:kept AS jsonb)"), {"kept": '{"rung": "reboot"}'}
            )
        return read

    monkeypatch.setattr(care, "get", slow)
    with pytest.raises(Conflict, match="at this moment"):
        async with world.platform.db.begin() as session:
            await care.ask_repair(session, NodeId("gpu-1"), Rung.RESTART)
    assert (await world.node()).repair == {"rung": "reboot"}


async def test_a_restart_that_the_cloud_refuses_leaves_the_repair_that_is_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    machine.stays_up = True
    await machine.die(Rung.REBOOT)
    while repair_of(await world.node()).phase is not Phase.WATCH:
        await world.drive()
    before = (await world.node()).repair

    async def refuse(*_given: object) -> str:
        raise CloudError("The droplet is locked.", retry=False)

    monkeypatch.setattr(type(world.cloud), "act", refuse)
    with pytest.raises(CloudError):
        await reboot(desk(world), "gpu-1", await world.platform.steady.epoch())
    assert (await world.node()).repair == before
    assert ("nodes.restart", "fail") not in operations(world)
    monkeypatch.undo()
    await world.until_serves()
    assert machine.boots == ["created", "reboot"]
    (incident,) = all_incidents(Journal(world.platform.settings.wopr_home))
    assert not incident.open


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
    machine.stays_up = True
    await machine.die(Rung.REBOOT)
    while not machine.restarts:
        await world.drive()
    clock._now += timedelta(minutes=5)
    await world.drive(5)
    assert repair_of(await world.node()).rung is Rung.RESTART


@dataclass(frozen=True)
class Skewed:
    """The clock of another machine, which somebody has set wrong."""

    clock: ManualClock
    minutes: int

    def now(self) -> datetime:
        return self.clock.now() + timedelta(minutes=self.minutes)

    def monotonic(self) -> float:
        return self.clock.monotonic() + 1_000.0


@pytest.mark.parametrize("minutes", [-5, 5])
async def test_a_wait_that_one_process_begins_is_ended_in_time_by_one_whose_clock_is_wrong(
    world: World, clock: ManualClock, minutes: int
) -> None:
    ours = world.platform
    other = Platform(ours.settings, ours.db, Skewed(clock, minutes), ours.http, ours.notifier)
    for each in (ours, other):
        await each.steady.epoch()  # asked at the same moment: a manual clock does not go on with PostgreSQL's
    machine = await world.add()
    machine.stays_up = True
    await machine.die(Rung.REBOOT)
    while not machine.restarts:
        await world.drive()
    began = clock.monotonic()
    world.platform = other
    world.repairer = world.new_repairer()
    while repair_of(await world.node()).rung is Rung.RESTART:
        await world.drive()
    assert SPARING_SECONDS - 5 <= clock.monotonic() - began <= SPARING_SECONDS + 10


async def test_a_cloud_that_said_when_to_ask_again_is_not_asked_before(
    world: World, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await world.add()
    await machine.die(Rung.REPLACE)
    asked: list[str] = []

    async def limited(_self: object, tag: str) -> None:
        asked.append(tag)
        raise CloudError("The limit of requests is reached.", retry=True, retry_after_seconds=300)

    monkeypatch.setattr(type(world.cloud), "tagged", limited)
    await world.drive()
    await world.drive(10)
    assert len(asked) == 1
    clock.advance(300)
    await world.drive()
    assert len(asked) == 2
