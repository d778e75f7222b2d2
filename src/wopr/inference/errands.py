"""Errands on a node over SSH, restarts and logs: the only commands that the platform ever runs there, in one list.

The installation's own key opens the machine. A machine's key is learnt when it is first met and must be the same ever
after, until the machine is replaced; nothing secret is sent to it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wopr.cloud.ssh import Output, Ssh, SshFailed, Trust
from wopr.core.errors import NotConfigured
from wopr.core.platform import Platform
from wopr.inference.identity import ensure_identity
from wopr.inference.nodes import Node
from wopr.inference.repair_state import repair_of

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
# Beside the services: what cloud-init's unit told while it made the machine a node.
MAKING, UNIT = "making", "wopr-node.service"
STOP_SECONDS = 5


@dataclass(frozen=True)
class Restarted:
    """It was done. `host_key` is the machine's, to be kept."""

    host_key: str | None


def command(services: Sequence[str]) -> tuple[str, ...]:
    """What restarts these services: one that hangs gets a few seconds to end."""
    return ("docker", "restart", "--time", str(STOP_SECONDS), *(CONTAINERS[service] for service in sorted(services)))


def logs_command(source: str, lines: int) -> tuple[str, ...]:
    """What shows the last lines of a service, or of the machine's making, with the times at which they were written."""
    if source == MAKING:
        return ("journalctl", "--no-pager", "--output", "short-iso", "--lines", str(lines), "--unit", UNIT)
    return ("docker", "logs", "--timestamps", "--tail", str(lines), CONTAINERS[source])


def authorized_key(public_key: str) -> str:
    """The line for `authorized_keys` of a machine that was registered by hand: restarts and logs, and nothing else."""
    names = "|".join(CONTAINERS.values())
    # No word of what was asked is run but numbers and our own names, each compared.
    script = (
        "a=$SSH_ORIGINAL_COMMAND; case $a in *[!a-z0-9\\ -]*) exit 126;; esac; set -- $a; "
        f"case $a in 'docker restart --time '*) shift 4; verb='restart --time {STOP_SECONDS}';; "
        "'docker logs --timestamps --tail '*) case $5 in *[!0-9]*) exit 126;; esac; "
        'verb="logs --timestamps --tail $5"; shift 5;; *) exit 126;; esac; '
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


async def logs(platform: Platform, node: Node, source: str, lines: int) -> Sequence[str]:
    """The last lines of a service, or of MAKING, oldest first. SshFailed when the machine does not tell them."""
    said, _ = await _done(platform, node, logs_command(source, lines), LOGS_SECONDS)
    # A program's two streams come apart, and its lines together only by the time in front of them.
    return sorted((said.out + said.err).decode("utf-8", "replace").splitlines())[-lines:]


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
    if not done.ok:
        raise SshFailed(f"`{' '.join(argv)}` failed on {node.id}: {done.complaint}", answered=True)
    return done, ssh.met
