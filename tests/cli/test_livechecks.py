"""`wopr check` on an installation that is broken: each fault is named once, in a line, with a remedy that helps."""

from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from pydantic import SecretStr
from sqlalchemy import text
from tests.machines.nodes import here
from tests.serving import served

from wopr.cli.livechecks import LiveChecks
from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.core.settings import Settings
from wopr.inference.models import GpuNode
from wopr.inference.nodes import Node, register
from wopr.inference.sights import Memory
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


@pytest.mark.parametrize(
    ("listed", "verdict", "says"),
    [
        ({"llama": "handbook", "qwen": "minilm"}, Verdict.OK, "handbook, minilm"),
        ({"llama": "another", "qwen": "minilm"}, Verdict.FAILED, "no node serves BOT_MODEL=handbook"),
        ({"llama": "handbook", "qwen": "another"}, Verdict.FAILED, "no node serves BOT_EMBEDDING_MODEL=minilm"),
        ({}, Verdict.SKIPPED, "no node lists its models"),
    ],
)
async def test_models_that_bots_use_and_no_node_serves_are_named(
    db: Database, tmp_path: Path, listed: dict[str, str], verdict: Verdict, says: str
) -> None:
    async with db.begin() as session:
        await register(session, Node(NodeId("gpu-1"), "127.0.0.1"))
        row = await session.get_one(GpuNode, "gpu-1")
        row.probe_state = {service: Memory(models=(name,)).to_json() for service, name in listed.items()}
        row.service_health = dict.fromkeys(listed, True)
        row.status = "active"
    address = SecretStr(beside(db, db.url.rpartition("/")[2]))
    models = (await found(Settings(wopr_home=tmp_path, database_url=address)))["inference.models"]
    assert (models.verdict, models.evidence.startswith(says)) == (verdict, True), models


@pytest.mark.parametrize(("plain", "verdict"), [(True, Verdict.OK), (False, Verdict.WARNING)])
async def test_a_registry_without_tls_is_asked_without_where_the_settings_say_so(
    tmp_path: Path, plain: bool, verdict: Verdict
) -> None:
    app = FastAPI()

    @app.head("/v2/ours/wopr-bot/manifests/one")
    async def manifest() -> Response:
        return Response(headers={"docker-content-digest": "sha256:" + "0" * 64})

    with served(app, here()) as url:  # on the loopback no TLS is wanted anyway
        server = url.removeprefix("http://")
        settings = Settings(
            wopr_home=tmp_path,
            bot_runtime="docker",
            bot_image=f"{server}/ours/wopr-bot:one",
            registry_server=server,
            registry_plain_http=server if plain else "",
        )
        (check,) = (one for one in LiveChecks(settings).checks() if one.name == "bots.registry")
        (outcome,) = await run_checks([check])
    assert outcome.finding.verdict is verdict, outcome.finding
