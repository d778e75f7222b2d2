"""Structured logs: one JSON object a line on stdout, for whoever supervises the bot.

Never a secret and never what people wrote: callers pass ids, states, counts and durations. A reader that is gone must
not end the bot, so failed writes are dropped.
"""

import contextlib
import json
import logging
import os
from datetime import UTC, datetime

STDOUT = 1


def log(event: str, level: str = "info", **fields: object) -> None:
    """Writes one line. `fields` must be JSON values."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"at": now, "level": level, "event": event, **fields}, ensure_ascii=False, default=str)
    # Past sys.stdout: its buffer would complain at exit about a pipe whose reader died.
    with contextlib.suppress(OSError):
        os.write(STDOUT, line.encode() + b"\n")


def adopt_library_logs() -> None:
    """Sends what libraries log to the same lines, from warnings up."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines()], force=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # The message alone could quote a request; the logger and the type of the error are enough to look further.
        cause = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        log("library", record.levelname.lower(), logger=record.name, where=record.funcName, error=cause)
