"""A person at a terminal who does what the runbook says, block by block, and notices what was left out."""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.runbook.blocks import Block, blocks
from tests.runbook.table import FOLLOWED, NOT_EXECUTED, PAGE, SECTIONS, SUBSTITUTIONS

COMMAND_SECONDS = 600.0
FOLLOW_SECONDS, ENDED_SECONDS = 300.0, 10.0
CHANGE_OF_FOLDER = re.compile(r"^cd (\S+)$")


def page() -> list[Block]:
    """Every block of the runbook that is to be executed or listed."""
    text = Path(__file__).with_name(PAGE).read_text(encoding="utf-8")
    return [block for block in blocks(text) if any(block.under(section) for section in SECTIONS)]


def of_two_machines() -> list[Block]:
    """What is executed on the two machines: approach A, and the rollback on their VPS."""
    return [block for block in page() if block.under("Approach A") or block.under("Rollback Procedure")]


def of_flat_stack() -> list[Block]:
    """All the rest: approach B."""
    return [block for block in page() if block not in of_two_machines()]


def blocks_of(section: str) -> list[Block]:
    """The blocks of one section, by how its heading begins."""
    return [block for block in page() if block.section.startswith(section)]


def substituted(command: str, values: Mapping[str, str]) -> str:
    """The command as it runs here."""
    for one in SUBSTITUTIONS:
        command = command.replace(one.what, one.by.format_map(values) if one.what in command else one.by)
    return command


@dataclass
class Shell:
    """`folder` is where the person stands, `values` what stands for the words in braces of the table."""

    folder: Path
    environment: Mapping[str, str]
    values: Mapping[str, str]
    done: list[str] = field(default_factory=list)

    def run_block(self, block: Block, after: Mapping[str, Callable[[], object]] | None = None) -> dict[str, str]:
        """Every command of a block; what each wrote. `after` is done behind a command that ends with its key."""
        written = {}
        for command in block.commands:
            if command in NOT_EXECUTED:
                continue
            written[command] = self.run(command)
            for end, act in (after or {}).items():
                if command.endswith(end):
                    act()
        return written

    def run(self, command: str) -> str:
        """One command of the runbook; what it wrote to stdout. It must succeed."""
        self.done.append(command)
        here = substituted(command, self.values)
        if change := CHANGE_OF_FOLDER.match(here):
            self.folder = Path(change[1])
            assert self.folder.is_dir(), here
            return ""
        if shown := FOLLOWED.get(command):
            return self._follow(here, shown)
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", here],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
        )
        assert ended.returncode == 0, f"{here}\nended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def left(self, blocks: Sequence[Block]) -> list[str]:
        """Commands of these blocks that were neither done nor are listed as what can't be."""
        return [one for block in blocks for one in block.commands if one not in self.done and one not in NOT_EXECUTED]

    def _follow(self, command: str, shown: str) -> str:
        """Watch what a command writes until something is shown, then stop it as Ctrl-C does."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdout is not None
        written, until = b"", time.monotonic() + FOLLOW_SECONDS
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while shown.encode() not in written:
                    assert time.monotonic() < until, f"{command} never showed {shown!r}:\n{written.decode()}"
                    if selector.select(timeout=1):
                        chunk = os.read(process.stdout.fileno(), 65_536)
                        assert chunk, f"{command} ended without {shown!r}:\n{written.decode()}"
                        written += chunk
        finally:
            _end(process)
            process.stdout.close()
        return written.decode()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command as Ctrl-C does. Compose 1.29 may be deaf to it while it follows, and is killed then."""
    for way in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, way)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=ENDED_SECONDS)
            return
