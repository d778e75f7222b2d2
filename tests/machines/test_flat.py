"""Approach B of the runbook by its own commands: the flat stack, its seeder, its health checks, its teardown."""

import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.inference.engines.tiny import write_tiny_model
from tests.live import wait_for
from tests.machines.composing import compose_environment
from tests.machines.engine import Engine
from tests.machines.gpu_images import ensure_gpu_images
from tests.machines.installation import port

from wopr.inference.engines.minilm import ensure_minilm

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
FILES = ("docker-compose.local.yml", "Caddyfile.local", "gpu-seeder.sql", ".env.local.example")
COMPOSE = "docker compose -f docker-compose.local.yml --env-file .env.local"
EVERYTHING = f"{COMPOSE} --profile voice --profile llm --profile offline"
PSQL = "docker exec wopr-ops-postgres-1 psql -U wopr -d wopr_platform"
PUBLISHED = ("API", "HTTP", "LLAMA", "CHATTERBOX", "WHISPER", "QWEN", "STAND_IN", "STAND_IN_MAIL")
COMMAND_SECONDS = 300
START_SECONDS = 120.0
NODE = "local-gpu-node-001"
# The runbook's own statement, "Manual equivalent (if needed outside compose)".
RUNBOOK_INSERT = f"""
INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, service_health, monthly_cost_cents)
VALUES (
  '{NODE}',
  'host.docker.internal',
  'local',
  'rtx-3070',
  'active',
  'done',
  '{{"llama":true,"chatterbox":true,"whisper":true,"qwen":true}}',
  0
) ON CONFLICT (id) DO UPDATE SET
  host = 'host.docker.internal',
  status = 'active',
  provision_stage = 'done',
  service_health = '{{"llama":true,"chatterbox":true,"whisper":true,"qwen":true}}',
  updated_at = EXTRACT(epoch FROM now())::bigint;
"""


@dataclass(frozen=True)
class Flat:
    """The folder from which the runbook's commands are run, and the ports that this run took."""

    folder: Path
    environment: dict[str, str]
    ports: dict[str, int]

    def run(self, command: str, check: bool = True) -> str:
        """One command of the runbook; what it wrote to stdout."""
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def sql(self, statement: str) -> str:
        return self.run(f"{PSQL} -At -c {shlex.quote(statement)}").strip()

    def health(self) -> dict[str, bool]:
        """What the watchdog last wrote of the node."""
        found: dict[str, bool] = json.loads(self.sql(f"SELECT service_health FROM gpu_nodes WHERE id = '{NODE}'"))
        return found

    def get(self, port: str, path: str = "/health", host: str = "localhost") -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[port]}{path}", headers={"host": host}, timeout=5)

    def logs(self) -> str:
        return self.run(f"{EVERYTHING} logs --tail 60", check=False)


@pytest.fixture(scope="module")
def flat(
    engine: Engine, platform_image: str, third_party_images: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flat]:
    """A folder named as the runbook's, filled as it says; everything is gone at the end."""
    ensure_gpu_images(engine, platform_image)
    folder = tmp_path_factory.mktemp("flat") / "wopr-ops"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((DEPLOY / name).read_bytes())
    models = folder / "models"
    models.mkdir()
    write_tiny_model(models / "llama.gguf")
    ensure_minilm(models).rename(models / "qwen2-0_5b-instruct-q8_0.gguf")
    ports = {name: port() for name in PUBLISHED}
    (folder / ".env.local").write_text(_environment_file(folder, platform_image, ports))
    made = Flat(folder, compose_environment(engine, folder / ".docker"), ports)
    made.run(f"{EVERYTHING} down -v", check=False)  # what a killed run left
    yield made
    made.run(f"{EVERYTHING} down -v")


