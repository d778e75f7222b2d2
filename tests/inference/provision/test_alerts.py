"""Administrators are told once, by mail and by webhook, of what the loop that makes nodes can't mend by itself."""

import asyncio

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from tests.serving import until

from wopr.accounts.admin import ensure_administrator
from wopr.cloud.compute import Order
from wopr.core.settings import Settings
from wopr.inference.identity import Identity, ensure_identity
from wopr.inference.orphans import ORPHAN_SECONDS

from .conftest import Stage

Hook = tuple[str, list[dict[str, str]]]


@pytest.fixture
async def settings(settings: Settings, hook: Hook) -> Settings:
    return settings.model_copy(update={"alert_webhook_url": SecretStr(hook[0])})


@pytest.fixture
async def identity(stage: Stage) -> Identity:
    async with stage.platform.db.begin() as session:
        await ensure_administrator(session, "ada@example.com")
        await ensure_administrator(session, "bob@example.com")
        return await ensure_identity(session, stage.platform.settings)


async def mails(stage: Stage) -> list[tuple[str, str]]:
    async with stage.platform.db.begin() as session:
        found = await session.execute(text("SELECT to_address, subject FROM mails ORDER BY created_at, to_address"))
        return [(to, subject) for to, subject in found]


async def passes(stage: Stage, count: int = 2) -> None:
    """So many, each of another process, and what they had to say."""
    for _ in range(count):
        await stage.anew().run_pass()
        if stage.pager._task is not None:
            await stage.pager._task


@pytest.mark.usefixtures("identity")
async def test_a_node_that_could_not_be_made_is_told_of_once(stage: Stage, hook: Hook) -> None:
    (node_id,) = await stage.order()
    made = await stage.until_stage(node_id, "waiting_agent")
    machine = stage.machine()
    await machine.open()
    await machine.report("failed", "no space left on device")
    await passes(stage)
    subject = f"The node {node_id} could not be made"
    assert await mails(stage) == [("ada@example.com", subject), ("bob@example.com", subject)]
    (call,) = hook[1]
    assert call["subject"] == subject
    for words in ("no space left on device", made["machine_id"], f"wopr nodes retry {node_id}"):
        assert words in call["detail"]

    await stage.admin.post(f"/api/admin/nodes/{node_id}/retry")
    await stage.until_stage(node_id, "waiting_agent")
    stage.clock.advance(16 * 60)
    await stage.until_stage(node_id, "failed")
    await passes(stage)
    assert len(hook[1]) == 2, "the second failure is another occasion"
    assert "waiting_agent took longer" in hook[1][1]["detail"]


async def test_a_machine_with_our_name_and_without_our_tag_is_told_of_once(
    stage: Stage, identity: Identity, hook: Hook
) -> None:
    order = Order(identity.machine_name("untagged"), "tor1", "s-1vcpu-1gb", "ubuntu-24-04-x64", "", ())
    await stage.cloud().create(order)
    stage.box.settled()
    await passes(stage)
    assert len(await mails(stage)) == 2
    (call,) = hook[1]
    assert identity.machine_name("untagged") in call["subject"]
    assert "Destroy it at the cloud" in call["detail"]


async def test_a_machine_that_may_serve_and_that_no_row_knows_is_told_of_once(
    stage: Stage, identity: Identity, hook: Hook
) -> None:
    order = Order(identity.machine_name("nobodys"), "tor1", "s-1vcpu-1gb", "ubuntu-24-04-x64", "", (identity.tag,))
    await stage.cloud().create(order)
    until(lambda: stage.box.droplets()[0]["status"] == "active")
    stage.clock.advance(ORPHAN_SECONDS + 60)
    await passes(stage)
    assert len(await mails(stage)) == 2
    (call,) = hook[1]
    assert "the database does not know it" in call["subject"]


@pytest.mark.usefixtures("identity")
async def test_a_pager_that_does_not_answer_holds_no_node_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_given: object, **_more: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(stage.platform.http, "post", never)
    (failed,) = await stage.order()
    await stage.until_stage(failed, "waiting_agent")
    machine = stage.machine()
    await machine.open()
    await machine.report("failed")
    (node_id,) = await stage.order()
    async with asyncio.timeout(30):
        await stage.until_stage(node_id, "waiting_agent")
    assert len(await mails(stage)) == 2
