"""Commands of a rehearsal, as an operator types them: each is shown, run as a child to its end, and kept in a log."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from wopr.cli.supervisor import RunFile
from wopr.core.errors import WoprError

COMMAND_SECONDS_MAX = 1_800.0
STOP_SECONDS = 20.0
TAIL_LINES = 12
# What the command that runs is called beside the stand-ins: whoever ends what a killed rehearsal left finds it there.
RUNNING = "command"


class StepFailed(WoprError):
    """Something did not come about; the message says what was seen, the remedy what to do."""

    default_code = "rehearsal_failed"


@dataclass(frozen=True)
class Command:
    """What is typed. `stdin` is a file; `codes` are the exit codes with which it may end."""

    words: tuple[str, ...]
    stdin: Path | None = None
    codes: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        return shlex.join(self.words) + (f" < {shlex.quote(str(self.stdin))}" if self.stdin else "")

    @property
    def line(self) -> Sequence[str]:
        """What is executed: of ours this very `wopr`, whatever the PATH says, with its answer as a program reads it."""
        return [sys.executable, "-m", *self.words, "--json"] if self.words[0] == "wopr" else self.words


def wopr(*words: str, codes: tuple[int, ...] = (0,)) -> Command:
    """One of our own commands."""
    return Command(("wopr", *words), codes=codes)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    command: Command
    code: int
    out: str

    @property
    def text(self) -> str:
        return self.out.strip()

    @property
    def json(self) -> Any:  # whatever the command answered
        """The document that it wrote; StepFailed when it wrote none."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise StepFailed(f"`{self.command}` wrote no JSON: {self.text[-300:]}") from None


@dataclass(frozen=True)
class Runner:
    """Runs commands in an environment of their own. `log` gets all that they write; `show` each as it is begun."""

    environment: Mapping[str, str]
    log: Path
    show: Callable[[str], None]

    def run(self, command: Command) -> Ran:
        """Run it to its end; StepFailed with its last lines when that is a bad one."""
        self.show(str(command))
        ran, told = self._run(command)
        if ran.code not in command.codes:
            raise StepFailed(
                f"`{command}` ended with {ran.code}:\n{_tail(told or ran.out)}", remedy=_remedy(told) or str(command)
            )
        return ran

    def ask(self, command: Command) -> Ran:
        """Run it without a word, whatever its exit code: for looks that are repeated."""
        return self._run(command)[0]

    def _run(self, command: Command) -> tuple[Ran, str]:
        with self.log.open("a+", encoding="utf-8") as log, contextlib.ExitStack() as stack:
            log.write(f"\n$ {command}\n")
            log.flush()
            begun = log.tell()
            stdin: IO[bytes] | int = (
                stack.enter_context(command.stdin.open("rb")) if command.stdin else subprocess.DEVNULL
            )
            process = subprocess.Popen(
                command.line,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the rehearsal, which then ends it in order
            )
            RunFile(self.log.parent).add(RUNNING, process.pid)
            try:
                out, _ = process.communicate(timeout=COMMAND_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                raise StepFailed(f"`{command}` did not end within {COMMAND_SECONDS_MAX:.0f} s.") from None
            finally:
                _end(process)
            log.seek(begun)
            told = log.read()
            log.seek(0, os.SEEK_END)
            log.write(out)
        return Ran(command, process.returncode, out), told


def _end(process: "subprocess.Popen[str]") -> None:
    """Make sure that it has ended: asked first, so that it lets go of what it holds."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _tail(told: str) -> str:
    lines = [line.rstrip() for line in told.splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


def _remedy(told: str) -> str:
    """What the command itself says is to be done."""
    fixes = [line.strip().removeprefix("fix: ") for line in told.splitlines() if line.strip().startswith("fix: ")]
    return fixes[-1] if fixes else ""
