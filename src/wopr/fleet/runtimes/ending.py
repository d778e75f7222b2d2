"""Ends processes of bots: politely first, then for good, with everything that they started."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from wopr.bot.contract import STOP_SECONDS_MAX
from wopr.fleet.runtimes.record import bot_folders, forget_record, process_identity, read_record, strays

GRACE_SECONDS = STOP_SECONDS_MAX + 0.5
KILL_SECONDS_MAX = 2.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Target:
    """A process to be ended: its number and what tells it from a later holder of the number."""

    pid: int
    identity: str


def targets_in(folders: Iterable[Path]) -> list[Target]:
    """Every process of the bots in these folders: the recorded ones, and any that no record knows."""
    wanted = set(folders)
    found: dict[int, str] = {}
    for folder in wanted:
        record = read_record(folder)
        if record is not None and record.alive():
            found[record.pid] = record.identity
    for pid, folder in strays():
        if folder in wanted and pid not in found and (identity := process_identity(pid)) is not None:
            found[pid] = identity
    return [Target(pid, identity) for pid, identity in found.items()]


def end(targets: Iterable[Target]) -> int:
    """Ask all to end, wait, then kill what is left; the number of processes that were ended. Blocks."""
    living = [target for target in targets if process_identity(target.pid) == target.identity]
    for target in living:
        _signal(os.kill, target.pid, signal.SIGTERM)
    for target in _wait(living, GRACE_SECONDS):
        _signal(os.kill, target.pid, signal.SIGKILL)
        _wait([target], KILL_SECONDS_MAX)
    return len(living)


def stop_all(home: Path) -> int:
    """Stop every bot under `home`, recorded or not, all at once; how many processes there were.

    For `wopr up`: it needs no database and no runtime, and it ends within the grace of one bot.
    """
    folders = [folder for _, folder in bot_folders(home.resolve())]
    count = end(targets_in(folders)) if folders else 0
    for folder in folders:
        forget_record(folder)
    return count


def reap(pid: int) -> int | None:
    """Collect a child that ended, so that it does not stay as a zombie; its wait status, None when it isn't ours."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return status if ended else None


def _wait(targets: list[Target], seconds: float) -> list[Target]:
    deadline = time.monotonic() + seconds
    left = list(targets)
    while left and time.monotonic() < deadline:
        for target in left:
            if process_identity(target.pid) != target.identity:
                # The leader of a session has its number as that of the group; what it started may have stayed behind.
                _signal(os.killpg, target.pid, signal.SIGKILL)
        left = [target for target in left if process_identity(target.pid) == target.identity]
        if left:
            time.sleep(POLL_SECONDS)
    return left


def _signal(send: Callable[[int, int], None], number: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(number, which)
