"""Caddy with the shipped rules for slots: a request that reached none waits for one, and none is made twice."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.machines.engine import Engine

from wopr.core.postgres import free_port

SHIPPED = Path(__file__).parents[2] / "deploy" / "Caddyfile"
UP_SECONDS = 60.0
UNREADY_SECONDS = 1.5


@dataclass
class Slot:
    """What stands behind Caddy; `cuts` is how many requests it takes and leaves without an answer."""

    ready: bool = True
    cuts: int = 0
    reached: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def slot() -> Iterator[Slot]:
    here = Slot()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/ready":
                self._answer(200 if here.ready else 503)
            else:
                self._serve()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._serve()

        def _serve(self) -> None:
            here.reached.append(self.command)
            if here.cuts:
                here.cuts -= 1
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self._answer(200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_said: object) -> None:
            """A test's own log is enough."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield here
        server.shutdown()


@pytest.fixture
def caddy(engine: Engine, third_party_images: object, slot: Slot, tmp_path: Path) -> Iterator[httpx.Client]:
    """Caddy before this slot and one that is not there."""
    port, nobody = free_port(), free_port()
    rest = SHIPPED.read_text().partition("(slots) {")[2]
    rules = "(slots) {" + rest.partition("\n}\n")[0] + "\n}\n"
    proxy = f"reverse_proxy 127.0.0.1:{slot.port} 127.0.0.1:{nobody} {{\n import slots\n }}"
    (tmp_path / "Caddyfile").write_text(f"{{\n admin off\n}}\n{rules}http://:{port} {{\n {proxy}\n}}\n")
    tmp_path.chmod(0o755)
    with _container(engine, tmp_path), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                if http.get("/").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, "Caddy does not answer"
            time.sleep(0.1)
        slot.reached.clear()
        yield http


@contextmanager
def _container(engine: Engine, folder: Path) -> Iterator[None]:
    words = ("run", "-d", "--network", "host", "--label", engine.label, "-v", f"{folder}:/etc/caddy:ro")
    made = engine.docker(*words, "caddy:2-alpine").stdout.strip()
    try:
        yield
    finally:
        engine.docker("rm", "-f", "-v", made)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_waits_while_the_only_slot_is_not_ready_for_a_moment(
    caddy: httpx.Client, slot: Slot, method: str
) -> None:
    slot.ready = False
    time.sleep(UNREADY_SECONDS)  # several checks, so that Caddy knows
    threading.Timer(UNREADY_SECONDS, setattr, (slot, "ready", True)).start()
    assert caddy.request(method, "/", content=b"x" * 100_000 if method == "POST" else None).status_code == 200
    assert slot.reached == [method]


def test_what_a_slot_may_have_done_is_not_asked_again(caddy: httpx.Client, slot: Slot) -> None:
    slot.cuts = 1
    assert caddy.post("/", content=b"pay").status_code == 502
    assert slot.reached == ["POST"]
    slot.cuts = 1
    assert caddy.get("/").status_code == 200
    assert slot.reached == ["POST", "GET", "GET"]
