"""Restarts services of a node over SSH: the only commands that the platform ever runs on a node, in one list.

The installation's own key opens the machine. A machine's key is learnt when it is first met and must be the same ever
after, until the machine is replaced; nothing secret is sent to it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wopr.cloud.ssh import Ssh, SshFailed, Trust
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
STOP_SECONDS = 5


@dataclass(frozen=True)
class Restarted:
    """It was done. `host_key` is the machine's, to be kept."""

    host_key: str | None


def command(services: Sequence[str]) -> tuple[str, ...]:
    """What restarts these services: one that hangs gets a few seconds to end."""
    return ("docker", "restart", "--time", str(STOP_SECONDS), *(CONTAINERS[service] for service in sorted(services)))


def authorized_key(public_key: str) -> str:
    """The line for `authorized_keys` of a machine that was registered by hand: it allows restarts and nothing else."""
    names = "|".join(CONTAINERS.values())
    # The words of what was asked, each compared: `docker restart --time N NAME…`.
    script = (
        f"set -- $SSH_ORIGINAL_COMMAND; [ $1 $2 $3 = docker restart --time ] 2>/dev/null; "
        f"case $SSH_ORIGINAL_COMMAND in *[!a-z0-9\\ -]*) exit 126;; 'docker restart --time '*) ;; *) exit 126;; esac; "
        f"shift 4; for name; do case $name in {names}) ;; *) exit 126;; esac; done; "
        f"exec docker restart --time {STOP_SECONDS} $@"
    )
    quoted = script.replace("\\", "\\\\").replace('"', '\\"')
    return f'restrict,command="{quoted}" {public_key}'


async def node_public_key(platform: Platform) -> str:
    """The public key with which the platform comes to nodes, in OpenSSH's format. NotConfigured without its secret."""
    async with platform.db.begin() as session:
        return (await ensure_identity(session, platform.settings)).public_key


async def restart(platform: Platform, node: Node, services: Sequence[str]) -> Restarted:
    """Restart the containers of these services. SshFailed when that did not work."""
    try:
        async with platform.db.begin() as session:
            identity = await ensure_identity(session, platform.settings)
    except NotConfigured as error:
        raise SshFailed(error.message, remedy=error.remedy, answered=True) from error
    known = repair_of(node).host_key or ""
    trust = Trust(private_key=identity.private_key, host_key=known, connect_seconds=CONNECT_SECONDS)
    ssh = Ssh(node.host.strip("[]"), USER, platform.settings.node_ssh_port, trust)
    try:
        done = await ssh.run(command(services), timeout=RESTART_SECONDS)
    finally:
        with contextlib.suppress(SshFailed):
            await ssh.close()
    if not done.ok:
        raise SshFailed(f"`{' '.join(command(services))}` failed on {node.id}: {done.complaint}", answered=True)
    return Restarted(ssh.met)
