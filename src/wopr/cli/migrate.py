"""`wopr migrate`: apply pending migrations before a server serves."""

import asyncio

import typer

from wopr.cli import output
from wopr.cli.output import (
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    json_document,
    result,
)

app = typer.Typer(help="Show and apply database migrations.", no_args_is_help=True, rich_markup_mode=None)


@app.command("status", epilog="Example: wopr migrate status --json")
def status(as_json: JsonOption = False) -> None:
    """Show where the database stands and what this code needs."""
    at, head = asyncio.run(_standing())
    if as_json:
        json_document({"database": at, "code": head, "pending": at != head})
    else:
        result(
            f"database at {at or 'nothing'}, code at {head}: " + ("up to date" if at == head else "migrations pending")
        )


@app.command("apply", epilog="Example: wopr migrate apply --dry-run")
def apply(
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Apply all pending migrations in order. Nothing to do is success."""
    from wopr.core.settings import database_url, load_settings
    from wopr.migrations.run import upgrade
    from wopr.ops.journal import Journal

    settings = load_settings()
    stages = output.progress(progress, as_json=as_json)
    at, head = asyncio.run(_standing())
    if at != head and not dry_run:
        with (
            stages.stage("", f"migrate from {at or 'nothing'} to {head}", keep=False),
            Journal(settings.wopr_home).operation("migrate.apply", database_at=at, code_at=head),
        ):
            asyncio.run(upgrade(database_url(settings)))
    if as_json:
        json_document({"from": at, "to": head, "applied": at != head and not dry_run})
    elif at == head:
        result(f"nothing to do: the database stands at {head}")
    else:
        result(f"{'would migrate' if dry_run else 'migrated'} from {at or 'nothing'} to {head}")
    if at == head:
        output.nothing_to_do(exit_code)


async def _standing() -> tuple[str | None, str]:
    from wopr.core.db import Database
    from wopr.core.settings import database_url, load_settings
    from wopr.migrations.head import head_revision

    db = Database(database_url(load_settings()), pool_size=2)
    try:
        return await db.revision(), head_revision()
    finally:
        await db.dispose()
