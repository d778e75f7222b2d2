"""A bot whose program can't be had: its customer reads plain words, and the operator what to mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from wopr.fleet.outages import bots_that_do_not_start
from wopr.fleet.runtimes.engine import EngineAway
from wopr.fleet.runtimes.images import Credentials, explain
from wopr.fleet.runtimes.process import ProcessRuntime
from wopr.fleet.runtimes.protocol import BotSpec

World = Any  # of conftest.py, which can't be imported
IMAGE = "registry.example.com:5000/wopr-bot@sha256:" + "7" * 64
OURS = ("registry.example.com", "robot", "sha256", "REGISTRY_")


@contextmanager
def refused() -> Iterator[None]:
    """The registry refuses our credentials meanwhile."""
    ours = Credentials("registry.example.com:5000", "robot", "secret")
    refusal = explain(IMAGE, "unauthorized: authentication required", ours)

    async def start(self: ProcessRuntime, spec: BotSpec) -> None:
        raise refusal

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ProcessRuntime, "start", start)
        yield


async def as_administrator(world: World) -> Any:
    admin = await world.customer()
    await world.sql(
        "UPDATE users SET platform_admin = true FROM memberships m "
        "WHERE m.user_id = users.id AND m.tenant_id = :tenant",
        tenant=admin.tenant_id,
    )
    await world.sql("UPDATE api_keys SET scope = 'admin' WHERE tenant_id = :tenant", tenant=admin.tenant_id)
    return admin


async def test_a_customer_reads_that_the_program_is_away_and_an_administrator_reads_why(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    with refused():
        await world.reconciler().settle()
    answer = await customer.http.get(f"/fleet/bots/{bot['id']}")
    assert "program is not available now" in answer.json()["last_error"]
    assert "operator was told" in answer.json()["last_error"]
    assert not [word for word in OURS if word in answer.text]
    admin = await as_administrator(world)
    (seen,) = (await admin.http.get("/api/admin/bots")).json()["bots"]
    assert "refused the credentials of robot" in seen["operator_error"]
    assert "Correct REGISTRY_USERNAME" in seen["operator_error"], "the remedy is told, too"
    assert "program is not available now" in seen["last_error"]
    said = await customer.http.post(f"/fleet/bots/{bot['id']}/turns", json={"text": "Are you there?"})
    assert said.status_code == 409
    assert not [word for word in OURS if word in said.text]
    again = await customer.http.post(f"/fleet/bots/{bot['id']}/start")
    assert again.json()["last_error"] is None
    (seen,) = (await admin.http.get("/api/admin/bots")).json()["bots"]
    assert seen["operator_error"] is None


async def test_the_operator_is_told_while_it_lasts(world: World) -> None:
    async def told() -> list[tuple[bool, str, str]]:
        async with world.platform.db.begin() as session:
            return [(one.down, one.title, one.detail) for one in await bots_that_do_not_start(session)]

    customer = await world.customer()
    bot = await customer.create()
    await world.reconciler().settle()
    assert (await told())[0][0] is False
    with refused():
        await customer.http.post(f"/fleet/bots/{bot['id']}/restart")
        await world.reconciler().settle()
        ((down, title, detail),) = await told()
        assert (down, title) == (True, "1 bot does not start")
        assert "refused the credentials of robot" in detail
    await customer.http.post(f"/fleet/bots/{bot['id']}/start")
    await world.reconciler().settle()
    assert (await customer.bot(bot["id"]))["state"] == "running"
    assert (await told())[0][0] is False


async def test_a_machine_that_does_not_answer_is_not_described_to_customers(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()

    async def logs(self: ProcessRuntime, bot_id: object, tail: int) -> None:
        raise EngineAway("The engine at unix:///var/run/docker.sock can't be reached.", remedy="Start Docker.")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ProcessRuntime, "logs", logs)
        answer = await customer.http.get(f"/fleet/bots/{bot['id']}/logs")
    assert answer.status_code == 503
    assert "does not answer now" in answer.json()["error"]["message"]
    assert "ocker" not in answer.text
