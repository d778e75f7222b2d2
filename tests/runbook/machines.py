"""A home folder as the runbook wants it, and the two machines that are started from it."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.inference.engines.tiny import write_tiny_model
from tests.live import wait_for
from tests.machines import building
from tests.machines import registry as registries
from tests.machines.composing import compose_environment
from tests.machines.engine import Engine
from tests.machines.gpu_images import GPU_IMAGES, ensure_gpu_images
from tests.machines.registry import Registry
from tests.machines.swarm import free_network
from tests.ports import port
from tests.runbook.shell import Shell
from tests.stack import clean_environment

from wopr.delivery.topology import MACHINES, VOLUMES
from wopr.inference.engines.minilm import ensure_minilm

ROOT = Path(__file__).parent.parent.parent
PLATFORM, BOT = "ghcr.io/wopr-network/wopr-platform:local", "ghcr.io/wopr-network/wopr-bot:local"
PUBLISHED = ("HTTP", "API", "UI", "LLAMA", "CHATTERBOX", "WHISPER", "QWEN")
BOOT_SECONDS = 300.0
# The settings of a developer's platform: most of them are not for this one.
HOST_ENV = """# a comment

DOMAIN=wopr.bot
COOKIE_DOMAIN=.wopr.bot
PLATFORM_DB_PATH=./data/platform.db
METER_FLUSH=1
SNAPSHOT_DIR=./snapshots
TENANT_KEYS_DIR=./keys
LOG_LEVEL=warning
"""


@dataclass(frozen=True)
class Machines:
    """The person's home with its wopr-ops, and the machines that run by it."""

    shell: Shell
    engine: Engine
    registry: Registry
    settings: Mapping[str, str]

    @property
    def local(self) -> Path:
        return Path(self.shell.values["home"]) / "wopr-ops" / "local"

    def choose(self) -> None:
        """Free ports, weights, and what this host allows, where compose and `wopr local` both look for it."""
        (self.local / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))

    def wopr(self, *words: str) -> dict[str, Any]:
        """A command of `wopr local` on them; its JSON, whatever the exit code."""
        command = [sys.executable, "-m", "wopr", "local", *words, "--dir", str(self.local), "--json"]
        environment = clean_environment() | dict(self.shell.environment)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=BOOT_SECONDS * 2)
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def until_well(self, what: str) -> None:
        """Until both machines are; else what they wrote."""
        try:
            wait_for(lambda: self.wopr("status")["ok"], what, BOOT_SECONDS)
        except AssertionError as error:
            told = [self.engine.docker("logs", "--tail", "40", name, check=False) for name in ("wopr-vps", "wopr-gpu")]
            raise AssertionError(f"{error}\n" + "\n".join(done.stdout + done.stderr for done in told)) from error

    def vps(self, *words: str, input: str | None = None) -> str:
        """A docker command inside the VPS."""
        return self.engine.docker("exec", "-i", "wopr-vps", "docker", *words, input=input).stdout

    def mark(self, service: str = "") -> str:
        """The mark of the image that serves, by the API's container of the slot in use, or of another service.

        Nothing while that is replaced.
        """
        state = json.loads(self.engine.docker("exec", "wopr-vps", "cat", "/root/wopr-platform/state.json").stdout)
        name = f"wopr-vps-{service or 'api-' + state['active']['slot']}"
        ask = ("exec", "wopr-vps", "docker", "inspect", "--format", '{{index .Config.Labels "mark"}}', name)
        return self.engine.docker(*ask, check=not service).stdout.strip()

    def bring_images(self) -> None:
        """Images that can't be pulled here get into the machines as the runbook pipes its own."""
        third_parties = [tag for name in ("postgres", "caddy") for tag in building.RECIPES[name].tags]
        images = {"wopr-vps": [*third_parties, PLATFORM, BOT], "wopr-gpu": ["caddy:2-alpine", *GPU_IMAGES.values()]}
        with ThreadPoolExecutor(len(images)) as pool:
            list(pool.map(self._bring, images, images.values()))

    def _bring(self, machine: str, images: Sequence[str]) -> None:
        asked = ("exec", machine, "docker", "info")
        wait_for(
            lambda: self.engine.docker(*asked, check=False).returncode == 0, f"the engine of {machine}", BOOT_SECONDS
        )
        pipe = f"docker save {' '.join(images)} | docker exec -i {machine} docker load"
        subprocess.run(["bash", "-c", pipe], check=True, capture_output=True, env=dict(self.shell.environment))

    def set(self, **settings: str) -> None:
        """Edit vps/.env as a person does."""
        path = self.local / "vps" / ".env"
        kept = [line for line in path.read_text().splitlines() if line.partition("=")[0] not in settings]
        path.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in settings.items())]) + "\n")


@contextmanager
def prepared(engine: Engine, platform_image: str, bot_image: str, home: Path) -> Iterator[Machines]:
    """A home folder; no machine runs yet, and none is left at the end."""
    building.ensure(engine, "dind")
    ensure_gpu_images(engine, platform_image)
    engine.docker("tag", platform_image, PLATFORM)
    engine.docker("tag", bot_image, BOT)
    _write_home(home, platform_image)
    ports = {name: str(port()) for name in PUBLISHED}
    environment = compose_environment(engine, home / ".docker") | {"HOME": str(home)}
    settings = {f"{name}_PORT": number for name, number in ports.items()}
    settings |= {"MODELS_DIR": str(home / "models"), "PULL": "never", "MACHINE_PRIVILEGED": _may_be_privileged(engine)}
    with _registry(engine) as registry:
        values = {name.lower(): number for name, number in ports.items()}
        values |= {"home": str(home), "checkout": str(ROOT), "registry": registry.server}
        made = Machines(Shell(home, environment, values), engine, registry, settings)
        _remove(made)  # what a killed run left
        try:
            yield made
        finally:
            _remove(made)


def _may_be_privileged(engine: Engine) -> str:
    tried = engine.docker("run", "--rm", "--privileged", "docker:27-dind", "true", check=False)
    return str(tried.returncode == 0).lower()


def _write_home(home: Path, platform_image: str) -> None:
    """The platform's checkout with the settings of its developer, and weights."""
    checkout = home / "wopr-platform"
    checkout.mkdir()
    (checkout / ".env").write_text(HOST_ENV)
    (checkout / "Dockerfile").write_text(f"FROM {platform_image}\nLABEL mark=changed\n")
    models = home / "models"
    models.mkdir()
    write_tiny_model(models / "llama.gguf")
    ensure_minilm(models).rename(models / "qwen2-0_5b-instruct-q8_0.gguf")


@contextmanager
def _registry(engine: Engine) -> Iterator[Registry]:
    """A registry at an address of this host that the machines reach."""
    name = f"wopr-test-registry-{secrets.token_hex(4)}"
    _, subnet = free_network(engine, name)
    try:
        with registries.serving(engine, host=f"{subnet}.1") as running:
            yield running
    finally:
        engine.docker("network", "rm", name, check=False)


def _remove(machines: Machines) -> None:
    machines.engine.remove(*MACHINES)
    for volume in VOLUMES:
        machines.engine.docker("volume", "rm", volume, check=False)
    machines.engine.docker("network", "rm", "wopr-dev", check=False)
