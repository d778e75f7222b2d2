"""How every command speaks: results on stdout, everything else on stderr, errors with their remedy, fixed exit codes.

Exit codes: 0 done or nothing to do, 1 failed, 2 wrong usage, 3 refused by a check, 4 nothing to do when `--exit-code`
was given, 130 interrupted.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer

from wopr.cli.progress import Progress as Progress
from wopr.cli.progress import ProgressKind as ProgressKind
from wopr.cli.terminal import DIM, rewritable
from wopr.cli.terminal import bad as bad
from wopr.cli.terminal import bold as bold
from wopr.cli.terminal import choose_color as choose_color
from wopr.cli.terminal import colored as colored
from wopr.cli.terminal import dim as dim
from wopr.cli.terminal import good as good
from wopr.cli.terminal import paint as paint
from wopr.cli.terminal import warn as warn
from wopr.cli.terminal import write_error as write_error

FAILED, USAGE, REFUSED, NOTHING_TO_DO, INTERRUPTED = 1, 2, 3, 4, 130


JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout and nothing else.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
ProgressOption = Annotated[
    ProgressKind,
    typer.Option("--progress", help="How to tell on stderr how far it is; quiet: nothing but errors."),
]
ExitCodeOption = Annotated[bool, typer.Option("--exit-code", help="End with 4 instead of 0 when nothing was to do.")]

# The stream that a progress was chosen for, and the progress: it says how everything else is written there.
_speaking: tuple[TextIO, Progress] | None = None


def progress(kind: ProgressKind, machine: str = "", *, as_json: bool = False) -> Progress:
    """The stages of this command, told as `--progress` asks; `machine` is the one meant where a stage names none.

    Auto is tty on a terminal and else plain, but quiet beside `--json`. From here on `say` is left out where only
    errors (quiet) or only JSON lines are wanted.
    """
    global _speaking
    if kind is ProgressKind.AUTO:
        kind = ProgressKind.QUIET if as_json else ProgressKind.TTY if rewritable() else ProgressKind.PLAIN
    made = Progress(kind, machine)
    _speaking = (sys.stderr, made)
    return made


def say(text: str = "") -> None:
    """A line for the person at the terminal; never part of the result, and left out by --progress quiet and json."""
    if _kind() not in (ProgressKind.QUIET, ProgressKind.JSON):
        _make_room()
        write_error(text)


def result(text: str) -> None:
    """A line of the command's result."""
    _make_room()
    typer.echo(text, color=colored(sys.stdout))


def json_document(value: Any) -> None:  # whatever json can write
    """The result as one JSON document."""
    _make_room()
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def json_line(value: Mapping[str, Any]) -> None:
    """One line of JSON for a command that follows."""
    _make_room()
    typer.echo(json.dumps(value, ensure_ascii=False, default=str))
    sys.stdout.flush()


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """An aligned table on stdout; `empty` on stderr when there is nothing to show."""
    lines = [[str("" if cell is None else cell) for cell in row] for row in rows]
    if not lines:
        say(empty)
        return
    widths = [max(len(header), *(len(line[i]) for line in lines)) for i, header in enumerate(headers)]

    def aligned(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    head = aligned([header.upper() for header in headers])
    result(paint(head, DIM, sys.stdout))
    for line in lines:
        result(aligned(line))


def fail(message: str, *, remedy: str = "", log: str = "", code: int = FAILED) -> NoReturn:
    """End with an error: what failed, where the log is, and last the command that mends it."""
    if _speaking and _speaking[0] is sys.stderr:
        _speaking[1].fail_open()
    complain(message, remedy=remedy, log=log)
    raise typer.Exit(code)


def complain(message: str, *, remedy: str = "", log: str = "") -> None:
    """Write an error and go on: as lines, or with --progress json as one line of JSON."""
    _make_room()
    if tells_json():
        parts = {"message": message, "log": log, "fix": remedy}
        told = {"event": "error", **{name: value for name, value in parts.items() if value}}
        write_error(json.dumps(told, ensure_ascii=False))
        return
    write_error(f"{bad('error:')} {message}")
    if log:
        write_error(f"  log: {log}")
    if remedy:
        write_error(f"  fix: {remedy}")


def tells_json() -> bool:
    """Whether every line on stderr has to be JSON."""
    return _kind() is ProgressKind.JSON


def nothing_to_do(exit_code: bool) -> None:
    """The end of an idempotent command that found everything as it should be: 0, or 4 with `--exit-code`."""
    if exit_code:
        raise typer.Exit(NOTHING_TO_DO)


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool, flag: str = "--yes") -> None:
    """Ask before something is destroyed; without a terminal the missing flag is named instead."""
    if yes:
        return
    if not can_ask():
        fail(f"{question} Nobody can answer here.", remedy=f"Add {flag} when you mean it.", code=USAGE)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as abort:
        write_error("")
        if not isinstance(abort.__context__, EOFError):
            raise KeyboardInterrupt from abort
        agreed = False  # Ctrl-D says nothing, which is no yes
    if not agreed:
        say("Nothing was changed.")
        raise typer.Exit(REFUSED)


def _kind() -> ProgressKind | None:
    """The kind of progress that was chosen for what is stderr now."""
    return _speaking[1].kind if _speaking and _speaking[0] is sys.stderr else None


def _make_room() -> None:
    """Take the line that is being rewritten away before another is written."""
    if _speaking and _speaking[0] is sys.stderr:
        _speaking[1].clear()
