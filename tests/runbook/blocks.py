"""The commands of a Markdown page: its fenced blocks by section, each taken apart into what a shell would run at once.

Where a section tells its commands in a numbered list and has no block, the inline code of the list counts.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HEADING = re.compile(r"^(#+) (.*)$")
FENCE = re.compile(r"^ *```(\w*) *$")
STEP = re.compile(r"^\d+\. ")
INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """Commands that stand together. `path` names the headings above it, the outermost first."""

    path: tuple[str, ...]
    language: str
    commands: tuple[str, ...]

    @property
    def section(self) -> str:
        return self.path[-1]

    def under(self, heading: str) -> bool:
        return any(one.startswith(heading) for one in self.path)


def blocks(page: str) -> Sequence[Block]:
    """Every fenced block and every list of steps, in the order of the page."""
    return list(_blocks(page.splitlines()))


def commands(text: str) -> tuple[str, ...]:
    """What a shell runs at once: lines without comments; those that a quote or a backslash holds together are one."""
    found, pending = [], ""
    for line in text.splitlines():
        pending = f"{pending}\n{line}" if pending else _without_comment(line).strip()
        if pending and _whole(pending):
            found.append(pending)
            pending = ""
    assert not pending, f"a command without an end: {pending}"
    return tuple(found)


def _blocks(lines: Sequence[str]) -> Iterator[Block]:
    path: list[str] = []
    fenced, steps = list[Block](), list[str]()
    inside: list[str] | None = None
    language = ""
    for line in (*lines, "# the end"):
        if fence := FENCE.match(line):
            if inside is None:
                inside, language = [], fence[1]
            else:
                fenced.append(Block(tuple(path), language, commands("\n".join(inside))))
                inside = None
        elif inside is not None:
            inside.append(line)
        elif STEP.match(line):
            steps += INLINE.findall(line)
        elif heading := HEADING.match(line):
            yield from fenced or ([Block(tuple(path), "steps", tuple(steps))] if steps else [])
            path = [*path[: len(heading[1]) - 1], heading[2]]
            fenced, steps = [], []


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line)


def _whole(text: str) -> bool:
    """Whether a shell would not wait for more."""
    if text.endswith(("\\", "|")):
        return False
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True
