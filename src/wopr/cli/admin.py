"""`wopr admin`: administrators of the platform, and the links with which they sign in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, json_document, nothing_to_do, result, say, table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from wopr.core.settings import Settings

app = typer.Typer(help="Make administrators and let them in.", no_args_is_help=True, rich_markup_mode=None)

Result = TypeVar("Result")
Work = Callable[["AsyncSession", "Settings"], Awaitable[Result]]


@app.command("create", epilog="Example: wopr admin create ada@example.com")
def create(
    email: Annotated[str, typer.Argument(help="Address of the person.")],
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a person an administrator, with an account when there is none, and print a link that signs in once."""
    from wopr.accounts.addresses import normalise
    from wopr.accounts.admin import ensure_administrator, is_administrator, one_time_link
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    address = normalise(email)

    async def make(session: "AsyncSession", settings: "Settings") -> tuple[bool, str]:
        administrator = await ensure_administrator(session, address)
        return administrator.changed, await one_time_link(session, settings, address)

    async def look(session: "AsyncSession", _settings: "Settings") -> bool:
        return await is_administrator(session, address)

    if dry_run:
        known = _run(look)
        if as_json:
            json_document({"email": address, "changed": not known, "dry_run": True})
        else:
            result(f"{address} is an administrator already" if known else f"would make {address} an administrator")
        if known:
            nothing_to_do(exit_code)
        return
    with Journal(load_settings().wopr_home).operation("admin.create", email=address):
        changed, link = _run(make)
    if as_json:
        json_document({"email": address, "changed": changed, "link": link})
    else:
        say(f"{address} " + ("is an administrator now." if changed else "was an administrator already."))
        say("This link signs in once, within an hour:")
        result(link)
    if not changed:
        nothing_to_do(exit_code)


@app.command("link", epilog="Example: wopr admin link ada@example.com")
def link(
    email: Annotated[str | None, typer.Argument(help="Address; without it the first administrator.")] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print a link that signs an administrator in once, within an hour."""
    from wopr.accounts.addresses import normalise
    from wopr.accounts.admin import first_administrator, is_administrator, one_time_link
    from wopr.core.errors import NotFound
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal

    async def find(session: "AsyncSession", _settings: "Settings") -> str:
        address = normalise(email) if email is not None else await first_administrator(session)
        if address is None or not await is_administrator(session, address):
            whom = "There is no administrator yet." if address is None else f"{address} is not an administrator."
            raise NotFound(whom, remedy=f"wopr admin create {address or 'ADDRESS'}")
        return address

    address = _run(find)
    if dry_run:
        if as_json:
            json_document({"email": address, "dry_run": True})
        else:
            result(f"would make a link for {address}")
        return
    with Journal(load_settings().wopr_home).operation("admin.link", email=address):
        made = _run(lambda session, settings: one_time_link(session, settings, address))
    if as_json:
        json_document({"email": address, "link": made})
        return
    say(f"This link signs {address} in once, within an hour:")
    result(made)


@app.command("list", epilog="Example: wopr admin list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the administrators, the oldest first."""
    from wopr.accounts.admin import administrators

    async def look(session: "AsyncSession", _settings: "Settings") -> list[str]:
        return await administrators(session)

    found = _run(look)
    if as_json:
        json_document({"administrators": found})
    else:
        table(
            ("address",), [(address,) for address in found], "There is no administrator yet: wopr admin create ADDRESS"
        )


app.command("ls", hidden=True, epilog="Example: wopr admin ls")(list_)


def _run(work: "Work[Result]") -> Result:
    """Do the work in one transaction on the configured database."""
    return asyncio.run(_in_transaction(work))


async def _in_transaction(work: "Work[Result]") -> Result:
    from wopr.core.database_url import database_url
    from wopr.core.db import Database
    from wopr.core.settings import load_settings

    settings = load_settings()
    db = Database(database_url(settings), pool_size=2)
    try:
        async with db.begin() as session:
            return await work(session, settings)
    finally:
        await db.dispose()
