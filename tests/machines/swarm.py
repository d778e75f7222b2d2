"""A real Swarm: machines in containers, each with an engine of its own, on one network of the engine of the tests.

Everything carries the run's label, so that a killed run leaves nothing for long. A machine is killed, drained and
started again from outside, as power cuts and operators do it.
"""

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.machines import building
from tests.machines.engine import Engine, EngineError

from wopr.fleet.runtimes import agents

NODES = ("n1", "n2", "n3")
START_SECONDS = 30.0
LOST_SECONDS_MAX = 60.0
NETWORK_TRIES_MAX = 20
# How often machines weigh what bots keep.
ROUND = ("LOOK_SECONDS = 60.0", "LOOK_SECONDS = 2.0")
# What systemd or dockerd in a container needs. SYS_TIME and SYS_MODULE would reach the host's clock and kernel.
MACHINE = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--cap-drop", "SYS_TIME", "--cap-drop", "SYS_MODULE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined"),
)


@dataclass
class Node:
    """One machine: its container on the outer engine, and its own engine."""

    name: str
    outer: Engine
    container: str
    address: str
    engine: Engine
    id: str = ""

    def kill(self) -> None:
        """As a power cut does it."""
        self.outer.docker("kill", self.container)

    def start(self) -> None:
        """Switch it on again; returns when its engine answers."""
        self.outer.docker("start", self.container)
        self.wait()

    def wait(self) -> None:
        """Wait until its engine answers."""
        _until(lambda: self.engine.docker("info", check=False).returncode == 0, self._why)

    def _why(self) -> str:
        return f"the engine of {self.name} did not start:\n{self.outer.logs(self.container)[-3000:]}"


