"""What a machine's container is, without any container: options, filter, states, and what the machine is told."""

import asyncio
import io
import ipaddress
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from wopr.emulators.digitalocean import boxes, firewalls, image
from wopr.emulators.digitalocean.boxes import Engine, Names
from wopr.emulators.digitalocean.docker import DockerRefused
from wopr.emulators.digitalocean.errors import Refusal
from wopr.emulators.digitalocean.machines import Addresses, Blueprint, Opening, Power, Wall
from wopr.emulators.digitalocean.metadata import build_metadata
from wopr.emulators.digitalocean.settings import DigitalOceanSettings
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Documents

NAMES = Names("mine")
CLASSIC = "Step 1/2 : FROM debian\\n ---> 12\\nStep 2/2 : RUN apt-get install\\nGet:1 something\\n"
BUILDKIT = "#1 [internal] load\\n#4 [1/2] FROM debian\\n#5 [2/2] RUN apt-get install\\n#5 0.3 Get:1\\n"
BLUEPRINT = Blueprint(
    7, "node-1", "tor1", "debian-12-x64", 1024, 1, "#!/bin/sh\n", ("ssh-ed25519 A",), "v", "10.9.0.0/20"
)
ADDRESSES = Addresses("198.18.0.10", "255.255.255.0", "198.18.0.1", "10.9.0.10", "255.255.240.0", "10.9.0.0/20")


def test_a_machine_never_gets_the_hosts_clock_or_modules() -> None:
    for raises in (True, False):
        command = list(boxes.create(NAMES, BLUEPRINT, ADDRESSES, Engine("image", raises)))
        dropped = {command[i + 1] for i, part in enumerate(command) if part == "--cap-drop"}
        assert {"SYS_TIME", "SYS_MODULE"} <= dropped
        assert ("SYS_RESOURCE" in dropped) is not raises
        assert "--privileged" not in command
        assert command[-1] == "image"


def test_everything_of_a_machine_is_labelled_and_named_after_its_installation() -> None:
    command = " ".join(boxes.create(NAMES, BLUEPRINT, ADDRESSES, Engine("image", True)))
    assert "--name wopr-cloud-mine-7 --hostname node-1 --label wopr.cloud=mine" in command
    assert "--label wopr.droplet=7 --label wopr.public=198.18.0.10 --label wopr.private=10.9.0.10" in command
    assert "--network wopr-cloud-mine-public --ip 198.18.0.10" in command
    assert "--dns 67.207.67.2 --dns 67.207.67.3" in command
    assert "#!/bin/sh" not in command  # user data is for the metadata service alone
    network = " ".join(boxes.make_network(NAMES, NAMES.private("v"), "10.9.0.0/20", private=True))
    assert "--internal" in network
    assert "--label wopr.cloud=mine" in network
    assert NAMES.public < NAMES.private("v")  # the engine takes the first as the way out


def test_a_wall_closes_what_it_does_not_name() -> None:
    inward = (Opening("tcp", 22, 22, ("10.0.0.0/8", "203.0.113.5/32")), Opening("icmp", 0, 65535, ("0.0.0.0/0",)))
    rules = boxes.wall_rules(Wall(inward))
    assert "ip saddr { 10.0.0.0/8, 203.0.113.5/32 } tcp dport 22-22 accept" in rules
    assert "meta nfproto ipv4 ip protocol icmp accept" in rules
    assert rules.index("established") < rules.index("drop")
    assert "postrouting" not in rules
    assert boxes.wall_rules(Wall((), ())).count("drop") == 2
    assert "drop" not in boxes.wall_rules(Wall())


def test_a_wall_lets_out_by_the_address_that_was_meant() -> None:
    rules = boxes.wall_rules(Wall((), (Opening("udp", 53, 53, ("67.207.67.2/32",)),)))
    outgoing = rules[rules.index("chain outgoing") :]
    assert "ct original ip daddr { 67.207.67.2/32 } meta l4proto udp ct original proto-dst 53-53 accept" in outgoing
    assert outgoing.index("169.254.169.254 accept") < outgoing.index("drop")
    assert 'oifname != { "eth0", "eth1" } accept' in outgoing


@pytest.mark.parametrize(
    ("state", "status", "power"),
    [
        ("running", "Up 3 seconds", Power.RUNNING),
        ("paused", "Up 3 seconds (Paused)", Power.RUNNING),
        ("created", "Created", Power.OFF),
        ("exited", "Exited (129) 3 seconds ago", Power.REBOOTING),
        ("exited", "Exited (130) 3 seconds ago", Power.OFF),
        ("exited", "Exited (137) 2 hours ago", Power.DEAD),
        ("exited", "Exited (0) 2 hours ago", Power.DEAD),
    ],
)
def test_how_a_container_ended_says_what_its_system_wanted(state: str, status: str, power: Power) -> None:
    assert boxes.power_of(state, status) is power


def test_files_for_a_machine_come_as_an_archive() -> None:
    with tarfile.open(fileobj=io.BytesIO(boxes.archive({"wall": "x", "droplet-id": "7"}))) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == {"wall": b"x", "droplet-id": b"7"}
    assert json.loads(boxes.daemon_file(())) == {"dns": ["67.207.67.2", "67.207.67.3"]}
    assert json.loads(boxes.daemon_file(("10.0.0.1:5000",)))["insecure-registries"] == ["10.0.0.1:5000"]


def test_an_image_is_named_after_what_it_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x")
    monkeypatch.setattr(image, "FOLDER", tmp_path)
    first = image.image_name()
    assert first == image.image_name() != image.image_name("other:12")
    (tmp_path / "Dockerfile").write_text("FROM y")
    assert image.image_name() != first


