"""Where the journal ends, kept apart from it: without that, a chain whose last lines were cut off would look whole.

`journal.head` is written twice for each entry: before the line with what is about to come, and after it. A process that
is killed between the two leaves a head that allows exactly both: the line is there, or it isn't.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from wopr.core.files import OWNER_ONLY

HEAD_FILE = "journal.head"


@dataclass(frozen=True)
class Head:
    """How many entries there are and the hash of the last; `next_hash` is that of the one being written."""

    entries: int
    hash: str
    next_hash: str = ""

    def allows(self, entries: int, last_hash: str) -> bool:
        """Whether a journal that ends so is the one that was written."""
        if (entries, last_hash) == (self.entries, self.hash):
            return True
        return bool(self.next_hash) and (entries, last_hash) == (self.entries + 1, self.next_hash)


def read_head(home: Path) -> Head | None:
    """The head that was kept; None when there is none that can be read."""
    try:
        kept = json.loads((home / HEAD_FILE).read_text(encoding="utf-8"))
        return Head(int(kept["entries"]), str(kept["hash"]), str(kept.get("next_hash", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_head(home: Path, head: Head, *, durable: bool) -> None:
    """Keep it, whole or not at all. `durable` waits for the disk, which only what precedes a line needs."""
    temporary = home / f".{HEAD_FILE}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(asdict(head), stream)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
    temporary.replace(home / HEAD_FILE)
