"""The watchdog: looks at every service of every node every few seconds and writes down which of them work.

All that it concludes is in the node's row, so a restart forgets nothing, and every status is worked out anew from what
was seen: there is none without a way out. A pass never waits for a slow service: its look goes on, and the pass that
finds it ended judges it. Routing reacts to failed requests by itself, long before the next look.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import case, or_, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.ids import NodeId
from wopr.core.loops import Loop
from wopr.core.platform import Platform
from wopr.inference.life import Life
from wopr.inference.models import GpuNode
from wopr.inference.nodes import NODES_CHANNEL, Backend, Node, backends_of, list_nodes
from wopr.inference.probes import ERROR_LENGTH_MAX, SPEECH_SERVICE, Wish, look
from wopr.inference.sights import DEEP, GOOD_LOOKS, SOFT, STILL, Look, Memory, Trouble, memories_of, told

# So long a pass waits for the looks that it began; the next one finds the rest.
PASS_WAITS_SECONDS = 1.0
LOOKS_AT_ONCE_MAX = 256
# A look that ended so long ago, while another process had the watch, says nothing any more.
LOOK_SECONDS_OLD = 60.0
# Busy is not dead: a service that can't be reached, or takes a connection and is silent, gets a second chance.
SOFT_FAILURES_BEFORE_DOWN = 2
# Nothing on the node answered so often in a row: it counts as failed until something does.
FAILURES_BEFORE_FAILED = 6
# From then on it is looked at less and less often, up to this.
REST_SECONDS_MAX = 30.0
# A check costs at most a twentieth of what it uses, and is not made more often than this.
CHECK_SECONDS = 5.0
CHECK_COST_TIMES = 20.0
# Without customers' requests that get on for so long, a service that another node has as well is spared new ones.
SLOW_SECONDS_MAX = 12.0
MODELS_SECONDS = 60
# A row whose only news is that the node answered is written this often.
SEEN_SECONDS = 10
ENDING = "under_way"
ACTIVE, DEGRADED, FAILED = "active", "degraded", "failed"

log = structlog.get_logger(__name__)
Place = tuple[str, str, str]  # node, service, address


@dataclass(frozen=True)
class Verdict:
    """What a node's row should say after some looks."""

    status: str
    service_health: Mapping[str, bool]
    memories: Mapping[str, Memory]
    answered: bool
    last_error: str | None


@dataclass
class Track:
    """What this process keeps of one service; monotonic seconds. Losing it costs nothing but an earlier check."""

    look: "asyncio.Task[Look] | None" = None
    looked_at: float = float("-inf")
    checked_at: float = float("-inf")
    well_at: float = 0.0
    usual_seconds: float | None = None


