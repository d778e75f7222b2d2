"""Hears from the engine that a bot's container ended, and finds out why.

The stream of events is opened again when the engine comes back. What ended while nobody listened, or was politely told
to by the engine, is found by the next look at everything and is no crash: the engine or its machine was restarted, or
somebody stopped the container by hand, and no bot is to blame for that.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import time
from typing import Any  # the engine's JSON
from uuid import UUID

import structlog

from wopr.core.ids import BotId
from wopr.fleet.runtimes import enginelog
from wopr.fleet.runtimes.containers import LABEL_BOT, LABEL_INSTANCE, ours, reason_of
from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.protocol import Ended, RuntimeFailed

RECONNECT_SECONDS_FIRST = 0.2
RECONNECT_SECONDS_MAX = 5.0
TEXT_CHARACTERS_MAX = 300
EXPECTED_MAX = 10_000

log = structlog.get_logger(__name__)


class Ends:
    """Listens for one installation. `on_end` hears of ends that nobody here asked for, `on_change` of everything."""

    def __init__(self, engine: Engine, installation: str, on_change: Callable[[], None]) -> None:
        self.on_end: Callable[[Ended], None] | None = None
        self._engine = engine
        self._installation = installation
        self._on_change = on_change
        self._expected: dict[str, str] = {}
        self._listener: asyncio.Task[None] | None = None
        self._explaining: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()

    @property
    def listening(self) -> bool:
        """Whether everything that happens is heard at the moment."""
        return self._connected.is_set()

    async def begin(self) -> None:
        """Listen from now on; returns when the stream is open, or at once when the engine is away."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="engine events")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_SECONDS_FIRST):
                await self._connected.wait()

    def expect(self, container: str, reason: str = "") -> None:
        """This container's coming end is our own doing: not reported, or with this reason."""
        self._expected[container] = reason
        while len(self._expected) > EXPECTED_MAX:
            del self._expected[next(iter(self._expected))]

    async def close(self) -> None:
        tasks = [task for task in (self._listener, *self._explaining) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener = None
        self._connected.clear()

    async def _listen(self) -> None:
        pause = RECONNECT_SECONDS_FIRST
        # What happens while the stream is being opened for the first time is not missed.
        since: float | None = time()
        while True:
            try:
                async for event in self._engine.events(ours(self._installation), self._opened, since):
                    pause = RECONNECT_SECONDS_FIRST
                    self._hear(event)
            except RuntimeFailed as error:
                log.warning("engine.events_lost", error=error.message)
            since = None if self._connected.is_set() else since
            self._connected.clear()
            self._on_change()
            await asyncio.sleep(pause)
            pause = min(RECONNECT_SECONDS_MAX, pause * 2)

    def _opened(self) -> None:
        self._connected.set()
        self._on_change()

    def _hear(self, event: Mapping[str, Any]) -> None:
        self._on_change()
        container = str(event["Actor"]["ID"])
        if event.get("Action") == "kill" and event["Actor"]["Attributes"].get("signal") == str(int(signal.SIGTERM)):
            if container not in self._expected:
                self.expect(container)
            return
        if event.get("Action") != "die":
            return
        reason = self._expected.pop(container, None)
        if reason == "" or self.on_end is None:
            return
        task = asyncio.create_task(self._report(event, reason), name=f"end of {container[:12]}")
        self._explaining.add(task)
        task.add_done_callback(self._explaining.discard)

    async def _report(self, event: Mapping[str, Any], known_reason: str | None) -> None:
        labels = event["Actor"]["Attributes"]
        try:
            bot_id, instance_id = BotId(UUID(labels[LABEL_BOT])), UUID(labels[LABEL_INSTANCE])
        except (KeyError, ValueError):
            return
        at = datetime.fromtimestamp(event["timeNano"] / 1e9, UTC)
        try:
            reason = known_reason or await self._explain(str(event["Actor"]["ID"]), int(labels.get("exitCode", 0)))
        except RuntimeFailed:
            return  # the engine itself is going: it took the bot along
        if self.on_end is not None:
            self.on_end(Ended(bot_id, instance_id, at, reason))

    async def _explain(self, container: str, exit_code: int) -> str:
        inspected = await self._engine.inspect(container)
        if inspected is None:
            return "its container was removed from outside"
        out_of_memory = bool(inspected["State"].get("OOMKilled"))
        reason = reason_of(exit_code, out_of_memory, int(inspected["HostConfig"].get("Memory") or 0))
        errors = [line for line in await enginelog.tail(self._engine, container, 50) if line.stream == "stderr"]
        return f"{reason}: {errors[-1].text[:TEXT_CHARACTERS_MAX]}" if errors and not out_of_memory else reason
