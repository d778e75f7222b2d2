"""The engine of the tests: it cleans up after itself, and after runs that were killed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.live import missing, wait_for
from tests.machines.building import CHECKOUT
from tests.machines.engine import Engine, _answers, _sweep_dead_runs
from tests.machines.second import BEGIN, end_what_is_left

# A process, and the address of the engine that it uses.
Run = tuple["subprocess.Popen[str]", str]
Begin = Callable[[], Run]
# A run of tests: it begins to use an engine, and uses it once more before it ends.
USING = """
import sys
from tests.machines.engine import running
with running() as engine:
    print("began", flush=True)
    sys.stdin.readline()
    print(engine.docker("info", check=False).returncode, flush=True)
"""


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begins runs of tests on a machine without an engine, which is a network and a folder."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("dockerd")
    folder = Path(tempfile.mkdtemp(prefix="wopr-e-", dir="/var/tmp"))
    subprocess.run(["ip", "netns", "add", folder.name], check=True, capture_output=True)
    environment = {**os.environ, "DOCKER_HOST": f"unix://{folder}/docker.sock", "WOPR_TEST_CACHE": str(folder)}
    enter = ("nsenter", f"--net=/var/run/netns/{folder.name}", "sh", "-c", BEGIN, "sh")
    with ExitStack() as stack:
        stack.callback(forget, folder)
        stack.callback(subprocess.run, ["ip", "netns", "del", folder.name], capture_output=True)

        def run() -> Run:
            command, pipe = (*enter, sys.executable, "-c", USING), subprocess.PIPE
            begun = subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe, cwd=CHECKOUT)
            stack.enter_context(begun)
            assert said(begun) == "began"
            return begun, environment["DOCKER_HOST"]

        yield run


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


def test_an_engine_of_the_tests_ends_with_the_last_run_that_uses_it(begin: Begin) -> None:
    (first, socket), (second, _) = begin(), begin()
    assert said(first, "go on\n") == "0"
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(2)
    assert said(second, "go on\n") == "0"
    assert (second.wait(120), first.wait(120)) == (0, 0)
    assert not _answers(socket)


def test_an_engine_of_the_tests_does_not_outlive_a_run_that_is_killed(begin: Begin) -> None:
    run, socket = begin()
    assert _answers(socket)
    run.kill()
    wait_for(lambda: not _answers(socket), "the end of the engine")


def forget(folder: Path) -> None:
    """Remove what engines kept there, and what killed ones left elsewhere."""
    end_what_is_left(folder)
    for settings in Path("/run").glob("wopr-dockerd-*/containerd/containerd.toml"):
        if str(folder) in settings.read_text():
            shutil.rmtree(settings.parent.parent)
    shutil.rmtree(folder)


def said(run: "subprocess.Popen[str]", told: str = "") -> str:
    """The next line of a run, after it was told something."""
    assert run.stdin is not None
    assert run.stdout is not None
    run.stdin.write(told)
    run.stdin.flush()
    return run.stdout.readline().strip()
