"""Credit of one customer in this process: what is leased, held by running requests, and used but not settled.

Pure arithmetic without a database, so that its rules can be tested in microseconds. `free` is what a new request may
hold; it never counts credit twice, whatever is settled meanwhile: a roll that settles `s` asks for at least the old
lease less `s`, which the ledger always has once the old lease is given back.
"""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from wopr.billing.leases import Lease
from wopr.billing.usage import UsageRecord
from wopr.core.errors import PaymentRequired, TooManyRequests, Unavailable, WoprError
from wopr.core.ids import TenantId
from wopr.core.money import NANOS_PER_CENT, Nanos, show, show_cost
from wopr.inference.gateway.wal import Segment

LEASE_SECONDS = 30.0
LEASE_MARGIN_SECONDS = 2.0  # a lease is not used up to its last moment: clocks and queries take time
RENEW_SECONDS = 15.0
IDLE_SECONDS = 2.0
SETTLE_SECONDS = 0.1
SETTLE_RECORDS = 500
ROOM_LEAST = NANOS_PER_CENT
ROOM_HOLDS = 16
ROOM_SETTLEMENTS = 4
SHORT_SECONDS = 0.5
HELD_RETRY_SECONDS = 1.0
FAILED_RETRY_SECONDS = 0.5
ADD_CREDIT = "Add credit on the billing page."


@dataclass(slots=True)
class Used:
    """A usage record that is in the log and waits for its settlement."""

    record: UsageRecord
    segment: Segment | None


@dataclass(slots=True, eq=False)
class Purse:
    """One tenant's credit here, in nano-dollars; times are monotonic seconds."""

    tenant_id: TenantId
    lease_id: UUID | None = None
    amount: int = 0
    expires: float = 0.0
    held: int = 0
    owed: int = 0
    running: int = 0
    largest: int = 0  # hold of a single request, for the size of the next lease
    used_at: float = 0.0
    rolled_at: float = 0.0
    rolling: bool = False
    wanted: int = 0  # by those who wait for the next roll
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    records: list[Used] = field(default_factory=list)
    short_until: float = 0.0  # until then the account is known to have no more than `total`
    total: int = 0
    failing: bool = False  # the last roll did not reach the database
    alone: bool = False  # it was in a roll of several that failed: the next one is its own

    def free(self, now: float) -> int:
        """What a new request may hold now."""
        if now >= self.expires:
            return 0
        return self.amount - self.held - self.owed

    def take(self, amount: int, now: float) -> bool:
        """Hold so much for a request, if it is there."""
        if amount and self.free(now) < amount:
            return False
        self.held += amount
        self.used_at = now
        if amount > self.largest:
            self.largest = amount
        return True

    def is_low(self, now: float) -> bool:
        """Whether the lease should grow before it runs dry."""
        return self.lease_id is not None and now >= self.short_until and self.free(now) < room(self, 0) // 4


@dataclass(frozen=True, slots=True)
class RollPlan:
    """What the next roll of a purse should ask for."""

    want: Nanos
    urgent: bool


@dataclass(slots=True, eq=False)
class OpenRoll:
    """A roll under way: what it took out of the purse, to be put back should it fail."""

    purse: Purse
    want: Nanos
    settling: list[Used]
    waiters: list[asyncio.Future[None]]
    amount: int  # of the old lease
    done: bool = False

    @property
    def cost(self) -> int:
        """What is being settled, in nano-dollars."""
        return sum(used.record.cost for used in self.settling)


def begin_roll(purse: Purse, plan: RollPlan) -> OpenRoll:
    """Take the records and the waiters. A lease that is given back bears nothing from now on."""
    roll = OpenRoll(purse, plan.want, purse.records, purse.waiters, purse.amount)
    purse.records, purse.waiters, purse.wanted = [], [], 0
    purse.rolling = True
    if plan.want == 0:
        purse.amount = 0
    return roll


