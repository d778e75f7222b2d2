"""`wopr logbook`: what was done to this installation, and the proof that nothing of it was changed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli.options import shared
from wopr.cli.output import (
    REFUSED,
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    bad,
    fail,
    good,
    json_document,
    json_line,
    nothing_to_do,
    result,
    say,
    table,
)

if TYPE_CHECKING:
    from wopr.ops.entry import Entry
    from wopr.ops.journal import Journal
    from wopr.ops.logbook import Line

app = typer.Typer(help="Read, render and verify the operations logbook.", no_args_is_help=True, rich_markup_mode=None)
FOLLOW_SECONDS = 0.3
SHOWN_MAX = 50

DirOption = Annotated[
    Path | None, typer.Option("--dir", help="Folder of the installation, as `wopr deploy` has it; default: WOPR_HOME.")
]
ToOption = Annotated[
    Path | None, typer.Option(help="Folder of the pages; default: `logbook` in the installation's folder.")
]


def journal_in(folder: Path | None) -> "Journal":
    """The journal of the installation in `folder`, by default under WOPR_HOME, with what its API journalled apart."""
    from wopr.cli.installation import whole_journal
    from wopr.core.settings import load_settings

    return whole_journal(folder.expanduser().resolve() if folder else load_settings().wopr_home)


@dataclass(frozen=True)
class Filter:
    """Which operations are shown."""

    kind: Annotated[str, typer.Option("--kind", "--name", help="Only operations whose name begins so.")] = ""
    since: Annotated[str, typer.Option(help="Only those that began after: 2h, 7d, 2026-11-23, today.")] = ""
    until: Annotated[str, typer.Option(help="Only those that began before; a date includes its day.")] = ""
    outcome: Annotated[str, typer.Option(help="Only done, failed, unfinished, noted or open ones.")] = ""
    actor: Annotated[str, typer.Option(help="Only those by somebody whose name contains this.")] = ""
    limit: Annotated[int, typer.Option("--limit", "--last", min=1, help="How many at most, the newest.")] = SHOWN_MAX

    def chosen(self, lines: "Sequence[Line]") -> "Sequence[Line]":
        """Those that pass, oldest first."""
        from wopr.cli.moments import moment
        from wopr.ops.logbook.text import instant

        first = moment(self.since, "--since") if self.since else None
        last = moment(self.until, "--until", end=True) if self.until else None
        passing = []
        for line in lines:
            at = instant(line.started_at)
            early = first is not None and (at is None or at < first)
            late = last is not None and (at is None or at > last)
            fits = line.name.startswith(self.kind) and self.actor in line.actor
            if fits and not early and not late and self.outcome in ("", line.outcome):
                passing.append(line)
        return passing[-self.limit :]


@app.command("show", epilog="Example: wopr logbook show --kind deploy --since 7d --outcome failed")
@shared
def show(
    chosen: Filter,
    operation: Annotated[
        str, typer.Option(help="One operation in full, by its id, or the beginning or end of it.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each entry as it is written.")] = False,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show operations, newest last; one that was killed is shown as unfinished."""
    from wopr.ops.logbook import operations

    journal = journal_in(folder)
    entries = journal.read()
    if operation:
        _show_one([e for e in entries if _named(e, operation)], operation, as_json=as_json)
        return
    rows = chosen.chosen(operations(entries))
    if as_json and not follow:
        json_document({"operations": [row.as_json() for row in rows]})
        return
    if as_json:
        for row in rows:
            json_line(row.as_json())
    else:
        cells = [(row.started_at, row.operation[-12:], row.name, row.outcome, row.actor, row.summary) for row in rows]
        table(("started", "id", "operation", "outcome", "by", "what"), cells, "Nothing was recorded yet.")
    if follow:
        _follow(journal, len(entries), chosen.kind, as_json=as_json)


@app.command("verify", epilog="Example: wopr logbook verify && echo intact")
def verify(folder: DirOption = None, to: ToOption = None, as_json: JsonOption = False) -> None:
    """Prove that journal and pages are what was written; exit code 3 when anything was changed, cut off or added.

    Chain and end of the journal, anchors in the commits, the pages against a fresh rendering; and that no secret of
    this installation is in any of them.
    """
    from wopr.ops.proof import damages

    journal = journal_in(folder)
    found = damages(journal, to)
    if as_json:
        json_document({"ok": not found, "problems": [{"line": d.line, "reason": d.reason} for d in found]})
    else:
        for damage in found:
            say(f"{bad('damaged')} {f'line {damage.line} ' if damage.line else ''}{damage.reason}")
        if not found:
            result(f"{len(journal.read())} entries, chain and pages intact")
    if found and not as_json:
        remedy = "Compare it with your backup, or with a clone of the logbook. Pages alone: wopr logbook render"
        fail(f"{journal.path} or its pages are not what was written.", remedy=remedy, code=REFUSED)
    if found:
        raise typer.Exit(REFUSED)


