"""Server-sent events as the HTML standard frames them; used by whoever writes or reads a stream of ours."""

import json
from collections.abc import Mapping


def frame(event: str, data: Mapping[str, object], event_id: int | str | None = None) -> bytes:
    """One event with a JSON body on a single `data:` line."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{head}event: {event}\ndata: {body}\n\n".encode()


HEARTBEAT = b": \n\n"
