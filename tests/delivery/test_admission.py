"""Rented nodes admit the host of the platform alone, by the private addresses that it has itself."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from wopr.delivery import commands, setup
from wopr.delivery.admission import admitting, lets_in, private_addresses
from wopr.delivery.commands import parsed_env
from wopr.delivery.hosts import LocalHost, Output
from wopr.delivery.lock import hold
from wopr.delivery.place import Place
from wopr.delivery.release import Part, State, write_state

LINE = "{number}: {link}    inet {address} brd 10.0.0.255 scope global {link}\\       valid_lft forever"
DROPLET = (
    ("eth0", "203.0.113.5/20"),
    ("eth0", "10.20.0.5/16"),
    ("eth1", "10.118.0.2/20"),
    ("docker0", "172.17.0.1/16"),
)
INNER = (
    "docker0", "docker_gwbridge", "br-9f86d081884c", "veth1a2b3c4", "wopr-bots", "wopr-215b5662", "virbr0", "lxcbr0",
    "lxdbr0", "podman0", "cni0", "cali12", "flannel.1", "kube-ipvs0", "lo",
)  # fmt: skip
SHARED: Sequence[tuple[str, str]] = (("eth0", "203.0.113.5/20"), ("eth0", "10.20.0.5/16"))


def told(*links: tuple[str, str]) -> str:
    """What `ip -o -4 addr show scope global` writes of interfaces with these addresses."""
    return "".join(
        LINE.format(number=number, link=link, address=address) + "\n" for number, (link, address) in enumerate(links, 2)
    )


@pytest.mark.parametrize(
    ("links", "found"),
    [
        (DROPLET, ["10.118.0.2"]),
        (SHARED, []),
        ([("eth0", "198.51.100.7/24")], []),
        ([("eth0", "192.168.1.20/24")], ["192.168.1.20"]),
        ([("ens3", "172.31.4.9/20"), ("wg0", "10.8.0.1/24")], ["172.31.4.9", "10.8.0.1"]),
        (
            [("eth1", "10.118.0.2/20"), ("eth1", "10.118.0.9/20"), ("eth1", "10.118.0.2/32")],
            ["10.118.0.2", "10.118.0.9"],
        ),
        ([("eth0", "100.64.0.3/10"), ("eth1", "172.32.0.1/16")], []),
        ([("br0", "10.1.0.4/24"), ("br-lan", "10.1.1.4/24")], ["10.1.0.4", "10.1.1.4"]),
    ],
)
def test_a_host_is_known_by_the_private_addresses_beside_which_no_public_one_stands(
    links: Sequence[tuple[str, str]], found: Sequence[str]
) -> None:
    assert list(private_addresses(told(*links))) == found


@pytest.mark.parametrize("link", INNER)
def test_networks_of_containers_are_none_of_the_host_s(link: str) -> None:
    assert private_addresses(told((link, "10.161.88.1/21"), ("eth1", "10.118.0.2/20"))) == ("10.118.0.2",)


def test_a_container_that_plays_a_machine_and_a_tunnel_are_read_as_they_are_written() -> None:
    assert private_addresses(told(("eth0@if8385", "10.96.0.3/20"))) == ("10.96.0.3",)
    assert private_addresses("7: tun0    inet 10.8.0.1 peer 10.8.0.2/32 scope global tun0\n") == ("10.8.0.1",)
    assert private_addresses("7: eth1    inet 10.8.0.1/20 metric 100 brd 10.8.15.255 scope global dynamic eth1\n")


@pytest.mark.parametrize("text", ["", "\n", "Welcome to Debian\n", "2: eth0    inet6 fd00::2/64 scope global\n"])
def test_where_nothing_is_told_nothing_is_found(text: str) -> None:
    assert private_addresses(text) == ()


def test_who_is_admitted_is_one_address_each() -> None:
    assert admitting(("10.118.0.2",)) == "10.118.0.2/32"
    assert admitting(("10.118.0.2", "10.8.0.1")) == "10.118.0.2/32,10.8.0.1/32"


@pytest.mark.parametrize(
    ("admitted", "lets"),
    [("10.118.0.2/32", True), ("fd00::/8, 10.0.0.0/8", True), ("10.118.0.3", False), ("", False), ("what, /32", False)],
)
def test_a_host_is_let_in_by_any_network_that_has_one_of_its_addresses(admitted: str, lets: bool) -> None:
    assert lets_in(admitted, ("192.168.0.7", "10.118.0.2")) is lets


class Vps(LocalHost):
    """A machine with the interfaces of a droplet."""

    links: Sequence[tuple[str, str]] = DROPLET

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Output:
        if tuple(argv) == commands.addresses():
            return Output(0, told(*self.links).encode())
        return await super().run(argv, input=input, timeout=timeout)


class Alone(Vps):
    """One without a private network."""

    links = SHARED


async def filled(host: LocalHost, place: Place, env: str = "", **chosen: str) -> "setup.Setup":
    if env:
        await host.write(place.env, env.encode())
    return await setup.look(host, place, chosen)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "wopr"))


async def test_a_new_installation_has_its_nodes_admit_its_host_alone(place: Place) -> None:
    lacking = await filled(Vps(), place)
    assert parsed_env(lacking.env)["GPU_ADMIT"] == "10.118.0.2/32"
    assert "GPU_ADMIT" in lacking.written
    await Vps().write(place.env, lacking.env.encode())
    again = await filled(Alone(), place)
    assert parsed_env(again.env)["GPU_ADMIT"] == "10.118.0.2/32", "what stands there is not asked for again"
    assert not again.changed


async def test_a_host_without_a_private_network_says_nothing_of_it(place: Place) -> None:
    assert "GPU_ADMIT" not in parsed_env((await filled(Alone(), place)).env)


async def test_whom_the_operator_admits_is_admitted(place: Place) -> None:
    chosen = await filled(Vps(), place, GPU_ADMIT="10.9.0.0/24")
    assert parsed_env(chosen.env)["GPU_ADMIT"] == "10.9.0.0/24"
    assert parsed_env((await filled(Vps(), place, "GPU_ADMIT=10.0.0.0/8\n")).env)["GPU_ADMIT"] == "10.0.0.0/8"
    assert parsed_env((await filled(Vps(), place, "GPU_ADMIT=\n")).env)["GPU_ADMIT"] == "10.118.0.2/32"


async def test_an_installation_that_serves_gets_it_once_it_rents_nodes_and_is_left_alone_until_then(
    place: Place,
) -> None:
    async with hold(Vps(), place, "deploy") as fence:
        await write_state(fence, State(active=Part(1, "blue")))
    assert "GPU_ADMIT" not in parsed_env((await filled(Vps(), place, "LOG_LEVEL=info\n")).env)
    renting = await filled(Vps(), place, DO_API_TOKEN="dop_v1_x")
    assert parsed_env(renting.env)["GPU_ADMIT"] == "10.118.0.2/32"
    assert parsed_env((await filled(Vps(), place, "DO_API_TOKEN=dop_v1_x\n")).env)["GPU_ADMIT"] == "10.118.0.2/32"
