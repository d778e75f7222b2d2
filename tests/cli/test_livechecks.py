"""`wopr check` on an installation that is broken: each fault is named once, in a line, with a remedy that helps."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from wopr.cli.livechecks import LiveChecks
from wopr.core.db import Database
from wopr.core.settings import Settings
from wopr.ops.checks import Finding, Verdict, run_checks

LONG_AGO = text("INSERT INTO loop_leases (name, last_finished_at) VALUES (:name, now() - make_interval(secs => :ago))")


async def found(settings: Settings) -> dict[str, Finding]:
    """What the checks that ask the database say."""
    live = LiveChecks(settings)
    try:
        asked = [check for check in live.checks() if not check.name.startswith(("api.", "ui."))]
        return {outcome.name: outcome.finding for outcome in await run_checks(asked)}
    finally:
        await live.close()


def beside(db: Database, name: str) -> str:
    return db.url.rpartition("/")[0].replace("+asyncpg", "") + f"/{name}"


async def test_a_database_that_lets_nobody_in_is_said_once_with_the_setting_that_names_it(
    db: Database, tmp_path: Path
) -> None:
    findings = await found(Settings(wopr_home=tmp_path, database_url=SecretStr(beside(db, "no_such_database"))))
    reached = findings.pop("database.reachable")
    assert reached.verdict is Verdict.FAILED
    assert "no_such_database" in reached.evidence
    assert "\n" not in reached.evidence
    assert "DATABASE_URL" in reached.remedy
    assert {finding.verdict for finding in findings.values()} == {Verdict.SKIPPED}


@pytest.mark.parametrize("url", ["postgresql://wopr:x@localhost:1/wopr", "sqlite:///wopr.db"])
async def test_a_named_database_that_does_not_answer_is_not_started_by_us(url: str, tmp_path: Path) -> None:
    reached = (await found(Settings(wopr_home=tmp_path, database_url=SecretStr(url))))["database.reachable"]
    assert (reached.verdict, "DATABASE_URL" in reached.remedy) == (Verdict.FAILED, True)


async def test_without_a_database_the_remedy_is_to_start_ours(tmp_path: Path) -> None:
    reached = (await found(Settings(wopr_home=tmp_path)))["database.reachable"]
    assert (reached.verdict, reached.remedy) == (Verdict.FAILED, "wopr up")


@pytest.mark.parametrize(("ago", "verdict"), [(1, Verdict.OK), (3600, Verdict.FAILED)])
async def test_loops_that_ended_long_ago_are_not_alive(
    db: Database, tmp_path: Path, ago: int, verdict: Verdict
) -> None:
    async with db.begin() as session:
        for name, since in (("one", ago), ("rare", 200_000)):
            await session.execute(LONG_AGO, {"name": name, "ago": since})
    address = SecretStr(beside(db, db.url.rpartition("/")[2]))
    loops = (await found(Settings(wopr_home=tmp_path, database_url=address)))["loops.alive"]
    assert loops.verdict is verdict
    assert bool(loops.remedy) is (verdict is Verdict.FAILED)
