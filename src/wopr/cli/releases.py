"""`wopr releases`: what was released, what became of it, and what serves now."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import Where
from wopr.cli.options import shared
from wopr.cli.output import JsonOption

if TYPE_CHECKING:
    from wopr.delivery.plan import Container
    from wopr.delivery.quarantine import Entry
    from wopr.delivery.release import Part, Release, State

EXAMPLES = "Examples: wopr releases --json --dir /root/wopr-platform | wopr releases --host root@api.example.com"
SHOWN_MAX = 20
DIGEST_CHARACTERS = 12


@shared
def releases(
    where: Where,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest.")] = SHOWN_MAX,
    as_json: JsonOption = False,
) -> None:
    """Show releases, newest last, with what became of each; the one that serves is marked, by what really runs."""
    found, state, running, quarantined = asyncio.run(_read(where))
    active = state.active.release if state.active else None
    if as_json:
        output.json_document(
            {
                "releases": [asdict(one) for one in found[-limit:]],
                "serving": active,
                "containers": [asdict(one) for one in running],
                "quarantine": [asdict(one) for one in quarantined],
            }
        )
        return
    rows = [_row(one, state.active, running) for one in found[-limit:]]
    output.table(("", "release", "at", "verdict", "platform", "by", "why"), rows, "Nothing was released here yet.")


async def _read(where: Where) -> "tuple[list[Release], State, list[Container], list[Entry]]":
    from wopr.delivery.look import containers
    from wopr.delivery.quarantine import read_quarantine
    from wopr.delivery.release import read_releases, read_state

    host = where.machine()
    try:
        place = await where.place(host)
        found, state = await read_releases(host, place), await read_state(host, place)
        return found, state, await containers(host, place) if found else [], await read_quarantine(host, place)
    finally:
        await host.close()


def _row(release: "Release", active: "Part | None", running: "list[Container]") -> tuple[object, ...]:
    serving = active is not None and release.number == active.release
    # Containers that a rollback started again bear the number of the release that they were made for.
    here = [one for one in running if active and one.slot == active.slot]
    mine = here if serving else [one for one in running if one not in here and one.release == release.number]
    runs = any(one.runs for one in mine)
    mark = ("serves" if runs else "down") if serving else "runs" if runs else ""
    name, sign, digest = release.platform.rpartition("sha256:")
    restored = f"release {release.restores} again" if release.restores else ""
    platform = f"{name}{sign}{digest[:DIGEST_CHARACTERS]}"
    why = release.reason or restored
    return (mark, release.number, release.created_at, release.verdict, platform, release.created_by, why[:60])
