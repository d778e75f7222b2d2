"""The DNS stand-in's name server: asked over UDP and TCP, it answers from the records of the API."""

import socket
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import httpx
import pytest
from tests.serving import served

from wopr.emulators.cloudflare import CloudflareSettings, NameServer, build_cloudflare

from .test_cloudflare_api import KEY


class Account:
    """The API with its name server."""

    def __init__(self, client: httpx.Client, port: int) -> None:
        self.port = port
        self.client = client
        self.zone = self.client.get("/zones").json()["result"][0]["id"]

    def add(self, kind: str, name: str, content: str, **more: object) -> None:
        body = {"type": kind, "name": name, "content": content, **more}
        made = self.client.post(f"/zones/{self.zone}/dns_records", json=body)
        assert made.status_code == 200, made.text

    def ask(self, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        how = dns.query.tcp if tcp else dns.query.udp
        return how(query, "127.0.0.1", port=self.port, timeout=20)

    def values(self, name: str, kind: str = "A") -> list[str]:
        return sorted(str(value) for rrset in self.ask(name, kind).answer for value in rrset)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    server = NameServer("127.0.0.1", 0)
    with (
        served(build_cloudflare(CloudflareSettings(tmp_path / "dns.sqlite3"), server)) as url,
        httpx.Client(base_url=f"{url}/client/v4", headers=KEY) as client,
    ):
        yield Account(client, server.port)


def test_what_the_api_is_given_is_answered_at_once(account: Account) -> None:
    account.add("A", "@", "192.0.2.1")
    account.add("AAAA", "api", "2001:db8::1", ttl=120)
    account.add("TXT", "_acme-challenge", '"a token"')
    account.add("CAA", "@", '0 issue "letsencrypt.org"')
    answer = account.ask("WOPR.bot")
    assert (answer.rcode(), bool(answer.flags & dns.flags.AA), answer.answer[0].ttl) == (dns.rcode.NOERROR, True, 300)
    assert account.values("wopr.bot") == ["192.0.2.1"]
    assert account.ask("api.wopr.bot", "AAAA").answer[0].ttl == 120
    assert account.values("_acme-challenge.wopr.bot", "TXT") == ['"a token"']
    assert account.values("wopr.bot", "CAA") == ['0 issue "letsencrypt.org"']
    assert account.values("wopr.bot", "NS") == ["ada.ns.cloudflare.com.", "bob.ns.cloudflare.com."]


def test_tcp_answers_what_udp_has_no_room_for(account: Account) -> None:
    for number in range(12):
        account.add("TXT", "long", f"{number:03}" + "x" * 200)
    assert account.ask("long.wopr.bot", "TXT").flags & dns.flags.TC
    whole = account.ask("long.wopr.bot", "TXT", tcp=True)
    assert (bool(whole.flags & dns.flags.TC), len(whole.answer[0])) == (False, 12)


def test_a_long_text_is_cut_into_strings_and_means_the_same(account: Account) -> None:
    account.add("TXT", "key", "k" * 300)
    (value,) = account.ask("key.wopr.bot", "TXT", tcp=True).answer[0]
    assert [len(part) for part in value.strings] == [255, 45]


def test_what_is_not_there_is_told_apart(account: Account) -> None:
    account.add("A", "a.b", "192.0.2.1")
    nothing = account.ask("other.wopr.bot")
    assert (nothing.rcode(), nothing.authority[0].to_text().split()[3]) == (dns.rcode.NXDOMAIN, "SOA")
    between = account.ask("b.wopr.bot")
    assert (between.rcode(), between.answer) == (dns.rcode.NOERROR, [])
    assert account.ask("a.b.wopr.bot", "AAAA").rcode() == dns.rcode.NOERROR
    assert account.ask("example.org").rcode() == dns.rcode.REFUSED


def test_a_wildcard_answers_for_names_that_nothing_else_answers_for(account: Account) -> None:
    account.add("A", "*.bots", "192.0.2.7")
    account.add("TXT", "special.bots", "text")
    assert account.values("any.bots.wopr.bot") == ["192.0.2.7"]
    assert account.values("deep.any.bots.wopr.bot") == ["192.0.2.7"]
    assert account.values("special.bots.wopr.bot") == []
    assert account.ask("below.special.bots.wopr.bot").rcode() == dns.rcode.NXDOMAIN
    assert account.values("bots.wopr.bot") == []


def test_a_proxied_record_hides_our_address_behind_cloudflares(account: Account) -> None:
    account.add("A", "api", "192.0.2.1", proxied=True)
    assert [value.split(".")[0] for value in account.values("api.wopr.bot")] == ["104", "172"]
    assert all(value.startswith("2606:4700:") for value in account.values("api.wopr.bot", "AAAA"))
    assert account.ask("api.wopr.bot").answer[0].ttl == 300


def test_an_alias_is_followed_and_at_the_top_replaced_by_its_target(account: Account) -> None:
    account.add("A", "real", "192.0.2.5")
    account.add("CNAME", "www", "real.wopr.bot")
    account.add("CNAME", "@", "real.wopr.bot")
    assert account.values("www.wopr.bot") == ["192.0.2.5", "real.wopr.bot."]
    assert account.values("www.wopr.bot", "CNAME") == ["real.wopr.bot."]
    assert account.values("wopr.bot") == ["192.0.2.5"]
    assert len(account.values("wopr.bot", "NS")) == 2


def test_aliases_in_a_circle_end(account: Account) -> None:
    account.add("CNAME", "one", "two.wopr.bot")
    account.add("CNAME", "two", "one.wopr.bot")
    assert account.ask("one.wopr.bot").rcode() == dns.rcode.NOERROR


def test_the_serial_grows_with_every_change(account: Account) -> None:
    def serial() -> int:
        return int(account.values("wopr.bot", "SOA")[0].split()[2])

    before = serial()
    account.add("A", "@", "192.0.2.1")
    assert serial() > before


def test_what_is_no_question_is_not_answered_and_breaks_nothing(account: Account) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loose:
        for junk in (b"", b"x", b"\xff" * 40, dns.message.make_response(dns.message.make_query("a.", "A")).to_wire()):
            loose.sendto(junk, ("127.0.0.1", account.port))
    with socket.create_connection(("127.0.0.1", account.port)) as connection:
        connection.sendall(b"\x00\x03abc")
        assert connection.recv(10) == b""
    account.add("A", "@", "192.0.2.1")
    assert account.values("wopr.bot") == ["192.0.2.1"]
