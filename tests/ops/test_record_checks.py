"""What `wopr check` says of journal, logbook, incidents and secrets."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wopr.ops.checks import Finding, Verdict, run_checks
from wopr.ops.incidents import open_incident, resolve_incident
from wopr.ops.journal import Journal
from wopr.ops.observed import observe
from wopr.ops.record_checks import checks


async def found(journal: Journal) -> dict[str, Finding]:
    outcomes = await run_checks(checks(journal))
    return {one.name: one.finding for one in outcomes}


async def complaints(journal: Journal) -> dict[str, Finding]:
    return {name: one for name, one in (await found(journal)).items() if one.verdict is not Verdict.OK}


def done(journal: Journal) -> None:
    """An operation, and a sight of the secrets."""
    with journal.operation("deploy", release=1) as operation:
        operation.outcome["verdict"] = "good"
    observe(journal, "secrets", [{"name": "PLATFORM_SECRET", "mark": "00112233"}])


async def test_where_nothing_was_done_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert {one.verdict for one in (await found(Journal(tmp_path))).values()} == {Verdict.SKIPPED}


async def test_sound_records_raise_no_alarm(tmp_path: Path) -> None:
    done(journal := Journal(tmp_path))
    assert await complaints(journal) == {}


async def test_a_changed_entry_is_found(tmp_path: Path) -> None:
    done(journal := Journal(tmp_path))
    lines = journal.path.read_text().splitlines()
    entry = json.loads(lines[0])
    entry["data"]["release"] = 2
    journal.path.write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
    intact = (await complaints(journal))["journal.intact"]
    assert (intact.verdict, intact.evidence.startswith("line 1 ")) == (Verdict.FAILED, True)


async def test_a_page_that_somebody_changed_is_found(tmp_path: Path) -> None:
    done(journal := Journal(tmp_path))
    page = tmp_path / "logbook" / "RUNBOOK.md"
    page.write_text(page.read_text() + "by hand\n")
    assert (await complaints(journal))["journal.intact"].verdict is Verdict.FAILED


async def test_an_operation_that_is_not_in_the_pages_is_named(tmp_path: Path) -> None:
    done(journal := Journal(tmp_path))
    journal.append("another", "rollback", "begin", {})
    assert await complaints(journal) == {}  # it is under way
    journal.append("another", "rollback", "end", {})
    late = (await complaints(journal))["logbook.current"]
    assert (late.verdict, "rollback" in late.evidence) == (Verdict.WARNING, True)


async def test_a_grave_incident_that_is_open_is_a_failure(tmp_path: Path) -> None:
    done(journal := Journal(tmp_path))
    open_incident(journal, "A bot is slow", "SEV3", "operator")
    assert await complaints(journal) == {}
    name = open_incident(journal, "Nothing answers", "SEV1", "operator")
    grave = (await complaints(journal))["incidents.open"]
    assert (grave.verdict, "Nothing answers" in grave.evidence) == (Verdict.FAILED, True)
    resolve_incident(journal, name)
    assert await complaints(journal) == {}


async def test_a_secret_that_is_older_than_a_year_is_named(tmp_path: Path) -> None:
    done(journal := Journal(tmp_path))
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    aged = Journal(tmp_path / "aged")
    long_ago = (datetime.now(UTC) - timedelta(days=500)).isoformat()
    aged.home.mkdir()
    aged.path.write_text("".join(json.dumps(line | {"at": long_ago}) + "\n" for line in lines))
    old = (await found(aged))["secrets.age"]
    assert (old.verdict, "PLATFORM_SECRET" in old.evidence) == (Verdict.WARNING, True)
