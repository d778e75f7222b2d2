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


def test_half_a_schema_is_none(tmp_path: Path) -> None:
    """scripts/prepare-tests takes one that is there for whole, at every later run."""
    prepare = CHECKOUT.parents[1] / "scripts" / "prepare-tests"
    [fetch] = re.findall(r"^fetch_schema\(\) \{.*?^\}$", prepare.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    folder = "usr/lib/python3/dist-packages/cloudinit/config/schemas"
    stand_in(tmp_path, "apt-get", "true")
    stand_in(tmp_path, "dpkg-deb", f"mkdir -p {folder}; printf '{{}}' >{folder}/schema-cloud-config-v1.json")
    stand_in(tmp_path, "cp", "printf '{' >\"$2\"; exit 1")
    schema = tmp_path / "cache" / "schema.json"
    script = f"set -euo pipefail\nschema={schema}\n{fetch}\n[ -e $schema ] || fetch_schema\n"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", script], check=True, env=environment, stderr=subprocess.DEVNULL)
    assert list(schema.parent.iterdir()) == []
    (tmp_path / "cp").unlink()
    subprocess.run(["bash", "-c", script], check=True, env=environment)
    assert [path.name for path in schema.parent.iterdir()] == ["schema.json"]
    assert schema.read_text() == "{}"


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


@pytest.mark.parametrize(
    ("program", "call", "said"),
    [
        ("curl", "sha=$(try 5 published https://example.com/m.gguf); echo $sha", "0" * 64),
        ("curl", "NODE_ADDRESS=$(try 10 private_address); echo $NODE_ADDRESS", "10.0.0.5"),
        ("docker", "try 5 log_in", "Login Succeeded"),
    ],
)
def test_what_fails_for_a_moment_is_done_again(tmp_path: Path, program: str, call: str, said: str) -> None:
    """With the setup's own functions, and a program that fails the first time."""
    answers = {
        "curl": f'echo "x-linked-etag: {"0" * 64}"',
        "docker": "echo Login Succeeded",
    }
    if "private_address" in call:
        answers["curl"] = """echo '{"interfaces": {"private": [{"ipv4": {"ip_address": "10.0.0.5"}}]}}'"""
    stand_in(
        tmp_path, program, f"[ -e {tmp_path}/failed ] || {{ touch {tmp_path}/failed; exit 22; }}\n{answers[program]}"
    )
    (tmp_path / "registry.password").write_text("secret")
    done = run_setups(tmp_path, call, config=str(tmp_path), REGISTRY_SERVER="r", REGISTRY_USERNAME="u")
    assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
    assert "again in 5 s" in done.stderr


def stand_in(folder: Path, program: str, script: str) -> None:
    """A program of the machine, for a test."""
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_setups(
    folder: Path, call: str, text: str = packaged("setup"), **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Call the setup's own functions, with the programs that stand in a folder."""
    functions = re.findall(r"^\w+\(\) \{.*?^\}$|^say\(\).*?$", text, re.MULTILINE | re.DOTALL)
    script = "\n".join(["set -Eeuo pipefail", "sleep() { :; }", *functions, call])
    environment = {**os.environ, **variables, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environment)


def test_an_answer_that_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    """curl says 200 of it, too, and keeps what came; its exit code is 18."""
    answer, cut = tmp_path / "answer", tmp_path / "cut"
    half = f"[ -e {cut} ] || {{ touch {cut}; printf '{{\"fi' >{answer}; printf 200; exit 18; }}"
    stand_in(tmp_path, "curl", f"{half}\nprintf '{{\"files\": {{}}}}' >{answer}; printf 200")
    done = run_setups(tmp_path, f"post /path header {answer}", API_URL="https://api.example.com")
    assert (done.returncode, answer.read_text()) == (0, '{"files": {}}'), done.stderr


def test_what_a_reboot_left_half_unpacked_is_configured_before_packages_are_asked_for_again(tmp_path: Path) -> None:
    asked = f'echo "$(basename "$0") $*" >>{tmp_path}/asked'
    interrupted = "echo 'E: dpkg was interrupted, you must manually run dpkg --configure -a' >&2; exit 100"
    stand_in(tmp_path, "apt-get", f"{asked}\n[ $1 = update ] || [ -e {tmp_path}/configured ] || {{ {interrupted}; }}")
    stand_in(tmp_path, "dpkg", f"{asked}\ntouch {tmp_path}/configured")
    done = run_setups(tmp_path, "apt_install docker.io", state=str(tmp_path))
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert [(line[0], line[1]) for line in words] == [
        ("apt-get", "update"),
        ("apt-get", "install"),
        ("dpkg", "--configure"),
        ("apt-get", "install"),
    ]


def test_the_settings_of_the_engine_are_replaced_whole(tmp_path: Path) -> None:
    """Half of them would keep the engine from starting, at this boot and at every later one."""
    settings, before = tmp_path / "daemon.json", tmp_path / "before"
    settings.write_text('{"debug": true}')
    os.link(settings, before)  # what is written in place is seen here, too
    stand_in(tmp_path, "systemctl", f'echo "$*" >>{tmp_path}/told')
    text = packaged("setup").replace("/etc/docker", str(tmp_path))
    for _ in range(2):
        done = run_setups(tmp_path, "plain_http", text, REGISTRY_PLAIN_HTTP="10.0.0.9:5000")
        assert done.returncode == 0, done.stderr
    assert json.loads(settings.read_text()) == {"debug": True, "insecure-registries": ["10.0.0.9:5000"]}
    assert before.read_text() == '{"debug": true}'
    assert (tmp_path / "told").read_text() == "restart docker\n", "once: the second time they are there"


def nvidia_setup(folder: Path) -> str:
    """The setup for a machine that shows NVIDIA's GPU, with its files in a folder, where `asked` lists what is run."""
    (folder / "vendor").write_text("0x10de\n")
    text = packaged("setup").replace("/sys/bus/pci/devices/*/vendor", str(folder / "vendor"))
    for path in ("/usr/share/keyrings", "/etc/apt/sources.list.d"):
        assert path in text
        text = text.replace(path, str(folder))
    recorded(folder, "apt-get", "")
    recorded(folder, "modprobe", f"touch {folder}/loaded")
    stand_in(folder, "uname", "echo 6.8.0-generic")
    stand_in(folder, "nvidia-smi", f"[ -e {folder}/loaded ]")
    return text


def recorded(folder: Path, program: str, script: str) -> None:
    stand_in(folder, program, f'echo "$(basename "$0") $*" >>{folder}/asked\n{script}')


def asked(folder: Path) -> list[str]:
    """What was run, without apt-get's options."""
    path = folder / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    return [re.sub(r" -\w+( \S+::\S+=\d+)?| --no-\S+", "", line) for line in lines]


def test_the_newest_driver_for_servers_that_is_offered_is_installed(tmp_path: Path) -> None:
    text = nvidia_setup(tmp_path)
    offered = [
        "nvidia-driver-95-server",
        "nvidia-driver-570-server-open",
        "nvidia-driver-580",
        "nvidia-driver-535-server",
    ]
    lines = [f"{name}, (kernel modules provided by linux-modules-{name}-generic)" for name in offered]
    stand_in(tmp_path, "ubuntu-drivers", f"[ \"$*\" = 'list --gpgpu' ] && printf '%s\\n' {' '.join(map(repr, lines))}")
    for _ in range(2):
        done = run_setups(tmp_path, "install_drivers", text, state=str(tmp_path), NEEDS_GPU="yes")
        assert done.returncode == 0, done.stderr
    assert asked(tmp_path) == [
        "apt-get update",
        "apt-get install linux-headers-6.8.0-generic ubuntu-drivers-common",
        "apt-get install nvidia-driver-570-server",
        "modprobe nvidia",
    ], "once: the second time it runs already"


@pytest.mark.parametrize("listed", ["true", "echo nvidia-driver-580", "exit 1"])
def test_a_gpu_for_which_no_driver_is_offered_is_said_so(tmp_path: Path, listed: str) -> None:
    text = nvidia_setup(tmp_path)
    stand_in(tmp_path, "ubuntu-drivers", listed)
    done = run_setups(tmp_path, "install_drivers; echo went on", text, state=str(tmp_path), NEEDS_GPU="yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Ubuntu offers no driver for this GPU" in done.stderr
    assert not any("nvidia" in line for line in asked(tmp_path))


@pytest.mark.parametrize(("needs", "code", "said"), [("yes", 1, "the machine shows none"), ("no", 0, "no GPU")])
def test_a_machine_without_a_gpu_is_well_where_none_is_paid_for(
    tmp_path: Path, needs: str, code: int, said: str
) -> None:
    text = nvidia_setup(tmp_path)
    (tmp_path / "vendor").write_text("0x1af4\n")
    done = run_setups(tmp_path, "install_drivers", text, state=str(tmp_path), NEEDS_GPU=needs)
    assert (done.returncode, asked(tmp_path)) == (code, [])
    assert said in done.stderr


def engine_with_toolkit(folder: Path) -> None:
    """An engine that knows the runtime when it was started after the toolkit, which apt-get brings, named it."""
    brought = f"{folder}/toolkit {folder}/nvidia-ctk"
    recorded(folder, "apt-get", f'case "$*" in *nvidia-container-toolkit) cp {brought} ;; esac')
    recorded(folder, "toolkit", f"touch {folder}/named")
    recorded(folder, "curl", 'while [ "$1" != -o ]; do shift; done; echo key >"$2"')
    recorded(folder, "systemctl", f"[ $1 = start ] || [ ! -e {folder}/named ] || touch {folder}/known")
    known, unknown = '{"nvidia":{},"runc":{}}', '{"runc":{}}'
    shown = f"if [ -e {folder}/known ]; then echo '{known}'; else echo '{unknown}'; fi"
    stand_in(folder, "docker", f'case "$*" in "info --format"*) {shown} ;; esac')


def test_the_toolkit_is_installed_and_the_engine_knows_its_runtime(tmp_path: Path) -> None:
    text = nvidia_setup(tmp_path)
    engine_with_toolkit(tmp_path)
    (tmp_path / "apt-updated").touch()  # with the drivers, before this source was known
    done = run_setups(tmp_path, "install_docker", text, state=str(tmp_path), REGISTRY_PLAIN_HTTP="")
    assert done.returncode == 0, done.stderr
    keyring = tmp_path / "nvidia-container-toolkit.asc"
    source = "https://nvidia.github.io/libnvidia-container"
    assert asked(tmp_path) == [
        "systemctl start docker",
        f"curl {keyring} {source}/gpgkey",
        "apt-get update",
        "apt-get install nvidia-container-toolkit",
        "nvidia-ctk runtime configure --runtime=docker",
        "systemctl restart docker",
    ]
    assert keyring.stat().st_mode & 0o777 == 0o644, "apt reads it as nobody"
    listed = (tmp_path / "nvidia-container-toolkit.list").read_text()
    assert listed == f"deb [signed-by={keyring}] {source}/stable/deb/$(ARCH) /\n"
    (tmp_path / "asked").unlink()
    done = run_setups(tmp_path, "install_docker", text, state=str(tmp_path), REGISTRY_PLAIN_HTTP="")
    assert (done.returncode, [line.split()[0] for line in asked(tmp_path)]) == (
        0,
        ["systemctl", "nvidia-ctk", "systemctl"],
    )


def test_an_engine_that_knows_no_runtime_for_the_gpu_is_said_so(tmp_path: Path) -> None:
    text = nvidia_setup(tmp_path)
    engine_with_toolkit(tmp_path)
    recorded(tmp_path, "systemctl", "")
    done = run_setups(tmp_path, "install_docker; echo went on", text, state=str(tmp_path), REGISTRY_PLAIN_HTTP="")
    assert (done.returncode, "went on" in done.stdout) == (1, False)
    assert "no runtime for the GPU" in done.stderr
