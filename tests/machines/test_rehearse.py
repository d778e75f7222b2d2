"""`wopr rehearse`: from nothing to live and back on real machines, with proof; and nothing left, however it ends."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.inference.engines.tiny import write_tiny_model
from tests.live import wait_for
from tests.machines.building import CHECKOUT
from tests.machines.engine import Engine
from tests.machines.gpu_images import ensure_gpu_images
from tests.stack import clean_environment

from wopr.cli.rehearse_stage import Stage
from wopr.cli.rehearse_steps import STEPS
from wopr.inference.engines.minilm import ensure_minilm
from wopr.ops.proof import damages

RUNBOOK = Path(__file__).parent.parent / "runbook" / "runbook.md"
pytestmark = pytest.mark.xdist_group("rehearse")
PLAYED_SECONDS = 1_500.0
ENDED_SECONDS = 120.0


@dataclass(frozen=True)
class Rehearsal:
    """The command in a folder of its own."""

    engine: Engine
    folder: Path
    slim: str
    images: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def stage(self) -> Stage:
        return Stage(self.folder / "rehearsal", "wopr.bot")

    def command(self, *words: str) -> list[str]:
        chosen = ("--dir", str(self.stage.folder), "--base-image", self.slim, "--json", "--progress", "plain")
        return [sys.executable, "-m", "wopr", "rehearse", *chosen, *words]

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, env=self.environment, timeout=PLAYED_SECONDS
        )

    def begun(self) -> "subprocess.Popen[str]":
        """One that has its stand-ins, and is busy with its images."""
        log = self.folder / "told"
        with log.open("w") as told:
            process = subprocess.Popen(self.command(*self.images), env=self.environment, stdout=told, stderr=told)

        def busy() -> bool:
            assert process.poll() is None, log.read_text()
            return "docker --config" in log.read_text()

        wait_for(busy, "the rehearsal to publish images", ENDED_SECONDS)
        return process

    def left(self) -> list[str]:
        """What it has on this machine: processes, containers, volumes, networks, images."""
        label = f"label=wopr.cloud={self.stage.installation}"
        found = self.engine.docker("ps", "--all", "--quiet", "--filter", label).stdout.split()
        for kind in ("volume", "network"):
            found += self.engine.docker(kind, "ls", "--quiet", "--filter", label).stdout.split()
        images = self.engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        found += [image for image in images if f"/rehearsal-{self.stage.installation}/" in image]
        mark = str(self.stage.folder)
        return found + [
            p.info["name"] for p in psutil.process_iter(["name", "cmdline"]) if mark in str(p.info["cmdline"])
        ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A publisher of models on every address of this machine, which names their SHA-256; its port."""
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_model(folder / "tiny.gguf")
    ensure_minilm(folder)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.gguf")}

    class Publisher(SimpleHTTPRequestHandler):
        def __init__(self, *about: Any) -> None:
            super().__init__(*about, directory=str(folder))

        def end_headers(self) -> None:
            self.send_header("x-linked-etag", f'"{digests.get(self.path.strip("/"), "")}"')
            super().end_headers()

        def log_message(self, *_words: object) -> None:
            """Nothing is told."""

    with ThreadingHTTPServer(("0.0.0.0", 0), Publisher) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


@pytest.fixture
def rehearsal(
    engine: Engine,
    slim_image: str,
    platform_image: str,
    bot_image: str,
    third_party_images: object,
    weights: str,
    tmp_path: Path,
) -> Iterator[Rehearsal]:
    ensure_gpu_images(engine, platform_image)
    own = {"DOCKER_HOST": engine.socket, "WOPR_HOME": str(tmp_path)}
    # A key of the operator's own must never be used: with this one nothing would answer.
    real = {"DO_API_TOKEN": "dop_v1_real", "DO_API_BASE": "http://127.0.0.1:9", "STRIPE_SECRET_KEY": "sk_live_real"}
    environment = {**clean_environment(), **own, **real}
    images = ("--image", platform_image, "--bot", bot_image)
    made = Rehearsal(engine, tmp_path, slim_image, images, environment)
    at = f"http://{made.stage.host}:{weights}"
    environment |= {"GPU_TEXT_MODEL": f"{at}/tiny.gguf", "GPU_EMBEDDING_MODEL": f"{at}/minilm.gguf"}
    environment |= {"GPU_CONTEXT": "512"}
    try:
        yield made
    finally:
        made.stage.end()


