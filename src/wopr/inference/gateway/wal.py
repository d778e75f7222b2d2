"""The write-ahead log of usage: what was answered is in a file before the answer's end is sent.

It survives the end of this process at once, and a power cut after the next sync, up to a tenth of a second later.
Each process appends to files of its own, `<pid>-<random>.<number>.wal`, one record a line behind its CRC-32. A file is
removed when every record in it is settled in the database. The process holds a lock on its files for as long as it
lives, so whoever can lock a file knows that its writer is dead, and settles what it left: exactly once, since usage is
keyed by the request's id. A torn last line was never acknowledged and is ignored.
"""

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from wopr.core.ids import new_id

ROTATE_BYTES = 1024 * 1024
TRUNCATE_BYTES = 64 * 1024
SUFFIX = ".wal"
BAD_SUFFIX = ".bad"

log = structlog.get_logger(__name__)


@dataclass
class Segment:
    """One open, locked file: its bytes, and how many of its records are not settled yet."""

    path: Path
    descriptor: int
    size: int = 0
    unsettled: int = 0


@dataclass
class Wal:
    """The log of this process. `head` writes what every file must begin with: the leases that are held."""

    folder: Path
    head: Callable[[], Iterable[bytes]] = tuple
    name: str = field(default_factory=lambda: f"{os.getpid()}-{new_id().hex[-8:]}")
    _number: int = 0
    _segment: Segment | None = None
    _old: list[Segment] = field(default_factory=list)

    def open(self) -> None:
        """Make the folder and the first file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._segment = self._new()

    def append(self, line: bytes) -> Segment:
        """Write one record; it survives the end of this process, whatever ends it. Give the result to `settled`."""
        segment = self._current()
        if segment.size >= ROTATE_BYTES:
            segment = self._rotate()
        _write(segment, line)
        segment.unsettled += 1
        return segment

    def note(self, line: bytes) -> None:
        """Write a line that needs no settlement."""
        _write(self._current(), line)

    def settled(self, segment: Segment, records: int = 1) -> None:
        """So many records of the file are in the database; with the last one the file goes."""
        segment.unsettled -= records
        if segment.unsettled:
            return
        if segment is not self._segment:
            if segment in self._old:
                self._old.remove(segment)
                _remove(segment)
        elif segment.size >= TRUNCATE_BYTES:
            os.ftruncate(segment.descriptor, 0)
            segment.size = 0
            self._begin(segment)

    def set_aside(self, lines: Iterable[bytes]) -> None:
        """Keep lines that can't be settled at all in a file that nobody settles, on the disk when this returns."""
        path = self.folder / f"{self.name}{BAD_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for line in lines:
                _write(Segment(path, descriptor, os.fstat(descriptor).st_size), line)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """Bytes in the files of this process."""
        return sum(segment.size for segment in self._segments())

    def sync(self) -> None:
        """Wait until the disk has it. Blocks: call it in a thread."""
        for segment in self._segments():
            with contextlib.suppress(OSError):  # closed meanwhile: it was settled, there is nothing left to keep
                os.fdatasync(segment.descriptor)

    def close(self) -> None:
        """Stop writing. Files with unsettled records wait for the next process."""
        segments, self._segment, self._old = self._segments(), None, []
        for segment in segments:
            if segment.unsettled:
                os.close(segment.descriptor)
            else:
                _remove(segment)

    def _segments(self) -> list[Segment]:
        return [*self._old, *([self._segment] if self._segment is not None else [])]

    def _current(self) -> Segment:
        if self._segment is None:
            raise ValueError("the log is not open")
        return self._segment

    def _rotate(self) -> Segment:
        last = self._current()
        self._segment = self._new()
        if last.unsettled:
            self._old.append(last)
        else:
            _remove(last)
        return self._segment

    def _new(self) -> Segment:
        while True:
            self._number += 1
            path = self.folder / f"{self.name}.{self._number}{SUFFIX}"
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _lock(descriptor):
                segment = Segment(path, descriptor)
                self._begin(segment)
                return segment
            os.close(descriptor)  # another process took the empty file for a dead one's and will remove it

    def _begin(self, segment: Segment) -> None:
        for line in self.head():
            _write(segment, line)


@dataclass(frozen=True)
class Remains:
    """A dead process' file, locked by us while we settle it. `damaged` counts the lines whose checksum is wrong."""

    path: Path
    descriptor: int
    lines: list[bytes]
    damaged: int

    def remove(self) -> None:
        """It is settled."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)

    def set_aside(self) -> Path:
        """Some of it can't be settled at all: nobody tries again under the name that is returned."""
        path = self.path.with_suffix(BAD_SUFFIX)
        self.path.rename(path)
        os.close(self.descriptor)
        return path

    def leave(self) -> None:
        """It could not be settled now."""
        os.close(self.descriptor)


def remains(folder: Path) -> Iterator[Remains]:
    """Files whose writers are dead. Each must be given to `remove`, `set_aside` or `leave`."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        if not _lock(descriptor) or os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            continue
        content = path.read_bytes()
        lines = list(read_lines(content, path.name))
        yield Remains(path, descriptor, lines, content.count(b"\n") - len(lines))


def read_lines(content: bytes, name: str = "") -> Iterator[bytes]:
    """The lines whose checksum is right. A wrong one in the middle is reported, the torn end is not."""
    rows = content.split(b"\n")
    for number, row in enumerate(rows):
        head, _, line = row.partition(b" ")
        try:
            good = len(head) == 8 and int(head, 16) == zlib.crc32(line)
        except ValueError:
            good = False
        if good and number < len(rows) - 1:
            yield line
        elif number < len(rows) - 1:
            log.error("gateway.wal.damaged", file=name, line=number + 1)


def pack(kind: str, values: Iterable[Any]) -> bytes:
    """A line: its kind and its values, UUIDs as hex."""
    return json.dumps([kind, *values], default=_plain, separators=(",", ":"), ensure_ascii=False).encode()


def unpack(line: bytes) -> list[Any]:
    """What `pack` was given: the kind, then the values as JSON has them."""
    values = json.loads(line)
    return values if isinstance(values, list) and values else [""]


def _plain(value: object) -> str:
    if isinstance(value, UUID):
        return value.hex
    raise TypeError(f"{type(value).__name__} can't be logged")


def _write(segment: Segment, line: bytes) -> None:
    data = b"%08x %b\n" % (zlib.crc32(line), line)
    try:
        written = os.write(segment.descriptor, data)
        while written < len(data):
            written += os.write(segment.descriptor, data[written:])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(segment.descriptor, segment.size)  # or the next record would end a torn line and be lost
        raise
    segment.size += len(data)


def _remove(segment: Segment) -> None:
    segment.path.unlink(missing_ok=True)
    os.close(segment.descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
