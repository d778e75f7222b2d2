"""`wopr lock`: who changes an installation now, and taking it from somebody who is gone."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from wopr.cli import output
from wopr.cli.installation import Where
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, YesOption

if TYPE_CHECKING:
    from wopr.delivery.lock import Seen

app = typer.Typer(help="Who changes an installation now.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show", epilog="Example: wopr lock show --host root@api.example.com")
@shared
def show(where: Where, as_json: JsonOption = False) -> None:
    """Show who holds the lock, since when, and when it was last heard of."""
    _tell(asyncio.run(_seen(where)), as_json=as_json)


@app.command("release", epilog="Example: wopr lock release --yes")
@shared
def release(
    where: Where,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take the lock from its holder, who can change nothing from then on. A dead holder's lock frees itself in 15 s."""
    seen = asyncio.run(_seen(where))
    if seen.held is None or not seen.held.owner or dry_run:
        _tell(seen, as_json=as_json)
        if seen.held is None or not seen.held.owner:
            output.nothing_to_do(exit_code)
        return
    output.confirm(f"{seen.held.owner} runs `{seen.held.operation}`. Take the lock from it?", yes=yes)
    before = asyncio.run(_release(where))
    if as_json:
        output.json_document({"released": asdict(before.held) if before.held else None})
    else:
        output.result(f"released: {seen.held.owner} can change nothing more")


async def _seen(where: Where) -> "Seen":
    from wopr.delivery.lock import show as look

    host = where.machine()
    try:
        return await look(host, await where.place(host))
    finally:
        await host.close()


async def _release(where: Where) -> "Seen":
    from wopr.delivery.lock import release as take

    host = where.machine()
    try:
        place = await where.place(host)
        with where.journal().operation("lock.release") as operation:
            seen = await take(host, place)
            operation.outcome.update(owner=seen.held.owner if seen.held else "")
        return seen
    finally:
        await host.close()


def _tell(seen: "Seen", *, as_json: bool) -> None:
    held = seen.held if seen.held and seen.held.owner else None
    if as_json:
        output.json_document({"held": asdict(held) if held else None, "age_seconds": seen.age_seconds})
    elif held is None:
        output.result("free")
    else:
        output.result(f"{held.owner} runs `{held.operation}` since {held.since}; heard of {seen.age_seconds:.0f} s ago")
