"""A bot that somebody took over harms nobody else: not the machine, not its neighbours, not the platform's data.

Programs run in the container as the bot's own user, which is what an attacker has.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from tests.machines.engine import Engine
from tests.machines.fleet import WAIT_SECONDS, Containers, answering, spec

from wopr.fleet.runtimes import firewall
from wopr.fleet.runtimes.addresses import bot_network
from wopr.fleet.runtimes.firewall import Policy
from wopr.fleet.runtimes.protocol import Ended, RuntimeFailed

MIB = 2**20
OUTSIDE = "203.0.113.7"  # a public address (RFC 5737), here that of a namespace of this machine
CONNECT = """
import asyncio, sys
async def connect(target):
    host, port = target.rsplit(":", 1)
    try:
        await asyncio.wait_for(asyncio.open_connection(host, int(port)), 3)
    except OSError:
        return
    print(target)
async def main():
    await asyncio.gather(*map(connect, sys.argv[1:]))
asyncio.run(main())
"""
SERVE = """
import socket, sys, time
servers = [socket.create_server((sys.argv[1], int(port))) for port in sys.argv[2:]]
print("listening", flush=True)
time.sleep(600)
"""
AS_THE_API = """
import asyncio, os, uuid
from wopr.core.settings import load_settings
from wopr.fleet.build import bot_http, docker_runtime
from wopr.fleet.environment import limits_of
from wopr.fleet.runtimes.protocol import BotSpec
from wopr.bot import contract
async def main():
    runtime = docker_runtime(load_settings())
    told = {contract.ENV_GATEWAY_URL: "http://10.0.0.1/v1", contract.ENV_SERVICE_KEY: "key", contract.ENV_MODEL: "m"}
    bot = uuid.UUID(os.environ["BOT"])
    instance = await runtime.start(BotSpec(bot, 1, "standard", limits_of("standard"), told))
    async with bot_http() as http:
        while True:
            try:
                print((await http.get(instance.url + "/health")).status_code)
                break
            except Exception:
                await asyncio.sleep(0.1)
    await runtime.close()
asyncio.run(asyncio.wait_for(main(), 20))
"""
FORKS = """
import os, signal, time
children = []
try:
    while len(children) < 5000:
        child = os.fork()
        if not child:
            time.sleep(60)
        children.append(child)
except OSError as error:
    print(len(children))
for child in children:
    os.kill(child, signal.SIGKILL)
"""
FILL = """
import os, sys
written = 0
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        while written < int(sys.argv[2]):
            written += file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
