"""What the API journals in its container comes into the installation's journal: once, word for word, chain intact."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wopr.core.ids import new_id
from wopr.ops.adoption import adopt
from wopr.ops.incidents import all_incidents, note_incident, open_incident, resolve_incident
from wopr.ops.journal import Journal
from wopr.ops.logbook.observed import CHECKS, NODES, last_seen
from wopr.ops.observed import observe

ADOPT = """
import sys
from pathlib import Path
from wopr.ops.adoption import adopt
from wopr.ops.journal import Journal
adopt(Journal(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes())
"""


@pytest.fixture
def ours(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "installation")
    with journal.operation("deploy"):
        pass
    return journal


@pytest.fixture
def theirs(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "api")


def content(journal: Journal) -> bytes:
    return journal.path.read_bytes()


def sound(journal: Journal) -> bool:
    return not journal.verify()


def test_an_incident_of_the_api_is_told_as_if_it_had_been_journalled_here(ours: Journal, theirs: Journal) -> None:
    open_incident(ours, "Release 2 failed", "SEV3", "wopr deploy")
    name = open_incident(theirs, "llama is down", "SEV2", "watchdog", {"key": "service:llama", "watch": "watchdog"})
    assert adopt(ours, content(theirs)) == 1
    note_incident(ours, "2", "Looking at it", "acknowledged")
    resolve_incident(theirs, name, "it is well again")
    assert adopt(ours, content(theirs)) == 1
    _, adopted = all_incidents(ours)
    (original,) = all_incidents(theirs)
    assert (adopted.id, adopted.name, adopted.open) == (name, "INC-0002", False)
    assert (adopted.opened_at, adopted.resolved_at) == (original.opened_at, original.resolved_at)
    assert [moment.kind for moment in adopted.timeline] == ["opened", "acknowledged", "resolved"]
    page = (ours.home / "logbook" / "INCIDENTS.md").read_text()
    assert "## INC-0002 llama is down" in page
    assert "origin" not in page, "where it was written first is nothing to read"
    assert sound(ours)


def test_what_was_taken_over_is_not_taken_over_again(ours: Journal, theirs: Journal) -> None:
    for number in range(3):
        open_incident(theirs, f"{number}", "SEV3", "watchdog")
    assert adopt(ours, content(theirs)) == 3
    before = content(ours)
    assert adopt(ours, content(theirs)) == 0
    assert content(ours) == before


def test_many_at_once_and_one_that_is_killed_leave_every_entry_once(
    ours: Journal, theirs: Journal, tmp_path: Path
) -> None:
    wanted = [f"incident {number}" for number in range(40)]
    for title in wanted:
        theirs.append(str(new_id()), "incident", "begin", {"title": title, "severity": "SEV3"})
    command = [sys.executable, "-c", ADOPT, str(ours.home), str(theirs.path)]
    killed = subprocess.Popen(command)
    while ours.path.read_bytes().count(b"\n") < 5 and killed.poll() is None:
        os.sched_yield()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait(60) == 0
    assert [incident.title for incident in all_incidents(ours)] == wanted
    assert sound(ours)


def test_what_is_about_that_journal_itself_or_how_things_look_from_there_stays_there(
    ours: Journal, theirs: Journal
) -> None:
    theirs.append(str(new_id()), "logbook", "note", {"lacking": "git"})
    theirs.append(str(new_id()), "journal", "note", {"anchored": "the journal was empty"})
    with theirs.operation("deploy", release=7):
        pass  # releases are told by who makes them, whatever somebody did to the API
    observe(theirs, CHECKS, [{"name": "settings.cookie", "verdict": "failed"}])
    observe(theirs, NODES, [{"name": "gpu-1", "status": "active"}])
    assert adopt(ours, content(theirs)) == 1
    assert last_seen(ours.read(), NODES)[1] == [{"name": "gpu-1", "status": "active"}]
    assert last_seen(ours.read(), CHECKS) == ("", [])


def test_a_torn_end_and_lines_that_are_no_entries_harm_nothing(ours: Journal, theirs: Journal) -> None:
    open_incident(theirs, "A", "SEV3", "watchdog")
    open_incident(theirs, "B", "SEV3", "watchdog")
    assert adopt(ours, content(theirs)[:-20]) == 1
    assert adopt(ours, content(theirs)) == 1
    assert adopt(ours, b"{}\nnothing\n" + content(theirs)) == 0
    assert sound(ours)


def test_secrets_of_the_installation_are_blacked_out_on_the_way(ours: Journal, theirs: Journal) -> None:
    open_incident(theirs, "It answers hunter2-hunter2", "SEV3", "watchdog")
    (ours.home / ".env").write_text("SMTP_PASSWORD=hunter2-hunter2\n")
    adopt(ours, content(theirs))
    assert b"hunter2" not in content(ours)


def test_a_journal_that_was_tampered_with_is_told_once_and_for_ever(ours: Journal, theirs: Journal) -> None:
    open_incident(theirs, "A", "SEV1", "watchdog")
    lines = content(theirs).splitlines()
    entry = json.loads(lines[0])
    entry["data"]["severity"] = "SEV4"
    forged = json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    for _ in range(2):
        adopt(ours, b"\n".join([forged, *lines[1:]]) + b"\n")
    (damage,) = ours.verify()
    assert "the API's journal, line 1: was changed" in damage.reason
