"""`wopr local` where it can't work: each lack is named with what to do. What it does is shown in tests/runbook."""

import shutil
from pathlib import Path

import pytest
from tests.live import missing
from tests.machines import engine as engines
from tests.machines.composing import compose_environment
from tests.stack import run_wopr

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folder of the two machines, which a test may write to."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns(".env"))
    return tmp_path / "deploy" / "local"


def test_a_folder_without_machines_is_named(tmp_path: Path) -> None:
    done = run_wopr("local", "up", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert f"There is no {tmp_path}/docker-compose.yml." in done.stderr
    assert "--dir" in done.stderr


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "seed"])
def test_without_docker_it_says_how_to_get_it(copy: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(copy))
    done = run_wopr("local", command, "--dir", str(copy))
    assert done.returncode == 1
    assert "There is no docker command here." in done.stderr
    assert "fix: Install Docker" in done.stderr


def test_without_a_daemon_it_says_how_to_start_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("docker") is None:
        missing("docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{copy}/docker.sock")
    done = run_wopr("local", "up", "--dir", str(copy))
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "sudo systemctl start docker" in done.stderr


@pytest.mark.machines
def test_weights_that_are_missing_are_named_and_a_folder_is_remembered(copy: Path, tmp_path: Path) -> None:
    if not engines.available():
        missing("docker")
    with engines.running() as engine:
        environment = compose_environment(engine, tmp_path / ".docker")
        words = ("local", "up", "--dir", str(copy), "--models", str(tmp_path))
        done = run_wopr(*words, environment=environment)
        assert done.returncode == 1
        assert "llama.gguf" in done.stderr
        assert (copy / ".env").read_text() == f"MODELS_DIR={tmp_path}\n"