@dataclass
class Watchdog:
    """Looks at nodes; one pass after the other."""

    platform: Platform
    life: Life
    waits_seconds: float = PASS_WAITS_SECONDS
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE_MAX))
    _tracks: dict[Place, Track] = field(default_factory=dict)

    async def close(self) -> None:
        """Give up the looks that are under way."""
        looks = [track.look for track in self._tracks.values() if track.look is not None]
        for each in looks:
            each.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def watch(self) -> Mapping[str, int]:
        """One pass: nodes seen, services that work, services that do not, rows that changed."""
        self.life.listen()
        nodes = await self._nodes()
        if any(track.look is not None and track.look.done() for track in self._tracks.values()):
            # It ended since the last pass: judged first, so that this pass looks again and not the next one.
            await self._conclude(nodes)
            nodes = await self._nodes()
        self._begin(nodes, await self.platform.steady.epoch())
        looking = [track.look for track in self._tracks.values() if track.look is not None]
        if looking:
            await asyncio.wait(looking, timeout=self.waits_seconds)
        return await self._conclude(nodes)

    async def _nodes(self) -> Sequence[Node]:
        async with self.platform.db.begin() as session:
            return [node for node in await list_nodes(session) if backends_of(node)]

    def _begin(self, nodes: Sequence[Node], epoch: int) -> None:
        """Start a look at every service that is due and is not being looked at."""
        places = {_place(backend): (node, backend) for node in nodes for backend in backends_of(node)}
        for place in self._tracks.keys() - places.keys():
            if (gone := self._tracks.pop(place).look) is not None:
                gone.cancel()
        now = self.platform.clock.monotonic()
        remembered = {node.id: memories_of(node.probe_state) for node in nodes}
        for place, (node, backend) in places.items():
            memory = remembered[node.id].get(backend.service, Memory())
            track = self._tracks.setdefault(place, Track(well_at=now))
            if track.look is not None or now - track.looked_at < rest_seconds(node, memory):
                continue
            track.looked_at = now
            wish = self._wish(node, backend, memory, track)
            wish = replace(wish, ask_models=memory.failures > 0 or epoch - memory.models_at >= MODELS_SECONDS)
            track.look = asyncio.create_task(self._look(backend, memory, wish), name=f"look {place}")

    def _wish(self, node: Node, backend: Backend, memory: Memory, track: Track) -> Wish:
        now = self.platform.clock.monotonic
        began = now()

        def still() -> float:
            advanced = self.life.advanced_at(node.id, backend.service)
            return float("inf") if advanced is None else now() - advanced

        return Wish(
            check=check_due(node, memory, track, began),
            usual_seconds=track.usual_seconds,
            running=lambda: self.life.running(node.id, backend.service),
            still_seconds=still,
            silent_seconds=lambda: min(still(), now() - track.well_at),
        )

    async def _look(self, backend: Backend, memory: Memory, wish: Wish) -> Look:
        async with self._gate:
            return await look(backend, memory, wish)

    async def _conclude(self, nodes: Sequence[Node]) -> Mapping[str, int]:
        """Judge the looks that ended, and write what follows."""
        now = await self.platform.steady.epoch()
        ended = {node.id: self._ended(node) for node in nodes}
        serving = _serving(nodes)
        rows, seen = [], []
        for node in nodes:
            verdict = judge(node, ended[node.id], now, elsewhere=_elsewhere(node, serving))
            if verdict is None:
                continue
            if _row(verdict) != (node.status, node.service_health, node.probe_state, node.last_error):
                rows.append((node, verdict))
            elif verdict.answered and now - (node.last_health_at or 0) >= SEEN_SECONDS:
                seen.append(node.id)
        changed = 0
        if rows or seen:
            async with self.platform.db.begin() as session:
                for node, verdict in rows:
                    changed += await _record(session, node, verdict, now)
                if seen:
                    await session.execute(update(GpuNode).where(GpuNode.id.in_(seen)).values(last_health_at=now))
        healthy = sum(bool(node.service_health.get(backend.service)) for node in nodes for backend in backends_of(node))
        services = sum(len(backends_of(node)) for node in nodes)
        return {"nodes": len(nodes), "healthy": healthy, "unhealthy": services - healthy, "changed": changed}

    def _ended(self, node: Node) -> list[Look]:
        """The looks at this node that have ended."""
        looks = []
        now = self.platform.clock.monotonic()
        for backend in backends_of(node):
            track = self._tracks.get(_place(backend))
            if track is None or track.look is None or not track.look.done():
                continue
            task, track.look = track.look, None
            if task.cancelled() or now - track.looked_at > LOOK_SECONDS_OLD:
                continue
            found = _found(task, backend)
            if found.check is not None:
                usual = track.usual_seconds or found.check.seconds
                track.usual_seconds = 0.75 * usual + 0.25 * found.check.seconds
            if found.check is not None or found.advancing:
                track.checked_at = track.well_at = now
            looks.append(found)
        return looks


def _found(task: "asyncio.Task[Look]", backend: Backend) -> Look:
    """What the look found; one that broke is trouble of its own service, of the kind that is no verdict by itself."""
    error = task.exception()
    if error is None:
        return task.result()
    why = f"the look itself failed: {type(error).__name__}: {error}"
    log.error("watchdog.look_failed", node=backend.node_id, service=backend.service, error=why, exc_info=error)
    return Look(backend.service, Trouble.UNREACHABLE, why[:ERROR_LENGTH_MAX])


def watchdog_loop(platform: Platform, life: Life) -> Loop:
    """The watchdog's line in the table of loops. It also wakes when a node was registered or changed."""
    watchdog = Watchdog(platform, life)
    return Loop(
        name="watch_nodes",
        period_seconds=platform.settings.watchdog_period_seconds,
        why="Sends requests only to services that work, and shows the operator which do not.",
        run=watchdog.watch,
        wake=(NODES_CHANNEL,),
        close=watchdog.close,
    )


def rest_seconds(node: Node, memory: Memory) -> float:
    """For how long a service that has long been failing is not looked at. Pure."""
    more = memory.failures - FAILURES_BEFORE_FAILED
    if more < 0 or node.repair.get("rung"):
        return 0.0
    return min(REST_SECONDS_MAX, 2.0 ** min(more, 16))


def check_due(node: Node, memory: Memory, track: Track, now: float) -> bool:
    """Whether the look is to be a request as well. Pure."""
    if memory.trouble in DEEP or (memory.good and memory.good < GOOD_LOOKS and node.repair.get("rung")):
        return True
    if memory.failures or not memory.good:
        return False
    rhythm = max(CHECK_SECONDS, CHECK_COST_TIMES * (track.usual_seconds or 0.0))
    return now - track.checked_at >= rhythm


