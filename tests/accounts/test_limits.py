"""Rate limits: by address and by account, the same in every process, counted even when the request fails."""

import asyncio
from datetime import timedelta

import pytest

from wopr.accounts import limits
from wopr.accounts.limits import Rule
from wopr.core.db import Database
from wopr.core.errors import TooManyRequests

RULE = Rule("test", burst=3, refill_seconds=10)
PASSWORD = "violet anchor tundra biscuit"


async def allowed(world, times: int, rule: Rule = RULE, subject: str = "x", db: Database | None = None) -> int:
    async def once() -> int:
        try:
            await limits.take(db or world.platform.db, rule, subject, world.clock.now())
        except TooManyRequests:
            return 0
        return 1

    return sum(await asyncio.gather(*(once() for _ in range(times))))


async def test_a_burst_passes_and_then_one_at_each_refill(world) -> None:
    assert await allowed(world, 10) == 3
    world.clock.advance(9.9)
    assert await allowed(world, 2) == 0
    world.clock.advance(0.2)
    assert await allowed(world, 2) == 1
    world.clock.advance(3600)
    assert await allowed(world, 10) == 3
    assert await allowed(world, 10, subject="y") == 3


async def test_a_refusal_says_when_to_come_back_and_that_is_true(world) -> None:
    await allowed(world, 3)
    world.clock.advance(4)
    with pytest.raises(TooManyRequests) as refused:
        await limits.take(world.platform.db, RULE, "x", world.clock.now())
    assert refused.value.retry_after_seconds == pytest.approx(6)
    assert refused.value.headers() == {"retry-after": "6"}
    world.clock.advance(6)
    assert await allowed(world, 1) == 1


async def test_two_processes_share_one_bucket(world) -> None:
    other = Database(world.platform.db.url, pool_size=3)
    try:
        assert sum(await asyncio.gather(allowed(world, 5), allowed(world, 5, db=other))) == 3
    finally:
        await other.dispose()


async def test_a_bucket_can_be_filled_again_and_full_ones_are_forgotten(world) -> None:
    await allowed(world, 3)
    await limits.refund(world.platform.db, RULE, "x")
    assert await allowed(world, 3) == 3
    assert await limits.purge(world.platform.db, world.clock.now()) == 0
    assert await limits.purge(world.platform.db, world.clock.now() + timedelta(seconds=31)) == 1
    assert await world.scalar("SELECT count(*) FROM rate_limits") == 0


async def guess(client, email: str = "ada@example.com", password: str = "wrong guess again") -> int:
    answer = await client.post("/api/auth/sign-in", json={"email": email, "password": password})
    if answer.status_code == 429:
        assert int(answer.headers["retry-after"]) >= 1
    return int(answer.status_code)


async def test_guesses_at_one_account_from_one_address_end_soon_and_count_though_they_fail(world) -> None:
    await world.person("ada@example.com")
    attacker = await world.client("203.0.113.7")
    statuses = await asyncio.gather(*(guess(attacker) for _ in range(12)))
    assert sorted(statuses) == [401] * 8 + [429] * 4
    assert await guess(attacker, password=PASSWORD) == 429
    assert await guess(await world.client("192.0.2.1"), password=PASSWORD) == 200


async def test_unknown_addresses_are_limited_like_known_ones(world) -> None:
    attacker = await world.client("203.0.113.7")
    statuses = [await guess(attacker, "nobody@example.com") for _ in range(9)]
    assert statuses == [401] * 8 + [429]


async def test_who_knows_the_password_after_all_starts_afresh(world) -> None:
    await world.person("ada@example.com")
    client = await world.client("203.0.113.7")
    for _ in range(2):
        assert [await guess(client) for _ in range(7)] == [401] * 7
        assert await guess(client, password=PASSWORD) == 200


async def test_guesses_at_many_accounts_from_one_household_are_one_limit(world, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SIGN_IN_BY_ADDRESS", Rule("few", burst=4, refill_seconds=60))
    clients = [await world.client(f"2001:db8:1:2::{n}") for n in range(1, 7)]
    statuses = [await guess(client, f"user{n}@example.com") for n, client in enumerate(clients)]
    assert statuses == [401] * 4 + [429] * 2
    assert await guess(await world.client("2001:db8:1:3::1"), "user9@example.com") == 401


async def test_guesses_from_many_addresses_at_one_account_are_one_limit(world, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SIGN_IN_BY_ACCOUNT", Rule("few", burst=4, refill_seconds=60))
    clients = [await world.client(f"203.0.113.{n}") for n in range(1, 7)]
    assert [await guess(client) for client in clients] == [401] * 4 + [429] * 2


async def test_a_forwarded_address_counts_behind_our_proxy_only(world, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SIGN_IN_BY_ADDRESS", Rule("few", burst=2, refill_seconds=60))
    proxy, stranger = await world.client("127.0.0.1"), await world.client("203.0.113.50")

    async def through(client, address: str) -> int:
        body = {"email": f"{address}@example.com", "password": "wrong guess again"}
        answer = await client.post("/api/auth/sign-in", json=body, headers={"x-forwarded-for": address})
        return int(answer.status_code)

    assert [await through(proxy, f"198.51.100.{n}") for n in range(200, 204)] == [401] * 4
    assert [await through(stranger, f"198.51.100.{n}") for n in range(210, 214)] == [401, 401, 429, 429]


async def test_mails_to_one_address_are_limited_whether_or_not_it_is_known(world) -> None:
    await world.person("ada@example.com")
    world.clock.advance(86_400)
    for email in ("ada@example.com", "nobody@example.com"):
        client = await world.client()
        answers = [await client.post("/api/auth/reset-request", json={"email": email}) for _ in range(7)]
        assert [answer.status_code for answer in answers] == [202] * 5 + [429] * 2
    assert len(await world.mails("ada@example.com")) == 6


async def test_links_and_sign_ups_are_limited_by_address(world, monkeypatch) -> None:
    monkeypatch.setattr(limits, "LINK_BY_ADDRESS", Rule("few-links", burst=2, refill_seconds=60))
    monkeypatch.setattr(limits, "SIGN_UP_BY_ADDRESS", Rule("few-sign-ups", burst=1, refill_seconds=60))
    client = await world.client()
    tries = [await client.post("/api/auth/verify", json={"token": "x" * 43}) for _ in range(3)]
    assert [answer.status_code for answer in tries] == [400, 400, 429]
    bodies = [{"email": f"user{n}@example.com", "password": PASSWORD} for n in range(2)]
    assert [(await client.post("/api/auth/sign-up", json=body)).status_code for body in bodies] == [202, 429]
