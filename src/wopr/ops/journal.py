"""The journal: what was done to this installation, append-only, each entry with the hash of the one before.

One JSON object a line in `journal.jsonl`. It is a file, not a table, so that it works while the database is down. An
operation writes an entry before it starts, at each step and when it ends: a killed one shows as begun and never ended.
"""

import fcntl
import getpass
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from wopr.core.ids import new_id

JOURNAL_FILE = "journal.jsonl"
GENESIS = "0" * 64
VALUE_CHARACTERS_MAX = 2_000
TAIL_BYTES = 16 * 1024
DOTS = "••••"
SECRET_NAME = re.compile(r"(password|secret|token|authorization|cookie|api_?key|private|credential)", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"(wopr_(?:read|write|admin|bot)_[\w-]{6,}|sk_(?:live|test)_\w{6,}|rk_(?:live|test)_\w{6,}|whsec_[\w+/=-]{6,}"
    r"|\bre_\w{8,}|ghp_\w{10,}|github_pat_\w{10,}|dop_v1_\w{10,}|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)|[?&]token=[^\s&]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----)"
)


@dataclass(frozen=True)
class Entry:
    """One line: `phase` is begin, step, end, fail or note; `hash` covers every other field and `previous`."""

    at: str
    operation: str
    name: str
    phase: str
    actor: str
    data: Mapping[str, Any]
    previous: str
    hash: str

    def line(self) -> str:
        """The entry as it stands in the file, without the newline."""
        return _canonical({**_body(self), "hash": self.hash})


@dataclass(frozen=True)
class Damage:
    """A line that does not follow from the one before."""

    line: int
    reason: str


@dataclass
class Operation:
    """A running operation; `step` records that a part of it is done."""

    journal: "Journal"
    name: str
    id: UUID = field(default_factory=new_id)
    outcome: dict[str, Any] = field(default_factory=dict)

    def step(self, what: str, **data: Any) -> None:  # whatever json can write
        self.journal.append(str(self.id), self.name, "step", {"step": what, **data})


@dataclass(frozen=True)
class Journal:
    """The journal of the installation under `home`."""

    home: Path

    @property
    def path(self) -> Path:
        return self.home / JOURNAL_FILE

    @contextmanager
    def operation(self, name: str, **data: Any) -> Iterator[Operation]:  # whatever json can write
        """Record an operation around the block: begun before it, ended or failed after it."""
        operation = Operation(self, name)
        self.append(str(operation.id), name, "begin", data)
        try:
            yield operation
        except BaseException as error:
            self.append(
                str(operation.id), name, "fail", {"error": f"{type(error).__name__}: {error}", **operation.outcome}
            )
            raise
        self.append(str(operation.id), name, "end", operation.outcome)

    def append(self, operation: str, name: str, phase: str, data: Mapping[str, Any]) -> Entry:
        """Write one entry durably. Secrets are blacked out by name and by shape before they reach the disk.

        Writers of several processes take turns through a lock on the file. A line torn by a crash is cut off first: it
        was never acknowledged.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            previous = _last_hash(descriptor)
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = _sealed(Entry(at, operation, name, phase, _actor(), redacted(data), previous, ""))
            os.write(descriptor, (entry.line() + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return entry

    def read(self) -> Sequence[Entry]:
        """Every entry in order; a torn last line is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [Entry(**json.loads(line)) for line in lines if line.endswith("\n")]

    def verify(self) -> Sequence[Damage]:
        """Every place at which the chain is broken: a changed, missing, moved or unreadable line."""
        if not self.path.exists():
            return []
        damages: list[Damage] = []
        previous = GENESIS
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                damages.append(Damage(number, "is not an entry"))
                continue
            if entry.previous != previous:
                damages.append(Damage(number, "does not follow the line before it"))
            if _sealed(entry).hash != entry.hash:
                damages.append(Damage(number, "was changed"))
            previous = entry.hash
        return damages


def redacted(value: Any) -> Any:  # whatever json can write
    """The same value without secrets: those named like one, and strings that look like one."""
    if isinstance(value, Mapping):
        return {str(k): DOTS if SECRET_NAME.search(str(k)) else redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return SECRET_VALUE.sub(DOTS, str(value))[:VALUE_CHARACTERS_MAX]


def _sealed(entry: Entry) -> Entry:
    digest = hashlib.sha256(_canonical(_body(entry)).encode()).hexdigest()
    return Entry(**{**_body(entry), "hash": digest})


def _body(entry: Entry) -> dict[str, Any]:
    names = ("at", "operation", "name", "phase", "actor", "data", "previous")
    return {name: getattr(entry, name) for name in names}


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _last_hash(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    wanted = TAIL_BYTES
    while True:
        # Only the end is read, more of it until a whole line is in it: the journal grows for years.
        start = max(0, size - wanted)
        content = os.pread(descriptor, size - start, start)
        end = content.rfind(b"\n") + 1
        begin = content.rfind(b"\n", 0, max(0, end - 1)) + 1
        if start == 0 or begin:
            break
        wanted *= 2
    if start + end < size:
        os.ftruncate(descriptor, start + end)
    if not end:
        return GENESIS
    return str(json.loads(content[begin:end])["hash"])


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
