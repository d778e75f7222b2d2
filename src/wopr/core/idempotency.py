"""`Idempotency-Key` as Stripe's users know it: the same key and the same request give the same answer, once.

Where the effect is in our database, it and its answer are one transaction: neither is there without the other, and a
second request waits for the first. Where the effect is elsewhere, a claim is stored first and the answer after it; a
claim of a process that died lapses, so such an effect must be safe to begin again (a payment page is: what Stripe is
asked is stored before, with the key under which Stripe repeats its answer).

Only success is kept. A refused or failed request has left no effect, so trying again under its key is what one wants.
Answers are sealed, each of them: one that shows an API key must not lie open in the database or its backups, and a
route that forgets to say so can't exist. The caller's key is kept as a hash.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import DateTime, LargeBinary, Row, Text, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from wopr.core.db import Base, Database
from wopr.core.errors import Conflict
from wopr.core.ids import new_id
from wopr.core.platform import Platform
from wopr.core.vault import Vault, VaultError

KEPT = timedelta(hours=24)
# Longer than Stripe's library tries at most, all its attempts together.
CLAIM_LASTS = timedelta(minutes=5)
WAIT_MILLISECONDS_MAX = 5_000
LOOK_AGAIN_SECONDS = 0.1
PURGE_ROWS_MAX = 5_000
LOCK_NOT_AVAILABLE = "55P03"
LOOK_FOR_IT = "List what is there; use a new Idempotency-Key for something new."

ModelT = TypeVar("ModelT", bound=BaseModel)

TAKE = text(
    "INSERT INTO idempotent_answers "
    "(tenant_id, route, key_hash, request_hash, claim, claimed_until, created_at) "
    "VALUES (:tenant, :route, :key, :request, :claim, :until, :now) "
    "ON CONFLICT (tenant_id, route, key_hash) DO UPDATE SET request_hash = excluded.request_hash, answer = NULL, "
    "claim = excluded.claim, claimed_until = excluded.claimed_until, created_at = excluded.created_at "
    "WHERE idempotent_answers.created_at <= :forgotten OR (idempotent_answers.answer IS NULL "
    "AND idempotent_answers.claimed_until <= :now AND idempotent_answers.request_hash = excluded.request_hash) "
    "RETURNING claim"
)
KNOWN = text(
    "SELECT request_hash, answer FROM idempotent_answers "
    "WHERE tenant_id = :tenant AND route = :route AND key_hash = :key"
)
OURS = "WHERE tenant_id = :tenant AND route = :route AND key_hash = :key AND claim = :claim"
KEEP = text(f"UPDATE idempotent_answers SET answer = :answer {OURS}")  # noqa: S608 - a constant
RENEW = text(f"UPDATE idempotent_answers SET claimed_until = :until {OURS}")  # noqa: S608 - a constant
LET_GO = text(f"DELETE FROM idempotent_answers {OURS} AND answer IS NULL")  # noqa: S608 - a constant
FORGET = text(
    "DELETE FROM idempotent_answers WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotent_answers "
    "WHERE created_at <= :forgotten LIMIT :rows FOR UPDATE SKIP LOCKED)) RETURNING 1"
)
WAIT_FOR_LOCKS = text("SELECT set_config('lock_timeout', :wait, true)")


class IdempotentAnswer(Base):
    """What a key was used for. Without an answer its request is being worked on, until `claimed_until` at most."""

    __tablename__ = "idempotent_answers"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(Text, primary_key=True)
    key_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    request_hash: Mapped[bytes] = mapped_column(LargeBinary)
    # Sealed by the vault with the row's key as context.
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    claim: Mapped[UUID]
    claimed_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


@dataclass(frozen=True)
class Asked:
    """A request as it is known again: whose, to which route, under which key, and what it says."""

    tenant_id: UUID
    route: str
    key: str
    content: bytes

    def names(self) -> dict[str, object]:
        """The row's key."""
        return {"tenant": self.tenant_id, "route": self.route, "key": _hash(self.key.encode())}

    def context(self) -> bytes:
        """What the sealed answer is bound to."""
        return self.tenant_id.bytes + _hash(self.key.encode()) + self.route.encode()


