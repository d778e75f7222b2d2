"""The ledger against a pure model: whatever is done in whatever order, both agree and the promises hold."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from wopr.billing import codes, ledger
from wopr.billing.invariants import invariants
from wopr.billing.ledger import InsufficientCredit, Transfer
from wopr.core.db import Database
from wopr.core.errors import Conflict, Invalid
from wopr.core.ids import TenantId

START = datetime(2026, 1, 1, tzinfo=UTC)
TENANTS = [TenantId(UUID(int=n)) for n in (1, 2, 3)]
AMOUNTS = st.integers(1, 100)
T = TypeVar("T")


@dataclass
class Model:
    """Two numbers a tenant and a dictionary of holds: as simple as the truth can be."""

    credit: dict[UUID, int] = field(default_factory=lambda: dict.fromkeys(TENANTS, 0))
    holds: dict[UUID, tuple[UUID, int, datetime]] = field(default_factory=dict)

    def held(self, tenant: UUID) -> int:
        return sum(amount for owner, amount, _ in self.holds.values() if owner == tenant)

    def available(self, tenant: UUID) -> int:
        return self.credit[tenant] - self.held(tenant)


class LedgerMachine(RuleBasedStateMachine):
    """Random transfers, holds, postings, voids, expiries and repetitions."""

    url = ""
    holds = Bundle("holds")
    done = Bundle("done")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = START
        self.model = Model()

    @initialize()
    def connect(self) -> None:
        self.db = Database(self.url, pool_size=2)
        self.run(self.clean())

    async def clean(self) -> None:
        """An empty ledger; the trigger that protects history is switched off for this alone."""
        raw = await self.db.connect_raw()
        await raw.execute(
            "SET session_replication_role = replica; TRUNCATE ledger_transfers, ledger_accounts, ledger_holds"
        )
        await raw.close()

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type]

    def attempt(self, act: Callable[..., Awaitable[object]], *arguments: object) -> object:
        async def inside() -> object:
            async with self.db.begin() as session:
                return await act(session, *arguments)

        return self.run(inside())

    @rule(target=done, tenant=st.sampled_from(TENANTS), amount=AMOUNTS)
    def pay(self, tenant: TenantId, amount: int) -> Transfer:
        transfer = Transfer(uuid4(), codes.STRIPE, codes.customer(tenant), amount, "payment")
        self.attempt(ledger.post, [transfer])
        self.model.credit[tenant] += amount
        return transfer

    @rule(target=done, tenant=st.sampled_from(TENANTS), amount=AMOUNTS, other=AMOUNTS)
    def spend_twice_in_one_batch(self, tenant: TenantId, amount: int, other: int) -> object:
        house = codes.revenue("inference", tenant)
        batch = [Transfer(uuid4(), codes.customer(tenant), house, part, "test_spending") for part in (amount, other)]
        if amount + other > self.model.available(tenant):
            with pytest.raises(InsufficientCredit):
                self.attempt(ledger.post, batch)
            return multiple()
        self.attempt(ledger.post, batch)
        self.model.credit[tenant] -= amount + other
        return multiple(*batch)

    @rule(transfer=done)
    def repeat(self, transfer: Transfer) -> None:
        assert self.attempt(ledger.post, [transfer]) == 0

    @rule(transfer=done)
    def repeat_with_other_content(self, transfer: Transfer) -> None:
        changed = Transfer(transfer.id, transfer.debit, transfer.credit, transfer.amount + 1, transfer.kind)
        with pytest.raises(Conflict):
            self.attempt(ledger.post, [changed])

    @rule(target=holds, tenant=st.sampled_from(TENANTS), amount=AMOUNTS, seconds=st.integers(1, 50))
    def hold(self, tenant: TenantId, amount: int, seconds: int) -> object:
        expires = self.now + timedelta(seconds=seconds)
        house = codes.revenue("inference", tenant)
        transfer = Transfer(uuid4(), codes.customer(tenant), house, amount, "lease", expires_at=expires)
        if amount > self.model.available(tenant):
            with pytest.raises(InsufficientCredit):
                self.attempt(ledger.hold, [transfer])
            return multiple()
        self.attempt(ledger.hold, [transfer])
        self.model.holds[transfer.id] = (tenant, amount, expires)
        return transfer.id

    @rule(held=consumes(holds), amount=AMOUNTS)
    def post_pending(self, held: UUID, amount: int) -> None:
        if held not in self.model.holds:
            with pytest.raises(Conflict):
                self.attempt(ledger.post_pending, uuid4(), held, amount)
            return
        tenant, most, _ = self.model.holds[held]
        if amount > most:
            with pytest.raises(Invalid):
                self.attempt(ledger.post_pending, uuid4(), held, amount)
            return
        posting = uuid4()
        assert self.attempt(ledger.post_pending, posting, held, amount) is True
        assert self.attempt(ledger.post_pending, posting, held, amount) is False
        del self.model.holds[held]
        self.model.credit[tenant] -= amount

    @rule(held=holds)
    def void(self, held: UUID) -> None:
        if held in self.model.holds:
            assert self.attempt(ledger.void, uuid4(), held) is True
            del self.model.holds[held]
        else:
            with pytest.raises(Conflict):
                self.attempt(ledger.void, uuid4(), held)

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        due = [held for held, (_, _, expires) in self.model.holds.items() if expires <= self.now]
        assert self.attempt(ledger.expire_due, self.now) == len(due)
        for held in due:
            del self.model.holds[held]

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "db"):
            return
        for tenant, money in zip(TENANTS, self.run(self.balances()), strict=True):
            expected = (self.model.available(tenant), self.model.held(tenant), 0)
            assert (money.available, money.held, money.debt) == expected

    async def balances(self) -> list[ledger.Balance]:
        async with self.db.begin() as session:
            return [await ledger.balance(session, tenant) for tenant in TENANTS]

    def teardown(self) -> None:
        try:
            if hasattr(self, "db"):
                assert self.attempt(invariants) == []
                self.run(self.db.dispose())
        finally:
            self.loop.close()


def test_the_ledger_agrees_with_the_model(database_address: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    LedgerMachine.url = database_address
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
