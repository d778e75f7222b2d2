"""The cloud in a box as a process of its own, with real machines behind it, for tests that talk to it as clients do."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.machines import building
from tests.machines.engine import CLOUD, Engine
from tests.mortal import mortal

DONE_SECONDS = 300.0
# The API lets 250 requests a minute pass.
LOOK_SECONDS = 0.5


@dataclass
class Cloud:
    """A stand-in that can be killed and started again, and a client with a token."""

    engine: Engine
    folder: Path
    base_image: str
    options: Sequence[str] = ()
    process: "subprocess.Popen[str] | None" = None
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def start(self) -> None:
        command = [sys.executable, "-m", "wopr", "emulators", "digitalocean", "--machines", "containers", "--json"]
        command += ["--base-image", self.base_image, "--port", "0", "--state", str(self.folder), *self.options]
        settings = {"WOPR_HOME": str(self.folder), "WOPR_INSTALLATION": self.engine.run_id}
        environment = {**self.engine.environment, **settings}
        with (self.folder / "cloud.log").open("a") as log:
            self.process = subprocess.Popen(
                mortal(command), stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        assert told, (self.folder / "cloud.log").read_text()
        self.client.base_url = httpx.URL(json.loads(told)["url"])
        self.client.headers["authorization"] = "Bearer dop_v1_test"

    def kill(self) -> None:
        """As the kernel does it, without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> None:
        """In order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=DONE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def order(self, name: str, **more: Any) -> int:
        """Ask for a droplet; its number."""
        wanted = {"name": name, "region": "tor1", "size": "s-1vcpu-1gb", "image": "debian-12-x64"}
        return int(self.call("POST", "/v2/droplets", wanted | more)["droplet"]["id"])

    def droplet(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v2/droplets/{number}")["droplet"]
        return found

    def status(self, number: int) -> str:
        return str(self.droplet(number)["status"])

    def address(self, number: int, kind: str = "public") -> str:
        networks = self.droplet(number)["networks"]["v4"]
        return next((network["ip_address"] for network in networks if network["type"] == kind), "")

    def begin(self, number: int, kind: str, **more: Any) -> int:
        """Ask for an action; its number."""
        return int(self.call("POST", f"/v2/droplets/{number}/actions", {"type": kind, **more})["action"]["id"])

    def ended(self, action: int) -> str:
        """Wait for an action; how it ended."""
        until(lambda: self._state(action) != "in-progress", self.told)
        return self._state(action)

    def destroy(self, number: int) -> None:
        """Give a droplet back, and wait until nothing is left of it."""
        until(lambda: self.client.delete(f"/v2/droplets/{number}").status_code in (204, 404), self.told)
        state = self.client.base_url.join("/_emulator/state")
        until(lambda: number not in [d["id"] for d in self.client.get(state).json()["droplets"]], self.told)

    def told(self) -> str:
        """What the stand-in wrote."""
        return (self.folder / "cloud.log").read_text()

    def _state(self, action: int) -> str:
        return str(self.call("GET", f"/v2/actions/{action}")["action"]["status"])


@dataclass(frozen=True)
class Key:
    """An SSH key pair in a file."""

    private: Path

    @property
    def public(self) -> str:
        return self.private.with_suffix(".pub").read_text().strip()

    @classmethod
    def made(cls, folder: Path, name: str) -> "Key":
        private = folder / name
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(private)]
        subprocess.run(command, check=True, timeout=60)
        return cls(private)

    def ssh(self, address: str, command: str, stdin: Any = subprocess.DEVNULL) -> "subprocess.CompletedProcess[str]":
        """Run a command on a machine as root, with this key alone."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"]
        options += ["ConnectTimeout=10", "IdentitiesOnly=yes", "IdentityAgent=none"]
        parts = [part for option in options for part in ("-o", option)]
        line = ["ssh", "-F", "none", "-i", str(self.private), *parts, f"root@{address}", command]
        return subprocess.run(line, stdin=stdin, capture_output=True, text=True, timeout=DONE_SECONDS)


@contextmanager
def running(engine: Engine, folder: Path, base_image: str, *options: str) -> Iterator[Cloud]:
    """The stand-in, with the machines' image at hand; no machine is left at the end."""
    building.machine(engine, base_image)
    cloud = Cloud(engine, folder, base_image, options)
    cloud.start()
    try:
        yield cloud
    finally:
        cloud.kill()
        cloud.client.close()
        engine.sweep(f"{CLOUD}={engine.run_id}")


def until(condition: Callable[[], object], why: Callable[[], str] = str, seconds: float = DONE_SECONDS) -> None:
    """Wait for something that another process does; fails with what that process wrote when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long\n{why()}"
        time.sleep(LOOK_SECONDS)
