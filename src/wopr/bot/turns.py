"""Turns and their events in the database: what was asked, what was answered, how it ended.

A turn's events are numbered 1, 2, 3…; number 1 is `started`, the last one is final. An event is shown to listeners only
after it is stored here, so that whatever a listener has seen can be replayed after a crash, under the same number.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from wopr.bot.contract import ErrorBody, ErrorCode, EventName, TurnRequest, TurnState, TurnView, Usage

TITLE_CHARS_MAX = 60
INTERRUPTED = ErrorBody(
    ErrorCode.INTERRUPTED,
    "The bot was stopped while it answered; what it had said until then is kept.",
    "Ask again to get a whole answer.",
)


@dataclass(frozen=True)
class StoredEvent:
    """One event of a turn as it goes over the wire; `payload` is JSON."""

    seq: int
    name: EventName
    payload: str


@dataclass(frozen=True)
class Outcome:
    """How a turn ended."""

    state: TurnState
    text: str = ""
    finish_reason: str = ""
    error: ErrorBody | None = None
    usage: Usage | None = None
    request_ids: tuple[str, ...] = ()
    has_audio: bool = False

    @property
    def event(self) -> tuple[EventName, dict[str, object]]:
        """The final event that tells it."""
        if self.state is TurnState.CANCELLED:
            return EventName.CANCELLED, {}
        if self.error is not None:
            return EventName.FAILED, self.error.to_json()
        return EventName.COMPLETED, {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": (self.usage or Usage()).to_json(),
            "request_ids": list(self.request_ids),
            "has_audio": self.has_audio,
        }


@dataclass(frozen=True)
class Created:
    """Result of `create`: `seq` is None when the same turn was there already."""

    seq: int | None
    state: TurnState
    started: StoredEvent | None


class DifferentTurn(ValueError):
    """The id belongs to a turn with another content."""


def now_text() -> str:
    """The time as it is stored and shown: UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create(connection: sqlite3.Connection, request: TurnRequest) -> Created:
    """Stores the turn, its conversation and its first event. Raises `DifferentTurn`."""
    fingerprint = hashlib.sha256(json.dumps(request.to_json(), sort_keys=True).encode()).hexdigest()
    known = connection.execute("SELECT state, fingerprint FROM turns WHERE id = ?", (request.turn_id,)).fetchone()
    if known is not None:
        if known["fingerprint"] != fingerprint:
            raise DifferentTurn(request.turn_id)
        return Created(None, TurnState(known["state"]), None)
    now, text = now_text(), request.text or ""
    connection.execute(
        "INSERT INTO conversations (id, title, created_at, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at",
        (request.conversation_id, title_of(text), now, now),
    )
    cursor = connection.execute(
        "INSERT INTO turns (id, conversation_id, state, fingerprint, user_text, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (request.turn_id, request.conversation_id, TurnState.RUNNING, fingerprint, text, now),
    )
    seq = int(cursor.lastrowid or 0)
    payload = {"turn_id": request.turn_id, "conversation_id": request.conversation_id, "user_text": text}
    started = StoredEvent(1, EventName.STARTED, json.dumps(payload))
    append(connection, seq, [started])
    return Created(seq, TurnState.RUNNING, started)


def append(connection: sqlite3.Connection, turn_seq: int, events: Sequence[StoredEvent]) -> None:
    """Stores events; a transcript also becomes the user's text."""
    connection.executemany(
        "INSERT INTO events (turn_seq, seq, name, payload) VALUES (?, ?, ?, ?)",
        [(turn_seq, event.seq, event.name, event.payload) for event in events],
    )
    for event in events:
        if event.name is EventName.TRANSCRIPT:
            text = json.loads(event.payload)["text"]
            connection.execute("UPDATE turns SET user_text = ? WHERE seq = ?", (text, turn_seq))
            connection.execute(
                "UPDATE conversations SET title = ? WHERE title = ''"
                " AND id = (SELECT conversation_id FROM turns WHERE seq = ?)",
                (title_of(text), turn_seq),
            )


def close(connection: sqlite3.Connection, turn_seq: int, outcome: Outcome) -> None:
    """Records how the turn ended; belongs into the transaction that stores its final event."""
    now = now_text()
    _fold_deltas(connection, turn_seq, outcome.text)
    connection.execute(
        "UPDATE turns SET state = ?, text = ?, error = ?, request_ids = ?, prompt_tokens = ?, completion_tokens = ?,"
        " has_audio = ?, finished_at = ? WHERE seq = ?",
        (
            outcome.state,
            outcome.text,
            json.dumps(outcome.error.to_json()) if outcome.error else None,
            json.dumps(outcome.request_ids),
            outcome.usage.prompt_tokens if outcome.usage else None,
            outcome.usage.completion_tokens if outcome.usage else None,
            outcome.has_audio,
            now,
            turn_seq,
        ),
    )
    connection.execute(
        "UPDATE conversations SET updated_at = ? WHERE id = (SELECT conversation_id FROM turns WHERE seq = ?)",
        (now, turn_seq),
    )


