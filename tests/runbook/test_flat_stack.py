"""Approach B of the runbook by its own commands: the flat stack, its profiles, seeder, health checks and teardown.

Between them the happy path of a customer, whose payments and mails go to the stand-ins of the profile `offline`.
"""

import dataclasses
import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.inference.engines.tiny import write_tiny_model
from tests.live import wait_for
from tests.machines import registry as registries
from tests.machines.composing import compose_environment, compose_variables
from tests.machines.engine import Engine
from tests.machines.gpu_images import ensure_gpu_images
from tests.ports import port
from tests.runbook.shell import Shell, blocks_of, of_flat_stack

from wopr.inference.engines.minilm import ensure_minilm

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
COMPOSE = "docker compose -f docker-compose.local.yml --env-file .env.local"
EVERYTHING = f"{COMPOSE} --profile voice --profile llm --profile offline"
PSQL = "docker exec wopr-ops-postgres-1 psql -U wopr -d wopr_platform"
PUBLISHED = ("API", "HTTP", "LLAMA", "CHATTERBOX", "WHISPER", "QWEN", "STAND_IN", "STAND_IN_MAIL")
COMMAND_SECONDS = 300
START_SECONDS = 120.0
NODE = "local-gpu-node-001"


@dataclass(frozen=True)
class Flat:
    """The folder from which the runbook's commands are run, and the ports that this run took."""

    shell: Shell
    ports: dict[str, int]

    def run(self, command: str, check: bool = True) -> str:
        """A command that the runbook has not; what it wrote to stdout."""
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=dict(self.shell.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def folder(self) -> Path:
        return Path(self.shell.values["home"]) / "wopr-ops"

    def do(self, section: str, *numbers: int) -> list[str]:
        """All blocks of a section, or some of them; what their commands wrote."""
        blocks = blocks_of(section)
        self.shell.folder = self.folder
        chosen = [blocks[number] for number in numbers] if numbers else blocks
        return [written for block in chosen for written in self.shell.run_block(block).values()]

    def sql(self, statement: str) -> str:
        return self.run(f"{PSQL} -At -c {shlex.quote(statement)}").strip()

    def health(self) -> dict[str, bool]:
        """What the watchdog last wrote of the node."""
        found: dict[str, bool] = json.loads(self.sql(f"SELECT service_health FROM gpu_nodes WHERE id = '{NODE}'"))
        return found

    def get(self, port: str, path: str = "/health", host: str = "localhost") -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[port]}{path}", headers={"host": host}, timeout=5)

    def answers(self, port: str, path: str = "/health") -> bool:
        try:
            return self.get(port, path).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def flat(
    engine: Engine, platform_image: str, third_party_images: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flat]:
    """A home folder as the runbook wants it; everything is gone at the end."""
    ensure_gpu_images(engine, platform_image)
    home = tmp_path_factory.mktemp("home")
    for name in ("wopr-platform", "wopr-platform-ui"):
        (home / name).mkdir()
        (home / name / "Dockerfile").write_text(f"FROM {platform_image}\n")
    folder = home / "wopr-ops"
    folder.mkdir()
    for name in ("docker-compose.local.yml", "Caddyfile.local", "gpu-seeder.sql", ".env.local.example"):
        (folder / name).write_bytes((DEPLOY / name).read_bytes())
    models = folder / "models"
    models.mkdir()
    write_tiny_model(models / "llama.gguf")
    ensure_minilm(models).rename(models / "qwen2-0_5b-instruct-q8_0.gguf")
    ports = {name: port() for name in PUBLISHED}
    environment = compose_environment(engine, home / ".docker") | {"HOME": str(home)}
    with registries.serving(engine) as registry:
        values = {name.lower(): str(number) for name, number in ports.items()} | {"home": str(home)}
        values |= {"registry": registry.server, "username": registry.username, "password": registry.password}
        made = Flat(Shell(folder, environment, values), ports)
        yield made
        made.run(f"{EVERYTHING} down -v")


def test_the_flat_stack_comes_up_is_seeded_serves_and_is_torn_down(flat: Flat) -> None:
    _prepared(flat)
    _up_with_voice(flat)
    _seeded_twice_is_one_row(flat)
    _the_runbooks_sql_runs_unchanged(flat)
    _with_every_profile_everything_is_healthy(flat)
    _the_happy_path(flat)
    _teardown_keeps_data_unless_it_is_told_to_wipe(flat)
    assert not flat.shell.left(of_flat_stack())


def test_a_flat_stack_of_compose_1_goes_on_with_v2_and_back(flat: Flat, tmp_path: Path) -> None:
    """The same volumes, the same network, and no container beside those that v2 took over."""
    _choose(flat)
    old = dataclasses.replace(flat, shell=dataclasses.replace(flat.shell, environment=_old(flat, tmp_path)))
    standalone = COMPOSE.replace("docker compose", "docker-compose")
    old.run(EVERYTHING.replace("docker compose", "docker-compose") + " config -q")
    named = "docker {} ls -q --filter label=com.docker.compose.project=wopr-ops --filter name=wopr-"
    try:
        old.run(f"{standalone} up -d platform-api")
        wait_for(lambda: flat.answers("API", "/ready"), "the API of compose 1.29", START_SECONDS)
        flat.sql("CREATE TABLE precious AS SELECT 42 AS answer")
        made = [flat.run(named.format(kind)) for kind in ("volume", "network")]
        for compose in (COMPOSE, standalone):
            (flat if compose == COMPOSE else old).run(f"{compose} up -d platform-api")
            wait_for(lambda: flat.answers("API", "/ready"), f"the API of {compose.split(' -f')[0]}", START_SECONDS)
            assert flat.sql("SELECT answer FROM precious") == "42"
            assert [flat.run(named.format(kind)) for kind in ("volume", "network")] == made
            names = flat.run("docker ps --format {{.Names}} --filter label=com.docker.compose.project=wopr-ops").split()
            assert sorted(names) == ["wopr-ops-platform-api-1", "wopr-ops-postgres-1"]
    finally:
        flat.run(f"{EVERYTHING} down -v")
    assert [flat.run(named.format(kind)) for kind in ("volume", "network")] == ["", ""]


