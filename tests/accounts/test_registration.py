"""Signing up, and proving that an address is one's own."""

import asyncio
import hashlib

PASSWORD = "violet anchor tundra biscuit"
OTHER = "quarry lantern oboe mustard"


async def test_a_new_person_signs_up_proves_the_address_and_is_signed_in(world) -> None:
    client = await world.client()
    answer = await client.post(
        "/api/auth/sign-up", json={"email": " Ada@Example.com ", "password": PASSWORD, "name": "Ada"}
    )
    assert (answer.status_code, answer.json()) == (202, {"status": "verification_sent"})
    assert "set-cookie" not in answer.headers
    [mail] = await world.mails("ada@example.com")
    assert "http://localhost:3000/verify?token=" in mail.text
    assert mail.html is not None
    assert "Confirm my address" in mail.html
    answer = await client.post("/api/auth/verify", json={"token": await world.token("ada@example.com")})
    assert answer.status_code == 200
    body = answer.json()
    assert body["user"] | {"id": ""} == {
        "id": "",
        "email": "ada@example.com",
        "name": "Ada",
        "email_verified": True,
        "platform_admin": False,
    }
    assert body["tenant"] | {"id": ""} == {"id": "", "name": "Ada", "role": "owner", "suspended": False}
    assert (await client.get("/api/auth/session")).json() == body


async def test_the_links_secret_is_kept_as_a_hash_only(world) -> None:
    await world.sign_up("ada@example.com")
    token = await world.token("ada@example.com")
    assert await world.scalar("SELECT token_hash FROM link_tokens") == hashlib.sha256(token.encode()).digest()


async def test_a_confirmation_link_works_once(world) -> None:
    client = await world.sign_up("ada@example.com")
    token = await world.token("ada@example.com")
    assert (await client.post("/api/auth/verify", json={"token": token})).status_code == 200
    again = await client.post("/api/auth/verify", json={"token": token})
    assert again.status_code == 400
    assert again.json()["error"]["code"] == "bad_link"


async def test_of_many_who_use_one_link_at_once_exactly_one_comes_in(world) -> None:
    await world.sign_up("ada@example.com")
    token = await world.token("ada@example.com")
    clients = [await world.client() for _ in range(8)]
    answers = await asyncio.gather(*(client.post("/api/auth/verify", json={"token": token}) for client in clients))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    assert await world.scalar("SELECT count(*) FROM sessions") == 1