@pytest.mark.parametrize("lines", [CLASSIC, BUILDKIT])
def test_each_step_of_building_an_image_is_a_stage_that_ends_with_its_outcome(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a docker command that has no image, and whose build fails in its second step."""
    command = tmp_path / "docker"
    command.write_text(f"#!/bin/sh\n[ $1 = build ] && printf '{lines}'\necho it broke >&2\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = []

    @contextmanager
    def stage(what: str) -> Iterator[None]:
        told.append(what)
        try:
            yield
        except DockerRefused as refused:
            told.append(str(refused))
            raise
        told.append("done")

    with pytest.raises(DockerRefused):
        asyncio.run(image.ensure_image(stage=stage))
    first, second = "machines' image, step 1 of 2: FROM debian", "machines' image, step 2 of 2: RUN apt-get install"
    assert told == [first, "done", second, "docker build ended with 1: it broke"]


NETWORKS = [
    {"type": "private", "ip_address": "10.9.0.10", "netmask": "255.255.240.0", "gateway": ""},
    {"type": "public", "ip_address": "198.18.0.10", "netmask": "255.255.255.0", "gateway": "198.18.0.1"},
]
DROPLET = {
    "object": "droplet",
    "id": "7",
    "name": "node-1",
    "region": "tor1",
    "size": "s-1vcpu-1gb",
    "tags": ["a"],
    "keys": ["ssh-ed25519 A", "ssh-ed25519 B"],
    "user_data": "#!/bin/sh\n",
    "networks": NETWORKS,
    "created": 0,
}


def asked(world: World, path: str, source: str = "198.18.0.10") -> Any:
    return TestClient(build_metadata(world), client=(source, 5000)).get(f"/metadata/{path}")


def test_a_machine_is_told_to_trust_the_roots_of_the_local_cloud() -> None:
    world = World(Documents(None), DigitalOceanSettings(trusted_roots="-----BEGIN CERTIFICATE-----\nAA\n"))
    world.documents.put(dict(DROPLET))
    head, _, body = asked(world, "v1.json").json()["vendor_data"].partition("\n")
    assert head == "#cloud-config"
    assert yaml.safe_load(body) == {"ca_certs": {"trusted": ["-----BEGIN CERTIFICATE-----\nAA\n"]}}
    assert asked(world, "v1/vendor-data").text.startswith("#cloud-config")


def test_a_machine_is_told_what_it_is_by_the_address_that_it_asks_from() -> None:
    world = World(Documents(None), DigitalOceanSettings())
    world.documents.put(dict(DROPLET))
    told = asked(world, "v1.json").json()
    assert set(told) >= {
        "droplet_id",
        "hostname",
        "region",
        "public_keys",
        "user_data",
        "vendor_data",
        "dns",
        "interfaces",
    }
    assert told["interfaces"]["public"][0]["mac"] == "02:42:c6:12:00:0a"
    assert asked(world, "v1/id").text == "7"
    assert asked(world, "v1/user-data").text == "#!/bin/sh\n"
    assert asked(world, "v1/public-keys").text == "ssh-ed25519 A\nssh-ed25519 B"
    assert asked(world, "v1/interfaces/public/0/ipv4/ip_address").text == "198.18.0.10"
    assert asked(world, "v1/nothing").status_code == 404
    assert asked(world, "v1.json", source="198.18.0.11").status_code == 404


def test_a_firewall_names_addresses_droplets_and_tags() -> None:
    world = World(Documents(None), DigitalOceanSettings())
    for number, tags in (("7", ["a"]), ("8", ["b"])):
        last = f"1{number}"
        networks = [network | {"ip_address": network["ip_address"][:-2] + last} for network in NETWORKS]
        world.documents.put(DROPLET | {"id": number, "tags": tags, "networks": networks})
    world.documents.put({"object": "tag", "id": "tag/b", "name": "b"})
    sources = {"addresses": ["203.0.113.5", "::/0"], "tags": ["b"]}
    rules = [{"protocol": "tcp", "ports": "8000-8100", "sources": sources}]
    ways_out = [{"protocol": "udp", "ports": "53", "destinations": {"droplet_ids": [8]}}]
    wanted = {"name": "f", "inbound_rules": rules, "outbound_rules": ways_out, "droplet_ids": [7]}
    firewalls.create(world, wanted)
    wall = firewalls.wall_of(world, world.find("droplet", "7"))
    assert wall.inward == (Opening("tcp", 8000, 8100, ("10.9.0.18/32", "198.18.0.18/32", "203.0.113.5/32")),)
    assert wall.outward == (Opening("udp", 53, 53, ("10.9.0.18/32", "198.18.0.18/32")),)
    assert firewalls.wall_of(world, world.find("droplet", "8")) == Wall()


@given(st.text(alphabet="0123456789-al ", max_size=12))
def test_no_text_of_ports_gets_past_unchecked(ports: str) -> None:
    world = World(Documents(None), DigitalOceanSettings())
    rules = [{"protocol": "tcp", "ports": ports, "sources": {"addresses": ["0.0.0.0/0"]}}]
    try:
        firewalls.create(world, {"name": "f", "inbound_rules": rules})
    except Refusal:
        return  # in DigitalOcean's words, which is fine
    first, _, last = ports.partition("-")
    assert ports in ("0", "all") or 1 <= int(first) <= int(last or first) <= 65535


def test_private_ranges_are_given_out_once() -> None:
    world = World(Documents(None), DigitalOceanSettings())
    given_out = [ipaddress.ip_network(world.default_vpc(region)["ip_range"]) for region in ("tor1", "ams3", "tor1")]
    assert given_out[0] == given_out[2]
    assert not given_out[0].overlaps(given_out[1])
