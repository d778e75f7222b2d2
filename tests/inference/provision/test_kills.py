"""A process that dies in the middle of making or giving back a node: nothing is leaked, and the next one goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.serving import until

from wopr.accounts.admin import ensure_administrator
from wopr.cloud.compute import Compute, Machine, Order
from wopr.core.db import Database
from wopr.inference.identity import ensure_identity
from wopr.inference.journaling import journaled
from wopr.inference.orphans import ORPHAN_SECONDS
from wopr.inference.provision import ORDER_SECONDS
from wopr.inference.provision_loop import Provisioner
from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal

from .conftest import Stage

BOUNDARIES_MAX = 60


class Killed(BaseException):
    """The process is gone: nothing that it would have done afterwards happens."""


@dataclass
class Fuse:
    """Kills at the n-th boundary: before or after a change at the cloud, before or after a commit."""

    left: int

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class DyingCloud:
    """The cloud, as a process sees it that dies around a call."""

    def __init__(self, cloud: Compute, fuse: Fuse) -> None:
        self._cloud, self._fuse = cloud, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cloud, name)

    async def create(self, order: Order) -> Machine:
        self._fuse.burn()
        made = await self._cloud.create(order)
        self._fuse.burn()
        return made

    async def destroy(self, machine_id: str) -> bool:
        self._fuse.burn()
        done = await self._cloud.destroy(machine_id)
        self._fuse.burn()
        return done


class DyingDatabase:
    """The database, as a process sees it that dies around a commit that changes something."""

    def __init__(self, db: Database, fuse: Fuse) -> None:
        self._db, self._fuse = db, fuse

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        async with self._db.begin() as session:
            yield session
            wrote = await session.scalar(text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL"))
            if wrote:
                self._fuse.burn()
        if wrote:
            self._fuse.burn()


def dying(stage: Stage, fuse: Fuse) -> Provisioner:
    db: Any = DyingDatabase(stage.platform.db, fuse)
    cloud: Any = DyingCloud(stage.cloud(), fuse)
    return Provisioner(replace(stage.platform, db=db), lambda: cloud, stage.pager)


async def killed_at(stage: Stage, boundary: int, passes: int) -> bool:
    """Let a process pass until it dies at that boundary; False when it never got there."""
    loop = dying(stage, Fuse(boundary))
    try:
        for _ in range(passes):
            await loop.run_pass()
            stage.box.settled()
    except Killed:
        return True
    return False


async def nothing_is_leaked(stage: Stage, rows: int) -> None:
    """Every machine of the cloud is a row's, once orphans had their time."""
    stage.clock.advance(ORPHAN_SECONDS + 60)
    stage.anew()
    await stage.loop.run_pass()
    stage.box.settled()
    nodes = (await stage.admin.get("/api/admin/nodes")).json()["nodes"]
    known = {node["machine_id"] for node in nodes}
    there = {str(droplet["id"]) for droplet in stage.box.droplets() if droplet["status"] != "destroying"}
    assert there == known
    assert len(nodes) == rows


@pytest.mark.slow
async def test_a_kill_at_any_boundary_of_the_making_leaves_one_machine_that_is_known(stage: Stage) -> None:
    reached = 0
    for boundary in range(1, BOUNDARIES_MAX):
        (node_id,) = await stage.order()
        if not await killed_at(stage, boundary, passes=4):
            break
        reached = boundary
        # An answer that was lost is waited for before it is asked again.
        stage.clock.advance(ORDER_SECONDS + 1)
        stage.anew()
        await stage.until_stage(node_id, "waiting_agent")
        assert (await stage.machine().open()).status_code == 200, "the machine that is kept has the token that counts"
        named = [one for one in stage.box.droplets() if one["name"].endswith(node_id) and one["status"] != "destroying"]
        assert len(named) == 1
        await stage.admin.post(f"/api/admin/nodes/{node_id}/destroy")
        await stage.until_gone(node_id)
    assert reached > 6
    stage.anew()
    await stage.until_stage(node_id, "waiting_agent")
    await nothing_is_leaked(stage, rows=1)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["destroy", "retry"])
async def test_a_kill_at_any_boundary_of_giving_back_leaves_no_machine_behind(stage: Stage, verb: str) -> None:
    reached = 0
    for boundary in range(1, BOUNDARIES_MAX):
        (node_id,) = await stage.order()
        await stage.until_stage(node_id, "waiting_agent")
        if verb == "retry":
            machine = stage.machine()
            await machine.open()
            await machine.report("failed", "for the test")
        assert (await stage.admin.post(f"/api/admin/nodes/{node_id}/{verb}")).status_code == 202
        died = await killed_at(stage, boundary, passes=5)
        stage.clock.advance(ORDER_SECONDS + 1)
        stage.anew()
        if verb == "retry":
            await stage.until_stage(node_id, "waiting_agent")
            await stage.admin.post(f"/api/admin/nodes/{node_id}/destroy")
        await stage.until_gone(node_id)
        if not died:
            break
        reached = boundary
    assert reached > 2
    await nothing_is_leaked(stage, rows=0)


