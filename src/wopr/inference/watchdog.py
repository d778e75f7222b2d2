"""The watchdog: looks at every service of every node every few seconds and writes down which of them answer.

All that it knows is in the node's row, so a restart forgets nothing, and every status is worked out anew from what was
seen: there is none without a way out. Routing reacts to failed requests by itself, long before the next look.
"""

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
from sqlalchemy import case, or_, update
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.ids import NodeId
from wopr.core.loops import Loop
from wopr.core.platform import Platform
from wopr.inference.models import GpuNode
from wopr.inference.nodes import NODES_CHANNEL, Backend, Node, backends_of, list_nodes

PROBE_SECONDS_MAX = 3.0
PROBES_AT_ONCE_MAX = 64
# Busy is not dead: a service that accepts the connection and is slow to answer gets a second chance.
SLOW_FAILURES_BEFORE_DOWN = 2
# Nothing on the node answered so often in a row: it counts as failed until something does.
FAILURES_BEFORE_FAILED = 6
MODELS_SECONDS = 60
MODELS_MAX = 100
SPEECH_SERVICE = "chatterbox"
NAME_LENGTH_MAX = 128
ERROR_LENGTH_MAX = 300
ACTIVE, DEGRADED, FAILED = "active", "degraded", "failed"


@dataclass(frozen=True)
class Memory:
    """What is remembered of one service. Times are seconds since 1970; `models` and `voices`: what it last listed."""

    failures: int = 0
    failing_since: int | None = None
    error: str | None = None
    models: tuple[str, ...] = ()
    models_at: int = 0
    voices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the row."""
        return {**self.__dict__, "models": list(self.models), "voices": list(self.voices)}


@dataclass(frozen=True)
class Look:
    """One look at one service. `error` is None when it answered; `hard` errors need no second look."""

    service: str
    error: str | None = None
    hard: bool = False
    models: tuple[str, ...] | None = None
    voices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """What a node's row should say after a look at all its services."""

    status: str
    service_health: Mapping[str, bool]
    memories: Mapping[str, Memory]
    answered: bool
    last_error: str | None


def watchdog_loop(platform: Platform) -> Loop:
    """The watchdog's line in the table of loops. It also wakes when a node was registered or changed."""
    return Loop(
        name="watch_nodes",
        period_seconds=platform.settings.watchdog_period_seconds,
        why="Sends requests only to services that answer, and shows the operator which do not.",
        run=functools.partial(watch_nodes, platform),
        wake=(NODES_CHANNEL,),
    )


async def watch_nodes(platform: Platform) -> Mapping[str, int]:
    """One look at everything: nodes seen, services that answer, services that do not, rows that changed."""
    async with platform.db.begin() as session:
        watched = [(node, memories_of(node.probe_state)) for node in await list_nodes(session)]
    watched = [(node, memories) for node, memories in watched if backends_of(node)]
    now = int(platform.clock.now().timestamp())
    gate = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
    looks = await asyncio.gather(
        *(_look_at_node(platform.http, gate, node, memories, now) for node, memories in watched)
    )
    verdicts = [judge(node, memories, seen, now) for (node, memories), seen in zip(watched, looks, strict=True)]
    changed = 0
    async with platform.db.begin() as session:
        for (node, _), verdict in zip(watched, verdicts, strict=True):
            changed += await _record(session, node, verdict, now)
    healthy = sum(sum(verdict.service_health.values()) for verdict in verdicts)
    services = sum(len(verdict.service_health) for verdict in verdicts)
    return {"nodes": len(watched), "healthy": healthy, "unhealthy": services - healthy, "changed": changed}


def judge(node: Node, before: Mapping[str, Memory], looks: Sequence[Look], now: int) -> Verdict:
    """What follows from the looks. Pure."""
    memories = {look.service: _remember(before.get(look.service, Memory()), look, now) for look in looks}
    health = {look.service: _healthy(node, memories[look.service], look) for look in looks}
    if all(health.values()):
        status = ACTIVE
    elif any(health.values()) or min(memory.failures for memory in memories.values()) < FAILURES_BEFORE_FAILED:
        status = DEGRADED
    else:
        status = FAILED
    errors = [f"{look.service}: {look.error}" for look in looks if look.error is not None]
    return Verdict(
        status=status,
        service_health=health,
        memories=memories,
        answered=any(look.error is None for look in looks),
        last_error="; ".join(errors)[:ERROR_LENGTH_MAX] or None,
    )


