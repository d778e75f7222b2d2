"""Where a command writes for a person: stderr with or without colours, and whether a line there can be rewritten."""

import os
import sys
from typing import TextIO

import typer

GREEN, RED, DIM, BOLD, YELLOW = "32", "31", "2", "1", "33"
_color_choice = "auto"


def choose_color(choice: str) -> None:
    """Set by the root command's `--color`: auto, always or never, which holds for our logs and children as well."""
    global _color_choice
    _color_choice = choice
    if choice == "never":
        os.environ["NO_COLOR"] = "1"


def colored(stream: TextIO) -> bool:
    """Whether escape codes may be written: never when piped, with NO_COLOR or on a dumb terminal."""
    if _color_choice != "auto":
        return _color_choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if text and colored(stream) else text


def good(text: str) -> str:
    return paint(text, GREEN, sys.stderr)


def bad(text: str) -> str:
    return paint(text, RED, sys.stderr)


def warn(text: str) -> str:
    return paint(text, YELLOW, sys.stderr)


def dim(text: str) -> str:
    return paint(text, DIM, sys.stderr)


def bold(text: str) -> str:
    return paint(text, BOLD, sys.stderr)


def rewritable() -> bool:
    """Whether a line on stderr can be written over: on a terminal that is not a dumb one."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def write_error(line: str) -> None:
    """A line on stderr whatever `--progress` says: an error, or what progress itself tells."""
    typer.echo(line, err=True, color=colored(sys.stderr))


def write_raw(text: str) -> None:
    """Characters on stderr without an end of line."""
    typer.echo(text, err=True, nl=False, color=colored(sys.stderr))
