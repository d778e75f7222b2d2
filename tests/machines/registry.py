"""A registry behind a password: Debian's `docker-registry`, with users in an htpasswd file and its data in a folder."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.machines.engine import Engine, EngineError
from tests.mortal import mortal

START_SECONDS = 60.0
PROGRAMS = ("docker-registry", "htpasswd")


@dataclass
class Registry:
    """A running registry. `server` is what stands before the first slash of an image's name."""

    engine: Engine
    server: str
    username: str
    password: str = field(repr=False)
    process: "subprocess.Popen[bytes]" = field(repr=False)
    command: Sequence[str] = field(repr=False)
    pushed_at: float = 0.0  # when the last push had ended, by time.monotonic()

    @property
    def url(self) -> str:
        return f"http://{self.server}"

    def push(self, local_tag: str, name: str) -> str:
        """Push a local image as `name` (`wopr-bot:latest`); its reference by digest, `server/wopr-bot@sha256:…`."""
        remote = f"{self.server}/{name}"
        self.engine.docker("tag", local_tag, remote)
        with self.logged_in() as config:
            self.engine.docker("--config", str(config), "push", "--quiet", remote)
            self.pushed_at = time.monotonic()
        found = self.engine.docker("image", "inspect", "--format", "{{json .RepoDigests}}", remote).stdout
        repository = remote.rpartition(":")[0]
        self.engine.docker("rmi", remote, check=False)
        return next(str(digest) for digest in json.loads(found) if digest.startswith(f"{repository}@"))

    @contextmanager
    def logged_in(self) -> Iterator[Path]:
        """A configuration folder of the docker command with this registry's credentials, gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="wopr-docker-") as folder:
            self.engine.docker(
                *("--config", folder, "login", self.server, "--username", self.username, "--password-stdin"),
                input=self.password,
            )
            yield Path(folder)

    def stop(self) -> None:
        """Take it offline; the data stays."""
        self.process.terminate()
        self.process.wait(60)

    def start(self) -> None:
        """Bring it back after `stop`, at the same address with the same data."""
        self.process = _serve(self.command, self.server)


@contextmanager
def serving(engine: Engine, *, webhook: str = "", host: str = "127.0.0.1") -> Iterator[Registry]:
    """A registry with one user. `webhook` is the address that hears of each push; `host` where it listens."""
    folder = Path(tempfile.mkdtemp(prefix="wopr-registry-"))
    username, password = "robot", secrets.token_urlsafe(16)
    users = subprocess.run(
        ["htpasswd", "-B", "-i", "-n", username], input=password, capture_output=True, text=True, check=True
    )
    (folder / "users").write_text(users.stdout)
    server = f"{host}:{_free_port(host)}"
    (folder / "config.yml").write_text(json.dumps(_configuration(folder, server, webhook)))
    command = ("docker-registry", "serve", str(folder / "config.yml"))
    registry = Registry(engine, server, username, password, _serve(command, server), command)
    try:
        yield registry
    finally:
        registry.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _configuration(folder: Path, server: str, webhook: str) -> dict[str, object]:
    """JSON is YAML, which the registry reads."""
    configuration: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": server, "secret": secrets.token_hex(16)},
        "auth": {"htpasswd": {"realm": "wopr-test", "path": str(folder / "users")}},
    }
    if webhook:
        listener = {"name": "test", "url": webhook, "timeout": "1s", "threshold": 5, "backoff": "100ms"}
        configuration["notifications"] = {"endpoints": [listener]}
    return configuration


def _serve(command: Sequence[str], server: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    process = subprocess.Popen(mortal(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://{server}/v2/", timeout=2, trust_env=False).status_code == 401:
                return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise EngineError(f"the registry did not answer at {server}")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
