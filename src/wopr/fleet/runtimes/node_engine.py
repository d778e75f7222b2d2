"""A machine's own engine, as programs reach it that run beside it as text. See `node_agent`."""

import contextlib
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any, TextIO  # the engine's JSON

SOCKET = "/var/run/docker.sock"
OK_MAX, NOT_MODIFIED, NOT_FOUND, CONFLICT = 299, 304, 404, 409


class Refused(Exception):
    """What can't be done, with the exit code that tells the API why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class LocalEngine(http.client.HTTPConnection):
    """A connection to this machine's engine."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def say(text: str, where: TextIO = sys.stdout) -> None:
    """One line of this container's log, which the API reads."""
    where.write(text + "\n")
    where.flush()


def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
    """One request to this machine's engine; its status and its JSON."""
    with asking(method, path, body) as answer:
        content = answer.read()
    return answer.status, json.loads(content) if content.strip() else {}


@contextlib.contextmanager
def asking(
    method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None, seconds: float = 60.0
) -> Iterator[http.client.HTTPResponse]:
    """One request to this machine's engine, which may be silent for so long."""
    connection = LocalEngine("localhost", timeout=seconds)
    try:
        text = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/json"} if text else {}
        connection.request(method, path, text, {**kind, **(headers or {})})
        yield connection.getresponse()
    finally:
        connection.close()


def logged(path: str) -> str:
    """A container's log: the engine frames each piece of it with a head of eight bytes."""
    text = b""
    with asking("GET", path) as answer:
        while len(head := answer.read(8)) == 8:
            text += answer.read(int.from_bytes(head[4:], "big"))
    return text.decode("utf-8", "replace")
