"""The same Idempotency-Key and request: one effect and the same answer, whoever asks at once and whatever dies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core import idempotency
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.errors import Conflict, NotConfigured, PaymentRequired
from wopr.core.idempotency import CLAIM_LASTS, KEPT, Asked, Idempotency, purge
from wopr.core.ids import new_id
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings

SECRET = "wopr_write_that_is_shown_once"
TENANT = new_id()
ASKED = Asked(TENANT, "POST /things", "click-1", b'{"name": "one"}')


class Made(BaseModel):
    number: int
    secret: str = SECRET


@dataclass
class Shop:
    """Makes things, in the database and elsewhere, and counts them."""

    platform: Platform
    clock: ManualClock
    elsewhere: int = 0
    replays: list[str] = field(default_factory=list)

    def once(self, asked: Asked | None = ASKED) -> Idempotency:
        return Idempotency(self.platform, asked, lambda: self.replays.append("replayed"))

    async def make(self, asked: Asked | None = ASKED) -> Made:
        async def work(session: AsyncSession) -> Made:
            await session.execute(text("INSERT INTO things DEFAULT VALUES"))
            return Made(number=await self.count(session))

        return await self.once(asked).in_transaction(Made, work)

    async def order(self, asked: Asked | None = ASKED, wait: Callable[[], Awaitable[None]] | None = None) -> Made:
        async def work() -> Made:
            self.elsewhere += 1
            number = self.elsewhere
            if wait is not None:
                await wait()
            return Made(number=number)

        return await self.once(asked).outside(Made, work)

    async def count(self, session: AsyncSession) -> int:
        return int(await session.scalar(text("SELECT count(*) FROM things")) or 0)

    async def things(self) -> int:
        async with self.platform.db.begin() as session:
            return await self.count(session)

    async def execute(self, statement: str, **values: object) -> None:
        async with self.platform.db.begin() as session:
            await session.execute(text(statement), values)


@pytest.fixture
async def shop(db: Database) -> AsyncIterator[Shop]:
    clock = ManualClock(datetime.now(UTC))
    settings = Settings(platform_secret=SecretStr("of the tests"))
    async with httpx.AsyncClient() as http:
        made = Shop(Platform(settings, db, clock, http, Notifier(db)), clock)
        await made.execute("CREATE TABLE things (id bigserial PRIMARY KEY)")
        yield made


async def test_the_same_request_gives_the_same_answer_and_one_effect(shop: Shop) -> None:
    assert [await shop.make() for _ in range(3)] == [Made(number=1)] * 3
    assert [await shop.order(replace(ASKED, route="POST /orders")) for _ in range(3)] == [Made(number=1)] * 3
    assert (await shop.things(), shop.elsewhere, len(shop.replays)) == (1, 1, 4)


async def test_without_a_key_each_request_counts(shop: Shop) -> None:
    await shop.make(None)
    await shop.make(None)
    await shop.order(None)
    assert (await shop.things(), shop.elsewhere) == (2, 1)


async def test_another_request_under_the_key_is_refused(shop: Shop) -> None:
    await shop.make()
    with pytest.raises(Conflict) as refused:
        await shop.make(replace(ASKED, content=b'{"name": "two"}'))
    assert (refused.value.code, bool(refused.value.remedy)) == ("idempotency_key_reused", True)
    await shop.order(replace(ASKED, route="POST /orders"))
    with pytest.raises(Conflict):
        await shop.order(replace(ASKED, route="POST /orders", content=b""))


async def test_keys_of_other_customers_and_other_routes_are_other_keys(shop: Shop) -> None:
    await shop.make()
    await shop.make(replace(ASKED, tenant_id=new_id()))
    await shop.make(replace(ASKED, route="POST /more"))
    assert await shop.things() == 3


async def test_requests_at_once_wait_for_the_first(shop: Shop) -> None:
    assert set(await asyncio.gather(*(_number(shop.make()) for _ in range(6)))) == {1}
    orders = replace(ASKED, route="POST /orders")
    assert set(await asyncio.gather(*(_number(shop.order(orders, _a_while)) for _ in range(6)))) == {1}
    assert (await shop.things(), shop.elsewhere) == (1, 1)


async def test_who_would_wait_too_long_is_told_when_to_come_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "WAIT_MILLISECONDS_MAX", 200)
    done, begun = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await done.wait()

    async def hang_in_transaction(_session: AsyncSession) -> Made:
        await hang()
        return Made(number=7)

    for first, second in (
        (shop.order(wait=hang), shop.order),
        (shop.once(replace(ASKED, route="slow")).in_transaction(Made, hang_in_transaction), None),
    ):
        begun.clear()
        done.clear()
        working = asyncio.create_task(first)
        await begun.wait()
        with pytest.raises(Conflict) as refused:
            await (second() if second else shop.make(replace(ASKED, route="slow")))
        assert refused.value.code == "idempotency_in_progress"
        assert refused.value.headers() == {"retry-after": "1"}
        done.set()
        await working
    assert (await shop.things(), shop.elsewhere) == (0, 1)


async def test_a_request_that_fails_leaves_nothing_and_may_be_repeated_or_changed(shop: Shop) -> None:
    async def refuse(session: AsyncSession) -> Made:
        await session.execute(text("INSERT INTO things DEFAULT VALUES"))
        raise PaymentRequired("no credit")

    async def refuse_elsewhere() -> None:
        raise PaymentRequired("no credit")

    with pytest.raises(PaymentRequired):
        await shop.once().in_transaction(Made, refuse)
    orders = replace(ASKED, route="POST /orders")
    with pytest.raises(PaymentRequired):
        await shop.order(orders, refuse_elsewhere)
    assert await shop.things() == 0
    await shop.make(replace(ASKED, content=b"changed"))
    await shop.order(replace(orders, content=b"changed"))
    assert (await shop.things(), shop.replays) == (1, [])


async def test_the_claim_of_a_process_that_died_lapses_for_the_same_request_only(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_MILLISECONDS_MAX", 100)
    await shop.order()
    await shop.execute("UPDATE idempotent_answers SET answer = NULL")  # killed before it could store its answer
    with pytest.raises(Conflict):
        await shop.order()
    shop.clock.advance(CLAIM_LASTS.total_seconds())
    with pytest.raises(Conflict) as refused:
        await shop.order(replace(ASKED, content=b"another"))
    assert refused.value.code == "idempotency_key_reused"
    assert (await shop.order(), await shop.order()) == (Made(number=2), Made(number=2))


async def test_answers_are_sealed_and_keys_hashed_in_the_database(shop: Shop) -> None:
    await shop.make()
    async with shop.platform.db.begin() as session:
        row = (await session.execute(text("SELECT * FROM idempotent_answers"))).one()
    stored = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
    assert SECRET.encode() not in stored
    assert ASKED.key.encode() not in stored


async def test_an_answer_that_cannot_be_opened_any_more_is_not_done_again(shop: Shop) -> None:
    await shop.make()
    other = Settings(platform_secret=SecretStr("another one"))
    with pytest.raises(Conflict) as refused:
        await Shop(replace(shop.platform, settings=other), shop.clock).make()
    assert refused.value.code == "idempotency_answer_lost"
    without = Settings(platform_secret=None)
    with pytest.raises(NotConfigured, match="PLATFORM_SECRET"):
        await Shop(replace(shop.platform, settings=without), shop.clock).make()
    assert await shop.things() == 1


async def test_a_key_is_forgotten_after_a_day(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "PURGE_ROWS_MAX", 2)
    for number in range(5):
        await shop.make(replace(ASKED, key=f"click-{number}"))
    shop.clock.advance((KEPT - timedelta(seconds=1)).total_seconds())
    assert await purge(shop.platform.db, shop.clock.now()) == 0
    await shop.make(replace(ASKED, key="click-1"))
    assert await shop.things() == 5
    shop.clock.advance(1)
    await shop.make(replace(ASKED, key="click-1", content=b"another"))
    assert await shop.things() == 6
    assert await purge(shop.platform.db, shop.clock.now()) == 4


async def _number(making: Awaitable[Made]) -> int:
    return (await making).number


async def _a_while() -> None:
    await asyncio.sleep(0.05)


def test_ids_of_tenants_are_part_of_what_an_answer_is_bound_to() -> None:
    contexts = {Asked(UUID(int=n), "POST /things", "k", b"").context() for n in range(3)}
    assert len(contexts) == 3
