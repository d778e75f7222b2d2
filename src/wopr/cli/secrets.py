"""`wopr secrets`: which secrets an installation has, what each is for, how old it is; and new ones. Never a value."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.installation import DIR, Where
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, JsonOption, YesOption

if TYPE_CHECKING:
    from wopr.delivery.rotate import Rotated
    from wopr.ops.journal import Journal

app = typer.Typer(help="Which secrets there are, and how old.", no_args_is_help=True, rich_markup_mode=None)
DAY_SECONDS = 86400
# What to know before one is changed, beyond what the runbook says of it.
ROTATION = {
    "BETTER_AUTH_SECRET": "wopr secrets rotate",
    "PLATFORM_SECRET": "wopr secrets rotate",
    "GPU_NODE_SECRET": "wopr secrets rotate",
    "POSTGRES_PASSWORD": "changed in .env alone it locks the API out: first ALTER ROLE wopr PASSWORD",
}


@app.command("ls", hidden=True, epilog="Example: wopr secrets ls")
@app.command(
    "list",
    epilog="Examples: wopr secrets list --dir /root/wopr-platform --json | wopr secrets list --host root@example.com",
)
def list_command(
    folder: Annotated[
        str, typer.Option("--dir", help="Folder of the installation; default: WOPR_HOME, or that of this machine.")
    ] = "",
    host: Annotated[str, typer.Option("--host", help="user@name[:port] over SSH; the installation is there.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the secrets with their purpose, their age and how to rotate them. A value is never read out."""
    if host:
        where = Where(folder or DIR, host)
        rows = inventory(where.journal(), asyncio.run(_settings_there(where)))
    else:
        rows = inventory(_journal(folder))
    if as_json:
        output.json_document({"secrets": rows})
        return
    cells = [(r["name"], "set" if r["set"] else "–", r["purpose"], _age(r), r["notes"]) for r in rows]
    output.table(("secret", "", "purpose", "changed", "notes"), cells, "")


@app.command("rotate", epilog="Example: wopr secrets rotate BETTER_AUTH_SECRET --host root@api.example.com")
@shared
def rotate_command(
    secret: Annotated[
        str, typer.Argument(metavar="NAME", help="BETTER_AUTH_SECRET, PLATFORM_SECRET or GPU_NODE_SECRET.")
    ],
    where: Where,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Make no new one; forget the old ones behind the one that is used.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a new secret into .env. Old ones stay valid until --drop-old; it takes effect with `wopr deploy`."""
    from wopr.delivery.rotate import Wish, require_rotatable, rotate

    require_rotatable(secret)
    machine = where.machine()
    if not dry_run:
        what = "Forget the old values" if drop_old else "Make a new value"
        output.confirm(f"{what} of {secret} on {machine.describe()}?", yes=yes)

    async def run() -> "Rotated | None":
        try:
            place = await where.place(machine)
            wish, waiting = Wish(secret, drop_old), None if as_json else output.say
            return None if dry_run else await rotate(machine, place, where.journal(), wish, waiting)
        finally:
            await machine.close()

    done = asyncio.run(run())
    if as_json:
        output.json_document(
            {"dry_run": dry_run, "name": secret, **({"kept": done.kept, "dropped": done.dropped} if done else {})}
        )
    elif done is None:
        output.result(f"would change {secret} in {where.dir}/.env on {machine.describe()}")
    else:
        kept = f"{done.kept} old kept behind it" if done.kept else "no old one is accepted any more"
        output.result(f"{secret} changed ({kept}); it takes effect with: {where.paste('wopr deploy')}")


def inventory(journal: "Journal", there: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Every secret that is set or that the platform knows, by name; `since` is when it was first seen as it is now.

    `there` are the settings of an installation on another host, whose logbook is the operator's own.
    """
    from wopr.ops.logbook.facts import SECRETS as KNOWN
    from wopr.ops.logbook.observed import SECRETS, sights
    from wopr.ops.observed import observe_secrets
    from wopr.ops.secrets import read_variables, secret_variables, variable_files

    observe_secrets(journal, there)
    present, _ = sights(journal.read(), SECRETS, "mark")
    since = {sight.name: sight.since for sight in present}
    variables = there
    if variables is None:
        variables = {
            name: value for file in variable_files(journal.home) for name, value in read_variables(file).items()
        }
    given = {*secret_variables(variables), *(name for name, _, _ in KNOWN if variables.get(name))}
    given |= set(since) if there is None else set()
    told = {name: (purpose, notes) for name, purpose, notes in KNOWN}
    names = [*told, *sorted(given - set(told))]
    return [
        {
            "name": name,
            "set": name in given,
            "purpose": told.get(name, ("", ""))[0],
            "since": since.get(name) if name in given else None,
            "notes": "; ".join(note for note in (told.get(name, ("", ""))[1], ROTATION.get(name, "")) if note),
        }
        for name in names
    ]


async def _settings_there(where: Where) -> dict[str, str]:
    """The `.env` of an installation on another host."""
    from wopr.delivery.commands import parsed_env
    from wopr.delivery.errors import HostFailed

    host = where.machine()
    try:
        place = await where.place(host)
        text = await host.read(place.env)
        if text is None:
            raise HostFailed(
                f"{place.env} is not there on {host.describe()}.",
                remedy="Give the right --dir, or make it: wopr deploy",
            )
        return parsed_env(text.decode("utf-8", "replace"))
    finally:
        await host.close()


def _journal(folder: str) -> "Journal":
    """The journal of the folder that is given, else of WOPR_HOME where something was done, else of the VPS's folder."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    if folder:
        return Journal(Path(folder).expanduser().resolve())
    here = Journal(load_settings().wopr_home)
    return here if here.home.exists() or not Path(DIR).is_dir() else Journal(Path(DIR))


def _age(row: dict[str, Any]) -> str:
    """How long the value has been as it is, as far as anybody looked."""
    if not row["since"]:
        return "not known" if row["set"] else ""
    days = (datetime.now(UTC) - datetime.fromisoformat(row["since"])).total_seconds() / DAY_SECONDS
    return f"{days:.0f} days ago" if days >= 1 else "today"