def _environment_file(folder: Path, image: str, ports: dict[str, int]) -> str:
    """.env.local.example with its empty secrets filled, for a machine without a GPU and without a network."""
    filled = re.sub(r"(?m)^([A-Z_]+)=$", lambda m: f"{m[1]}={secrets.token_hex(16)}", (folder / FILES[3]).read_text())
    chosen = {
        "GPU_RUNTIME": "runc",
        "DEVICE": "cpu",
        "GPU_LAYERS": "0",
        "FLASH_ATTN": "off",
        "MODELS_DIR": f"{folder}/models",
        "STRIPE_SECRET_KEY": "sk_test_flat",
        "STRIPE_WEBHOOK_SECRET": "whsec_flat_stack",
        "RESEND_API_KEY": "re_flat",
        "STRIPE_API_BASE": "http://stand-ins:4101",
        "RESEND_API_BASE": "http://stand-ins:4102",
        "STRIPE_DEFAULT_PRICE_ID": "price_wopr_monthly",
        "PLATFORM_IMAGE": image,
        "PLATFORM_UI_IMAGE": image,
        **{f"{name}_PORT": str(port) for name, port in ports.items()},
    }
    kept = [line for line in filled.splitlines() if line.partition("=")[0] not in chosen]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in chosen.items())]) + "\n"


def test_the_flat_stack_comes_up_is_seeded_serves_and_is_torn_down(flat: Flat) -> None:
    _up_with_voice(flat)
    _seeded_twice_is_one_row(flat)
    _the_runbooks_sql_runs_unchanged(flat)
    _with_llm_everything_is_healthy(flat)
    _the_happy_path(flat)
    _teardown_keeps_data_unless_it_is_told_to_wipe(flat)


def _up_with_voice(flat: Flat) -> None:
    flat.run(f"{COMPOSE} --profile voice --profile offline up -d")
    wait_for(lambda: _answers(flat, "API", "/ready"), "the API to be ready", START_SECONDS)
    assert flat.get("API").json() == {"status": "ok"}
    wait_for(lambda: _answers(flat, "HTTP", "/"), "the pages behind Caddy", START_SECONDS)
    assert "WOPR" in flat.get("HTTP", "/").text
    assert flat.get("HTTP", host="api.localhost").json() == {"status": "ok"}
    assert flat.get("HTTP", "/", host="172.23.176.117").status_code == 200  # an address of the local network
    for service in ("CHATTERBOX", "WHISPER"):
        wait_for(lambda service=service: _answers(flat, service), service, START_SECONDS)


def _seeded_twice_is_one_row(flat: Flat) -> None:
    for _ in range(2):
        flat.run(f"{COMPOSE} run --rm gpu-seeder")
    assert flat.sql("SELECT count(*), min(host) FROM gpu_nodes") == "1|host.docker.internal"
    voice = {"llama": False, "chatterbox": True, "whisper": True, "qwen": False}
    wait_for(lambda: flat.health() == voice, "the watchdog's view of the voice profile", START_SECONDS)


def _the_runbooks_sql_runs_unchanged(flat: Flat) -> None:
    flat.run(f"{PSQL} -c {shlex.quote(RUNBOOK_INSERT)}")
    shown = flat.run(f'{PSQL} -c "SELECT id, host, status, service_health FROM gpu_nodes;"')
    assert NODE in shown
    flat.run(f"{COMPOSE} restart platform-api")
    wait_for(lambda: _answers(flat, "API", "/ready"), "the API after its restart", START_SECONDS)


def _with_llm_everything_is_healthy(flat: Flat) -> None:
    flat.run(f"{COMPOSE} --profile voice --profile llm --profile offline up -d")
    wait_for(lambda: all(flat.health().values()), "all four services", START_SECONDS)
    for service in ("LLAMA", "QWEN"):
        assert flat.get(service).json() == {"status": "ok"}


def _the_happy_path(flat: Flat) -> None:
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
    flat.run(f"{EVERYTHING} down -v")
    assert "wopr-ops_postgres-data" not in flat.run("docker volume ls -q")


def _answers(flat: Flat, port: str, path: str = "/health") -> bool:
    try:
        return flat.get(port, path).status_code == 200
    except httpx.TransportError:
        return False
