"""What runs in the container `certificates`: `python -m wopr.delivery.certificate_agent keep|fetch|challenge …`.

A program of its own and not part of the command line, since people have no use for it: they have `wopr certs`. certbot
runs it with `challenge` for each record that it wants to be there, and with `challenge --remove` afterwards.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

from wopr.core.environment import environment
from wopr.core.errors import WoprError
from wopr.core.settings import Settings, load_settings
from wopr.core.stop import Stop
from wopr.delivery.certificate_loop import keep, look, renew, settings_of
from wopr.delivery.certificates import challenge, unchallenge
from wopr.delivery.place import NAME, Place


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = _parser().parse_args(arguments)
    place, settings = Place(os.path.realpath(given.dir), given.name), load_settings()
    try:
        asyncio.run(_run(given, place, settings))
    except WoprError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"  fix: {error.remedy}\n" if error.remedy else ""))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", required=True, help="folder of the installation")
    shared.add_argument("--name", default=NAME, help="name of the installation")
    parser = argparse.ArgumentParser(prog="certificate_agent", description="Fetches the installation's certificate.")
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep", parents=[shared], help="look every hour and renew in time, for ever")
    keeping.add_argument("--once", action="store_true", help="look once, and end")
    fetching = commands.add_parser("fetch", parents=[shared], help="fetch one now")
    fetching.add_argument("--reason", default="asked for", help="why, for the journal")
    proving = commands.add_parser("challenge", parents=[shared], help="set the record that certbot's environment names")
    proving.add_argument("--remove", action="store_true", help="remove it instead")
    return parser


async def _run(given: argparse.Namespace, place: Place, settings: Settings) -> None:
    match given.command:
        case "fetch":
            await renew(place, settings, given.reason, _tell)
        case "challenge":
            await _challenge(place, settings, remove=given.remove)
        case _ if given.once:
            await look(place, settings, _tell)
        case _:
            await _keep(place, settings)


async def _keep(place: Place, settings: Settings) -> None:
    running = asyncio.ensure_future(keep(place, settings, _tell))
    stop = Stop(running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    stop.pass_on()


async def _challenge(place: Place, settings: Settings, *, remove: bool) -> None:
    edge, told = settings_of(place, settings), environment()
    name, value = told["CERTBOT_DOMAIN"], told["CERTBOT_VALIDATION"]
    if remove:
        await unchallenge(edge, name, value)
    else:
        await challenge(edge, name, value, more=int(told.get("CERTBOT_REMAINING_CHALLENGES") or 0))


def _tell(what: str, detail: str) -> None:
    sys.stdout.write(f"{what}: {detail}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
