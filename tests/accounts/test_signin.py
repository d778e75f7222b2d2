"""Signing in and out, sessions, and new passwords."""

import asyncio
import dataclasses
import hashlib
from http.cookies import SimpleCookie

from wopr.accounts import passwords
from wopr.core.db import Database

PASSWORD = "violet anchor tundra biscuit"
OTHER = "quarry lantern oboe mustard"


def credentials(email: str = "ada@example.com", password: str = PASSWORD) -> dict[str, str]:
    return {"email": email, "password": password}


async def test_signing_in_sets_a_cookie_that_scripts_and_other_sites_do_not_get(world) -> None:
    await world.person("ada@example.com")
    client = await world.client()
    answer = await client.post("/api/auth/sign-in", json=credentials())
    assert answer.status_code == 200
    cookie = SimpleCookie(answer.headers["set-cookie"])["wopr_session"]
    assert cookie["httponly"] is True
    assert (cookie["samesite"], cookie["path"], cookie["domain"], cookie["secure"]) == ("lax", "/", "", "")
    assert int(cookie["max-age"]) == 30 * 24 * 3600
    assert "wopr_session" not in answer.text


async def test_only_the_hash_of_the_sessions_token_is_kept(world) -> None:
    client = await world.person("ada@example.com")
    token = client.cookies["wopr_session"].rpartition(".")[0]
    assert await world.scalar("SELECT token_hash FROM sessions") == hashlib.sha256(token.encode()).digest()


async def test_the_password_is_kept_as_argon2id(world) -> None:
    await world.sign_up("ada@example.com")
    kept = await world.scalar("SELECT password_hash FROM users")
    assert str(kept).startswith("$argon2id$")
    assert await world.scalar("SELECT count(*) FROM users WHERE users::text LIKE '%violet%'") == 0


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(world, monkeypatch) -> None:
    await world.person("ada@example.com")
    compared: list[str | None] = []
    genuine = passwords.verify_password

    async def counted(kept: str | None, password: str) -> bool:
        compared.append(kept)
        return await genuine(kept, password)

    monkeypatch.setattr(passwords, "verify_password", counted)
    client = await world.client()
    wrong = await client.post("/api/auth/sign-in", json=credentials(password=OTHER))
    unknown = await client.post("/api/auth/sign-in", json=credentials("nobody@example.com"))
    assert (wrong.status_code, wrong.content) == (unknown.status_code, unknown.content) == (401, wrong.content)
    assert set(wrong.headers) == set(unknown.headers)
    assert len(compared) == 2
    assert compared[1] is None


async def test_without_an_account_a_hash_is_compared_all_the_same(monkeypatch) -> None:
    seen: list[str] = []
    genuine = passwords._matches
    monkeypatch.setattr(passwords, "_matches", lambda kept, given: seen.append(kept) or genuine(kept, given))
    assert not await passwords.verify_password(None, PASSWORD)
    assert seen[0].split("$")[2:4] == (await passwords.hash_password(PASSWORD)).split("$")[2:4]


async def test_nobody_gets_401_and_a_tampered_cookie_is_nobody(world) -> None:
    client = await world.client()
    assert (await client.get("/api/auth/session")).status_code == 401
    ada = await world.person("ada@example.com")
    value = ada.cookies["wopr_session"]
    for bad in (value[:-1], value + "x", value.partition(".")[0], "." + value, "", "ü", "a" * 5_000):
        headers = [(b"cookie", f"wopr_session={bad}".encode())]
        assert (await client.get("/api/auth/session", headers=headers)).status_code == 401, bad


async def test_signing_out_ends_the_session_and_clears_the_cookie(world) -> None:
    client = await world.person("ada@example.com")
    kept = client.cookies["wopr_session"]
    answer = await client.post("/api/auth/sign-out")
    assert answer.status_code == 204
    assert "wopr_session" not in client.cookies
    answer = await client.get("/api/auth/session", headers={"cookie": f"wopr_session={kept}"})
    assert answer.status_code == 401
    assert (await client.post("/api/auth/sign-out")).status_code == 204


async def test_signing_out_everywhere_ends_every_session_of_this_person_only(world) -> None:
    first = await world.person("ada@example.com")
    second = await world.client()
    await second.post("/api/auth/sign-in", json=credentials())
    stranger = await world.person("bob@example.com")
    assert (await first.post("/api/auth/sign-out-everywhere")).status_code == 204
    assert [(await c.get("/api/auth/session")).status_code for c in (first, second, stranger)] == [401, 401, 200]


