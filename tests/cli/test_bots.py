"""`wopr bots` against an API of a few routes: logs in words, and a cost that is whole."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner, Result

from wopr.cli.bots import app

LINE = {"at": "2026-11-23T10:00:00Z", "stream": "stdout", "text": '{"event": "ready", "ms": 85, "level": "info"}'}
EVENTS = (
    'event: delta\ndata: {"text": "Hello."}\n\nevent: completed\ndata: {"text": "Hello.", "request_ids": ["r1"]}\n\n'
)


class Api(BaseHTTPRequestHandler):
    """One bot. The receipt of its turn has its second line, that of the memory, only when asked for the third time."""

    asked = 0

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            return self._send(EVENTS.encode(), "text/event-stream")
        if "/receipt" in self.path:
            Api.asked += 1
            costs = ["0.0000638"] if Api.asked < 3 else ["0.0000638", "0.00000184"]
            lines = [{"request_id": f"r{n}", "kind": "chat", "model": "m", "cost_usd": c} for n, c in enumerate(costs)]
            total = "0.00006564" if len(costs) == 2 else costs[0]
            return self._json({"turn_id": "t1", "total_usd": total, "lines": lines})
        return self._json({"lines": [LINE]} if "/logs" in self.path else {"bots": [{"id": "b1", "name": "Ada"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._json({"turn_id": "t1", "conversation_id": "c1", "state": "running"}, 202)

    def _json(self, body: object, status: int = 200) -> None:
        self._send(json.dumps(body).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def url(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("WOPR_HOME", str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", url, "--key", "wopr_write_x"], catch_exceptions=False)


def test_logs_are_words_and_json_is_what_was_written(url: str) -> None:
    assert run(url, "logs", "Ada").stdout == "2026-11-23T10:00:00Z      ready  ms=85\n"
    assert json.loads(run(url, "logs", "Ada", "--json").stdout)["lines"][0]["text"] == LINE["text"]


def test_the_cost_of_an_answer_waits_for_what_the_bot_spends_on_remembering_it(url: str) -> None:
    done = run(url, "say", "Ada", "Hi")
    assert done.stdout == "Hello.\n"
    assert "$0.00006564 · 2 requests" in done.stderr
