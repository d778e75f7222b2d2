"""A bot as a service of a Swarm: its description for the manager, and what is read back from it and its tasks. Pure.

A service has one task at a time and is pinned to the machine that has the bot's volume. Swarm never starts a task again
by itself: whether a bot may run is decided by the reconciler alone, a few at a time, so that a machine that comes back
makes no storm.

What older engines can't be told of a service holds otherwise: no new privileges by the machine's daemon (its agent
refuses to work without), no swap by machines that have none.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any  # the engine's JSON
from uuid import UUID

from wopr.bot import contract
from wopr.core.ids import BotId
from wopr.core.vault import Vault, VaultError
from wopr.fleet.runtimes import containers
from wopr.fleet.runtimes.containers import (
    LABEL_BOT,
    LABEL_DATA,
    LABEL_GENERATION,
    LABEL_IMAGE,
    LABEL_INSTANCE,
    LABEL_TOKEN,
    LOG_OPTIONS,
    UNREADABLE_GENERATION,
    USER,
    Start,
    parse_time,
    volume_name,
)
from wopr.fleet.runtimes.nodes import NANO, Node
from wopr.fleet.runtimes.protocol import BotSpec, Instance

LABEL_NODE = "wopr.node"
LABEL_ERRAND = "wopr.errand"
TMPFS_BYTES = 64 * 2**20
COMING_MAX = timedelta(seconds=30)
RUNNING, READY = "running", "ready"  # one that is ready waits for the end of the one before
# The states in which a task will never run again (Swarm's own words).
OVER = frozenset(("complete", "shutdown", "failed", "rejected", "remove", "orphaned"))
# Those in which it ended by itself, and not because it was told to.
BY_ITSELF = frozenset(("complete", "failed", "rejected"))
Json = Mapping[str, Any]


@dataclass(frozen=True)
class SwarmPlace:
    """Where services of an installation are put. `tokens` seals what their callers must show."""

    installation: str
    network: str
    name_servers: tuple[str, ...]
    grace_seconds: int
    tokens: Vault = field(repr=False)


@dataclass(frozen=True)
class Task:
    """One start of a bot, as the manager tells it. `port` is the machine's, None until it is known."""

    id: str
    instance_id: UUID
    bot_id: BotId
    state: str
    wanted: str
    node_id: str
    port: int | None
    exit_code: int
    error: str
    listed: Json = field(repr=False)

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def ending(self) -> bool:
        """Whether it was told to end, and has not yet."""
        return self.wanted not in (RUNNING, READY) and not self.over

    @property
    def current(self) -> bool:
        """Whether it runs, or will without anybody's doing."""
        return self.wanted == RUNNING and not self.over


