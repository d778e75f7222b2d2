"""How far a long command is: each stage with its machine, told as the reader of stderr can use it.

On a terminal one line is rewritten and each ended stage leaves one behind; plain is one timestamped line a stage, and
one more for a stage that lasts; json is a line of JSON for each event; quiet tells only what failed. Whatever the kind,
a failure names its machine.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType

from wopr.cli import terminal

TICK_SECONDS = 0.1
COLUMNS = 80
# A plain log that says nothing for this long leaves its reader guessing which machine hangs.
FIRST_REMINDER_SECONDS = 10.0
NEXT_REMINDER_SECONDS = 60.0
# A failure that came at once is not said to have come after 0.0 s.
INSTANT_SECONDS = 0.05
STEP_PERCENT = 10
STEP_WITHOUT_TOTAL = 50_000_000


class ProgressKind(StrEnum):
    """How a long command tells on stderr how far it is."""

    AUTO = "auto"  # tty on a terminal, else plain; quiet beside --json
    TTY = "tty"
    PLAIN = "plain"
    JSON = "json"
    QUIET = "quiet"


@dataclass
class Progress:
    """The stages of one command. `machine` is the one meant where a stage names none; empty: this one.

    `kind` is never auto: `output.progress` chose. `now` and `clock` (seconds) are those of the tests.
    """

    kind: ProgressKind
    machine: str = ""
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    clock: Callable[[], float] = time.monotonic
    _open: "list[Stage]" = field(default_factory=list)
    _drawn: str = ""  # the line that is being rewritten, as it stands there
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _ticker: threading.Thread | None = None

    def stage(self, machine: str, what: str, *, keep: bool = True) -> "Stage":
        """Begin a stage. Use it as a context manager, or end it with `done` or `failed`.

        Without `keep` a terminal forgets the line once the stage went well: for commands whose result says it all.
        """
        with self._lock:
            begun = Stage(self, machine, what, keep, self.clock())
            self._open.append(begun)
            if self.kind is ProgressKind.JSON:
                self._tell_json(begun, "started")
            elif self.kind is ProgressKind.TTY:
                self.redraw()
            if self.kind is not ProgressKind.QUIET and self._ticker is None:
                self._ticker = threading.Thread(target=self._tick_while_open, daemon=True, name="progress")
                self._ticker.start()
        return begun

    def done(self, detail: str = "") -> None:
        """The newest open stage went well."""
        if self._open:
            self._open[-1].done(detail)

    def failed(self, reason: str, machine: str = "") -> None:
        """The newest open stage failed; without one, something on `machine` did."""
        stage = self._open[-1] if self._open else self.stage(machine, "")
        stage.failed(reason)

    def fail_open(self) -> None:
        """Every open stage failed; why is said by the error that follows."""
        for stage in list(self._open):
            stage.failed("")

    def ended(self, machine: str, what: str, seconds: float, detail: str = "", error: str = "") -> None:
        """A stage that somebody else timed: it lasted `seconds`; `error` is empty when it went well."""
        stage = Stage(self, machine, what, True, self.clock() - seconds)
        self.finish(stage, detail, error, well=not error)

    def tell(self, event: str, **facts: object) -> None:
        """An event that belongs to no stage, for programs only: the other kinds say it in words of their own."""
        if self.kind is ProgressKind.JSON:
            line = {"at": self._at(), "event": event, "machine": self.machine or os.uname().nodename}
            terminal.write_error(json.dumps({**line, **facts}, ensure_ascii=False))

    def forget(self, stage: "Stage") -> None:
        """Leave a stage without a word."""
        with self._lock:
            if stage in self._open:
                self._open.remove(stage)
            if self.kind is ProgressKind.TTY:
                self.redraw()

    def finish(self, stage: "Stage", detail: str, reason: str, *, well: bool) -> None:
        """Tell how a stage ended; what is told after its end is left out."""
        with self._lock:
            if stage in self._open:
                self._open.remove(stage)
            if self.kind is ProgressKind.JSON:
                self._tell_json(stage, "done" if well else "failed", detail=detail, error=reason)
            elif self.kind is ProgressKind.TTY:
                if stage.keep or not well:
                    self.clear()
                    terminal.write_error(self._tty_line(stage, detail, reason, well=well))
                self.redraw()
            elif self.kind is ProgressKind.PLAIN:
                seconds = self.clock() - stage.started
                after = f" after {seconds:.1f} s" if seconds >= INSTANT_SECONDS else ""
                self._tell_plain(stage, f"done in {seconds:.1f} s  {detail}" if well else f"FAILED{after}  {reason}")
            elif not well:
                terminal.write_error(f"{terminal.bad('failed:')} {self._full(stage)}  {reason}".rstrip())

    def update(self, stage: "Stage", before: str) -> None:
        """A stage knows more about how far it is than it did `before`."""
        with self._lock:
            if self.kind is ProgressKind.TTY:
                self.redraw()
            elif stage.far_step != before and self.kind is ProgressKind.JSON:
                self._tell_json(stage, "progress", done=stage.amount, total=stage.total)
            elif stage.far_step != before and self.kind is ProgressKind.PLAIN:
                self._tell_plain(stage, stage.far())

    def tick(self) -> None:
        """Redraw the time on a terminal, or remind of a stage that lasts."""
        with self._lock:
            if self.kind is ProgressKind.TTY:
                self.redraw()
                return
            for stage in self._open:
                seconds = self.clock() - stage.started
                if seconds >= stage.remind_after:
                    stage.remind_after = seconds + NEXT_REMINDER_SECONDS
                    if self.kind is ProgressKind.JSON:
                        self._tell_json(stage, "running")
                    else:
                        self._tell_plain(stage, f"still running after {seconds:.0f} s")

    def clear(self) -> None:
        """Blank the line that is being rewritten, so that something else can be written."""
        with self._lock:
            if self._drawn:
                terminal.write_raw("\r" + " " * len(self._drawn) + "\r")
                self._drawn = ""

    def redraw(self) -> None:
        """Write the line of the newest open stage over the one before. No escape codes: NO_COLOR may be set."""
        with self._lock:
            if not self._open:
                self.clear()
                return
            stage = self._open[-1]
            more = f"  (and {len(self._open) - 1} more)" if len(self._open) > 1 else ""
            seconds = int(self.clock() - stage.started)
            words = (self._named(stage), stage.far(), f"{seconds} s" if seconds else "")
            line = f"  … {'  '.join(word for word in words if word)}{more}"[: _columns() - 1]
            if line != self._drawn:
                terminal.write_raw("\r" + line.ljust(len(self._drawn)))
                self._drawn = line

    def _tick_while_open(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            with self._lock:
                if not self._open:
                    self._ticker = None
                    return
                self.tick()

    def _machine(self, stage: "Stage") -> str:
        return stage.machine or self.machine or os.uname().nodename

    def _full(self, stage: "Stage") -> str:
        return f"{self._machine(stage)}  {stage.what}".rstrip()

    def _named(self, stage: "Stage") -> str:
        """The stage for a terminal: this machine goes without saying."""
        machine = stage.machine or self.machine
        return f"{machine}  {stage.what}" if machine else stage.what

    def _tty_line(self, stage: "Stage", detail: str, reason: str, *, well: bool) -> str:
        seconds = self.clock() - stage.started
        if well:
            return f"  {terminal.good('✓')} {self._named(stage):<20} {seconds:6.2f} s  {terminal.dim(detail)}".rstrip()
        return f"  {terminal.bad('✗')} {self._full(stage):<20} {seconds:6.2f} s  {reason}".rstrip()

    def _tell_plain(self, stage: "Stage", words: str) -> None:
        terminal.write_error(f"{self._at()} {self._full(stage)}  {words}".rstrip())

    def _tell_json(self, stage: "Stage", event: str, **more: object) -> None:
        line = {"at": self._at(), "event": event, "machine": self._machine(stage), "stage": stage.what}
        timed = {"seconds": round(self.clock() - stage.started, 3)} if event != "started" else {}
        given = {name: value for name, value in more.items() if value not in ("", None)}
        terminal.write_error(json.dumps({**line, **timed, **given}, ensure_ascii=False))

    def _at(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(eq=False)
class Stage:
    """One stage on one machine, from its beginning to `done` or `failed`; a second ending is left out."""

    progress: Progress
    machine: str
    what: str
    keep: bool
    started: float  # of the progress's clock
    amount: int | None = None
    total: int | None = None
    remind_after: float = FIRST_REMINDER_SECONDS
    _over: bool = False

    def update(self, amount: int, total: int | None = None) -> None:
        """So many bytes of so many; `total` is None while nobody knows."""
        before = self.far_step
        self.amount, self.total = amount, total
        self.progress.update(self, before)

    def done(self, detail: str = "") -> None:
        self._end(detail, "", well=True)

    def failed(self, reason: str) -> None:
        self._end("", reason, well=False)

    def forget(self) -> None:
        """It is over, and how it ended was told otherwise."""
        if not self._over:
            self._over = True
            self.progress.forget(self)

    @property
    def far_step(self) -> str:
        """Changes with every tenth, or where the whole is unknown every 50 MB: as often as a log wants to know."""
        if self.amount is None:
            return ""
        if self.total:
            return f"{self.amount * 100 // self.total // STEP_PERCENT} tenths"
        return f"{self.amount // STEP_WITHOUT_TOTAL} steps"

    def far(self) -> str:
        """How far it is, in words; empty when it never said."""
        if self.amount is None:
            return ""
        if not self.total:
            return f"{self.amount / 1e6:.1f} MB"
        return f"{self.amount / 1e6:.1f} of {self.total / 1e6:.1f} MB ({self.amount * 100 // self.total} %)"

    def __enter__(self) -> "Stage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.done()
        else:
            self.failed(_reason(error))

    def _end(self, detail: str, reason: str, *, well: bool) -> None:
        if not self._over:
            self._over = True
            self.progress.finish(self, detail, reason, well=well)


def _reason(error: BaseException) -> str:
    """Why it ended, in a line; what a command said itself before it left is not repeated."""
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "CancelledError":
        return "interrupted"
    if type(error).__name__ in ("Exit", "SystemExit"):
        return ""
    # Errors of ours have a message beside the remedy, which stands where the error itself is written.
    words = str(getattr(error, "message", "") or error)
    return (words.strip().splitlines() or [""])[0] or type(error).__name__


def _columns() -> int:
    """The terminal's width; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except (OSError, ValueError):
        return COLUMNS
