"""`wopr certs` on another host: whom it asks for the certificate that is shown."""

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.delivery.authority import self_signed
from tests.delivery.hosting import ssh_machine

from wopr.cli.certs import _look
from wopr.cli.installation import Where

DOMAIN = "rehearsed.example"


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[int]:
    """A server that shows a certificate of the domain; its port."""
    own = self_signed([DOMAIN, f"*.{DOMAIN}"], datetime.now(UTC) + timedelta(days=1))
    (tmp_path / "both.pem").write_bytes(own.certificate + own.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


async def test_a_host_that_is_named_by_its_address_is_asked_there_and_not_where_the_name_leads(
    shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "platform"
    folder.mkdir()
    (folder / ".env").write_text(f"WOPR_DOMAIN={DOMAIN}\nWOPR_TLS=dns\nHTTPS_PORT={shown}\n")
    async with ssh_machine(tmp_path / "server") as host:
        keys = tmp_path / "home" / ".ssh"
        keys.mkdir(parents=True)
        (keys / "id_ed25519").write_bytes((tmp_path / "server" / "id").read_bytes())
        (keys / "known_hosts").write_bytes((tmp_path / "server" / "known").read_bytes())
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("WOPR_HOME", str(tmp_path / "home"))
        seen, _ = await _look(Where(str(folder), f"root@127.0.0.1:{host.port}"))
    assert seen.served is not None
    assert seen.served.certificate is not None, seen.served.error
    assert seen.served.certificate.names == (DOMAIN, f"*.{DOMAIN}")
