"""The DNS stand-in's API: accepts what Cloudflare accepts, refuses what it refuses with its codes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import served

from wopr.emulators.cloudflare import CloudflareSettings, build_cloudflare

TOKEN = "t" * 40
KEY = {"authorization": f"Bearer {TOKEN}"}
A: dict[str, Any] = {"type": "A", "name": "api", "content": "192.0.2.1", "ttl": 1, "proxied": False}


@pytest.fixture
def account(tmp_path: Path) -> Iterator[httpx.Client]:
    settings = CloudflareSettings(tmp_path / "dns.sqlite3", api_token=TOKEN, zones=("wopr.bot", "example.com"))
    with (
        served(build_cloudflare(settings)) as url,
        httpx.Client(base_url=f"{url}/client/v4", headers=KEY, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def zone(account: httpx.Client) -> str:
    return f"/zones/{account.get('/zones', params={'name': 'wopr.bot'}).json()['result'][0]['id']}/dns_records"


def test_a_record_is_made_read_changed_and_removed(account: httpx.Client, zone: str) -> None:
    made = account.post(zone, json=A | {"comment": "ours", "tags": ["owner:wopr"]}).json()
    assert (made["success"], made["errors"], made["messages"]) == (True, [], [])
    record = made["result"]
    assert {key: record[key] for key in ("name", "type", "content", "ttl", "proxied", "proxiable", "comment")} == {
        "name": "api.wopr.bot", "type": "A", "content": "192.0.2.1", "ttl": 1, "proxied": False, "proxiable": True,
        "comment": "ours",
    }  # fmt: skip
    assert len(record["id"]) == 32
    one = f"{zone}/{record['id']}"
    assert account.get(one).json()["result"] == record
    patched = account.patch(one, json={"content": "192.0.2.2"}).json()["result"]
    assert (patched["content"], patched["comment"], patched["id"]) == ("192.0.2.2", "ours", record["id"])
    put = account.put(one, json=A | {"content": "192.0.2.3"}).json()["result"]
    assert (put["content"], put["comment"], put["created_on"]) == ("192.0.2.3", None, record["created_on"])
    assert account.delete(one).json()["result"] == {"id": record["id"]}
    assert (account.get(one).status_code, account.get(one).json()["errors"][0]["code"]) == (404, 81044)


def test_records_are_found_by_type_name_and_content_page_by_page(account: httpx.Client, zone: str) -> None:
    for number in range(5):
        account.post(zone, json=A | {"content": f"192.0.2.{number + 1}"})
    account.post(zone, json={"type": "TXT", "name": "@", "content": '"v=spf1 -all"'})
    found = account.get(zone, params={"type": "A", "name": "api.wopr.bot", "per_page": 2, "page": 3}).json()
    assert found["result_info"] == {"page": 3, "per_page": 2, "count": 1, "total_count": 5, "total_pages": 3}
    assert [r["content"] for r in found["result"]] == ["192.0.2.1"]
    for wanted in ({"content": "192.0.2.4"}, {"content.exact": "192.0.2.4"}, {"content.endswith": ".4"}):
        assert [r["content"] for r in account.get(zone, params=wanted).json()["result"]] == ["192.0.2.4"]
    either = account.get(zone, params={"type": "TXT", "content": "192.0.2.4", "match": "any"}).json()
    assert {r["type"] for r in either["result"]} == {"A", "TXT"}
    assert account.get(zone, params={"per_page": 0}).status_code == 400


def test_zones_are_found_by_name(account: httpx.Client) -> None:
    found = account.get("/zones", params={"name": "example.com", "per_page": 1}).json()
    assert [(z["name"], z["status"], len(z["name_servers"])) for z in found["result"]] == [("example.com", "active", 2)]
    assert account.get("/zones").json()["result_info"]["total_count"] == 2
    assert account.get("/zones", params={"name": "other.org"}).json()["result"] == []
    assert account.get(f"/zones/{found['result'][0]['id']}").json()["result"]["name"] == "example.com"
    assert account.get("/zones/nothing/dns_records").json()["errors"][0]["code"] == 7003


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content": "256.0.0.1"}, 9005),
        ({"type": "AAAA"}, 9006),
        ({"type": "CNAME", "content": "not a name"}, 9007),
        ({"type": "CNAME", "content": "api.wopr.bot"}, 9039),
        ({"name": "-bad-.x"}, 9000),
        ({"name": ""}, 9000),
        ({"type": "FOO"}, 9001),
        ({"type": None}, 9000),
        ({"ttl": 30}, 9021),
        ({"ttl": "soon"}, 9021),
        ({"proxied": "yes"}, 9003),
        ({"type": "TXT", "content": "text", "proxied": True}, 9004),
        ({"comment": "x" * 101}, 9313),
        ({"type": "MX", "content": "mail.wopr.bot"}, 9100),
        ({"type": "CAA", "content": "issue letsencrypt.org"}, 9101),
    ],
)
def test_a_malformed_record_is_refused(account: httpx.Client, zone: str, change: dict[str, Any], code: int) -> None:
    answer = account.post(zone, json=A | change)
    error = answer.json()["errors"][0]
    assert (answer.status_code, answer.json()["success"], error["code"]) == (400, False, 1004)
    assert code in [cause["code"] for cause in error["error_chain"]]
    assert account.get(zone).json()["result"] == []


def test_a_record_is_there_once_and_an_alias_stands_alone(account: httpx.Client, zone: str) -> None:
    account.post(zone, json=A)
    assert account.post(zone, json=A | {"ttl": 120}).json()["errors"][0]["code"] == 81058
    alias = {"type": "CNAME", "name": "api", "content": "other.example.com"}
    assert account.post(zone, json=alias).json()["errors"][0]["code"] == 81053
    account.post(zone, json=alias | {"name": "www"})
    assert account.post(zone, json=A | {"name": "www"}).json()["errors"][0]["code"] == 81054
    other = account.post(zone, json=A | {"content": "192.0.2.9"}).json()["result"]
    assert account.patch(f"{zone}/{other['id']}", json={"content": A["content"]}).json()["errors"][0]["code"] == 81058


@pytest.mark.parametrize(
    ("header", "path", "status", "code"),
    [
        ("", "/zones", 400, 9106),
        ("Bearer short", "/zones", 400, 6003),
        (f"Bearer {'x' * 40}", "/zones", 403, 9109),
        (f"Bearer {'x' * 40}", "/user/tokens/verify", 401, 1000),
    ],
)
def test_tokens_are_checked(account: httpx.Client, header: str, path: str, status: int, code: int) -> None:
    answer = account.get(path, headers={"authorization": header})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
    assert account.get("/user/tokens/verify").json()["result"]["status"] == "active"


def test_too_many_requests_are_limited_as_cloudflare_does(tmp_path: Path) -> None:
    app = build_cloudflare(CloudflareSettings(tmp_path / "dns.sqlite3", requests_max=2, window_seconds=1000))
    with served(app) as url, httpx.Client(base_url=f"{url}/client/v4", headers=KEY, timeout=30) as client:
        answers = [client.get("/zones") for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"default";q=2;w=1000'
    assert answers[1].headers["ratelimit"].startswith('"default";r=0;t=')
    assert 900 < int(answers[2].headers["retry-after"]) <= 1000


def test_refusals_come_on_demand_and_end(account: httpx.Client, zone: str) -> None:
    base = str(account.base_url).removesuffix("/client/v4/")
    account.post(f"{base}/_emulator/refuse", json={"status": 403, "times": 1})
    assert [account.get(zone).status_code for _ in range(2)] == [403, 200]
    account.post(f"{base}/_emulator/refuse", json={"status": 429, "times": 1})
    limited = account.get(zone)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "1")


def test_the_page_shows_every_record_and_marks_the_proxied(account: httpx.Client, zone: str) -> None:
    base = str(account.base_url).removesuffix("/client/v4/")
    account.post(zone, json=A | {"proxied": True, "comment": "<b>bold</b>"})
    page = httpx.get(f"{base}/")
    assert page.status_code == 200
    for text in ("api.wopr.bot", "192.0.2.1", "proxied", "&lt;b&gt;bold", "example.com", "No records yet"):
        assert text in page.text
    made = httpx.post(f"{base}/_emulator/zones", json={"name": "third.example"})
    assert (made.status_code, made.json()["name"]) == (201, "third.example")
    assert httpx.get(f"{base}/_emulator/records").json()["wopr.bot"][0]["content"] == "192.0.2.1"


def test_records_survive_the_process(tmp_path: Path) -> None:
    settings = CloudflareSettings(tmp_path / "dns.sqlite3")
    for _ in range(2):
        with (
            served(build_cloudflare(settings)) as url,
            httpx.Client(base_url=f"{url}/client/v4", headers=KEY, timeout=30) as client,
        ):
            zone = client.get("/zones").json()["result"][0]["id"]
            client.post(f"/zones/{zone}/dns_records", json=A)
            assert len(client.get(f"/zones/{zone}/dns_records").json()["result"]) == 1


def test_unknown_addresses_answer_in_cloudflares_shape(account: httpx.Client, zone: str) -> None:
    assert account.get("/nothing").json()["errors"][0]["code"] == 7003
    assert account.delete(zone).status_code == 405
    assert account.post(zone, content=b"{").status_code == 400
    assert account.post(zone, content=b"[]").status_code == 400
