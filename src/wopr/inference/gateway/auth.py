"""Who is asking: keys by their SHA-256, remembered in this process and forgotten the moment they change.

A notification on `wopr_keys` or `wopr_tenants` removes what it concerns, a lost listening connection removes all, and
while there is none the database is asked for every request. A
lookup that was under way meanwhile is not remembered. Keys that are refused are remembered for a moment only, so that a
flood of wrong keys is no flood of queries and a mended account works at once.
"""

import asyncio
import hashlib
from dataclasses import dataclass

from wopr.accounts.keys import KEYS_CHANNEL, KeyRecord, find_by_hash
from wopr.accounts.principal import Scope
from wopr.accounts.tenants import TENANTS_CHANNEL
from wopr.core.errors import Forbidden, Unauthenticated, WoprError
from wopr.core.notify import LOST
from wopr.core.platform import Platform

KNOWN_SECONDS = 60.0
REFUSED_SECONDS = 1.0
ENTRIES_MAX = 100_000
TOKEN_BYTES_MAX = 512


@dataclass(slots=True)
class Caller:
    """A key that was looked up: what it may do until when (monotonic seconds), or why it is refused."""

    key: KeyRecord | None
    refusal: WoprError | None
    until: float


class Authenticator:
    """The cache of one process."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._now = platform.clock.monotonic
        self._callers: dict[bytes, Caller] = {}
        self._under_way: dict[bytes, asyncio.Task[Caller]] = {}
        self._changes = 0
        self._listening = platform.notifier.connected.is_set
        platform.notifier.subscribe(KEYS_CHANNEL, self._key_changed)
        platform.notifier.subscribe(TENANTS_CHANNEL, self._tenant_changed)

    def known(self, digest: bytes) -> Caller | None:
        """The caller with this key's digest, when it is remembered and we would hear of a change."""
        if not self._listening():
            return None
        caller = self._callers.get(digest)
        return caller if caller is not None and self._now() < caller.until else None

    async def look_up(self, digest: bytes) -> Caller:
        """The caller from the database; requests with the same key share one query."""
        task = self._under_way.get(digest)
        if task is None:
            task = asyncio.create_task(self._query(digest), name="gateway key")
            self._under_way[digest] = task
            task.add_done_callback(lambda _: self._under_way.pop(digest, None))
        return await asyncio.shield(task)

    async def _query(self, digest: bytes) -> Caller:
        before = self._changes
        async with self._platform.db.begin() as session:
            record = await find_by_hash(session, digest)
        caller = self._judge(record)
        if before == self._changes:
            if len(self._callers) >= ENTRIES_MAX:
                self._callers.clear()
            self._callers[digest] = caller
        return caller

    def _judge(self, record: KeyRecord | None) -> Caller:
        refusal = _refusal(record)
        seconds = KNOWN_SECONDS if refusal is None else REFUSED_SECONDS
        if refusal is None and record is not None and record.expires_at is not None:
            left = (record.expires_at - self._platform.clock.now()).total_seconds()
            if left <= 0:
                refusal = _wrong_key("The API key has expired.")
            seconds = min(seconds, max(left, REFUSED_SECONDS))
        return Caller(record, refusal, self._now() + seconds)

    def _key_changed(self, payload: str) -> None:
        self._changes += 1
        if payload == LOST:
            self._callers.clear()
            return
        try:
            self._callers.pop(bytes.fromhex(payload), None)
        except ValueError:
            self._callers.clear()

    def _tenant_changed(self, payload: str) -> None:
        self._changes += 1
        if payload == LOST:
            self._callers.clear()
            return
        for digest, caller in list(self._callers.items()):
            if caller.key is not None and str(caller.key.tenant_id) == payload:
                del self._callers[digest]


def digest_of(value: bytes | None) -> bytes:
    """SHA-256 of the bearer key in an Authorization header. Raises Unauthenticated when there is none."""
    if value is None:
        raise _wrong_key("You didn't provide an API key.")
    scheme, _, token = value.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token or len(token) > TOKEN_BYTES_MAX:
        raise _wrong_key("The Authorization header is not of the form `Bearer wopr_…`.")
    return hashlib.sha256(token).digest()


def require(caller: Caller, *, writing: bool) -> KeyRecord:
    """The key, when it may do this; otherwise the reason is raised."""
    if caller.refusal is not None:
        raise caller.refusal.with_traceback(None)
    key = caller.key
    if key is None:
        raise _wrong_key("Incorrect API key provided.")
    if writing and key.scope is Scope.READ and key.bot_id is None:
        raise Forbidden(
            "This key may only read.", code="insufficient_scope", remedy="Use a key with the scope write or admin."
        )
    return key


def _refusal(record: KeyRecord | None) -> WoprError | None:
    if record is None:
        return _wrong_key("Incorrect API key provided.")
    if record.revoked:
        return _wrong_key("The API key has been revoked.")
    if record.tenant_suspended:
        return Forbidden(
            "The account was suspended by the operator.", code="account_suspended", remedy="Write to support."
        )
    if not record.email_verified:
        return Forbidden(
            "The account's e-mail address is not verified.",
            code="email_not_verified",
            remedy="Open the link in the mail that you were sent, or ask for another on the sign-in page.",
        )
    return None


def _wrong_key(message: str) -> Unauthenticated:
    return Unauthenticated(message, code="invalid_api_key", remedy="Make or find your keys on the keys page.")
