"""What data takes of a disk however it is laid out, when to weigh it again, and whom to stop when room is short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wopr.fleet.runtimes import agents, scales
from wopr.fleet.runtimes.scales import ENTRY_BYTES, LOOK_SECONDS, MIB, STEP_BYTES, Room, Watch, greediest, weigh_tree

MUCH = 2**50
GIB = 2**30


def disk(free_gib: float, free_files: int = 5_000_000) -> Room:
    """An ordinary disk of 100 GiB with so much left."""
    return Room(int(free_gib * GIB), free_files, 100 * GIB, 6_000_000)


def test_a_large_file_takes_its_blocks(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(3 * MIB))
    assert 3 * MIB <= weigh_tree(str(tmp_path), MUCH) < 3 * MIB + ENTRY_BYTES


def test_a_file_with_holes_takes_what_it_holds_and_one_that_was_set_aside_takes_it_all(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(100 * GIB)
    assert weigh_tree(str(tmp_path), MUCH) == ENTRY_BYTES
    with (tmp_path / "aside").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * MIB)
    assert weigh_tree(str(tmp_path), MUCH) >= 2 * MIB + ENTRY_BYTES


def test_empty_files_folders_and_links_take_their_share_of_the_disk(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"file{number}").touch()
        (tmp_path / f"folder{number}").mkdir()
        (tmp_path / f"link{number}").symlink_to("nowhere")
    assert weigh_tree(str(tmp_path), MUCH) == 150 * ENTRY_BYTES


def test_a_file_with_many_names_takes_its_blocks_once(tmp_path: Path) -> None:
    (tmp_path / "first").write_bytes(os.urandom(4 * MIB))
    for number in range(63):
        (tmp_path / f"again{number}").hardlink_to(tmp_path / "first")
    assert weigh_tree(str(tmp_path), MUCH) == pytest.approx(4 * MIB, rel=0.01)


def test_nothing_is_too_deep_to_be_weighed(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    depth, side = 60, 3
    for _ in range(depth):
        for number in range(side):
            os.mkdir(f"{number}" * 200, dir_fd=here)
        below = os.open("0" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    descriptor = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(descriptor, os.urandom(MIB))
    os.close(descriptor)
    os.close(here)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    assert weigh_tree(str(tmp_path), MUCH) >= depth * side * ENTRY_BYTES + MIB
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_nothing_is_weighed_further_than_is_enough(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").touch()
    assert weigh_tree(str(tmp_path), 10 * ENTRY_BYTES) == 10 * ENTRY_BYTES
    assert weigh_tree(str(tmp_path / "gone"), MUCH) == 0


def test_only_volumes_of_bots_are_weighed_by_the_program_as_machines_get_it(tmp_path: Path) -> None:
    for name in ("wopr-bot-a", "wopr-bot-b", "postgres"):
        (tmp_path / name / "_data").mkdir(parents=True)
        (tmp_path / name / "_data" / "file").touch()
    program = agents.SCRIPT.replace(f'VOLUMES = "{scales.VOLUMES}"', f'VOLUMES = "{tmp_path}"')
    command = [sys.executable, "-I", "-c", program, "weigh", "wopr-bot-", str(MUCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert json.loads(done.stdout) == {"wopr-bot-a": ENTRY_BYTES, "wopr-bot-b": ENTRY_BYTES}


def test_it_is_weighed_every_minute_and_where_the_disk_cant_be_seen_too() -> None:
    for room in (disk(50), None):
        watch = Watch(10)
        assert watch.is_due(room, 1000.0)
        watch.weighed(room, 1000.0)
        assert not watch.is_due(room, 1000.0 + LOOK_SECONDS - 1)
        assert watch.is_due(room, 1000.0 + LOOK_SECONDS)


@pytest.mark.parametrize(
    ("before", "now", "due"),
    [
        (disk(90), disk(80), False),  # 70 GiB above the reserve: 17.5 of them may go
        (disk(90), disk(70), True),
        (disk(20), disk(18.5), False),
        (disk(20), disk(17.9), True),
        (disk(10.5), disk(10.4), True),  # nearly at the reserve, each 64 MiB count
        (disk(5), disk(5 - 1 / 32), False),
        (disk(5), disk(5 - 1 / 16), True),
        (disk(90, 5_000_000), disk(90, 4_500_000), False),  # empty files
        (disk(90, 5_000_000), disk(90, 4_000_000), True),
        (disk(90, 700_000), disk(90, 600_000), True),
    ],
)
def test_the_less_room_is_left_the_sooner_it_is_weighed_again(before: Room, now: Room, due: bool) -> None:
    watch = Watch(10)
    watch.weighed(before, 1000.0)
    assert watch.is_due(now, 1001.0) is due


def test_room_that_was_made_does_not_hide_what_is_written_after_it() -> None:
    watch = Watch(10)
    watch.weighed(disk(20), 1000.0)
    assert not watch.is_due(disk(80), 1001.0)
    assert watch.is_due(disk(50), 1002.0)


def test_room_is_short_below_the_reserve_of_bytes_or_of_files() -> None:
    assert not disk(11).is_short(10)
    assert disk(9.9).is_short(10)
    assert disk(50, 599_999).is_short(10)
    assert not Room(50 * GIB, 0, 100 * GIB, 0).is_short(10), "a file system that has any number of files"


def test_the_greediest_is_who_grew_most_by_something_that_counts() -> None:
    before = {"small": 0, "huge": 90 * GIB}
    assert greediest({"small": STEP_BYTES, "huge": 90 * GIB + STEP_BYTES * 2}, before) == "huge"
    assert greediest({"small": STEP_BYTES - 1, "huge": 90 * GIB}, before) == ""
    assert greediest({"huge": 90 * GIB, "new": STEP_BYTES}, before) == "new"
    assert greediest({"huge": 90 * GIB}, None) == "", "nobody knows when it wrote that"
    assert greediest({}, {}) == ""
