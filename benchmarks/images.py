"""Our images: what each layer weighs, and how long a container takes from `docker run` until it answers.

The images are built by `wopr images build` on what stands for the public base image, as in the tests; the layers above
the base are those of production.
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from report import median, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.machines import building, engine
from tests.machines.engine import Engine

ROUNDS = 5
WAIT_SECONDS = 60.0
MEGABYTE = 1_000_000
RESTRICTED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
BOT = (
    *("--env", "WOPR_BOT_TOKEN=" + "t" * 32, "--env", "WOPR_SERVICE_KEY=" + "k" * 32),
    *("--env", "WOPR_GATEWAY_URL=http://127.0.0.1:9/v1", "--env", "WOPR_BOT_MODEL=handbook"),
)


def named(kind: str, running: Engine, image: str) -> list[tuple[str, str, str]]:
    """A row for each layer: the base, then what we add, in the order of the Dockerfile."""
    sizes = running.docker("history", "--human=false", "--format", "{{.Size}}", image).stdout.split()
    found = [int(size) for size in reversed(sizes) if int(size) > 10_000]
    names = ["base image (of the tests)", "programs and the user"]
    names += ["Docker client", "compose", "packages of the engines"] if kind == "platform" else []
    names += ["packages", "the program"]
    rows = [(kind, name, f"{size / MEGABYTE:.1f} MB") for name, size in zip(names, found, strict=True)]
    return [*rows, (kind, "all", f"{sum(found) / MEGABYTE:.0f} MB")]


def answers(port: str, path: str) -> bool:
    """Whether it answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def seconds_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("it never became ready")
        time.sleep(0.01)


def cold_start(running: Engine, image: str, options: tuple[str, ...], port: int, path: str) -> float:
    """From `docker run` to the first 200."""
    begun = time.perf_counter()
    container = running.run(image, options=(*RESTRICTED, *options, "--publish", f"127.0.0.1::{port}"))
    try:
        published = running.docker("port", container, f"{port}/tcp").stdout.split(":")[-1].strip()
        seconds_until(lambda: answers(published, path))
        return time.perf_counter() - begun
    finally:
        running.remove(container)


def with_database(running: Engine, image: str) -> tuple[str, tuple[str, ...]]:
    """A PostgreSQL that is migrated, and what the API needs to find it."""
    network = running.network(f"wopr-bench-{uuid.uuid4().hex[:8]}")
    options = ("--network", network, "--network-alias", "postgres", "--env", "POSTGRES_PASSWORD=secret")
    server = running.run(building.ensure(running, "postgres"), options=options)
    ask = ("exec", server, "pg_isready", "-q", "-h", "127.0.0.1")
    seconds_until(lambda: running.docker(*ask, check=False).returncode == 0)
    address = "DATABASE_URL=postgresql://postgres:secret@postgres:5432/postgres"
    reach = ("--network", network, "--env", address)
    migrated = running.once(image, "migrate", "apply", options=(*RESTRICTED, *reach))
    if migrated.returncode != 0:
        raise SystemExit(migrated.stderr)
    return server, reach


def builds(kind: str) -> float:
    """Seconds of a `wopr images build` that finds the image."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "wopr", "images", "build", f"--{kind}", "--repository", "wopr-test"]
    subprocess.run([*command, "--tag", "current", "--progress", "quiet"], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    with engine.running() as running:
        platform, bot = building.ours(running, "platform"), building.ours(running, "bot")
        table(
            "Images", ("image", "layer", "size"), [*named("platform", running, platform), *named("bot", running, bot)]
        )
        server, options = with_database(running, platform)
        starts = {
            "api: /ready on a migrated PostgreSQL": (platform, options, 3100, "/ready"),
            "bot: /health": (bot, BOT, 7437, "/health"),
        }
        rows = []
        for name, (image, given, port, path) in starts.items():
            times = [cold_start(running, image, given, port, path) for _ in range(ROUNDS)]
            rows.append((name, f"{median(times):.2f} s", f"{max(times):.2f} s"))
        running.remove(server)
        for kind in ("platform", "bot"):
            times = [builds(kind) for _ in range(3)]
            rows.append(
                (f"wopr images build --{kind}, nothing changed", f"{median(times):.2f} s", f"{max(times):.2f} s")
            )
        table("Containers", ("from docker run to the first 200", "median", "slowest"), rows)


if __name__ == "__main__":
    main()
