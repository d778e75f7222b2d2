"""Notices within milliseconds that a bot's process ended, whether this process started it or an earlier one did.

Linux hands out a descriptor for any process, readable when it ends (pidfd_open(2)); elsewhere the processes are looked
at twice a second.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from wopr.core.ids import BotId
from wopr.fleet.runtimes import logfiles
from wopr.fleet.runtimes.ending import reap
from wopr.fleet.runtimes.protocol import Ended
from wopr.fleet.runtimes.record import RunRecord

POLL_SECONDS = 0.5
TEXT_CHARACTERS_MAX = 300


@dataclass
class _Watched:
    record: RunRecord
    folder: Path
    descriptor: int | None
    expected: bool = False


class Exits:
    """The processes under watch, at most one a bot."""

    def __init__(self) -> None:
        self.on_end: Callable[[Ended], None] | None = None
        self._watched: dict[BotId, _Watched] = {}
        self._poller: asyncio.TimerHandle | None = None

    def add(self, bot_id: BotId, folder: Path, record: RunRecord) -> None:
        """Watch this process; one that is watched already is left as it is."""
        present = self._watched.get(bot_id)
        if present is not None:
            if present.record.instance_id == record.instance_id:
                return
            self._ended(bot_id)
        watched = _Watched(record, folder, _open(record.pid))
        self._watched[bot_id] = watched
        if watched.descriptor is not None:
            asyncio.get_running_loop().add_reader(watched.descriptor, self._ended, bot_id)
        if not record.alive():
            self._ended(bot_id)
        elif watched.descriptor is None and self._poller is None:
            self._poll()

    def expect(self, bot_id: BotId) -> None:
        """The coming end of this bot is our own doing: it is reaped and not reported."""
        if bot_id in self._watched:
            self._watched[bot_id].expected = True

    def close(self) -> None:
        """Watch nothing any more; the processes go on."""
        for bot_id in list(self._watched):
            self._release(bot_id)
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None

    def settle(self, bot_id: BotId) -> None:
        """Reap now what was ended a moment ago."""
        watched = self._watched.get(bot_id)
        if watched is not None and not watched.record.alive():
            self._ended(bot_id)

    def _ended(self, bot_id: BotId) -> None:
        watched = self._release(bot_id)
        if watched is None:
            return
        status = reap(watched.record.pid)
        if watched.expected or self.on_end is None:
            return
        last = logfiles.last_error_line(watched.folder)[:TEXT_CHARACTERS_MAX]
        reason = _explain(status) + (f": {last}" if last else "")
        self.on_end(Ended(bot_id, UUID(watched.record.instance_id), datetime.now(UTC), reason))

    def _release(self, bot_id: BotId) -> _Watched | None:
        watched = self._watched.pop(bot_id, None)
        if watched is not None and watched.descriptor is not None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed already: nothing to remove from
                asyncio.get_running_loop().remove_reader(watched.descriptor)
            os.close(watched.descriptor)
            watched.descriptor = None
        return watched

    def _poll(self) -> None:
        for bot_id, watched in list(self._watched.items()):
            if watched.descriptor is None and not watched.record.alive():
                self._ended(bot_id)
        self._poller = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _explain(status: int | None) -> str:
    if status is None:
        return "it ended unexpectedly"
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"
