"""Incidents are opened, told, resolved and counted through the journal alone."""

from datetime import datetime
from pathlib import Path
from threading import Thread

import pytest

from wopr.core.errors import Invalid, NotFound
from wopr.ops.entry import Entry
from wopr.ops.incidents import (
    all_incidents,
    find_incident,
    note_incident,
    open_incident,
    open_incidents,
    resolve_incident,
)
from wopr.ops.journal import Journal
from wopr.ops.logbook.incidents import Incident, incidents, incidents_page, mean_times


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_an_incident_from_its_opening_to_what_was_learnt(journal: Journal) -> None:
    began = "2026-11-23T12:00:00+00:00"
    name = open_incident(journal, "Sign-in answers 500", "SEV1", "a customer", {"began_at": began, "release": 7})
    note_incident(journal, name, "Looking at it", "acknowledged")
    note_incident(journal, name, "Only sign-up is hit", "severity", {"severity": "SEV2"})
    note_incident(journal, name, "Went back to release 6", "mitigated")
    assert resolve_incident(journal, name, "Fixed", {"root_cause": "A missing index", "follow_up": ["Alert on p99"]})
    note_incident(journal, name, "Written up", "analysis", {"impact": "40 people", "follow_up": ["Test it"]})
    (incident,) = all_incidents(journal)
    assert not incident.open
    assert (incident.name, incident.severity, incident.began_at) == ("INC-0001", "SEV2", began)
    assert (incident.root_cause, incident.impact) == ("A missing index", "40 people")
    assert incident.follow_up == ("Alert on p99", "Test it")
    assert [moment.kind for moment in incident.timeline] == [
        "opened", "acknowledged", "severity", "mitigated", "resolved", "analysis",
    ]  # fmt: skip
    times = [incident.opened_at, incident.acknowledged_at, incident.mitigated_at, incident.resolved_at]
    assert times == sorted(map(str, times))
    page = incidents_page(journal.read())
    assert "## INC-0001 Sign-in answers 500" in page
    assert "- release: 7" in page
    assert "- Alert on p99" in page


def test_the_same_trouble_opens_one_incident_even_from_many_sides(journal: Journal) -> None:
    opened: list[str] = []
    facts = {"key": "release:7"}
    threads = [
        Thread(target=lambda: opened.append(open_incident(journal, "Back", "SEV3", "x", facts))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(opened)) == 1
    assert len(open_incidents(journal)) == 1
    resolve_incident(journal, opened[0])
    assert open_incident(journal, "Again", "SEV3", "x", facts) != opened[0]


def test_without_a_key_each_is_its_own(journal: Journal) -> None:
    assert open_incident(journal, "One", "SEV4", "x") != open_incident(journal, "One", "SEV4", "x")


def test_one_that_is_over_stays_as_it_is(journal: Journal) -> None:
    name = open_incident(journal, "One", "SEV4", "x")
    assert resolve_incident(journal, name)
    before = len(journal.read())
    assert not resolve_incident(journal, name)
    assert len(journal.read()) == before


@pytest.mark.parametrize("name", ["INC-0002", "inc-2", "2"])
def test_it_is_found_by_its_name_and_by_its_id(journal: Journal, name: str) -> None:
    open_incident(journal, "One", "SEV4", "x")
    second = open_incident(journal, "Two", "SEV4", "x")
    assert find_incident(journal, name).title == "Two"
    assert find_incident(journal, second).title == "Two"
    assert find_incident(journal, second[:-4]).title == "Two"


@pytest.mark.parametrize("name", ["INC-0009", "", "zzz", "01"])
def test_one_that_is_not_there_is_said_so(journal: Journal, name: str) -> None:
    for title in ("One", "Two") if name != "01" else ():
        open_incident(journal, title, "SEV4", "x")
    with pytest.raises(NotFound) as refused:
        find_incident(journal, name)
    assert refused.value.remedy == "wopr incident list"


def test_what_is_no_severity_or_kind_is_refused_before_anything_is_written(journal: Journal) -> None:
    name = open_incident(journal, "One", "sev4", "x")
    before = journal.read()
    with pytest.raises(Invalid):
        open_incident(journal, "Two", "urgent", "x")
    with pytest.raises(Invalid):
        note_incident(journal, name, "text", "rumour")
    with pytest.raises(Invalid):
        note_incident(journal, name, "text", "severity", {"severity": "9"})
    with pytest.raises(NotFound):
        note_incident(journal, "INC-0099", "text")
    assert journal.read() == before
    assert all_incidents(journal)[0].severity == "SEV4"


def told(number: int, began: int, detected: int, acknowledged: int | None, resolved: int | None) -> list[Entry]:
    """An incident of these minutes after noon."""

    def at(minute: int) -> str:
        return datetime.fromisoformat("2026-11-23T12:00:00+00:00").replace(minute=minute).isoformat()

    def entry(minute: int, phase: str, data: dict[str, object]) -> Entry:
        return Entry(at(minute), f"i{number}", "incident", phase, "ada@vm", data, "", "")

    entries = [entry(detected, "begin", {"title": "T", "severity": "SEV3", "began_at": at(began)})]
    if acknowledged is not None:
        entries.append(entry(acknowledged, "step", {"step": "", "kind": "acknowledged"}))
    if resolved is not None:
        entries.append(entry(resolved, "end", {}))
    return entries


def test_an_incident_of_which_nobody_said_when_it_began_has_no_time_to_detect(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    open_incident(journal, "Sign-in answers 500", "SEV1", "operator")
    assert mean_times(all_incidents(journal))["mttd"] is None
    page = (tmp_path / "logbook" / "INCIDENTS.md").read_text(encoding="utf-8")
    assert "| Began | – |" in page


def test_mean_times_count_only_what_is_known() -> None:
    entries = [*told(1, 0, 2, 4, 10), *told(2, 0, 4, None, 20), *told(3, 0, 0, None, None)]
    assert mean_times(incidents(entries)) == {"mttd": 120.0, "mtta": 120.0, "mttr": 900.0}
    page = incidents_page(entries)
    assert "| MTTD | from the first wrong moment to its detection | 2 min | 3 |" in page
    assert "| MTTR | from the first wrong moment to the end | 15 min | 2 |" in page
    assert mean_times([]) == {"mttd": None, "mtta": None, "mttr": None}


def test_an_incident_that_was_over_before_it_was_told_has_the_times_that_people_gave(journal: Journal) -> None:
    name = open_incident(journal, "One", "SEV4", "x", {"began_at": "2026-11-23T12:00:00+00:00"})
    resolve_incident(journal, name, "", {"happened_at": "2026-11-23T12:05:00+00:00"})
    incident: Incident = find_incident(journal, name)
    assert incident.resolved_at == "2026-11-23T12:05:00+00:00"
    assert "| 5 min |" in incidents_page(journal.read())
