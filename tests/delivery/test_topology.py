"""What is different on the local machines is on the declared list, and nothing else is."""

import os
import re
from pathlib import Path

import pytest
import yaml

from wopr.core.ids import NodeId
from wopr.core.settings import Settings
from wopr.delivery.commands import parsed_env
from wopr.delivery.topology import BUILT, FOLDER, GPU, MACHINES, SERVICES, VOLUMES, VPS, Topology
from wopr.inference.bootstrap import files
from wopr.inference.rented import Opened

VARIABLE = re.compile(r"\$\{(\w+)")
# What the local machines set otherwise than production, with docs/handbook/operator-local.md.
VPS_SETTINGS = {
    "WOPR_DOMAIN": "localhost",
    "WOPR_SCHEME": "http://",
    "BETTER_AUTH_URL": "http://localhost:3100",
    "UI_URL": "http://localhost",
    "COOKIE_DOMAIN": "localhost",
    "BOT_RUNTIME": "docker",
    "WOPR_IMAGE": "ghcr.io/wopr-network/wopr-platform:local",
    "BOT_IMAGE": "ghcr.io/wopr-network/wopr-bot:local",
    "GPU_NODE_SECRET": "wopr_local_gpu_secret",
}
# What a rented node gets otherwise: its own address, what its setup finds out of its GPU, and the setting for one.
NODE_DIFFERS = {"NODE_ADDRESS": "0.0.0.0", "FLASH_ATTN": "off"}
BESIDE_THE_STACK = {"platform-api", "watchtower"}


def read(*parts: str) -> str:
    return FOLDER.joinpath(*parts).read_text(encoding="utf-8")


def test_the_vps_sets_what_the_list_says_and_has_what_the_list_says_beside_the_stack() -> None:
    assert parsed_env(read("vps", "defaults.env")) == VPS_SETTINGS
    assert set(yaml.safe_load(read("vps", "doors.yaml"))["services"]) == BESIDE_THE_STACK


def test_the_gpu_machine_runs_the_compose_file_of_rented_nodes_with_every_variable_set() -> None:
    assert "../cloud-init:/opt/wopr:ro" in yaml.safe_load(read("docker-compose.yml"))["services"]["gpu"]["volumes"]
    assert "-f /opt/wopr/compose.yaml" in read("gpu", "boot.sh")
    wanted = set(VARIABLE.findall((FOLDER.parent / "cloud-init" / "compose.yaml").read_text(encoding="utf-8")))
    assert set(parsed_env(read("gpu", "node.env"))) | {"NODE_API_KEY"} == wanted


def test_the_node_is_told_what_rented_nodes_without_a_gpu_are_told_but_for_the_declared_differences() -> None:
    rented = parsed_env(files(Settings(), Opened(NodeId("one"), None, "", ""))["node.env"])
    setup = (FOLDER.parent / "cloud-init" / "setup").read_text(encoding="utf-8")
    without_gpu = re.search(r"; else ((?:[A-Z_]+=\w+ ?)+); fi\n  export NODE_ADDRESS", setup)
    assert without_gpu
    rented |= dict(word.split("=") for word in without_gpu[1].split())
    node = parsed_env(read("gpu", "node.env"))
    assert {name: value for name, value in node.items() if rented.get(name) != value} == NODE_DIFFERS


def test_the_compose_file_has_what_the_commands_look_for() -> None:
    compose = yaml.safe_load(read("docker-compose.yml"))
    assert tuple(one["container_name"] for one in compose["services"].values()) == MACHINES
    assert tuple(volume["name"] for volume in compose["volumes"].values()) == VOLUMES
    published = {port.rpartition(":")[2] for port in compose["services"]["gpu"]["ports"]}
    assert published == {str(port) for port in SERVICES.values()}


def test_settings_of_the_folder_decide_which_images_a_machine_needs(tmp_path: Path) -> None:
    for name in ("vps", "gpu"):
        (tmp_path / name).mkdir()
    (tmp_path / "vps" / "defaults.env").write_text("WOPR_IMAGE=ours:local\nBOT_IMAGE=bot:local\n")
    (tmp_path / "vps" / ".env").write_text("WOPR_IMAGE=registry:5000/ours:latest\n")
    (tmp_path / "gpu" / "node.env").write_text("LLAMA_IMAGE=b\nGATE_IMAGE=a\nDEVICE=cpu\n")
    images = Topology(tmp_path).images()
    assert images[VPS] == ["postgres:16-alpine", "caddy:2-alpine", BUILT, "registry:5000/ours:latest", "bot:local"]
    assert images[GPU] == ["a", "b"]


def test_a_choice_is_kept_beside_the_others(tmp_path: Path) -> None:
    topology = Topology(tmp_path)
    (tmp_path / ".env").write_text("HTTP_PORT=8000\n")
    assert topology.choose("MODELS_DIR", "/weights")
    assert not topology.choose("MODELS_DIR", "/weights")
    assert topology.settings() == {"HTTP_PORT": "8000", "MODELS_DIR": "/weights"}


def test_a_machine_whose_own_engine_does_not_answer_yet_is_a_line_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\ncase $1 in exec) echo "{away}" >&2; exit 1;; inspect) echo starting;; esac\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    topology = Topology(FOLDER)
    assert (topology.state(VPS), topology.containers(VPS), topology.nodes()) == ("starting", [], [])
