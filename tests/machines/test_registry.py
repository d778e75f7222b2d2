"""The registry of the tests is a real one: it lets nobody in without the password, and tells of each push."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import httpx
import pytest
from tests.machines import registry as registries
from tests.machines.engine import Engine
from tests.machines.registry import Registry


@pytest.fixture
def notified() -> Iterator[tuple[str, "Queue[dict[str, object]]"]]:
    """An address that hears of pushes, and what it heard."""
    heard: Queue[dict[str, object]] = Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for event in json.loads(self.rfile.read(int(self.headers["content-length"])))["events"]:
                heard.put(event)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", heard
        server.shutdown()
        thread.join()


def test_a_pushed_image_is_pulled_again_by_its_digest(engine: Engine, registry: Registry, slim_image: str) -> None:
    reference = registry.push(slim_image, "probe:one")
    assert reference.startswith(f"{registry.server}/probe@sha256:")
    with registry.logged_in() as config:
        pulled = engine.docker("--config", str(config), "pull", "--quiet", reference)
    assert reference in pulled.stdout
    engine.docker("rmi", reference)


def test_nobody_comes_in_without_the_password(engine: Engine, registry: Registry, slim_image: str) -> None:
    assert httpx.get(f"{registry.url}/v2/_catalog", trust_env=False).status_code == 401
    refused = engine.docker("pull", f"{registry.server}/probe:one", check=False)
    assert refused.returncode != 0
    wrong = httpx.get(f"{registry.url}/v2/", auth=(registry.username, "wrong"), trust_env=False)
    assert wrong.status_code == 401


def test_a_push_is_told_to_the_webhook(
    engine: Engine, slim_image: str, notified: tuple[str, "Queue[dict[str, object]]"]
) -> None:
    address, heard = notified
    with registries.serving(engine, webhook=address) as registry:
        reference = registry.push(slim_image, "probe:two")
        while True:
            event = heard.get(timeout=60)
            target = event["target"]
            assert isinstance(target, dict)
            if event["action"] == "push" and target.get("tag") == "two":
                break
    assert target["digest"] == reference.partition("@")[2]
