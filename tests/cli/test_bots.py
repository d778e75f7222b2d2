"""`wopr bots` against an API of a few routes: logs in words, and a cost that is whole."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from typer.testing import CliRunner, Result

from wopr.cli.bots import app

LINE = {"at": "2026-11-23T10:00:00Z", "stream": "stdout", "text": '{"event": "ready", "ms": 85, "level": "info"}'}
EVENTS = (
    'event: delta\ndata: {"text": "Hello."}\n\nevent: completed\ndata: {"text": "Hello.", "request_ids": ["r1"]}\n\n'
)

STATES = {"start": "running", "stop": "stopped", "restart": "failed"}


class Api(BaseHTTPRequestHandler):
    """One bot. The receipt of its turn has its second line, that of the memory, only when asked for the third time."""

    asked = 0
    bot: ClassVar[dict[str, str]] = {}
    changes: ClassVar[list[str]] = []

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
        return self._json({"lines": [LINE]} if "/logs" in self.path else {"bots": [Api.bot]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        verb = self.path.rpartition("/")[2]
        if verb in STATES:
            Api.changes.append(verb)
            Api.bot["state"] = STATES[verb]
            return self._json(Api.bot)
        if verb == "bots":
            return self._json({**Api.bot, "state": "starting"}, 201)
        return self._json({"turn_id": "t1", "conversation_id": "c1", "state": "running"}, 202)

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
    Api.bot = {"id": "b1", "name": "Ada", "state": "stopped", "desired": "stopped", "last_error": "It broke."}
    Api.changes = []
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


def test_a_bot_that_is_there_already_is_left_alone(url: str) -> None:
    assert run(url, "stop", "Ada").stdout == "Ada is stopped already\n"
    assert run(url, "stop", "Ada", "--exit-code").exit_code == 4
    assert Api.changes == []
    assert run(url, "start", "Ada").stdout == "Ada is running\n"
    assert Api.changes == ["start"]


def test_a_bot_that_fails_is_exit_code_1_with_where_to_look(url: str) -> None:
    ended = run(url, "restart", "Ada", "--progress", "plain")
    assert ended.exit_code == 1
    assert re.search(r"restart Ada  FAILED( after [\d.]+ s)?  It broke\.", ended.stderr)
    assert ended.stderr.splitlines()[-1] == "  fix: wopr bots logs Ada"


def test_a_bot_that_is_held_up_says_why(url: str) -> None:
    Api.bot["last_error"] = "The registry refused."
    still = run(url, "create", "Eve", "--no-wait")
    assert still.exit_code == 0
    assert still.stderr.splitlines()[-1] == "what went wrong last: The registry refused."
    Api.bot |= {"last_error": "", "reason": "Its machine is drained."}
    assert "error: Its machine is drained.\n" in run(url, "restart", "Ada").stderr


def test_a_bot_that_is_gone_already_is_done_and_the_others_are_named(url: str) -> None:
    ended = run(url, "rm", "Eve")
    assert ended.exit_code == 0
    assert ended.stderr.splitlines()[-1] == "nothing to do: there is no bot Eve. Name one of Ada."
    assert run(url, "delete", "Eve", "--exit-code").exit_code == 4


def test_deleting_without_a_terminal_names_the_flag(url: str) -> None:
    ended = run(url, "rm", "Ada")
    assert ended.exit_code == 2
    assert "--yes" in ended.stderr


def test_progress_as_json_tells_the_stages_of_a_bot(url: str) -> None:
    ended = run(url, "start", "Ada", "--progress", "json")
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["event"], line["stage"]) for line in told] == [("started", "start Ada"), ("done", "start Ada")]