@dataclass(frozen=True)
class Claim:
    """A key in the hand of one request: `take` it, then `keep` the answer or `let_go`. A claim lapses by itself.

    Needs PLATFORM_SECRET (NotConfigured).
    """

    platform: Platform
    asked: Asked
    vault: Vault
    lasts: timedelta = CLAIM_LASTS
    id: UUID = field(default_factory=new_id)

    @classmethod
    def of(cls, platform: Platform, asked: Asked, lasts: timedelta = CLAIM_LASTS) -> "Claim":
        """For this request; takes nothing yet."""
        secret = platform.settings.require("platform_secret", "Idempotency-Key")
        return cls(platform, asked, Vault(secret, "wopr idempotent answers"), lasts)

    async def take(self, session: AsyncSession) -> Row[tuple[bytes, bytes | None]] | None:
        """None when the key is ours now, otherwise what is known of it; waits for who is using it in a transaction.

        Raises Conflict (`idempotency_key_reused`) when it stands for another request.
        """
        now = self.platform.clock.now()
        wanted = {
            **self._names(),
            "request": _hash(self.asked.content),
            "until": now + self.lasts,
            "now": now,
            "forgotten": now - KEPT,
        }
        await session.execute(WAIT_FOR_LOCKS, {"wait": str(WAIT_MILLISECONDS_MAX)})
        try:
            ours = (await session.execute(TAKE, wanted)).one_or_none()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
                raise in_progress() from error
            raise
        await session.execute(WAIT_FOR_LOCKS, {"wait": "0"})
        if ours is not None:
            return None
        known: Row[tuple[bytes, bytes | None]] = (await session.execute(KNOWN, self.asked.names())).one()
        if known.request_hash != wanted["request"]:
            raise key_reused()
        return known

    async def keep(self, session: AsyncSession, answer: bytes) -> None:
        """Store the answer for a day."""
        sealed = self.vault.seal_bytes(answer, self.asked.context())
        await session.execute(KEEP, {**self._names(), "answer": sealed})

    async def let_go(self, session: AsyncSession) -> None:
        """Nothing was done: the key is free."""
        await session.execute(LET_GO, self._names())

    async def renew(self, session: AsyncSession) -> None:
        """The work goes on: the claim lasts from now."""
        await session.execute(RENEW, {**self._names(), "until": self.platform.clock.now() + self.lasts})

    def open(self, sealed: bytes) -> bytes:
        """An answer that was kept. Conflict when it can't be read any more."""
        try:
            return self.vault.open_bytes(sealed, self.asked.context())
        except VaultError as error:
            raise answer_lost("its answer can't be read any more") from error

    def _names(self) -> dict[str, object]:
        return {**self.asked.names(), "claim": self.id}


@dataclass(frozen=True)
class Idempotency:
    """Does a request's work once. Without a key it just does it. `on_replay` is called when an old answer is given.

    Both methods raise Conflict: `idempotency_key_reused` for a key that was used for another request,
    `idempotency_in_progress` when the first request with it takes longer than a caller should wait.
    """

    platform: Platform
    asked: Asked | None
    on_replay: Callable[[], None]

    async def in_transaction(self, model: type[ModelT], work: Callable[[AsyncSession], Awaitable[ModelT]]) -> ModelT:
        """For effects in our database: `work` runs in the transaction that keeps its answer."""
        if self.asked is None:
            async with self.platform.db.begin() as session:
                return await work(session)
        claim = Claim.of(self.platform, self.asked)
        async with self.platform.db.begin() as session:
            known = await claim.take(session)
            if known is None:
                answer = await work(session)
                await claim.keep(session, answer.model_dump_json().encode())
                return answer
        if known.answer is None:
            raise in_progress()
        return self._replay(claim, model, known.answer)

    async def outside(self, model: type[ModelT], work: Callable[[], Awaitable[ModelT]]) -> ModelT:
        """For effects elsewhere, with no transaction open meanwhile. `work` must be safe to begin again."""
        if self.asked is None:
            return await work()
        claim = Claim.of(self.platform, self.asked)
        known = await self._await_turn(claim)
        if known is not None:
            return self._replay(claim, model, known)
        answer: ModelT | None = None
        try:
            answer = await work()
            return answer
        finally:
            async with self.platform.db.begin() as session:
                if answer is None:
                    await claim.let_go(session)
                else:
                    await claim.keep(session, answer.model_dump_json().encode())

    async def _await_turn(self, claim: Claim) -> bytes | None:
        """The stored answer; None when the work is ours."""
        for _ in range(int(WAIT_MILLISECONDS_MAX / 1000 / LOOK_AGAIN_SECONDS)):
            async with self.platform.db.begin() as session:
                known = await claim.take(session)
            if known is None:
                return None
            if known.answer is not None:
                answer: bytes = known.answer
                return answer
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        raise in_progress()

    def _replay(self, claim: Claim, model: type[ModelT], sealed: bytes) -> ModelT:
        answer = model.model_validate_json(claim.open(sealed))
        self.on_replay()
        return answer


async def purge(db: Database, now: datetime) -> int:
    """Forget answers that are older than a day, some at a time; how many."""
    total = 0
    while True:
        async with db.begin() as session:
            gone = await session.execute(FORGET, {"forgotten": now - KEPT, "rows": PURGE_ROWS_MAX})
            count = len(gone.all())
        total += count
        if count < PURGE_ROWS_MAX:
            return total


def key_reused() -> Conflict:
    """The key stands for something else already."""
    return Conflict(
        "This Idempotency-Key was used for another request within the last day.",
        code="idempotency_key_reused",
        remedy="Use a new key for a new request, and the same one only to repeat the very same request.",
    )


def answer_lost(why: str, remedy: str = LOOK_FOR_IT) -> Conflict:
    """What was asked is done, and its answer can't be given again."""
    return Conflict(
        f"This was done already, but {why}.",
        code="idempotency_answer_lost",
        remedy=remedy,
    )


def in_progress() -> Conflict:
    """Another request with the key is at work."""
    return Conflict(
        "The first request with this Idempotency-Key is still being worked on.",
        code="idempotency_in_progress",
        remedy="Send the same request again in a moment.",
        retry_after_seconds=1,
    )


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