async def test_two_links_of_one_person_used_at_once_admit_one(world) -> None:
    await world.sign_up("ada@example.com")
    first = await world.token("ada@example.com")
    client = await world.client()
    await client.post("/api/auth/resend-verification", json={"email": "ada@example.com"})
    second = await world.token("ada@example.com")
    assert first != second
    clients = [await world.client() for _ in range(6)]
    answers = await asyncio.gather(
        *(client.post("/api/auth/verify", json={"token": (first, second)[i % 2]}) for i, client in enumerate(clients))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 5


async def test_a_confirmation_link_ends_after_a_day(world) -> None:
    client = await world.sign_up("ada@example.com")
    token = await world.token("ada@example.com")
    world.clock.advance(24 * 3600 + 1)
    assert (await client.post("/api/auth/verify", json={"token": token})).status_code == 400


async def test_a_confirmation_link_is_no_reset_link(world) -> None:
    client = await world.sign_up("ada@example.com")
    token = await world.token("ada@example.com")
    answer = await client.post("/api/auth/reset", json={"token": token, "password": OTHER})
    assert answer.status_code == 400
    assert (await client.post("/api/auth/one-time", json={"token": token})).status_code == 400


async def test_a_sign_up_with_a_known_address_answers_the_same_and_tells_its_owner(world) -> None:
    await world.person("ada@example.com")
    client = await world.client()
    known = await client.post("/api/auth/sign-up", json={"email": "ada@example.com", "password": OTHER})
    unknown = await client.post("/api/auth/sign-up", json={"email": "bob@example.com", "password": OTHER})
    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    assert set(known.headers) == set(unknown.headers)
    assert (await world.mails("ada@example.com"))[-1].subject == "Someone tried to sign up with your address"
    wrong = await client.post("/api/auth/sign-in", json={"email": "ada@example.com", "password": OTHER})
    assert wrong.status_code == 401


async def test_a_stranger_who_claimed_the_address_first_is_out_once_its_owner_proves_it(world) -> None:
    stranger = await world.unproven("ada@example.com")
    owner = await world.sign_up("ada@example.com", OTHER)
    assert (await owner.post("/api/auth/verify", json={"token": await world.token("ada@example.com")})).is_success
    assert (await stranger.get("/api/auth/session")).status_code == 401
    for password, status in ((PASSWORD, 401), (OTHER, 200)):
        answer = await stranger.post("/api/auth/sign-in", json={"email": "ada@example.com", "password": password})
        assert answer.status_code == status


async def test_a_repeated_sign_up_does_not_change_the_password_by_itself(world) -> None:
    await world.sign_up("ada@example.com", PASSWORD)
    client = await world.sign_up("ada@example.com", OTHER)
    for password, status in ((OTHER, 401), (PASSWORD, 200)):
        answer = await client.post("/api/auth/sign-in", json={"email": "ada@example.com", "password": password})
        assert answer.status_code == status


async def test_many_sign_ups_with_one_address_at_once_make_one_account(world) -> None:
    clients = [await world.client() for _ in range(5)]
    body = {"email": "ada@example.com", "password": PASSWORD}
    answers = await asyncio.gather(*(client.post("/api/auth/sign-up", json=body) for client in clients))
    assert {answer.status_code for answer in answers} == {202}
    assert await world.scalar("SELECT count(*) FROM users") == 1
    assert await world.scalar("SELECT count(*) FROM tenants") == 1


async def test_the_link_is_sent_again_only_to_those_who_wait_for_it(world) -> None:
    await world.sign_up("waiting@example.com")
    await world.person("proven@example.com")
    client = await world.client()
    answers = [
        await client.post("/api/auth/resend-verification", json={"email": f"{name}@example.com"})
        for name in ("waiting", "proven", "unknown")
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(202, '{"status":"verification_sent"}')}
    assert len(await world.mails("waiting@example.com")) == 2
    assert len(await world.mails("proven@example.com")) == 1
    assert await world.mails("unknown@example.com") == []


async def test_weak_passwords_do_not_use_up_the_mails_of_the_address(world) -> None:
    client = await world.client()
    for _ in range(8):
        weak = await client.post("/api/auth/sign-up", json={"email": "ada@example.com", "password": "too short"})
        assert weak.status_code == 422, weak.text
    answer = await client.post("/api/auth/sign-up", json={"email": "ada@example.com", "password": PASSWORD})
    assert answer.status_code == 202


async def test_a_weak_password_is_refused_with_what_to_do(world) -> None:
    client = await world.client()
    for password in ("short", "password1234", "x" * 300):
        answer = await client.post("/api/auth/sign-up", json={"email": "ada@example.com", "password": password})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "weak_password")
        assert answer.json()["error"]["remedy"]
    assert await world.scalar("SELECT count(*) FROM users") == 0


async def test_what_is_no_address_is_refused(world) -> None:
    client = await world.client()
    for email in ("ada", "ada@", "@example.com", "a b@example.com", "ada@exa\nmple.com", "ada@-x.com"):
        answer = await client.post("/api/auth/sign-up", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 422, email


async def test_an_unproven_person_may_sign_in_and_is_told_so_but_gets_no_key(world) -> None:
    client = await world.unproven("ada@example.com")
    assert (await client.get("/api/auth/session")).json()["user"]["email_verified"] is False
    answer = await client.post("/api/keys", json={"name": "k", "scope": "read"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "email_unverified")
