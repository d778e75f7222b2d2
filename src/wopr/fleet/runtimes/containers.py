"""A bot as a container: its names, its labels, its description for the engine, and what is read back from them. Pure.

Labels make adoption exact: a container says whose it is, which bot, which generation and which start. The token that
callers must show lies sealed among them, so that one listing tells everything and shows nothing.
"""

import base64
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any  # the engine's JSON
from uuid import UUID

from wopr.bot import contract
from wopr.core.ids import BotId
from wopr.core.vault import Vault, VaultError
from wopr.fleet.runtimes.protocol import BotSpec, Instance

LABEL_INSTALLATION = "wopr.installation"
LABEL_BOT = "wopr.bot"
LABEL_GENERATION = "wopr.generation"
LABEL_INSTANCE = "wopr.instance"
LABEL_DATA = "wopr.data-bytes"
LABEL_IMAGE = "wopr.image"
LABEL_TOKEN = "wopr.token"  # noqa: S105 - a name
USER = "10001:10001"
DATA = "/data"
TMPFS_OPTIONS = "rw,noexec,nosuid,nodev,size=64m,mode=1777"
LOG_OPTIONS = {"max-size": "2m", "max-file": "2"}
SHARED_MEMORY_BYTES = 16 * 1024 * 1024
UNREADABLE_GENERATION = 0  # bots begin with 1, so this one is never wanted: the planner replaces the instance
SIGNALLED = 128
PIDS_AT_LEAST = 16
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where containers of an installation are put. `tokens` seals what their callers must show."""

    installation: str
    network: str
    name_servers: Sequence[IPv4Address]
    cpus: float
    tokens: Vault = field(repr=False)


@dataclass(frozen=True)
class Start:
    """One start of a bot."""

    instance_id: UUID
    at: datetime
    token: str = field(repr=False)


def container_name(bot_id: BotId) -> str:
    """The one name of a bot's container; the engine itself refuses a second one."""
    return f"wopr-bot-{bot_id}"


def former_name(bot_id: BotId) -> str:
    """The name of the container before the present one, which is kept for its log."""
    return f"wopr-bot-{bot_id}-before"


def volume_name(bot_id: BotId) -> str:
    """The volume of a bot's data."""
    return f"wopr-bot-{bot_id}"


def copy_name(bot_id: BotId, generation: int) -> str:
    """The volume with what the bot kept at the end of that generation."""
    return f"wopr-bot-{bot_id}-before-{generation}"


def copier_name(bot_id: BotId) -> str:
    """The one name of the container that copies a bot's data."""
    return f"wopr-bot-{bot_id}-copy"


def ours(installation: str) -> dict[str, str]:
    """The labels of everything that belongs to an installation."""
    return {LABEL_INSTALLATION: installation}


def labels_of(installation: str, bot_id: BotId) -> dict[str, str]:
    """The labels of everything that belongs to a bot."""
    return {LABEL_INSTALLATION: installation, LABEL_BOT: str(bot_id)}


def describe(spec: BotSpec, start: Start, place: Place, image: str) -> dict[str, Any]:
    """The container for the engine: only /data and /tmp can be written, no privilege can be gained, all is limited.

    The image brings its own init. The engine never restarts a bot: whether one may run is decided by the reconciler
    alone (a customer's credit may have ended meanwhile), a few at a time.
    """
    sealed = place.tokens.seal(start.token, start.instance_id.bytes)
    return {
        "Image": image,
        "User": USER,
        "Env": environment_of(spec, start),
        "Labels": {
            **labels_of(place.installation, spec.bot_id),
            LABEL_GENERATION: str(spec.generation),
            LABEL_INSTANCE: str(start.instance_id),
            LABEL_DATA: str(spec.limits.data_bytes),
            LABEL_IMAGE: image,
            LABEL_TOKEN: base64.b64encode(sealed).decode(),
        },
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},  # the fleet asks every bot itself; a process in each every 10 s costs cores
        "HostConfig": _confinement(spec, place),
        "NetworkingConfig": {"EndpointsConfig": {place.network: {}}},
    }


