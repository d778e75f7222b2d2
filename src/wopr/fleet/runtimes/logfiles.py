"""A bot's log: two files that its process writes by itself, so that they go on when the API is dead.

They are opened for appending, and rotated by copying and cutting, since nobody can make a running process open another
file. What is written between the copy and the cut is lost; that is microseconds every few megabytes.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wopr.fleet.runtimes.protocol import LogLine

STREAMS = ("stdout", "stderr")
LOG_FOLDER = "logs"
LOG_BYTES_MAX = 2 * 1024 * 1024
READ_BYTES_MAX = 1024 * 1024
LINE_CHARACTERS_MAX = 4_000
FOLLOW_SECONDS = 0.2


def log_path(folder: Path, stream: str) -> Path:
    """Where the bot in `folder` writes one of its streams."""
    return folder / LOG_FOLDER / f"{stream}.log"


def rotate(folder: Path) -> int:
    """Move logs over the limit to `<name>.1`, which replaces the one before; how many were moved."""
    moved = 0
    for stream in STREAMS:
        path = log_path(folder, stream)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)
                moved += 1
    return moved


def tail(folder: Path, count: int) -> Sequence[LogLine]:
    """The last `count` lines of both streams by time, oldest first; older ones from the rotated files."""
    lines: list[LogLine] = []
    for stream in STREAMS:
        path = log_path(folder, stream)
        found: deque[LogLine] = deque(maxlen=count)
        for part in (path.with_suffix(".log.1"), path):
            found.extend(_read_end(part, stream))
        lines += found
    lines.sort(key=lambda line: line.at)
    return lines[-count:] if count else []


def last_error_line(folder: Path) -> str:
    """The last line on stderr, which usually says why a bot ended; empty when there is none."""
    lines = _read_end(log_path(folder, "stderr"), "stderr")
    return lines[-1].text if lines else ""


async def follow(folder: Path, count: int) -> AsyncIterator[LogLine]:
    """The last `count` lines, then each new one. Ends only when its caller stops asking."""
    readers = [_Reader(log_path(folder, stream), stream) for stream in STREAMS]
    for reader in readers:
        reader.skip_to_end()
    for line in await asyncio.to_thread(tail, folder, count):
        yield line
    while True:
        new = [line for reader in readers for line in reader.read()]
        for line in sorted(new, key=lambda line: line.at):
            yield line
        if not new:
            await asyncio.sleep(FOLLOW_SECONDS)


@dataclass
class _Reader:
    """Reads what one file gained, also after it was cut or made anew."""

    path: Path
    stream: str
    offset: int = 0
    rest: bytes = b""

    def skip_to_end(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.offset = self.path.stat().st_size

    def read(self) -> list[LogLine]:
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.offset:
                    self.offset, self.rest = 0, b""
                file.seek(self.offset)
                data = file.read(READ_BYTES_MAX)
        except FileNotFoundError:
            self.offset, self.rest = 0, b""
            return []
        self.offset += len(data)
        *whole, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > LINE_CHARACTERS_MAX:
            whole, self.rest = [*whole, self.rest], b""
        return _parse(whole, self.stream, datetime.now(UTC))


def _read_end(path: Path, stream: str) -> list[LogLine]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            start = max(0, status.st_size - READ_BYTES_MAX)
            file.seek(start)
            raw = file.read(READ_BYTES_MAX).split(b"\n")
    except FileNotFoundError:
        return []
    if start:
        raw = raw[1:]  # begins in the middle of a line
    return _parse(raw, stream, datetime.fromtimestamp(status.st_mtime, UTC))


def _parse(raw: Sequence[bytes], stream: str, at: datetime) -> list[LogLine]:
    """Lines without a time of their own (tracebacks) get that of the line before, the first ones that of the next."""
    lines: list[LogLine] = []
    texts = [text for text in (line.decode("utf-8", "replace").rstrip() for line in raw) if text]
    times = [_own_time(text) for text in texts]
    known = next((time for time in times if time is not None), at)
    for text, time in zip(texts, times, strict=True):
        known = time or known
        lines.append(LogLine(known, stream, text[:LINE_CHARACTERS_MAX]))
    return lines


def _own_time(text: str) -> datetime | None:
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
        at = datetime.fromisoformat(str(value.get("at")))
    except (ValueError, AttributeError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
