"""Lines of a bot's log for people: bots write JSON, one object a line; here it becomes an event and its fields.

The page's script (`web/static/js/logs.js`) does the same for the lines that arrive later.
"""

from __future__ import annotations

import json

LEFT_OUT = frozenset({"at", "level", "event", "bot_id"})


def log_words(text: str) -> str:
    """`{"event": "started", "ms": 85}` as `started  ms=85`; anything else as it is."""
    if not text.startswith("{"):
        return text
    try:
        fields = json.loads(text)
    except ValueError:
        return text
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return text
    rest = [f"{name}={_value(value)}" for name, value in fields.items() if name not in LEFT_OUT and value is not None]
    return "  ".join([fields["event"], " ".join(rest)]).rstrip()


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