def environment_of(spec: BotSpec, start: Start) -> list[str]:
    """The environment of a bot's container."""
    environment = {
        # Where its interpreter is, the image knows.
        **{name: value for name, value in spec.environment.items() if name != "PATH"},
        contract.ENV_TOKEN: start.token,
        contract.ENV_HOST: "0.0.0.0",  # noqa: S104 - the container's own addresses
        contract.ENV_PORT: str(contract.DEFAULT_PORT),
        contract.ENV_DATA: DATA,
    }
    return [f"{name}={value}" for name, value in environment.items()]


def instance_of(listed: Json, place: Place) -> Instance | None:
    """A bot from an entry of the engine's list; None when it is not one, or not on its network any more."""
    labels = listed.get("Labels") or {}
    network = (listed.get("NetworkSettings", {}).get("Networks") or {}).get(place.network) or {}
    address = network.get("IPAddress")
    try:
        bot_id, instance_id = BotId(UUID(labels[LABEL_BOT])), UUID(labels[LABEL_INSTANCE])
        generation = int(labels[LABEL_GENERATION])
    except (KeyError, ValueError):
        return None
    if not address:
        return None
    token = _opened(labels.get(LABEL_TOKEN, ""), instance_id, place.tokens)
    return Instance(
        id=instance_id,
        bot_id=bot_id,
        generation=generation if token is not None else UNREADABLE_GENERATION,
        url=f"http://{address}:{contract.DEFAULT_PORT}",
        started_at=created_at(listed),
        token=token or "",
        image=labels.get(LABEL_IMAGE, ""),
    )


def as_listed(inspected: Json) -> dict[str, Any]:
    """An inspected container in the form of the list's entries, as far as it is read here."""
    return {
        "Id": inspected["Id"],
        "Created": inspected["Created"],
        "Labels": inspected["Config"]["Labels"],
        "NetworkSettings": inspected["NetworkSettings"],
    }


def created_at(listed: Json) -> datetime:
    """When the container was made, in whole seconds: the list knows no more."""
    created = listed["Created"]
    if isinstance(created, int):
        return datetime.fromtimestamp(created, UTC)
    return parse_time(created).replace(microsecond=0)


def parse_time(text: str) -> datetime:
    """The engine's times have nanoseconds, which Python's have not; fractions may be missing."""
    moment, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{moment}.{fraction[:6]:0<6}+00:00")


def reason_of(exit_code: int, out_of_memory: bool, memory_bytes: int) -> str:
    """Why a container ended, as the beginning of a sentence."""
    if out_of_memory:
        return f"it used more memory than its size allows ({memory_bytes // 2**20} MiB) and was killed"
    if exit_code > SIGNALLED:
        try:
            return f"it was killed by {signal.Signals(exit_code - SIGNALLED).name}"
        except ValueError:
            pass
    return f"it ended with exit code {exit_code}"


def _confinement(spec: BotSpec, place: Place) -> dict[str, Any]:
    limits = spec.limits
    return {
        "Mounts": [{"Type": "volume", "Source": volume_name(spec.bot_id), "Target": DATA}],
        "NetworkMode": place.network,
        "Dns": [str(server) for server in place.name_servers],
        "RestartPolicy": {"Name": "no"},
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": TMPFS_OPTIONS},  # noqa: S108 - the container's own
        "ShmSize": SHARED_MEMORY_BYTES,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # both together: the same value means no swap
        "NanoCpus": int(min(limits.cpus, place.cpus) * 1e9),
        "PidsLimit": max(limits.processes, PIDS_AT_LEAST),
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "fsize", "Soft": limits.file_bytes, "Hard": limits.file_bytes},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {"Type": "json-file", "Config": LOG_OPTIONS},
        "OomScoreAdj": 500,  # when the machine itself runs out, bots go before the platform
    }


def _opened(text: str, instance_id: UUID, tokens: Vault) -> str | None:
    try:
        return tokens.open(base64.b64decode(text), instance_id.bytes)
    except (VaultError, ValueError):
        return None
