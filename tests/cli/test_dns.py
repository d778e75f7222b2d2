"""`wopr dns` as the operator runs it: against the stand-in for Cloudflare and the name server behind it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.serving import served

from wopr.emulators.cloudflare import CloudflareSettings, NameServer, build_cloudflare
from wopr.ops.journal import Journal

TOKEN = "t" * 40
HERE = "203.0.113.7"
NAMES = ("wopr.bot", "api.wopr.bot", "app.wopr.bot", "*.bots.wopr.bot")


@dataclass
class World:
    """An installation's folder, and the zone of its domain."""

    folder: Path
    client: httpx.Client
    url: str
    zone: str = ""

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("CLOUDFLARE", "DNS_"))}
        environment |= {"WOPR_HOME": str(self.folder)}
        command = [sys.executable, "-m", "wopr", "dns", *words, "--dir", str(self.folder)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL
        )

    def add(self, name: str, content: str, **more: object) -> str:
        body = {"type": "A", "name": name, "content": content, **more}
        return str(self.client.post(f"/zones/{self.zone}/dns_records", json=body).json()["result"]["id"])

    def records(self) -> dict[str, tuple[str, bool]]:
        found = self.client.get(f"/zones/{self.zone}/dns_records").json()["result"]
        return {record["name"]: (record["content"], record["proxied"]) for record in found}

    def set(self, **settings: str) -> None:
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        with (self.folder / ".env").open("a") as file:
            file.writelines(lines)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    server = NameServer("127.0.0.1", 0)
    settings = CloudflareSettings(tmp_path / "dns.sqlite3", api_token=TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        served(build_cloudflare(settings, server)) as url,
        httpx.Client(base_url=f"{url}/client/v4", headers=headers) as client,
    ):
        made = World(tmp_path / "installation", client, url)
        made.folder.mkdir()
        made.zone = client.get("/zones").json()["result"][0]["id"]
        made.set(
            WOPR_DOMAIN="wopr.bot",
            CLOUDFLARE_API_TOKEN=TOKEN,
            CLOUDFLARE_API_BASE=f"{url}/client/v4",
            DNS_SERVERS=f"127.0.0.1:{server.port}",
            PUBLIC_ADDRESS=HERE,
        )
        yield made


def test_every_name_leads_to_the_host_and_a_second_run_finds_nothing_to_do(world: World) -> None:
    tried = world.run("apply", "--dry-run")
    assert (tried.returncode, tried.stdout.count("would create")) == (0, 4)
    assert world.records() == {}
    done = world.run("apply")
    assert done.returncode == 0, done.stderr
    assert world.records() == dict.fromkeys(NAMES, (HERE, False))
    checked = world.run("check")
    assert (checked.returncode, checked.stdout.count(HERE)) == (0, 4), checked.stdout
    again = world.run("apply", "--exit-code")
    assert (again.returncode, "already" in again.stdout) == (4, True)
    entries = Journal(world.folder).read()
    assert [entry.data.get("step") for entry in entries if entry.name == "dns.apply"].count("created") == 4
    assert TOKEN not in (world.folder / "journal.jsonl").read_text()


def test_a_host_that_moved_takes_its_names_with_it(world: World) -> None:
    world.run("apply")
    moved = world.run("apply", "--address", "203.0.113.8", "--json")
    told = json.loads(moved.stdout)
    assert (len(told["change"]), told["create"], told["delete"], told["address"]) == (4, [], [], "203.0.113.8")
    assert set(world.records().values()) == {("203.0.113.8", False)}


def test_a_proxied_record_is_found_and_the_remedy_works(world: World) -> None:
    world.run("apply")
    found = world.client.get(f"/zones/{world.zone}/dns_records", params={"name": "api.wopr.bot"}).json()["result"]
    world.client.patch(f"/zones/{world.zone}/dns_records/{found[0]['id']}", json={"proxied": True})
    checked = world.run("check", "--json")
    told = json.loads(checked.stdout)
    assert (checked.returncode, told["ok"]) == (3, False)
    assert {(f["name"], f["asked"]) for f in told["faults"]} == {
        ("api.wopr.bot", "records"),
        ("api.wopr.bot", "answers"),
    }
    assert any("is proxied" in f["says"] for f in told["faults"])
    assert any("Cloudflare's proxy" in f["says"] for f in told["faults"])
    assert all("wopr dns apply" in f["remedy"] for f in told["faults"])
    assert world.run("apply").returncode == 0
    assert world.run("check").returncode == 0


def test_a_record_of_somebody_else_stays_until_it_may_go(world: World) -> None:
    theirs = world.add("api", "198.51.100.1", comment="the shop")
    world.add("www", "198.51.100.2")
    refused = world.run("apply")
    assert refused.returncode in (2, 3)
    assert "wopr dns apply --replace" in refused.stderr
    assert "198.51.100.1" in refused.stderr
    assert world.records()["api.wopr.bot"] == ("198.51.100.1", False)
    assert world.records()["app.wopr.bot"] == (HERE, False)
    checked = world.run("check")
    assert (checked.returncode, "198.51.100.1" in checked.stdout) == (3, True)
    assert world.run("apply", "--replace").returncode == 0
    assert world.records()["api.wopr.bot"] == (HERE, False)
    assert world.client.get(f"/zones/{world.zone}/dns_records/{theirs}").json()["result"]["content"] == HERE
    assert world.records()["www.wopr.bot"] == ("198.51.100.2", False)


def test_every_record_is_listed_with_whose_it_is(world: World) -> None:
    world.add("www", "198.51.100.2", comment="the shop")
    world.run("apply")
    listed = json.loads(world.run("list", "--json").stdout)
    assert {(r["name"], r["comment"]) for r in listed} == {
        *((name, "managed by wopr: wopr") for name in NAMES),
        ("www.wopr.bot", "the shop"),
    }
    assert "the shop" in world.run("ls").stdout


@pytest.mark.parametrize(
    ("change", "says", "remedy"),
    [
        ({"CLOUDFLARE_API_TOKEN": "x" * 40}, "does not accept CLOUDFLARE_API_TOKEN", "DNS:Edit"),
        ({"CLOUDFLARE_API_TOKEN": ""}, "need CLOUDFLARE_API_TOKEN", "Make a token"),
        ({"WOPR_DOMAIN": "example.org"}, "no zone of Cloudflare with example.org", "Add the domain"),
        ({"WOPR_DOMAIN": "localhost"}, "without a public name", "WOPR_DOMAIN=example.com"),
        ({"CLOUDFLARE_API_BASE": "http://127.0.0.1:9/client/v4"}, "can't be reached", ""),
        ({"DNS_SERVERS": "nonsense"}, "DNS_SERVERS=nonsense", "9.9.9.9"),
    ],
)
def test_what_is_missing_or_wrong_is_named_with_what_to_do(
    world: World, change: dict[str, str], says: str, remedy: str
) -> None:
    world.set(**change)
    failed = world.run("apply")
    assert failed.returncode == 1, failed.stderr
    assert says in failed.stderr
    assert remedy in failed.stderr
    assert "x" * 40 not in failed.stderr
    assert world.records() == {}


def test_an_address_that_is_none_is_wrong_usage(world: World) -> None:
    assert world.run("apply", "--address", "here").returncode == 2
