"""Makes and gives back rented nodes: one step for each at every pass, and a look for machines that nobody knows.

What is decided in `provision` is done here. Intent is stored before the cloud is called and the outcome after, so that
a process may be killed anywhere: the next pass, of any process, finds the machine by its id or its name.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from wopr.accounts.secrets import new_secret
from wopr.cloud.compute import CloudError, Compute, Firewall, Machine, Order, Size
from wopr.cloud.digitalocean import digitalocean
from wopr.core.errors import NotConfigured
from wopr.core.ids import NodeId
from wopr.core.loops import Loop
from wopr.core.platform import Platform
from wopr.inference import bootstrap, nodes, rented
from wopr.inference.alerts import Alert
from wopr.inference.cloud_init import First, user_data
from wopr.inference.identity import Identity, ensure_identity
from wopr.inference.journaling import journaled
from wopr.inference.orphans import Orphans, judged, past_of, unknown
from wopr.inference.pager import Pager
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
)
from wopr.inference.trials import Trials, complaint
from wopr.ops.incidents import Severity
from wopr.ops.journal import Journal
from wopr.ops.outages import Watch, Watched

PERIOD_SECONDS = 3.0
# A look at everything that the account has costs a few requests of the 5,000 an hour that the cloud answers.
SWEEP_SECONDS = 60.0
ROWS_AT_ONCE_MAX = 8
PAUSE_SECONDS = 10.0
PAUSE_SECONDS_MAX = 120.0
SSH_PORT = "22"
SERVICE_PORTS = "8080-8083"
# With drivers; that for several GPUs has what joins them (NVLink), too.
GPU_IMAGE, GPUS_IMAGE, PLAIN_IMAGE = "gpu-h100x1-base", "gpu-h100x8-base", "ubuntu-24-04-x64"
WATCH = "rented machines"

log = structlog.get_logger(__name__)
Cloud = Callable[[], Compute]


def provision_loop(platform: Platform, pager: Pager) -> Loop:
    """The line in the table of loops. It also wakes when somebody orders, gives back or a machine reports."""
    provisioner = Provisioner(platform, lambda: digitalocean(platform.settings, platform.http), pager)
    return Loop(
        name="provision_nodes",
        period_seconds=PERIOD_SECONDS,
        why="Makes the nodes that were ordered, gives back those that nobody wants, and finds machines that leaked.",
        run=provisioner.run_pass,
        wake=(rented.PROVISION_CHANNEL,),
        close=provisioner.close,
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

    def __init__(self, platform: Platform, cloud: Cloud, pager: Pager) -> None:
        self._platform = platform
        self._cloud = cloud
        self._pager = pager
        self._trials = Trials()
        self._watch = Watch(Journal(platform.settings.wopr_home), WATCH, after_seconds=0.0)
        self._swept_at = float("-inf")
        self._asks_at = float("-inf")
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._told: set[str] = set()
        self._firewall_looked_at = False

    async def close(self) -> None:
        """Give up what is under way and what waits."""
        await self._trials.keep(())
        await self._pager.close()

    async def run_pass(self) -> Mapping[str, int]:
        """One step for each node that is being made or given back; counts of what was there and what was done."""
        async with self._platform.db.begin() as session:
            rows = await rented.in_motion(session)
            failures = await rented.failures(session)
        await self._tell({f"making:{one.node_id}:{one.at}": _not_made(one) for one in failures})
        await self._trials.keep([row.node_id for row in rows])
        sweeps = time.monotonic() - self._swept_at >= SWEEP_SECONDS
        if not rows and not sweeps:
            return {}
        if time.monotonic() < self._asks_at:
            return {"in_motion": len(rows)}
        try:
            cloud = self._cloud()
        except NotConfigured:
            if rows:
                raise
            return {}
        async with self._platform.db.begin() as session:
            identity = await ensure_identity(session, self._platform.settings)
        try:
            sight = _Sight(cloud, identity, await cloud.tagged(identity.tag), await self._platform.steady.epoch())
            stepped = await self._step_all(rows, sight)
            orphaned = await self._sweep(sight) if sweeps else 0
        except CloudError as error:
            # Every request before the limit ends may be counted as well.
            self._asks_at = time.monotonic() + (error.retry_after_seconds or 0.0)
            raise
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
                await self._verify(row, sight.now)
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
        await self._ensure_firewall(sight)
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
            image=settings.gpu_image or _image(size),
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
                await rented.adopt(session, row, machine, await self._platform.steady.epoch())

    async def _size_of(self, row: Making) -> str:
        async with self._platform.db.begin() as session:
            return (await nodes.get(session, NodeId(row.node_id))).size

    async def _verify(self, row: Making, now: int) -> None:
        """Done once every service does its work, asked from here: what routing will need."""
        async with self._platform.db.begin() as session:
            node = await nodes.get(session, NodeId(row.node_id))
        looks = await self._trials.looks(node)
        if looks is None:
            return
        if wrong := complaint(looks):
            log.warning("node.trial_failed", node=row.node_id, error=wrong)
            async with self._platform.db.begin() as session:
                await rented.complain(session, row, wrong)
            return
        await self._serve(row, now)

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
        """Destroy machines that leaked; tell of those that nobody knows, and of those with our name and no tag."""
        everything = await sight.cloud.machines()
        async with self._platform.db.begin() as session:
            # Read after the list: a machine that is made meanwhile is not in it.
            known = await rented.machine_ids(session)
        tagged = [machine for machine in everything if sight.identity.tag in machine.tags]
        found = await self._judged(unknown(tagged, known, sight.now), sight.identity.prefix)
        for machine in found.leaked:
            async with journaled(self._platform, "nodes.orphan", machine=machine.id, name=machine.name):
                await sight.cloud.destroy(machine.id)
        strays = [
            machine
            for machine in everything
            if machine.name.startswith(sight.identity.prefix) and sight.identity.tag not in machine.tags
        ]
        told = [*map(_stray, strays), *map(_doubtful, found.doubtful)]
        await asyncio.to_thread(self._watch.settle, told, self._platform.clock.now())
        await self._tell({f"stray:{one.key}": Alert(one.title, one.detail) for one in map(_stray, strays)})
        await self._tell(
            {f"doubtful:{one.key}": Alert(one.title, one.detail) for one in map(_doubtful, found.doubtful)}
        )
        if tagged and not self._firewall_looked_at:  # GPU_ADMIT may be another one than when they were ordered
            await self._ensure_firewall(sight)
        self._swept_at = time.monotonic()
        return len(found.leaked)

    async def _ensure_firewall(self, sight: _Sight) -> None:
        await sight.cloud.ensure_firewall(_firewall(sight.identity, self._platform.settings.gpu_admit))
        self._firewall_looked_at = True

    async def _tell(self, alerts: Mapping[str, Alert]) -> None:
        """Tell people of what they were not told of, by key. It is found at every pass, and so by the next process."""
        news = {key: alert for key, alert in alerts.items() if key not in self._told}
        await asyncio.gather(*(self._pager.tell(alert, key) for key, alert in news.items()))
        self._told |= news.keys()

    async def _judged(self, machines: Sequence[Machine], prefix: str) -> Orphans:
        if not machines:
            return Orphans((), ())
        entries = await asyncio.to_thread(Journal(self._platform.settings.wopr_home).read)
        return judged(machines, past_of(entries), prefix)


def _firewall(identity: Identity, admit: str) -> Firewall:
    return Firewall(identity.prefix.rstrip("-"), identity.tag, (SSH_PORT, SERVICE_PORTS), tuple(_listed(admit)))


def _listed(words: str) -> Sequence[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _image(size: Size | None) -> str:
    """The system for a machine of this size."""
    if size is None or size.gpu is None:
        return PLAIN_IMAGE
    return GPU_IMAGE if size.gpu_count == 1 else GPUS_IMAGE


def _not_made(failure: rented.Failure) -> Alert:
    machine = failure.machine_id
    costs = f"Its machine {machine} is kept for a look, and costs" if machine else "It has no machine"
    node = failure.node_id
    return Alert(
        f"The node {node} could not be made",
        f"{failure.reason or 'It is not known why'}. {costs}. `wopr nodes show {node}` tells how far it came, "
        f"`wopr nodes retry {node}` makes it again, `wopr nodes destroy {node}` gives it back.",
    )


def _stray(machine: Machine) -> Watched:
    return Watched(
        key=f"machine:{machine.id}",
        title=f"The machine {machine.name} ({machine.id}) has our name but not our tag: nobody looks after it",
        severity=Severity.SEV3,
        down=True,
        detail="It costs money. Destroy it at the cloud, or give it its tag back.",
    )


def _doubtful(machine: Machine) -> Watched:
    return Watched(
        key=f"machine:{machine.id}",
        title=f"The machine {machine.name} ({machine.id}) is ours, and the database does not know it",
        severity=Severity.SEV3,
        down=True,
        detail=(
            "Either it served before, or the journal here knows no order of it: was an older database restored? It is "
            f"left alone and costs money. Destroy it at the cloud, or register {machine.private_ip} by the API with "
            "the key of its /etc/wopr/node.env, and it serves on as a node of your own."
        ),
    )
