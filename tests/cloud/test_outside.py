"""Our own names as customers meet them: found by the name servers that were chosen, trusted by the roots that were."""

import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.delivery.authority import TOKEN, Zone, self_signed, zone

from wopr.cloud.lookup import Server
from wopr.cloud.outside import transport

NAME = "api.wopr.bot"


class _Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = self.headers["host"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_words: object) -> None:
        """Nothing is told."""


@dataclass(frozen=True)
class Site:
    """A server that shows a certificate of NAME, and the name server that knows where it is."""

    port: int
    server: Server
    roots: Path

    async def ask(self, name: str, *, servers: tuple[Server, ...], roots: Path | None) -> str:
        async with httpx.AsyncClient(transport=transport(servers, roots), trust_env=False) as http:
            return (await http.get(f"https://{name}:{self.port}/")).text


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    own = self_signed([NAME], datetime.now(UTC) + timedelta(days=1))
    (tmp_path / "certificate.pem").write_bytes(own.certificate)
    (tmp_path / "key.pem").write_bytes(own.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with zone(tmp_path) as names, ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in (NAME, "other.wopr.bot"):
            _add(names, name)
        address, _, port = names.server.partition(":")
        yield Site(server.server_port, Server(address, int(port)), tmp_path / "certificate.pem")
        server.shutdown()


def _add(names: Zone, name: str) -> None:
    with httpx.Client(base_url=f"{names.url}/client/v4", headers={"authorization": f"Bearer {TOKEN}"}) as http:
        number = http.get("/zones").json()["result"][0]["id"]
        record = {"type": "A", "name": name, "content": "127.0.0.1", "ttl": 60}
        http.post(f"/zones/{number}/dns_records", json=record).raise_for_status()


async def test_a_name_is_found_by_the_server_that_was_chosen_and_stays_the_name_of_the_request(site: Site) -> None:
    assert await site.ask(NAME, servers=(site.server,), roots=site.roots) == f"{NAME}:{site.port}"


async def test_whoever_shows_the_certificate_of_another_name_is_refused(site: Site) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await site.ask("other.wopr.bot", servers=(site.server,), roots=site.roots)


async def test_roots_that_were_not_chosen_are_not_trusted(site: Site) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await site.ask(NAME, servers=(site.server,), roots=None)


def test_without_a_choice_it_is_the_usual_way(tmp_path: Path) -> None:
    assert transport((), None) is None
    assert transport((), tmp_path / "absent.pem") is None
