"""What the engine is told about a bot, and what is read back from it."""

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.core.ids import BotId, new_id
from wopr.core.vault import Vault
from wopr.fleet.environment import LIMITS, limits_of
from wopr.fleet.runtimes import bridge, containers, images
from wopr.fleet.runtimes.addresses import BotNetwork
from wopr.fleet.runtimes.containers import Place, Start, describe, instance_of, parse_time, reason_of
from wopr.fleet.runtimes.enginelog import Splitter
from wopr.fleet.runtimes.images import Credentials
from wopr.fleet.runtimes.protocol import BotSpec

DIGEST = "sha256:" + "401403" * 10 + "abcd"
VAULT = Vault("a platform secret", "wopr bots tokens")
PLACE = Place("wopr", "wopr-platform-bots", (IPv4Address("1.1.1.1"),), 2.0, VAULT)
NETWORK = BotNetwork("wopr-platform-bots", "wopr-bots", "WOPR-BOTS", IPv4Network("10.203.64.0/21"))


def made(size: str = "standard") -> tuple[BotSpec, Start, dict[str, Any]]:
    bot = BotSpec(BotId(new_id()), 3, size, limits_of(size), {"PATH": "/bin", "WOPR_SERVICE_KEY": "wopr_bot_key"})
    start = Start(uuid4(), datetime.now(UTC), "the token of its callers")
    return bot, start, describe(bot, start, PLACE, f"registry.example/bot@{DIGEST}")


def listed(described: dict[str, Any], address: str = "10.203.68.9") -> dict[str, Any]:
    """The entry of the engine's list for a container of this description."""
    return {
        "Id": "c0ffee",
        "Created": 1_790_000_000,
        "Labels": described["Labels"],
        "NetworkSettings": {"Networks": {"wopr-platform-bots": {"IPAddress": address}}},
    }


def test_a_container_is_read_back_as_the_instance_that_was_started() -> None:
    bot, start, described = made()
    instance = instance_of(listed(described), PLACE)
    assert instance is not None
    assert (instance.id, instance.bot_id, instance.generation) == (start.instance_id, bot.bot_id, 3)
    assert (instance.url, instance.token) == ("http://10.203.68.9:7437", start.token)


def test_labels_and_listings_show_no_secret() -> None:
    _, start, described = made()
    shown = json.dumps(described["Labels"])
    assert start.token not in shown
    assert "wopr_bot_key" not in shown
    assert start.token not in repr(start)


def test_a_token_that_was_copied_from_another_container_opens_nothing() -> None:
    _, _, mine = made()
    _, _, other = made()
    forged = {**mine, "Labels": {**mine["Labels"], containers.LABEL_TOKEN: other["Labels"][containers.LABEL_TOKEN]}}
    instance = instance_of(listed(forged), PLACE)
    assert instance is not None
    assert (instance.generation, instance.token) == (containers.UNREADABLE_GENERATION, "")


@pytest.mark.parametrize(
    "change", [{"Labels": None}, {"Labels": {"wopr.bot": "x"}}, {"NetworkSettings": {"Networks": None}}]
)
def test_what_is_no_bot_on_its_network_is_no_instance(change: dict[str, Any]) -> None:
    assert instance_of({**listed(made()[2]), **change}, PLACE) is None


