"""Name servers are asked over their real protocol."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.serving import served

from wopr.cloud.lookup import Server, ask, servers
from wopr.core.errors import Invalid
from wopr.core.postgres import free_port
from wopr.emulators.cloudflare import CloudflareSettings, NameServer, build_cloudflare


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    names = NameServer("127.0.0.1", 0)
    with served(build_cloudflare(CloudflareSettings(tmp_path / "dns.sqlite3"), names)) as url:
        with httpx.Client(base_url=f"{url}/client/v4", headers={"authorization": f"Bearer {'t' * 40}"}) as client:
            zone = client.get("/zones").json()["result"][0]["id"]
            for record in (("A", "api", "192.0.2.2"), ("A", "api", "192.0.2.1"), ("TXT", "t", "a text")):
                body = dict(zip(("type", "name", "content"), record, strict=True))
                client.post(f"/zones/{zone}/dns_records", json=body)
        yield Server("127.0.0.1", names.port, "ada")


async def test_values_are_given_in_order_and_their_absence_in_words(server: Server) -> None:
    assert (await ask("api.wopr.bot", "A", server)).values == ("192.0.2.1", "192.0.2.2")
    assert (await ask("t.wopr.bot", "TXT", server)).values == ("a text",)
    assert (await ask("api.wopr.bot", "AAAA", server)).error == "no AAAA record"
    missing = await ask("other.wopr.bot", "A", server)
    assert (missing.server, missing.values, missing.error) == ("ada", (), "no such name")


async def test_a_server_that_does_not_answer_or_refuses_is_said(server: Server) -> None:
    assert "REFUSED" in (await ask("example.org", "A", server)).error
    away = await ask("api.wopr.bot", "A", Server("127.0.0.1", free_port()))
    assert away.values == ()
    assert away.error


def test_lists_of_servers_are_read() -> None:
    assert servers("") == []
    assert servers("9.9.9.9, 10.0.0.2:5353,2620:fe::fe") == [
        Server("9.9.9.9"),
        Server("10.0.0.2", 5353),
        Server("2620:fe::fe"),
    ]
    assert str(Server("10.0.0.2", 5353)) == "10.0.0.2:5353"
    for wrong in ("nine", "9.9.9.9:x"):
        with pytest.raises(Invalid, match="DNS_SERVERS"):
            servers(wrong)
