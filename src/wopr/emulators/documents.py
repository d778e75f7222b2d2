"""Where the stand-ins keep what they know: JSON documents in one SQLite file, so that a killed process loses nothing.

A document is a JSON object with an `id` and an `object` (its kind). Keys that begin with an underscore are the
stand-in's own notes and never leave it. Writes happen inside `transaction`: a request or a step of the clock is
stored whole or not at all. One event loop uses a store, and no step waits in the middle, so no further lock is needed.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Document = dict[str, Any]  # JSON as the imitated company defines it; the official client library is what checks it

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS documents_by_kind ON documents (kind, seq);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL,
    made_at INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Query:
    """Which documents, newest first: equal fields (a dotted name reaches inside), fields among some values, numbers
    up to a limit, a range of `created`, and a page."""

    kind: str
    where: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    among: Mapping[str, Sequence[str]] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    created_from: int | None = None
    created_to: int | None = None
    older_than: str | None = None
    newer_than: str | None = None
    limit: int = 1000
    oldest_first: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer that was given under an idempotency key, with the fingerprint of the request it belongs to."""

    fingerprint: str
    status: int
    body: str


class _Rehearsed(Exception):
    """Ends a rehearsal."""


class Documents:
    """One SQLite file of documents; `None` keeps everything in memory."""

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        # NORMAL survives a kill of the process at any moment; only a power cut may lose the last commits.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA busy_timeout=5000")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside are stored together, or none when the block raises. Nested use joins the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """As `transaction`, but everything is taken back at the end: to see what would happen."""
        with suppress(_Rehearsed), self.transaction():
            yield
            raise _Rehearsed

    def put(self, document: Document) -> Document:
        """Store a new document or the new state of a known one."""
        self._db.execute(
            "INSERT INTO documents (id, kind, body) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (document["id"], document["object"], json.dumps(document)),
        )
        return document

    def get(self, document_id: str, kind: str | None = None) -> Document | None:
        """The document with this id, and of this kind if one is named."""
        row = self._db.execute("SELECT kind, body FROM documents WHERE id = ?", (document_id,)).fetchone()
        if row is None or (kind is not None and row[0] != kind):
            return None
        return _parsed(row[1])

    def remove(self, document_id: str) -> None:
        """Forget a document."""
        self._db.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    def select(self, query: Query) -> list[Document]:
        """The documents that match, in the order asked for."""
        clauses, values = _conditions(query)
        order = "ASC" if query.oldest_first or query.newer_than is not None else "DESC"
        sql = f"SELECT body FROM documents WHERE {' AND '.join(clauses)} ORDER BY seq {order} LIMIT ?"  # noqa: S608
        return [_parsed(row[0]) for row in self._db.execute(sql, (*values, query.limit))]

    def count(self, kind: str) -> int:
        """How many documents of a kind there are."""
        return int(self._db.execute("SELECT count(*) FROM documents WHERE kind = ?", (kind,)).fetchone()[0])

    def note(self, name: str, default: str = "") -> str:
        """A single named value."""
        row = self._db.execute("SELECT body FROM notes WHERE name = ?", (name,)).fetchone()
        return default if row is None else str(row[0])

    def set_note(self, name: str, body: str) -> None:
        """Remember a single named value."""
        self._db.execute(
            "INSERT INTO notes VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body", (name, body)
        )

    def answer(self, key: str, since: int) -> Answer | None:
        """What was answered under an idempotency key at or after `since` (epoch seconds)."""
        self._db.execute("DELETE FROM answers WHERE made_at < ?", (since,))
        row = self._db.execute("SELECT fingerprint, status, body FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Answer(*row)

    def keep_answer(self, key: str, answer: Answer, made_at: int) -> None:
        """Remember an answer, so that the same request under the same key gets it again."""
        row = (key, answer.fingerprint, answer.status, answer.body, made_at)
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", row)


def _parsed(body: str) -> Document:
    document: Document = json.loads(body)
    return document


def _conditions(query: Query) -> tuple[list[str], list[str | int | None]]:
    clauses: list[str] = ["kind = ?"]
    values: list[str | int | None] = [query.kind]
    for name, wanted in query.where.items():
        clauses.append("json_extract(body, ?) IS ?")
        values += [f"$.{name}", int(wanted) if isinstance(wanted, bool) else wanted]
    for name, allowed in query.among.items():
        clauses.append(f"json_extract(body, ?) IN ({', '.join('?' * len(allowed))})")
        values += [f"$.{name}", *allowed]
    for name, limit in query.at_most.items():
        clauses.append("json_extract(body, ?) <= ?")
        values += [f"$.{name}", limit]
    if query.created_from is not None:
        clauses.append("json_extract(body, '$.created') >= ?")
        values.append(query.created_from)
    if query.created_to is not None:
        clauses.append("json_extract(body, '$.created') <= ?")
        values.append(query.created_to)
    for sign, document_id in (("<", query.older_than), (">", query.newer_than)):
        if document_id is not None:
            clauses.append(f"seq {sign} (SELECT seq FROM documents WHERE id = ?)")  # noqa: S608
            values.append(document_id)
    return clauses, values
