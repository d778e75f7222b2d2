"""The engine of the tests: it cleans up after itself, and after runs that were killed."""

import subprocess

from tests.machines.engine import Engine, _sweep_dead_runs


def test_a_container_of_the_base_image_has_what_tests_use(engine: Engine, base_image: str) -> None:
    done = engine.once(base_image, "sh", "-c", "docker --version && git --version && python3 --version && id -u")
    assert done.returncode == 0, done.stderr
    assert "Python 3.11" in done.stdout


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_has_is_kept(engine: Engine, slim_image: str) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = engine.docker("create", "--label", f"wopr.test={gone.pid}-1", slim_image, "true").stdout.strip()
    engine.docker("volume", "create", "--label", f"wopr.test={gone.pid}-1", f"left-{gone.pid}")
    ours = engine.docker("create", "--label", engine.label, slim_image, "true").stdout.strip()
    _sweep_dead_runs(engine)
    assert engine.docker("inspect", left, check=False).returncode != 0
    assert engine.docker("volume", "inspect", f"left-{gone.pid}", check=False).returncode != 0
    assert engine.docker("inspect", ours, check=False).returncode == 0
    engine.remove(ours)
