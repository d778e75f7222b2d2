"""One process for a data folder: two bots on the same conversations would answer everything twice."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = "bot.lock"
WAIT_SECONDS_MAX = 5.0  # a predecessor that was told to stop needs up to three
POLL_SECONDS = 0.05


class FolderInUse(Exception):
    """Another process of this bot runs on the same data folder."""


@contextmanager
def claimed(data: Path) -> Iterator[None]:
    """Holds the folder; the system lets go of it when the process ends, however it ends.

    Raises `FolderInUse` and OSError.
    """
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(handle, data)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, data: Path) -> None:
    give_up_at = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up_at:
                raise FolderInUse(f"another process of this bot uses {data}") from error
            time.sleep(POLL_SECONDS)
        else:
            return
