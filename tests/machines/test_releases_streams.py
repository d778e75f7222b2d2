"""Answers that stream while releases come and go: through Caddy, metered, and every one of them to its last event."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.live import wait_for
from tests.machines.engine import Engine
from tests.machines.installation import Installation, Load, installed

PIECES = 40
PIECE_SECONDS = 0.1
TALKERS = 4


class _Model(BaseHTTPRequestHandler):
    """A model that takes its time: an OpenAI-compatible stream of some seconds. One token comes at once."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._json({"data": [{"id": "handbook"}]} if self.path == "/v1/models" else {"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not asked.get("stream"):
            said = {"index": 0, "message": {"role": "assistant", "content": "1"}, "finish_reason": "length"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            self._json({"id": "c", "object": "chat.completion", "created": 1, "choices": [said], "usage": usage})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
        for number in range(PIECES):
            delta = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
            self._event({**base, "choices": [delta]})
            time.sleep(PIECE_SECONDS)
        self._event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 1, "completion_tokens": PIECES, "total_tokens": PIECES + 1}
        self._event({**base, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, body: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()

    def _json(self, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked was a release that left meanwhile."""


@dataclass
class Talk:
    """Streams one after the other; each is whole or a failure."""

    site: Installation
    key: str
    whole: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Talk":
        self._threads = [threading.Thread(target=self._talk, daemon=True) for _ in range(TALKERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _talk(self) -> None:
        while not self._stop.is_set():
            try:
                said = self.ask()
            except httpx.HTTPError as error:
                said = f"{type(error).__name__}: {error}"
            if said == "":
                self.whole += 1
            else:
                self.failures.append(said)
                time.sleep(0.2)

    def ask(self) -> str:
        """One stream; nothing when it came whole, else what was wrong."""
        body = {"model": "handbook", "stream": True, "messages": [{"role": "user", "content": "count"}]}
        headers = {"host": "api.localhost", "authorization": f"Bearer {self.key}"}
        url = f"http://127.0.0.1:{self.site.port}/v1/chat/completions"
        with (
            httpx.Client(timeout=60, trust_env=False) as http,
            http.stream("POST", url, json=body, headers=headers) as answer,
        ):
            text = answer.read().decode()
        if answer.status_code != 200:
            return f"{answer.status_code} {text[:200]}"
        return "" if text.count('"content"') == PIECES and text.rstrip().endswith("[DONE]") else f"cut: …{text[-300:]}"


@contextmanager
def model(host: str) -> Iterator[int]:
    """The model, where containers reach it; its port."""
    server = _Server((host, 0), _Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


def test_no_stream_is_cut_by_releases(site: Installation) -> None:
    with talker(site) as talk, talk, Load(site, threads=2) as load:
        wait_for(lambda: talk.whole >= 1, "streams to run", 60)
        for _ in range(2):
            site.release(site.derive())
    assert talk.failures == []
    assert load.failures == []
    assert talk.whole >= TALKERS


@contextmanager
def talker(site: Installation) -> Iterator[Talk]:
    """A customer whose streams come from a slow model behind the platform."""
    network = json.loads(site.engine.docker("network", "inspect", f"{site.name}-platform").stdout)[0]
    gateway = network["IPAM"]["Config"][0]["Gateway"]
    with model(gateway) as port:
        talk = Talk(site, customer(site, gateway, port))
        wait_for(lambda: talk.ask() == "", "the model to be reached through the gateway", 60)
        yield talk


def customer(site: Installation, host: str, port: int) -> str:
    """The administrator, with credit and a model behind the platform; the secret of a key."""
    slot = site.state()["active"]["slot"]
    inside = ("exec", f"{site.name}-api-{slot}", "wopr", "admin")
    site.engine.docker(*inside, "create", "ada@example.com")
    link = json.loads(site.engine.docker(*inside, "link", "ada@example.com", "--json").stdout)["link"]
    token = parse_qs(urlsplit(link).query)["token"][0]
    env = dict(line.partition("=")[::2] for line in (site.folder / ".env").read_text().splitlines())
    headers = {"host": "api.localhost", "origin": env["UI_URL"]}
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", headers=headers, timeout=60, trust_env=False) as http:
        who = http.post("/api/auth/one-time", json={"token": token}).raise_for_status()
        cookie = who.headers["set-cookie"].partition(";")[0]
        http.headers["cookie"] = cookie
        tenant = who.json()["tenant"]["id"]
        credit = {"amount_usd": "50", "reason": "streams"}
        http.post(f"/api/admin/tenants/{tenant}/credit", json=credit).raise_for_status()
        node = {"id": "slow", "host": host, "region": "here", "size": "small", "ports": {"llama": port}}
        http.post("/api/admin/nodes", json=node).raise_for_status()
        made = http.post("/api/keys", json={"name": "a program", "scope": "write", "expires_in_days": None})
        return str(made.raise_for_status().json()["secret"])
