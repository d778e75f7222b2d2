"""Administrators: one-time links, the command line, and the list of customers."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wopr.accounts import admin, keys, tenants
from wopr.accounts.principal import Scope
from wopr.core.errors import BadRequest, Conflict, NotFound
from wopr.core.ids import new_id


async def link_for(world, email: str) -> str:
    async with world.platform.db.begin() as session:
        return await admin.one_time_link(session, world.platform.settings, email, world.clock.now())


async def enter(world, link: str):
    return await (await world.client()).post("/api/auth/one-time", json={"token": link.partition("token=")[2]})


async def test_a_one_time_link_makes_the_administrator_and_signs_in_once(world) -> None:
    link = await link_for(world, "Root@WOPR.test")
    assert link.startswith("http://localhost:3000/welcome?token=")
    answer = await enter(world, link)
    assert answer.status_code == 200
    user = answer.json()["user"]
    assert (user["email"], user["platform_admin"], user["email_verified"]) == ("root@wopr.test", True, True)
    assert (await enter(world, link)).status_code == 400


async def test_of_many_who_use_the_link_at_once_one_comes_in(world) -> None:
    link = await link_for(world, "root@wopr.test")
    answers = await asyncio.gather(*(enter(world, link) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 5


async def test_a_one_time_link_ends_after_an_hour(world) -> None:
    link = await link_for(world, "root@wopr.test")
    world.clock.advance(3601)
    assert (await enter(world, link)).status_code == 400


async def test_no_link_is_made_for_a_customer(world) -> None:
    await world.person("ada@example.com")
    with pytest.raises(Conflict, match="not an administrator") as refused:
        await link_for(world, "ada@example.com")
    assert "wopr admin create" in refused.value.remedy


async def test_an_account_whose_address_was_never_proven_is_emptied_before_it_administers(world) -> None:
    stranger = await world.unproven("root@wopr.test")
    old_link = await world.token("root@wopr.test")
    async with world.platform.db.begin() as session:
        assert (await admin.ensure_administrator(session, "root@wopr.test")).changed
        assert not (await admin.ensure_administrator(session, "root@wopr.test")).changed
    assert (await stranger.get("/api/auth/session")).status_code == 401
    assert (await stranger.post("/api/auth/verify", json={"token": old_link})).status_code == 400
    body = {"email": "root@wopr.test", "password": "violet anchor tundra biscuit"}
    assert (await stranger.post("/api/auth/sign-in", json=body)).status_code == 401


async def test_a_proven_person_who_becomes_an_administrator_keeps_the_password(world) -> None:
    ada = await world.person("ada@example.com")
    async with world.platform.db.begin() as session:
        await admin.ensure_administrator(session, "ada@example.com")
    assert (await ada.get("/guarded/platform-admin")).status_code == 200
    body = {"email": "ada@example.com", "password": "violet anchor tundra biscuit"}
    assert (await ada.post("/api/auth/sign-in", json=body)).status_code == 200


async def test_customers_are_listed_in_pages_and_found_by_name_address_and_id(world) -> None:
    for name in ("ada", "bob", "c_l"):
        await world.person(f"{name}@example.com")
    async with world.platform.db.begin() as session:
        first = await tenants.list_tenants(session, limit=2)
        assert [t.owner_email for t in first.tenants] == ["c_l@example.com", "bob@example.com"]
        assert first.next_cursor is not None
        rest = await tenants.list_tenants(session, cursor=first.next_cursor, limit=2)
        assert ([t.name for t in rest.tenants], rest.next_cursor) == (["ada"], None)
        for query in ("BOB", "bob@exam", str(first.tenants[1].id)):
            found = await tenants.list_tenants(session, query)
            assert [t.name for t in found.tenants] == ["bob"]
        assert [t.name for t in (await tenants.list_tenants(session, "_")).tenants] == ["c_l"]
        assert (await tenants.list_tenants(session, "nobody")).tenants == []
        assert await tenants.owner_email(session, rest.tenants[0].id) == "ada@example.com"
        with pytest.raises(BadRequest):
            await tenants.list_tenants(session, cursor="x")
        with pytest.raises(NotFound):
            await tenants.get_tenant(session, new_id())


async def test_a_suspension_is_told_to_every_process_and_known_with_the_key(world) -> None:
    tenant = await world.tenant_of(await world.person("ada@example.com"))
    heard: asyncio.Queue[str] = asyncio.Queue()
    world.platform.notifier.subscribe(tenants.TENANTS_CHANNEL, heard.put_nowait)
    await world.platform.notifier.start()
    await asyncio.wait_for(world.platform.notifier.connected.wait(), 10)
    try:
        async with world.platform.db.begin() as session:
            assert await tenants.set_suspended(session, tenant, True)
            assert not await tenants.set_suspended(session, tenant, True)
            issued = await keys.issue(session, tenant, name="k", scope=Scope.READ)
        assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == ["", str(tenant)]
    finally:
        await world.platform.notifier.stop()
    async with world.platform.db.begin() as session:
        record = await keys.find_by_hash(session, keys.fingerprint(issued.secret))
        assert record is not None
        assert record.tenant_suspended
        assert await tenants.set_suspended(session, tenant, False)


def run(address: str, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from wopr.cli.admin import app; from wopr.core.errors import WoprError\n" + (
        "try: app()\nexcept WoprError as error: print(error.message, '|', error.remedy, file=sys.stderr); sys.exit(1)"
    )
    environment = {**os.environ, "DATABASE_URL": address, "WOPR_HOME": str(home), "UI_URL": "https://wopr.example"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)


def test_the_command_line_makes_administrators_and_links(database_address: str, tmp_path: Path) -> None:
    def document(*arguments: str) -> object:
        done = run(database_address, tmp_path, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    none = run(database_address, tmp_path, "link")
    assert none.returncode == 1
    assert "wopr admin create" in none.stderr
    assert document("create", "Root@wopr.test", "--dry-run") == {
        "email": "root@wopr.test",
        "changed": True,
        "dry_run": True,
    }
    assert document("list") == {"administrators": []}
    made = document("create", "root@wopr.test")
    assert isinstance(made, dict)
    assert (made["email"], made["changed"]) == ("root@wopr.test", True)
    assert made["link"].startswith("https://wopr.example/welcome?token=")
    again = document("link")
    assert isinstance(again, dict)
    assert again["email"] == "root@wopr.test"
    assert again["link"] != made["link"]
    assert document("list") == {"administrators": ["root@wopr.test"]}
    journal = (tmp_path / "journal.jsonl").read_text(encoding="utf-8")
    assert "admin.create" in journal
    assert "token=" not in journal
