"""`wopr exec`: a command of ours where the platform and its database are, from wherever the operator sits."""

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wopr.cli import output
from wopr.cli.installation import Where
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption
from wopr.core.errors import NotConfigured
from wopr.delivery.errors import Refused

if TYPE_CHECKING:
    from wopr.delivery.hosts import Host

EXAMPLES = "Examples: wopr exec nodes list | wopr exec --host root@api.example.com nodes provision --dry-run"
# Everything after the command's first word is that command's own.
CONTEXT = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@shared
def exec(
    where: Where,
    words: Annotated[list[str], typer.Argument(help="The command with its options, as after `wopr`.")],
    dry_run: DryRunOption = False,
) -> None:
    """Run another command in the API's container of the release that serves: those that need its database.

    Its exit code is the result. Options of this command stand before the other one: wopr exec --host … nodes list.
    """
    if not where.host and not dry_run:
        _become(asyncio.run(_command(where, words)))
    elif code := asyncio.run(_there(where, words, dry_run=dry_run)):
        raise typer.Exit(code)


async def _command(where: Where, words: Sequence[str], host: "Host | None" = None) -> list[str]:
    """The command line on the installation's machine; Refused where nothing serves."""
    from wopr.delivery.release import read_state

    host = host or where.machine()
    place = await where.place(host)
    active = (await read_state(host, place)).active
    if active is None:
        raise Refused(f"Nothing is released in {place.dir} yet.", remedy="wopr deploy")
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    return ["docker", "exec", "-i", *terminal, place.container(f"api-{active.slot}"), "wopr", *words]


async def _there(where: Where, words: Sequence[str], *, dry_run: bool) -> int:
    """Run it on another machine, or tell what would be run."""
    from wopr.delivery.hosts import SshHost

    host = where.machine()
    try:
        command = await _command(where, words, host)
        if isinstance(host, SshHost) and not dry_run:
            return await host.attach(command)
        output.result(f"{host.describe()}: {shlex.join(command)}")
        return 0
    finally:
        await host.close()


def _become(command: Sequence[str]) -> NoReturn:
    """Be that program from here on: the terminal and its signals are its own."""
    program = shutil.which(command[0])
    if program is None:
        remedy = "apt-get install docker.io, or say where it runs: --host"
        raise NotConfigured("Docker is not installed here.", remedy=remedy)
    os.execv(program, list(command))  # noqa: S606 - no shell is wanted
