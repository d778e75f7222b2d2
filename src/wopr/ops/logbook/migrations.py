"""Migrations of the database as the journal tells them: from where to where, guarded by which dump, how they ended."""

from collections.abc import Sequence

from wopr.ops.entry import Entry
from wopr.ops.logbook.deeds import Deed, deed_section, deeds
from wopr.ops.logbook.text import HEADER, ROWS_MAX, SECTIONS_MAX, facts, newest, span, table, when

FROM, TO = ("database_at", "from", "before"), ("code_at", "to", "head", "after")
PART_OF_A_RELEASE = ("migrat", "dump")


def migrations_page(entries: Sequence[Entry]) -> str:
    """MIGRATIONS.md: those run by themselves, and the steps of releases that were about the database."""
    alone = deeds(entries, "migrate")
    head = f"# WOPR Migrations\n\n{HEADER}"
    within = [
        (deed, entry)
        for deed in deeds(entries, "deploy", "rollback")
        for entry in deed.steps
        if any(word in str(entry.data.get("step", "")).lower() for word in PART_OF_A_RELEASE)
    ]
    if not alone and not within:
        return f"{head}\nNo migration was recorded yet.\n"
    parts = [head]
    if alone:
        rows = [(when(d.started_at), d.name, _first(d, FROM), _first(d, TO), span(d.seconds), d.outcome) for d in alone]
        parts.append(table(("Time (UTC)", "What", "From", "To", "Duration", "Outcome"), newest(rows, ROWS_MAX)))
    if within:
        told = [
            (when(entry.at), deed.get("release") or "–", entry.data.get("step", ""), _seen(entry))
            for deed, entry in within
        ]
        parts.append(
            "## As part of releases\n\n" + table(("Time (UTC)", "Release", "Step", "Seen"), newest(told, ROWS_MAX))
        )
    parts += [deed_section(f"{when(d.started_at)} {d.name}", d, ("seconds",)) for d in newest(alone, SECTIONS_MAX)]
    return "\n".join(parts)


def _first(deed: Deed, names: Sequence[str]) -> str:
    return next((deed.get(name) for name in names if deed.get(name)), "–")


def _seen(entry: Entry) -> str:
    return facts(entry.data, ("step",)).replace("\n- ", "; ").removeprefix("- ")
