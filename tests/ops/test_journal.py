"""The journal is append-only, chained, free of secrets, and tells a killed operation from a finished one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.ops.journal import Journal
from wopr.ops.logbook import operations, render
from wopr.ops.redaction import DOTS, redacted

SECRETS = (
    "wopr_write_abcdefghijkl",
    "sk_live_abcdefghijkl",
    "whsec_abcdefghijkl",
    "ghp_abcdefghijklmnop",
    "dop_v1_0123456789abcdef",
)


def filled(home: Path, count: int = 5) -> Journal:
    journal = Journal(home)
    for number in range(count):
        with journal.operation("nodes.register", node=f"n{number}") as operation:
            operation.step("row written")
    return journal


APPEND_MANY = """
import sys
from pathlib import Path
from wopr.ops.journal import Journal
for number in range(50):
    Journal(Path(sys.argv[1])).append(f"op{number}", "test", "note", {"n": number})
"""


def test_an_untouched_journal_verifies(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    assert journal.verify() == []
    assert len(journal.read()) == 15


@pytest.mark.parametrize("line", range(14))
def test_a_changed_line_is_found(tmp_path: Path, line: int) -> None:
    journal = filled(tmp_path)
    lines = journal.path.read_text(encoding="utf-8").splitlines()
    entry = json.loads(lines[line])
    entry["data"] = {"node": "somebody else's"}
    lines[line] = json.dumps(entry)
    journal.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [damage.line for damage in journal.verify()] == [line + 1]


@pytest.mark.parametrize("line", range(14))
def test_a_removed_line_is_found(tmp_path: Path, line: int) -> None:
    journal = filled(tmp_path)
    lines = journal.path.read_text(encoding="utf-8").splitlines()
    del lines[line]
    journal.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert journal.verify()


def test_a_line_torn_by_a_crash_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    journal = filled(tmp_path, 1)
    with journal.path.open("a", encoding="utf-8") as stream:
        stream.write('{"at": "2026-')
    journal.append("later", "test", "note", {})
    assert journal.verify() == []
    assert journal.read()[-1].operation == "later"


def test_writers_of_several_processes_make_one_chain(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPEND_MANY, str(tmp_path)]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    journal = Journal(tmp_path)
    assert journal.verify() == []
    assert len(journal.read()) == 150


def test_an_operation_that_fails_says_so_and_one_that_was_killed_is_unfinished(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(RuntimeError), journal.operation("deploy", release="r1"):
        raise RuntimeError("no disk")
    journal.append("killed", "deploy", "begin", {"release": "r2"})
    assert [line.outcome for line in operations(journal.read())] == ["failed", "unfinished"]


FULL = """
import resource, sys
from pathlib import Path
from wopr.ops.journal import Journal, JournalFailed
journal = Journal(Path(sys.argv[1]))
journal.append("1", "deploy", "note", {})
size = journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
try:
    with journal.operation("deploy"):
        raise AssertionError("it began without being written down")
except JournalFailed as error:
    print(error.message, error.remedy)
"""


def test_a_journal_that_finds_no_room_is_told_with_what_to_do_and_stays_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path} can't be written" in done.stdout
    assert "Make room" in done.stdout
    journal = Journal(tmp_path)
    journal.append("2", "deploy", "note", {})
    assert list(journal.verify()) == []
    assert [entry.operation for entry in journal.read()] == ["1", "2"]


@given(st.text(), st.sampled_from(SECRETS), st.text())
def test_no_secret_gets_in_wherever_it_hides(before: str, secret: str, after: str) -> None:
    value = {"note": f"{before} {secret} {after}", "list": [secret], "password": "hunter2", "deep": {"api_key": "x"}}
    written = json.dumps(redacted(value), ensure_ascii=False)
    assert secret not in written
    assert "hunter2" not in written
    assert DOTS in written


def test_the_same_journal_renders_the_same_bytes(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    assert render(journal.read()) == render(Journal(tmp_path).read())
    assert "nodes.register" in render(journal.read())["OPERATIONS.md"]


def test_the_chain_holds_across_entries_that_are_longer_than_what_is_read_of_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.append(f"op{number}", "test", "note", {f"field{n}": "x" * 1_900 for n in range(20)})
        journal.append(f"short{number}", "test", "note", {})
    assert journal.verify() == []
    with journal.path.open("ab") as file:
        file.write(b'{"torn": "' + b"y" * 40_000)
    journal.append("after", "test", "note", {})
    assert journal.verify() == []
    assert [entry.operation for entry in journal.read()][-2:] == ["short2", "after"]
