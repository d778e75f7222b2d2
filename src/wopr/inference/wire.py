"""One HTTP request over a connection of its own, as cheaply as Python can: how the watchdog asks thousands of services.

A look at a service must not depend on a connection that was opened when it was well, and 2,000 kept open would use up
a process's file descriptors. A client with a pool costs three to six times as much for each (benchmarks/probes.py).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 1.5
HTTP_PORT = 80
BODY_BYTES_MAX = 4 * 1024 * 1024


class Unreachable(Exception):
    """Nothing answered: no way to the machine, or the connection broke. `refused`: the machine itself said no."""

    def __init__(self, why: str, *, refused: bool) -> None:
        super().__init__(why)
        self.refused = refused


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Ask:
    """A request: with a body it is a POST."""

    url: str
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As it goes over the wire."""
        parts = urlsplit(self.url)
        lines = [f"{'GET' if self.body is None else 'POST'} {parts.path or '/'} HTTP/1.1", f"host: {parts.netloc}"]
        lines += ["connection: close", *(f"{name}: {value}" for name, value in self.headers.items())]
        if self.body is not None:
            lines += [f"content-type: {self.content_type}", f"content-length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")


async def ask(request: Ask) -> Reply:
    """The answer, or Unreachable. How long it may take is the caller's to say: a time-out cuts the connection."""
    loop = asyncio.get_running_loop()
    try:
        parts, written = urlsplit(request.url), request.to_bytes()
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, answer = await loop.create_connection(_Answer, parts.hostname or "", parts.port or HTTP_PORT)
    except TimeoutError as error:
        raise Unreachable(f"no connection within {CONNECT_SECONDS} s", refused=False) from error
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError | ConnectionResetError)
        raise Unreachable(error.strerror or str(error) or type(error).__name__, refused=refused) from error
    except ValueError as error:  # a row may hold anything: brackets that do not close, a name with an empty label
        raise Unreachable(f"{request.url} can't be asked: {error}", refused=False) from error
    try:
        transport.write(written)
        return await answer.whole
    finally:
        transport.abort()


class _Answer(asyncio.Protocol):
    """Collects one answer."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._has_length = False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is no HTTP: {error}")

    def eof_received(self) -> None:
        # Without a length the end of the connection is the end of the answer.
        if self._parts and not self._has_length:
            self.on_message_complete()

    def connection_lost(self, _error: Exception | None) -> None:
        self._fail("the connection broke before the answer was whole")

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._has_length |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        if self._size > BODY_BYTES_MAX:
            self._fail(f"the answer is larger than {BODY_BYTES_MAX} bytes")

    def on_message_complete(self) -> None:
        if not self.whole.done():
            self.whole.set_result(Reply(self._parser.get_status_code(), b"".join(self._parts)))

    def _fail(self, why: str) -> None:
        if not self.whole.done():
            self.whole.set_exception(Unreachable(why, refused=True))
            self.whole.exception()  # nobody may wait for it any more
