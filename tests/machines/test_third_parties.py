"""What stands for other people's images does what they do, as far as our files and commands rely on it."""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.live import wait_for
from tests.machines.engine import Engine

SETTINGS = ("--env", "POSTGRES_USER=wopr", "--env", "POSTGRES_PASSWORD=secret", "--env", "POSTGRES_DB=wopr_platform")


def query(engine: Engine, container: str, sql: str) -> str:
    command = ("psql", "--host", "127.0.0.1", "-U", "wopr", "-d", "wopr_platform", "-tAc", sql)
    return engine.docker("exec", "--env", "PGPASSWORD=secret", container, *command, check=False).stdout.strip()


def test_postgres_makes_its_database_once_and_keeps_it(
    engine: Engine, third_party_images: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "10-table.sql").write_text("CREATE TABLE seeded AS SELECT 42 AS answer;")
    tmp_path.chmod(0o755)
    volume = engine.volume("wopr-test-postgres")
    mounts = (
        "--volume",
        f"{volume}:/var/lib/postgresql/data",
        "--volume",
        f"{tmp_path}:/docker-entrypoint-initdb.d:ro",
    )
    for _ in range(2):
        server = engine.run(third_party_images["postgres"], options=(*SETTINGS, *mounts))
        wait_for(lambda: query(engine, server, "SELECT answer FROM seeded") == "42", "the database")  # noqa: B023
        assert engine.docker("exec", server, "pg_isready", "-q", "-U", "wopr").returncode == 0
        assert engine.docker("exec", "-u", "postgres", server, "id", "-un").stdout.strip() == "postgres"
        owner = engine.docker("exec", server, "stat", "-c", "%U", "/proc/1").stdout.strip()
        assert owner == "postgres"
        engine.docker("stop", "--time", "20", server)
        assert engine.state(server, ".State.ExitCode") == "0"
        engine.remove(server)


def test_postgres_refuses_to_start_without_a_password(engine: Engine, third_party_images: Mapping[str, str]) -> None:
    done = engine.once(third_party_images["postgres"])
    assert done.returncode == 1
    assert "password is not specified" in done.stderr


def test_caddy_serves_what_its_file_says(engine: Engine, third_party_images: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "Caddyfile").write_text(':80 {\n\trespond "hello from caddy"\n}\n')
    tmp_path.chmod(0o755)
    mount = ("--volume", f"{tmp_path}/Caddyfile:/etc/caddy/Caddyfile:ro")
    edge = engine.run(third_party_images["caddy"], options=mount)
    wait_for(
        lambda: (
            engine.docker("exec", edge, "wget", "-qO-", "http://localhost", check=False).stdout == "hello from caddy"
        ),
        "caddy",
    )
    engine.remove(edge)


def test_the_client_image_brings_compose_as_a_plugin(engine: Engine, third_party_images: Mapping[str, str]) -> None:
    done = engine.once(third_party_images["docker-cli"], "docker", "compose", "version")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Compose version v?2\.", done.stdout), done.stdout