async def test_sessions_are_listed_with_where_they_began(world) -> None:
    first = await world.person("ada@example.com")
    world.clock.advance(10)
    second = await world.client("203.0.113.9")
    await second.post("/api/auth/sign-in", json=credentials(), headers={"user-agent": "Telephone/1.0 " + "x" * 900})
    listed = (await second.get("/api/account/sessions")).json()["sessions"]
    assert [row["current"] for row in listed] == [True, False]
    assert listed[0]["ip"] == "203.0.113.9"
    assert listed[0]["user_agent"].startswith("Telephone/1.0")
    assert len(listed[0]["user_agent"]) == 300
    assert {row["id"] for row in listed} == {
        row["id"] for row in (await first.get("/api/account/sessions")).json()["sessions"]
    }


async def test_a_revoked_session_is_refused_on_the_next_request(world) -> None:
    first = await world.person("ada@example.com")
    second = await world.client()
    await second.post("/api/auth/sign-in", json=credentials())
    mine = (await second.get("/api/auth/session")).json()["session"]["id"]
    assert (await first.delete(f"/api/account/sessions/{mine}")).status_code == 204
    assert (await second.get("/api/auth/session")).status_code == 401
    assert (await first.delete(f"/api/account/sessions/{mine}")).status_code == 404


async def test_a_session_and_a_key_that_one_process_ends_are_refused_by_the_next_request_to_another(world) -> None:
    owner = await world.person("ada@example.com")
    made = (await owner.post("/api/keys", json={"name": "k", "scope": "read"})).json()
    other = Database(world.platform.db.url, pool_size=2)
    try:
        elsewhere = await world.client(app=world.application(dataclasses.replace(world.platform, db=other)))
        elsewhere.cookies = owner.cookies
        bearer = {"authorization": f"Bearer {made['secret']}"}
        for headers in ({}, bearer):
            assert (await elsewhere.get("/api/auth/session", headers=headers)).status_code == 200
        await owner.delete(f"/api/keys/{made['key']['id']}")
        assert (await elsewhere.get("/api/auth/session", headers=bearer)).status_code == 401
        kept = dict(owner.cookies)
        await owner.post("/api/auth/sign-out-everywhere")
        cookie = {"cookie": "; ".join(f"{name}={value}" for name, value in kept.items())}
        assert (await elsewhere.get("/api/auth/session", headers=cookie)).status_code == 401
    finally:
        await other.dispose()


async def test_a_session_ends_by_itself_after_thirty_days(world) -> None:
    client = await world.person("ada@example.com")
    world.clock.advance(30 * 24 * 3600 - 1)
    assert (await client.get("/api/auth/session")).status_code == 200
    world.clock.advance(2)
    assert (await client.get("/api/auth/session")).status_code == 401


async def test_the_use_of_a_session_is_written_at_most_once_a_minute(world) -> None:
    client = await world.person("ada@example.com")
    began = await world.scalar("SELECT last_used_at FROM sessions")
    world.clock.advance(59)
    await client.get("/api/auth/session")
    assert await world.scalar("SELECT last_used_at FROM sessions") == began
    world.clock.advance(1)
    await client.get("/api/auth/session")
    assert await world.scalar("SELECT last_used_at FROM sessions") == world.clock.now()


async def test_the_longest_unused_sessions_end_beyond_fifty(world) -> None:
    oldest = await world.person("ada@example.com")
    for _ in range(50):
        world.clock.advance(61)
        await (await world.client()).post("/api/auth/sign-in", json=credentials())
    assert (await oldest.get("/api/auth/session")).status_code == 401
    assert await world.scalar("SELECT count(*) FROM sessions") == 50


async def test_a_new_password_by_mail_ends_all_sessions_and_is_told(world) -> None:
    client = await world.person("ada@example.com")
    guest = await world.client()
    asked = await guest.post("/api/auth/reset-request", json={"email": "ada@example.com"})
    assert (asked.status_code, asked.json()) == (202, {"status": "sent"})
    token = await world.token("ada@example.com")
    assert "http://localhost:3000/reset?token=" in (await world.mails("ada@example.com"))[-1].text
    answer = await guest.post("/api/auth/reset", json={"token": token, "password": OTHER})
    assert answer.status_code == 204
    assert (await client.get("/api/auth/session")).status_code == 401
    assert (await world.mails("ada@example.com"))[-1].subject == "Your WOPR password was changed"
    assert (await guest.post("/api/auth/sign-in", json=credentials())).status_code == 401
    assert (await guest.post("/api/auth/sign-in", json=credentials(password=OTHER))).status_code == 200
    again = await guest.post("/api/auth/reset", json={"token": token, "password": OTHER})
    assert again.status_code == 400


