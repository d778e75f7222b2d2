"""An installation as an operator has it: `wopr deploy` and its companions as commands, on real containers."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.machines.composing import compose_variables
from tests.machines.engine import INSTALLATION, Engine
from tests.ports import port
from tests.stack import clean_environment

PROJECT = "com.docker.compose.project"
# The process that made it, and chance.
OURS = re.compile(r"^wt(\d+)[0-9a-f]{4}$")
READY_SECONDS = "180"  # a machine that does many things at once is slow
COMMAND_SECONDS = 600.0
LEFT_SECONDS = "60"
PLATFORM_NAME = "wopr-test/release"


@dataclass
class Installation:
    """A folder with a running platform. `name` sets it apart from others on the engine."""

    engine: Engine
    folder: Path
    name: str
    port: int
    tls_port: int
    platform: str
    environment: Mapping[str, str] = field(default_factory=dict)
    old_compose: bool = False  # 1.29; else v2

    @property
    def api(self) -> str:
        return f"http://api.localhost:{self.port}"

    @property
    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "wopr")

    def where(self) -> Sequence[str]:
        return ("--dir", str(self.folder), "--name", self.name)

    def wopr(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on this installation."""
        return subprocess.run(
            [*self.command, *arguments, *self.where()],
            capture_output=True,
            text=True,
            env=self.variables(),
            timeout=COMMAND_SECONDS,
        )

    def variables(self) -> dict[str, str]:
        ours = {"DOCKER_HOST": self.engine.socket, "WOPR_HOME": str(self.folder)}
        ours |= compose_variables(self.folder.parent / f"docker-{self.old_compose}", old=self.old_compose)
        return {**clean_environment(), **ours, **self.environment}

    def chosen(self, *settings: str) -> list[str]:
        """The words of a command line that set these, and the ports that this run took."""
        ours = (f"HTTP_PORT={self.port}", f"HTTPS_PORT={self.tls_port}")
        return [word for setting in (*ours, *settings) for word in ("--set", setting)]

    def deploy(self, image: str = "", *options: str) -> "subprocess.CompletedProcess[str]":
        """Release, with patience, for the machine may be slow; nobody watches longer than a second."""
        words = ("deploy", *((image,) if image else ()), "--yes", "--json", "--observe", "1", "--ready", READY_SECONDS)
        return self.wopr(*words, *options)

    def release(self, image: str = "", *options: str) -> dict[str, Any]:
        """Release what must become good; the verdict."""
        done = self.deploy(image, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        verdict: dict[str, Any] = json.loads(done.stdout)
        assert verdict["verdict"] in ("good", "unchanged"), verdict
        return verdict

    def settle(self) -> int:
        """Have a good release of its platform, whatever a test before left; its number."""
        return int(self.release(self.platform, "--despite-quarantine")["serving"])

    def settled(self) -> int:
        """As `settle`; the number of the release that a rollback to it names: of one that was brought back, its own."""
        number = self.settle()
        found = {one["number"]: one for one in self.releases()["releases"]}
        return int(found[number].get("restores") or number)

    def releases(self) -> dict[str, Any]:
        done = self.wopr("releases", "--json", "--limit", "1000")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def state(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return document

    def journal(self) -> list[dict[str, Any]]:
        path = self.folder / "journal.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def set_env(self, name: str, value: str) -> None:
        """Edit `.env` as an operator does."""
        path = self.folder / ".env"
        lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}=")]
        path.write_text("\n".join([*lines, *([f"{name}={value}"] if value else [])]) + "\n")

    def containers(self) -> dict[str, dict[str, Any]]:
        """What runs or stopped, by its service."""
        ids = self.engine.docker("ps", "-aq", "--filter", f"label={PROJECT}={self.name}").stdout.split()
        found = json.loads(self.engine.docker("inspect", *ids).stdout) if ids else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def derive(self, *lines: str, base: str = "") -> str:
        """Another image on top of the platform's: a new digest in a moment. Its id."""
        text = f"FROM {base or self.platform}\nLABEL wopr.test={self.engine.run_id} mark={secrets.token_hex(8)}\n"
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Dockerfile").write_text(text + "\n".join(lines) + "\n")
            tag = f"{PLATFORM_NAME}:{secrets.token_hex(6)}"
            environment = {**self.engine.environment, "DOCKER_BUILDKIT": "0"}
            subprocess.run(
                ["docker", "build", "--quiet", "--tag", tag, context], check=True, capture_output=True, env=environment
            )
        return tag

    def left(self, kind: str) -> list[str]:
        """What of it is on the engine, its bots included: containers, networks or volumes."""
        words = ("ps", "-aq") if kind == "container" else (kind, "ls", "-q")
        labels = (f"{PROJECT}={self.name}", f"{INSTALLATION}={self.name}")
        found = [self.engine.docker(*words, "--filter", f"label={label}").stdout.split() for label in labels]
        return sorted(name for names in found for name in names)

    def psql(self, sql: str) -> str:
        command = ("psql", "-U", "wopr", "-d", "wopr_platform", "-tAc", sql)
        return self.engine.docker("exec", f"{self.name}-postgres", *command).stdout.strip()

    def remove(self) -> None:
        """Nothing is left: containers, volumes, network, images, folder. A command that outlived its deployer is
        waited for, or it would go on making what is being removed."""
        if (busy := self.folder / ".lock.busy").exists():
            subprocess.run(("flock", "-x", "-w", LEFT_SECONDS, str(busy), "true"))
        self.engine.sweep(f"{PROJECT}={self.name}")
        self.engine.sweep(f"{INSTALLATION}={self.name}")
        images = self.engine.docker("image", "ls", "-q", "--filter", f"label={self.engine.label}", PLATFORM_NAME)
        for image in set(images.stdout.split()):
            self.engine.docker("image", "rm", "-f", image, check=False)
        shutil.rmtree(self.folder.parent, ignore_errors=True)


@contextmanager
def installed(engine: Engine, platform: str) -> Iterator[Installation]:
    """A first release in an empty folder, removed with everything at the end. It needs no image for bots."""
    made = fresh(engine, platform)
    try:
        made.release(platform, *made.chosen("DRAIN_SECONDS=10", "LOG_LEVEL=warning", "BOT_RUNTIME=process"))
        yield made
    finally:
        made.remove()


def fresh(engine: Engine, platform: str) -> Installation:
    """An installation that is yet to be made. What runs that were killed left of theirs is removed."""
    form = '{{.Label "' + PROJECT + '"}}'
    for left in set(engine.docker("ps", "--all", "--format", form).stdout.split()):
        if (named := OURS.match(left)) and not Path("/proc", named[1]).exists():
            engine.sweep(f"{PROJECT}={left}")
            engine.sweep(f"{INSTALLATION}={left}")
    # Releases give old images back, and other runs build theirs anew: what a container needs stays.
    engine.docker("create", "--label", engine.label, platform)
    folder = Path(tempfile.mkdtemp(prefix="wopr-installation-")) / "wopr-platform"
    return Installation(engine, folder, f"wt{os.getpid()}{secrets.token_hex(2)}", port(), port(), platform)


@dataclass
class Load:
    """Requests through Caddy, one after the other in each thread; whatever is not an answer with 200 is kept."""

    installation: Installation
    path: str = "/health"
    threads: int = 4
    pause_seconds: float = 0.005
    answered: int = 0
    slowest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    slots: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Load":
        for number in range(self.threads):
            thread = threading.Thread(target=self._ask, args=(number % 2 == 0,), daemon=True)
            thread.start()
            self._running.append(thread)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(30)

    def _ask(self, fresh: bool) -> None:
        """Half of the threads open a connection for each request, as strangers do; the others keep theirs."""
        url = f"http://127.0.0.1:{self.installation.port}{self.path}"
        headers = {"host": "api.localhost", **({"connection": "close"} if fresh else {})}
        with httpx.Client(timeout=60, trust_env=False) as http:
            while not self._stop.is_set():
                asked = time.monotonic()
                try:
                    status, text = (answer := http.get(url, headers=headers)).status_code, answer.text
                except httpx.HTTPError as error:
                    status, text = 0, f"{type(error).__name__}: {error}"
                with self._lock:
                    self.answered += 1
                    self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - asked)
                    if status != 200:
                        self.failures.append(f"{time.time():.3f} {status} {text[:200]}")
                time.sleep(self.pause_seconds)
