"""What is on disk about a bot's process: `run.json`, how a process is told from a later one of the same number."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import psutil

from wopr.core.ids import BotId
from wopr.fleet.runtimes.protocol import Instance

RUN_FILE = "run.json"
BOTS_FOLDER = "bots"
FOLDER_VARIABLE = "WOPR_BOT_DATA"


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`. `identity` changes when the number `pid` is given to another process."""

    instance_id: str
    generation: int
    pid: int
    identity: str
    port: int
    started_at: str
    token: str = field(repr=False)

    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return process_identity(self.pid) == self.identity

    def instance(self, bot_id: BotId) -> Instance:
        return Instance(
            id=UUID(self.instance_id),
            bot_id=bot_id,
            generation=self.generation,
            url=f"http://127.0.0.1:{self.port}",
            started_at=datetime.fromisoformat(self.started_at),
            token=self.token,
        )


def read_record(folder: Path) -> RunRecord | None:
    """The record in a bot's folder; None when there is none or it can't be read."""
    try:
        return RunRecord(**json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: RunRecord) -> None:
    """Replace the record in one step, readable by the owner only, since it holds the bot's token."""
    temporary = folder / f"{RUN_FILE}.new"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
    temporary.replace(folder / RUN_FILE)


def forget_record(folder: Path) -> None:
    """Remove the record; one that is gone is fine."""
    (folder / RUN_FILE).unlink(missing_ok=True)


def process_identity(pid: int) -> str | None:
    """What distinguishes this process from any other that has or had the number; None when it is dead or a zombie.

    On Linux the boot's id and the start in clock ticks since boot, which no change of the wall clock moves (proc(5)).
    """
    if not sys.platform.startswith("linux"):
        return _identity_by_psutil(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = stat.rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return f"{boot}:{fields[19]}"


def strays() -> Iterator[tuple[int, Path]]:
    """Every process of this user that is a bot's by its environment, with the bot's folder, whatever any record says.

    This finds what a killed starter left behind before it could write the record.
    """
    for process in psutil.process_iter(["pid"]):
        try:
            data = process.environ().get(FOLDER_VARIABLE) if process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.Error, OSError):
            continue
        if data:
            yield process.pid, Path(data).parent


def bot_folders(home: Path) -> list[tuple[BotId, Path]]:
    """Every bot's folder under `home`."""
    parent = home / BOTS_FOLDER
    if not parent.is_dir():
        return []
    found = []
    for path in parent.iterdir():
        with contextlib.suppress(ValueError):
            found.append((BotId(UUID(path.name)), path))
    return found


def _identity_by_psutil(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return None
