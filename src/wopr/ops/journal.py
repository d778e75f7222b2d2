"""The journal: what was done to this installation, append-only, each entry with the hash of the one before.

One JSON object a line in `journal.jsonl`. It is a file, not a table, so that it works while the database is down. An
operation writes an entry before it starts, at each step and when it ends: a killed one shows as begun and never ended.
"""

import contextlib
import fcntl
import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from wopr.core.errors import Unavailable
from wopr.core.ids import new_id
from wopr.ops.entry import (
    GENESIS,
    JOURNAL_FILE,
    ORIGIN,
    Damage,
    Entry,
    chain_damages,
    lines_of,
    parse,
    read_entries,
    sealed,
)
from wopr.ops.head import HEAD_FILE, Head, read_head, write_head
from wopr.ops.logbook import history
from wopr.ops.redaction import Known, redacted
from wopr.ops.secrets import known_secrets, secret_variables

__all__ = ["GENESIS", "JOURNAL_FILE", "Damage", "Entry", "Held", "Journal", "JournalFailed", "Operation"]

TAIL_BYTES = 16 * 1024
# Read and rendered in about 50 ms.
RENDER_AT_ONCE_BYTES_MAX = 256 * 1024
JOURNAL, LOGBOOK = "journal", "logbook"
RENDER = "import sys, pathlib; from wopr.ops.logbook.history import keep; keep(pathlib.Path(sys.argv[1]))"


class JournalFailed(Unavailable):
    """An entry could not be written, so what it is about is not done, or not known to be done."""

    default_code = "journal_failed"


@dataclass
class Operation:
    """A running operation; `step` records that a part of it is done."""

    journal: "Journal"
    name: str
    id: UUID = field(default_factory=new_id)
    outcome: dict[str, Any] = field(default_factory=dict)

    def step(self, what: str, /, **data: Any) -> None:  # whatever json can write
        self.journal.append(str(self.id), self.name, "step", {"step": what, **data})

    def hide(self, variables: Mapping[str, str]) -> None:
        """From now on black out the secrets among these variables too: those of a host whose files are not here."""
        self.journal = self.journal.knowing(variables)


@dataclass
class Held:
    """The journal while its lock is held: nobody else writes, so that what is read stays true until it is released."""

    home: Path
    descriptor: int
    secrets: Known

    def append(self, operation: str, name: str, phase: str, data: Mapping[str, Any]) -> Entry:
        """Write one entry durably."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return self._write(Entry(at, operation, name, phase, _actor(), data, "", ""))

    def adopt(self, foreign: Entry) -> Entry:
        """Write an entry of another journal durably, as of when it was written there, by whom it was."""
        return self._write(replace(foreign, data={**foreign.data, ORIGIN: foreign.hash}))

    def _write(self, wanted: Entry) -> Entry:
        count, previous = self._end()
        words = redacted([wanted.operation, wanted.name, wanted.actor], self.secrets)
        data = redacted(wanted.data, self.secrets)
        entry = sealed(Entry(wanted.at, words[0], words[1], wanted.phase, words[2], data, previous, ""))
        write_head(self.home, Head(count, previous, entry.hash), durable=True)
        _write(self.descriptor, (entry.line() + "\n").encode())
        write_head(self.home, Head(count + 1, entry.hash), durable=False)
        return entry

    def read(self) -> Sequence[Entry]:
        """Every entry in order."""
        return read_entries(self.home)

    def _end(self) -> tuple[int, str]:
        """How many entries there are and the hash of the last. What doesn't fit the head is itself journalled."""
        last = _last_hash(self.descriptor)
        head = read_head(self.home)
        if head is not None and last == head.hash:
            return head.entries, last
        if head is not None and head.next_hash and last == head.next_hash:
            return head.entries + 1, last
        count = len(lines_of(self.home))
        if head is None and count == 0:
            return 0, last
        found = f"the journal ended with {count} entries" if count else "the journal was empty"
        wrong = f"{found} where {head.entries} had been written" if head else f"{found}, and {HEAD_FILE} was missing"
        # From here on the head is right again, so this entry is what keeps the damage known.
        write_head(self.home, Head(count, last), durable=True)
        key = "damage" if head else "anchored"
        return count + 1, self.append(str(new_id()), JOURNAL, "note", {key: wrong}).hash


