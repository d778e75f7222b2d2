"""The bot's SQLite file: one connection on a thread of its own, so that the disk never holds up an answer.

Functions that work on it take the connection and never commit; `Database.run` opens and closes the transaction around
them. In WAL mode a commit survives kill -9 of the process without an fsync; `durable=True` adds the fsync, so that it
(and all before it) survives a power cut as well.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 5.0
CACHE_KIB = 1024

# Each entry brings the file from its position to the next; entries are never edited, only added.
MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE turns (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        state TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        user_text TEXT NOT NULL,
        text TEXT NOT NULL DEFAULT '',
        error TEXT,
        request_ids TEXT NOT NULL DEFAULT '[]',
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        has_audio INTEGER NOT NULL DEFAULT 0,
        remembered INTEGER NOT NULL DEFAULT 0,
        created_at TEXT NOT NULL,
        finished_at TEXT
    );
    CREATE INDEX turns_by_conversation ON turns (conversation_id, seq);
    CREATE INDEX turns_running ON turns (seq) WHERE state = 'running';
    CREATE INDEX turns_to_remember ON turns (seq) WHERE remembered = 0;
    CREATE TABLE events (
        turn_seq INTEGER NOT NULL REFERENCES turns (seq) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        name TEXT NOT NULL,
        payload TEXT NOT NULL,
        PRIMARY KEY (turn_seq, seq)
    ) WITHOUT ROWID;
    CREATE TABLE memories (
        turn_seq INTEGER NOT NULL REFERENCES turns (seq) ON DELETE CASCADE,
        part TEXT NOT NULL,
        model TEXT NOT NULL,
        signature BLOB NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (turn_seq, part)
    );
    CREATE INDEX memories_by_model ON memories (model, turn_seq, signature);
    """,
    # The deltas of a finished turn are its text and where it was cut: a tenth of the room, and still replayed exactly.
    """
    ALTER TABLE turns ADD COLUMN first_delta INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE turns ADD COLUMN delta_lengths TEXT NOT NULL DEFAULT '[]';
    """,
)


class Database:
    """Opened by `open`, closed by `close`; everything in between through `run`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Creates or upgrades the file. Raises `sqlite3.Error` and OSError."""
        self._connection = await asyncio.get_running_loop().run_in_executor(self._thread, _connect, self._path)

    async def run(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Runs `work` in one transaction and returns what it returns; an exception rolls back."""
        connection = self._connection
        if connection is None:
            raise sqlite3.ProgrammingError("the database is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, _transact, connection, work, durable)

    async def close(self) -> None:
        """Waits for what is under way, then closes the file."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
        self._thread.shutdown(wait=True)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA journal_size_limit = 4194304")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        connection.close()
        raise sqlite3.DatabaseError("the data folder was written by a newer bot; start that version")
    for position in range(version, len(MIGRATIONS)):
        connection.executescript(f"BEGIN; {MIGRATIONS[position]}; PRAGMA user_version = {position + 1}; COMMIT;")
    return connection


def _transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], durable: bool) -> T:
    if durable:
        connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:  # whatever leaves here: a transaction left open would swallow the next one's work
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        if durable:
            connection.execute("PRAGMA synchronous = NORMAL")
    return result
