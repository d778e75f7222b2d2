"""`wopr logbook`: what was done to this installation, and the proof that nothing of it was changed."""

from pathlib import Path
from typing import Annotated

import typer

from wopr.cli.output import (
    REFUSED,
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    bad,
    fail,
    good,
    json_document,
    nothing_to_do,
    result,
    say,
    table,
)

app = typer.Typer(help="Read, render and verify the operations logbook.", no_args_is_help=True, rich_markup_mode=None)


def _home() -> Path:
    from wopr.core.settings import load_settings

    return load_settings().wopr_home


@app.command("show", epilog="Example: wopr logbook show --name nodes.register --last 20")
def show(
    name: Annotated[str, typer.Option(help="Only operations whose name begins so.")] = "",
    last: Annotated[int, typer.Option(min=1, help="How many operations at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show operations, newest last; one that was killed is shown as unfinished."""
    from wopr.ops.journal import Journal
    from wopr.ops.logbook import operations

    rows = [row for row in operations(Journal(_home()).read()) if row.name.startswith(name)][-last:]
    if as_json:
        json_document({"operations": [row.as_json() for row in rows]})
        return
    cells = [(row.started_at, row.name, row.outcome, row.actor, row.summary) for row in rows]
    table(("started", "operation", "outcome", "by", "what"), cells, "Nothing was recorded yet.")


@app.command("verify", epilog="Example: wopr logbook verify && echo intact")
def verify(as_json: JsonOption = False) -> None:
    """Recompute the hash of every entry; exit code 3 when one was changed, removed or moved."""
    from wopr.ops.journal import Journal

    journal = Journal(_home())
    damages = journal.verify()
    if as_json:
        json_document({"ok": not damages, "problems": [{"line": d.line, "reason": d.reason} for d in damages]})
    else:
        for damage in damages:
            say(f"{bad('damaged')} line {damage.line} {damage.reason}")
        if not damages:
            result(f"{len(journal.read())} entries, chain intact")
    if damages and not as_json:
        fail(f"{journal.path} was changed after it was written.", remedy="Compare it with your backup.", code=REFUSED)
    if damages:
        raise typer.Exit(REFUSED)


@app.command("render", epilog="Example: wopr logbook render --to docs/ops")
def render(
    to: Annotated[Path | None, typer.Option(help="Folder to write to; default: `logbook` under WOPR_HOME.")] = None,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the logbook's pages from the journal; the same journal gives the same bytes."""
    from wopr.ops.journal import Journal
    from wopr.ops.logbook import render as rendered

    home = _home()
    folder = to or home / "logbook"
    pages = rendered(Journal(home).read())
    changed = sorted(page for page, text in pages.items() if _written(folder / page) != text)
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        for page in changed:
            (folder / page).write_text(pages[page], encoding="utf-8")
    if as_json:
        json_document({"folder": str(folder), "pages": sorted(pages), "changed": changed, "dry_run": dry_run})
    else:
        for page in changed:
            say(f"{'would write' if dry_run else good('wrote')} {folder / page}")
        if not changed:
            say(f"nothing to do: the pages under {folder} are up to date")
    if not changed:
        nothing_to_do(exit_code)


def _written(page: Path) -> str | None:
    """What stands in a page now; None when there is none."""
    return page.read_text(encoding="utf-8") if page.exists() else None
