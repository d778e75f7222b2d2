"""Serves an application until a signal ends it; a port in use is named with its remedy.

A process behind a proxy leaves in order: on SIGTERM `/ready` says draining at once while the listener stays open, so
that the proxy looks elsewhere before a single connection is refused; then the listener closes and what runs may end.
"""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn

from wopr.cli import output
from wopr.cli.ports import holder_of_port
from wopr.core.stop import ending_signals

# Caddy keeps its idle connections for two minutes. Were ours closed sooner, as after the usual five seconds, a proxy
# that is late would write a POST into a closed one: it can't know that nobody read it, and must not ask again.
KEEP_SECONDS = 150
IP_FREEBIND = 15  # ip(7); Python has no name for it


@dataclass(frozen=True)
class Drain:
    """How a process leaves: `begin` makes `/ready` say so, new requests are taken for `lead_seconds` more, and those
    that run then get `seconds`."""

    begin: Callable[[], None]
    lead_seconds: float
    seconds: float


def begin_loading() -> None:
    """Call it before importing what a server consists of: until `serve` nothing is looked for among it that could go.

    Measured: a sixth of the API's start, for 1 MB of garbage that stays.
    """
    gc.disable()


def serve(name: str, application: Any, host: str, port: int, drain: Drain) -> None:  # Any: what uvicorn takes
    """Run on uvicorn with uvloop and httptools until SIGTERM (which drains), or SIGHUP or SIGINT (a person's, at once).

    KeyboardInterrupt when it was SIGINT.

    `host` may be several addresses by comma; only the first one must be there already.
    """
    first, *others = host.split(",")
    if (holder := holder_of_port(port, first)) is not None:
        output.fail(
            f"Port {port} is in use{holder}.", remedy=f"Stop that process, or: wopr {name} --port {port + 1000}"
        )
    # What was imported lives as long as the process: the collector need not look at it again and again.
    gc.freeze()
    gc.enable()
    output.say(f"wopr {name} listens on http://{first}:{port}")
    config = uvicorn.Config(
        application,
        host=first,
        port=port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain.seconds)),
        proxy_headers=False,
    )
    server = DrainingServer(config, drain)
    server.run([_listener(address, port) for address in (first, *others)] if others else None)
    if not server.started:
        sys.exit(output.FAILED)
    if server.interrupted:
        raise KeyboardInterrupt


def _listener(address: str, port: int) -> socket.socket:
    """A socket on an address that may come later, such as the one of a network that the engine has yet to make."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    listener.bind((address, port))
    return listener


class DrainingServer(uvicorn.Server):
    """uvicorn, but the first SIGTERM only begins to drain."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving = False
        self.interrupted = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which at the end raises them once more: then a clean stop would look like a crash."""
        before = {number: signal.signal(number, self.handle_exit) for number in ending_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: Any = None) -> None:  # Any: uvicorn's own type
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        first = sig == signal.SIGTERM and not self._leaving
        if not (first and self.started and self._loop and self._drain.lead_seconds > 0):
            super().handle_exit(sig, frame)
            return
        self._leaving = True
        self._drain.begin()
        self._loop.call_soon_threadsafe(
            lambda: self._loop and self._loop.call_later(self._drain.lead_seconds, self._close, sig, frame)
        )

    def _close(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            super().handle_exit(sig, frame)
