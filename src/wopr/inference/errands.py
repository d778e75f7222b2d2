"""Errands on a node over SSH, restarts, states, logs: the only commands that the platform ever runs there, in one list.

The installation's own key opens the machine. A machine's key is learnt when it is first met and must be the same ever
after, until the machine is replaced; nothing secret is sent to it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import cast, or_, update
from sqlalchemy.dialects.postgresql import JSONB

from wopr.cloud.ssh import Output, Ssh, SshFailed, Trust
from wopr.core.errors import Conflict, NotConfigured
from wopr.core.platform import Platform
from wopr.inference.identity import ensure_identity
from wopr.inference.log_sources import Source
from wopr.inference.models import GpuNode
from wopr.inference.nodes import Node
from wopr.inference.repair_state import Phase, repair_of

# As the runbook names them, and cloud-init's compose file with it.
CONTAINERS: Mapping[str, str] = {
    "llama": "wopr-llama-cpp",
    "chatterbox": "wopr-chatterbox",
    "whisper": "wopr-whisper",
    "qwen": "wopr-qwen-embeddings",
}
USER = "root"
CONNECT_SECONDS = 4.0
RESTART_SECONDS = 40.0
LOGS_SECONDS = 20.0
# As cloud-init's setup names it.
MAKING_LOG = "/var/log/wopr-node.log"
STOP_SECONDS = 5
# Of a container: its name, what it does, how often it ended since it was started on purpose, and with which code.
STATE = "{{.Name}}:{{.State.Status}}:{{.RestartCount}}:{{.State.ExitCode}}"
STATE_SECONDS = 10.0
# One end may be chance, such as a port that the program before still held.
ENDS_MIN = 2
OVER = ("exited", "dead")


@dataclass(frozen=True)
class Restarted:
    """It was done. `host_key` is the machine's, to be kept."""

    host_key: str | None


def command(services: Sequence[str]) -> tuple[str, ...]:
    """What restarts these services: one that hangs gets a few seconds to end."""
    return ("docker", "restart", "--time", str(STOP_SECONDS), *(CONTAINERS[service] for service in sorted(services)))


def state_command(services: Sequence[str]) -> tuple[str, ...]:
    """What tells whether the containers of these services run."""
    return ("docker", "inspect", "--format", STATE, *(CONTAINERS[service] for service in sorted(services)))


def logs_command(source: str, lines: int) -> tuple[str, ...]:
    """What shows the last lines of a service, with the times at which they were written, or of the machine's making."""
    if source == Source.MAKING:
        return ("tail", "--lines", str(lines), MAKING_LOG)
    return ("docker", "logs", "--timestamps", "--tail", str(lines), CONTAINERS[source])


def authorized_key(public_key: str) -> str:
    """The line for `authorized_keys` of a machine that was registered by hand: our errands, and nothing else."""
    names = "|".join(CONTAINERS.values())
    # No word of what was asked is run but numbers and our own names, each compared.
    script = (
        f"a=$SSH_ORIGINAL_COMMAND; f='{STATE}'; i=\"docker inspect --format '$f' \"; "
        'case $a in "$i"*) a="docker inspect ${a#"$i"}";; esac; '
        "case $a in *[!a-z0-9\\ -]*) exit 126;; esac; set -- $a; "
        f"case $a in 'docker restart --time '*) shift 4; verb='restart --time {STOP_SECONDS}';; "
        "'docker logs --timestamps --tail '*) case $5 in *[!0-9]*) exit 126;; esac; "
        'verb="logs --timestamps --tail $5"; shift 5;; '
        "'docker inspect '*) shift 2; verb=\"inspect --format $f\";; *) exit 126;; esac; "
        f"for name; do case $name in {names}) ;; *) exit 126;; esac; done; exec docker $verb $@"
    )
    quoted = script.replace("\\", "\\\\").replace('"', '\\"')
    return f'restrict,command="{quoted}" {public_key}'


async def node_public_key(platform: Platform) -> str:
    """The public key with which the platform comes to nodes, in OpenSSH's format. NotConfigured without its secret."""
    async with platform.db.begin() as session:
        return (await ensure_identity(session, platform.settings)).public_key


