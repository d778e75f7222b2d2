"""The OpenAI-compatible gateway as a raw ASGI application, and what it does beside answering."""

import asyncio
import contextlib

import structlog

from wopr.accounts.keys import touch
from wopr.billing.prices import load_prices
from wopr.core.notify import LOST, notify
from wopr.core.platform import Platform
from wopr.inference.gateway import meters
from wopr.inference.gateway.asgi import Receive, Scope, Send
from wopr.inference.gateway.auth import Authenticator
from wopr.inference.gateway.errors import DATABASE_ERRORS
from wopr.inference.gateway.exchange import Exchange, Parts
from wopr.inference.gateway.limits import RATES_CHANNEL, Limiter
from wopr.inference.gateway.once import Shelf
from wopr.inference.gateway.pulse import Pulse
from wopr.inference.gateway.settle import Settler
from wopr.inference.gateway.upstream import Upstreams
from wopr.inference.gateway.watch import Watch
from wopr.inference.life import LIFE_CHANNEL

CHORES_SECONDS = 1.0
KEYS_EVERY = 10
RECOVER_EVERY = 10
DRAIN_SECONDS = 20.0
CUT_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Gateway:
    """Serves `/v1/*`. Call `startup` before the first request and `shutdown` after the last."""

    def __init__(self, platform: Platform) -> None:
        settings = platform.settings
        watch = Watch(platform.clock.monotonic)
        self._platform = platform
        self._parts = Parts(
            platform=platform,
            keys=Authenticator(platform),
            limiter=Limiter(settings.gateway_requests_per_minute, settings.gateway_concurrency_max),
            settler=Settler(platform),
            upstreams=Upstreams(platform, load_prices(settings.wopr_prices), watch),
            watch=watch,
            shelf=Shelf(platform),
        )
        self._pulse = Pulse()
        self._chores: asyncio.Task[None] | None = None
        platform.notifier.subscribe(RATES_CHANNEL, self._heard)

    async def startup(self) -> None:
        """Settle what dead processes left, find the backends, and begin."""
        parts = self._parts
        with contextlib.suppress(*DATABASE_ERRORS):  # the chores try again
            await parts.settler.recover()
        await parts.settler.start()
        await parts.upstreams.start()
        await parts.watch.start()
        self._chores = asyncio.create_task(self._do_chores(), name="gateway chores")

    async def shutdown(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Refuse new requests, let the running ones end, settle everything and give leased credit back."""
        parts = self._parts
        parts.draining = True
        await parts.watch.stop(drain_seconds, CUT_SECONDS)
        if self._chores is not None:
            self._chores.cancel()
            await asyncio.gather(self._chores, return_exceptions=True)
        await parts.settler.stop()
        await parts.upstreams.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; the path begins with `/v1`."""
        watch = self._parts.watch
        running = watch.add(receive)
        try:
            await Exchange(self._parts, scope, send, running).run()
        finally:
            watch.remove(running)

    async def refresh(self) -> None:
        """Look for backends and their models now."""
        await self._parts.upstreams.refresh()

    async def recover(self) -> int:
        """Settle what dead processes left in their logs; how many lines there were."""
        return await self._parts.settler.recover()

    def _heard(self, payload: str) -> None:
        if payload != LOST:
            self._parts.limiter.hear(payload, self._platform.clock.monotonic())

    async def _do_chores(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(CHORES_SECONDS)
            turn += 1
            try:
                await self._tell()
                if turn % KEYS_EVERY == 0:
                    await self._touch_keys()
                if turn % RECOVER_EVERY == 0:
                    await self._parts.settler.recover()
            except DATABASE_ERRORS as error:
                log.warning("gateway.chores.failed", error=f"{type(error).__name__}: {error}")
            records, size = self._parts.settler.backlog()
            meters.WAL_RECORDS.set(records)
            meters.WAL_BYTES.set(size)
            meters.RUNNING.set(len(self._parts.watch.running))

    async def _tell(self) -> None:
        """Tell the other processes which tenants are busy, and which services got on with our requests."""
        parts = self._parts
        payloads = [(RATES_CHANNEL, payload) for payload in parts.limiter.told()]
        now = self._platform.clock.monotonic()
        beats = self._pulse.beat(parts.upstreams.catalog.targets, parts.watch.running, now)
        payloads += [(LIFE_CHANNEL, beat) for beat in beats]
        if payloads:
            async with self._platform.db.begin() as session:
                for channel, payload in payloads:
                    await notify(session, channel, payload)

    async def _touch_keys(self) -> None:
        used, self._parts.keys_used = self._parts.keys_used, set()
        if used:
            now = self._platform.clock.now()
            async with self._platform.db.begin() as session:
                await touch(session, dict.fromkeys(used, now))


def build_gateway(platform: Platform) -> Gateway:
    """The gateway on this platform. Starts nothing."""
    return Gateway(platform)