async def test_a_reset_for_an_unknown_address_answers_the_same_and_mails_nothing(world) -> None:
    await world.person("ada@example.com")
    client = await world.client()
    known = await client.post("/api/auth/reset-request", json={"email": "ada@example.com"})
    unknown = await client.post("/api/auth/reset-request", json={"email": "bob@example.com"})
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    assert await world.mails("bob@example.com") == []


async def test_of_many_resets_with_one_link_exactly_one_takes_effect(world) -> None:
    await world.person("ada@example.com")
    client = await world.client()
    await client.post("/api/auth/reset-request", json={"email": "ada@example.com"})
    token = await world.token("ada@example.com")
    tries = [f"{OTHER} number {word}" for word in ("one", "two", "three", "four")]
    answers = await asyncio.gather(
        *(client.post("/api/auth/reset", json={"token": token, "password": password}) for password in tries)
    )
    assert sorted(answer.status_code for answer in answers) == [204, 400, 400, 400]
    winner = tries[[answer.status_code for answer in answers].index(204)]
    assert (await client.post("/api/auth/sign-in", json=credentials(password=winner))).status_code == 200


async def test_a_refused_new_password_leaves_the_link_usable(world) -> None:
    await world.person("adalovelace@example.com")
    client = await world.client()
    await client.post("/api/auth/reset-request", json={"email": "adalovelace@example.com"})
    token = await world.token("adalovelace@example.com")
    weak = await client.post("/api/auth/reset", json={"token": token, "password": "adalovelace1815"})
    assert (weak.status_code, weak.json()["error"]["code"]) == (422, "weak_password")
    assert (await client.post("/api/auth/reset", json={"token": token, "password": OTHER})).status_code == 204


async def test_a_reset_link_ends_after_an_hour(world) -> None:
    await world.person("ada@example.com")
    client = await world.client()
    await client.post("/api/auth/reset-request", json={"email": "ada@example.com"})
    token = await world.token("ada@example.com")
    world.clock.advance(3601)
    assert (await client.post("/api/auth/reset", json={"token": token, "password": OTHER})).status_code == 400


async def test_a_changed_password_keeps_this_session_and_ends_the_others(world) -> None:
    client = await world.person("ada@example.com")
    other = await world.client()
    await other.post("/api/auth/sign-in", json=credentials())
    await other.post("/api/auth/reset-request", json={"email": "ada@example.com"})
    old_link = await world.token("ada@example.com")
    wrong = await client.post("/api/account/password", json={"current": OTHER, "new": OTHER})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (403, "wrong_password")
    assert (await client.post("/api/account/password", json={"current": PASSWORD, "new": OTHER})).status_code == 204
    assert (await client.get("/api/auth/session")).status_code == 200
    assert (await other.get("/api/auth/session")).status_code == 401
    assert (await world.mails("ada@example.com"))[-1].subject == "Your WOPR password was changed"
    assert (await other.post("/api/auth/reset", json={"token": old_link, "password": PASSWORD})).status_code == 400
    assert (await other.post("/api/auth/sign-in", json=credentials(password=OTHER))).status_code == 200


async def test_a_person_is_renamed(world) -> None:
    client = await world.person("ada@example.com")
    answer = await client.patch("/api/account", json={"name": "  Countess Ada "})
    assert answer.json()["user"]["name"] == "Countess Ada"
    for bad in ("", " ", "a\x00b", "x" * 101):
        assert (await client.patch("/api/account", json={"name": bad})).status_code == 422


async def test_an_outdated_hash_is_renewed_at_the_next_sign_in(world, monkeypatch) -> None:
    client = await world.person("ada@example.com")
    before = await world.scalar("SELECT password_hash FROM users")
    monkeypatch.setattr(passwords, "is_outdated", lambda _kept: True)
    assert (await client.post("/api/auth/sign-in", json=credentials())).status_code == 200
    after = await world.scalar("SELECT password_hash FROM users")
    assert after != before
    monkeypatch.undo()
    assert (await client.post("/api/auth/sign-in", json=credentials())).status_code == 200


async def test_a_flood_of_sign_ins_is_turned_away_rather_than_queued_without_end(monkeypatch) -> None:
    room = passwords.threading.BoundedSemaphore(1)
    monkeypatch.setattr(passwords, "_room", room)
    first = asyncio.create_task(passwords.hash_password(PASSWORD))
    await asyncio.sleep(0)
    refused = await asyncio.gather(passwords.hash_password(PASSWORD), return_exceptions=True)
    assert getattr(refused[0], "code", None) == "busy"
    assert (await first).startswith("$argon2id$")
    assert (await passwords.hash_password(PASSWORD)).startswith("$argon2id$")
