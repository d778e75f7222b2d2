"""The operator's `.env`: read strictly, each fault with its line, before it can become the environment of a release.

Three programs read such files, each by rules of its own: compose v2, compose 1.29 and ourselves. What all three take
alike is accepted here; the rest is a fault, because it would mean one thing on one machine and another elsewhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

BYTE_ORDER_MARK = "\ufeff"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
ESCAPED = re.compile(r'\\(["\\])')
OTHER_ESCAPE = re.compile(r'(?<!\\)(?:\\\\)*\\[^"\\]')
BOTH = "holds both ' and $, which no way of quoting keeps everywhere"
# What follows a quoted value: nothing, or a comment.
REST = re.compile(r"\s*(?:#.*)?\Z")
UNREADABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


@dataclass(frozen=True)
class Fault:
    """What is wrong in a file. `line` counts from 1; 0: the whole file. `refused`: a release must not begin with it."""

    line: int
    name: str
    says: str
    remedy: str
    refused: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.says}" if self.line else self.says


@dataclass(frozen=True)
class EnvFile:
    """What a file says: each setting with the line of its last mention, and what can't be read."""

    values: Mapping[str, str]
    lines: Mapping[str, int]
    faults: Sequence[Fault]


def read_env(content: bytes | str) -> EnvFile:
    """Read a file. Never fails: what can't be read is a fault."""
    text, faults = _decoded(content)
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, value, fault = _read_line(number, line)
        if fault is None and name in lines:
            fault = Fault(number, name, f"{name} is set in line {lines[name]} already", "Keep one of the two lines.")
        if fault is not None:
            faults.append(fault)
        if name and value is not None:
            values[name], lines[name] = value, number
    return EnvFile(values, lines, faults)


def _decoded(content: bytes | str) -> tuple[str, list[Fault]]:
    """The text without what editors of other systems put in, and a fault for each of it."""
    faults = []
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    if isinstance(content, bytes) and "\ufffd" in text and "\ufffd".encode() not in content:
        faults.append(Fault(0, "", "it is not UTF-8", "Save it as UTF-8."))
    if text.startswith(BYTE_ORDER_MARK):
        text = text.removeprefix(BYTE_ORDER_MARK)
        says = "begins with a byte order mark, which becomes part of the first name"
        faults.append(Fault(1, "", says, _sed("1s/^\\xEF\\xBB\\xBF//")))
    if "\r\n" in text:
        line = text[: text.index("\r\n")].count("\n") + 1
        text = text.replace("\r\n", "\n")
        says = "ends as on Windows, and each value would end with a carriage return"
        faults.append(Fault(line, "", says, _sed("s/\\r$//")))
    return text, faults


def _sed(expression: str) -> str:
    return f"sed -i '{expression}' .env"


def _read_line(number: int, line: str) -> tuple[str, str | None, Fault | None]:
    """The name, the value, and what is wrong; a line without a value has a fault."""
    name, sign, rest = line.strip().removeprefix("export ").partition("=")
    name = name.strip()
    if not sign or not NAME.match(name):
        says = f"{name[:20]!r} is no name of a setting" if sign else "is no NAME=value"
        return "", None, Fault(number, "", says, "Write NAME=value, or a # before a comment.")
    if UNREADABLE.search(rest):
        return name, None, Fault(number, name, f"{name} holds a character that can't be seen", "Type the line anew.")
    value, wrong = _read_value(rest.strip())
    if wrong:
        return name, None, Fault(number, name, f"{name} {wrong}", f"Write it in one line, in quotes: {name}='…'")
    if rest.strip()[:1] != "'" and "$" in value:
        says = f"{name} has a $ outside of single quotes, where compose by hand would put in a variable"
        return name, value, Fault(number, name, says, f"Put single quotes around it: {name}='…'", refused=False)
    return name, value, None


def _read_value(text: str) -> tuple[str, str]:
    """A value without its quotes and comment, or what is wrong with it."""
    if text[:1] == "'":
        inner, quote, rest = text[1:].partition("'")
        return (inner, "") if quote and REST.match(rest) else ("", _open(quote))
    if text[:1] == '"':
        end = _closing(text)
        if not end or not REST.match(text[end + 1 :]):
            return "", _open('"' if end else "")
        inner = text[1:end]
        if OTHER_ESCAPE.search(inner):
            return "", "has a backslash within double quotes, which others read as something else"
        value = ESCAPED.sub(r"\1", inner)
        return value, BOTH if "'" in value and "$" in value else ""
    if text.startswith("#"):
        return "", "begins with #, which is a comment for one reader and a value for another"
    plain = text.partition(" #")[0].rstrip()
    return plain, BOTH if "'" in plain and "$" in plain else ""


def _closing(text: str) -> int:
    """Where the double quote that opened is closed; 0 when it is not."""
    position = 1
    while position < len(text) and text[position] != '"':
        position += 2 if text[position] == "\\" else 1
    return position if position < len(text) else 0


def _open(quote: str) -> str:
    return "goes on after its closing quote" if quote else "has no closing quote in its line"


def in_order(faults: Sequence[Fault]) -> Iterator[Fault]:
    """Those that refuse a release first, then by line."""
    yield from sorted(faults, key=lambda fault: (not fault.refused, fault.line))