def _old(flat: Flat, folder: Path) -> dict[str, str]:
    return {**flat.shell.environment, **compose_variables(folder, old=True)}


def _prepared(flat: Flat) -> None:
    flat.do("Prerequisites")
    _choose(flat)
    flat.run(f"{EVERYTHING} down -v", check=False)  # what a killed run left


def _choose(flat: Flat) -> None:
    """ "Edit .env.local": secrets, and what a machine without a GPU and without a network needs."""
    path = flat.folder / ".env.local"
    empty = (flat.folder / ".env.local.example").read_text()
    filled = re.sub(r"(?m)^([A-Z_]+)=$", lambda m: f"{m[1]}={secrets.token_hex(16)}", empty)
    chosen = {
        "GPU_RUNTIME": "runc",
        "DEVICE": "cpu",
        "GPU_LAYERS": "0",
        "FLASH_ATTN": "off",
        "MODELS_DIR": f"{flat.folder}/models",
        "STRIPE_SECRET_KEY": "sk_test_flat",
        "STRIPE_WEBHOOK_SECRET": "whsec_flat_stack",
        "RESEND_API_KEY": "re_flat",
        "STRIPE_API_BASE": "http://stand-ins:4101",
        "RESEND_API_BASE": "http://stand-ins:4102",
        "STRIPE_DEFAULT_PRICE_ID": "price_wopr_monthly",
        **{f"{name}_PORT": str(port) for name, port in flat.ports.items()},
    }
    kept = [line for line in filled.splitlines() if line.partition("=")[0] not in chosen]
    path.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in chosen.items())]) + "\n")


def _up_with_voice(flat: Flat) -> None:
    flat.do("Starting the flat stack")
    wait_for(lambda: flat.answers("API", "/ready"), "the API to be ready", START_SECONDS)
    wait_for(lambda: flat.answers("HTTP", "/"), "the pages behind Caddy", START_SECONDS)
    pages, *api = flat.do("Accessing services from WSL2")
    assert "WOPR" in pages
    assert [json.loads(answer) for answer in api] == [{"status": "ok"}] * 2
    assert flat.get("HTTP", "/", host="172.23.176.117").status_code == 200  # an address of the local network
    for service in ("CHATTERBOX", "WHISPER"):
        wait_for(lambda service=service: flat.answers(service), service, START_SECONDS)


def _seeded_twice_is_one_row(flat: Flat) -> None:
    for _ in range(2):
        flat.do("Seeding", 0)
    assert flat.sql("SELECT count(*), min(host) FROM gpu_nodes") == "1|host.docker.internal"
    voice = {"llama": False, "chatterbox": True, "whisper": True, "qwen": False}
    flat.do("Seeding", 1)
    wait_for(lambda: flat.health() == voice, "the watchdog's view of the voice profile", START_SECONDS)


def _the_runbooks_sql_runs_unchanged(flat: Flat) -> None:
    flat.do("Seeding", 2)
    shown, _ = flat.do("Seeding", 3)
    assert NODE in shown
    wait_for(lambda: flat.answers("API", "/ready"), "the API after its restart", START_SECONDS)


def _with_every_profile_everything_is_healthy(flat: Flat) -> None:
    flat.do("Compose Profiles")
    wait_for(lambda: all(flat.health().values()), "all four services", START_SECONDS)
    api, pages, *services = flat.do("Health checks")
    assert json.loads(api) == {"status": "ok"}
    assert pages.startswith("HTTP/1.1 200")
    assert len(services) == 4
    checked = "docker ps --filter label=com.docker.compose.project=wopr-ops --format '{{.Names}} {{.Status}}'"
    wait_for(lambda: "(health: starting)" not in flat.run(checked), "every health check", START_SECONDS)
    healthy = {line.split()[0] for line in flat.run(checked).splitlines() if line.endswith("(healthy)")}
    every = flat.run("docker ps --filter label=com.docker.compose.project=wopr-ops --format {{.Names}}").split()
    assert healthy == set(every)


def _the_happy_path(flat: Flat) -> None:
    flat.run(f"{EVERYTHING} up -d")
    wait_for(lambda: flat.answers("STAND_IN") and flat.answers("STAND_IN_MAIL"), "the stand-ins", START_SECONDS)
    walked = flat.run("docker exec wopr-ops-platform-api-1 wopr smoke --url http://localhost:3100 --json")
    steps: dict[str, Any] = json.loads(walked)
    assert steps["ok"], walked


def _teardown_keeps_data_unless_it_is_told_to_wipe(flat: Flat) -> None:
    kept = flat.run("docker inspect --format '{{range .Mounts}}{{.Name}} {{end}}' wopr-ops-platform-ui-1")
    assert kept.strip() == "", "a volume without a name would be left behind each time"
    flat.run(f"{EVERYTHING} down")
    assert "wopr-ops_postgres-data" in flat.run("docker volume ls -q")
    flat.run(f"{COMPOSE} up -d postgres")
    wait_for(
        lambda: "accepting" in flat.run("docker exec wopr-ops-postgres-1 pg_isready", check=False),
        "PostgreSQL",
        START_SECONDS,
    )
    assert flat.sql("SELECT count(*) FROM gpu_nodes") == "1"
    flat.do("Teardown")
    assert "wopr-ops_postgres-data" not in flat.run("docker volume ls -q")
