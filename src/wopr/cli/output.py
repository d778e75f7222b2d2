"""How every command speaks: results on stdout, everything else on stderr, errors with their remedy, fixed exit codes.

Exit codes: 0 done or nothing to do, 1 failed, 2 wrong usage, 3 refused by a check, 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer

FAILED, USAGE, REFUSED, INTERRUPTED = 1, 2, 3, 130

JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout and nothing else.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

_GREEN, _RED, _DIM, _BOLD, _YELLOW = "32", "31", "2", "1", "33"
_color_choice = "auto"


def choose_color(choice: str) -> None:
    """Set by the root command's `--color`: auto, always or never."""
    global _color_choice
    _color_choice = choice


def colored(stream: TextIO) -> bool:
    """Whether escape codes may be written: never when piped, with NO_COLOR or on a dumb terminal."""
    if _color_choice != "auto":
        return _color_choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colored(stream) else text


def good(text: str) -> str:
    return paint(text, _GREEN, sys.stderr)


def bad(text: str) -> str:
    return paint(text, _RED, sys.stderr)


def warn(text: str) -> str:
    return paint(text, _YELLOW, sys.stderr)


def dim(text: str) -> str:
    return paint(text, _DIM, sys.stderr)


def bold(text: str) -> str:
    return paint(text, _BOLD, sys.stderr)


def say(text: str = "") -> None:
    """A line for the person at the terminal; never part of the result."""
    typer.echo(text, err=True)


def result(text: str) -> None:
    """A line of the command's result."""
    typer.echo(text)


def json_document(value: Any) -> None:  # whatever json can write
    """The result as one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def json_line(value: Mapping[str, Any]) -> None:
    """One line of JSON for a command that follows."""
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
    result(paint(head, _DIM, sys.stdout))
    for line in lines:
        result(aligned(line))


def fail(message: str, *, remedy: str = "", log: str = "", code: int = FAILED) -> NoReturn:
    """End with an error: what failed, where the log is, and last the command that mends it."""
    say(f"{bad('error:')} {message}")
    if log:
        say(f"  log: {log}")
    if remedy:
        say(f"  fix: {remedy}")
    raise typer.Exit(code)


def confirm(question: str, *, yes: bool, flag: str = "--yes") -> None:
    """Ask before something is destroyed; without a terminal the missing flag is named instead."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can answer here.", remedy=f"Add {flag} when you mean it.", code=USAGE)
    if not typer.confirm(question, err=True):
        say("Nothing was changed.")
        raise typer.Exit(REFUSED)
