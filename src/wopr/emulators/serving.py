"""Runs stand-ins as a process: one or several applications, each on its port, until a signal ends them together."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI

from wopr.core.stop import Stop


class PortTaken(Exception):
    """A port is in use; the message names it and what to do."""


@dataclass(frozen=True)
class Served:
    """An application and where it shall listen; port 0 takes a free one. `more` is what else there is to tell of it."""

    name: str
    app: FastAPI
    host: str
    port: int
    more: Mapping[str, str] = field(default_factory=dict)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, when_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started = when_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._when_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are handled once for all servers of the process, in `serve`."""
        yield


class Beside:
    """An application that a stand-in serves beside its own, on an address of its own; `port` 0 takes a free one."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app, self._host, self.port = app, host, port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self._host}:{self.port}"

    async def start(self) -> None:
        """Listen; on another port when somebody else has this one by now."""
        try:
            listener = socket.create_server((self._host, self.port))
        except OSError:
            listener = socket.create_server((self._host, 0))
        self.port = listener.getsockname()[1]
        ready = asyncio.Event()
        self._server = _Server(_config(self._app), ready.set)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        await ready.wait()

    async def stop(self) -> None:
        """Answer what was asked, and end."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving


def listen(one: Served) -> socket.socket:
    """A bound socket; PortTaken when another process has the port."""
    try:
        return socket.create_server((one.host, one.port))
    except OSError as error:
        raise PortTaken(f"The {one.name} stand-in can't listen on {one.host}:{one.port}: {error.strerror}.") from error


def serve(applications: Sequence[tuple[Served, socket.socket]], announce: Callable[[str, str], None]) -> None:
    """Serve until a signal ends it; `announce` is told each name and address once it accepts connections."""
    asyncio.run(_serve(applications, announce))


async def _serve(applications: Sequence[tuple[Served, socket.socket]], announce: Callable[[str, str], None]) -> None:
    servers = [_server(one, listener, announce) for one, listener in applications]
    stop = Stop(lambda: _stop(servers))
    async with asyncio.TaskGroup() as group:
        for server, (_, listener) in zip(servers, applications, strict=True):
            group.create_task(server.serve(sockets=[listener]))
    stop.pass_on()


def _server(one: Served, listener: socket.socket, announce: Callable[[str, str], None]) -> uvicorn.Server:
    return _Server(_config(one.app), lambda: announce(one.name, f"http://{one.host}:{listener.getsockname()[1]}"))


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)


def _stop(servers: Sequence[uvicorn.Server]) -> None:
    for server in servers:
        server.should_exit = True
