"""`wopr migrate`: apply pending migrations before a server serves, after reading what they would do.

Three doors, one guard: this machine's database (`apply`), an installation on a host (`--dir`, `--host`: with a verified
dump first), and the SQL itself (`--sql`), which is how a release asks an image for its migrations.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.installation import DIR, Where
from wopr.cli.options import shared
from wopr.cli.output import (
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    json_document,
    result,
)

if TYPE_CHECKING:
    from wopr.cli.progress import Progress

app = typer.Typer(
    help="Show, judge and apply database migrations. Without a command: as `apply`.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

AllowOption = Annotated[
    bool, typer.Option("--allow-destructive", help="Also apply what loses data or breaks the running release.")
]


@app.callback(
    epilog="Examples: wopr migrate | wopr migrate --plan --dir /root/wopr-platform --host root@api.example.com"
)
def migrate(
    context: typer.Context,
    sql: Annotated[bool, typer.Option("--sql", help="Write the migrations' SQL; needs no database.")] = False,
    after: Annotated[str, typer.Option("--from", help="With --sql: only migrations after this revision.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Show what is pending, judged, and change nothing.")] = False,
    folder: Annotated[str, typer.Option("--dir", help="Folder of an installation: dump, judge, migrate there.")] = "",
    host: Annotated[str, typer.Option("--host", help="Its machine, user@name, by SSH; empty: this one.")] = "",
    name: Annotated[str, typer.Option("--name", help="Its name on a shared engine; default: wopr.")] = "",
    image: Annotated[str, typer.Option("--image", help="Image whose migrations run; empty: of its release.")] = "",
    allow_destructive: AllowOption = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show, judge and apply database migrations. Without a command: as `apply`."""
    if context.invoked_subcommand:
        return
    if sql:
        _write_sql(after or None, as_json=as_json)
        return
    stages = output.progress(progress, as_json=as_json)
    if folder or host:
        from wopr.cli.migrate_installation import Wish, migrate_installation

        where = Where(folder or DIR, host, name)
        done = migrate_installation(where, Wish(image, allow_destructive, dry_run or plan), stages)
    else:
        done = _apply(stages, allow_destructive=allow_destructive, dry_run=dry_run or plan)
    _tell(done, plan=plan, as_json=as_json)
    if done["from"] == done["to"]:
        output.nothing_to_do(exit_code)


@app.command("status", epilog="Example: wopr migrate status --json")
def status(as_json: JsonOption = False) -> None:
    """Show where the database stands and what this code needs."""
    at, head = asyncio.run(_standing())
    pending = at is None or at < head
    if as_json:
        json_document({"database": at, "code": head, "pending": pending})
    else:
        word = "migrations pending" if pending else "up to date" if at == head else "the database is ahead of this code"
        result(f"database at {at or 'nothing'}, code at {head}: {word}")


@app.command("apply", epilog="Example: wopr migrate apply --dry-run")
def apply(
    allow_destructive: AllowOption = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Apply all pending migrations in order. Nothing to do is success; what would lose data is refused (3)."""
    stages = output.progress(progress, as_json=as_json)
    done = _apply(stages, allow_destructive=allow_destructive, dry_run=dry_run)
    _tell(done, plan=False, as_json=as_json)
    if done["from"] == done["to"]:
        output.nothing_to_do(exit_code)


@app.command("dump", epilog="Examples: wopr migrate dump | wopr migrate dump --host root@api.example.com --json")
@shared
def dump(
    where: Where,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Dump an installation's database, restore the dump beside it and compare; changes nothing else."""
    from wopr.cli.migrate_installation import dump_installation

    done = dump_installation(where, output.progress(progress, as_json=as_json), dry_run=dry_run)
    if as_json:
        json_document(done)
    else:
        result(_dumped(done) if done["path"] else f"would dump the database, which stands at {done['revision']}")


def _dumped(dump: Mapping[str, Any]) -> str:
    return f"dumped {dump['rows']} rows of {dump['tables']} tables to {dump['path']}, restored and compared"


def _write_sql(after: str | None, *, as_json: bool) -> None:
    from wopr.migrations.head import head_revision

    head = head_revision()
    if after == head:  # as in most releases, which wait for this: known without loading what migrates
        document: dict[str, Any] = {"from": after, "head": head, "ahead": False, "revisions": []}
    else:
        from wopr.migrations.run import sql_document

        document = sql_document(after)
    if as_json:
        json_document(document)
        return
    for entry in document["revisions"]:
        result(f"-- {entry['revision']}\n")
        result(f"-- its SQL can't be known: {entry['error']}\n" if entry["error"] else "\n\n".join(entry["statements"]))


def _apply(stages: "Progress", *, allow_destructive: bool, dry_run: bool) -> dict[str, Any]:
    """Migrate the database of the settings."""
    from wopr.cli.migrate_local import judged
    from wopr.core.database_url import database_url
    from wopr.core.settings import load_settings
    from wopr.delivery.migrate import guard
    from wopr.migrations.run import upgrade
    from wopr.ops.journal import Journal

    settings = load_settings()
    at, head = asyncio.run(_standing())
    if at is not None and at >= head:
        return {"from": at, "to": at, "applied": False}
    plan = asyncio.run(judged(database_url(settings), at))
    guard(plan, allow_destructive=allow_destructive or dry_run, cutover=False)
    if not dry_run:
        with (
            stages.stage("", f"migrate from {at or 'nothing'} to {head}", keep=False),
            Journal(settings.wopr_home).operation("migrate.apply", database_at=at, code_at=head),
        ):
            asyncio.run(upgrade(database_url(settings)))
    return {"from": at, "to": head, "applied": not dry_run, "plan": plan.document()}


def _tell(done: Mapping[str, Any], *, plan: bool, as_json: bool) -> None:
    if as_json:
        json_document(done)
        return
    if done["from"] == done["to"]:
        result(f"nothing to do: the database stands at {done['to']}")
        return
    if plan or not done["applied"]:
        for migration in done["plan"]["migrations"]:
            result(f"{migration['revision']}  {migration['kind']}")
            for statement in migration["statements"]:
                if statement["kind"] != "adds":
                    breaks = ", breaks the running release" if statement["breaks_running_release"] else ""
                    result(f"  {statement['kind']}{breaks}: {statement['reason']}\n    {statement['sql']}")
        sys.stdout.flush()
    if dump := done.get("dump"):
        result(_dumped(dump))
    result(f"{'migrated' if done['applied'] else 'would migrate'} from {done['from'] or 'nothing'} to {done['to']}")


async def _standing() -> tuple[str | None, str]:
    from wopr.core.database_url import database_url
    from wopr.core.db import Database
    from wopr.core.settings import load_settings
    from wopr.migrations.head import head_revision

    db = Database(database_url(load_settings()), pool_size=2)
    try:
        return await db.revision(), head_revision()
    finally:
        await db.dispose()
