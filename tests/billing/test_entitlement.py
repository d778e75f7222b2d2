"""Without credit a tenant goes stage by stage, told by mail each time; credit brings everything back by itself."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text
from tests.billing.conftest import USD, Customer

from wopr.accounts.tenants import get_tenant, set_suspended
from wopr.billing.entitlement import Entitlement, Stored, at_the_end, describe, entitlement, plan
from wopr.billing.grants import grant_credit
from wopr.billing.ledger import Balance
from wopr.billing.prices import load_prices
from wopr.billing.stages import plan_entitlements
from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.errors import PaymentRequired
from wopr.core.money import Nanos
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STAGES = load_prices().stages
DAY = timedelta(days=1)
EMPTY = Balance(Nanos(0), Nanos(0), Nanos(0), received=Nanos(5 * USD))
FULL = replace(EMPTY, available=Nanos(USD))


def test_who_never_had_credit_is_unfunded_and_may_begin_nothing() -> None:
    nothing = replace(EMPTY, received=Nanos(0))
    state = describe(plan(nothing, None, STAGES, NOW), nothing, STAGES)
    assert (state.state, state.may_run, state.may_begin, state.suspends_at) == ("unfunded", False, False, None)
    with pytest.raises(PaymentRequired) as caught:
        state.require()
    assert "credit" in caught.value.remedy


def test_without_credit_the_stages_follow_each_other_and_their_dates_are_known_from_the_start() -> None:
    stored: Stored | None = None
    begins = {}
    for day in range(200):
        planned = plan(EMPTY, stored, STAGES, NOW + day * DAY)
        if planned.state == "archived" and day == 97 - STAGES.reminder_days:
            planned = replace(planned, reminded_at=NOW + day * DAY)
        if stored is None or planned.state != stored.state:
            begins[planned.state] = day
        stored = planned
    assert begins == {"warning": 0, "grace": 3, "suspended": 7, "archived": 37, "deleted": 97}
    first = describe(plan(EMPTY, None, STAGES, NOW), EMPTY, STAGES)
    assert first.suspends_at == NOW + 7 * DAY
    assert first.archives_at == NOW + 37 * DAY
    assert first.deletes_at == NOW + 97 * DAY


def test_an_outage_of_the_planner_skips_no_stage() -> None:
    stored = Stored("warning", NOW, NOW)
    later = NOW + 365 * DAY
    assert plan(EMPTY, stored, STAGES, later) == Stored("grace", later, NOW)


def test_nothing_is_deleted_before_the_last_reminder_and_its_days() -> None:
    late = NOW + 365 * DAY
    archived = Stored("archived", NOW, NOW)
    assert plan(EMPTY, archived, STAGES, late) == archived
    reminded = replace(archived, reminded_at=late)
    assert plan(EMPTY, reminded, STAGES, late + (STAGES.reminder_days - 1) * DAY) == reminded
    after = late + STAGES.reminder_days * DAY
    assert describe(reminded, EMPTY, STAGES).deletes_at == after
    assert plan(EMPTY, reminded, STAGES, after) == Stored("deleted", after, NOW)


@pytest.mark.parametrize("state", ["unfunded", "warning", "grace", "suspended", "archived", "deleted"])
def test_credit_brings_back_from_every_stage(state: str) -> None:
    stored = Stored(state, NOW, NOW)  # type: ignore[arg-type]
    assert plan(FULL, stored, STAGES, NOW + DAY).state == "active"


def test_held_credit_counts_and_debt_counts_against_it() -> None:
    held = replace(EMPTY, held=Nanos(USD))
    assert plan(held, None, STAGES, NOW).state == "active"
    assert plan(replace(FULL, debt=Nanos(USD)), None, STAGES, NOW).state == "warning"
    assert plan(replace(EMPTY, available=STAGES.empty_below), None, STAGES, NOW).state == "active"
    assert plan(replace(EMPTY, available=Nanos(STAGES.empty_below - 1)), None, STAGES, NOW).state == "warning"


@dataclass(frozen=True)
class Life:
    """A customer whose days go by."""

    platform: Platform
    clock: ManualClock
    customer: Customer

    async def credit(self, amount: int) -> None:
        async with self.platform.db.begin() as session:
            await grant_credit(session, self.customer.id, amount, "test")

    async def days(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(86_400)
            await plan_entitlements(self.platform)

    async def state(self) -> Entitlement:
        async with self.platform.db.begin() as session:
            return await entitlement(session, self.customer.id, self.clock.now())

    async def suspended(self) -> bool:
        async with self.platform.db.begin() as session:
            return (await get_tenant(session, self.customer.id)).suspended_at is not None

    async def last_mail(self) -> str:
        async with self.platform.db.begin() as session:
            return str(await session.scalar(text("SELECT text FROM mails ORDER BY id DESC LIMIT 1")))

    async def mails(self) -> list[str]:
        async with self.platform.db.begin() as session:
            found = await session.execute(text("SELECT subject FROM mails ORDER BY id"))
            return [row.subject for row in found]


@pytest.fixture
async def life(db: Database, clock: ManualClock, customer: Customer) -> Life:
    settings = Settings(ui_url="http://ui.example")
    return Life(Platform(settings, db, clock, httpx.AsyncClient(), Notifier(db)), clock, customer)


async def test_a_tenant_goes_through_the_stages_and_back_with_a_mail_each_and_no_suspension(life: Life) -> None:
    await life.credit(USD)
    await life.days(2)
    assert (await life.state()).state == "active"
    await life.credit(-USD)
    await life.days(1)
    assert (await life.state()).state == "warning"
    await life.days(7)
    assert (await life.state()).state == "suspended"
    assert not await life.suspended()  # the account itself: only the operator does that
    await life.days(30)
    assert (await life.state()).state == "archived"
    await life.credit(USD)
    assert (await life.state()).state == "active"  # at once, before the loop comes round
    await plan_entitlements(life.platform)
    assert len(await life.mails()) == 5
    await plan_entitlements(life.platform)
    assert len(await life.mails()) == 5


async def test_a_mail_tells_sums_as_the_pages_do_every_date_and_what_the_bots_still_do(life: Life) -> None:
    await life.credit(5 * USD)
    await life.credit(-5 * USD + 400_123)
    await life.days(1)
    told = await life.last_mail()
    assert "but answer nothing" in told
    assert "Balance: $0.0004\n" in told
    assert re.search(r"Bots stop: \d+ \w+ 2026", told)
    assert "Bots are archived: " in told
    assert "are deleted: " in told
    async with life.platform.db.begin() as session:
        now = life.platform.clock.now()
        with pytest.raises(PaymentRequired, match=r"used up but for \$0\.0004"):
            (await entitlement(session, life.customer.id, now)).require()


async def test_before_deletion_there_is_a_last_reminder(life: Life) -> None:
    await life.credit(USD)
    await life.credit(-USD)
    await life.days(97 - STAGES.reminder_days)
    assert (await life.state()).state == "archived"
    await life.days(2)
    mails = await life.mails()
    assert mails[-1] == "Your bots will be deleted"
    announced = (await life.state()).deletes_at
    await life.days(1)
    assert await life.mails() == mails
    assert (await life.state()).deletes_at == announced
    async with life.platform.db.begin() as session:
        assert await at_the_end(session) == []
    await life.days(10)
    assert (await life.state()).state == "deleted"
    async with life.platform.db.begin() as session:
        assert await at_the_end(session) == [life.customer.id]
    await life.credit(USD)
    await life.days(1)
    assert "you can make new ones" in await life.last_mail()


async def test_no_payment_lifts_what_the_operator_suspended(life: Life) -> None:
    await life.credit(USD)
    await life.credit(-USD)
    await life.days(9)
    assert (await life.state()).state == "suspended"
    async with life.platform.db.begin() as session:
        await set_suspended(session, life.customer.id, True)
    await life.credit(USD)
    await life.days(1)
    assert (await life.state()).state == "active"
    assert await life.suspended()


async def test_while_the_operator_suspends_nothing_goes_on_toward_deletion(life: Life) -> None:
    await life.credit(USD)
    await life.credit(-USD)
    await life.days(9)
    told = await life.mails()
    async with life.platform.db.begin() as session:
        await set_suspended(session, life.customer.id, True)
    await life.days(120)
    assert await life.mails() == told
    async with life.platform.db.begin() as session:
        assert await session.scalar(text("SELECT state FROM entitlements")) == "suspended"
        await set_suspended(session, life.customer.id, False)
    await life.days(3)
    assert (await life.mails())[len(told) :] == ["Your bots are still stopped"]


async def test_who_never_paid_gets_no_mail(life: Life) -> None:
    await life.days(40)
    assert (await life.state()).state == "unfunded"
    assert await life.mails() == []
    assert not await life.suspended()
