"""How often and how many at once: requests a minute and running requests, per tenant and per key.

A bucket of tokens that fills evenly (a burst may use a minute's worth at once, then the rate holds). Processes tell
each other once a second through `wopr_rates` what they let in, so that the limit holds for all of them together; a lost
notification only makes it a little generous.
"""

import json
import math
import os
from dataclasses import dataclass
from uuid import UUID

from wopr.core.errors import TooManyRequests
from wopr.core.ids import new_id
from wopr.inference.gateway.asgi import Header

RATES_CHANNEL = "wopr_rates"
BUCKETS_MAX = 50_000
PAYLOAD_BYTES_MAX = 7_500  # PostgreSQL's limit for a notification is 8,000
CONCURRENCY_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Bucket:
    """What one tenant or key has left: `left` requests as of `at` (monotonic seconds), and how many run."""

    left: float
    at: float
    running: int = 0
    told: int = 0  # let in since the others were told


class Limiter:
    """The buckets of one process."""

    def __init__(self, requests_per_minute: int, concurrency_max: int) -> None:
        self.requests_per_minute = requests_per_minute
        self.concurrency_max = concurrency_max
        self.name = f"{os.getpid()}-{new_id().hex[-8:]}"
        self._per_second = requests_per_minute / 60
        self._buckets: dict[UUID, Bucket] = {}
        self._limit_header: Header = (b"x-ratelimit-limit-requests", b"%d" % requests_per_minute)

    def buckets(self, tenant: UUID, key: UUID, now: float) -> tuple[Bucket, Bucket]:
        """The buckets of a tenant and of one of its keys, as they are now."""
        return self._bucket(tenant, now), self._bucket(key, now)

    def enter(self, buckets: tuple[Bucket, Bucket]) -> None:
        """Let one request in, or raise TooManyRequests (429). Call `leave` afterwards."""
        for bucket in buckets:
            if bucket.running >= self.concurrency_max:
                raise TooManyRequests(
                    f"{self.concurrency_max} requests run already, which is the most at once.",
                    code="concurrency_limit_exceeded",
                    remedy="Wait until one has ended.",
                    retry_after_seconds=CONCURRENCY_RETRY_SECONDS,
                )
            if bucket.left < 1:
                raise TooManyRequests(
                    f"The limit of {self.requests_per_minute} requests a minute is reached.",
                    code="rate_limit_exceeded",
                    remedy="Wait as long as Retry-After says.",
                    retry_after_seconds=(1 - bucket.left) / self._per_second,
                )
        for bucket in buckets:
            bucket.left -= 1
            bucket.running += 1
            bucket.told += 1

    def leave(self, buckets: tuple[Bucket, Bucket]) -> None:
        """A request that was let in has ended."""
        for bucket in buckets:
            bucket.running -= 1

    def headers(self, buckets: tuple[Bucket, Bucket]) -> list[Header]:
        """The limit, what is left of it, and when it is whole again, in OpenAI's words."""
        left = min(buckets[0].left, buckets[1].left)
        full_in = (self.requests_per_minute - left) / self._per_second
        return [
            self._limit_header,
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, int(left))),
            (b"x-ratelimit-reset-requests", b"%dms" % math.ceil(full_in * 1000)),
        ]

    def told(self) -> list[str]:
        """What the other processes must know since the last call, as payloads for `wopr_rates`."""
        counts = {}
        for name, bucket in self._buckets.items():
            if bucket.told:
                counts[name.hex] = bucket.told
                bucket.told = 0
        names = sorted(counts)
        size = PAYLOAD_BYTES_MAX // 48
        return [
            json.dumps([self.name, {name: counts[name] for name in names[start : start + size]}], separators=(",", ":"))
            for start in range(0, len(names), size)
        ]

    def hear(self, payload: str, now: float) -> None:
        """Another process let requests in: they count here too. What can't be read is ignored."""
        try:
            name, counts = json.loads(payload)
            if name == self.name:
                return
            for each, count in counts.items():
                self._bucket(UUID(hex=each), now).left -= int(count)
        except (ValueError, TypeError, AttributeError):
            return

    def _bucket(self, name: UUID, now: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= BUCKETS_MAX:
                self._forget(now)
            bucket = self._buckets[name] = Bucket(self.requests_per_minute, now)
            return bucket
        bucket.left = min(self.requests_per_minute, bucket.left + (now - bucket.at) * self._per_second)
        bucket.at = now
        return bucket

    def _forget(self, now: float) -> None:
        """Drop buckets that are full again: a new one says the same."""
        for name, bucket in list(self._buckets.items()):
            if not bucket.running and bucket.left + (now - bucket.at) * self._per_second >= self.requests_per_minute:
                del self._buckets[name]
