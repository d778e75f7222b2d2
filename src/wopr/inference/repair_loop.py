"""The loop that brings nodes back: takes the steps that `repair` plans, one after the other.

Where a node stands on the ladder is stored before anything is done to it, conditionally on what was read, and the
outcome after. Whoever is killed in between is followed by the same step: a restart, a reboot or a replacement that is
asked for twice does no more harm than one. Each rung is an operation of the journal; who has to know is told.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import CursorResult, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.cloud.compute import CloudError, Compute
from wopr.cloud.digitalocean import digitalocean
from wopr.cloud.ssh import SshFailed
from wopr.core.ids import NodeId, new_id
from wopr.core.loops import Loop
from wopr.core.notify import notify
from wopr.core.platform import Platform
from wopr.inference import errands, rented
from wopr.inference.alerts import Alert, queue_alert
from wopr.inference.cloud_sight import CloudSight
from wopr.inference.holding import held_alert, occasion
from wopr.inference.life import HEARD_SECONDS, Life
from wopr.inference.models import GpuNode
from wopr.inference.nodes import NODES_CHANNEL, Node, list_nodes
from wopr.inference.pager import Pager
from wopr.inference.repair import Do, Sight, Step, down, failures_of, plan_repair
from wopr.inference.repair_state import HARD, Phase, Repair, Rung, repair_of
from wopr.ops.incidents import Severity, note_incident, open_incident, open_incidents, resolve_incident
from wopr.ops.journal import Journal

PERIOD_SECONDS = 1.0
# Who does not take what is asked and names no pause of its own is given this one.
CLOUD_AGAIN_SECONDS = 5.0
ACTION_SECONDS_MAX = 60
# A step that makes another one due is followed at once: up a rung and on it.
ROUNDS_MAX = 4
DRAINED = "drained"
OPERATIONS: Mapping[Rung, str] = {rung: f"nodes.{rung.value}" for rung in Rung}

log = structlog.get_logger(__name__)
Cloud = Callable[[], Compute]
Restart = Callable[[Node, Sequence[str]], Awaitable[errands.Restarted]]
Ended = Callable[[Node, Sequence[str]], Awaitable[str]]


def repair_loop(platform: Platform, life: Life, pager: Pager) -> Loop:
    """The line in the table of loops. It also wakes when the watchdog saw a change."""

    async def by_ssh(node: Node, services: Sequence[str]) -> errands.Restarted:
        return await errands.restart(platform, node, services)

    async def ended(node: Node, services: Sequence[str]) -> str:
        return await errands.ended(platform, node, services)

    repairer = Repairer(platform, life, lambda: digitalocean(platform.settings, platform.http), by_ssh, ended, pager)
    return Loop(
        name="repair_nodes",
        period_seconds=PERIOD_SECONDS,
        why="Restarts services that fail, then their machines, replaces these at last, and calls a person.",
        run=repairer.run_pass,
        wake=(NODES_CHANNEL,),
        close=pager.close,
    )


@dataclass
class Repairer:
    """One pass after the other. It remembers nothing that another process would need."""

    platform: Platform
    life: Life
    cloud: Cloud
    restart: Restart
    ended: Ended
    pager: Pager
    _journal: Journal = field(init=False)
    _sight: CloudSight = field(init=False)
    _held: Mapping[str, str] = field(default_factory=dict)
    _held_since: float | None = None
    _held_told: bool = False

    def __post_init__(self) -> None:
        self._journal = Journal(self.platform.settings.wopr_home)
        self._sight = CloudSight(self.platform, self.cloud)

    async def run_pass(self) -> Mapping[str, int]:
        """The steps that are due for each node: nodes that need care, steps taken, steps held back."""
        self.life.listen()
        taken = 0
        for _ in range(ROUNDS_MAX):
            counts, goes_on = await self._round()
            taken += counts["steps"]
            if not goes_on:
                break
        return {**counts, "steps": taken}

    async def _round(self) -> tuple[Mapping[str, int], bool]:
        """One step for each node that needs one; counts, and whether one of them makes another one due."""
        async with self.platform.db.begin() as session:
            if not await session.scalar(select(_ANY_TO_CARE_FOR)):
                self._hold({})
                return {"ailing": 0, "steps": 0, "held": 0}, False
            nodes = await list_nodes(session)
        await self._drain(nodes)
        nodes = [node for node in nodes if not self._is_looked_after(node)]
        ailing = [node for node in nodes if down(node) or repair_of(node).rung or repair_of(node).asked]
        running: dict[str, int] = {node.id: self.life.running(node.id) for node in ailing}
        plan = plan_repair(
            nodes,
            Sight(await self._sight.machines(ailing), running, self._sight.refused),
            await self.platform.steady.epoch(),
        )
        self._hold(plan.held)
        outcomes = await asyncio.gather(*(self._take(step) for step in plan.steps), return_exceptions=True)
        for outcome in outcomes:  # one node that fails keeps no other waiting
            if isinstance(outcome, BaseException):
                raise outcome
        await self._tell_held(nodes)
        counts = {"ailing": len(ailing), "steps": len(plan.steps), "held": len(plan.held)}
        return counts, any(outcome is True for outcome in outcomes)

    def _is_looked_after(self, node: Node) -> bool:
        """This machine's own services: what started them restarts them (`wopr up`, compose)."""
        own = node.id == self.platform.settings.gpu_node_id and node.provider is None
        return own and repair_of(node).rung is None and repair_of(node).asked is None

    async def _take(self, step: Step) -> bool:
        """Do it; whether it makes another step due."""
        node, now = step.node, await self.platform.steady.epoch()
        before = repair_of(node)
        match step.do:
            case Do.BEGIN:
                await self._begin(step, before, now)
                return True
            case Do.ACT:
                return await self._act(step, before, now)
            case Do.ASK if before.phase is Phase.WATCH:
                return await self._ask_machine(step, before)
            case Do.ASK:
                await self._ask(node, before, now)
            case Do.FINISH:
                await self._finish(node, before, now)
            case Do.CLEAR:
                await self._clear(node, before, step.why)
        return False

    async def _begin(self, step: Step, before: Repair, now: int) -> None:
        """Leave the rung before and mean the next one. A person is called here."""
        node, rung = step.node, step.rung or Rung.PERSON
        called = rung is Rung.PERSON
        after = replace(
            before,
            rung=rung,
            phase=Phase.CALLED if called else Phase.QUIET if step.quiet else Phase.DUE,
            since=now,
            services=step.services,
            why=step.why,
            operation=str(new_id()),
            out=rung in HARD,
            error=None,
            untaken=False,
            again_at=0,
            action=None,
            asked=None,
            insisted=before.asked is not None,
            looks=failures_of(node),
            told=before.told or called or rung in HARD,
            rests=before.rests + called,
        )
        subject = f"Node {node.id} needs you" if called else f"Node {node.id}: {rung.replace('_', ' ')}"
        grave = called or rung in HARD
        if not await self._store(node, after, Alert(subject, step.why) if grave else None):
            return
        await self._end(before, step.why)
        await self._write(after, "begin", {"node": node.id, "services": list(step.services), "why": step.why})
        if grave or before.asked is None:
            await asyncio.to_thread(self._incident, node, f"{subject}: {step.why}")

    async def _act(self, step: Step, before: Repair, now: int) -> bool:
        """Do what is meant; True when it can't be done. A kill in here is followed by the same."""
        node, rung, before = step.node, before.rung, replace(before, error=None, untaken=False, again_at=0)
        if before.phase is Phase.QUIET:
            before = replace(before, phase=Phase.DUE)
            if not await self._store(node, before):
                return False
            node = replace(node, repair=before.to_json())
        done = replace(before, phase=Phase.WATCH, since=now, looks=failures_of(node))
        try:
            if rung is Rung.RESTART:
                met = await self.restart(node, step.services)
                after = replace(
                    done, since=await self.platform.steady.epoch(), looks=await self._looks(node), host_key=met.host_key
                )
                await self._store(node, after)
            elif rung is Rung.REPLACE:
                await self._replace(node, done, now)
            elif step.action is not None and node.making.machine_id is not None:
                action = await self.cloud().act(node.making.machine_id, step.action)
                hard = (*before.hard, now)
                await self._store(node, replace(before, phase=Phase.UNDER_WAY, since=now, action=action, hard=hard))
        except SshFailed as error:
            return await self._store(node, replace(done, error=error.message, deaf=not error.answered))
        except CloudError as error:
            log.warning("repair.cloud_failed", node=node.id, rung=rung, error=error.message)
            self._sight.rest(error)
            return await self._not_taken(node, before, error)
        return False

    async def _not_taken(self, node: Node, before: Repair, error: CloudError) -> bool:
        """The cloud did not do it, or did not say so; True when it never will."""
        now = await self.platform.steady.epoch()
        if error.uncertain:
            # Asked again, it would do it twice: as after a kill, what is seen of the machine decides.
            after = replace(before, phase=Phase.UNDER_WAY, since=now, hard=(*before.hard, now))
        elif error.retry:
            pause = math.ceil(error.retry_after_seconds or CLOUD_AGAIN_SECONDS)
            after = replace(before, error=error.message, untaken=True, again_at=now + pause)
        else:
            self._sight.forget()  # a machine that has gone is refused, too
            whole = f"{error.message} {error.remedy}".strip()
            after = replace(before, phase=Phase.WATCH, since=now, error=whole, untaken=True)
        return await self._store(node, after) and after.phase is Phase.WATCH

    async def _replace(self, node: Node, done: Repair, now: int) -> None:
        """From here on the loop that makes nodes does it: the old machine goes first, then a new one is ordered."""
        after = replace(done, replaced_at=now, hard=(*done.hard, now), host_key=None)
        async with self.platform.db.begin() as session:
            if await write_repair(session, node, after):
                await rented.begin_anew(session, node.id, now, done.why)
                # What is made anew forgets its repair; this one is not over.
                await session.execute(update(GpuNode).where(GpuNode.id == node.id).values(repair=after.to_json()))

    async def _ask_machine(self, step: Step, before: Repair) -> bool:
        """Ask whether what was started runs; True when it does not. What the machine does not tell is waited for."""
        try:
            why = await self.ended(step.node, step.services)
        except SshFailed as error:
            log.debug("repair.not_told", node=step.node.id, error=error.message)
            return False
        return bool(why) and await self._store(step.node, replace(before, error=why))

    async def _looks(self, node: Node) -> int:
        """What the watchdog has counted by now: what it saw during a restart says nothing about what came up."""
        async with self.platform.db.begin() as session:
            return failures_of(next((one for one in await list_nodes(session) if one.id == node.id), node))

    async def _ask(self, node: Node, before: Repair, now: int) -> None:
        if before.action is None:
            # Whoever asked the cloud stores what it said, or was killed: then what is seen of the machine decides.
            if now - before.since > ACTION_SECONDS_MAX:
                await self._store(node, replace(before, phase=Phase.WATCH, since=now, looks=failures_of(node)))
            return
        if self._sight.rests:
            return
        try:
            went = await self.cloud().acted(node.making.machine_id or "", before.action)
        except CloudError as error:
            if error.retry:
                self._sight.rest(error)
            else:
                # It took what was asked and will not say how that went: what is seen of the machine decides.
                log.warning("repair.not_told", node=node.id, rung=before.rung, error=error.message)
                await self._store(node, replace(before, action=None))
            return
        if went is None:
            return
        problem = None if went else f"the cloud could not do it: {before.rung}"
        await self._store(node, replace(before, phase=Phase.WATCH, since=now, error=problem, looks=failures_of(node)))

    async def _finish(self, node: Node, before: Repair, now: int) -> None:
        """It serves again."""
        done = before.error is None and before.rung is not Rung.PERSON
        after = before.history(last=before.rung if done else before.last, last_at=now)
        alert = Alert(f"Node {node.id} serves again", f"After: {before.rung}. It was: {before.why}")
        if not await self._store(node, after, alert if before.told else None):
            return
        if before.error is None:
            await self._write(before, "end", {"outcome": "serves again"})
        else:
            log.warning("repair.not_done", node=node.id, rung=before.rung, error=before.error)
            await self._end(before, before.error)
        await asyncio.to_thread(self._resolve, node, "it serves again")

    async def _clear(self, node: Node, before: Repair, why: str) -> None:
        """Nobody wants it repaired any more; or what happened is so long ago that it means nothing."""
        if before.rung is None:
            await self._store(node, Repair(host_key=before.host_key))
        elif await self._store(node, before.history()):
            await self._end(before, f"given up: {why}")
            await asyncio.to_thread(self._resolve, node, why)

    async def _store(self, node: Node, after: Repair, alert: Alert | None = None) -> bool:
        """Write where the node stands, and what people are told with it; False when somebody else was quicker."""
        async with self.platform.db.begin() as session:
            stored = await write_repair(session, node, after)
            if stored and alert is not None:
                key = f"repair:{node.id}:{after.operation or after.last_at}"
                await queue_alert(session, self.platform, alert, key)
        if stored and alert is not None:
            self.pager.call(alert)
        return stored

    async def _drain(self, nodes: Sequence[Node]) -> None:
        """Write how many requests still run on nodes that are drained."""
        now = await self.platform.steady.epoch()
        for node in nodes:
            before = repair_of(node)
            if node.desired == DRAINED:
                running = self.life.running(node.id)
                # What began a moment ago is told of a moment later: only silence for a while says that nothing runs.
                quiet = (before.quiet_at or now) if running == 0 and self.life.heard_long_enough() else None
                empty = quiet is not None and now - quiet >= HEARD_SECONDS
                drained = (before.drained_at or now) if empty else None
                after = replace(before, running=running, quiet_at=quiet, drained_at=drained)
            else:
                after = replace(before, running=None, quiet_at=None, drained_at=None)
            if after != before:
                await self._store(node, after)

    async def _end(self, repair: Repair, why: str) -> None:
        """The rung before is over and came to nothing."""
        if repair.operation is not None:
            await self._write(repair, "fail", {"error": why})

    async def _write(self, repair: Repair, phase: str, data: Mapping[str, Any]) -> None:  # what json can write
        if repair.operation is None or repair.rung is None:
            return
        await asyncio.to_thread(self._journal.append, repair.operation, OPERATIONS[repair.rung], phase, data)
        if phase != "begin":
            await asyncio.to_thread(self._journal.keep)

    def _incident(self, node: Node, text: str) -> None:
        facts = {"key": _key(node), "impact": f"{node.id} does not serve, or not all of it."}
        title = f"Node {node.id} does not serve and is being repaired"
        incident = open_incident(self._journal, title, Severity.SEV3, "repair", facts)
        note_incident(self._journal, incident, text)

    def _resolve(self, node: Node, why: str) -> None:
        for incident in open_incidents(self._journal):
            if incident.key == _key(node):
                resolve_incident(self._journal, incident.id, why)

    def _hold(self, held: Mapping[str, str]) -> None:
        """Log once why nothing is done, and remember since when."""
        for node, why in held.items():
            if self._held.get(node) != why:
                log.warning("repair.held", node=node, why=why)
        if not held:
            self._held_since, self._held_told = None, False
        elif self._held_since is None:
            self._held_since = self.platform.clock.monotonic()
        self._held = held

    async def _tell_held(self, nodes: Sequence[Node]) -> None:
        """Tell people once that steps are held back for long: their nodes' incidents do not say that nobody acts."""
        if self._held_since is None or self._held_told:
            return
        lasted = self.platform.clock.monotonic() - self._held_since
        if lasted < self.platform.settings.incident_after_seconds:
            return
        await self.pager.tell(held_alert(self._held), occasion(nodes, self._held))
        self._held_told = True


_ANY_TO_CARE_FOR = exists().where(
    or_(GpuNode.status.in_(("degraded", "failed")), GpuNode.repair != {}, GpuNode.desired == DRAINED)
)


async def write_repair(session: AsyncSession, node: Node, after: Repair) -> bool:
    """Write it unless the row is no longer what was read. Routing hears of it."""
    written = await session.execute(
        update(GpuNode)
        .where(GpuNode.id == NodeId(node.id), GpuNode.repair == dict(node.repair), GpuNode.desired == node.desired)
        .values(repair=after.to_json())
        .execution_options(synchronize_session=False)
    )
    assert isinstance(written, CursorResult)
    if written.rowcount != 1:
        return False
    if after.out != repair_of(node).out:
        await notify(session, NODES_CHANNEL, node.id)
    return True


def _key(node: Node) -> str:
    return f"repair:{node.id}"
