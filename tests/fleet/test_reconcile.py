"""What is wanted becomes what is: bots start, restart, are adopted, stopped and removed, whoever dies in between."""

import asyncio
import os
import signal
from typing import Any

import psutil
import pytest

from wopr.accounts.tenants import set_suspended
from wopr.billing.grants import grant_credit
from wopr.core.money import from_usd
from wopr.fleet.build import build_fleet
from wopr.fleet.executor import Executor
from wopr.fleet.farewell import delete_unpaid
from wopr.fleet.plan import CRASHES_MAX
from wopr.fleet.probe import Probe
from wopr.fleet.runtimes.protocol import Instance

World = Any  # of conftest.py, which can't be imported


async def test_a_new_bot_starts_with_its_own_key_and_nothing_of_the_platform(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create("Ada", template="joshua")
    assert (bot["state"], bot["desired"], bot["price_month_usd"]) == ("starting", "running", "3.00")
    await world.reconciler().settle()
    bot = await customer.bot(bot["id"])
    assert (bot["state"], bot["restarts"], bot["last_error"]) == ("running", 0, None)
    assert bot["started_at"] is not None
    environment = psutil.Process(world.record(bot["id"]).pid).environ()
    assert environment["WOPR_GATEWAY_URL"] == f"{world.gateway.url}/v1"
    assert environment["WOPR_SERVICE_KEY"].startswith("wopr_bot_")
    assert "Joshua" in environment["WOPR_BOT_PERSONA"]
    assert not [name for name in environment if "SECRET" in name or "DATABASE" in name]


async def test_the_key_is_sealed_at_rest(world: World) -> None:
    bot = await (await world.customer()).create()
    await world.reconciler().settle()
    secret = psutil.Process(world.record(bot["id"]).pid).environ()["WOPR_SERVICE_KEY"]
    stored = await world.sql("SELECT service_key FROM bots")
    assert secret.encode() not in stored


async def test_a_second_pass_changes_nothing(world: World) -> None:
    bot = await (await world.customer()).create()
    reconciler = world.reconciler()
    await reconciler.settle()
    first = world.record(bot["id"])
    counts = await reconciler.settle()
    assert counts == {"bots": 1, "running": 1}
    assert world.record(bot["id"]) == first


async def test_a_killed_bot_comes_back_and_says_what_happened(world: World, until: Any) -> None:
    customer = await world.customer()
    await world.work()
    bot = await customer.create()

    async def runs() -> bool:
        return bool((await customer.bot(bot["id"]))["state"] == "running")

    await until(runs)
    first = world.record(bot["id"])
    os.kill(first.pid, signal.SIGKILL)

    async def is_back() -> bool:
        now = await customer.bot(bot["id"])
        return bool(now["state"] == "running" and now["restarts"] >= 1)  # more, where starting takes too long

    await until(is_back)
    assert world.record(bot["id"]).pid != first.pid
    assert "SIGKILL" in (await customer.bot(bot["id"]))["last_error"]


async def test_a_new_process_of_the_api_adopts_what_runs(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    first = world.reconciler()
    await first.settle()
    record = world.record(bot["id"])
    await first.close()  # the API is gone; the bot goes on
    await world.reconciler().settle()
    assert world.record(bot["id"]) == record
    assert (await customer.bot(bot["id"]))["restarts"] == 0
    assert len(world.processes()) == 1


async def test_a_bot_that_ended_while_nobody_watched_starts_again_without_blame(world: World, until: Any) -> None:
    customer = await world.customer()
    bot = await customer.create()
    first = world.reconciler()
    await first.settle()
    await first.close()
    os.kill(world.record(bot["id"]).pid, signal.SIGKILL)

    async def is_gone() -> bool:
        return not world.processes()

    await until(is_gone)
    await world.reconciler().settle()
    bot = await customer.bot(bot["id"])
    assert (bot["state"], bot["restarts"]) == ("running", 0)


async def test_two_reconcilers_at_once_start_one_process(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    await asyncio.gather(world.reconciler().settle(), world.reconciler().settle())
    assert len(world.processes()) == 1
    await world.reconciler().settle()
    assert (await customer.bot(bot["id"]))["state"] == "running"


async def test_a_starter_killed_before_it_could_write_leaves_one_bot_at_last(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    first = world.reconciler()
    await first.settle()
    await first.close()
    orphan = world.record(bot["id"]).pid
    (world.home / "bots" / bot["id"] / "run.json").unlink()
    await world.reconciler().settle()
    assert world.processes() == [world.record(bot["id"]).pid]
    assert world.record(bot["id"]).pid != orphan


async def test_a_stop_ends_what_a_killed_starter_left_without_a_record(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    await world.reconciler().settle()
    (world.home / "bots" / bot["id"] / "run.json").unlink()
    await world.sql("UPDATE bot_observed SET instance_id = NULL, ready_at = NULL, state = 'starting'")
    assert len(world.processes()) == 1
    await customer.http.post(f"/fleet/bots/{bot['id']}/stop")
    await world.reconciler().settle()
    assert world.processes() == []
    assert (await customer.bot(bot["id"]))["state"] == "stopped"


async def test_bots_that_hang_while_they_start_do_not_keep_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr("wopr.fleet.reconcile.AT_ONCE_MAX", 1)
    original, mute = Executor._answers, set[str]()

    async def answers(executor: Executor, instance: Instance) -> bool:
        return str(instance.bot_id) not in mute and await original(executor, instance)

    monkeypatch.setattr(Executor, "_answers", answers)
    customer = await world.customer()
    mute.add((await customer.create("Mute"))["id"])
    await world.work()
    other = await customer.create("Ada")

    async def runs() -> bool:
        return bool((await customer.bot(other["id"]))["state"] == "running")

    await until(runs)
    states = {bot["name"]: bot["state"] for bot in (await customer.http.get("/fleet/bots")).json()["bots"]}
    assert states == {"Mute": "starting", "Ada": "running"}


async def test_stop_start_and_restart(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    reconciler = world.reconciler()
    await reconciler.settle()
    first = world.record(bot["id"])
    answer = await customer.http.post(f"/fleet/bots/{bot['id']}/stop")
    assert answer.json()["state"] == "stopping"
    await reconciler.settle()
    assert (await customer.bot(bot["id"]))["state"] == "stopped"
    assert world.processes() == []
    answer = await customer.http.post(f"/fleet/bots/{bot['id']}/start")
    assert answer.json()["state"] == "starting"
    await reconciler.settle()
    second = world.record(bot["id"])
    await customer.http.post(f"/fleet/bots/{bot['id']}/restart")
    await reconciler.settle()
    third = world.record(bot["id"])
    assert len({first.instance_id, second.instance_id, third.instance_id}) == 3
    assert (await customer.bot(bot["id"]))["restarts"] == 0


async def test_changed_settings_reach_the_bot_by_a_restart(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create(persona="You are slow.")
    reconciler = world.reconciler()
    await reconciler.settle()
    answer = await customer.http.patch(f"/fleet/bots/{bot['id']}", json={"persona": "You are quick.", "size": "small"})
    assert (answer.status_code, answer.json()["price_month_usd"], answer.json()["state"]) == (200, "1.50", "starting")
    await reconciler.settle()
    assert psutil.Process(world.record(bot["id"]).pid).environ()["WOPR_BOT_PERSONA"] == "You are quick."
    assert len(world.processes()) == 1


async def test_a_deleted_bot_leaves_no_process_no_data_and_no_key(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    reconciler = world.reconciler()
    await reconciler.settle()
    assert (await customer.http.delete(f"/fleet/bots/{bot['id']}")).status_code == 204
    assert await world.sql("SELECT count(*) FROM api_keys WHERE bot_id IS NOT NULL AND revoked_at IS NULL") == 0
    assert (await customer.http.get("/fleet/bots")).json()["bots"][0]["state"] == "deleting"
    await customer.create("Ada")  # the name is free at once
    await reconciler.settle()
    assert (await customer.http.get(f"/fleet/bots/{bot['id']}")).status_code == 404
    assert [path.name for path in (world.home / "bots").iterdir()] != [bot["id"]]
    assert not (world.home / "bots" / bot["id"]).exists()
    assert await world.sql("SELECT count(*) FROM bots WHERE service_key IS NULL AND persona = ''") == 1


async def test_a_bot_stops_when_the_account_is_suspended_and_comes_back(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    reconciler = world.reconciler()
    await reconciler.settle()
    for suspended, state in ((True, "suspended"), (False, "running")):
        async with world.platform.db.begin() as session:
            await set_suspended(session, customer.tenant_id, suspended)
        await reconciler.settle()
        assert await world.sql("SELECT state FROM bot_observed") == state
    assert world.processes() == [world.record(bot["id"]).pid]


async def test_a_bot_stops_when_credit_is_out_for_good_and_returns_when_it_is_paid(world: World, until: Any) -> None:
    customer = await world.customer()
    await world.work()
    bot = await customer.create()

    async def is_running() -> bool:
        return bool((await customer.bot(bot["id"]))["state"] == "running")

    await until(is_running)
    async with world.platform.db.begin() as session:
        await grant_credit(session, customer.tenant_id, -from_usd("5"), "taken back")
    await world.sql(
        "INSERT INTO entitlements (tenant_id, state, since, warn_since) VALUES (:tenant, 'suspended', now(), now())",
        tenant=customer.tenant_id,
    )
    await world.sql("SELECT pg_notify('wopr_tenants', :tenant)", tenant=str(customer.tenant_id))

    async def is_suspended() -> bool:
        return bool((await customer.bot(bot["id"]))["state"] == "suspended")

    await until(is_suspended)
    said = await customer.http.post(f"/fleet/bots/{bot['id']}/turns", json={"text": "hello"})
    assert (said.status_code, said.json()["error"]["code"]) == (402, "out_of_credit")
    async with world.platform.db.begin() as session:
        await grant_credit(session, customer.tenant_id, from_usd("5"), "paid")
    await until(is_running)


async def test_at_the_last_date_the_bots_and_their_data_are_deleted_unless_credit_came(world: World) -> None:
    unpaid, late, other = [await world.customer() for _ in range(3)]
    gone, kept = await unpaid.create("Ada"), await late.create("Bob")
    await other.create("Eve")
    reconciler = world.reconciler()
    await reconciler.settle()
    for customer, stage in ((unpaid, "deleted"), (late, "deleted"), (other, "archived")):
        async with world.platform.db.begin() as session:
            await grant_credit(session, customer.tenant_id, -from_usd("5"), "taken back")
        await world.sql(
            "INSERT INTO entitlements (tenant_id, state, since, warn_since) VALUES (:tenant, :stage, now(), now())",
            tenant=customer.tenant_id,
            stage=stage,
        )
    async with world.platform.db.begin() as session:
        await grant_credit(session, late.tenant_id, from_usd("5"), "paid at the last moment")
    assert await delete_unpaid(world.platform) == {"customers": 2, "deleted": 1}
    await reconciler.settle()
    assert (await unpaid.http.get("/fleet/bots")).json()["bots"] == []
    assert not (world.home / "bots" / gone["id"]).exists()
    assert (await late.bot(kept["id"]))["state"] == "running"
    stopped = (await other.http.get("/fleet/bots")).json()["bots"][0]
    assert stopped["state"] == "suspended"
    assert (world.home / "bots" / stopped["id"] / "data").exists()
    assert await world.sql("SELECT count(*) FROM api_keys WHERE bot_id IS NOT NULL AND revoked_at IS NOT NULL") == 1
    assert await delete_unpaid(world.platform) == {"customers": 1, "deleted": 0}


async def test_a_bot_that_ends_again_and_again_is_left_alone_until_somebody_starts_it(
    world: World, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr("wopr.fleet.plan.BACKOFF_SECONDS_FIRST", 0.0)
    monkeypatch.setattr("wopr.fleet.look.bot_environment", lambda *_: {"PATH": "/usr/bin:/bin"})
    customer = await world.customer()
    await world.work()
    bot = await customer.create()

    async def has_failed() -> bool:
        return bool((await customer.bot(bot["id"]))["state"] == "failed")

    await until(has_failed)
    bot = await customer.bot(bot["id"])
    assert bot["restarts"] == CRASHES_MAX
    assert "exit code" in bot["last_error"]
    said = await customer.http.post(f"/fleet/bots/{bot['id']}/turns", json={"text": "hello"})
    assert (said.status_code, said.json()["error"]["code"]) == (409, "bot_failed")
    monkeypatch.undo()
    await customer.http.post(f"/fleet/bots/{bot['id']}/start")

    async def is_running() -> bool:
        return bool((await customer.bot(bot["id"]))["state"] == "running")

    await until(is_running)


async def test_a_bot_that_hangs_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wopr.fleet.probe.ANSWER_SECONDS_MAX", 0.2)
    customer = await world.customer()
    bot = await customer.create()
    reconciler, fleet = world.reconciler(), build_fleet(world.platform)
    await reconciler.settle()
    hung = world.record(bot["id"])
    probe = Probe(world.platform, fleet.runtime, fleet.http)
    assert await probe.run_pass() == {"asked": 1, "silent": 0, "given_up": 0}
    os.kill(hung.pid, signal.SIGSTOP)
    assert await probe.run_pass() == {"asked": 1, "silent": 1, "given_up": 0}
    assert await probe.run_pass() == {"asked": 1, "silent": 1, "given_up": 1}
    await fleet.close()
    for module in ("plan", "executor"):
        monkeypatch.setattr(f"wopr.fleet.{module}.READY_SECONDS_MAX", 0.3)
    monkeypatch.setattr("wopr.fleet.plan.BACKOFF_SECONDS_FIRST", 20.0)  # so that the next one has its time to start
    monkeypatch.setattr("wopr.fleet.executor.READY_REQUEST_SECONDS", 0.1)
    monkeypatch.setattr("wopr.fleet.runtimes.ending.GRACE_SECONDS", 0.2)
    await reconciler.settle()
    assert world.processes() == []
    ended = await customer.bot(bot["id"])
    assert (ended["state"], ended["restarts"]) == ("starting", 1)
    assert "did not answer" in ended["last_error"]
    monkeypatch.undo()
    monkeypatch.setattr("wopr.fleet.plan.BACKOFF_SECONDS_FIRST", 0.0)
    await reconciler.settle()
    assert world.record(bot["id"]).pid != hung.pid
    assert (await customer.bot(bot["id"]))["state"] == "running"


async def test_a_bot_that_was_only_slow_for_a_moment_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wopr.fleet.probe.ANSWER_SECONDS_MAX", 0.2)
    customer = await world.customer()
    bot = await customer.create()
    reconciler, fleet = world.reconciler(), build_fleet(world.platform)
    await reconciler.settle()
    slow = world.record(bot["id"])
    probe = Probe(world.platform, fleet.runtime, fleet.http)
    os.kill(slow.pid, signal.SIGSTOP)
    await probe.run_pass()
    await probe.run_pass()
    os.kill(slow.pid, signal.SIGCONT)
    await fleet.close()
    await reconciler.settle()
    assert world.record(bot["id"]) == slow
    assert (await customer.bot(bot["id"]))["state"] == "running"


async def test_a_process_that_belongs_to_no_bot_is_ended(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    reconciler = world.reconciler()
    await reconciler.settle()
    await world.sql("DELETE FROM bots")
    assert (await reconciler.settle())["strays"] == 1
    assert world.processes() == []
    assert (world.home / "bots" / bot["id"] / "data").exists()


async def test_a_key_sealed_with_a_lost_secret_is_replaced(world: World) -> None:
    customer = await world.customer()
    bot = await customer.create()
    await world.sql("UPDATE bots SET service_key = 'damaged'")
    await world.reconciler().settle()
    assert (await customer.bot(bot["id"]))["state"] == "running"
    assert await world.sql("SELECT count(*) FROM api_keys WHERE bot_id IS NOT NULL AND revoked_at IS NULL") == 1
