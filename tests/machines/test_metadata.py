"""Clouds' metadata and machines of private networks really answer here: containers read them, and bots do not."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.machines.engine import Engine
from tests.machines.fleet import Containers, answering, spec
from tests.machines.second import Daemon, daemon
from tests.machines.swarm import Node, Swarm
from tests.machines.swarmfleet import Services

# AWS, DigitalOcean, Google, Azure, Oracle and others; AWS' name server; Alibaba; Oracle; Azure's agents.
METADATA = ("169.254.169.254", "169.254.169.253", "100.100.100.200", "192.0.0.192", "168.63.129.16")
PRIVATE = ("10.99.0.1", "172.30.99.1", "192.168.99.1")
ADDRESSES = (*METADATA, *PRIVATE)
OVER_IPV6 = "fd00:ec2::254"  # AWS
PUBLIC = "203.0.113.7"  # RFC 5737; what bots do reach
SERVE = """
import http.server, os, socket, sys, threading
class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the keys of the cloud")
    def log_message(self, *_):
        pass
class OverIPv6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
for address in sys.argv[1:]:
    kind = OverIPv6 if ":" in address else http.server.ThreadingHTTPServer
    threading.Thread(target=kind((address, 80), Metadata).serve_forever).start()
print("serving", flush=True)
sys.stdin.read()
os._exit(0)
"""
READ = """
import sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def read(address):
    host = f"[{address}]" if ":" in address else address
    try:
        return opener.open(f"http://{host}/latest/meta-data/iam/security-credentials", timeout=3).read()
    except OSError:
        return b""
with ThreadPoolExecutor(len(sys.argv)) as pool:
    for address, found in zip(sys.argv[1:], pool.map(read, sys.argv[1:])):
        if found == b"the keys of the cloud":
            print(address)
"""


def read_by_container(engine: Engine, image: str, network: str, addresses: Sequence[str]) -> list[str]:
    """Which of the services an ordinary container reads."""
    done = engine.once(image, "-c", READ, *addresses, options=("--network", network, "--entrypoint", "python"))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@contextmanager
def serving(*command: str) -> Iterator[None]:
    """The services, run by this command. They end with what they read."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"serving\n"
        try:
            yield
        finally:
            server.communicate()


@contextmanager
def cloud(second: Daemon) -> Iterator[None]:
    """The cloud in which the daemon's machine is: a hop away, with its metadata and a public address."""
    name = f"{second.folder.name}-c"
    inside = ("ip", "netns", "exec", name)
    both = (*ADDRESSES, PUBLIC)
    commands: list[Sequence[str]] = [
        ("ip", "netns", "add", name),
        ("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "machine", "netns", name),
        ("ip", "addr", "add", "198.51.100.1/24", "dev", "uplink"),
        ("ip", "-6", "addr", "add", "fd00:1::1/64", "dev", "uplink", "nodad"),
        ("ip", "link", "set", "uplink", "up"),
        (*inside, "ip", "link", "set", "lo", "up"),
        (*inside, "ip", "addr", "add", "198.51.100.2/24", "dev", "machine"),
        (*inside, "ip", "-6", "addr", "add", "fd00:1::2/64", "dev", "machine", "nodad"),
        (*inside, "ip", "link", "set", "machine", "up"),
        *((*inside, "ip", "addr", "add", f"{address}/32", "dev", "lo") for address in both),
        (*inside, "ip", "-6", "addr", "add", f"{OVER_IPV6}/128", "dev", "lo", "nodad"),
        (*inside, "ip", "-6", "route", "add", "default", "via", "fd00:1::1"),
        ("ip", "route", "add", "default", "via", "198.51.100.2"),
        ("ip", "-6", "route", "add", "default", "via", "fd00:1::2"),
        ("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"),
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        with serving(*inside, sys.executable, "-c", SERVE, *both, OVER_IPV6):
            yield
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
async def places(engine: Engine, bot_image: str, tmp_path: Path) -> AsyncIterator[Containers]:
    """An installation on a machine in a cloud."""
    with daemon(engine, bot_image) as second, second.entered(), cloud(second):
        made = Containers(second.engine, bot_image, tmp_path)
        yield made
        await made.close()


async def test_containers_read_the_clouds_metadata_and_bots_do_not(places: Containers) -> None:
    engine, image = places.engine, places.image
    network = engine.network("ordinary", "--ipv6", "--subnet", "fd00:2::/64")
    everything = (*ADDRESSES, OVER_IPV6, PUBLIC)
    assert read_by_container(engine, image, network, everything) == list(everything)
    wanted = spec()
    await answering(await places.make().start(wanted))
    done = places.inside(wanted.bot_id, READ, *everything)
    assert (done.returncode, done.stdout.split()) == (0, [PUBLIC]), done.stderr


@contextmanager
def cloud_of(node: Node, beyond: Node) -> Iterator[None]:
    """The same for a machine of a Swarm: another one is its cloud."""

    def on(where: Node, *command: str) -> None:
        where.outer.docker("exec", where.container, *command)

    everything = (*ADDRESSES, PUBLIC)
    for address in everything:
        on(beyond, "ip", "addr", "add", f"{address}/32", "dev", "lo")
        on(node, "ip", "route", "add", f"{address}/32", "via", beyond.address)
    docker = ("docker", "--host", node.outer.socket, "exec", "--interactive", beyond.container)
    try:
        with serving(*docker, "python3", "-c", SERVE, *everything):
            yield
    finally:
        for address in everything:
            on(beyond, "ip", "addr", "del", f"{address}/32", "dev", "lo")
            on(node, "ip", "route", "del", f"{address}/32")


async def test_containers_of_a_swarm_read_the_clouds_metadata_and_bots_do_not(
    services: Services, swarm: Swarm, bot_image: str
) -> None:
    everything = (*ADDRESSES, PUBLIC)
    wanted = spec()
    await answering(await services.make().start(wanted))
    home = services.home_of(wanted.bot_id)
    beyond = next(node for node in swarm.nodes if node is not home)
    network = home.engine.network("ordinary")
    try:
        with cloud_of(home, beyond):
            assert read_by_container(home.engine, bot_image, network, everything) == list(everything)
            done = services.inside(wanted.bot_id, READ, *everything)
            assert (done.returncode, done.stdout.split()) == (0, [PUBLIC]), done.stderr
    finally:
        home.engine.docker("network", "rm", network)
