"""Approach A of the runbook by its own commands: two machines, their health, their images, rollback, teardown.

Between them what the runbook promises without a command: what is pushed is served, settings take effect at a restart,
machines come back after a power cut, and `wopr local` does the same as the commands.
"""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.inference.engines.tiny import write_tiny_model
from tests.live import wait_for
from tests.machines import building
from tests.machines import registry as registries
from tests.machines.composing import compose_environment
from tests.machines.engine import Engine
from tests.machines.gpu_images import GPU_IMAGES, ensure_gpu_images
from tests.machines.installation import port
from tests.machines.registry import Registry
from tests.machines.swarm import free_network
from tests.runbook.shell import Shell, blocks_of, of_two_machines
from tests.stack import clean_environment

from wopr.delivery.topology import VOLUMES
from wopr.inference.engines.minilm import ensure_minilm

ROOT = Path(__file__).parent.parent.parent
PLATFORM, BOT = "ghcr.io/wopr-network/wopr-platform:local", "ghcr.io/wopr-network/wopr-bot:local"
PUBLISHED = ("HTTP", "API", "UI", "LLAMA", "CHATTERBOX", "WHISPER", "QWEN")
DOWN = "docker compose -f ~/wopr-ops/local/docker-compose.yml down"
NODE = "local-gpu-node-001"
BOOT_SECONDS = 300.0
RELEASE_SECONDS = 120.0
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

    @property
    def local(self) -> Path:
        return Path(self.shell.values["home"]) / "wopr-ops" / "local"

    def wopr(self, *words: str) -> dict[str, Any]:
        """A command of `wopr local` on them; its JSON, whatever the exit code."""
        command = [sys.executable, "-m", "wopr", "local", *words, "--dir", str(self.local), "--json"]
        environment = clean_environment() | dict(self.shell.environment)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=BOOT_SECONDS * 2)
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def is_well(self) -> bool:
        return bool(self.wopr("status")["ok"])

    def vps(self, *words: str, input: str | None = None) -> str:
        """A docker command inside the VPS."""
        return self.engine.docker("exec", "-i", "wopr-vps", "docker", *words, input=input).stdout

    def mark(self) -> str:
        """The mark of the image that serves, by the API's container of the slot in use."""
        state = json.loads(self.engine.docker("exec", "wopr-vps", "cat", "/root/wopr-platform/state.json").stdout)
        form = '{{index .Config.Labels "mark"}}'
        return self.vps("inspect", "--format", form, f"wopr-vps-api-{state['active']['slot']}").strip()

    def set(self, **settings: str) -> None:
        """Edit vps/.env as a person does."""
        path = self.local / "vps" / ".env"
        kept = [line for line in path.read_text().splitlines() if line.partition("=")[0] not in settings]
        path.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in settings.items())]) + "\n")


@pytest.fixture(scope="module")
def machines(
    engine: Engine,
    platform_image: str,
    bot_image: str,
    third_party_images: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machines]:
    """A home folder as the runbook wants it; the machines and their volumes are gone at the end."""
    building.ensure(engine, "dind")
    ensure_gpu_images(engine, platform_image)
    engine.docker("tag", platform_image, PLATFORM)
    engine.docker("tag", bot_image, BOT)
    home = tmp_path_factory.mktemp("home")
    _write_home(home, platform_image)
    ports = {name: str(port()) for name in PUBLISHED}
    environment = compose_environment(engine, home / ".docker") | {"HOME": str(home)}
    environment |= {f"{name}_PORT": number for name, number in ports.items()}
    environment |= {"MODELS_DIR": str(home / "models"), "PULL": "never"}
    with _registry(engine) as registry:
        values = {name.lower(): number for name, number in ports.items()}
        values |= {"home": str(home), "checkout": str(ROOT), "registry": registry.server}
        made = Machines(Shell(home, environment, values), engine, registry)
        _remove(made)  # what a killed run left
        try:
            yield made
        finally:
            _remove(made)


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
    machines.engine.remove("wopr-vps", "wopr-gpu")
    for volume in VOLUMES:
        machines.engine.docker("volume", "rm", volume, check=False)
    machines.engine.docker("network", "rm", "wopr-dev", check=False)


def test_the_two_machines_come_up_serve_deliver_roll_back_and_are_torn_down(machines: Machines) -> None:
    _first_time_setup(machines)
    _health(machines)
    _the_node_registered_itself_and_may_be_seeded(machines)
    _an_image_that_is_loaded_is_served(machines)
    _restarts_keep_everything_and_read_the_settings(machines)
    _what_is_pushed_is_served(machines)
    _rollback(machines)
    _teardown_keeps_data_unless_it_is_told_to_wipe(machines)
    assert not machines.shell.left(of_two_machines())


def _first_time_setup(machines: Machines) -> None:
    (block,) = blocks_of("First-time setup")
    written = machines.shell.run_block(block, after={"up -d": lambda: _bring_images(machines)})
    settings = (machines.local / "vps" / ".env").read_text().splitlines()
    secrets_ = ["POSTGRES_PASSWORD=wopr_local_dev", "GPU_NODE_SECRET=wopr_local_gpu_secret"]
    assert settings == ["LOG_LEVEL=warning", *secrets_, "COOKIE_DOMAIN=localhost"]
    assert NODE in written[block.commands[-1]]
    wait_for(machines.is_well, "everything to be well", BOOT_SECONDS)