def interrupt_running(connection: sqlite3.Connection) -> int:
    """Ends the turns that a killed process left running, keeping what they had said; returns their number."""
    running = connection.execute("SELECT seq FROM turns WHERE state = ?", (TurnState.RUNNING,)).fetchall()
    for row in running:
        events = _events(connection, row["seq"], 0)
        text = "".join(_texts(_last_attempt(events)))
        outcome = Outcome(TurnState.INTERRUPTED, text=text, error=INTERRUPTED)
        name, payload = outcome.event
        append(connection, row["seq"], [StoredEvent(len(events) + 1, name, json.dumps(payload))])
        close(connection, row["seq"], outcome)
    return len(running)


def get(connection: sqlite3.Connection, turn_id: str) -> TurnView | None:
    """The turn, or None. Of a running turn the text is what is stored so far."""
    row = connection.execute("SELECT * FROM turns WHERE id = ?", (turn_id,)).fetchone()
    if row is None:
        return None
    state, text = TurnState(row["state"]), row["text"]
    if not state.final:
        text = "".join(_texts(_last_attempt(_events(connection, row["seq"], 0))))
    return TurnView(
        turn_id=row["id"],
        conversation_id=row["conversation_id"],
        state=state,
        user_text=row["user_text"],
        text=text,
        error=ErrorBody.from_json(json.loads(row["error"])) if row["error"] else None,
        request_ids=tuple(json.loads(row["request_ids"])),
        usage=None if row["prompt_tokens"] is None else Usage(row["prompt_tokens"], row["completion_tokens"]),
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def events_after(connection: sqlite3.Connection, turn_id: str, after: int) -> list[StoredEvent] | None:
    """Events with a number above `after`, in order; None when there is no such turn."""
    row = connection.execute("SELECT seq FROM turns WHERE id = ?", (turn_id,)).fetchone()
    return None if row is None else _events(connection, row["seq"], after)


def mark_audio(connection: sqlite3.Connection, turn_id: str) -> None:
    """Notes that the answer exists as a sound file."""
    connection.execute("UPDATE turns SET has_audio = 1 WHERE id = ?", (turn_id,))


def title_of(text: str) -> str:
    """A conversation's title: the first line of its first message, cut at a word."""
    lines = text.strip().splitlines()
    line = " ".join(lines[0].split()) if lines else ""
    if len(line) <= TITLE_CHARS_MAX:
        return line
    return line[: TITLE_CHARS_MAX - 1].rsplit(" ", 1)[0].rstrip(" ,;:.") + "…"


def _fold_deltas(connection: sqlite3.Connection, turn_seq: int, text: str) -> None:
    """Replaces the rows of the text's deltas by their lengths; `_events` makes the same events of them again."""
    deltas = _last_attempt(_events(connection, turn_seq, 0))
    texts = _texts(deltas)
    if not deltas or "".join(texts) != text:
        return
    connection.execute(
        "DELETE FROM events WHERE turn_seq = ? AND name = ? AND seq >= ?", (turn_seq, EventName.DELTA, deltas[0].seq)
    )
    connection.execute(
        "UPDATE turns SET first_delta = ?, delta_lengths = ? WHERE seq = ?",
        (deltas[0].seq, json.dumps([len(piece) for piece in texts], separators=(",", ":")), turn_seq),
    )


def _last_attempt(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The deltas that make the text: those after the last restart."""
    restarts = [number for number, event in enumerate(events) if event.name is EventName.RESTARTED]
    return [event for event in events[restarts[-1] if restarts else 0 :] if event.name is EventName.DELTA]


def _texts(deltas: Sequence[StoredEvent]) -> list[str]:
    return [json.loads(event.payload)["text"] for event in deltas]


def _events(connection: sqlite3.Connection, turn_seq: int, after: int) -> list[StoredEvent]:
    rows = connection.execute(
        "SELECT seq, name, payload FROM events WHERE turn_seq = ? AND seq > ? ORDER BY seq", (turn_seq, after)
    )
    stored = [StoredEvent(row["seq"], EventName(row["name"]), row["payload"]) for row in rows]
    folded = [event for event in _folded(connection, turn_seq) if event.seq > after]
    return sorted(stored + folded, key=lambda event: event.seq) if folded else stored


def _folded(connection: sqlite3.Connection, turn_seq: int) -> Iterator[StoredEvent]:
    row = connection.execute("SELECT text, first_delta, delta_lengths FROM turns WHERE seq = ?", (turn_seq,)).fetchone()
    start = 0
    for number, length in enumerate(json.loads(row["delta_lengths"])):
        piece = row["text"][start : start + length]
        yield StoredEvent(row["first_delta"] + number, EventName.DELTA, json.dumps({"text": piece}))
        start += length