print(written)
"""
SELF = """
import ctypes, json, os, pathlib
SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock")
NOT_TO_BE_WRITTEN = ("/x", "/etc/x", "/usr/x", "/sys/x", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern")
def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(name + ":"))
def possible(act):
    try:
        act()
    except OSError:
        return False
    return True
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "uid": os.getuid(), "effective": status("CapEff"), "bounding": status("CapBnd"), "no_new": status("NoNewPrivs"),
    "processes": len([name for name in os.listdir("/proc") if name.isdecimal()]),
    "mounts": [line.split()[4] for line in open("/proc/self/mountinfo")],
    "sockets": [path for path in SOCKETS if os.path.exists(path)],
    "root": possible(lambda: os.setuid(0)),
    "write": [path for path in NOT_TO_BE_WRITTEN if possible(lambda: open(path, "w").close())],
    "mount": libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
    "namespace": libc.unshare(0x10000000) == 0,
    "kernel_memory": possible(lambda: open("/proc/kcore", "rb").read(1)) and bool(open("/proc/kcore", "rb").read(1)),
    "devices": sorted(os.listdir("/dev")),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "ipv6": [line.split()[-1] for line in open("/proc/net/if_inet6")] if os.path.exists("/proc/net/if_inet6") else [],
}))
"""


def reached(bots: Containers, bot_id: object, *targets: str) -> set[str]:
    """Which of these addresses a bot can connect to."""
    done = bots.inside(bot_id, CONNECT, *targets)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@contextmanager
def listening(address: str) -> Iterator[str]:
    """Somebody on this machine who accepts connections; the port."""
    with socket.create_server((address, 0)) as server:
        yield str(server.getsockname()[1])


@contextmanager
def outside() -> Iterator[str]:
    """A machine beyond the host that anybody may reach, with a web server and a mail server; the former's address."""
    name = f"wopr{os.getpid()}"
    here, there = f"wo{os.getpid()}", f"wi{os.getpid()}"
    inside = ("ip", "netns", "exec", name)
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    if made.returncode != 0:
        pytest.skip("network namespaces can't be made here")
    server = None
    try:
        for command in (
            ("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name),
            ("ip", "addr", "add", "203.0.113.1/24", "dev", here),
            ("ip", "link", "set", here, "up"),
            (*inside, "ip", "addr", "add", f"{OUTSIDE}/24", "dev", there),
            (*inside, "ip", "link", "set", there, "up"),
            (*inside, "ip", "route", "add", "default", "via", "203.0.113.1"),
        ):
            subprocess.run(command, check=True, capture_output=True)
        server = subprocess.Popen((*inside, sys.executable, "-c", SERVE, OUTSIDE, "80", "25"), stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        yield f"{OUTSIDE}:80"
    finally:
        if server is not None:
            server.kill()
            server.communicate()
        subprocess.run(["ip", "link", "del", here], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


async def test_a_fork_bomb_stays_within_its_limit_and_the_bot_goes_on(bots: Containers) -> None:
    wanted = spec()
    instance = await bots.make().start(wanted)
    await answering(instance)
    done = await asyncio.to_thread(bots.inside, wanted.bot_id, FORKS)
    assert 0 < int(done.stdout) < wanted.limits.processes
    assert (await answering(instance)).status_code == 200


async def test_a_memory_bomb_ends_itself_and_not_the_bot(bots: Containers) -> None:
    wanted = spec(size="small")
    instance = await bots.make().start(wanted)
    await answering(instance)
    bomb = "data = []\nwhile True: data.append(b'x' * (1 << 20))"
    done = await asyncio.to_thread(bots.inside, wanted.bot_id, bomb)
    assert done.returncode == 137
    assert (await answering(instance)).status_code == 200


async def test_a_bot_that_needs_too_much_memory_ends_with_the_reason(bots: Containers) -> None:
    runtime = bots.make()
    wanted = spec(size="small")
    await answering(await runtime.start(wanted))
    bomb = "data = bytearray(b'x') * (1 << 30)"
    program = f"open('/data/sitecustomize.py', 'w').write({bomb!r})"
    assert (await asyncio.to_thread(bots.inside, wanted.bot_id, program)).returncode == 0
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime.watch(ended.put_nowait)
    greedy = replace(wanted, generation=2, environment={**wanted.environment, "PYTHONPATH": "/data"})
    await runtime.start(greedy)
    end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
    assert "more memory than its size allows (128 MiB)" in end.reason


async def test_only_data_and_a_small_tmp_can_be_written(bots: Containers) -> None:
    wanted = spec()
    limited = replace(wanted, limits=replace(wanted.limits, file_bytes=4 * MIB))
    instance = await bots.make().start(limited)
    await answering(instance)
    tmp = bots.inside(wanted.bot_id, FILL, "/tmp/fill", "0").stdout.split("\n")
    assert tmp[0] == "0"
    for path, error, most in (
        ("/tmp/fill", "File too large", 4 * MIB),
        ("/data/fill", "File too large", 4 * MIB),
        ("/fill", "Read-only file system", 0),
        ("/usr/fill", "Read-only file system", 0),
    ):
        done = await asyncio.to_thread(bots.inside, wanted.bot_id, FILL, path, str(256 * MIB))
        assert done.stdout.split("\n")[:2] == [error, str(most)], (path, done.stdout, done.stderr)


async def test_tmp_is_full_before_it_hurts(bots: Containers) -> None:
    wanted = spec(size="large")
    await answering(await bots.make().start(wanted))
    done = await asyncio.to_thread(bots.inside, wanted.bot_id, FILL, "/tmp/fill", str(512 * MIB))
    assert done.stdout.split("\n")[:2] == ["No space left on device", str(64 * MIB)]


async def test_a_flood_of_log_lines_takes_no_more_than_its_share(bots: Containers) -> None:
    wanted = spec()
    runtime = bots.make()
    await answering(await runtime.start(wanted))
    flood = "out = open('/proc/1/fd/1', 'w')\nfor n in range(200_000): out.write('x' * 100 + '\\n')"
    assert (await asyncio.to_thread(bots.inside, wanted.bot_id, flood)).returncode == 0
    path = Path(bots.inspect(wanted.bot_id)["LogPath"])
    assert sum(file.stat().st_size for file in path.parent.glob("*-json.log*")) < 6 * MIB
    assert len(await runtime.logs(wanted.bot_id, 100)) == 100


async def test_a_bot_reaches_the_gateway_and_the_outside_and_nothing_else(bots: Containers, engine: Engine) -> None:
    with listening("0.0.0.0") as gateway, listening("0.0.0.0") as database, outside() as web:
        host = str(bot_network(bots.settings()).host)
        runtime = bots.make(api_port=int(gateway), bot_dns="203.0.113.53")
        mine, neighbour = spec(), spec()
        await answering(await runtime.start(mine))
        other = await runtime.start(neighbour)
        await answering(other)
        network = engine.network(f"wopr-private-{os.getpid()}")
        private = engine.run(
            bots.image, "-m", "http.server", "5432", options=("--network", network, "--entrypoint", "python")
        )
        hosts = {
            address.address for found in psutil.net_if_addrs().values() for address in found if address.family == 2
        }
        forbidden = [
            urlsplit(other.url).netloc,  # a neighbour
            *(f"{address}:{database}" for address in hosts if not address.startswith("127.")),  # PostgreSQL on the host
            *(f"{address}:{gateway}" for address in hosts if not address.startswith("127.") and address != host),
            f"{engine.address(private)}:5432",  # PostgreSQL in a container
            f"{OUTSIDE}:25",
        ]
        found = await asyncio.to_thread(reached, bots, mine.bot_id, f"{host}:{gateway}", web, *forbidden)
        assert found == {f"{host}:{gateway}", web}


async def test_containers_of_the_platform_reach_bots_and_give_them_the_gateway(
    bots: Containers, engine: Engine
) -> None:
    """The stack of a VPS: API and proxy are containers with addresses of the platform's half of the network."""
    network = bot_network(bots.settings())
    proxy, api = str(network.subnet[2]), str(network.subnet[3])
    runtime = bots.make(bot_gateway_url=f"http://{proxy}:3100")
    runtime.doubt()
    wanted, neighbour = spec(), spec()
    instance = await runtime.start(wanted)
    await answering(instance)
    other = await runtime.start(neighbour)
    await answering(other)
    inside = ("--network", network.name, "--entrypoint", "python")
    serving = engine.run(bots.image, "-c", SERVE, "0.0.0.0", "3100", "5432", options=(*inside, "--ip", proxy))
    bot, next_door = urlsplit(instance.url).netloc, urlsplit(other.url).netloc
    targets = (bot, bot.replace("7437", "7438"), f"{proxy}:3100")
    done = engine.once(bots.image, "-c", CONNECT, *targets, options=(*inside, "--ip", api))
    assert done.stdout.split() == [bot]
    found = await asyncio.to_thread(
        reached, bots, wanted.bot_id, f"{proxy}:3100", f"{proxy}:5432", f"{api}:3100", next_door
    )
    assert found == {f"{proxy}:3100"}
    engine.remove(serving)


async def test_an_api_in_a_container_joins_its_bots_and_brings_the_proxy_along(
    bots: Containers, engine: Engine, platform_image: str
) -> None:
    """As in the stack of a VPS: neither root nor told anything of the network; it has the engine's socket."""
    network = bot_network(bots.settings())
    proxy = engine.run(
        *(bots.image, "-c", SERVE, "0.0.0.0", "3100"),
        options=("--entrypoint", "python", "--label", f"wopr.gateway={engine.run_id}"),
    )
    await bots.make().remove(spec().bot_id)
    engine.docker("network", "rm", network.name, check=False)
    socket_path = engine.socket.removeprefix("unix://")
    group = (await asyncio.to_thread(Path(socket_path).stat)).st_gid
    wanted = spec()
    environment = {
        "BOT_RUNTIME": "docker",
        "BOT_IMAGE": bots.image,
        "BOT_GATEWAY_URL": "http://gateway:3100",
        "WOPR_INSTALLATION": engine.run_id,
        "PLATFORM_SECRET": bots.settings().require("platform_secret", "This test"),
        "BOT": str(wanted.bot_id),
    }
    told = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    options = (
        *(
            "--entrypoint",
            "python",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--volume",
            f"{socket_path}:/var/run/docker.sock",
        ),
        *("--group-add", str(group), "--cap-drop", "ALL", *told),
    )
    done = await asyncio.to_thread(engine.once, platform_image, "-c", AS_THE_API, options=options)
    assert (done.returncode, done.stdout.strip()[-3:]) == (0, "200"), done.stdout + done.stderr
    address = engine.state(proxy, f'(index .NetworkSettings.Networks "{network.name}").IPAddress')
    assert address == str(network.gateway)
    found = await asyncio.to_thread(reached, bots, wanted.bot_id, f"{address}:3100", f"{network.host}:22")
    assert found == {f"{address}:3100"}
    engine.remove(proxy)


async def test_neighbours_of_another_network_do_not_reach_bots(bots: Containers, engine: Engine) -> None:
    wanted = spec()
    instance = await bots.make().start(wanted)
    await answering(instance)
    for network in ("bridge", engine.network(f"wopr-other-{os.getpid()}")):
        options = ("--network", network, "--entrypoint", "python")
        done = engine.once(bots.image, "-c", CONNECT, urlsplit(instance.url).netloc, options=options)
        assert (done.returncode, done.stdout) == (0, "")


async def test_a_bot_sees_nothing_of_the_host_and_can_gain_nothing(bots: Containers) -> None:
    wanted = spec()
    await answering(await bots.make().start(wanted))
    done = await asyncio.to_thread(bots.inside, wanted.bot_id, SELF)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["uid"], int(seen["effective"], 16), int(seen["bounding"], 16), seen["no_new"]) == (10001, 0, 0, "1")
    assert seen["processes"] < 10
    assert (seen["sockets"], seen["write"]) == ([], [])
    assert not any(seen[act] for act in ("root", "mount", "namespace", "kernel_memory"))
    own = ("/", "/proc", "/dev", "/sys", "/data", "/tmp", "/etc/")
    assert [mount for mount in seen["mounts"] if not mount.startswith(own[1:]) and mount != "/"] == []
    assert {mount for mount in seen["mounts"] if mount.startswith("/etc/")} <= {
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
    }
    assert not {"mem", "kmsg", "sda", "vda"} & set(seen["devices"])
    assert set(seen["ipv6"]) <= {"lo"}


async def test_without_a_fence_no_bot_starts_and_those_that_run_go_on(bots: Containers, slim_image: str) -> None:
    runs = spec()
    instance = await bots.make().start(runs)
    await answering(instance)
    runtime = bots.make(bot_firewall="container", bot_firewall_image=slim_image)
    wanted = spec()
    with pytest.raises(RuntimeFailed, match="no iptables") as refused:
        await runtime.start(wanted)
    assert "BOT_FIREWALL_IMAGE" in refused.value.remedy
    assert bots.exists(wanted.bot_id) == {"container": False, "former": False, "volume": False}
    assert (await answering(instance)).status_code == 200


async def test_a_container_puts_the_fence_up_where_the_api_may_not(bots: Containers, base_image: str) -> None:
    policy = Policy(bot_network(bots.settings()), None)
    await asyncio.to_thread(tear_down, policy)
    runtime = bots.make(bot_firewall="container", bot_firewall_image=base_image)
    wanted = spec()
    await answering(await runtime.start(wanted))
    assert fence_of(policy) == {f"{policy.network.chain}-{end}" for end in ("OUT", "IN", "HOST")}
    left = bots.engine.docker("ps", "--all", "--quiet", "--filter", f"label=wopr.fence={policy.network.name}").stdout
    assert left == ""


async def test_a_fence_that_was_torn_down_is_put_up_again(bots: Containers) -> None:
    policy = Policy(bot_network(bots.settings()), None)
    runtime = bots.make()
    await runtime.start(spec())
    await asyncio.to_thread(tear_down, policy)
    assert fence_of(policy) == set()
    runtime.doubt()
    assert await runtime.tend() >= 1
    assert len(fence_of(policy)) == 3


def tear_down(policy: Policy) -> None:
    """Remove the fence, as a careless reload of a firewall would."""
    subprocess.run(firewall.removal(policy), check=True, capture_output=True)


def fence_of(policy: Policy) -> set[str]:
    """The chains of ours to which the kernel's own jump."""
    shown = subprocess.run(["iptables", "-w", "10", "-S"], capture_output=True, text=True, check=True).stdout
    jumps = [line.split() for line in shown.splitlines() if line.startswith(("-A INPUT", "-A DOCKER-USER"))]
    return {words[-1] for words in jumps if words[-1].startswith(policy.network.chain)}
