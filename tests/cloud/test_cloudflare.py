"""Our client of Cloudflare's API, against the stand-in over HTTP, and against answers that only bad days bring."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.serving import served

from wopr.cloud.again import ATTEMPTS_MAX
from wopr.cloud.cloudflare import Cloudflare, CloudflareRefused
from wopr.cloud.compute import CloudError
from wopr.cloud.dns import Dns, DnsRecord
from wopr.emulators.cloudflare import CloudflareSettings, build_cloudflare

TOKEN = "t" * 40
API = DnsRecord("api.wopr.bot", "A", "192.0.2.1", comment="ours")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    settings = CloudflareSettings(tmp_path / "dns.sqlite3", api_token=TOKEN, zones=("wopr.bot", "sub.example.com"))
    with served(build_cloudflare(settings)) as at:
        yield at


@pytest.fixture
async def dns(url: str) -> AsyncIterator[Cloudflare]:
    async with httpx.AsyncClient() as http:
        yield Cloudflare(http, f"{url}/client/v4", TOKEN, pause=_no_pause)


async def test_a_record_is_made_changed_and_removed(dns: Dns) -> None:
    zone = await dns.zone_of("*.bots.wopr.bot")
    assert (zone.name, len(zone.name_servers)) == ("wopr.bot", 2)
    made = await dns.create(zone, API)
    assert made == replace(API, id=made.id)
    assert await dns.create(zone, API) == made, "made twice, it is there once"
    changed = await dns.change(zone, replace(made, content="192.0.2.2", ttl_seconds=120, proxied=False))
    assert await dns.records(zone, name="api.wopr.bot", type="A") == [changed]
    assert (changed.content, changed.ttl_seconds) == ("192.0.2.2", 120)
    assert await dns.delete(zone, changed) is True
    assert await dns.delete(zone, changed) is False
    assert await dns.records(zone) == []


async def test_lists_are_read_to_their_last_page(dns: Dns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wopr.cloud.cloudflare.PAGE_RECORDS", 3)
    zone = await dns.zone_of("wopr.bot")
    for number in range(8):
        await dns.create(zone, replace(API, name=f"n{number}.wopr.bot"))
    assert {record.name for record in await dns.records(zone)} == {f"n{number}.wopr.bot" for number in range(8)}


async def test_the_zone_is_the_longest_one_that_a_name_lies_in(dns: Dns) -> None:
    assert (await dns.zone_of("a.b.sub.example.com")).name == "sub.example.com"
    with pytest.raises(CloudError, match=r"no zone of Cloudflare with a\.example\.org") as failed:
        await dns.zone_of("a.example.org")
    assert "Zone:Read" in failed.value.remedy


async def test_a_wrong_token_is_named_with_what_to_do(dns: Cloudflare) -> None:
    for token in ("x" * 40, "short"):
        with pytest.raises(CloudflareRefused, match="does not accept CLOUDFLARE_API_TOKEN") as refused:
            await replace(dns, token=token).zone_of("wopr.bot")
        assert "DNS:Edit" in refused.value.remedy
        assert token not in refused.value.message
    assert TOKEN not in repr(dns)


async def test_a_token_without_the_permission_is_told_apart(dns: Cloudflare, url: str) -> None:
    await dns.http.post(f"{url}/_emulator/refuse", json={"status": 403, "times": 1})
    with pytest.raises(CloudflareRefused, match=r"may not do this: Authentication error \(10000\)"):
        await dns.zone_of("wopr.bot")


async def test_another_record_in_the_way_is_told(dns: Dns) -> None:
    zone = await dns.zone_of("wopr.bot")
    await dns.create(zone, API)
    with pytest.raises(CloudflareRefused, match="in the way"):
        await dns.create(zone, DnsRecord("api.wopr.bot", "CNAME", "other.example.com"))
    with pytest.raises(CloudflareRefused, match="valid IPv4 address"):
        await dns.create(zone, replace(API, content="nonsense"))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_passes_is_tried_again_after_what_the_answer_asks(dns: Cloudflare, url: str, status: int) -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    await dns.http.post(f"{url}/_emulator/refuse", json={"status": status, "times": ATTEMPTS_MAX - 1})
    assert (await replace(dns, pause=pause).zone_of("wopr.bot")).name == "wopr.bot"
    assert len(waited) == ATTEMPTS_MAX - 1
    if status == 429:
        assert all(1.0 <= seconds <= 1.2 for seconds in waited)
    else:
        assert 0 < waited[0] <= waited[-1] * 2


async def test_what_does_not_pass_ends_and_says_that_it_may_later(dns: Cloudflare, url: str) -> None:
    await dns.http.post(f"{url}/_emulator/refuse", json={"status": 429, "times": ATTEMPTS_MAX})
    with pytest.raises(CloudError, match="limit of requests") as failed:
        await dns.zone_of("wopr.bot")
    assert failed.value.retry


def _cut(answers: list[int]) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("cut", request=request) if answers.pop(0) else httpx.ConnectError("away")

    return handle


async def test_a_company_that_is_away_is_said(dns: Cloudflare) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(_cut([1, 0, 1, 0]))) as http:
        with pytest.raises(CloudError, match=r"can't be reached at 127\.0\.0\.1: away") as failed:
            await replace(dns, http=http).zone_of("wopr.bot")
    assert failed.value.retry


async def test_what_is_no_answer_of_cloudflare_is_said(dns: Cloudflare) -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>portal</html>"))
    async with httpx.AsyncClient(transport=page) as http:
        with pytest.raises(CloudError, match="no answer of Cloudflare's API") as failed:
            await replace(dns, http=http).zone_of("wopr.bot")
    assert "CLOUDFLARE_API_BASE" in failed.value.remedy


async def _no_pause(seconds: float) -> None:
    return None