def judge(node: Node, looks: Sequence[Look], now: int, *, elsewhere: Iterable[str] = ()) -> Verdict | None:
    """What follows from the looks; None when there was none. `elsewhere`: services that another node has too. Pure."""
    if not looks:
        return None
    memories = {service: memory for service, memory in memories_of(node.probe_state).items() if service in node.ports}
    health = {service: bool(node.service_health.get(service)) for service in node.ports}
    for seen in looks:
        memory = remember(memories.get(seen.service, Memory()), seen, now)
        memories[seen.service] = memory
        health[seen.service] = _healthy(node, memory, seen, spare=seen.service in elsewhere)
    if node.repair.get("phase") == ENDING:
        # Its machine is being ended on purpose: nothing that was seen before says anything about what comes up.
        health = dict.fromkeys(health, False)
        memories = {service: replace(memory, good=0) for service, memory in memories.items()}
    known = [memories.get(service, Memory()) for service in node.ports]
    if all(health.values()):
        status = ACTIVE
    elif any(health.values()) or min(memory.failures for memory in known) < FAILURES_BEFORE_FAILED:
        status = DEGRADED
    else:
        status = FAILED
    errors = [f"{service}: {memory.error}" for service, memory in memories.items() if memory.error is not None]
    return Verdict(
        status=status,
        service_health=health,
        memories=memories,
        answered=any(seen.error is None for seen in looks),
        last_error="; ".join(errors)[:ERROR_LENGTH_MAX] or None,
    )


def remember(before: Memory, seen: Look, now: int) -> Memory:
    """What is known of a service after one more look. Pure."""
    before = told(before, seen.models, seen.voices)
    models_at = before.models_at if seen.models is None else now
    if seen.trouble is not None:
        # Being slow is no failure that another one adds to.
        first = not before.failures or (before.trouble is Trouble.SLOW) != (seen.trouble is Trouble.SLOW)
        since, failures = (now, 1) if first else (before.failing_since, before.failures + 1)
        before = replace(before, failures=failures, failing_since=since, good=0, models_at=models_at)
        return replace(before, error=seen.error, trouble=seen.trouble)
    disproved = seen.check is not None or (seen.advancing and before.trouble in STILL)
    if before.trouble in DEEP and not disproved:
        return before  # it does answer /health, as before
    return Memory(
        good=min(before.good + 1, GOOD_LOOKS),
        models=before.models,
        models_at=models_at,
        voices=before.voices,
        size=seen.check.size if seen.check else before.size,
    )


def served_models(nodes: Sequence[Node]) -> dict[tuple[str, str], bool]:
    """Every model that some service listed, as (service, model), and whether one that answers has it now."""
    served: dict[tuple[str, str], bool] = {}
    for node in nodes:
        serving = {backend.service for backend in backends_of(node) if backend.serves}
        for service, memory in memories_of(node.probe_state).items():
            for model in memory.models:
                served[service, model] = served.get((service, model), False) or service in serving
    return served


def known_voices(nodes: Sequence[Node]) -> list[str]:
    """Every voice that some speech service listed, in its order."""
    listed = [memories_of(node.probe_state).get(SPEECH_SERVICE, Memory()).voices for node in nodes]
    return list(dict.fromkeys(voice for voices in listed for voice in voices))


def _healthy(node: Node, memory: Memory, seen: Look, *, spare: bool) -> bool:
    was = bool(node.service_health.get(seen.service))
    if seen.trouble is None:
        # Who is being repaired has to show more than one good look.
        return was or (memory.trouble is None and memory.good >= (GOOD_LOOKS if node.repair.get("rung") else 1))
    if seen.trouble is Trouble.SLOW:
        return was and not (spare and seen.silent_seconds > SLOW_SECONDS_MAX)
    return was and seen.trouble in SOFT and memory.failures < SOFT_FAILURES_BEFORE_DOWN


def _serving(nodes: Sequence[Node]) -> Mapping[str, int]:
    """How many nodes serve each service now."""
    counts: dict[str, int] = {}
    for node in nodes:
        for backend in backends_of(node):
            counts[backend.service] = counts.get(backend.service, 0) + backend.serves
    return counts


def _elsewhere(node: Node, serving: Mapping[str, int]) -> frozenset[str]:
    own = {backend.service for backend in backends_of(node) if backend.serves}
    return frozenset(service for service, count in serving.items() if count - (service in own) > 0)


def _place(backend: Backend) -> Place:
    return backend.node_id, backend.service, backend.base_url


def _row(verdict: Verdict) -> tuple[str, Mapping[str, bool], Mapping[str, Any], str | None]:
    state = {service: memory.to_json() for service, memory in verdict.memories.items()}
    return verdict.status, verdict.service_health, state, verdict.last_error


async def _record(session: AsyncSession, node: Node, verdict: Verdict, now: int) -> int:
    """Write the verdict unless the node was removed or changed its place meanwhile; 1 when its health changed."""
    status, health, state, last_error = _row(verdict)
    changes = or_(GpuNode.status != status, GpuNode.service_health != health)
    values: dict[str, Any] = {
        "status": status,
        "service_health": health,
        "probe_state": state,
        "last_error": last_error,
        "updated_at": case((changes, now), else_=GpuNode.updated_at),
    }
    if verdict.answered:
        values["last_health_at"] = now
    await session.execute(
        update(GpuNode)
        .where(
            GpuNode.id == NodeId(node.id),
            GpuNode.host == node.host,
            GpuNode.ports == dict(node.ports),
            GpuNode.provision_stage == node.provision_stage,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return int(node.status != status or dict(node.service_health) != dict(health))
