"""Delivers events to webhook endpoints, signed, again and again with growing pauses until one answers 2xx.

The deliveries are documents, so a killed process goes on with them when it starts again.
"""

import asyncio
import json
import time

import httpx

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.events import signature
from wopr.emulators.stripe.world import World, public

_AT_ONCE = 8
_BACKLOG_MAX = 5000
_ERROR_LENGTH_MAX = 300


class Courier:
    """The background task that delivers. `wake` makes it look at once; otherwise it sleeps until something is due."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._wanted = asyncio.Event()
        self._limit = asyncio.Semaphore(_AT_ONCE)

    def wake(self) -> None:
        """Something new may be due."""
        self._wanted.set()

    async def run(self) -> None:
        """Deliver for ever."""
        timeout = self._world.settings.delivery_timeout_seconds
        through = self._world.settings.webhook_transport
        async with httpx.AsyncClient(
            timeout=timeout, follow_redirects=False, trust_env=False, transport=through
        ) as client:
            while True:
                self._wanted.clear()
                pending = self._pending()
                due = [d for d in pending if d["due_at"] <= time.time()]
                await asyncio.gather(*(self._deliver(client, delivery) for delivery in due))
                if not due:
                    await self._sleep(pending)

    async def _sleep(self, pending: list[Document]) -> None:
        pause = min((d["due_at"] for d in pending), default=time.time() + 60) - time.time()
        try:
            async with asyncio.timeout(max(0.01, pause)):
                await self._wanted.wait()
        except TimeoutError:
            return

    def _pending(self) -> list[Document]:
        return self._world.documents.select(
            Query("_delivery", {"state": "pending"}, limit=_BACKLOG_MAX, oldest_first=True)
        )

    async def _deliver(self, client: httpx.AsyncClient, delivery: Document) -> None:
        event = self._world.documents.get(delivery["event"], "event")
        endpoint = self._world.documents.get(delivery["endpoint"], "webhook_endpoint")
        if event is None or endpoint is None or endpoint["status"] != "enabled":
            self._keep(delivery | {"state": "dropped", "last_error": "the endpoint is gone"}, None)
            return
        payload = json.dumps(public(event), indent=2).encode()
        headers = {
            "content-type": "application/json; charset=utf-8",
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            # The machine's time, not the stand-in's: receivers compare it with their own clock.
            "stripe-signature": signature(endpoint["_secret"], payload, int(time.time())),
        }
        async with self._limit:
            try:
                answer = await client.post(endpoint["url"], content=payload, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self._after_attempt(delivery, event, None, f"{type(error).__name__}: {error}")
            else:
                self._after_attempt(delivery, event, answer.status_code, answer.text)

    def _after_attempt(self, delivery: Document, event: Document, status: int | None, text: str) -> None:
        attempts = delivery["attempts"] + 1
        delays = self._world.settings.retry_delays_seconds
        tried = delivery | {"attempts": attempts, "last_status": status, "last_error": None, "url": delivery["url"]}
        if status is not None and 200 <= status < 300:
            self._keep(tried | {"state": "delivered"}, event)
            return
        tried["last_error"] = text[:_ERROR_LENGTH_MAX] or f"HTTP {status}"
        if attempts > len(delays):
            self._keep(tried | {"state": "failed"}, None)
        else:
            self._keep(tried | {"due_at": time.time() + delays[attempts - 1]}, None)

    def _keep(self, delivery: Document, delivered: Document | None) -> None:
        with self._world.documents.transaction():
            self._world.documents.put(delivery)
            if delivered is not None:
                current = self._world.documents.get(delivered["id"]) or delivered
                self._world.documents.put(current | {"pending_webhooks": max(0, current["pending_webhooks"] - 1)})
