"""Rate limits that all processes share: one row a bucket in PostgreSQL, taken from in one statement.

The algorithm is GCRA (ITU-T I.371): a bucket holds `burst` tokens and gains one every `refill_seconds`; the moment at
which it will be full again says all about it. Limits take a transaction of their own: what a refused request took stays
taken when the request's own transaction is rolled back.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import DateTime, delete, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert

from wopr.accounts.models import RateLimit
from wopr.core.db import Database
from wopr.core.errors import TooManyRequests
from wopr.core.net import limit_key

PURGE_ROWS_MAX = 10_000
TIME = DateTime(timezone=True)


@dataclass(frozen=True)
class Rule:
    """How often something may be done: `burst` times at once, then once every `refill_seconds`."""

    name: str
    burst: int
    refill_seconds: float


SIGN_UP_BY_ADDRESS = Rule("sign-up:address", burst=30, refill_seconds=60)
SIGN_IN_BY_ADDRESS = Rule("sign-in:address", burst=60, refill_seconds=5)
# Tight where one address guesses at one account, loose over all addresses: a stranger must not lock its owner out.
SIGN_IN_BY_PAIR = Rule("sign-in:pair", burst=8, refill_seconds=60)
SIGN_IN_BY_ACCOUNT = Rule("sign-in:account", burst=100, refill_seconds=30)
MAIL_BY_ADDRESS = Rule("mail:address", burst=30, refill_seconds=60)
MAIL_BY_ACCOUNT = Rule("mail:account", burst=5, refill_seconds=300)
LINK_BY_ADDRESS = Rule("link:address", burst=60, refill_seconds=2)
PASSWORD_BY_ACCOUNT = Rule("password:account", burst=10, refill_seconds=60)
KEYS_BY_ACCOUNT = Rule("keys:account", burst=60, refill_seconds=30)


async def take(db: Database, rule: Rule, subject: str, now: datetime) -> None:
    """Take one token from the subject's bucket; TooManyRequests, saying when to return, when it is empty."""
    interval = timedelta(seconds=rule.refill_seconds)
    key = _key(rule, subject)
    new = insert(RateLimit).values(key=key, full_at=now + interval)
    later = func.greatest(RateLimit.full_at, literal(now, TIME), type_=TIME) + interval
    statement = new.on_conflict_do_update(
        index_elements=[RateLimit.key],
        set_={"full_at": later},
        where=later <= literal(now + rule.burst * interval, TIME),
    ).returning(RateLimit.full_at)
    async with db.begin() as session:
        if await session.scalar(statement) is not None:
            return
        full_at = await session.scalar(select(RateLimit.full_at).where(RateLimit.key == key))
    wait = (full_at + interval - now - rule.burst * interval).total_seconds() if full_at is not None else 0.0
    raise TooManyRequests(
        "This was tried too often.",
        remedy="Wait a moment, then try again.",
        retry_after_seconds=max(1.0, wait),
    )


async def refund(db: Database, rule: Rule, subject: str) -> None:
    """Fill the subject's bucket again: what was limited turned out to be legitimate."""
    async with db.begin() as session:
        await session.execute(delete(RateLimit).where(RateLimit.key == _key(rule, subject)))


async def purge(db: Database, now: datetime) -> int:
    """Forget buckets that are full; how many."""
    async with db.begin() as session:
        result = await session.execute(
            text(
                "DELETE FROM rate_limits WHERE key IN (SELECT key FROM rate_limits WHERE full_at <= :now LIMIT :rows"
                " FOR UPDATE SKIP LOCKED) RETURNING key"
            ),
            {"now": now, "rows": PURGE_ROWS_MAX},
        )
        return len(result.all())


def by_address(address: str) -> str:
    """The subject of a limit by address: an IPv4 address, or a /64 of IPv6."""
    return limit_key(address)


def _key(rule: Rule, subject: str) -> str:
    # Hashed: this table must not become a list of everybody's addresses.
    return f"{rule.name}:{hashlib.sha256(subject.encode()).hexdigest()[:32]}"
