"""Caddy with the shipped rules for slots: a request that reached none waits for one, and none is made twice."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.live import wait_for
from tests.machines.engine import Engine

from wopr.core.postgres import free_port

SHIPPED = Path(__file__).parents[2] / "deploy" / "Caddyfile"
UP_SECONDS = 60.0
WAIT_SECONDS = 60.0
CHECKS = 3  # Caddy has taken in the first when it asks for the second; one more for a check that was under way


@dataclass
class Slot:
    """What stands behind Caddy. `cuts` is how many requests it takes and leaves without an answer.

    `refused` counts the checks to which it said that it is not ready; `reached` lists requests, and whether it was.
    """

    ready: bool = True
    cuts: int = 0
    refused: int = 0
    reached: list[tuple[str, bool]] = field(default_factory=list)
    port: int = 0

    def refuses_more(self) -> None:
        """Wait until Caddy heard anew that it is not ready."""
        before = self.refused
        wait_for(lambda: self.refused >= before + CHECKS, "checks of Caddy", WAIT_SECONDS)


@pytest.fixture
def slot() -> Iterator[Slot]:
    here = Slot()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/ready":
                ready = here.ready
                self._answer(200 if ready else 503)
                here.refused += not ready
            else:
                self._serve()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._serve()

        def _serve(self) -> None:
            here.reached.append((self.command, here.ready))
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
    content = b"x" * 100_000 if method == "POST" else None
    sent = threading.Event()

    def trace(what: str, _more: object) -> None:
        if what == "http11.send_request_headers.complete":
            sent.set()

    slot.ready = False
    slot.refuses_more()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caddy.request, method, "/", content=content, extensions={"trace": trace})
        assert sent.wait(WAIT_SECONDS)
        slot.refuses_more()
        assert not asking.done()
        slot.ready = True
        assert asking.result().status_code == 200
    assert slot.reached == [(method, True)]


def test_what_a_slot_may_have_done_is_not_asked_again(caddy: httpx.Client, slot: Slot) -> None:
    slot.cuts = 1
    assert caddy.post("/", content=b"pay").status_code == 502
    assert slot.reached == [("POST", True)]
    slot.cuts = 1
    assert caddy.get("/").status_code == 200
    assert slot.reached == [("POST", True), ("GET", True), ("GET", True)]
