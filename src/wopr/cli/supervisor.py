"""Runs children until told to stop: starts in order, waits for readiness, restarts what dies, leaves no orphan.

Which children run is written to `run/up.json` before they are relied on, so that the `up` after a kill -9 can end them.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from wopr.cli.processes import Process, how_it_ended
from wopr.core.files import RUNNING_FILE, replace_text

STOP_SECONDS = 3.5
READY_SECONDS = 60.0
POLL_SECONDS = 0.05
RESTART_SECONDS_MIN = 0.5
RESTART_SECONDS_MAX = 15.0
# A child that ran this long is taken to be healthy: its next death begins the back-off anew.
SETTLED_SECONDS = 30.0
LOG_BYTES_MAX = 10 * 1024 * 1024

Report = Callable[[str, Process, float, str], None]


@dataclass
class Child:
    """A process of the table and its present incarnation."""

    process: Process
    running: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    deaths: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Supervisor:
    """Keeps `processes` running under `home`. `report(event, process, seconds, detail)` tells what happens."""

    home: Path
    environment: Mapping[str, str]
    processes: Sequence[Process]
    report: Report
    record: "RunFile"
    children: dict[str, Child] = field(default_factory=dict)
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False

    async def start(self, gates: Mapping[str, asyncio.Event]) -> None:
        """Start every child; one that names others in `after` waits for those children, or for the gates handed in."""
        self.children = {process.name: Child(process) for process in self.processes}
        known = {**gates, **{name: child.ready for name, child in self.children.items()}}
        for child in self.children.values():
            waits = [known[name] for name in child.process.after]
            self._watchers.append(asyncio.create_task(self._keep(child, waits), name=child.process.name))

    async def all_ready(self) -> None:
        """Return when every child has been ready once."""
        await asyncio.gather(*(child.ready.wait() for child in self.children.values()))

    async def stop(self) -> None:
        """End every child: SIGTERM to each group, SIGKILL to what is left after a few seconds."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        living = [c.running for c in self.children.values() if c.running and c.running.returncode is None]
        for process in living:
            end_group(process.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(process.wait() for process in living))
        for process in living:
            if process.returncode is None:
                signal_group(process.pid, signal.SIGKILL)
                await process.wait()

    async def _keep(self, child: Child, waits: Sequence[asyncio.Event]) -> None:
        for event in waits:
            await event.wait()
        while True:
            ended = await self._incarnation(child)
            lived = time.monotonic() - child.started_at
            child.deaths = 1 if lived > SETTLED_SECONDS else child.deaths + 1
            delay = min(RESTART_SECONDS_MIN * 2 ** (child.deaths - 1), RESTART_SECONDS_MAX)
            self.report("died", child.process, delay, ended)
            await asyncio.sleep(delay)

    async def _incarnation(self, child: Child) -> str:
        """Run it once, to its end; how that came."""
        child.started_at = time.monotonic()
        try:
            process = await self._launch(child)
        except OSError as error:  # no room for its log, say: that may pass
            return str(error)
        readiness = asyncio.create_task(self._await_ready(child))
        try:
            code = await process.wait()
        finally:
            readiness.cancel()
            await asyncio.gather(readiness, return_exceptions=True)
        return how_it_ended(code)

    async def _launch(self, child: Child) -> asyncio.subprocess.Process:
        logfile = log_path(self.home, child.process.name)
        with logfile.open("ab") as stream:
            child.running = process = await asyncio.create_subprocess_exec(
                *child.process.command(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(self.environment),
                start_new_session=True,
            )
        try:
            self.record.add(child.process.name, process.pid)
        except OSError:  # what is not on record would be an orphan after a kill -9
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        return process

    async def _await_ready(self, child: Child) -> None:
        process = child.process
        slow_told = False
        while not await answers(process.port, process.ready_path):
            await asyncio.sleep(POLL_SECONDS)
            if not slow_told and time.monotonic() - child.started_at > READY_SECONDS:
                slow_told = True
                self.report("slow", process, READY_SECONDS, str(log_path(self.home, process.name)))
        event = "ready" if not child.ready.is_set() else "back"
        child.ready.set()
        self.report(event, process, time.monotonic() - child.started_at, "")


@dataclass(frozen=True)
class RunFile:
    """`run/up.json`: the supervisor and its children by pid and start time, so that a reused pid is never hit."""

    home: Path

    @property
    def path(self) -> Path:
        return self.home / "run" / "up.json"

    def begin(self, ui_url: str, environment: Mapping[str, str]) -> None:
        """Begin a run of this process, and leave its addresses where commands in another shell find them."""
        self._write({"supervisor": _identity(os.getpid()), "ui_url": ui_url, "children": {}})
        lines = "".join(f"{name}={value}\n" for name, value in environment.items() if name != "WOPR_HOME")
        replace_text(self.home / RUNNING_FILE, lines)

    def add(self, name: str, pid: int) -> None:
        """Remember a child. A child that is gone already needs no remembering."""
        with contextlib.suppress(psutil.NoSuchProcess):
            state = self._read() or {"children": {}}
            state["children"][name] = _identity(pid)
            self._write(state)

    def end(self) -> None:
        """Forget the run: everything was stopped."""
        self.path.unlink(missing_ok=True)
        (self.home / RUNNING_FILE).unlink(missing_ok=True)

    def running(self) -> dict[str, Any] | None:
        """The state of a supervisor that is alive now, else None."""
        state = self._read()
        return state if state and _alive(state.get("supervisor")) is not None else None

    def child(self, name: str) -> psutil.Process | None:
        """The child of that name, when it lives now."""
        return _alive((self._read() or {}).get("children", {}).get(name))

    def children(self) -> Sequence[str]:
        """The names of the children that live now."""
        return sorted(name for name in (self._read() or {}).get("children", {}) if self.child(name) is not None)

    def end_leftovers(self) -> Sequence[str]:
        """End the children that a killed supervisor left behind; their names."""
        state = self._read() or {}
        left = {name: p for name, who in state.get("children", {}).items() if (p := _alive(who)) is not None}
        for process in left.values():
            end_group(process.pid)
        _, stubborn = psutil.wait_procs(list(left.values()), timeout=STOP_SECONDS)
        for process in stubborn:
            signal_group(process.pid, signal.SIGKILL)
        psutil.wait_procs(stubborn, timeout=STOP_SECONDS)
        return sorted(left)

    def _read(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state

    def _write(self, state: Mapping[str, Any]) -> None:
        replace_text(self.path, json.dumps(state, indent=1))


async def answers(port: int, path: str) -> bool:
    """Whether an HTTP GET on loopback answers 200 within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return line.split(b" ")[1:2] == [b"200"]


def log_path(home: Path, name: str) -> Path:
    """A child's log; one that grew large is put aside when the child starts."""
    path = home / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    return path


def end_group(pid: int) -> None:
    """Ask a child with everything that it started to end; what hangs by `wopr trigger node` hears it too."""
    signal_group(pid, signal.SIGTERM)
    signal_group(pid, signal.SIGCONT)


def signal_group(pid: int, number: int) -> None:
    """Signal a child with everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _identity(pid: int) -> dict[str, float]:
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def _alive(who: Mapping[str, float] | None) -> psutil.Process | None:
    if not who:
        return None
    try:
        process = psutil.Process(int(who["pid"]))
        same = abs(process.create_time() - who["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError):
        return None
    return process if same else None
