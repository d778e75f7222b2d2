"""A real Docker engine for the tests: the one that runs, or one that is started here and stopped at the end.

One of our own keeps its images and containers in $WOPR_TEST_CACHE: nothing that somebody else left in the engine of the
system comes back with it, and nothing of ours gets in there.

It ends with the last run that uses it: workers of pytest-xdist share one, and so do runs that live beside each other.

Whatever a test makes carries the label `wopr.test=<run>`, and is removed at the end of the run or, after a kill, at the
beginning of the next one. `<run>` names the process, so that runs that live beside each other leave each other alone.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mortal import mortal

LABEL = "wopr.test"
# What the platform itself makes while it is tested has no label of ours; tests give it this name as its installation.
INSTALLATION = "wopr.installation"
CLOUD = "wopr.cloud"  # the same of the machines of the cloud in a box
START_SECONDS = 60.0
STOP_SECONDS = 60.0
COMMAND_SECONDS = 600.0
SOCKET = Path("/var/run/docker.sock")


class EngineError(RuntimeError):
    """The docker command failed; the text is what it wrote."""


@dataclass(frozen=True)
class Engine:
    """A daemon that answers. `run_id` is what this run's objects are labelled with."""

    socket: str
    run_id: str

    @property
    def label(self) -> str:
        """The value of `docker run --label`."""
        return f"{LABEL}={self.run_id}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which any program talks to this engine."""
        return {**os.environ, "DOCKER_HOST": self.socket}

    def docker(
        self, *args: str, input: str | None = None, check: bool = True, seconds: float = COMMAND_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """Run the docker command; EngineError with its output when it fails and `check` is on."""
        done = subprocess.run(
            ["docker", *args], input=input, capture_output=True, text=True, env=self.environment, timeout=seconds
        )
        if check and done.returncode != 0:
            raise EngineError(f"docker {' '.join(args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def run(self, image: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a labelled container in the background; its id."""
        return self.docker("run", "--detach", "--label", self.label, *options, image, *command).stdout.strip()

    def once(self, image: str, *command: str, options: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run a labelled container to its end and remove it; the command's result, whatever its exit code."""
        return self.docker("run", "--rm", "--label", self.label, *options, image, *command, check=False)

    def network(self, name: str, *options: str) -> str:
        """Make a labelled network; its name."""
        self.docker("network", "create", "--label", self.label, *options, name)
        return name

    def volume(self, name: str) -> str:
        """Make a labelled volume; its name."""
        self.docker("volume", "create", "--label", self.label, name)
        return name

    def address(self, container: str) -> str:
        """The address of a container in the first of its networks; the host reaches it there."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return self.docker("inspect", "--format", form, container).stdout.split()[0]

    def state(self, container: str, what: str = ".State.Status") -> str:
        """One value of `docker inspect`, such as `.State.Health.Status`."""
        return self.docker("inspect", "--format", "{{" + what + "}}", container).stdout.strip()

    def logs(self, container: str) -> str:
        """Everything that a container wrote."""
        done = self.docker("logs", container, check=False)
        return done.stdout + done.stderr

    def remove(self, *containers: str) -> None:
        """Remove containers, running or not, and their anonymous volumes."""
        if containers:
            self.docker("rm", "--force", "--volumes", *containers, check=False)

    def sweep(self, label: str) -> None:
        """Remove every container, network and volume with this label."""
        chosen = ("--filter", f"label={label}", "--quiet")
        self.remove(*self.docker("ps", "--all", *chosen).stdout.split())
        for kind in ("network", "volume"):
            for name in self.docker(kind, "ls", *chosen).stdout.split():
                self.docker(kind, "rm", name, check=False)


def available() -> bool:
    """Whether a Docker engine answers or can be started here."""
    if shutil.which("docker") is None:
        return False
    return _answers(_socket()) or (os.geteuid() == 0 and shutil.which("dockerd") is not None)


@contextmanager
def running() -> Iterator[Engine]:
    """The engine that runs already, else one of our own, which ends when nobody uses it any more."""
    socket = _socket()
    with contextlib.ExitStack() as stack:
        users = stack.enter_context((cache_folder() / "engine.users").open("w"))
        with one_at_a_time("engine"):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not _answers(socket):
                stack.enter_context(_daemon(socket))
                stack.callback(fcntl.flock, users, fcntl.LOCK_EX)  # granted when nobody uses it any more
        engine = Engine(socket, _run_id())
        try:
            _sweep_dead_runs(engine)
            yield engine
        finally:
            engine.sweep(engine.label)
            engine.sweep(f"{INSTALLATION}={engine.run_id}")
            engine.sweep(f"{CLOUD}={engine.run_id}")


def _socket() -> str:
    return os.environ.get("DOCKER_HOST") or f"unix://{SOCKET}"


def _answers(socket: str) -> bool:
    asked = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"],
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_HOST": socket},
    )
    return asked.returncode == 0 and bool(asked.stdout.strip())


@contextmanager
def _daemon(socket: str) -> Iterator[None]:
    log = Path(tempfile.gettempdir()) / f"wopr-test-dockerd-{os.getpid()}.log"
    # The run's own, and short: sockets are in there, whose paths have 108 characters at most.
    state = Path(tempfile.mkdtemp(prefix="wopr-dockerd-", dir="/run"))
    # Killed workers can't stop it, and it must not outlive them.
    command = mortal(["dockerd"])
    command += ["--host", socket, "--data-root", str(cache_folder() / "engine")]
    command += ["--exec-root", str(state), "--pidfile", str(state / "docker.pid")]
    with log.open("wb") as out:
        # A session of its own: Ctrl-C at the terminal is for the tests, which then stop the daemon in order.
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(socket):
            if time.monotonic() > deadline or daemon.poll() is not None:
                end = log.read_text(errors="replace")[-3000:]
                raise EngineError(f"dockerd did not start; the end of {log}:\n{end}")
            time.sleep(0.1)
        yield
    finally:
        _stop(daemon)
        shutil.rmtree(state, ignore_errors=True)


def _stop(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Runs and workers beside each other wait instead of making the same thing twice."""
    with (cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cache_folder() -> Path:
    """Where what takes long is kept between runs."""
    folder = Path(os.environ.get("WOPR_TEST_CACHE", "/var/tmp/wopr-tests"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run_id() -> str:
    return f"{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> str:
    """The kernel's start time of a process, which tells it from a later one with the same number; empty when gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _sweep_dead_runs(engine: Engine) -> None:
    """Remove what runs left behind that were killed."""
    for label in (LABEL, INSTALLATION, CLOUD):
        for run in _runs(engine, label):
            pid, _, started = run.partition("-")
            if pid.isdecimal() and started.isdecimal() and _started(int(pid)) != started:
                engine.sweep(f"{label}={run}")


def _runs(engine: Engine, label: str) -> set[str]:
    chosen = ("--filter", f"label={label}", "--format", '{{.Label "' + label + '"}}')
    listed = [engine.docker("ps", "--all", *chosen)]
    listed += [engine.docker(kind, "ls", *chosen) for kind in ("network", "volume")]
    return {line.strip() for done in listed for line in done.stdout.splitlines() if line.strip()}
