"""What a machine's container is: names, options, files and filter, as data. `containers` runs them."""

import io
import ipaddress
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wopr.emulators.digitalocean.machines import Addresses, Blueprint, Opening, Power, Wall

LABEL_CLOUD, LABEL_DROPLET, LABEL_PUBLIC, LABEL_PRIVATE = "wopr.cloud", "wopr.droplet", "wopr.public", "wopr.private"
MACHINE_FOLDER, DAEMON_FOLDER = "/etc/machine", "/etc/docker"
WALL_FILE = f"{MACHINE_FOLDER}/wall"
# Where every droplet asks for names; `power-on` leads what is sent there to the resolver of the stand-in.
NAME_SERVERS = ("67.207.67.2", "67.207.67.3")
_METADATA_PASSES = "ct original ip daddr 169.254.169.254 accept"  # no firewall of DigitalOcean stands before it
# A system that restarts or switches off ends its container with the signal that the kernel gives to its first process.
_EXIT_REBOOT, _EXIT_OFF = 128 + 1, 128 + 2
# Not `--privileged`, where an engine allows it: it can't be had without SYS_TIME, with which a machine sets the host's
# clock, and it shows the host's devices. Loading modules is nothing for a guest either.
_CAPABILITIES = ("--cap-add", "ALL", "--cap-drop", "SYS_TIME", "--cap-drop", "SYS_MODULE")
_UNCONFINED = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")
_MAC_PREFIX = "02:42"


@dataclass(frozen=True)
class Names:
    """What an installation's things are called in the engine."""

    installation: str

    @property
    def prefix(self) -> str:
        return f"wopr-cloud-{self.installation}"

    @property
    def public(self) -> str:
        """The public network. It sorts before the private ones: the engine takes the first as the way out."""
        return f"{self.prefix}-public"

    @property
    def label(self) -> str:
        """Everything of the installation has it."""
        return f"{LABEL_CLOUD}={self.installation}"

    def private(self, vpc: str) -> str:
        return f"{self.prefix}-vpc-{vpc}"

    def machine(self, droplet_id: int) -> str:
        return f"{self.prefix}-{droplet_id}"


@dataclass(frozen=True)
class Engine:
    """What is to be known of the engine and of this installation to make a machine."""

    image: str
    raises_limits: bool
    """Whether the engine may give SYS_RESOURCE, which an engine in a container may not."""


def create(names: Names, blueprint: Blueprint, addresses: Addresses, engine: Engine) -> Sequence[str]:
    """The command that makes a machine, switched off. Its second network is added by `connect`."""
    name = names.machine(blueprint.droplet_id)
    labels = {LABEL_DROPLET: blueprint.droplet_id, LABEL_PUBLIC: addresses.public_ip}
    labels |= {LABEL_PRIVATE: addresses.private_ip}
    options = ["create", "--name", name, "--hostname", blueprint.name, "--label", names.label]
    options += [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
    options += ["--network", names.public, "--ip", addresses.public_ip]
    # The engine in the machine can't stack its layers on those of the engine around it.
    options += ["--volume", f"{name}:/var/lib/docker", "--memory", f"{blueprint.memory_mib}m"]
    options += [part for server in NAME_SERVERS for part in ("--dns", server)]
    options += [*_CAPABILITIES, *(() if engine.raises_limits else ("--cap-drop", "SYS_RESOURCE"))]
    options += [part for kind in _UNCONFINED for part in ("--security-opt", kind)]
    return (*options, engine.image)


def connect(names: Names, blueprint: Blueprint, addresses: Addresses) -> Sequence[str]:
    """The command that gives a machine its private address."""
    network, name = names.private(blueprint.vpc), names.machine(blueprint.droplet_id)
    return ("network", "connect", "--ip", addresses.private_ip, network, name)


def make_network(names: Names, name: str, ip_range: str, *, private: bool) -> Sequence[str]:
    """The command that makes a network. A private one has no way out of the host."""
    options = ["network", "create", "--label", names.label, "--subnet", ip_range]
    return (*options, *(("--internal",) if private else ()), name)


def archive(files: Mapping[str, str]) -> bytes:
    """Files as `docker cp` takes them."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return raw.getvalue()


def daemon_file(insecure_registries: Sequence[str]) -> str:
    """The configuration of the engine in a machine."""
    chosen = {"dns": list(NAME_SERVERS), "insecure-registries": list(insecure_registries)}
    return json.dumps({name: values for name, values in chosen.items() if values})


def wall_rules(wall: Wall) -> str:
    """The wall as a script for nft. What comes in meets it before addresses are translated, so that a port that a
    container in the machine publishes is closed too; what goes out, of the machine and its containers, as the last
    thing, by the address that it was sent to."""
    begin = "table inet wall\ndelete table inet wall\n"
    chains = ""
    if wall.inward is not None:
        chains += _chain("incoming", "prerouting", "iifname", [_let_in(opening) for opening in wall.inward])
    if wall.outward is not None:
        rules = [_METADATA_PASSES, *(_let_out(opening) for opening in wall.outward)]
        chains += _chain("outgoing", "postrouting", "oifname", rules)
    return f"{begin}table inet wall {{\n{chains}}}\n" if chains else begin


def power_of(state: str, status: str) -> Power:
    """What a container's state, and the words that the engine tells of it, say of the machine."""
    if state in ("running", "paused"):
        return Power.RUNNING
    code = status.partition("(")[2].partition(")")[0]
    if state == "created" or code == str(_EXIT_OFF):
        return Power.OFF
    return Power.REBOOTING if code == str(_EXIT_REBOOT) else Power.DEAD


def mac(address: str) -> str:
    """The hardware address that belongs to an address, as Docker makes them unless it is told otherwise."""
    return ":".join((_MAC_PREFIX, *(f"{part:02x}" for part in ipaddress.IPv4Address(address).packed)))


def _chain(name: str, hook: str, device: str, rules: Sequence[str]) -> str:
    """A chain that drops what comes or goes by the machine's two networks, belongs to nothing that was let pass, and
    is in no rule."""
    whole = [
        f"type filter hook {hook} priority -150; policy accept;",
        f'{device} != {{ "eth0", "eth1" }} accept',
        "ct state established,related accept",
        *rules,
        "drop",
    ]
    body = "\n".join(f"    {rule}" for rule in whole)
    return f"  chain {name} {{\n{body}\n  }}\n"


def _let_in(opening: Opening) -> str:
    if opening.protocol == "icmp":
        return f"meta nfproto ipv4 {_among('ip saddr', opening)}ip protocol icmp accept"
    ports = f"{opening.first_port}-{opening.last_port}"
    return f"meta nfproto ipv4 {_among('ip saddr', opening)}{opening.protocol} dport {ports} accept"


def _let_out(opening: Opening) -> str:
    peers = _among("ct original ip daddr", opening)
    if opening.protocol == "icmp":
        return f"meta nfproto ipv4 {peers}ip protocol icmp accept"
    ports = f"{opening.first_port}-{opening.last_port}"
    return f"meta nfproto ipv4 {peers}meta l4proto {opening.protocol} ct original proto-dst {ports} accept"


def _among(address: str, opening: Opening) -> str:
    return "" if "0.0.0.0/0" in opening.peers else f"{address} {{ {', '.join(opening.peers)} }} "
