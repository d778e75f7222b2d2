"""Journals what is seen of the installation, but only when it differs from what was seen last, so that RUNBOOK.md can
state facts and a status asked every minute leaves no trace."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wopr.core.environment import environment
from wopr.core.files import OWNER_ONLY
from wopr.core.ids import new_id
from wopr.ops.entry import JOURNAL_FILE, parse
from wopr.ops.journal import Journal
from wopr.ops.logbook.facts import SECRETS as EXPECTED
from wopr.ops.logbook.observed import OBSERVED, SECRETS
from wopr.ops.secrets import fingerprint, read_variables, secret_variables, variable_files

KEY_FILE = "logbook.key"
KEY_BYTES = 32
SEARCHED = f'"name":"{OBSERVED}"'.encode()
NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
Rows = Sequence[Mapping[str, Any]]  # whatever json can write


def observe(journal: Journal, what: str, rows: Rows, *, keep: bool = True) -> bool:
    """Journal these rows, each with a `name`, unless they say the same as when `what` was last seen; True when written.

    Numbers within `evidence` and `detail` don't count as a change: free space and latencies always differ a little.
    Nothing is written where there is no journal yet: looking alone makes no installation. `keep` renders the pages.
    """
    if not journal.path.exists():
        return False
    clean = journal.clean([dict(row) for row in rows])
    if _said(clean) == _said(_last(journal.home, what)):
        return False
    journal.append(str(new_id()), OBSERVED, "note", {"what": what, "rows": clean})
    if keep:
        journal.keep()
    return True


def observe_secrets(journal: Journal, more: Mapping[str, str] | None = None, *, keep: bool = True) -> bool:
    """Journal which secrets are set, and that one changed, never its value. `more` are variables of another host.

    What changes with a value is a mark, a hash under a key that stays in the home folder.
    """
    if not journal.path.exists():
        return False
    expected = {name for name, _, _ in EXPECTED}
    found = {name: value for name, value in environment().items() if value and name in expected}
    for given in (*map(read_variables, variable_files(journal.home)), more or {}):
        found |= {name: value for name, value in given.items() if value and name in expected}
        found |= secret_variables(given)
    key = _key(journal.home)
    rows = [{"name": name, "mark": fingerprint(key, name, found[name])} for name in sorted(found)]
    return observe(journal, SECRETS, rows, keep=keep)


def _last(home: Path, what: str) -> Any:  # the rows as json gave them
    """The rows last seen, searched for from the end of the journal: nearly always they are near."""
    path = home / JOURNAL_FILE
    content = path.read_bytes() if path.exists() else b""
    end = len(content)
    while (at := content.rfind(SEARCHED, 0, end)) >= 0:
        begin = content.rfind(b"\n", 0, at) + 1
        line = content[begin : content.find(b"\n", at)].decode("utf-8", "replace")
        end = begin
        try:
            entry = parse(line)
        except ValueError:
            continue
        if entry.name == OBSERVED and entry.data.get("what") == what:
            return entry.data.get("rows")
    return None


def _said(rows: Any) -> str:  # whatever json can write
    if not isinstance(rows, list):
        return ""
    vague = [
        {k: NUMBERS.sub("#", str(v)) if k in ("evidence", "detail") else v for k, v in row.items()}
        for row in rows
        if isinstance(row, Mapping)
    ]
    return json.dumps(vague, sort_keys=True, ensure_ascii=False, default=str)


def _key(home: Path) -> bytes:
    path = home / KEY_FILE
    if not path.exists():
        new = path.with_name(f".{KEY_FILE}.{secrets.token_hex(4)}")
        new.touch(OWNER_ONLY)
        new.write_bytes(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(new, path)  # unlike a renaming it keeps what another process put there first
        new.unlink()
    return path.read_bytes()
