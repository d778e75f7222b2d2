"""The machine of an installation: rented once whatever dies, found by its name, behind a firewall, its price shown."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from tests.emulators.conftest import served

from wopr.cloud.compute import CloudError, Compute, Machine, Order
from wopr.cloud.digitalocean import DigitalOcean
from wopr.core.errors import Invalid
from wopr.core.settings import Settings
from wopr.delivery.vps import OPEN_PORTS, TAG, USER_DATA, Wish, propose, provision, public_key_of, reachable
from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
from wopr.ops.journal import Journal

TOKEN = "dop_v1_test"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ada@example.com"
WISH = Wish("wopr-vps", "nyc3", "s-2vcpu-4gb", KEY)


@pytest.fixture
def url() -> Iterator[str]:
    with served(build_digitalocean(DigitalOceanSettings(token=TOKEN, requests_per_minute=100_000))) as at:
        yield at


async def _no_pause(seconds: float) -> None:
    return None


def _untold(what: str, detail: str) -> None:
    return None


async def test_a_machine_is_rented_once_with_the_operators_key_behind_a_firewall(url: str) -> None:
    async with httpx.AsyncClient() as http:
        cloud = DigitalOcean(http, url, TOKEN)
        proposal = await propose(cloud, WISH)
        assert proposal.there is None
        assert proposal.size is not None
        assert proposal.size.monthly_cents > 0
        made = await provision(cloud, WISH, _untold, _no_pause)
        assert made.public_ip
        again = await provision(cloud, WISH, _untold, _no_pause)
        assert (again.id, (await propose(cloud, WISH)).there) == (made.id, again)
        assert [machine.name for machine in await cloud.tagged(TAG)] == ["wopr-vps"]
        headers = {"authorization": f"Bearer {TOKEN}"}
        (wall,) = (await http.get(f"{url}/v2/firewalls", headers=headers)).json()["firewalls"]
        (key,) = (await http.get(f"{url}/v2/account/keys", headers=headers)).json()["ssh_keys"]
    assert sorted(rule["ports"] for rule in wall["inbound_rules"]) == sorted(OPEN_PORTS)
    assert wall["tags"] == [TAG]
    assert key["public_key"].split()[:2] == KEY.split()[:2]


async def test_a_run_that_dies_after_the_order_is_finished_by_the_next(url: str) -> None:
    class Killed(Exception):
        pass

    def dies(what: str, detail: str) -> None:
        raise Killed

    async with httpx.AsyncClient() as http:
        cloud = DigitalOcean(http, url, TOKEN)
        with pytest.raises(Killed):
            await provision(cloud, WISH, dies, _no_pause)
        made = await provision(cloud, WISH, _untold, _no_pause)
        assert [machine.id for machine in await cloud.tagged(TAG)] == [made.id]


async def test_two_of_one_name_and_what_is_not_to_be_had_are_refused(url: str) -> None:
    async with httpx.AsyncClient() as http:
        cloud: Compute = DigitalOcean(http, url, TOKEN)
        for wish, says in (
            (Wish("a", "nyc3", "s-none", KEY), "no size"),
            (Wish("a", "mars1", WISH.size, KEY), "mars1"),
        ):
            with pytest.raises(Invalid, match=says):
                await propose(cloud, wish)
        order = Order(WISH.name, WISH.region, WISH.size, "debian-12-x64", USER_DATA, (TAG,))
        made: list[Machine] = [await cloud.create(order) for _ in range(2)]
        with pytest.raises(CloudError, match="2 machines are called wopr-vps") as refused:
            await propose(cloud, WISH)
        assert all(machine.id in refused.value.message for machine in made)


def test_what_the_machine_runs_at_its_first_start_is_cloud_config_without_a_secret() -> None:
    config = yaml.safe_load(USER_DATA)
    assert USER_DATA.startswith("#cloud-config\n")
    assert "docker.io" in config["packages"]
    assert TOKEN not in USER_DATA


def test_only_a_public_key_is_taken() -> None:
    assert public_key_of(["# mine", KEY]) == KEY
    with pytest.raises(Invalid, match="no public SSH key"):
        public_key_of(["-----BEGIN OPENSSH PRIVATE KEY-----", "b3BlbnNzaC1rZXk"])


async def test_a_machine_that_does_not_answer_is_waited_for_no_longer_than_told() -> None:
    assert await reachable("192.0.2.1", 0) is False


@dataclass
class Operator:
    """Somebody with a key, a home, and the command line."""

    home: Path
    url: str

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"WOPR_HOME": str(self.home), "DO_API_BASE": self.url, "DO_API_TOKEN": TOKEN}
        key = self.home / "key.pub"
        key.write_text(KEY)
        command = [sys.executable, "-m", "wopr", "machine", "provision", "vps", "--ssh-key", str(key), "--wait", "0"]
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL
        )


def test_the_command_shows_the_price_asks_rents_and_says_what_is_next(tmp_path: Path, url: str) -> None:
    operator = Operator(tmp_path, url)
    tried = json.loads(operator.run("--dry-run", "--json").stdout)
    assert (tried["dry_run"], tried["there"], float(tried["monthly_usd"]) > 0) == (True, False, True)
    asked = operator.run()
    assert (asked.returncode, "a month" in asked.stderr, "--yes" in asked.stderr) == (2, True, True)
    done = operator.run("--yes", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["public_ip"]
    assert told["region"] == Settings.model_fields["gpu_region"].default, "nodes are reached over its private network"
    again = operator.run("--yes", "--exit-code")
    assert (again.returncode, told["public_ip"] in again.stdout) == (4, True)
    assert told["private_ip"]
    assert f"wopr dns apply --host root@{told['public_ip']}" in again.stderr
    ended = [entry for entry in Journal(tmp_path).read() if entry.name == "machine.provision"]
    assert ended[-1].data["id"] == told["id"]