def test_from_nothing_to_live_and_back(rehearsal: Rehearsal) -> None:
    played = rehearsal.run("--source", str(CHECKOUT))
    assert played.returncode == 0, played.stderr[-8000:]
    told = json.loads(played.stdout)
    steps = {step["step"]: step for step in told["steps"]}
    assert list(steps) == [step.name for step in STEPS]
    assert all(step["evidence"] for step in told["steps"])
    assert any(command.startswith("wopr deploy ") for command in steps["release"]["commands"])
    assert "signed by CN=Pebble" in steps["certificate"]["evidence"]
    for url, answer in health_checks().items():
        assert f"{url} {answer}" in steps["certificate"]["evidence"]
    assert "as release 3" in steps["rollback"]["evidence"]
    proof = rehearsal.stage.folder
    assert not damages_of(proof)
    pages = {page.name for page in (proof / "logbook").glob("*.md")}
    assert {"RUNBOOK.md", "DEPLOYMENTS.md", "MIGRATIONS.md"} <= pages
    journal = (proof / "journal.jsonl").read_text()
    for name in ("machine.provision", "dns.apply", "deploy", "rollback", "smoke", "rehearse"):
        assert f'"{name}"' in journal
    assert "GPU_ADMIT" in journal, "nodes admit the VPS alone, by what the release found out there"
    assert json.loads((proof / "rehearsal.json").read_text())["ok"]
    assert rehearsal.left() == []


def test_a_step_that_fails_names_its_command_and_leaves_nothing(rehearsal: Rehearsal) -> None:
    failed = rehearsal.run("--image", "wopr-test/none:at-all", "--bot", "wopr-test/none:at-all")
    assert failed.returncode == 1
    error = failed.stderr.partition("error: ")[2]
    assert "docker tag wopr-test/none:at-all" in error
    assert "No such image" in error
    assert "fix: " in error
    assert rehearsal.left() == []
    assert not json.loads((rehearsal.stage.folder / "rehearsal.json").read_text())["ok"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_interrupted_leaves_nothing(rehearsal: Rehearsal, how: signal.Signals) -> None:
    process = rehearsal.begun()
    process.send_signal(how)
    assert process.wait(ENDED_SECONDS) == 130
    assert rehearsal.left() == []


def test_what_a_killed_one_left_is_ended_by_a_word(rehearsal: Rehearsal) -> None:
    process = rehearsal.begun()
    process.kill()
    process.wait(ENDED_SECONDS)
    assert rehearsal.left()
    assert json.loads(rehearsal.run("--down").stdout)["ended"]
    assert rehearsal.left() == []
    assert rehearsal.run("--down", "--exit-code").returncode == 4


def health_checks() -> dict[str, str]:
    """What the runbook lists under "Health Check URLs (when live)": an address, and how its answer begins."""
    text = RUNBOOK.read_text(encoding="utf-8").partition("## Health Check URLs (when live)")[2].partition("\n---")[0]
    lines = dict(re.findall(r"^- \w+: `(https://[^`]+)` → (.+)$", text, re.MULTILINE))
    assert set(lines.values()) == {'`{"status":"ok"}`', "200 with valid TLS"}, "each is asked for here"
    return {url: '200 {"status":"ok"}' if "status" in says else "200" for url, says in lines.items()}


def damages_of(folder: Path) -> list[str]:
    from wopr.ops.journal import Journal

    return [damage.reason for damage in damages(Journal(folder), None)]
