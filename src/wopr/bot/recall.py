"""Long-term recall: what was said in any conversation, found again by its meaning.

Each exchange has up to two vectors (question and answer). The search first compares signatures, one bit for the sign
of each dimension, which costs about a microsecond a vector; only the nearest get the exact cosine. That keeps tens of
thousands of memories searchable in plain Python without holding them in memory.
"""

from __future__ import annotations

import math
import sqlite3
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import mul

from wopr.bot.conversations import Exchange

SCANNED_MAX = 50_000  # the latest ones
CANDIDATES_MAX = 400
RECALLED_MAX = 5
SIMILARITY_MIN = 0.25
EMBEDDED_CHARS_MAX = 1_200  # small embedding models read about 256 tokens
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Memory:
    """One vector of an exchange; `part` is user or assistant."""

    part: str
    vector: array[float]


@dataclass(frozen=True)
class Recalled:
    """An exchange that is near in meaning."""

    exchange: Exchange
    said_at: str
    similarity: float


def count(connection: sqlite3.Connection, model: str) -> int:
    """Number of vectors made by this embedding model; others can't be compared with its own."""
    row = connection.execute("SELECT COUNT(*) FROM memories WHERE model = ?", (model,)).fetchone()
    return int(row[0])


def search(
    connection: sqlite3.Connection, model: str, query: array[float], leave_out: Collection[int]
) -> list[Recalled]:
    """The exchanges nearest to the query, best first, without those whose turn number is in `leave_out`."""
    wanted = _as_int(signature(query))
    distances = (
        ((wanted ^ _as_int(bits)).bit_count(), rowid)
        for rowid, turn_seq, bits in _signatures(connection, model)
        if turn_seq not in leave_out
    )
    best: dict[int, float] = {}
    for _, rowid in nsmallest(CANDIDATES_MAX, distances):
        row = connection.execute("SELECT turn_seq, vector FROM memories WHERE rowid = ?", (rowid,)).fetchone()
        similarity = cosine(query, array("f", row["vector"]))
        if similarity >= SIMILARITY_MIN:
            best[row["turn_seq"]] = max(similarity, best.get(row["turn_seq"], -1.0))
    nearest = sorted(best.items(), key=lambda item: -item[1])[:RECALLED_MAX]
    return [_recalled(connection, turn_seq, similarity) for turn_seq, similarity in nearest]


def to_remember(connection: sqlite3.Connection, limit: int) -> list[tuple[str, Exchange]]:
    """Finished exchanges without vectors, the latest first, each with its turn's id."""
    rows = connection.execute(
        "SELECT id, seq, user_text, text FROM turns WHERE remembered = 0 AND state <> 'running'"
        " AND user_text <> '' ORDER BY seq DESC LIMIT ?",
        (limit,),
    )
    return [(row["id"], Exchange(row["seq"], row["user_text"], row["text"])) for row in rows]


def remember(connection: sqlite3.Connection, turn_seq: int, model: str, memories: Sequence[Memory]) -> None:
    """Stores the vectors of an exchange; nothing when its conversation was deleted meanwhile."""
    cursor = connection.execute("UPDATE turns SET remembered = 1 WHERE seq = ?", (turn_seq,))
    if cursor.rowcount == 0:
        return
    connection.executemany(
        "INSERT OR REPLACE INTO memories (turn_seq, part, model, signature, vector) VALUES (?, ?, ?, ?, ?)",
        [(turn_seq, item.part, model, signature(item.vector), item.vector.tobytes()) for item in memories],
    )


def signature(vector: Sequence[float]) -> bytes:
    """One bit a dimension: whether it is above zero."""
    bits = 0
    for number, value in enumerate(vector):
        if value > 0:
            bits |= 1 << number
    return bits.to_bytes((len(vector) + 7) // 8, "little")


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Similarity from -1 to 1; 0 when a vector is empty or of another size."""
    if len(one) != len(other):
        return 0.0
    norm = math.sqrt(sum(map(mul, one, one)) * sum(map(mul, other, other)))
    return sum(map(mul, one, other)) / norm if norm else 0.0


def _signatures(connection: sqlite3.Connection, model: str) -> Iterator[tuple[int, int, bytes]]:
    cursor = connection.execute(
        "SELECT rowid, turn_seq, signature FROM memories WHERE model = ? ORDER BY turn_seq DESC LIMIT ?",
        (model, SCANNED_MAX),
    )
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for row in rows:
            yield row[0], row[1], row[2]


def _as_int(bits: bytes) -> int:
    return int.from_bytes(bits, "little")


def _recalled(connection: sqlite3.Connection, turn_seq: int, similarity: float) -> Recalled:
    row = connection.execute("SELECT user_text, text, created_at FROM turns WHERE seq = ?", (turn_seq,)).fetchone()
    return Recalled(Exchange(turn_seq, row["user_text"], row["text"]), row["created_at"], similarity)
