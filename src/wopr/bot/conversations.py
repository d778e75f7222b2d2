"""Conversations and their messages: both are read from the turns, so that nothing can disagree after a crash."""

import sqlite3
from dataclasses import dataclass

from wopr.bot.contract import ConversationView, MessageView, TurnState

CONVERSATIONS_MAX = 500
HISTORY_TURNS_MAX = 200


@dataclass(frozen=True)
class Exchange:
    """One question with its answer."""

    turn_seq: int
    user_text: str
    text: str


def list_all(connection: sqlite3.Connection) -> list[ConversationView]:
    """The latest first."""
    rows = connection.execute(
        "SELECT c.id, c.title, c.created_at, c.updated_at,"
        " (SELECT COALESCE(SUM((t.user_text <> '') + (t.text <> '')), 0) FROM turns t WHERE t.conversation_id = c.id)"
        " AS messages FROM conversations c ORDER BY c.updated_at DESC, c.id LIMIT ?",
        (CONVERSATIONS_MAX,),
    )
    return [ConversationView(**dict(row)) for row in rows]


def messages(
    connection: sqlite3.Connection, conversation_id: str, before: int | None, limit: int
) -> list[MessageView] | None:
    """The last `limit` messages with an id below `before`, oldest first; None when there is no such conversation.

    Message ids are twice the turn's number, plus one for the answer: they sort as the talk went.
    """
    if connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation_id,)).fetchone() is None:
        return None
    rows = connection.execute(
        "SELECT * FROM (SELECT seq * 2 AS message, 'user' AS role, user_text AS text, id, created_at, 0 AS has_audio,"
        " state FROM turns WHERE conversation_id = :c AND user_text <> ''"
        " UNION ALL SELECT seq * 2 + 1, 'assistant', text, id, COALESCE(finished_at, created_at), has_audio, state"
        " FROM turns WHERE conversation_id = :c AND text <> '')"
        " WHERE message < :before ORDER BY message DESC LIMIT :limit",
        {"c": conversation_id, "before": before if before is not None else 2**62, "limit": limit},
    ).fetchall()
    return [
        MessageView(
            id=str(row["message"]),
            role=row["role"],
            text=row["text"],
            turn_id=row["id"],
            created_at=row["created_at"],
            has_audio=bool(row["has_audio"]),
            state=TurnState(row["state"]),
        )
        for row in reversed(rows)
    ]


def turn_ids(connection: sqlite3.Connection, conversation_id: str) -> list[str] | None:
    """Ids of all turns of the conversation; None when there is no such conversation."""
    if connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation_id,)).fetchone() is None:
        return None
    rows = connection.execute("SELECT id FROM turns WHERE conversation_id = ?", (conversation_id,))
    return [row["id"] for row in rows]


def delete(connection: sqlite3.Connection, conversation_id: str) -> None:
    """Removes the conversation with its turns, events and memories."""
    connection.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))


def history(connection: sqlite3.Connection, turn_seq: int) -> list[Exchange]:
    """Earlier exchanges of the turn's conversation, oldest first. Turns without an answer are left out: roles must
    alternate for most models, and the question was usually asked again."""
    rows = connection.execute(
        "SELECT seq, user_text, text FROM turns WHERE seq < :seq AND user_text <> '' AND text <> ''"
        " AND conversation_id = (SELECT conversation_id FROM turns WHERE seq = :seq) ORDER BY seq DESC LIMIT :limit",
        {"seq": turn_seq, "limit": HISTORY_TURNS_MAX},
    ).fetchall()
    return [Exchange(row["seq"], row["user_text"], row["text"]) for row in reversed(rows)]
