"""The operator's decisions: what was decided when by whom, why, and what follows from it."""

from collections.abc import Sequence

from wopr.ops.entry import Entry
from wopr.ops.logbook.deeds import Deed, deeds
from wopr.ops.logbook.text import HEADER, facts, plain, table, when

DECISION = "decision"
PARTS = ("context", "decision", "consequences", "alternatives")


def decisions_page(entries: Sequence[Entry]) -> str:
    """DECISIONS.md."""
    taken = deeds(entries, DECISION)
    head = f"# WOPR Decisions\n\n{HEADER}"
    if not taken:
        return f"{head}\nNo decision was recorded yet. `wopr logbook decide` records one.\n"
    numbered = list(enumerate(taken, 1))
    rows = [(number, when(deed.started_at), deed.get("title"), deed.actor) for number, deed in reversed(numbered)]
    parts = [head, table(("No.", "Time (UTC)", "Decision", "By"), rows)]
    parts += [_section(number, deed) for number, deed in reversed(numbered)]
    return "\n".join(parts)


def _section(number: int, deed: Deed) -> str:
    said = "".join(f"\n**{part.capitalize()}:** {deed.get(part)}\n" for part in PARTS if deed.get(part))
    more = facts(deed.data, ("title", *PARTS))
    head = f"## {number}. {plain(deed.get('title'))}\n\n{when(deed.started_at)} UTC, by {plain(deed.actor)}\n"
    return head + said + (f"\n{more}" if more else "")
