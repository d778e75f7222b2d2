"""One request from its first byte to its bill: authenticate, limit, hold, ask a backend, pass the answer on, charge.

The usage record is in the log before the end of the answer is sent, so whoever saw the end of an answer can rely on its
being charged once. Whatever ends an exchange early, `Bill` is either charged for what was delivered or let go.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import structlog

from wopr.accounts.keys import KeyRecord
from wopr.core.errors import Unavailable, UpstreamFailed, WoprError
from wopr.core.ids import KeyId, TurnId
from wopr.core.platform import Platform
from wopr.inference.gateway import auth, meters
from wopr.inference.gateway.asgi import ClientLeft, Header, Scope, Send, read_body, respond
from wopr.inference.gateway.bills import Bill, Origin
from wopr.inference.gateway.errors import (
    DATABASE_ERRORS,
    MethodNotAllowed,
    TimedOut,
    error_body,
    error_event,
    error_headers,
)
from wopr.inference.gateway.jobs import ENDPOINTS, Endpoint, Job
from wopr.inference.gateway.limits import Limiter
from wopr.inference.gateway.listing import describe_models
from wopr.inference.gateway.once import KEY_HEADER, REPLAYED, Kept, Shelf
from wopr.inference.gateway.relay import Relay
from wopr.inference.gateway.settle import Settler
from wopr.inference.gateway.upstream import Upstreams
from wopr.inference.gateway.watch import FIRST_BYTE_SECONDS_MAX, GONE, LEFT, SHUTDOWN, Running, Watch

TURN_HEADER = b"x-wopr-turn"
ID_MASK = 2**62 - 1
ID_STEP = 0x1E3779B97F4A7C15  # spreads neighbours over the whole range

log = structlog.get_logger(__name__)


@dataclass
class Parts:
    """What every exchange of a process shares."""

    platform: Platform
    keys: auth.Authenticator
    limiter: Limiter
    settler: Settler
    upstreams: Upstreams
    watch: Watch
    shelf: Shelf
    keys_used: set[KeyId] = field(default_factory=set)
    draining: bool = False
    _random: int = field(default_factory=lambda: secrets.randbits(62))

    def next_id(self) -> UUID:
        """A UUID of version 7 without asking the kernel for randomness each time: a random start, then steps.

        The step is odd, so no number comes again before 2**62 requests; ids of other processes start elsewhere.
        """
        self._random = (self._random + ID_STEP) & ID_MASK
        milliseconds = time.time_ns() // 1_000_000
        return UUID(int=milliseconds << 80 | 0x7 << 76 | (self._random & 0xFFF) << 64 | 0x2 << 62 | self._random)


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_limits",
        "_parts",
        "_received",
        "_relay",
        "_request_id",
        "_request_name",
        "_running",
        "_scope",
        "_send",
    )

    def __init__(self, parts: Parts, scope: Scope, send: Send, running: Running) -> None:
        self._parts = parts
        self._scope = scope
        self._send = send
        self._running = running
        self._received: dict[bytes, bytes] = dict(scope["headers"])
        self._request_id = parts.next_id()
        self._request_name = str(self._request_id)
        self._limits: list[Header] = []
        self._relay: Relay | None = None

    async def run(self) -> None:
        """Answer, whatever happens."""
        try:
            await self._serve()
        except ClientLeft:
            return
        except asyncio.CancelledError:
            if self._running.why is None:
                raise
            self._running.task.uncancel()
            if self._running.why != LEFT:
                await self._refuse(_cut_short(self._running.why))
        except WoprError as error:
            await self._refuse(error)
        except Exception:
            # The outermost handler: no trace may leave the process, and the log must have it.
            log.exception("gateway.failed", request_id=self._request_name)
            await self._refuse(WoprError("Something went wrong on our side.", remedy="Try again."))

    async def _serve(self) -> None:
        if self._parts.draining:
            raise Unavailable("This server is being restarted.", code="restarting", retry_after_seconds=1)
        path = self._scope["path"].rstrip("/")
        endpoint = ENDPOINTS.get(path)
        if endpoint is None:
            answer = await describe_models(self._parts.upstreams.catalog, self._scope, self._authenticate)
            await respond(self._send, 200, [(b"content-type", b"application/json"), *self._headers()], answer)
            return
        if self._scope["method"] != "POST":
            raise MethodNotAllowed("POST")
        key = await self._authenticate(writing=True)
        limiter = self._parts.limiter
        buckets = limiter.buckets(key.tenant_id, key.key_id, self._running.started)
        try:
            limiter.enter(buckets)
        finally:
            self._limits = limiter.headers(buckets)
        try:
            await self._metered(endpoint, key)
        finally:
            limiter.leave(buckets)

    async def _authenticate(self, *, writing: bool) -> KeyRecord:
        digest = auth.digest_of(self._received.get(b"authorization"))
        caller = self._parts.keys.known(digest)
        if caller is None:
            try:
                caller = await self._parts.keys.look_up(digest)
            except DATABASE_ERRORS as error:
                log.warning("gateway.keys.unread", error=str(error))
                raise Unavailable("Keys can't be checked at the moment.", retry_after_seconds=1) from error
        key = auth.require(caller, writing=writing)
        self._parts.keys_used.add(key.key_id)
        return key

    async def _metered(self, endpoint: Endpoint, key: KeyRecord) -> None:
        running = self._running
        raw = await read_body(self._received.get(b"content-length"), running.receive, endpoint.bytes_max)
        running.reading = False
        running.idle_max = FIRST_BYTE_SECONDS_MAX
        job = endpoint.read(endpoint, raw, self._received.get(b"content-type", b""))
        once_key = self._received.get(KEY_HEADER)
        if once_key is None:
            await self._answer(job, key)
        else:
            await self._answer_once(job, key, once_key)

    async def _answer_once(self, job: Job, key: KeyRecord, once_key: bytes) -> None:
        found = await self._parts.shelf.begin(key.tenant_id, once_key, job)
        if isinstance(found, Kept):
            self._running.over = True
            await respond(self._send, found.status, [*found.headers, REPLAYED, *self._headers()], found.body)
            return
        self._send = found.through(self._send, lambda: self._relay is not None and self._relay.whole)
        try:
            await self._answer(job, key)
        finally:
            await found.end()

    async def _answer(self, job: Job, key: KeyRecord) -> None:
        parts, running = self._parts, self._running
        catalog = parts.upstreams.catalog
        price = catalog.price(job.service, job.model)
        bill = Bill(parts.settler, parts.settler.purse(key.tenant_id), job, price, catalog.canonical(job.model))
        await bill.hold()
        try:
            reply = await parts.upstreams.open(job, self._request_name, running)
        except BaseException:
            bill.let_go()
            raise
        bill.node_id = reply.target.backend.node_id
        clock = parts.platform.clock
        began = clock.now() - timedelta(seconds=clock.monotonic() - running.started)
        origin = Origin(self._request_id, key, self._turn(), began, running.started)
        self._relay = Relay(parts.upstreams, parts.watch, running, self._send, bill)
        await self._relay.run(reply, origin, self._headers())

    def _headers(self) -> list[Header]:
        return [(b"x-request-id", self._request_name.encode()), *self._limits]

    def _turn(self) -> TurnId | None:
        value = self._received.get(TURN_HEADER)
        if value is None:
            return None
        try:
            return TurnId(UUID(value.decode("latin-1")))
        except ValueError:
            return None

    async def _refuse(self, error: WoprError) -> None:
        meters.REFUSALS.labels(error.code).inc()
        self._running.over = True
        if self._relay is None or not self._relay.started:
            await respond(self._send, error.status, [*error_headers(error), *self._headers()], error_body(error))
        elif self._relay.events and not self._relay.ended:
            await self._send({"type": "http.response.body", "body": error_event(error), "more_body": False})
        # Otherwise the answer stays incomplete, which is how HTTP says that something failed in the middle.


def _cut_short(why: str) -> WoprError:
    if why == SHUTDOWN:
        return Unavailable("This server is being restarted.", code="restarting", retry_after_seconds=1)
    if why == GONE:
        return UpstreamFailed("The model's machine stopped answering in the middle.", code="stream_failed")
    return TimedOut("The model took too long.", remedy="Ask for fewer tokens with max_tokens, or try again.")