def describe(spec: BotSpec, start: Start, node: Node, place: SwarmPlace, image: str) -> dict[str, Any]:
    """The service for the manager; the same confinement as on one engine (`containers.describe`)."""
    limits = spec.limits
    labels = {
        **containers.labels_of(place.installation, spec.bot_id),
        LABEL_GENERATION: str(spec.generation),
        LABEL_INSTANCE: str(start.instance_id),
        LABEL_DATA: str(limits.data_bytes),
        LABEL_IMAGE: image,
        LABEL_NODE: node.id,
        LABEL_TOKEN: base64.b64encode(place.tokens.seal(start.token, start.instance_id.bytes)).decode(),
    }
    return {
        "Name": containers.container_name(spec.bot_id),
        "Labels": labels,
        "TaskTemplate": {
            "ContainerSpec": _container(spec, start, place, image) | {"Labels": labels},
            "Resources": {
                "Limits": {
                    "NanoCPUs": int(min(limits.cpus, node.cpus) * NANO),
                    "MemoryBytes": limits.memory_bytes,
                    "Pids": max(limits.processes, containers.PIDS_AT_LEAST),
                },
                "Reservations": {"MemoryBytes": limits.memory_bytes},
            },
            "RestartPolicy": {"Condition": "none"},
            "Placement": {"Constraints": [f"node.id=={node.id}"]},
            "Networks": [{"Target": place.network}],
            "LogDriver": {"Name": "json-file", "Options": LOG_OPTIONS},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        # The old task ends before the new one begins: two must never have the same memory.
        "UpdateConfig": {"Parallelism": 1, "Order": "stop-first", "FailureAction": "continue", "Monitor": 1},
        "EndpointSpec": {
            "Mode": "dnsrr",
            "Ports": [{"Protocol": "tcp", "TargetPort": contract.DEFAULT_PORT, "PublishMode": "host"}],
        },
    }


def asleep(spec: Json) -> dict[str, Any]:
    """A service's description with nothing running."""
    return {**spec, "Mode": {"Replicated": {"Replicas": 0}}}


def task_of(listed: Json) -> Task | None:
    """A bot's task from an entry of the manager's list; None for another one."""
    labels = listed["Spec"].get("ContainerSpec", {}).get("Labels") or {}
    status = listed.get("Status") or {}
    try:
        bot_id, instance_id = BotId(UUID(labels[LABEL_BOT])), UUID(labels[LABEL_INSTANCE])
    except (KeyError, ValueError):
        return None
    ports = (status.get("PortStatus") or {}).get("Ports") or []
    return Task(
        id=str(listed["ID"]),
        instance_id=instance_id,
        bot_id=bot_id,
        state=str(status.get("State") or ""),
        wanted=str(listed.get("DesiredState") or ""),
        node_id=str(listed.get("NodeID") or ""),
        port=int(ports[0]["PublishedPort"]) if ports else None,
        exit_code=int((status.get("ContainerStatus") or {}).get("ExitCode") or 0),
        error=str(status.get("Err") or ""),
        listed=listed,
    )


def instance_of(task: Task, nodes: Mapping[str, Node], tokens: Vault) -> Instance | None:
    """The bot that this task is; None when it doesn't live, or its machine is away."""
    node = nodes.get(task.node_id)
    if task.state != RUNNING or task.wanted != RUNNING or task.port is None or node is None or not node.works:
        return None
    labels = task.listed["Spec"]["ContainerSpec"]["Labels"]
    try:
        generation = int(labels[LABEL_GENERATION])
        token = tokens.open(base64.b64decode(labels[LABEL_TOKEN]), task.instance_id.bytes)
    except (KeyError, ValueError, VaultError):
        generation, token = UNREADABLE_GENERATION, ""
    return Instance(
        id=task.instance_id,
        bot_id=task.bot_id,
        generation=generation,
        url=f"http://{node.address}:{task.port}",
        started_at=parse_time(task.listed["CreatedAt"]),
        token=token,
        image=labels.get(LABEL_IMAGE, ""),
    )


def generation_of(task: Task) -> int:
    """The generation that a task was started for."""
    try:
        return int(task.listed["Spec"]["ContainerSpec"]["Labels"][LABEL_GENERATION])
    except (KeyError, ValueError):
        return UNREADABLE_GENERATION


def coming(service: Json, tasks: Sequence[Task], generation: int, now: datetime) -> UUID | None:
    """The instance for this generation that the service was told to run a moment ago, and that does not run yet.

    Whoever told it may have died right after. It has no task yet, or one that waits for the end of the one before.
    """
    labels = service["Spec"].get("Labels") or {}
    told = now - parse_time(service["UpdatedAt"])
    if labels.get(LABEL_GENERATION) != str(generation) or told > COMING_MAX:
        return None
    if not service["Spec"]["Mode"]["Replicated"]["Replicas"]:
        return None
    instance_id = UUID(labels[LABEL_INSTANCE])
    ended = any(task.instance_id == instance_id and (task.over or task.ending) for task in tasks)
    return None if ended else instance_id


def image_of(service: Json) -> str:
    """The image that a bot's service was last told to run."""
    return str((service["Spec"].get("Labels") or {}).get(LABEL_IMAGE, ""))


def promised(services: list[Json]) -> dict[str, int]:
    """The memory that each machine has promised to bots, stopped ones included: they can be started only there."""
    total: dict[str, int] = {}
    for service in services:
        node_id = (service["Spec"].get("Labels") or {}).get(LABEL_NODE)
        resources = service["Spec"]["TaskTemplate"].get("Resources") or {}
        if node_id:
            reserved = (resources.get("Reservations") or {}).get("MemoryBytes") or 0
            total[node_id] = total.get(node_id, 0) + int(reserved)
    return total


def _container(spec: BotSpec, start: Start, place: SwarmPlace, image: str) -> dict[str, Any]:
    limits = spec.limits
    volume = {
        "Type": "volume",
        "Source": volume_name(spec.bot_id),
        "Target": containers.DATA,
        "VolumeOptions": {"Labels": containers.labels_of(place.installation, spec.bot_id)},
    }
    # Swarm mounts it without exec, suid and devices by itself.
    scratch = {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": TMPFS_BYTES, "Mode": 0o1777}}  # noqa: S108
    return {
        "Image": image,
        "User": USER,
        "Env": containers.environment_of(spec, start),
        "Mounts": [volume, scratch],
        "ReadOnly": True,
        "CapabilityDrop": ["ALL"],
        "Privileges": {"NoNewPrivileges": True},  # engines from API 1.46 on
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "fsize", "Soft": limits.file_bytes, "Hard": limits.file_bytes},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "StopGracePeriod": place.grace_seconds * NANO,
        "DNSConfig": {"Nameservers": list(place.name_servers)},
        "Init": False,
    }