@pytest.mark.parametrize("size", LIMITS)
def test_every_size_is_limited_in_everything(size: str) -> None:
    _, _, described = made(size)
    host = described["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == LIMITS[size].memory_bytes
    assert 0 < host["NanoCpus"] <= 2e9
    assert 0 < host["PidsLimit"] <= 256
    assert {limit["Name"] for limit in host["Ulimits"]} == {"nofile", "fsize", "core"}
    assert host["ReadonlyRootfs"] is True
    assert (host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (["ALL"], ["no-new-privileges:true"], False)
    assert [mount["Target"] for mount in host["Mounts"]] == ["/data"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert described["User"] == "10001:10001"
    assert not any(entry.startswith("PATH=") for entry in described["Env"])


def test_a_machine_with_fewer_processors_than_a_size_wants_still_takes_the_bot() -> None:
    bot, start, _ = made("large")
    small = Place("wopr", "wopr-platform-bots", (), 1.0, VAULT)
    assert describe(bot, start, small, "bot")["HostConfig"]["NanoCpus"] == 1_000_000_000


@pytest.mark.parametrize(
    ("code", "out_of_memory", "text"),
    [
        (1, False, "it ended with exit code 1"),
        (0, False, "it ended with exit code 0"),
        (137, False, "it was killed by SIGKILL"),
        (137, True, "it used more memory than its size allows (256 MiB) and was killed"),
        (255, False, "it ended with exit code 255"),
    ],
)
def test_an_end_is_told_in_words(code: int, out_of_memory: bool, text: str) -> None:
    assert reason_of(code, out_of_memory, 256 * 2**20) == text


def test_the_engines_times_are_read_with_and_without_fractions() -> None:
    assert parse_time("2026-11-23T17:36:02.123456789Z") == datetime(2026, 11, 23, 17, 36, 2, 123456, UTC)
    assert parse_time("2026-11-23T17:36:02.5Z") == datetime(2026, 11, 23, 17, 36, 2, 500000, UTC)
    assert parse_time("2026-11-23T17:36:02Z") == datetime(2026, 11, 23, 17, 36, 2, 0, UTC)


@given(st.data())
def test_a_log_is_the_same_however_the_engine_cuts_it(data: st.DataObject) -> None:
    whole = "".join(f"2026-11-23T17:36:0{n}.000000000Z line {n} é\n" for n in range(5)).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=8)))
    splitter = Splitter("stderr")
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    lines = [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.end())
    assert [(line.at.second, line.stream, line.text) for line in lines] == [
        (n, "stderr", f"line {n} é") for n in range(5)
    ]


@pytest.mark.parametrize(
    ("reference", "server"),
    [
        ("ghcr.io/wopr-network/wopr-bot:latest", "ghcr.io"),
        ("127.0.0.1:5000/wopr-bot@" + DIGEST, "127.0.0.1:5000"),
        ("localhost/wopr-bot", "localhost"),
        ("wopr-test/wopr-bot:1", "docker.io"),
        ("postgres:16-alpine", "docker.io"),
    ],
)
def test_credentials_go_to_their_own_registry_only(reference: str, server: str) -> None:
    assert images.registry_of(reference) == server
    assert Credentials(server, "me", "secret").auth_for(reference) is not None
    assert Credentials("elsewhere.example", "me", "secret").auth_for(reference) is None
    assert Credentials(server, "me", "").auth_for(reference) is None


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ('Head "https://ghcr.io/v2/x/manifests/latest": unauthorized', "registry_refused"),
        ("no basic auth credentials", "registry_refused"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "registry_refused"),
        (f"manifest for ghcr.io/x@{DIGEST} not found: manifest unknown", "image_unknown"),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", "registry_away"),
        ('Get "https://ghcr.io/v2/": net/http: request canceled (Client.Timeout exceeded)', "registry_away"),
        ("write /var/lib/docker/tmp: no space left on device", "pull_failed"),
    ],
)
def test_each_refusal_of_a_registry_names_its_remedy(reason: str, code: str) -> None:
    failure = images.explain(f"ghcr.io/x@{DIGEST}", reason, Credentials("ghcr.io", "me", "secret"))
    assert failure.code == code
    assert failure.remedy


def test_a_network_that_is_not_what_it_must_be_is_told_apart() -> None:
    wanted = bridge.describe(NETWORK, {})
    found = {"EnableIPv6": False, "Options": wanted["Options"], "IPAM": wanted["IPAM"]}
    assert bridge.differs(found, NETWORK) is None
    open_one = {**found, "Options": {**found["Options"], bridge.OPTION_BETWEEN: "true"}}
    assert bridge.differs(open_one, NETWORK) == "traffic between containers: true instead of false"
    assert "addresses" in str(bridge.differs({**found, "IPAM": {"Config": [{"Subnet": "172.18.0.0/16"}]}}, NETWORK))


def test_ids_in_names_keep_customers_apart() -> None:
    first, second = BotId(UUID(int=1)), BotId(UUID(int=2))
    names = {of(bot) for bot in (first, second) for of in (containers.container_name, containers.former_name)}
    assert len(names) == 4
