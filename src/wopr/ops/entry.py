"""One entry of the journal and the chain that entries make: what is hashed, how a line is read, where it breaks."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOURNAL_FILE = "journal.jsonl"
# In the data of an entry that was taken from another journal: its hash there.
ORIGIN = "origin"
GENESIS = "0" * 64
FIELDS = ("at", "operation", "name", "phase", "actor", "data", "previous", "hash")


@dataclass(frozen=True)
class Entry:
    """One line: `phase` is begin, step, end, fail or note; `hash` covers every other field and `previous`.

    `at` is ISO 8601 in UTC with milliseconds.
    """

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
        return canonical({**_body(self), "hash": self.hash})


@dataclass(frozen=True)
class Damage:
    """Something that does not follow from what was written. `line` counts from 1; 0 when it is no line of the file."""

    line: int
    reason: str


def sealed(entry: Entry) -> Entry:
    """The entry with the hash that belongs to its other fields."""
    digest = hashlib.sha256(canonical(_body(entry)).encode()).hexdigest()
    return Entry(**{**_body(entry), "hash": digest})


def parse(line: str) -> Entry:
    """The entry that a line holds; ValueError when it holds none."""
    value = json.loads(line)
    if not isinstance(value, dict) or sorted(value) != sorted(FIELDS) or not isinstance(value["data"], dict):
        raise ValueError("not an entry")
    if not all(isinstance(value[name], str) for name in FIELDS if name != "data"):
        raise ValueError("not an entry")
    return Entry(**value)


def lines_of(home: Path) -> Sequence[str]:
    """The whole lines of the journal under `home`; a last one torn by a crash is left out."""
    path = home / JOURNAL_FILE
    return lines_in(path.read_bytes()) if path.exists() else []


def lines_in(content: bytes) -> Sequence[str]:
    """The whole lines of a journal's content."""
    # Only a newline ends a line: the other separators of Unicode stand in entries as themselves.
    return content.decode("utf-8", "replace").split("\n")[:-1]


def read_entries(home: Path) -> Sequence[Entry]:
    """Every entry in order; lines that are none are left out, and `verify` names them."""
    return entries_in(lines_of(home))


def entries_in(lines: Sequence[str]) -> Sequence[Entry]:
    """The entries that these lines hold."""
    entries = []
    for line in lines:
        try:
            entries.append(parse(line))
        except ValueError:
            continue
    return entries


def chain_damages(lines: Sequence[str]) -> Sequence[Damage]:
    """Every place at which the chain is broken: a changed, missing, moved or unreadable line."""
    damages: list[Damage] = []
    previous = GENESIS
    for number, line in enumerate(lines, 1):
        try:
            entry = parse(line)
        except ValueError:
            damages.append(Damage(number, "is not an entry"))
            continue
        if entry.previous != previous:
            damages.append(Damage(number, "does not follow the line before it"))
        if sealed(entry).hash != entry.hash or entry.line() != line:
            damages.append(Damage(number, "was changed"))
        previous = entry.hash
    return damages


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, characters as themselves."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _body(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in FIELDS if name != "hash"}
