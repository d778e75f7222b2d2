"""The fence around bots, and the names and addresses that it is built from."""

import re
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.core.errors import NotConfigured
from wopr.core.settings import Settings
from wopr.delivery.place import Place
from wopr.fleet.runtimes import firewall
from wopr.fleet.runtimes.addresses import Gateway, bot_network, gateway, gateway_url, listen_addresses
from wopr.fleet.runtimes.firewall import Policy

HOME = Path("/var/lib/wopr")
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


def settings(**values: object) -> Settings:
    return Settings(**({"wopr_home": HOME, "bot_runtime": "docker", "wopr_installation": "wopr"} | values))  # type: ignore[arg-type]


def policy(**values: object) -> Policy:
    ours = settings(**values)
    return Policy(bot_network(ours), gateway(ours), (IPv4Address("9.9.9.9"),))


def test_the_network_has_the_names_and_addresses_of_the_handbook() -> None:
    network = bot_network(settings())
    assert (network.name, network.bridge, network.chain) == ("wopr-platform-bots", "wopr-bots", "WOPR-BOTS")
    assert network.subnet == IPv4Network("10.203.64.0/21")
    assert network.host == IPv4Address("10.203.64.1")
    assert (network.platform, network.bots) == (IPv4Network("10.203.64.0/22"), IPv4Network("10.203.68.0/22"))


@given(NAMES)
def test_every_installation_has_names_that_the_kernel_takes_and_a_network_of_its_own(name: str) -> None:
    network = bot_network(settings(wopr_installation=name))
    assert network.name > Place(name=name).network, "the proxy's ports stay where they are when it is attached"
    assert len(network.bridge) <= 15
    assert len(f"{network.chain}-HOST") <= 28
    assert network.subnet.subnet_of(IPv4Network("10.128.0.0/9"))


def test_two_folders_on_one_machine_are_two_installations() -> None:
    first, second = (settings(wopr_installation="", wopr_home=Path(home)) for home in ("/a", "/b"))
    assert first.installation != second.installation
    assert bot_network(first).bridge != bot_network(second).bridge


@pytest.mark.parametrize("text", ["nonsense", "10.0.0.1/21", "10.0.0.0/30", "10.0.0.0/8", "fd00::/64"])
def test_a_subnet_that_can_t_be_used_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(NotConfigured, match="BOT_SUBNET") as refused:
        bot_network(settings(bot_subnet=text))
    assert refused.value.remedy


def test_bots_find_the_gateway_where_their_runtime_puts_it() -> None:
    process = settings(bot_runtime="process", api_internal_url="http://127.0.0.1:3100/")
    assert gateway_url(process) == "http://127.0.0.1:3100"
    assert listen_addresses(process) == ("127.0.0.1",)
    host = settings(api_port=3177)
    assert gateway_url(host) == "http://10.203.64.1:3177"
    assert gateway(host) == Gateway(IPv4Address("10.203.64.1"), 3177)
    assert listen_addresses(host) == ("127.0.0.1", "10.203.64.1")
    proxy = settings(bot_gateway_url="http://10.203.64.2:3180/")
    assert gateway(proxy) == Gateway(IPv4Address("10.203.64.2"), 3180)
    assert listen_addresses(proxy) == ("127.0.0.1",)
    assert gateway_url(settings(bot_gateway_url="http://gateway:3100")) == "http://10.203.64.2:3100"
    assert gateway(settings(bot_gateway_url="https://api.example.com")) is None
    for wrong in ("http://localhost:3100", "http://api:3100"):
        with pytest.raises(NotConfigured, match="means something else"):
            gateway(settings(bot_gateway_url=wrong))


def test_the_rules_read_as_they_are_meant() -> None:
    lines = firewall.rules(policy()).splitlines()
    assert lines[:4] == ["*filter", ":WOPR-BOTS-OUT - [0:0]", ":WOPR-BOTS-IN - [0:0]", ":WOPR-BOTS-HOST - [0:0]"]
    assert lines[-1] == "COMMIT"
    allowed = "-p tcp -m conntrack --ctorigdst 10.203.64.1 --ctorigdstport 3100 -j ACCEPT"
    metadata = next(line for line in lines if "169.254.0.0/16" in line)
    assert lines.index(f"-A WOPR-BOTS-OUT {allowed}") < lines.index(metadata)
    assert metadata == "-A WOPR-BOTS-OUT -d 169.254.0.0/16 -j REJECT --reject-with icmp-admin-prohibited"
    assert [line for line in lines if line.startswith("-A WOPR-BOTS-HOST")][-1].endswith("icmp-admin-prohibited")
    assert lines[-2] == "-A WOPR-BOTS-IN -d 10.203.68.0/22 -j DROP"


def test_what_bots_may_reach_of_the_host_is_the_gateway_and_nothing_else() -> None:
    accepted = [line for line in firewall.rules(policy()).splitlines() if line.startswith("-A WOPR-BOTS-HOST")]
    opened = [line for line in accepted if line.endswith("ACCEPT") and "ESTABLISHED" not in line]
    assert [re.search(r"ctorigdst (\S+) --ctorigdstport (\d+)", line).groups() for line in opened] == [  # type: ignore[union-attr]
        ("10.203.64.1", "3100"),
        ("9.9.9.9", "53"),
        ("9.9.9.9", "53"),
    ]


@given(NAMES, st.integers(1, 65_535))
def test_no_setting_can_smuggle_a_rule_in(name: str, port: int) -> None:
    """The rules are words of a shell's argument and lines of a file: none may hold a blank or an end of line more."""
    text = firewall.rules(policy(wopr_installation=name, api_port=port))
    assert re.fullmatch(
        r"(?:[*:A-Z][\w*: \[\]-]*|-A [\w./:, =-]+|COMMIT)(?:\n(?:[*:A-Z][\w: \[\]-]*|-A [\w./:, =-]+|COMMIT))*\n", text
    )
    for jump in firewall.jumps(policy(wopr_installation=name)):
        assert re.fullmatch(r"(?:DOCKER-USER|INPUT) -[io] wopr-\w+ -j WOPR-BOTS-[\w-]+", jump)


def test_iptables_itself_takes_the_rules(tmp_path: Path) -> None:
    if shutil.which("iptables-restore") is None:
        pytest.skip("iptables is not installed")
    done = subprocess.run(
        ["iptables-restore", "--test", "--noflush"], input=firewall.rules(policy()), capture_output=True, text=True
    )
    if "ermission" in done.stderr:
        pytest.skip("only root may ask iptables")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        (firewall.NO_BRIDGE_FILTER, "bypass", "modprobe br_netfilter"),
        (firewall.NO_DOCKER_CHAIN, "DOCKER-USER", "BOT_FIREWALL"),
        (firewall.NO_IPTABLES, "no iptables", "BOT_FIREWALL_IMAGE"),
        (1, "the last line", "BOT_FIREWALL=container"),
    ],
)
def test_each_failure_says_what_to_do(code: int, message: str, remedy: str) -> None:
    what, then = firewall.explain(code, "noise\nthe last line\n")
    assert message in what
    assert remedy in then
