"""Weighs what bots keep on a machine's disk, and tells when to look again.

What counts is what the others lose: the blocks that are really there, so that a file with holes costs what it holds,
and for each file and folder at least its share of the disk, since a file system has only so many of them. An open file
without a name counts as well. The engine's own figure is the sum of what files claim to be: a million empty ones are
nothing to it.

It imports nothing but the standard library: on the machine it travels as text with `node_agent`, whose errand `weigh`
it is, in a container that sees the volumes and does nothing but read.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # the engine's JSON

MIB = 2**20
# What ext4 sets aside of a disk for each file that it can have (inode_ratio in mke2fs.conf).
ENTRY_BYTES = 16 * 1024
BLOCK_BYTES = 512  # stat(2): the unit of st_blocks, whatever the file system's own is
# Longer paths the kernel refuses (4,096); a name has up to 255.
PATH_BYTES_MAX = 3_500
# A look costs half a second of a processor. Much that was written in a moment brings the next one forward.
LOOK_SECONDS = 60.0
STEP_BYTES = 64 * MIB
LABEL = "wopr.scales"
VOLUMES = "/volumes"
MEMORY_BYTES = 256 * MIB
CONTAINER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Room:
    """What a file system has left for those who are not root, and its size; no files where it has any number."""

    free_bytes: int
    free_files: int
    bytes: int
    files: int

    def spare(self, percent: int) -> tuple[int, int]:
        """Bytes and files above a reserve of so many percent; negative below it."""
        return self.free_bytes - self.bytes * percent // 100, self.free_files - self.files * percent // 100

    def is_short(self, percent: int) -> bool:
        """Whether less than the reserve is left."""
        return min(self.spare(percent)) < 0

    def lost_much(self, before: "Room", percent: int) -> bool:
        """Whether it lost a quarter of what now is above the reserve: the less there is, the sooner to look."""
        spare_bytes, spare_files = self.spare(percent)
        return (
            before.free_bytes - self.free_bytes >= max(STEP_BYTES, spare_bytes // 4)
            or before.free_files - self.free_files >= max(STEP_BYTES // ENTRY_BYTES, spare_files // 4)
        )  # fmt: skip


class Watch:
    """When the disk was weighed last, and the most room it had since."""

    def __init__(self, percent: int) -> None:
        self.percent = percent
        self._room: Room | None = None
        self._at = float("-inf")

    def is_due(self, room: Room | None, now: float) -> bool:
        """Whether to weigh again; `room` is None where the disk can't be seen from here."""
        if room is not None and self._room is not None:
            if room.lost_much(self._room, self.percent):
                return True
            most = (max(room.free_bytes, self._room.free_bytes), max(room.free_files, self._room.free_files))
            self._room = Room(*most, room.bytes, room.files)
        return now - self._at >= LOOK_SECONDS

    def weighed(self, room: Room | None, now: float) -> None:
        """It is being weighed; `room` is from before, as much may be written meanwhile."""
        self._room, self._at = room, now


def room_of(path: str) -> Room:
    """What the file system at this path has left."""
    found = os.statvfs(path)
    return Room(found.f_bavail * found.f_frsize, found.f_favail, found.f_blocks * found.f_frsize, found.f_files)


def greediest(taken: dict[str, int], before: dict[str, int] | None) -> str:
    """Who took most since the time before, if it is worth a stop; else nobody (empty).

    Who was not there then began with nothing. Without a time before nobody knows who wrote when.
    """
    grown = {name: size - before.get(name, 0) for name, size in taken.items()} if before is not None else {}
    most = max(grown, key=grown.__getitem__, default="")
    return most if most and grown[most] >= STEP_BYTES else ""


def weigh(folder: str, prefix: str, enough: int) -> dict[str, int]:
    """The bytes that each volume with this prefix takes, and each container by its id in files without a name.

    Nothing is weighed further than to `enough`.
    """
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.startswith(prefix)]
    taken = {entry.name: weigh_tree(f"{entry.path}/_data", enough) for entry in found}
    nameless: dict[tuple[str, int], int] = {}
    for container, file in open_files(Path(folder).stat().st_dev):
        nameless[container, file.st_ino] = share_of(file)
    for (container, _), size in nameless.items():
        taken[container] = taken.get(container, 0) + size
    return taken


def weigh_tree(top: str, enough: int) -> int:
    """The bytes that a folder takes with everything in it, however deep, or a little more than `enough`."""
    taken = 0
    waiting: list[bytes | int] = [os.fsencode(top)]
    while waiting:
        here = waiting.pop()
        if isinstance(here, int):
            os.close(here)  # everything below it was seen
        elif taken < enough:
            with contextlib.suppress(OSError):  # it may be gone
                taken += weigh_folder(here, waiting, enough - taken)
    return taken


def weigh_folder(here: bytes, waiting: "list[bytes | int]", enough: int) -> int:
    """The bytes of a folder's entries; folders among them are put among those that wait."""
    taken = 0
    if len(here) > PATH_BYTES_MAX:
        descriptor = os.open(here, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        waiting.append(descriptor)
        here = b"/proc/self/fd/%d" % descriptor
    with os.scandir(here) as entries:
        for entry in entries:
            taken += weigh_entry(entry, waiting)
            if taken >= enough:
                break
    return taken


def weigh_entry(entry: "os.DirEntry[bytes]", waiting: "list[bytes | int]") -> int:
    """The bytes of one entry; a folder is put among those that wait."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return 0  # it is gone
    if stat.S_ISDIR(found.st_mode):
        waiting.append(entry.path)
    return share_of(found)


def share_of(found: os.stat_result) -> int:
    """What a file or a folder takes. With several names it counts once: a part under each."""
    names = 1 if stat.S_ISDIR(found.st_mode) else max(1, found.st_nlink)
    return max(found.st_blocks * BLOCK_BYTES, ENTRY_BYTES) // names


def open_files(device: int) -> Iterator[tuple[str, os.stat_result]]:
    """The files of containers on this device that have no name any more, with the container's id."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it ended
            named = CONTAINER.findall((process / "cgroup").read_text())
            for descriptor in (process / "fd").iterdir() if named else ():
                with contextlib.suppress(OSError):
                    found = descriptor.stat()
                    if found.st_nlink == 0 and found.st_dev == device and stat.S_ISREG(found.st_mode):
                        yield named[-1], found


def describe(image: str, root: str, installation: str, command: list[str]) -> dict[str, Any]:
    """The container that weighs, for an engine that keeps its data under `root`."""
    source = f"{root.rstrip('/')}/volumes"
    return {
        "Image": image,
        "User": "0:0",
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "WorkingDir": "/",
        "Labels": {LABEL: installation},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": [{"Type": "bind", "Source": source, "Target": VOLUMES, "ReadOnly": True}],
            "NetworkMode": "none",
            "PidMode": "host",  # for files that are open and have no name
            "CapDrop": ["ALL"],
            # It reads whatever a bot closed to others, and which files processes have open.
            "CapAdd": ["DAC_READ_SEARCH", "SYS_PTRACE"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "CpuShares": 8192,  # eight times what a bot has: those that keep the processors busy must not hold it up
            "Memory": MEMORY_BYTES,
            "PidsLimit": 16,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "4m", "max-file": "2"}},
        },
    }
