"""The two machines of the local topology, `wopr-vps` and `wopr-gpu`, as `wopr local` starts and looks at them.

Everything is done by the docker command, in the words of the runbook, so that a person can go on by hand at any point.
What happens inside the machines is theirs: `deploy/local/` says it.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wopr.core.errors import NotConfigured, Unavailable
from wopr.delivery.commands import parsed_env
from wopr.delivery.image_engine import DockerCommand

FOLDER = Path(__file__).parents[3] / "deploy" / "local"
VPS, GPU = "wopr-vps", "wopr-gpu"
MACHINES = (VPS, GPU)
VOLUMES = ("wopr-vps-docker-data", "wopr-vps-platform", "wopr-gpu-docker-data")
SERVICES: Mapping[str, int] = {"llama": 8080, "chatterbox": 8081, "whisper": 8082, "qwen": 8083}
API_PORT, UI_PORT, HTTP_PORT = 3100, 3000, 80
THIRD_PARTIES = ("postgres:16-alpine", "caddy:2-alpine")
# Weights that the services of the GPU machine load, in the folder that MODELS_DIR names.
WEIGHTS = ("llama.gguf", "qwen2-0_5b-instruct-q8_0.gguf")
WEIGHTS_DIR = "/opt/models"
LOOK_SECONDS = 0.5
CHUNK_BYTES = 1 << 20
# The name under which images are built here; it comes before what a registry has.
BUILT = "ghcr.io/wopr-network/wopr-platform:local"
DOOR = "wopr-vps-platform-api"
WAITING = "==> waiting for "
RELEASED, NOT_RELEASED = "==> released ", "==> not released "
LOG_LINES = 10_000
BROKEN = "is not started; once that is mended"
NODES_SQL = (
    "SELECT coalesce(json_agg(n), '[]') FROM (SELECT id, host, status, service_health FROM gpu_nodes ORDER BY id) n"
)


@dataclass(frozen=True)
class Topology:
    """Two machines, started from the folder of their compose file."""

    folder: Path = FOLDER
    docker: DockerCommand = field(default_factory=DockerCommand)

    @property
    def compose_file(self) -> Path:
        return self.folder / "docker-compose.yml"

    def compose(self, *words: str) -> str:
        """Run compose on the two machines; what it wrote."""
        return self.docker.do("compose", "-f", str(self.compose_file), *words)

    def check_docker(self) -> None:
        """NotConfigured without the docker command, Unavailable without its daemon, with what to do about it."""
        self.docker.do("version", "--format", "{{.Server.Version}}")

    def check(self) -> None:
        """Whether everything is here that starting needs. As `check_docker`; NotConfigured for what else is missing."""
        if not self.compose_file.is_file():
            raise NotConfigured(f"There is no {self.compose_file}.", remedy="Name its folder in a checkout: --dir")
        self.check_docker()
        if self.docker.ask("compose", "version") is None:
            raise NotConfigured(
                "Docker has no compose here.",
                remedy="Install its plugin: https://docs.docker.com/compose/install/linux/",
            )
        models = Path(self.settings().get("MODELS_DIR", WEIGHTS_DIR)).expanduser()
        if missing := [name for name in WEIGHTS if not (models / name).exists()]:
            raise NotConfigured(
                f"The inference services lack their weights: {', '.join(missing)} in {models}.",
                remedy="Put GGUF files there under these names, or name another folder: wopr local up --models FOLDER",
            )

    def settings(self) -> dict[str, str]:
        """What compose interpolates: `.env` beside its file."""
        return _read_env(self.folder / ".env")

    def choose(self, name: str, value: str) -> bool:
        """Keep a setting for compose, whoever calls it from now on; whether that changed anything."""
        path, chosen = self.folder / ".env", self.settings()
        if chosen.get(name) == value:
            return False
        path.write_text("".join(f"{key}={text}\n" for key, text in {**chosen, name: value}.items()))
        return True

    def learn_privileges(self) -> None:
        """Find out once whether this host's containers may be privileged; where not, capabilities must do."""
        if "MACHINE_PRIVILEGED" in self.settings():
            return
        image = self.settings().get("MACHINE_IMAGE", "docker:27-dind")
        may = self.docker.ask("run", "--rm", "--privileged", "--entrypoint", "/bin/true", image) is not None
        self.choose("MACHINE_PRIVILEGED", str(may).lower())

    def images(self) -> Mapping[str, Sequence[str]]:
        """The images that each machine needs."""
        platform = _read_env(self.folder / "vps" / "defaults.env") | _read_env(self.folder / "vps" / ".env")
        node = _read_env(self.folder / "gpu" / "node.env")
        ours = [BUILT, *(platform[name] for name in ("WOPR_IMAGE", "BOT_IMAGE") if platform.get(name))]
        return {
            VPS: list(dict.fromkeys((*THIRD_PARTIES, *ours))),
            GPU: sorted({image for name, image in node.items() if name.endswith("_IMAGE")}),
        }

    def is_new(self) -> bool:
        """Whether the VPS never served yet: its first boot takes longer."""
        return self._inside(VPS, "test", "-e", "/root/wopr-platform/.env.given") is None

    def image_id(self, image: str, machine: str = "") -> str | None:
        """The id of an image on this host or inside a machine; None where it is not."""
        words = ("image", "inspect", "--format", "{{.Id}}", image)
        return self._inside(machine, "docker", *words) if machine else self.docker.ask(*words)

    def lacking(self, machine: str) -> list[str]:
        """Images that this host has, and the machine has not, or in another version."""
        named = self.images()[machine]
        return [image for image in named if (here := self.image_id(image)) and here != self.image_id(image, machine)]

    def load(self, machine: str, images: Sequence[str], far: Callable[[int], None]) -> None:
        """Pipe images of this host into a machine, as the runbook does; `far` hears how many bytes went."""
        save = subprocess.Popen(self.docker.line("save", *images), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        load = subprocess.Popen(
            self.docker.line("exec", "-i", machine, "docker", "load"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert save.stdout is not None
        assert load.stdin is not None
        went = 0
        try:
            while chunk := save.stdout.read(CHUNK_BYTES):
                load.stdin.write(chunk)
                went += len(chunk)
                far(went)
            load.stdin.close()
        except BrokenPipeError:
            save.kill()
        codes = save.wait(), load.wait()
        if any(codes):
            raise Unavailable(f"{', '.join(images)} did not get into {machine}.", remedy=f"docker logs {machine}")

    def release_built(self, seconds: float) -> None:
        """Have the VPS release the loaded image, as the runbook does, and wait. Unavailable when it is bad."""
        before = len(self._releases())
        self.docker.do("exec", VPS, "docker", "restart", DOOR)
        self.wait(VPS, lambda: len(self._releases()) > before, "the release", seconds)
        if self._releases()[-1].startswith(NOT_RELEASED):
            raise Unavailable(f"{BUILT} is no good release; what served goes on.", remedy="wopr local logs")

    def _releases(self) -> list[str]:
        return [line for line in self.said(VPS, LOG_LINES) if line.startswith((RELEASED, NOT_RELEASED))]

    def wait(self, machine: str, is_done: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something is so. Unavailable when the machine says that it can't go on, or after too long."""
        until = time.monotonic() + seconds
        while not is_done():
            said = self.said(machine)
            if BROKEN in "\n".join(said[-3:]):
                raise Unavailable(f"{machine} did not start: {_why(said)}", remedy=f"docker logs {machine}")
            if said and said[-1].startswith(WAITING):
                image = said[-1].removeprefix(WAITING).partition(";")[0]
                if self.image_id(image) is None:
                    raise Unavailable(f"{machine} can't get the image {image}.", remedy=_how_to_get(image))
            if time.monotonic() > until:
                raise Unavailable(
                    f"{machine}: {what} took longer than {seconds:.0f} s.", remedy=f"docker logs {machine}"
                )
            time.sleep(LOOK_SECONDS)

    def has_engine(self, machine: str) -> bool:
        """Whether the machine's own engine answers."""
        return self._inside(machine, "docker", "info", "--format", "{{.ServerVersion}}") is not None

    def state(self, machine: str) -> str:
        """`healthy` once everything in the machine is started; `absent` when there is no such machine."""
        form = "{{if .State.Running}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
        return self.docker.ask("inspect", "--format", form, machine) or "absent"

    def said(self, machine: str, lines: int = 20) -> list[str]:
        """The last lines of a machine's log."""
        done = subprocess.run(
            self.docker.line("logs", "--tail", str(lines), machine),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout.splitlines()

    def containers(self, machine: str) -> list[dict[str, str]]:
        """What is inside a machine: name, status, image of each container."""
        form = '{"name":"{{.Names}}","status":"{{.Status}}","image":"{{.Image}}"}'
        written = self._inside(machine, "docker", "ps", "--all", "--format", form) or ""
        return sorted((json.loads(line) for line in written.splitlines()), key=lambda one: one["name"])

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that the platform knows, with the health that the watchdog last saw; none while it can't say."""
        psql = ("psql", "-U", "wopr", "-d", "wopr_platform", "-Atc", NODES_SQL)
        written = self._inside(VPS, "docker", "exec", "wopr-vps-postgres", *psql)
        found: list[dict[str, Any]] = json.loads(written) if written else []
        return found

    def _inside(self, machine: str, *words: str) -> str | None:
        """What a command in a machine wrote; None where it failed, or the machine's own engine does not answer yet."""
        try:
            return self.docker.ask("exec", machine, *words)
        except Unavailable:
            return None

    def address(self, machine: str, port: int) -> str:
        """Where a port of a machine is reached on this host; empty when it is not published."""
        written = self.docker.ask("port", machine, str(port))
        published = written.splitlines()[0].rpartition(":")[2] if written else ""
        return f"http://localhost:{published}" if published else ""

    def volumes(self) -> list[str]:
        """Volumes of the two machines that exist."""
        listed = (self.docker.ask("volume", "ls", "--quiet") or "").splitlines()
        return [volume for volume in VOLUMES if volume in listed]

    def seed(self) -> str:
        """Register the GPU machine by hand, by the runbook's seeder; what it said."""
        self.check_docker()
        done = subprocess.run(["sh", str(self.folder / "gpu-seeder.sh")], capture_output=True, text=True)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["the seeder failed"]
            raise Unavailable(lines[0].removeprefix("error: "), remedy="wopr local up")
        return done.stdout.strip()


def _read_env(path: Path) -> dict[str, str]:
    return parsed_env(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _why(said: Sequence[str]) -> str:
    """The last complaint of a log."""
    return next((line for line in reversed(said) if "error" in line.lower()), said[-1])


def _how_to_get(image: str) -> str:
    if "/wopr-" in image:
        return f"wopr images build --tag {image.rpartition(':')[2]}"
    return f"docker pull {image}"