async def test_a_machine_whose_answer_was_lost_is_found_by_its_name(stage: Stage) -> None:
    stage.box.fault(method="POST", path="/v2/droplets", status=502, after=True)
    (node_id,) = await stage.order()
    await stage.loop.run_pass()
    stuck = await stage.node(node_id)
    assert (stuck["provision_stage"], stuck["machine_id"]) == ("creating", None)
    assert "502" in stuck["last_error"]
    stage.anew()
    await stage.until_stage(node_id, "waiting_agent")
    assert len(stage.box.droplets()) == 1


async def test_a_node_given_back_while_its_order_is_unanswered_leaves_no_machine(stage: Stage) -> None:
    stage.box.fault(method="POST", path="/v2/droplets", status=502, after=True)
    (node_id,) = await stage.order()
    await stage.loop.run_pass()
    await stage.admin.post(f"/api/admin/nodes/{node_id}/destroy")
    stage.anew()
    await stage.until_gone(node_id)
    stage.box.emptied()


async def test_an_order_that_never_arrived_is_placed_again_after_a_while(stage: Stage) -> None:
    stage.box.fault(method="POST", path="/v2/droplets", status=503)
    (node_id,) = await stage.order()
    await stage.loop.run_pass()
    stage.anew()
    await stage.loop.run_pass()
    assert stage.box.droplets() == [], "it might exist all the same"
    stage.clock.advance(ORDER_SECONDS + 1)
    await stage.until_stage(node_id, "waiting_agent")
    assert len(stage.box.droplets()) == 1


async def test_two_workers_at_once_order_one_machine(stage: Stage) -> None:
    (node_id,) = await stage.order()
    first, second = stage.anew(), stage.anew()
    await asyncio.gather(first.run_pass(), second.run_pass())
    stage.clock.advance(ORDER_SECONDS + 1)
    await stage.until_stage(node_id, "waiting_agent")
    assert len(stage.box.droplets()) == 1


async def test_a_machine_of_nobody_is_destroyed_when_it_is_ours_and_only_then(stage: Stage) -> None:
    async with stage.platform.db.begin() as session:
        identity = await ensure_identity(session, stage.platform.settings)
    cloud = stage.cloud()
    base = Order(identity.machine_name("lost"), "tor1", "s-1vcpu-1gb", "ubuntu-24-04-x64", "", (identity.tag,))
    async with journaled(stage.platform, "nodes.create", node="lost"):
        await cloud.create(base)
    await cloud.create(replace(base, name="somebody-elses", tags=("other",)))
    await cloud.create(replace(base, name=identity.machine_name("untagged"), tags=()))
    stage.box.settled()
    assert (await stage.loop.run_pass())["orphans"] == 0, "it may be one that is just being made"
    stage.clock.advance(ORPHAN_SECONDS + 60)
    stage.anew()
    assert (await stage.loop.run_pass())["orphans"] == 1
    until(lambda: len(stage.box.droplets()) == 2)
    assert {droplet["name"] for droplet in stage.box.droplets()} == {
        "somebody-elses",
        identity.machine_name("untagged"),
    }
    (incident,) = open_incidents(Journal(stage.platform.settings.wopr_home))
    assert identity.machine_name("untagged") in incident.title


async def test_after_an_older_database_was_restored_the_nodes_rented_since_are_left_and_told_of(stage: Stage) -> None:
    async with stage.platform.db.begin() as session:
        await ensure_administrator(session, "ada@example.com")
    (node_id,) = await stage.order()
    await stage.until_stage(node_id, "waiting_agent")
    machine_id = stage.box.droplets()[0]["id"]
    async with journaled(stage.platform, "nodes.serve", node=node_id, machine=str(machine_id)):
        pass
    async with stage.platform.db.begin() as session:
        await session.execute(text("DELETE FROM gpu_nodes"))
    stage.clock.advance(ORPHAN_SECONDS + 60)
    for _ in range(2):
        stage.anew()
        assert (await stage.loop.run_pass())["orphans"] == 0
    assert [droplet["id"] for droplet in stage.box.droplets()] == [machine_id]
    (incident,) = open_incidents(Journal(stage.platform.settings.wopr_home))
    assert "the database does not know it" in incident.title
    async with stage.platform.db.begin() as session:
        mails = (await session.execute(text("SELECT subject FROM mails"))).all()
    assert [subject for (subject,) in mails] == [incident.title]