@dataclass
class Swarm:
    """Machines of which the first one manages. `images` are in the engine of each, by id."""

    outer: Engine
    nodes: Sequence[Node]
    gateway: str
    images: Sequence[str] = ()
    folder: Path = field(default=Path(), repr=False)

    @property
    def manager(self) -> Node:
        return self.nodes[0]

    def node(self, name_or_id: str) -> Node:
        """A machine by its name or its id in the Swarm."""
        return next(node for node in self.nodes if name_or_id in (node.name, node.id))

    def drain(self, node: Node) -> None:
        """Tell Swarm to run nothing on it."""
        self.manager.engine.docker("node", "update", "--availability", "drain", node.id)

    def activate(self, node: Node) -> None:
        """Take a drain back."""
        self.manager.engine.docker("node", "update", "--availability", "active", node.id)

    def label(self, node: Node, name: str, value: str) -> None:
        """Give a machine a label in the Swarm; an empty value takes it away."""
        change = ("--label-add", f"{name}={value}") if value else ("--label-rm", name)
        self.manager.engine.docker("node", "update", *change, node.id)

    def state(self, node: Node) -> str:
        """What the Swarm thinks of it: ready, down, unknown."""
        form = "{{.Status.State}}"
        return self.manager.engine.docker("node", "inspect", "--format", form, node.id).stdout.strip()

    def lose(self, node: Node) -> None:
        """Pull a machine's plug; returns when the others miss it."""
        node.kill()
        _until(lambda: self.state(node) == "down", lambda: f"nobody misses {node.name}", LOST_SECONDS_MAX)

    def services(self, label: str) -> list[str]:
        """Names of the services with a label."""
        chosen = ("--filter", f"label={label}", "--format", "{{.Name}}")
        return self.manager.engine.docker("service", "ls", *chosen).stdout.split()

    def inspect(self, service: str) -> dict[str, Any]:
        """Swarm's description of a service."""
        found: list[dict[str, Any]] = json.loads(self.manager.engine.docker("service", "inspect", service).stdout)
        return found[0]

    def ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until every machine is ready and active."""
        _until(lambda: all(self.state(node) == "ready" for node in self.nodes), lambda: "a node stays down", seconds)


SHARED = pytest.StashKey[Swarm]()


@contextmanager
def swarming(outer: Engine, images: Sequence[str]) -> Iterator[Swarm]:
    """Three machines in a Swarm with these images of the outer engine."""
    building.ensure(outer, "node")
    folder = Path(tempfile.mkdtemp(prefix="wopr-swarm-"))
    prefix = f"wopr-test-{outer.run_id}-{folder.name[-6:]}"
    network, subnet = free_network(outer, prefix)
    with ThreadPoolExecutor(len(NODES)) as pool:
        begun = [
            pool.submit(_boot, outer, prefix, name, f"{subnet}.{number}", folder)
            for number, name in enumerate(NODES, start=11)
        ]
        try:
            swarm = Swarm(outer, [future.result() for future in begun], f"{subnet}.1", folder=folder)
            _join(swarm)
            swarm.images = _load(swarm, images, pool)
            yield swarm
        finally:
            for future in begun:
                future.exception()
            outer.remove(*(f"{prefix}-{name}" for name in NODES))
            for name in NODES:
                outer.docker("volume", "rm", "--force", f"{prefix}-{name}", check=False)
            outer.docker("network", "rm", network, check=False)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def swarm(request: pytest.FixtureRequest, engine: Engine, bot_image: str) -> Swarm:
    """A Swarm of three for the whole run, whatever folders its tests are in. Its second image looks after machines."""
    if (known := request.config.stash.get(SHARED, None)) is not None:
        return known
    stack = ExitStack()
    request.config.add_cleanup(stack.close)
    assert ROUND[0] in agents.SCRIPT
    patched = stack.enter_context(pytest.MonkeyPatch.context())
    patched.setattr(agents, "SCRIPT", agents.SCRIPT.replace(*ROUND))
    made = stack.enter_context(swarming(engine, (bot_image, building.ensure(engine, "node-agent"))))
    request.config.stash[SHARED] = made
    return made


def free_network(outer: Engine, name: str) -> tuple[str, str]:
    """A network with addresses that nobody has, so that a machine keeps its own; its name and the first three parts."""
    for _ in range(NETWORK_TRIES_MAX):
        subnet = f"192.168.{random.randrange(100, 250)}"
        options = ("--label", outer.label, "--subnet", f"{subnet}.0/24", "--gateway", f"{subnet}.1")
        if outer.docker("network", "create", *options, name, check=False).returncode == 0:
            return name, subnet
    raise EngineError("no free network for the machines")


def _boot(outer: Engine, prefix: str, name: str, address: str, folder: Path) -> Node:
    sockets = folder / name
    sockets.mkdir()
    volume = outer.volume(f"{prefix}-{name}")
    options = ("--name", volume, "--hostname", name, "--network", prefix, "--ip", address, *MACHINE)
    mounts = ("--volume", f"{volume}:/var/lib/docker", "--volume", f"{sockets}:/engine")
    registry = f"{address.rpartition('.')[0]}.0/24"
    command = ("/sbin/begin", "--insecure-registry", registry)
    container = outer.run(building.RECIPES["node"].tags[0], *command, options=(*options, *mounts))
    node = Node(name, outer, container, address, Engine(f"unix://{sockets}/docker.sock", outer.run_id))
    node.wait()
    return node


def _join(swarm: Swarm) -> None:
    manager = swarm.manager.engine
    manager.docker("swarm", "init", "--advertise-addr", swarm.manager.address)
    # Lost machines are noticed after three beats: 5 s each would be 15.
    manager.docker("swarm", "update", "--dispatcher-heartbeat", "2s")
    token = manager.docker("swarm", "join-token", "--quiet", "worker").stdout.strip()
    for node in swarm.nodes[1:]:
        node.engine.docker("swarm", "join", "--token", token, f"{swarm.manager.address}:2377")
    for node in swarm.nodes:
        node.id = node.engine.docker("info", "--format", "{{.Swarm.NodeID}}").stdout.strip()


def _load(swarm: Swarm, images: Sequence[str], pool: ThreadPoolExecutor) -> list[str]:
    """Put images of the outer engine into every machine; their ids."""
    if not images:
        return []
    archive = swarm.folder / "images.tar"
    swarm.outer.docker("save", "--output", str(archive), *images)
    list(pool.map(lambda node: node.engine.docker("load", "--quiet", "--input", str(archive)), swarm.nodes))
    archive.unlink()
    return swarm.outer.docker("image", "inspect", "--format", "{{.Id}}", *images).stdout.split()


def _until(true: Callable[[], bool], why: Callable[[], str], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise EngineError(why())
        time.sleep(0.1)
