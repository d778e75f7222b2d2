"""The user data of a rented machine: valid for cloud-init itself, and a script that shellcheck finds nothing in."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from tests.live import missing

from wopr.core.errors import Invalid, NotFound
from wopr.core.ids import NodeId
from wopr.core.settings import Settings
from wopr.inference import bootstrap
from wopr.inference.cloud_init import CHECKOUT, First, packaged, user_data
from wopr.inference.rented import Opened

FIRST = First("https://api.example.com", "gpu-tor1-1", "a-token", needs_gpu=True)


@pytest.fixture(scope="module")
def schema() -> Any:
    """cloud-init's own, which scripts/prepare-tests takes out of Debian's package."""
    path = Path(os.environ.get("WOPR_TEST_CACHE", "/var/tmp/wopr-tests")) / "cloud-config-schema.json"
    if not path.exists():
        missing("cloud-init's schema (bash scripts/prepare-tests)")
    return jsonschema_rs.validator_for(json.loads(path.read_text(encoding="utf-8")))


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(user_data(FIRST))
    return loaded


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(packaged("compose.yaml"))
    return loaded


def test_cloud_init_takes_it(schema: Any) -> None:
    assert user_data(FIRST).startswith("#cloud-config\n")
    assert [error.message for error in schema.iter_errors(document())] == []
    wrong = document()
    wrong["write_files"][0]["permision"] = "0600"
    assert [error.message for error in schema.iter_errors(wrong)] != []


def test_the_files_arrive_as_they_are_in_the_repository() -> None:
    written = {file["path"]: file for file in document()["write_files"]}
    assert written["/opt/wopr/setup"]["content"] == (CHECKOUT / "setup").read_text(encoding="utf-8")
    assert written["/opt/wopr/setup"]["permissions"] == "0755"
    assert written["/etc/wopr/first.env"]["permissions"] == "0600"
    assert "NEEDS_GPU=yes\n" in written["/etc/wopr/first.env"]["content"]


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck")
    if program is None:
        missing("shellcheck")
    done = subprocess.run([str(program), str(CHECKOUT / "setup")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_caddy_takes_the_gate(tmp_path: Path) -> None:
    program = shutil.which("caddy")
    if program is None:
        missing("caddy")
    command = [str(program), "validate", "--adapter", "caddyfile", "--config", str(CHECKOUT / "Caddyfile")]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**environment, "NODE_API_KEY": "k"}
    )
    assert done.returncode == 0, done.stderr


def test_the_services_are_the_runbooks_and_only_the_gate_is_reached() -> None:
    services = compose()["services"]
    assert set(services) == {"gate", "llama-cpp", "chatterbox", "whisper", "qwen-embeddings"}
    assert [name for name, service in services.items() if service.get("ports")] == ["gate"]
    assert services["gate"]["ports"] == [f"${{NODE_ADDRESS}}:{port}:{port}" for port in range(8080, 8084)]
    defaults = Settings()
    assert defaults.llama_image == "ghcr.io/ggml-org/llama.cpp:server-cuda"
    assert defaults.chatterbox_image == "travisvn/chatterbox-tts-api:gpu"
    assert defaults.whisper_image == "fedirz/faster-whisper-server:0.6.0-rc.3-cuda"


def test_flash_attention_always_has_a_value() -> None:
    for name in ("llama-cpp", "qwen-embeddings"):
        assert re.search(r"--flash-attn \$\{FLASH_ATTN\}", compose()["services"][name]["command"])
    for value in ("on", "off", "auto"):
        assert f"FLASH_ATTN={value}\n" in node_env(Settings.model_validate({"gpu_flash_attn": value}))


def test_every_variable_of_compose_is_set() -> None:
    wanted = set(re.findall(r"\$\{(\w+)\}", packaged("compose.yaml")))
    given = set(re.findall(r"^(\w+)=", node_env(Settings()), re.MULTILINE))
    made = set(re.findall(r"export ([A-Z_ ]+)$", packaged("setup"), re.MULTILINE)[-1].split())
    assert wanted - given - made == set()


def test_what_would_need_quotes_in_a_shell_is_refused() -> None:
    with pytest.raises(Invalid, match="WHISPER_IMAGE"):
        bootstrap.check(Settings(whisper_image="a; rm -rf /"))
    with pytest.raises(Invalid, match="API_URL"):
        user_data(First("http://x y", "n", "t", needs_gpu=False))


@pytest.mark.parametrize("model", ["whisper-base", "https://example.com/page.html"])
def test_a_model_that_llama_can_not_load_is_refused(model: str) -> None:
    with pytest.raises(Invalid):
        bootstrap.check(Settings(gpu_text_model=model))
    with pytest.raises(NotFound):
        bootstrap.check(Settings(gpu_text_model="no-such-model"))


def test_a_checksum_given_by_hand_is_what_the_machine_checks() -> None:
    digest = "0" * 64
    chosen = Settings(gpu_text_model="https://example.com/m.gguf", gpu_text_model_sha256=digest)
    text, embedding = bootstrap.models(chosen).splitlines()
    assert text == f"{digest} https://example.com/m.gguf llama.gguf"
    assert embedding.startswith("- https://")
    with pytest.raises(Invalid, match="SHA-256"):
        bootstrap.check(Settings(gpu_text_model_sha256="abc"))


def node_env(settings: Settings) -> str:
    return bootstrap.files(settings, Opened(NodeId("n"), None, "key", "secret"))["node.env"]