def memories_of(state: Mapping[str, Any]) -> dict[str, Memory]:
    """The memories in a row's `probe_state`."""
    return {
        service: Memory(
            failures=int(kept.get("failures", 0)),
            failing_since=kept.get("failing_since"),
            error=kept.get("error"),
            models=tuple(kept.get("models", ())),
            models_at=int(kept.get("models_at", 0)),
            voices=tuple(kept.get("voices", ())),
        )
        for service, kept in state.items()
    }


def served_models(nodes: Sequence[Node]) -> dict[tuple[str, str], bool]:
    """Every model that some service listed, as (service, model), and whether one that answers has it now."""
    served: dict[tuple[str, str], bool] = {}
    for node in nodes:
        healthy = {backend.service for backend in backends_of(node) if backend.healthy}
        for service, memory in memories_of(node.probe_state).items():
            for model in memory.models:
                served[service, model] = served.get((service, model), False) or service in healthy
    return served


def known_voices(nodes: Sequence[Node]) -> list[str]:
    """Every voice that some speech service listed, in its order."""
    listed = [memories_of(node.probe_state).get(SPEECH_SERVICE, Memory()).voices for node in nodes]
    return list(dict.fromkeys(voice for voices in listed for voice in voices))


def _remember(before: Memory, look: Look, now: int) -> Memory:
    if look.error is not None:
        since = before.failing_since if before.failures else now
        return replace(before, failures=before.failures + 1, failing_since=since, error=look.error)
    voices = before.voices if look.voices is None else look.voices
    if look.models is not None:
        return Memory(models=look.models, models_at=now, voices=voices)
    return Memory(models=before.models, models_at=before.models_at, voices=voices)


def _healthy(node: Node, memory: Memory, look: Look) -> bool:
    if look.error is None:
        return True
    was = bool(node.service_health.get(look.service))
    return was and not look.hard and memory.failures < SLOW_FAILURES_BEFORE_DOWN


async def _look_at_node(
    http: httpx.AsyncClient, gate: asyncio.Semaphore, node: Node, memories: Mapping[str, Memory], now: int
) -> list[Look]:
    async def one(backend: Backend) -> Look:
        memory = memories.get(backend.service, Memory())
        stale = memory.failures > 0 or now - memory.models_at >= MODELS_SECONDS
        async with gate:
            return await _look(http, backend, ask_models=stale)

    return list(await asyncio.gather(*(one(backend) for backend in backends_of(node))))


async def _look(http: httpx.AsyncClient, backend: Backend, *, ask_models: bool) -> Look:
    headers = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    started = time.monotonic()
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            answer = await http.get(f"{backend.base_url}/health", headers=headers)
            if answer.status_code != httpx.codes.OK:
                return Look(backend.service, f"/health answered {answer.status_code}", hard=True)
    except (TimeoutError, httpx.TimeoutException):
        return Look(backend.service, f"no answer within {time.monotonic() - started:.1f} s")
    except httpx.HTTPError as error:
        return Look(backend.service, f"{error or type(error).__name__}"[:ERROR_LENGTH_MAX], hard=True)
    if not ask_models:
        return Look(backend.service)
    models = await _listed(http, f"{backend.base_url}/v1/models", headers, "data")
    speaks = backend.service == SPEECH_SERVICE
    voices = await _listed(http, f"{backend.base_url}/v1/audio/voices", headers, "voices") if speaks else None
    return Look(backend.service, models=models, voices=voices)


async def _listed(http: httpx.AsyncClient, url: str, headers: Mapping[str, str], member: str) -> tuple[str, ...] | None:
    """The names that the service lists; None when it lists none, which makes it no less healthy."""
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            answer = await http.get(url, headers=headers)
        names = [item["id"] if isinstance(item, dict) else item for item in answer.json()[member]]
    except (TimeoutError, httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    return tuple(name for name in names if isinstance(name, str) and 0 < len(name) <= NAME_LENGTH_MAX)[:MODELS_MAX]


async def _record(session: AsyncSession, node: Node, verdict: Verdict, now: int) -> int:
    """Write the verdict unless the node was removed or changed its place meanwhile; 1 when its health changed."""
    health = dict(verdict.service_health)
    changes = or_(GpuNode.status != verdict.status, GpuNode.service_health != health)
    values: dict[str, Any] = {
        "status": verdict.status,
        "service_health": health,
        "probe_state": {service: memory.to_json() for service, memory in verdict.memories.items()},
        "last_error": verdict.last_error,
        "updated_at": case((changes, now), else_=GpuNode.updated_at),
    }
    if verdict.answered:
        values["last_health_at"] = now
    await session.execute(
        update(GpuNode)
        .where(GpuNode.id == NodeId(node.id), GpuNode.host == node.host, GpuNode.ports == dict(node.ports))
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return int(node.status != verdict.status or dict(node.service_health) != health)
