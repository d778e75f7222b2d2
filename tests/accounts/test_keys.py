"""API keys: shown once, kept as a hash, refused at once when revoked."""

import asyncio
import hashlib
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from wopr.accounts import keys
from wopr.accounts.principal import Scope
from wopr.core.ids import BotId, TenantId, new_id


async def test_a_key_is_shown_once_and_kept_as_a_hash(world) -> None:
    client = await world.person("ada@example.com")
    made = await client.post("/api/keys", json={"name": "laptop", "scope": "write", "expires_in_days": 30})
    assert made.status_code == 201
    key, secret = made.json()["key"], made.json()["secret"]
    assert re.fullmatch(r"wopr_write_[\w-]{43}", secret)
    assert secret.startswith(key["prefix"])
    assert len(key["prefix"]) == len("wopr_write_") + 6
    assert datetime.fromisoformat(key["expires_at"]) == world.clock.now() + timedelta(days=30)
    assert await world.scalar("SELECT key_hash FROM api_keys") == hashlib.sha256(secret.encode()).digest()
    listed = await client.get("/api/keys")
    assert listed.json() == {"keys": [key]}
    assert secret not in listed.text


async def test_the_same_idempotency_key_shows_the_same_key_again_and_makes_no_second(world) -> None:
    client = await world.person("ada@example.com")
    wanted = {"name": "laptop", "scope": "write", "expires_in_days": None}
    once = {"idempotency-key": "form-1"}
    first = await client.post("/api/keys", json=wanted, headers=once)
    reordered = '{"scope": "write",  "name": "laptop", "expires_in_days": null}'
    again = await client.post("/api/keys", content=reordered, headers=once | {"content-type": "application/json"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    other = await client.post("/api/keys", json=wanted | {"scope": "admin"}, headers=once)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert other.json()["error"]["remedy"]
    assert await world.scalar("SELECT count(*) FROM api_keys") == 1
    stored = await world.scalar("SELECT string_agg(encode(answer, 'escape'), '') FROM idempotent_answers")
    assert first.json()["secret"] not in str(stored)
    for bad in ("", "x" * 256):
        answer = await client.post("/api/keys", json=wanted, headers={"idempotency-key": bad})
        assert answer.status_code == 422


async def test_a_repeated_request_without_the_right_to_it_is_refused_like_the_first(world) -> None:
    client = await world.person("ada@example.com")
    wanted, once = {"name": "laptop", "scope": "admin"}, {"idempotency-key": "form-1"}
    assert (await client.post("/api/keys", json=wanted, headers=once)).status_code == 201
    program = await world.with_key(client, Scope.WRITE)
    refused = await program.post("/api/keys", json=wanted, headers=once)
    assert refused.status_code == 403
    assert "secret" not in refused.json()


async def test_a_key_shows_what_it_spent_lately_and_altogether(world) -> None:
    client = await world.person("ada@example.com")
    ids = [
        UUID((await client.post("/api/keys", json={"name": name, "scope": "write"})).json()["key"]["id"])
        for name in ("busy", "idle")
    ]
    today = world.clock.now().date()
    for days, cost in ((0, 5), (29, 10), (0, 20), (30, 1_000_000_000), (0, 0)):
        used = f"(SELECT '{ids[0]}'::uuid AS key_id, timestamptz '{today - timedelta(days=days)} 12:00Z', {cost})"
        async with world.platform.db.begin() as session:
            await session.execute(text(keys.add_spending_sql(f"{used} AS used (key_id, started_at, cost)")))
    listed = (await client.get("/api/keys")).json()["keys"]
    shown = {key["name"]: (key["spend_30d_usd"], key["spend_usd"]) for key in listed}
    assert shown == {"busy": ("0.000000035", "1.000000035"), "idle": ("0.00", "0.00")}


async def test_a_key_speaks_for_its_account(world) -> None:
    client = await world.person("ada@example.com")
    program = await world.with_key(client, Scope.READ)
    seen = (await program.get("/api/auth/session")).json()
    assert seen | {"session": None} == (await client.get("/api/auth/session")).json() | {"session": None}
    assert seen["session"] is None


async def test_a_revoked_key_is_refused_on_the_next_request_and_told_to_every_process(world) -> None:
    client = await world.person("ada@example.com")
    made = (await client.post("/api/keys", json={"name": "laptop", "scope": "read"})).json()
    bearer = {"authorization": f"Bearer {made['secret']}"}
    heard: asyncio.Queue[str] = asyncio.Queue()
    world.platform.notifier.subscribe(keys.KEYS_CHANNEL, heard.put_nowait)
    await world.platform.notifier.start()
    await asyncio.wait_for(world.platform.notifier.connected.wait(), 10)
    try:
        assert (await client.get("/api/auth/session", headers=bearer)).status_code == 200
        assert (await client.delete(f"/api/keys/{made['key']['id']}")).status_code == 204
        assert (await client.get("/api/auth/session", headers=bearer)).status_code == 401
        told = [await asyncio.wait_for(heard.get(), 10) for _ in range(2)]
    finally:
        await world.platform.notifier.stop()
    assert told == ["", hashlib.sha256(made["secret"].encode()).hexdigest()]
    assert (await client.delete(f"/api/keys/{made['key']['id']}")).status_code == 204
    [listed] = (await client.get("/api/keys")).json()["keys"]
    assert listed["revoked_at"] is not None


async def test_an_expired_key_is_refused(world) -> None:
    client = await world.person("ada@example.com")
    body = {"name": "short", "scope": "read", "expires_in_days": 1}
    secret = (await client.post("/api/keys", json=body)).json()["secret"]
    bearer = {"authorization": f"Bearer {secret}"}
    world.clock.advance(24 * 3600 - 1)
    assert (await client.get("/api/auth/session", headers=bearer)).status_code == 200
    world.clock.advance(1)
    refused = await client.get("/api/auth/session", headers=bearer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "bad_key")


async def test_a_key_of_an_account_without_people_is_refused(world) -> None:
    client = await world.person("ada@example.com")
    program = await world.with_key(client, Scope.READ)
    async with world.platform.db.begin() as session:
        await session.execute(text("DELETE FROM memberships"))
    refused = await program.get("/api/keys")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "bad_key")


async def test_the_use_of_a_key_is_noted(world) -> None:
    client = await world.person("ada@example.com")
    program = await world.with_key(client, Scope.READ)
    assert (await client.get("/api/keys")).json()["keys"][0]["last_used_at"] is None
    await program.get("/api/keys")
    used = (await client.get("/api/keys")).json()["keys"][0]["last_used_at"]
    assert datetime.fromisoformat(used) == world.clock.now()


async def test_many_uses_are_written_at_once_and_never_backwards(world) -> None:
    client = await world.person("ada@example.com")
    now = world.clock.now()
    for name in ("a", "b"):
        await client.post("/api/keys", json={"name": name, "scope": "read"})
    b, a = (row["id"] for row in (await client.get("/api/keys")).json()["keys"])
    async with world.platform.db.begin() as session:
        await keys.touch(session, {})
        await keys.touch(session, {a: now, b: now + timedelta(seconds=5)})
        await keys.touch(session, {a: now + timedelta(seconds=1), b: now})
    listed = {row["name"]: row["last_used_at"] for row in (await client.get("/api/keys")).json()["keys"]}
    assert datetime.fromisoformat(listed["a"]) == now + timedelta(seconds=1)
    assert datetime.fromisoformat(listed["b"]) == now + timedelta(seconds=5)


async def test_another_accounts_key_is_not_there(world) -> None:
    ada, bob = await world.person("ada@example.com"), await world.person("bob@example.com")
    made = (await ada.post("/api/keys", json={"name": "laptop", "scope": "read"})).json()
    assert (await bob.get("/api/keys")).json() == {"keys": []}
    assert (await bob.delete(f"/api/keys/{made['key']['id']}")).status_code == 404
    bearer = {"authorization": f"Bearer {made['secret']}"}
    assert (await bob.get("/api/keys", headers=bearer)).json()["keys"][0]["id"] == made["key"]["id"]


async def test_a_bots_key_is_neither_listed_nor_revocable_by_people_and_good_for_the_gateway_only(world) -> None:
    ada = await world.person("ada@example.com")
    tenant, bot = await world.tenant_of(ada), BotId(new_id())
    async with world.platform.db.begin() as session:
        issued = await keys.issue(session, tenant, name="service", scope=Scope.WRITE, bot_id=bot)
    assert issued.secret.startswith("wopr_bot_")
    assert (await ada.get("/api/keys")).json() == {"keys": []}
    assert (await ada.delete(f"/api/keys/{issued.id}")).status_code == 404
    refused = await ada.get("/api/auth/session", headers={"authorization": f"Bearer {issued.secret}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "bot_key")
    key_hash = hashlib.sha256(issued.secret.encode()).digest()
    async with world.platform.db.begin() as session:
        record = await keys.find_by_hash(session, key_hash)
        assert record is not None
        assert (record.bot_id, record.tenant_id, record.scope) == (bot, tenant, Scope.WRITE)
        assert (record.revoked, record.tenant_suspended, record.email_verified) == (False, False, True)
        assert await keys.revoke_for_bot(session, bot) == 1
        assert await keys.revoke_for_bot(session, bot) == 0
    async with world.platform.db.begin() as session:
        record = await keys.find_by_hash(session, key_hash)
        assert record is not None
        assert record.revoked
        assert await keys.find_by_hash(session, b"unknown") is None


async def test_an_account_has_a_hundred_living_keys_at_most_even_when_asked_at_once(world, monkeypatch) -> None:
    monkeypatch.setattr(keys, "KEYS_PER_TENANT_MAX", 3)
    client = await world.person("ada@example.com")
    body = {"name": "k", "scope": "read"}
    answers = await asyncio.gather(*(client.post("/api/keys", json=body) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 3
    one = (await client.get("/api/keys")).json()["keys"][0]["id"]
    await client.delete(f"/api/keys/{one}")
    assert (await client.post("/api/keys", json=body)).status_code == 201


async def test_keys_that_are_over_leave_room_for_others(world, monkeypatch) -> None:
    monkeypatch.setattr(keys, "KEYS_PER_TENANT_MAX", 2)
    client = await world.person("ada@example.com")
    tenant = TenantId(await world.scalar("SELECT tenant_id FROM memberships"))
    async with world.platform.db.begin() as session:
        for name in ("old", "older"):
            await keys.issue(session, tenant, name=name, scope=Scope.READ, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    body = {"name": "k", "scope": "read"}
    assert [(await client.post("/api/keys", json=body)).status_code for _ in range(3)] == [201, 201, 409]


async def test_an_administrators_admin_key_administers_the_platform_and_lesser_keys_do_not(world) -> None:
    root, ada = await world.administrator(), await world.person("ada@example.com")
    for owner, scope, status in ((root, "admin", 200), (root, "write", 403), (ada, "admin", 403)):
        program = await world.with_key(owner, Scope(scope))
        assert (await program.get("/guarded/platform-admin")).status_code == status


async def test_a_header_that_is_no_key_of_ours_is_refused_even_beside_a_cookie(world) -> None:
    client = await world.person("ada@example.com")
    for header in ("Bearer wopr_read_x", "Bearer sk-other", "Basic d29wcjp4", "Bearer", "", "Bearer wopr_" + "x" * 999):
        answer = await client.get("/api/auth/session", headers={"authorization": header})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_key"), header


async def test_a_key_that_makes_no_sense_is_refused(world) -> None:
    client = await world.person("ada@example.com")
    for change in ({"scope": "root"}, {"expires_in_days": 0}, {"expires_in_days": 99_999}, {"name": ""}, {"extra": 1}):
        answer = await client.post("/api/keys", json={"name": "k", "scope": "read"} | change)
        assert answer.status_code == 422, change
