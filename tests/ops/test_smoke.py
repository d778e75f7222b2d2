"""The smoke test against a deployment that is broken in the middle: it says so with a remedy, and leaves no bot."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.stack import run_wopr

from wopr.ops.smoke import Step, Target, walk

BOT = {
    "id": "b1", "name": "smoke", "template": None, "persona": "", "instructions": "", "model": "m", "voice": "v",
    "size": "standard", "desired": "running", "state": "running", "reason": "", "restarts": 0, "last_error": None,
    "created_at": "2026-11-29T00:00:00Z", "updated_at": "2026-11-29T00:00:00Z", "started_at": None,
    "price_month_usd": "3.00",
}  # fmt: skip
BILLING = {
    "balance": {"available_usd": "5.00", "held_usd": "0.00", "debt_usd": "0.00"},
    "lasts_days": None,
    "plan": {"status": "none", "price_usd": "5.00", "renews_at": None, "cancels_at": None},
    "entitlement": {
        "state": "active",
        "warn_since": None,
        "suspends_at": None,
        "archives_at": None,
        "deletes_at": None,
    },
    "spend": [],
    "spend_30d_usd": "0.00",
}
ANSWERS = {
    "GET /health": (200, {"status": "ok"}),
    "GET /ready": (200, {"status": "ok", "reasons": []}),
    "GET /api/billing": (200, BILLING),
    "POST /fleet/bots": (201, BOT),
    "GET /fleet/bots/b1": (200, BOT),
    "POST /fleet/bots/b1/turns": (502, {"error": {"code": "upstream_failed", "message": "No model.", "remedy": ""}}),
    "DELETE /fleet/bots/b1": (204, None),
}


@pytest.fixture
def deployment() -> Iterator[tuple[str, list[str]]]:
    """An API whose bots answer nothing: its address, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(f"{self.command} {self.path}")
            status, body = ANSWERS[asked[-1]]
            raw = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            if status != 204:
                self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


async def test_a_bot_that_does_not_answer_is_deleted_all_the_same(deployment: tuple[str, list[str]]) -> None:
    url, asked = deployment
    steps: list[Step] = [step async for step in walk(Target(url, key="wopr_write_x"))]
    assert [(step.name, bool(step.error)) for step in steps] == [
        ("healthy and ready", False),
        ("credit arrives", False),
        ("bot runs", False),
        ("bot answers", True),
        ("clean up", False),
    ]
    assert asked[-1] == "DELETE /fleet/bots/b1"


async def test_a_step_that_fails_without_a_word_says_where_to_look(deployment: tuple[str, list[str]]) -> None:
    steps = [step async for step in walk(Target(deployment[0], key="wopr_write_x"))]
    [failed] = [step for step in steps if step.error]
    assert (failed.error, failed.remedy) == ("No model.", "Look where it runs: wopr status, then wopr check.")


def test_what_is_no_address_is_said_so() -> None:
    ended = run_wopr("smoke", "--url", "nonsense", "--key", "wopr_write_x")
    assert (ended.returncode, "http://" in ended.stderr) == (2, True)
