"""What a rehearsal is played on: a folder of its own, stand-ins for the outside companies, and how all of it ends.

What runs is known by the folder alone (processes in `run/up.json`, machines and images by the folder's installation),
so that the next rehearsal, or `--down`, ends what a killed one left.
"""

import asyncio
import fcntl
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from wopr.cli.rehearse_commands import RUNNING, StepFailed
from wopr.cli.supervisor import STOP_SECONDS, RunFile, signal_group
from wopr.core.errors import Conflict, NotConfigured
from wopr.core.files import RUNNING_FILE, replace_text
from wopr.delivery.image_engine import DockerCommand

if TYPE_CHECKING:
    from wopr.emulators.registry import Registry

UP_SECONDS = 60.0
# The machines' image is built at the first start.
MACHINES_UP_SECONDS = 1_800.0
LOOK_SECONDS = 0.05
PROGRAMS: Mapping[str, str] = {
    "docker": "docker.io",
    "ssh": "openssh-client",
    "pebble": "pebble",
    "docker-registry": "docker-registry",
    "htpasswd": "apache2-utils",
}
LOOPBACK = "127.0.0.1"
LOCK, EARLIER = ".rehearse.lock", "earlier"


@dataclass
class Stage:
    """The folder and what runs for it. `addresses` are those of the stand-ins, once they run."""

    folder: Path
    domain: str
    base_image: str = ""
    addresses: dict[str, str] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    hook_secret: str = field(default_factory=lambda: f"whsec_{secrets.token_hex(16)}", repr=False)

    @property
    def operator(self) -> Path:
        """The home folder of the operator who types the commands."""
        return self.folder / "operator"

    @property
    def ssh_key(self) -> Path:
        return self.operator / ".ssh" / "id_ed25519"

    @property
    def ssh_config(self) -> Path:
        return self.operator / "ssh_config"

    @property
    def docker_config(self) -> Path:
        return self.folder / "stand-ins" / "docker"

    @property
    def roots(self) -> Path:
        return self.folder / "stand-ins" / "authority" / "roots.pem"

    @cached_property
    def installation(self) -> str:
        """What marks this rehearsal's machines and images in the engine: never the name of the operator's own."""
        from wopr.core.settings import load_settings

        return load_settings(self.folder).model_copy(update={"wopr_installation": ""}).installation

    @cached_property
    def host(self) -> str:
        """This host as its machines reach it, and nobody from outside does."""
        from wopr.emulators.digitalocean.containers import public_gateway

        return asyncio.run(public_gateway(self.installation))

    @property
    def registry(self) -> str:
        """The registry as machines reach it."""
        return f"{self.host}:{self.addresses['registry'].rpartition(':')[2]}"

    @property
    def repository(self) -> str:
        """What stands before the names of images when they are pushed from here, where no TLS is wanted."""
        return f"{self.addresses['registry']}/rehearsal-{self.installation}"

    def environment(self) -> dict[str, str]:
        """What commands find: this process's variables without the operator's own settings, and the stage's instead."""
        from wopr.core.environment import environment
        from wopr.core.settings import variables

        ours = variables() | {"WOPR_NAME", "WOPR_KEY"}
        around = {name: value for name, value in environment().items() if name not in ours}
        docker = environment().get("DOCKER_CONFIG") or str(Path.home() / ".docker")
        return {**around, "HOME": str(self.operator), "DOCKER_CONFIG": docker, "WOPR_HOME": str(self.folder)}

    def check(self) -> None:
        """NotConfigured when a program is missing that all of it needs; Unavailable without an engine."""
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            packages = " ".join(PROGRAMS[name] for name in missing)
            raise NotConfigured(
                f"A rehearsal needs {', '.join(missing)}, which this machine lacks.",
                remedy=f"apt-get install {packages}",
            )
        DockerCommand().do("version", "--format", "{{.Server.Version}}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder; Conflict when another rehearsal runs in it, or when it is somebody else's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / LOCK).exists() and any(self.folder.iterdir()):
            raise Conflict(
                f"{self.folder} is no folder of a rehearsal.",
                remedy="Name an empty one, or one that is yet to be made: --dir",
            )
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"A rehearsal runs in {self.folder}.", remedy="Wait for it, or give this one another --dir."
                ) from None
            yield

    def put_aside(self) -> None:
        """The proof of the rehearsal before goes into a folder of its own: this one's begins with nothing."""
        there = [path for path in self.folder.iterdir() if path.name not in (LOCK, EARLIER)]
        if there:
            when = time.strftime("%Y-%m-%dT%H%M%S", time.gmtime(max(path.stat().st_mtime for path in there)))
            aside = self.folder / EARLIER / when
            aside.mkdir(parents=True, exist_ok=True)
            for path in there:
                path.rename(aside / path.name)

    def begin(self) -> None:
        """Start the stand-ins, and leave their addresses where commands in this folder find them."""
        from wopr.core.postgres import free_port
        from wopr.emulators.authority import ENVIRONMENT, Authority
        from wopr.emulators.registry import Registry

        state = self.folder / "stand-ins"
        self._write_operator()
        names = self._emulator("cloudflare", "--zone", self.domain)["cloudflare"]
        self.addresses |= {"cloudflare": names["url"], "dns": names["dns"]}
        authority = Authority(state / "authority", self.host, free_port(), free_port())
        authority.write()
        self._start("authority", authority.command(names["dns"]), ENVIRONMENT)
        self._await("authority", authority.learn_roots)
        self.addresses["authority"] = authority.directory
        self._begin_registry(Registry(state / "registry", (LOOPBACK, self.host), free_port(), self.password))
        self._write_docker_login()
        self._begin_companies()
        replace_text(self.folder / RUNNING_FILE, "".join(f"{k}={v}\n" for k, v in self.settings().items()))

    def _begin_registry(self, registry: "Registry") -> None:
        """This engine pushes to the loopback, where it wants no TLS; machines reach another address."""
        registry.write()
        for name, host in zip(("registry", "registry-of-machines"), registry.hosts, strict=True):
            self._start(name, registry.command(host), {"OTEL_TRACES_EXPORTER": "none"})
            self._await(name, partial(_answers, host, registry.port))
        self.addresses["registry"] = f"{LOOPBACK}:{registry.port}"

    def _begin_companies(self) -> None:
        """Payments and mail in one process; the cloud, whose machines are real, in another."""
        hook = f"https://api.{self.domain}/api/billing/webhook"
        outside = {"DNS_SERVERS": self.addresses["dns"], "ACME_CA_BUNDLE": str(self.roots)}
        only = ("--only", "stripe", "--only", "resend", "--webhook-url", hook, "--webhook-secret", self.hook_secret)
        for name, told in self._emulator("all", *only, environment=outside, count=2).items():
            self.addresses[name] = told["url"]
        machines = ("--machines", "containers", "--plain-registry", self.registry, "--trust", str(self.roots))
        base = ("--base-image", self.base_image) if self.base_image else ()
        named = ("--name-server", self.addresses["dns"])
        cloud = self._emulator("digitalocean", *machines, *base, *named, seconds=MACHINES_UP_SECONDS)
        self.addresses["digitalocean"] = cloud["digitalocean"]["url"]

    def settings(self) -> Mapping[str, str]:
        """What the operator's own machine knows: the companies' addresses and keys."""
        from wopr.cli.local_cloud import SETTINGS

        found = {
            name: value.format(url=self.addresses[company])
            for company, lines in SETTINGS.items()
            for name, value in lines.items()
        }
        return {
            **found,
            "DNS_SERVERS": self.addresses["dns"],
            "ACME_DIRECTORY": self.addresses["authority"],
            "ACME_CA_BUNDLE": str(self.roots),
            "REGISTRY_SERVER": self.addresses["registry"],
            "REGISTRY_USERNAME": "robot",
            "REGISTRY_PASSWORD": self.password,
        }

    def left(self) -> list[str]:
        """What runs for this folder, whoever began it: processes and machines."""
        docker = DockerCommand()
        machines = docker.do(
            "ps", "--all", "--filter", f"label=wopr.cloud={self.installation}", "--format", "{{.Names}}"
        )
        return [*RunFile(self.folder).children(), *machines.split()]

    def end_commands(self) -> None:
        """End what an interruption left between its start and whoever would have ended it."""
        record = RunFile(self.folder)
        stand_ins = [record.child(name) for name in record.children() if name != RUNNING]
        known = {child.pid for child in stand_ins if child is not None}
        left = [child for child in psutil.Process().children() if child.pid not in known]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in left:
                signal_group(child.pid, number)
            _, left = psutil.wait_procs(left, timeout=STOP_SECONDS)

    def end(self) -> None:
        """End everything that runs for this folder, and take its images and files away; the proof stays."""
        from wopr.emulators.digitalocean.containers import sweep

        record, docker = RunFile(self.folder), DockerCommand()
        record.end_leftovers()
        self._end_strays()
        asyncio.run(sweep(self.installation))
        record.end()
        reference, form = f"reference=*/rehearsal-{self.installation}/*", "{{.Repository}}:{{.Tag}}"
        if images := docker.do("image", "ls", "--filter", reference, "--format", form).split():
            docker.ask("image", "rm", *images)
        for name in ("stand-ins", "operator", "run"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _end_strays(self) -> None:
        """A command that was begun just before its rehearsal was killed is in no record. It names our files."""
        ours = {str(self.docker_config), str(self.ssh_config)}
        left = [one for one in psutil.process_iter(["cmdline"]) if ours & set(one.info["cmdline"] or ())]
        for stray in left:
            with suppress(psutil.NoSuchProcess):
                stray.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)

    def _write_operator(self) -> None:
        """A home folder with a key pair, and the settings of the ssh command, which does not ask HOME."""
        known = self.operator / ".ssh"
        known.mkdir(parents=True, mode=0o700)
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", str(self.ssh_key))
        subprocess.run(command, check=True, capture_output=True, timeout=UP_SECONDS)
        options = {
            "IdentityFile": self.ssh_key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": known / "known_hosts",
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        self.ssh_config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))

    def _write_docker_login(self) -> None:
        from wopr.delivery.images_on_host import credentials

        login = {"REGISTRY_SERVER": self.addresses["registry"], "REGISTRY_USERNAME": "robot"}
        self.docker_config.mkdir(parents=True)
        (self.docker_config / "config.json").write_bytes(credentials({**login, "REGISTRY_PASSWORD": self.password}))

    def _emulator(
        self,
        which: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
        count: int = 1,
        seconds: float = UP_SECONDS,
    ) -> dict[str, dict[str, str]]:
        """Start stand-ins of ours; what each tells of itself, by its name."""
        state = self.folder / "stand-ins" / which
        command = (sys.executable, "-m", "wopr", "emulators", which, "--host", self.host, "--port", "0", "--json")
        said = self._start(which, (*command, "--state", str(state), *words), environment or {})
        self._await(which, lambda: len(_told(said)) >= count, seconds)
        return {one["name"]: one for one in _told(said)}

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Path:
        """Start a process that outlives this one; the file with what it writes to stdout."""
        logs = self.folder / "stand-ins" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        said = logs / f"{name}.out"
        with said.open("wb") as out, (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**self.environment(), **environment},
                start_new_session=True,
            )
        RunFile(self.folder).add(name, process.pid)
        return said

    def _await(self, name: str, is_up: Callable[[], bool], seconds: float = UP_SECONDS) -> None:
        """Wait until it is so; StepFailed with its last words when the process ends before, or it takes too long."""
        until = time.monotonic() + seconds
        while not is_up():
            if time.monotonic() > until or RunFile(self.folder).child(name) is None:
                log = self.folder / "stand-ins" / "logs" / f"{name}.log"
                lines = log.read_text(errors="replace").strip().splitlines()
                raise StepFailed(f"{name} did not start:\n" + "\n".join(f"    {line}" for line in lines[-12:]))
            time.sleep(LOOK_SECONDS)


def _told(said: Path) -> list[dict[str, str]]:
    """The whole lines of JSON that a process wrote so far."""
    return [json.loads(line) for line in said.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
