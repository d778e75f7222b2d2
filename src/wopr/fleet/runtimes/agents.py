"""How the agent's program gets onto machines of a Swarm: by services that run it beside the machine's engine. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # the engine's JSON

from wopr.fleet.runtimes import node_engine
from wopr.fleet.runtimes.fence import Means
from wopr.fleet.runtimes.firewall import Policy
from wopr.fleet.runtimes.images import Credentials

MEMORY_BYTES = 64 * 2**20
# The program is several files, and one text on a machine.
PARTS = ("node_engine", "scales", "node_guard", "node_agent")
OF_OURS = "from wopr.fleet.runtimes."
SCRIPT = "".join(
    line
    for part in PARTS
    for line in Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8").splitlines(keepends=True)
    if not line.startswith(OF_OURS)
)


@dataclass(frozen=True)
class Charge:
    """Whose machines are looked after, with which image and which rules."""

    installation: str
    agents: str  # the name of the service
    means: Means
    policy: Policy
    credentials: Credentials
    reserve: int  # percent of each machine's disk

    @property
    def auth(self) -> dict[str, str] | None:
        """What machines show to get the agent's own image."""
        return self.credentials.auth_for(self.means.image)


def describe(charge: Charge, name: str, labels: Mapping[str, str], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """A service that runs the program on machines, with their engines and their network."""
    socket = {"Type": "bind", "Source": node_engine.SOCKET, "Target": node_engine.SOCKET}
    scratch = {"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"SizeBytes": 2**20}}  # for iptables' lock
    return {
        "Name": name,
        "Labels": dict(labels),
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": charge.means.image,
                "Labels": dict(labels),
                "Command": ["python3", "-c", SCRIPT, *arguments],
                "User": "0:0",
                "Mounts": [scratch, socket],
                "ReadOnly": True,
                "CapabilityDrop": ["ALL"],
                "CapabilityAdd": ["CAP_NET_ADMIN", "CAP_NET_RAW"],
                "Privileges": {"NoNewPrivileges": True},
                "Healthcheck": {"Test": ["NONE"]},
                "StopSignal": "SIGKILL",  # there is nothing to tidy up
                "Init": False,
            },
            "Resources": {"Limits": {"MemoryBytes": MEMORY_BYTES, "Pids": 32}},
            "Networks": [{"Target": "host"}],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m", "max-file": "2"}},
        },
    }
