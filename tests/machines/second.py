"""A second Docker daemon beside the shared one, in a network of its own, for tests that stop, kill or fill it."""

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tests.machines.engine import Engine, EngineError

START_SECONDS = 30.0
# In a network namespace: two daemons would rewrite each other's chains of iptables.
CLONE_NEWNET = 0x40000000  # sched.h
BEGIN = 'ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; exec "$@"'


@dataclass
class Daemon:
    """A daemon that may be ended in any way and started again with the same data."""

    folder: Path
    engine: Engine
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, *options: str) -> None:
        """Start it, with these options of dockerd, and wait until it answers."""
        # Where nobody reaps orphans, a number of the daemon before still seems to be alive.
        for left in ("dockerd.pid", "exec/containerd/containerd.pid"):
            (self.folder / left).unlink(missing_ok=True)
        command = (
            *("dockerd", "--host", self.engine.socket, "--data-root", str(self.data)),
            *("--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "dockerd.pid")),
            *options,
        )
        with (self.folder / "log").open("ab") as log:
            enter = ("nsenter", f"--net={self._namespace}", "sh", "-c", BEGIN, "sh")
            self.process = subprocess.Popen(
                (*enter, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.engine.docker("info", check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise EngineError(f"the second daemon did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def end(self, how: signal.Signals) -> None:
        """End it: politely, when it takes its containers along, or as a crash would."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def reach(self, subnet: IPv4Network) -> None:
        """Have this machine reach the daemon's containers in this network at their own addresses, until it is gone."""
        ours, theirs = (f"{side}{self.folder.name[-8:]}" for side in ("wh", "wn"))
        link = f"169.254.{secrets.randbelow(200) + 1}"
        host, gate = f"{link}.1", f"{link}.2"
        name = self.folder.name
        for command in (
            ("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name),
            ("ip", "address", "add", f"{host}/30", "dev", ours),
            ("ip", "link", "set", ours, "up"),
            ("ip", "-n", name, "address", "add", f"{gate}/30", "dev", theirs),
            ("ip", "-n", name, "link", "set", theirs, "up"),
            ("ip", "route", "add", str(subnet), "via", gate),
            ("nsenter", f"--net={self._namespace}", "iptables", "-I", "FORWARD", "-i", theirs, "-j", "ACCEPT"),
        ):
            subprocess.run(command, check=True, capture_output=True)

    @property
    def data(self) -> Path:
        """Where it keeps everything."""
        return self.folder / "data"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread, and what it starts, in the daemon's network."""
        with Path("/proc/thread-self/ns/net").open() as own, self._namespace.open() as other:
            _enter(other.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())

    @property
    def _namespace(self) -> Path:
        return Path("/var/run/netns") / self.folder.name


@contextmanager
def daemon(first: Engine, *images: str, disk: str = "") -> Iterator[Daemon]:
    """A second daemon with these images of the first one, on a disk of its own when a size (`8G`) is given."""
    folder = Path(tempfile.mkdtemp(prefix="wopr-d2-", dir="/var/tmp"))
    subprocess.run(["ip", "netns", "add", folder.name], check=True, capture_output=True)
    made = Daemon(folder, Engine(f"unix://{folder}/docker.sock", first.run_id))
    try:
        if disk:
            _mount(made, disk)
        made.start()
        _copy(first, made.engine, images)
        yield made
    finally:
        if made.process is not None:
            made.engine.sweep(made.engine.label)
            made.engine.sweep(f"wopr.installation={made.engine.run_id}")
        made.end(signal.SIGTERM)
        end_what_is_left(folder)
        subprocess.run(["ip", "netns", "del", folder.name], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(made: Daemon, size: str) -> None:
    """Give it an ext4 as a VPS has it. What nobody writes takes nothing of this machine's disk."""
    image = made.folder / "disk"
    made.data.mkdir()
    for command in (("truncate", "-s", size), ("mkfs.ext4", "-q", "-F"), ("mount", "-o", "loop")):
        end = (str(made.data),) if command[0] == "mount" else ()
        subprocess.run([*command, str(image), *end], check=True, capture_output=True)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "the network can't be entered")


def _copy(first: Engine, second: Engine, images: tuple[str, ...]) -> None:
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE, env=first.environment) as saving:
        loading = subprocess.run(
            ["docker", "load", "--quiet"], stdin=saving.stdout, env=second.environment, capture_output=True
        )
    if loading.returncode != 0:
        raise EngineError(loading.stderr.decode())


def end_what_is_left(folder: Path) -> None:
    """After a crash the shims and the containers live on; they name the folder in their command lines."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
        except OSError:
            continue
        if str(folder).encode() in command and int(entry.name) != os.getpid():
            os.kill(int(entry.name), signal.SIGKILL)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(str(folder)):
            subprocess.run(["umount", "-l", line.split()[4]], capture_output=True)