@dataclass(frozen=True)
class Journal:
    """The journal of the installation under `home`.

    Secrets of that installation, and of this process's environment, are blacked out by their values; `more_secrets`
    names further ones, such as those of a remote host.
    """

    home: Path
    more_secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def path(self) -> Path:
        return self.home / JOURNAL_FILE

    def knowing(self, variables: Mapping[str, str]) -> "Journal":
        """The same journal, which blacks out the secrets among these variables too: those of another host's `.env`."""
        more = secret_variables(variables).values()
        return replace(self, more_secrets=(*self.more_secrets, *more))

    @contextlib.contextmanager
    def operation(self, name: str, /, **data: Any) -> Iterator[Operation]:  # whatever json can write
        """Record an operation around the block: begun before it, ended or failed after it."""
        operation = Operation(self, name)
        self.append(str(operation.id), name, "begin", data)
        try:
            yield operation
        except BaseException as error:
            wrong = {"error": f"{type(error).__name__}: {error}", **operation.outcome}
            with contextlib.suppress(JournalFailed):  # what went wrong first matters more
                operation.journal.append(str(operation.id), name, "fail", wrong)
            self.keep()
            raise
        operation.journal.append(str(operation.id), name, "end", operation.outcome)
        self.keep()

    def append(self, operation: str, name: str, phase: str, data: Mapping[str, Any]) -> Entry:
        """Write one entry durably. Secrets are blacked out before they reach the disk. JournalFailed: it can't be."""
        try:
            with self.held() as held:
                return held.append(operation, name, phase, data)
        except OSError as error:
            raise JournalFailed(
                f"The journal in {self.home} can't be written: {error.strerror or error}",
                remedy=f"Make room there (df -h {self.home}) or correct its rights, and run it again: "
                "what was begun is then finished or undone.",
            ) from error

    @contextlib.contextmanager
    def held(self) -> Iterator[Held]:
        """Hold the journal's lock: writers of several processes take turns. Not reentrant.

        A line torn by a crash is cut off by the next writer: it was never acknowledged.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        secrets = known_secrets(self.home, self.more_secrets)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Held(self.home, descriptor, secrets)
        finally:
            os.close(descriptor)

    def clean(self, value: Any) -> Any:  # whatever json can write
        """The value as it would be journalled."""
        return redacted(value, known_secrets(self.home, self.more_secrets))

    def keep(self) -> None:
        """Render the logbook's pages and commit them. Never fails: what is lacking, the next one does.

        A journal that takes long to read is rendered by a process of its own, so that no command waits for it.
        """
        try:
            if self.path.stat().st_size > RENDER_AT_ONCE_BYTES_MAX:
                _render_apart(self.home)
                return
            kept = history.keep(self.home)
            if kept.reason == history.NO_GIT and not any(e.data.get("lacking") == "git" for e in self.read()):
                self.append(str(new_id()), LOGBOOK, "note", {"lacking": "git", "what": kept.reason})
        except Exception as error:  # noqa: BLE001 - the outermost handler of a by-product of every command
            with contextlib.suppress(OSError, JournalFailed):
                self.append(
                    str(new_id()), LOGBOOK, "note", {"lacking": "pages", "error": f"{type(error).__name__}: {error}"}
                )

    def read(self) -> Sequence[Entry]:
        """Every entry in order; a torn last line, and lines that are no entries, are left out."""
        return read_entries(self.home)

    def verify(self) -> Sequence[Damage]:
        """Every place at which the journal is not what was written: broken chain, lost or foreign end, known damage."""
        lines = lines_of(self.home)
        damages = list(chain_damages(lines))
        if not damages:
            damages += _known_damages(lines)
        return [*damages, *_end_damages(read_head(self.home), lines)]


def _known_damages(lines: Sequence[str]) -> Iterator[Damage]:
    for number, line in enumerate(lines, 1):
        entry = parse(line)
        if entry.name == JOURNAL and "damage" in entry.data:
            yield Damage(number, f"tells of damage before it: {entry.data['damage']}")


def _end_damages(head: Head | None, lines: Sequence[str]) -> Iterator[Damage]:
    if head is None:
        if lines:
            yield Damage(0, f"{HEAD_FILE} is missing: nothing but the logbook's commits tells where the journal ended")
        return
    try:
        last = parse(lines[-1]).hash if lines else GENESIS
    except ValueError:
        return  # the chain's damages name that line
    if not head.allows(len(lines), last):
        count = len(lines)
        more = "further entries were added by something else" if count > head.entries else "the end is not what it was"
        yield Damage(count, f"is the last of {count}, but {head.entries} were written: {more}")


def _render_apart(home: Path) -> None:
    """Start a process that renders and that nobody waits for: the shell between is its parent and is gone at once."""
    leave = '"$@" </dev/null >/dev/null 2>&1 &'
    subprocess.run(["/bin/sh", "-c", leave, "sh", sys.executable, "-c", RENDER, str(home)], check=False)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


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
    try:
        return parse(content[begin : end - 1].decode("utf-8", "replace")).hash
    except ValueError:
        return GENESIS  # the head will not fit, which is journalled


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
