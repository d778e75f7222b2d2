"""The docker command on this machine, as building and publishing images need it, with errors that say who must act."""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from wopr.core.errors import NotConfigured, Unavailable, UpstreamFailed
from wopr.delivery.errors import ENGINE_AWAY

COMMAND_SECONDS = 1800.0
TAIL_LINES = 15
UNREACHABLE = ("connection refused", "no such host", "no route to host", "i/o timeout", "timed out", "unreachable")
DENIED = ("unauthorized", "authentication required", "denied", "no basic auth credentials", "forbidden")


@dataclass(frozen=True)
class DockerCommand:
    """The docker command. `config` is the folder of its configuration; None: the user's own, with its contexts."""

    config: Path | None = None
    host: str = ""

    def line(self, *arguments: str) -> tuple[str, ...]:
        """The whole command."""
        host = ("--host", self.host) if self.host else ()
        return ("docker", *(("--config", str(self.config)) if self.config else ()), *host, *arguments)

    def with_config(self, folder: Path) -> "DockerCommand":
        """The same engine with another configuration, which knows nothing of the user's contexts and credentials."""
        endpoint = self.ask("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        return DockerCommand(folder, endpoint or "")

    def ask(self, *arguments: str) -> str | None:
        """What the command writes, or None when it fails: an image that is not there is an answer, too."""
        done = self._run(arguments)
        if done.returncode == 0:
            return done.stdout.strip()
        if _says(done.stderr, ENGINE_AWAY):
            _refuse(arguments, done.stderr)
        return None

    def do(self, *arguments: str, input: str = "") -> str:
        """What the command writes; NotConfigured without docker, Unavailable without a daemon, else UpstreamFailed."""
        done = self._run(arguments, input)
        if done.returncode != 0:
            _refuse(arguments, done.stderr or done.stdout)
        return done.stdout.strip()

    def build(self, arguments: Sequence[str], write: Callable[[IO[bytes]], object]) -> None:
        """Run `docker build … -` with the context that `write` writes to it."""
        with tempfile.TemporaryFile() as log:
            try:
                process = subprocess.Popen(self.line(*arguments), stdin=subprocess.PIPE, stdout=log, stderr=log)
            except FileNotFoundError:
                _no_docker()
            assert process.stdin is not None
            try:
                # It may end before it has read everything, and then says why.
                with contextlib.suppress(BrokenPipeError):
                    write(process.stdin)
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                code = process.wait(COMMAND_SECONDS)
            finally:
                process.kill()
                process.wait()
            if code != 0:
                log.seek(0)
                _refuse(arguments, log.read().decode(errors="replace"))

    def _run(self, arguments: Sequence[str], input: str = "") -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                self.line(*arguments), input=input, capture_output=True, text=True, timeout=COMMAND_SECONDS
            )
        except FileNotFoundError:
            _no_docker()


def _no_docker() -> NoReturn:
    raise NotConfigured(
        "There is no docker command here.", remedy="Install Docker (Debian, Ubuntu: sudo apt-get install docker.io)."
    )


def _refuse(arguments: Sequence[str], complaint: str) -> NoReturn:
    """Raise what a failed docker command means."""
    if _says(complaint, ENGINE_AWAY):
        raise Unavailable(
            f"The Docker daemon does not answer: {complaint.strip()}",
            remedy="Start it (sudo systemctl start docker), or correct DOCKER_HOST.",
        )
    what = next((word for word in arguments if not word.startswith("-")), "docker")
    if what in ("login", "push", "pull") and _says(complaint, DENIED):
        last = complaint.strip().splitlines()[-1]
        raise UpstreamFailed(
            f"The registry refused docker {what}: {last}",
            code="registry_refused",
            remedy="Correct REGISTRY_SERVER, REGISTRY_USERNAME and REGISTRY_PASSWORD; that user must be allowed there.",
        )
    if what in ("login", "push", "pull") and _says(complaint, UNREACHABLE):
        raise UpstreamFailed(
            f"The registry can't be reached by docker {what}: {complaint.strip().splitlines()[-1]}",
            code="registry_away",
            remedy="Does its name stand before the image's, and does it answer? Then run the command again.",
        )
    tail = "\n".join(complaint.strip().splitlines()[-TAIL_LINES:])
    raise UpstreamFailed(f"docker {what} failed:\n{tail}", code="docker_failed")


def _says(text: str, words: Sequence[str]) -> bool:
    lower = text.lower()
    return any(word in lower for word in words)
