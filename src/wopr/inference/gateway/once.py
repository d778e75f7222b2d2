"""`Idempotency-Key` at the gateway: the same request under the same key is answered once and charged once.

A request without the header never comes here. With it the key is claimed in the database before a model is asked, and
a whole answer is kept after its charge is in the log and before its last bytes leave: whoever saw the end of an answer
is given that answer again. Everything else lets the key go, so that trying again is a new attempt. A claim is renewed
while its request runs and lapses a minute after its process died.

What is kept costs the operator room: an answer that is too large, or beyond what its customer may have kept in a day
(counted per process), leaves only the fact that it was given. Repeating it is refused rather than charged twice.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta

import structlog

from wopr.core.errors import Conflict, Unavailable
from wopr.core.idempotency import Asked, Claim, answer_lost, in_progress
from wopr.core.ids import TenantId
from wopr.core.platform import Platform
from wopr.inference.gateway import meters
from wopr.inference.gateway.asgi import Header, Message, Send
from wopr.inference.gateway.errors import DATABASE_ERRORS, BadParameter
from wopr.inference.gateway.jobs import Job

KEY_HEADER = b"idempotency-key"
KEY_BYTES_MAX = 255
KEPT_BYTES_MAX = 4 * 1024 * 1024
KEPT_BYTES_A_DAY_MAX = 256 * 1024 * 1024
CLAIM_LASTS = timedelta(seconds=60)
RENEW_SECONDS = 20.0
KEEP_SECONDS_MAX = 5.0
REPLAYED: Header = (b"idempotent-replayed", b"true")
REQUEST_ID = b"x-request-id"
ORIGINAL = b"original-request"  # Stripe's name for the id of the request that did the work

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was given."""

    status: int
    headers: list[Header]
    body: bytes

    def pack(self) -> bytes:
        """As it is stored: a line of JSON, then the body."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]
        return json.dumps([self.status, headers]).encode() + b"\n" + self.body

    @classmethod
    def unpack(cls, stored: bytes) -> "Kept":
        """What `pack` stored."""
        head, _, body = stored.partition(b"\n")
        status, headers = json.loads(head)
        return cls(status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], body)


@dataclass
class Shelf:
    """Where the answers of a process are kept, and how much each customer had kept today."""

    platform: Platform
    _day: date = date.min
    _bytes: dict[TenantId, int] = field(default_factory=dict)

    async def begin(self, tenant_id: TenantId, key: bytes, job: Job) -> "Kept | Once":
        """The answer that is kept, or the request that this is now the first of.

        Raises Conflict (409): `idempotency_in_progress`, `idempotency_key_reused`, `idempotency_answer_lost`.
        """
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise BadParameter(f"Idempotency-Key must have 1 to {KEY_BYTES_MAX} characters.", None)
        asked = Asked(tenant_id, f"POST {job.path}", key.decode("latin-1"), _content(job))
        claim = Claim.of(self.platform, asked, CLAIM_LASTS)
        try:
            async with self.platform.db.begin() as session:
                known = await claim.take(session)
        except DATABASE_ERRORS as error:
            log.warning("gateway.once.unread", error=f"{type(error).__name__}: {error}")
            raise Unavailable("Idempotency-Keys can't be checked at the moment.", retry_after_seconds=1) from error
        if known is None:
            return Once(self, claim)
        if known.answer is None:
            raise in_progress()
        stored = claim.open(known.answer)
        if not stored:
            raise _too_large()
        meters.REPLAYS.inc()
        return Kept.unpack(stored)

    def room(self, tenant_id: TenantId, size: int) -> bool:
        """Whether the customer may have so many bytes more kept today; counts them."""
        today = self.platform.clock.now().date()
        if today != self._day:
            self._day, self._bytes = today, {}
        total = self._bytes.get(tenant_id, 0) + size
        if total > KEPT_BYTES_A_DAY_MAX:
            return False
        self._bytes[tenant_id] = total
        return True


class Once:
    """The first request under its key: remembers what is sent until it is known whether it may be kept."""

    def __init__(self, shelf: Shelf, claim: Claim) -> None:
        self._shelf = shelf
        self._claim = claim
        self._head: Message = {}
        self._body: list[bytes] = []
        self._size = 0
        self._kept = False
        self._renewal = asyncio.create_task(self._renew(), name="gateway claim")

    def through(self, send: Send, is_whole: Callable[[], bool]) -> Send:
        """What to send with instead of `send`; `is_whole` tells at the last message whether all went well."""

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._head = message
            else:
                self._collect(message.get("body", b""))
                if not message.get("more_body", False) and is_whole():
                    await self._keep()
            await send(message)

        return remember

    async def end(self) -> None:
        """The request is over: unless its answer is kept, the key is free again."""
        self._renewal.cancel()
        if not self._kept:
            try:
                async with self._shelf.platform.db.begin() as session:
                    await self._claim.let_go(session)
            except DATABASE_ERRORS as error:  # it lapses by itself
                log.warning("gateway.once.not_freed", error=f"{type(error).__name__}: {error}")

    def _collect(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= KEPT_BYTES_MAX:
            self._body.append(body)
        else:
            self._body.clear()

    async def _keep(self) -> None:
        self._kept = True  # whatever happens from here on: it is charged, and no free key may charge it again at once
        stored = b""
        if self._size <= KEPT_BYTES_MAX and self._shelf.room(TenantId(self._claim.asked.tenant_id), self._size):
            stored = Kept(self._head["status"], _lasting(self._head["headers"]), b"".join(self._body)).pack()
        try:
            async with asyncio.timeout(KEEP_SECONDS_MAX), self._shelf.platform.db.begin() as session:
                await self._claim.keep(session, stored)
        except DATABASE_ERRORS as error:
            log.warning("gateway.once.not_kept", error=f"{type(error).__name__}: {error}")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(*DATABASE_ERRORS):  # the next one may come in time
                async with self._shelf.platform.db.begin() as session:
                    await self._claim.renew(session)


def _lasting(headers: list[Header]) -> list[Header]:
    """The headers that belong to the answer and not to this exchange; the request's id, by which it is charged, too."""
    kept = [(ORIGINAL if name == REQUEST_ID else name, value) for name, value in headers]
    return [header for header in kept if header[0] != b"content-length" and not header[0].startswith(b"x-ratelimit-")]


def _content(job: Job) -> bytes:
    """The same for requests that say the same: spaces, the order of fields and a form's boundary don't count."""
    if job.form is not None:
        parts = job.form.parts
        raw = job.form.raw
        return repr(
            [(part.name, part.is_file, hashlib.sha256(raw[part.start : part.end]).digest()) for part in parts]
        ).encode()
    return json.dumps(job.json.values if job.json is not None else None, sort_keys=True).encode()


def _too_large() -> Conflict:
    return answer_lost(
        "its answer was too large to be kept, or too much was kept today",
        remedy="Use a new Idempotency-Key to ask, and pay, once more.",
    )
