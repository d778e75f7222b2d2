"""A model that takes its time, where containers reach it: OpenAI-compatible, and it counts what it was asked."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = 40
PIECE_SECONDS = 0.1


class SlowModel(ThreadingHTTPServer):
    """`asked` counts each question by its words; a stream has so many `pieces`."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), _Answer)
        self.host, self.port = host, int(self.server_address[1])
        self.asked: Counter[str] = Counter()
        self.pieces = PIECES
        self._lock = threading.Lock()

    def count(self, question: str) -> None:
        with self._lock:
            self.asked[question] += 1

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked was a release that left meanwhile."""


@contextmanager
def running(host: str) -> Iterator[SlowModel]:
    """The model at this address, on a free port."""
    server = SlowModel(host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Answer(BaseHTTPRequestHandler):
    """One token, or the question again, at once; or a stream of some seconds."""

    protocol_version = "HTTP/1.1"
    server: SlowModel

    def do_GET(self) -> None:
        self._json({"data": [{"id": "handbook"}]} if self.path == "/v1/models" else {"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = str(asked["messages"][-1]["content"])
        self.server.count(question)
        if asked.get("stream"):
            self._stream(asked["model"])
            return
        said = {"index": 0, "message": {"role": "assistant", "content": question}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._json({"id": "c", "object": "chat.completion", "created": 1, "choices": [said], "usage": usage})

    def _stream(self, model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        pieces = self.server.pieces
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
        for number in range(pieces):
            delta = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
            self._event({**base, "choices": [delta]})
            time.sleep(PIECE_SECONDS)
        self._event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 1, "completion_tokens": pieces, "total_tokens": pieces + 1}
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
