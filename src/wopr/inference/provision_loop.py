"""Makes and gives back rented nodes: one step for each at every pass, and a look for machines that nobody knows.

What is decided in `provision` is done here. Intent is stored before the cloud is called and the outcome after, so that
a process may be killed anywhere: the next pass, of any process, finds the machine by its id or its name.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
import structlog

from wopr.accounts.secrets import new_secret
from wopr.cloud.compute import CloudError, Compute, Firewall, Machine, Order
from wopr.cloud.digitalocean import digitalocean
from wopr.core.errors import NotConfigured
from wopr.core.ids import NodeId
from wopr.core.loops import Loop
from wopr.core.platform import Platform
from wopr.inference import bootstrap, nodes, rented
from wopr.inference.cloud_init import First, user_data
from wopr.inference.identity import Identity, ensure_identity
from wopr.inference.journaling import journaled
from wopr.inference.provision import (
    Adopt,
    Ask,
    Discard,
    Fail,
    Forget,
    Making,
    Renew,
    Started,
    Step,
    Verify,
    Wait,
    adoptable,
    next_step,
    orphans,
)
from wopr.ops.incidents import Severity
from wopr.ops.journal import Journal
from wopr.ops.outages import Watch, Watched

PERIOD_SECONDS = 3.0
# A look at everything that the account has costs a few requests of the 5,000 an hour that the cloud answers.
SWEEP_SECONDS = 60.0
ROWS_AT_ONCE_MAX = 8
PAUSE_SECONDS = 10.0
PAUSE_SECONDS_MAX = 120.0
ANSWER_SECONDS_MAX = 5.0
SSH_PORT = "22"
SERVICE_PORTS = "8080-8083"
GPU_IMAGE, PLAIN_IMAGE = "gpu-h100x1-base", "ubuntu-24-04-x64"
WATCH = "rented machines"

log = structlog.get_logger(__name__)
Cloud = Callable[[], Compute]


def provision_loop(platform: Platform) -> Loop:
    """The line in the table of loops. It also wakes when somebody orders, gives back or a machine reports."""
    return Loop(
        name="provision_nodes",
        period_seconds=PERIOD_SECONDS,
        why="Makes the nodes that were ordered, gives back those that nobody wants, and finds machines that leaked.",
        run=Provisioner(platform, lambda: digitalocean(platform.settings, platform.http)).run_pass,
        wake=(rented.PROVISION_CHANNEL,),
    )


@dataclass
class _Sight:
    """What one pass knows of the cloud."""

    cloud: Compute
    identity: Identity
    machines: Sequence[Machine]
    now: int


class Provisioner:
    """One pass after the other. It remembers only when to look again, which another process may forget."""

    def __init__(self, platform: Platform, cloud: Cloud) -> None:
        self._platform = platform
        self._cloud = cloud
        self._watch = Watch(Journal(platform.settings.wopr_home), WATCH, after_seconds=0.0)
        self._swept_at = float("-inf")
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    async def run_pass(self) -> Mapping[str, int]:
        """One step for each node that is being made or given back; counts of what was there and what was done."""
        async with self._platform.db.begin() as session:
            rows = await rented.in_motion(session)
        sweeps = time.monotonic() - self._swept_at >= SWEEP_SECONDS
        if not rows and not sweeps:
            return {}
        try:
            cloud = self._cloud()
        except NotConfigured:
            if rows:
                raise
            return {}
        async with self._platform.db.begin() as session:
            identity = await ensure_identity(session, self._platform.settings)
        now = self._now()
        sight = _Sight(cloud, identity, await cloud.tagged(identity.tag), now)
        stepped = await self._step_all(rows, sight)
        orphaned = await self._sweep(sight) if sweeps else 0
        return {"in_motion": len(rows), "steps": stepped, "orphans": orphaned}

    async def _step_all(self, rows: Sequence[Making], sight: _Sight) -> int:
        gate = asyncio.Semaphore(ROWS_AT_ONCE_MAX)

        async def one(row: Making) -> bool:
            async with gate:
                return await self._step(row, sight)

        done = await asyncio.gather(*(one(row) for row in rows), return_exceptions=True)
        for outcome in done:  # one node that fails keeps no other waiting
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(outcome is True for outcome in done)

    async def _step(self, row: Making, sight: _Sight) -> bool:
        """One step for one node; whether anything was to be done."""
        if time.monotonic() < self._not_before.get(row.node_id, 0.0):
            return False
        try:
            step = next_step(row, await self._machine_of(row, sight), sight.now)
            await self._take(step, row, sight)
        except CloudError as error:
            await self._stumble(row, error, sight.now)
            return True
        self._failures.pop(row.node_id, None)
        return not isinstance(step, Wait)

    async def _machine_of(self, row: Making, sight: _Sight) -> Machine | None:
        if row.machine_id is None:
            name = sight.identity.machine_name(row.node_id)
            async with self._platform.db.begin() as session:
                known = await rented.machine_ids(session)
            return adoptable(row, [m for m in sight.machines if m.name == name and m.id not in known])
        listed = next((machine for machine in sight.machines if machine.id == row.machine_id), None)
        # A list may lag behind; only the machine's own address says that it is gone.
        return listed or await sight.cloud.get(row.machine_id)

    async def _take(self, step: Step, row: Making, sight: _Sight) -> None:
        match step:
            case Wait():
                return
            case Ask():
                await self._order(row, sight)
                return
            case Discard(machine_id):
                async with journaled(self._platform, "nodes.discard", node=row.node_id, machine=machine_id):
                    await sight.cloud.destroy(machine_id)
                return
            case Verify():
                if await self._serves(row):
                    await self._serve(row, sight.now)
                return
        async with self._platform.db.begin() as session:
            match step:
                case Adopt(machine):
                    await rented.adopt(session, row, machine, sight.now)
                case Started(address):
                    await rented.located(session, row, address, sight.now)
                case Renew():
                    await rented.renew(session, row, sight.now)
                case Forget():
                    await rented.forget(session, row)
                case Fail(reason):
                    await rented.fail(session, row, reason, sight.now)

    async def _order(self, row: Making, sight: _Sight) -> None:
        """Ask for a machine: the intent and the token first, the id as soon as it is known."""
        settings, cloud, identity = self._platform.settings, sight.cloud, sight.identity
        wanted = await self._size_of(row)
        size = next((size for size in await cloud.sizes() if size.slug == wanted), None)
        key = await cloud.ensure_ssh_key(identity.prefix.rstrip("-"), identity.public_key)
        await cloud.ensure_firewall(_firewall(identity, settings.gpu_admit))
        token = new_secret()
        async with self._platform.db.begin() as session:
            terms = await rented.ordering(session, row, token, sight.now)
        if terms is None:
            return
        needs_gpu = size is not None and size.gpu is not None
        order = Order(
            name=identity.machine_name(row.node_id),
            region=terms.region,
            size=terms.size,
            image=settings.gpu_image or (GPU_IMAGE if needs_gpu else PLAIN_IMAGE),
            user_data=user_data(First(bootstrap.node_api_url(settings), row.node_id, token, needs_gpu)),
            tags=(identity.tag,),
            ssh_keys=(key, *_listed(settings.gpu_ssh_keys)),
            vpc=settings.gpu_vpc or None,
        )
        about = {"node": row.node_id, "size": terms.size, "region": terms.region}
        async with journaled(self._platform, "nodes.create", **about) as operation:
            try:
                machine = await cloud.create(order)
            except CloudError as error:
                if not error.uncertain:
                    async with self._platform.db.begin() as session:
                        await rented.withdraw_order(session, row)
                raise
            operation.outcome["machine"] = machine.id
            async with self._platform.db.begin() as session:
                await rented.adopt(session, row, machine, self._now())

    async def _size_of(self, row: Making) -> str:
        async with self._platform.db.begin() as session:
            return (await nodes.get(session, NodeId(row.node_id))).size

    async def _serves(self, row: Making) -> bool:
        """Whether every service answers here, with the node's key: what routing will need."""
        async with self._platform.db.begin() as session:
            node = await nodes.get(session, NodeId(row.node_id))
        headers = {"authorization": f"Bearer {node.api_key}"}

        async def well(port: int) -> bool:
            try:
                url = f"{nodes.base_url(node.host, port)}/health"
                answer = await self._platform.http.get(url, headers=headers, timeout=ANSWER_SECONDS_MAX)
            except httpx.HTTPError:
                return False
            return answer.status_code == httpx.codes.OK

        return all(await asyncio.gather(*(well(port) for port in node.ports.values())))

    async def _serve(self, row: Making, now: int) -> None:
        about = {"node": row.node_id, "machine": row.machine_id}
        async with journaled(self._platform, "nodes.serve", **about), self._platform.db.begin() as session:
            await rented.serve(session, row, now)

    async def _stumble(self, row: Making, error: CloudError, now: int) -> None:
        """The cloud said no: try again later when that makes sense, or when giving up would leave a machine behind."""
        log.warning("node.cloud_failed", node=row.node_id, stage=row.stage, error=error.message)
        if error.retry or row.machine_id is not None or row.desired == "gone":
            failures = self._failures[row.node_id] = self._failures.get(row.node_id, 0) + 1
            pause = min(PAUSE_SECONDS * 2 ** (failures - 1), PAUSE_SECONDS_MAX)
            self._not_before[row.node_id] = time.monotonic() + (error.retry_after_seconds or pause)
            async with self._platform.db.begin() as session:
                await rented.note(session, row, error.message, now)
            return
        async with self._platform.db.begin() as session:
            await rented.fail(session, row, f"{error.message} {error.remedy}".strip(), now)

    async def _sweep(self, sight: _Sight) -> int:
        """Destroy machines with our tag that no row knows; tell of those with our name and no tag."""
        everything = await sight.cloud.machines()
        async with self._platform.db.begin() as session:
            # Read after the list: a machine that is made meanwhile is not in it.
            known = await rented.machine_ids(session)
        found = orphans([machine for machine in everything if sight.identity.tag in machine.tags], known, sight.now)
        for machine in found:
            async with journaled(self._platform, "nodes.orphan", machine=machine.id, name=machine.name):
                await sight.cloud.destroy(machine.id)
        strays = [
            machine
            for machine in everything
            if machine.name.startswith(sight.identity.prefix) and sight.identity.tag not in machine.tags
        ]
        await asyncio.to_thread(self._watch.settle, [_stray(machine) for machine in strays], self._platform.clock.now())
        self._swept_at = time.monotonic()
        return len(found)

    def _now(self) -> int:
        return int(self._platform.clock.now().timestamp())


def _firewall(identity: Identity, admit: str) -> Firewall:
    return Firewall(identity.prefix.rstrip("-"), identity.tag, (SSH_PORT, SERVICE_PORTS), tuple(_listed(admit)))


def _listed(words: str) -> Sequence[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _stray(machine: Machine) -> Watched:
    return Watched(
        key=f"machine:{machine.id}",
        title=f"The machine {machine.name} ({machine.id}) has our name but not our tag: nobody looks after it",
        severity=Severity.SEV3,
        down=True,
        detail="It costs money. Destroy it at the cloud, or give it its tag back.",
    )