async def restart(platform: Platform, node: Node, services: Sequence[str]) -> Restarted:
    """Restart the containers of these services. SshFailed when that did not work."""
    _, met = await _done(platform, node, command(services), RESTART_SECONDS)
    return Restarted(met)


async def ended(platform: Platform, node: Node, services: Sequence[str]) -> str:
    """Which of these services ended again after they were started, in words; empty: none did. SshFailed."""
    said, _ = await _done(platform, node, state_command(services), STATE_SECONDS)
    # On a machine of ours the engine starts what has exited: it was not yet at it, after a boot.
    over = OVER if node.provider is None else ()
    return "; ".join(filter(None, (_over(line, over) for line in said.text.splitlines())))


async def logs(platform: Platform, node: Node, source: str, lines: int) -> Sequence[str]:
    """The last lines of a source, oldest first.

    SshFailed when the machine does not tell them; Conflict for one that can't have them.
    """
    _check_has_logs(node, source)
    said, _ = await _done(platform, node, logs_command(source, lines), LOGS_SECONDS)
    wrote = (said.out + said.err).decode("utf-8", "replace").splitlines()
    # A service's two streams come apart, and its lines together only by the time in front of them.
    return (wrote if source == Source.MAKING else sorted(wrote))[-lines:]


def _check_has_logs(node: Node, source: str) -> None:
    if source == Source.MAKING and node.provider is None:
        raise Conflict(
            f"{node.id} was registered by hand: no log tells how it was made.",
            remedy=f"Name one of its services: wopr nodes logs {node.id} {min(node.ports)}",
        )
    if not node.host:
        raise Conflict(
            f"The machine of {node.id} has no address yet.",
            remedy=f"`wopr nodes show {node.id}` tells how far its making is, or why it failed.",
        )


def _over(line: str, over: Sequence[str]) -> str:
    """What STATE said, when it says that the container can't stay up."""
    name, status, ends, code = line.strip().rsplit(":", 3)
    if status not in over and int(ends) < ENDS_MIN:
        return ""
    # While it runs once more, the code is no longer told.
    how = "" if status == "running" else f", with exit code {code}"
    return f"{name.lstrip('/')} ended again after its start{how}"


async def _done(platform: Platform, node: Node, argv: Sequence[str], seconds: float) -> tuple[Output, str | None]:
    """What a command said, and the machine's key where it was met for the first time."""
    try:
        async with platform.db.begin() as session:
            identity = await ensure_identity(session, platform.settings)
    except NotConfigured as error:
        raise SshFailed(error.message, remedy=error.remedy, answered=True) from error
    known = repair_of(node).host_key or ""
    trust = Trust(private_key=identity.private_key, host_key=known, connect_seconds=CONNECT_SECONDS)
    ssh = Ssh(node.host.strip("[]"), USER, platform.settings.node_ssh_port, trust)
    try:
        done = await ssh.run(argv, timeout=seconds)
    finally:
        with contextlib.suppress(SshFailed):
            await ssh.close()
    if not known and ssh.met:
        await _keep(platform, node, ssh.met)
    if not done.ok:
        raise SshFailed(f"`{' '.join(argv)}` failed on {node.id}: {done.complaint}", answered=True)
    return done, ssh.met


async def _keep(platform: Platform, node: Node, host_key: str) -> None:
    """Keep the key of a machine that was met for the first time, if the row is still of that machine.

    Not in the middle of a rung: the ladder would lose what it did. It keeps the key with that.
    """
    phase, kept = GpuNode.repair["phase"].astext, GpuNode.repair["host_key"].astext
    async with platform.db.begin() as session:
        await session.execute(
            update(GpuNode)
            .where(GpuNode.id == node.id, GpuNode.host == node.host, kept.is_(None))
            .where(GpuNode.droplet_id.is_not_distinct_from(node.making.machine_id))
            .where(or_(phase.is_(None), phase.in_((Phase.WATCH, Phase.CALLED))))
            .values(repair=GpuNode.repair.op("||")(cast({"host_key": host_key}, JSONB)))
        )
