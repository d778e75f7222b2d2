"""The root of the command line: every group in one list, global options, and the last handler of errors."""

import errno
import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from wopr.cli import output
from wopr.core.errors import WoprError
from wopr.delivery.errors import Refused

# Module, name, kind: a group holds a Typer `app`; a command is one function.
GROUPS = (
    "nodes", "bots", "models", "admin", "logbook", "incident", "emulators", "trigger", "migrate", "images", "lock",
    "secrets", "local", "dns", "certs", "machine",
)  # fmt: skip
COMMANDS = (
    "up", "api", "ui", "engine", "status", "smoke", "check", "doctor", "deploy", "rollback", "releases", "deliver",
    "exec", "teardown", "rehearse", "completion",
)  # fmt: skip

# What a path can be that was given as a folder of ours and is none.
UNFIT = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG
)  # fmt: skip

app = typer.Typer(
    name="wopr",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Host AI bots for paying customers: run, look after and repair the whole business.\n\n"
    "Start with `wopr up`, which runs everything on this machine.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.result(version("wopr"))
        raise typer.Exit


@app.callback()
def options(
    color: Annotated[str, typer.Option(help="auto, always or never; NO_COLOR is obeyed too.")] = "auto",
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Options of every command."""
    if color not in ("auto", "always", "never"):
        raise typer.BadParameter("choose auto, always or never", param_hint="--color")
    output.choose_color(color)


def build(only: str = "") -> TyperGroup:
    """The tree of commands; with `only` no more of it than that group or command, which loads sooner."""
    for name in (only,) if only in GROUPS else () if only else GROUPS:
        app.add_typer(importlib.import_module(f"wopr.cli.{name}").app, name=name)
    for name in (only,) if only in COMMANDS else () if only else COMMANDS:
        module = importlib.import_module(f"wopr.cli.{name}")
        examples, context = getattr(module, "EXAMPLES", None), getattr(module, "CONTEXT", None)
        app.command(name, epilog=examples, context_settings=context)(getattr(module, name))
    tree = typer.main.get_command(app)
    assert isinstance(tree, TyperGroup)
    _tell_whole_sentences(tree)
    return tree


def _tell_whole_sentences(group: TyperGroup) -> None:
    """A list of commands shows the first sentence of each, and not as much of it as fits into one line."""
    for command in group.commands.values():
        first, stop, _ = " ".join((command.help or "").partition("\n\n")[0].split()).partition(". ")
        command.short_help = command.short_help or first + stop.rstrip()
        if isinstance(command, TyperGroup):
            _tell_whole_sentences(command)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. Known errors are written as people need them, never as a trace."""
    try:
        build(_named(sys.argv[1:] if arguments is None else arguments))(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else output.FAILED
    except KeyboardInterrupt:
        return output.INTERRUPTED
    except WoprError as error:
        return _written(error.message, error.remedy, output.REFUSED if isinstance(error, Refused) else output.FAILED)
    except Exception as error:
        from wopr.client.errors import ApiError  # loads the HTTP client, which most commands never need

        if isinstance(error, ApiError):
            return _written(error.message, error.remedy)
        if isinstance(error, OSError) and (remedy := _remedy_of_file(error)):
            return _written(f"{error.filename or 'Writing failed'}: {error.strerror}.", remedy)
        if _is_database_away(error):
            return _written(f"The database can't be reached: {error}", "wopr up, or correct DATABASE_URL")
        raise
    return 0


def _named(arguments: list[str]) -> str:
    """The group or command when it is the first word; empty when all are wanted, for help or for a suggestion."""
    first = arguments[0] if arguments else ""
    return first if first in (*GROUPS, *COMMANDS) else ""


def _remedy_of_file(error: OSError) -> str:
    """What to do about a folder that can't be written; empty when the error is not about a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "df -h  shows which disk is full; make room, and do it again"
    if error.filename and error.errno in UNFIT:
        file = Path(os.fsdecode(error.filename))
        there = shlex.quote(str(file if file.exists() else file.parent))
        return f"ls -ld {there}  or take another folder: WOPR_HOME, or wopr up --home"
    return ""


def _is_database_away(error: Exception) -> bool:
    """Whether PostgreSQL was not there or let nobody in. Its libraries are asked only when something loaded them."""
    if "asyncpg" not in sys.modules:
        return False
    import asyncpg
    from sqlalchemy.exc import InterfaceError, OperationalError

    refused = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
    away = (OperationalError, InterfaceError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)
    return isinstance(error, (*away, *refused, OSError, TimeoutError))


def _written(message: str, remedy: str, code: int = output.FAILED) -> int:
    try:
        output.fail(message, remedy=remedy, code=code)
    except typer.Exit as end:
        return end.exit_code
