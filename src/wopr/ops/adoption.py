"""Takes over what another process of the same installation journalled apart: the API, whose container can't reach the
installation's journal and must not, for it would then write what releases did as well.

Each entry is written here once, since it is known by its hash there. So anybody may do it at any moment, in any number,
and whoever is killed in the middle is followed by the next.
"""

import re
from datetime import datetime

from wopr.core.ids import new_id
from wopr.ops.entry import ORIGIN, Entry, chain_damages, entries_in, lines_in
from wopr.ops.journal import JOURNAL, Journal
from wopr.ops.logbook.incidents import INCIDENT
from wopr.ops.logbook.observed import NODES, OBSERVED

PHASES = ("begin", "step", "end", "fail", "note")
# What opens by itself, and what people do in the API's container since it works on the database. Releases are told by
# whoever makes them, never by what was released.
TAKEN = (INCIDENT, "admin.", "bots.", "nodes.")
# Within a string the quotes would be escaped, so this is never something that somebody said.
ADOPTED = re.compile(rf'"{ORIGIN}":"([0-9a-f]{{64}})"'.encode())


def adopt(journal: Journal, content: bytes) -> int:
    """Write the entries of a journal with this content that are not in ours yet; how many. Blocks for the disk.

    That the other one was tampered with is journalled, too.
    """
    lines = lines_in(content)
    foreign = [entry for entry in entries_in(lines) if _matters(entry)]
    if not _missing(journal, foreign):
        return 0
    with journal.held() as held:
        missing = _missing(journal, foreign)  # somebody else may have done it while we waited
        for entry in missing:
            held.adopt(entry)
        told = [f"the API's journal, line {damage.line}: {damage.reason}" for damage in chain_damages(lines)]
        if told and not any(entry.data.get("damage") == told[0] for entry in held.read()):
            held.append(str(new_id()), JOURNAL, "note", {"damage": told[0]})
    if missing:
        journal.keep()
    return len(missing)


def _missing(journal: Journal, foreign: list[Entry]) -> list[Entry]:
    content = journal.path.read_bytes() if journal.path.exists() else b""
    adopted = {found.decode() for found in ADOPTED.findall(content)}
    return [entry for entry in foreign if entry.hash not in adopted]


def _matters(entry: Entry) -> bool:
    """Whether it belongs here: not what is about that journal itself, nor how the rest looks from there."""
    try:
        datetime.fromisoformat(entry.at)
    except ValueError:
        return False
    if entry.name == OBSERVED:
        return entry.data.get("what") == NODES
    return entry.phase in PHASES and entry.name.startswith(TAKEN)
