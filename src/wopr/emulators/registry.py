"""A registry behind a password: Debian's `docker-registry` with one user. Only its files are made here.

It listens on one address alone, or on all of them: for each that is wanted there is a process on the same data.
"""

import json
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from wopr.core.errors import NotConfigured

PROGRAM = "docker-registry"
USERNAME = "robot"
HASH_SECONDS = 30.0


@dataclass(frozen=True)
class Registry:
    """Where it will listen, on the same port of each address, and who is let in."""

    folder: Path
    hosts: tuple[str, ...]
    port: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def command(self, host: str) -> tuple[str, ...]:
        """What serves it on this one of its addresses."""
        return (PROGRAM, "serve", str(self._configuration(host)))

    def write(self) -> None:
        """Its user and its configuration; JSON is YAML, which it reads. NotConfigured without `htpasswd`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "users").write_text(_hashed(self.password))
        secret = secrets.token_hex(16)  # one for all: an upload may go on at another address
        for host in self.hosts:
            configuration = {
                "version": "0.1",
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
                "http": {"addr": f"{host}:{self.port}", "secret": secret},
                "auth": {"htpasswd": {"realm": "wopr", "path": str(self.folder / "users")}},
            }
            self._configuration(host).write_text(json.dumps(configuration))

    def _configuration(self, host: str) -> Path:
        return self.folder / f"{host}.yml"


def _hashed(password: str) -> str:
    try:
        done = subprocess.run(
            ["htpasswd", "-B", "-i", "-n", USERNAME],
            input=password,
            capture_output=True,
            text=True,
            check=True,
            timeout=HASH_SECONDS,
        )
    except FileNotFoundError:
        raise NotConfigured("There is no htpasswd command here.", remedy="apt-get install apache2-utils") from None
    return done.stdout