@app.command("render", epilog="Example: wopr logbook render --to docs/ops --no-commit")
def render(
    to: ToOption = None,
    commit: Annotated[bool, typer.Option("--commit/--no-commit", help="Commit the pages to the folder's git.")] = True,
    folder: DirOption = None,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the logbook's pages from the journal, and commit them; the same journal gives the same bytes."""
    from wopr.ops.logbook.history import Kept, keep, outdated

    journal = journal_in(folder)
    place = to or journal.home / "logbook"
    pages, changed = outdated(journal.home, place)
    kept = Kept(place, changed)
    if not dry_run:
        journal.home.mkdir(parents=True, exist_ok=True)
        kept = keep(journal.home, place, commit=commit)
    if as_json:
        document: dict[str, Any] = {"folder": str(place), "pages": sorted(pages), "changed": sorted(kept.written)}
        json_document({**document, "commit": kept.commit, "reason": kept.reason, "dry_run": dry_run})
    else:
        for page in kept.written:
            say(f"{'would write' if dry_run else good('wrote')} {place / page}")
        if kept.commit:
            say(f"committed as {kept.commit}")
        if kept.reason and commit:
            say(kept.reason)
        if not kept.written:
            say(f"nothing to do: the pages under {place} are up to date")
    if not kept.written and not kept.commit:
        nothing_to_do(exit_code)


@dataclass(frozen=True)
class Decision:
    """What a decision consists of besides its title."""

    context: Annotated[str, typer.Option(help="What made it necessary.")] = ""
    decision: Annotated[str, typer.Option(help="What was decided, when the title doesn't say it.")] = ""
    consequences: Annotated[str, typer.Option(help="What follows from it.")] = ""
    alternatives: Annotated[str, typer.Option(help="What was not chosen, and why.")] = ""


@app.command("decide", epilog="Example: wopr logbook decide 'One VPS until May' --context 'Cost' --alternatives 'Two'")
@shared
def decide(
    title: Annotated[str, typer.Argument(help="The decision in one line.")],
    parts: Decision,
    folder: DirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Record a decision of yours in DECISIONS.md."""
    given = {name: text for name, text in vars(parts).items() if text}
    _write_note(folder, "decision", {"title": title, **given}, dry_run=dry_run, as_json=as_json)


@app.command("note", epilog="Example: wopr logbook note 'Moved the DNS zone to another account'")
def note(
    text: Annotated[str, typer.Argument(help="What was done or seen.")],
    kind: Annotated[str, typer.Option(help="What it is about: note, decision, backup, provision, …")] = "note",
    node: Annotated[str, typer.Option(help="The node that it is about; it is shown on the node's page too.")] = "",
    folder: DirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Record what was done by hand."""
    if kind == "incident":
        fail("Incidents have commands of their own.", remedy="wopr incident open", code=2)
    data = {"title" if kind == "decision" else "text": text}
    if node:
        data["node"], kind = node, "node.note" if kind == "note" else kind
    _write_note(folder, kind, data, dry_run=dry_run, as_json=as_json)


def _write_note(folder: Path | None, kind: str, data: dict[str, str], *, dry_run: bool, as_json: bool) -> None:
    from wopr.core.ids import new_id

    journal = journal_in(folder)
    identifier = str(new_id())
    if not dry_run:
        journal.append(identifier, kind, "note", data)
        journal.keep()
    if as_json:
        json_document({"operation": "" if dry_run else identifier, "name": kind, "data": data, "dry_run": dry_run})
    else:
        say(f"{'would record' if dry_run else good('recorded')} {kind}: {next(iter(data.values()))}")


def _show_one(entries: "Sequence[Entry]", wanted: str, *, as_json: bool) -> None:
    from wopr.ops.logbook import operations

    found = operations(entries)
    if len(found) != 1:
        what = "More than one operation is" if found else "There is no operation"
        fail(f"{what} {wanted!r}.", remedy="wopr logbook show --json lists the ids.")
    line = found[0]
    if as_json:
        told = [{"at": entry.at, "phase": entry.phase, "data": entry.data} for entry in entries]
        json_document({**line.as_json(), "entries": told})
        return
    say(f"{line.name} {line.outcome}, by {line.actor}")
    table(("at", "phase", "what"), [(e.at, e.phase, _told(e)) for e in entries], "")


def _named(entry: "Entry", wanted: str) -> bool:
    return entry.operation.startswith(wanted) or entry.operation.endswith(wanted)


def _follow(journal: "Journal", seen: int, kind: str, *, as_json: bool) -> None:
    """Each entry as it is written, until Ctrl-C."""
    size = -1
    while True:
        now = journal.path.stat().st_size if journal.path.exists() else 0
        if now != size:
            entries = journal.read()
            for entry in entries[seen:]:
                if not entry.name.startswith(kind):
                    continue
                if as_json:
                    json_line({"at": entry.at, "operation": entry.operation, "name": entry.name, "phase": entry.phase,
                               "actor": entry.actor, "data": entry.data})  # fmt: skip
                else:
                    result(f"{entry.at}  {entry.name}  {entry.phase}  {_told(entry)}".rstrip())
            seen, size = max(seen, len(entries)), now
        time.sleep(FOLLOW_SECONDS)


def _told(entry: "Entry") -> str:
    from wopr.ops.logbook.text import facts

    step = str(entry.data.get("step", ""))
    more = facts(entry.data, ("step",)).strip().replace("\n- ", ", ").removeprefix("- ")
    return f"{step}: {more}" if step and more else step or more