def finish_roll(roll: OpenRoll, lease: Lease | None, total: int | None, now: float) -> None:
    """The ledger has it. `total` is the account's credit when less was lent than was wanted."""
    purse = roll.purse
    roll.done = True
    purse.owed -= roll.cost
    purse.lease_id = lease.id if lease is not None else None
    purse.amount = lease.amount if lease is not None else 0
    purse.expires = now + LEASE_SECONDS - LEASE_MARGIN_SECONDS
    purse.short_until = 0.0 if total is None else now + SHORT_SECONDS
    purse.total = purse.amount if total is None else total
    purse.alone = False


def end_roll(roll: OpenRoll, now: float, *, together: bool) -> None:
    """Wake who waited; without `finish_roll` before, put everything back: nothing may be lost, whatever failed."""
    purse = roll.purse
    if not roll.done:
        purse.records = roll.settling + purse.records
        purse.amount = roll.amount
        purse.alone = together
    purse.failing = not roll.done
    purse.rolling = False
    purse.rolled_at = now if roll.done else now + FAILED_RETRY_SECONDS
    for waiter in roll.waiters:
        if not waiter.done():
            waiter.set_result(None)


def plan_roll(purse: Purse, now: float) -> RollPlan | None:
    """Whether the purse needs its lease rolled, and what to ask for; None when it can wait."""
    if purse.rolling or now < purse.rolled_at:
        return None
    if purse.waiters:
        return RollPlan(_want(purse), urgent=True)
    due = now - purse.rolled_at >= SETTLE_SECONDS
    if (purse.records and due) or len(purse.records) >= SETTLE_RECORDS:
        return RollPlan(_want(purse), urgent=False)
    if purse.lease_id is None:
        return None
    if not purse.running and now - purse.used_at >= IDLE_SECONDS:
        return RollPlan(Nanos(0), urgent=False)
    if now >= purse.expires - RENEW_SECONDS or (due and purse.is_low(now)):
        return RollPlan(_want(purse), urgent=False)
    return None


def room(purse: Purse, settling: int) -> int:
    """Credit to hold beyond what is needed now, so that the next requests find some."""
    return max(ROOM_LEAST, ROOM_HOLDS * purse.largest, ROOM_SETTLEMENTS * settling)


def refusal(purse: Purse, least: int) -> WoprError:
    """Why a request can't hold its least: too little is left (402), others hold it and return it (429), no ledger."""
    if purse.failing:
        return Unavailable("Credit can't be checked at the moment.", retry_after_seconds=HELD_RETRY_SECONDS)
    if purse.total >= least:
        return TooManyRequests(
            "Your credit is held by requests that are running.",
            code="credit_held",
            remedy="Try again in a moment, or ask for fewer tokens with max_tokens.",
            retry_after_seconds=HELD_RETRY_SECONDS,
        )
    if purse.total <= 0:
        return PaymentRequired("Your credit is used up.", code="insufficient_quota", remedy=ADD_CREDIT)
    # Nothing comes back by waiting, so it is no 429, though there is some credit.
    return PaymentRequired(
        f"This request may cost up to {show_cost(least)}, and {show(purse.total)} of credit is left.",
        code="insufficient_quota",
        remedy=f"Ask for fewer tokens with max_tokens, or stream it: it ends where credit does. {ADD_CREDIT}",
    )


def is_spent(purse: Purse, now: float) -> bool:
    """Whether nothing is kept here any more and the purse can be forgotten."""
    return (
        purse.lease_id is None
        and not (purse.running or purse.records or purse.waiters or purse.rolling or purse.owed)
        and now - purse.used_at >= IDLE_SECONDS
    )


def _want(purse: Purse) -> Nanos:
    settling = sum(used.record.cost for used in purse.records)
    needed = purse.held + purse.owed - settling + purse.wanted + room(purse, settling)
    return Nanos(max(purse.amount - settling, needed))
