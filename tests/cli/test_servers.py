"""How servers end, by one rule: SIGTERM is a clean stop and exits 0, Ctrl-C stops as well and exits 130."""

import asyncio
import contextlib
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import httpx
import pytest
from tests.inference.engines.tiny import write_tiny_model
from tests.live import wait_for
from tests.stack import clean_environment, free_ports, run_wopr

WOPR = [sys.executable, "-m", "wopr"]
PATIENCE_SECONDS = 60.0
SERVERS = ("api", "ui", "engine llama", "engine llama gguf", "engine qwen", "emulators all", "deliver")


SERVED = """
import asyncio, gc, os, signal, sys
from wopr.cli.serving import Drain, begin_loading, serve

async def application(scope, receive, send):
    await receive()
    print(gc.isenabled(), gc.get_freeze_count() > 0, flush=True)
    await send({"type": "lifespan.startup.complete"})
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

begin_loading()
print(gc.isenabled(), flush=True)
serve("test", application, "127.0.0.1", int(sys.argv[1]), Drain(lambda: None, 0.0, 1.0))
"""


def test_garbage_is_looked_for_from_serving_on_and_not_among_what_was_loaded() -> None:
    command = [sys.executable, "-c", SERVED, str(free_ports()["stripe"])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (ended.returncode, ended.stdout.splitlines()[:2]) == (0, ["False", "True True"]), ended.stderr


@contextlib.contextmanager
def running(name: str, home: Path, before: Sequence[str] = (), **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The server, serving, with nothing else there."""
    port = free_ports()["stripe"]  # the next one is free too
    command = [*WOPR, *name.removesuffix(" gguf").split()]
    command += ["--dir", str(home)] if name == "deliver" else ["--port", str(port)]
    if name.endswith("gguf"):
        command += ["--model", str(write_tiny_model(home / "tiny.gguf"))]
    nowhere = {
        "WOPR_HOME": str(home),
        "DATABASE_URL": "postgresql://wopr@127.0.0.1:1/wopr_platform",
        "DELIVER_HOOK_SECRET": "whispered",
        "DELIVER_HOOK_HOST": "127.0.0.1",
        "DELIVER_HOOK_PORT": str(port),
        "WOPR_IMAGE": "127.0.0.1:1/wopr-platform:latest",
        "BOT_IMAGE": "127.0.0.1:1/wopr-bot:latest",
    }
    process = subprocess.Popen(
        [*before, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment() | nowhere | settings,
        preexec_fn=_heed_hangup,
    )
    try:
        wait_for(lambda: process.poll() is not None or _answers(port), f"{name} to serve")
        yield process
    finally:
        process.kill()
        process.communicate()


def _heed_hangup() -> None:
    """Where the tests themselves run under nohup, what they start would not notice that its terminal went away."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _answers(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code in (200, 404)
    return False  # the deliverer's listener has no /health


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_told_to_stop_says_by_its_exit_code_who_told_it(
    name: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with running(name, tmp_path) as process:
        process.send_signal(number)
        told = "".join(process.communicate(timeout=PATIENCE_SECONDS))
        assert (process.returncode, "Traceback" in told) == (code, False), told


def test_a_server_started_with_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    with running("emulators all", tmp_path, before=("nohup",)) as process:
        process.send_signal(signal.SIGHUP)
        port = int(process.args[-1])
        assert all(_answers(port) for _ in range(50))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0


def test_ctrl_c_while_the_command_still_loads_is_no_trace_either() -> None:
    program = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from wopr.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (130, "")


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """The address of a database that was never migrated."""

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(statement)
        await connection.close()

    name = f"empty_{secrets.token_hex(6)}"
    asyncio.run(execute(f"CREATE DATABASE {name}"))
    yield f"{postgres_url.rpartition('/')[0]}/{name}"
    asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))


def test_the_api_is_not_ready_while_a_migration_is_pending_and_begins_by_itself(
    empty_database: str, tmp_path: Path
) -> None:
    own = {"DATABASE_URL": empty_database, "BETTER_AUTH_SECRET": secrets.token_hex(32)}
    with running("api", tmp_path, **own) as process:
        address = f"http://127.0.0.1:{list(process.args)[-1]}"
        unready = httpx.get(f"{address}/ready", timeout=30, trust_env=False)
        assert unready.status_code == 503
        assert "migrations pending: database at nothing" in str(unready.json()["reasons"])
        assert httpx.get(f"{address}/v1/models", timeout=30, trust_env=False).status_code == 503
        migrated = run_wopr("migrate", "apply", environment={**clean_environment(), **own, "WOPR_HOME": str(tmp_path)})
        assert migrated.returncode == 0, migrated.stderr
        wait_for(
            lambda: httpx.get(f"{address}/ready", timeout=30, trust_env=False).status_code == 200, "the API to be ready"
        )
        assert httpx.get(f"{address}/v1/models", timeout=30, trust_env=False).status_code == 401