def _bring_images(machines: Machines) -> None:
    """Images that can't be pulled here get into the machines as the runbook pipes its own."""
    postgres_and_caddy = [tag for name in ("postgres", "caddy") for tag in building.RECIPES[name].tags]
    for machine, images in {
        "wopr-gpu": ["caddy:2-alpine", *GPU_IMAGES.values()],
        "wopr-vps": [*postgres_and_caddy, PLATFORM, BOT],
    }.items():
        has_engine = ("exec", machine, "docker", "info")
        wait_for(
            lambda words=has_engine: machines.engine.docker(*words, check=False).returncode == 0,
            f"the engine of {machine}",
            BOOT_SECONDS,
        )
        pipe = f"docker save {' '.join(images)} | docker exec -i {machine} docker load"
        subprocess.run(["bash", "-c", pipe], check=True, capture_output=True, env=dict(machines.shell.environment))


def _health(machines: Machines) -> None:
    (block,) = blocks_of("DinD Health Check Commands")
    written = machines.shell.run_block(block)
    outer, vps, gpu, *answers, node = written.values()
    assert {line.split()[0] for line in outer.splitlines()} == {"wopr-vps", "wopr-gpu"}
    names = ("caddy", "postgres", "api-blue", "ui-blue", "deliverer", "platform-api", "watchtower")
    assert {f"wopr-vps-{name}" for name in names} <= {line.split()[0] for line in vps.splitlines()}
    assert "unhealthy" not in vps + gpu
    assert json.loads(answers[0]) == {"status": "ok"}
    assert len(answers) == 5
    assert node.count(": true") == 4


def _the_node_registered_itself_and_may_be_seeded(machines: Machines) -> None:
    (node,) = machines.wopr("status")["nodes"]
    assert (node["id"], node["host"], node["status"]) == (NODE, "wopr-gpu", "active")
    machines.shell.folder = machines.local.parent
    for block in blocks_of("DinD GPU Seeder"):
        machines.shell.run_block(block)
    (seeded,) = machines.wopr("seed")["nodes"]
    assert (seeded["id"], seeded["host"]) == (NODE, "wopr-gpu")


def _an_image_that_is_loaded_is_served(machines: Machines) -> None:
    assert machines.mark() == "<no value>"
    (block,) = blocks_of("DinD Platform Image Workflow")
    machines.shell.run_block(block)
    wait_for(lambda: machines.mark() == "changed", "the loaded image to serve", RELEASE_SECONDS)


def _restarts_keep_everything_and_read_the_settings(machines: Machines) -> None:
    registry = machines.registry
    machines.set(
        LOG_LEVEL="info",
        WOPR_IMAGE=f"{registry.server}/wopr-platform:latest",
        REGISTRY_SERVER=registry.server,
        REGISTRY_USERNAME=registry.username,
        REGISTRY_PASSWORD=registry.password,
        REGISTRY_PLAIN_HTTP=registry.server,
        DELIVER_PERIOD_SECONDS="1",
    )
    machines.engine.docker("kill", "wopr-gpu")  # as a power cut does it
    machines.engine.docker("start", "wopr-gpu")
    machines.engine.docker("restart", "wopr-vps")
    wait_for(machines.is_well, "both machines after their restart", BOOT_SECONDS)
    assert machines.mark() == "changed"
    level = machines.vps("exec", "wopr-vps-ui-blue", "printenv", "LOG_LEVEL")
    assert (
        level.strip() == "info" or machines.vps("exec", "wopr-vps-ui-green", "printenv", "LOG_LEVEL").strip() == "info"
    )


def _what_is_pushed_is_served(machines: Machines) -> None:
    (block,) = blocks_of("Normal usage")
    pushed = f"{machines.registry.server}/wopr-platform:latest"
    machines.vps("build", "--tag", pushed, "-", input=f"FROM {PLATFORM}\nLABEL mark=pushed\n")
    machines.vps("push", pushed)
    for command in block.commands[:2]:
        machines.shell.run(command)
    wait_for(lambda: machines.mark() == "pushed", "the pushed image to serve", RELEASE_SECONDS)


def _rollback(machines: Machines) -> None:
    (block,) = blocks_of("Rollback Procedure")
    written = machines.shell.run_block(block)
    assert json.loads(written[block.commands[-1]]) == {"status": "ok"}
    assert machines.mark() == "changed"


def _teardown_keeps_data_unless_it_is_told_to_wipe(machines: Machines) -> None:
    machines.shell.run(DOWN)
    kept = machines.wopr("down", "--dry-run", "--wipe")
    assert (kept["machines"], len(kept["volumes"]["removed"])) == ([], 3)
    again = machines.wopr("up")
    assert (again["first_boot"], machines.mark()) == (False, "changed")
    assert again["loaded"] == {"wopr-vps": [], "wopr-gpu": []}
    assert [line for line in machines.engine.logs("wopr-vps").splitlines() if line == "==> VPS stack started."]
    assert machines.wopr("down", "--yes")["machines"] == ["wopr-vps", "wopr-gpu"]
    machines.shell.run(f"{DOWN} -v")
    assert not set(VOLUMES) & set(machines.engine.docker("volume", "ls", "--quiet").stdout.split())
