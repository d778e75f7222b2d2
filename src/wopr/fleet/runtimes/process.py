"""Bots as processes of this machine: no container engine needed, and the bots outlive the API.

Each has a folder `bots/<id>/` with `data/`, `logs/`, `run.json` and `lock`. The lock is taken before the start and
handed to the bot's process, so that the kernel itself refuses a second instance for as long as the first one lives.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe

from wopr.bot import contract
from wopr.core.ids import BotId, new_id
from wopr.fleet.runtimes import logfiles
from wopr.fleet.runtimes.ending import end, stop_all, targets_in
from wopr.fleet.runtimes.exits import Exits
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, Limits, LogLine, RuntimeFailed
from wopr.fleet.runtimes.record import (
    BOTS_FOLDER,
    RunRecord,
    bot_folders,
    forget_record,
    process_identity,
    read_record,
    write_record,
)

__all__ = ["ProcessRuntime", "stop_all"]

LOCK_FILE = "lock"
LOCK_SECONDS_MAX = 5.0
LOCK_POLL_SECONDS = 0.02
# The shell sets the limits and becomes the bot: a hook between fork and exec isn't safe in a process with threads.
# File sizes are in blocks of 512 bytes, memory in kilobytes (POSIX; macOS has no limit on memory to set).
LAUNCH = 'ulimit -c 0; ulimit -n "$1"; ulimit -f "$2"; ulimit -v "$3" 2>/dev/null; shift 3; exec "$@"'


class ProcessRuntime:
    """The runtime of one machine; `home` is the folder that holds `bots/`."""

    copies = None  # processes run what this one runs

    def __init__(self, home: Path) -> None:
        self._home = home.resolve()
        self._exits = Exits()

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        self._exits.on_end = on_end

    async def observe(self) -> Mapping[BotId, Instance]:
        records = await asyncio.to_thread(self._living)
        for bot_id, record in records.items():
            self._exits.add(bot_id, self._folder(bot_id), record)
        return {bot_id: record.instance(bot_id) for bot_id, record in records.items()}

    async def locate(self, bot_id: BotId) -> Instance | None:
        # Two small reads from /proc and one of a file: cheaper than a thread.
        record = read_record(self._folder(bot_id))
        if record is not None and record.alive():
            return record.instance(bot_id)
        self._exits.settle(bot_id)
        return None

    def held(self, bot_id: BotId) -> str:
        return ""  # what a bot keeps is on this machine

    async def prepare(self, bot_id: BotId, image: str) -> None:
        """Processes have no image: they run what this one runs."""

    async def start(self, spec: BotSpec) -> Instance:
        try:
            record = await asyncio.to_thread(self._start, spec)
        except OSError as error:
            raise RuntimeFailed(f"The bot's process could not be started: {error}") from error
        self._exits.add(spec.bot_id, self._folder(spec.bot_id), record)
        return record.instance(spec.bot_id)

    async def stop(self, bot_id: BotId) -> None:
        self._exits.expect(bot_id)
        await asyncio.to_thread(self._stop, bot_id)
        self._exits.settle(bot_id)

    async def remove(self, bot_id: BotId) -> None:
        await self.stop(bot_id)
        await asyncio.to_thread(self._delete, bot_id)

    async def tend(self) -> int:
        return await asyncio.to_thread(self._rotate)

    async def guard(self) -> int:
        return 0  # whoever runs bots as processes watches over the disk

    async def prune(self, needed: Sequence[str]) -> int:
        return 0  # processes have no image

    async def logs(self, bot_id: BotId, tail: int) -> Sequence[LogLine]:
        return await asyncio.to_thread(logfiles.tail, self._folder(bot_id), tail)

    def follow(self, bot_id: BotId, tail: int) -> AsyncIterator[LogLine]:
        return logfiles.follow(self._folder(bot_id), tail)

    async def close(self) -> None:
        self._exits.close()

    def _folder(self, bot_id: BotId) -> Path:
        return self._home / BOTS_FOLDER / str(bot_id)

    def _living(self) -> dict[BotId, RunRecord]:
        found = {}
        for bot_id, folder in bot_folders(self._home):
            record = read_record(folder)
            if record is not None and record.alive():
                found[bot_id] = record
        return found

    def _rotate(self) -> int:
        return sum(logfiles.rotate(folder) for _, folder in bot_folders(self._home))

    def _start(self, spec: BotSpec) -> RunRecord:
        folder = self._folder(spec.bot_id)
        for path in (folder / "data", folder / logfiles.LOG_FOLDER):
            path.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        record = read_record(folder)
        if record is not None and record.alive():
            if record.generation == spec.generation:
                return record
            end(targets_in([folder]))
        with _lock(folder) as descriptor:
            return _spawn(spec, folder, descriptor)

    def _stop(self, bot_id: BotId) -> None:
        folder = self._folder(bot_id)
        record = read_record(folder)
        if record is not None and record.alive():
            end(targets_in([folder]))
        deadline = time.monotonic() + LOCK_SECONDS_MAX
        while _is_held(folder):
            if time.monotonic() > deadline:
                raise RuntimeFailed("A process of this bot could not be ended.")
            _end_unrecorded(folder)
        forget_record(folder)

    def _delete(self, bot_id: BotId) -> None:
        folder = self._folder(bot_id)
        # Renamed first, so that a crash in the middle leaves nothing that looks like a bot.
        gone = folder.with_name(f"{folder.name}.deleted")
        if gone.exists():
            shutil.rmtree(gone)
        if not folder.exists():
            return
        end(targets_in([folder]))
        folder.rename(gone)
        shutil.rmtree(gone)


def _is_held(folder: Path) -> bool:
    """Whether somebody holds the bot's lock: without a record, a bot whose starter was killed before it wrote one."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """The bot's lock, held by this process while the block runs and by the bot for as long as it lives.

    Whoever holds it without a living record is left over from a starter that was killed, and is ended.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    try:
        while not _take(descriptor):
            record = read_record(folder)
            if (record is not None and record.alive()) or time.monotonic() > deadline:
                raise RuntimeFailed("Another process is starting this bot at the moment.")
            _end_unrecorded(folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _end_unrecorded(folder: Path) -> None:
    """End who holds the bot's lock, as far as they are seen: call it again while the lock is held.

    While a process becomes another program, which a bot does twice as it starts, nothing tells whose it is.
    """
    if not end(targets_in([folder])):
        time.sleep(LOCK_POLL_SECONDS)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(spec: BotSpec, folder: Path, lock: int) -> RunRecord:
    token, port = token_urlsafe(32), _free_port()
    environment = {
        **spec.environment,
        contract.ENV_TOKEN: token,
        contract.ENV_HOST: "127.0.0.1",
        contract.ENV_PORT: str(port),
        contract.ENV_DATA: str(folder / "data"),
    }
    started_at = datetime.now(UTC)
    with (
        logfiles.log_path(folder, "stdout").open("ab") as out,
        logfiles.log_path(folder, "stderr").open("ab") as err,
    ):
        process = subprocess.Popen(
            _command(spec.limits),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            pass_fds=(lock,),
        )
    # From here on the record and `Exits` look after it, in this process or a later one.
    process.returncode = 0
    identity = process_identity(process.pid) or ""
    record = RunRecord(str(new_id()), spec.generation, process.pid, identity, port, started_at.isoformat(), token)
    write_record(folder, record)
    return record


def _command(limits: Limits) -> list[str]:
    # -P keeps the working folder off the path of modules: what a bot wrote is never imported.
    numbers = [str(limits.open_files), str(limits.file_bytes // 512), str(limits.address_bytes // 1024)]
    return ["/bin/sh", "-c", LAUNCH, "bot", *numbers, sys.executable, "-P", *contract.PROGRAM]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
