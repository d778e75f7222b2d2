"""Wakes who waits for a bot: one subscription a process instead of a question to the database twenty times a second."""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID

from wopr.core.notify import Notifier

# Told with the bot's id when the state that its owner sees has changed.
STATES_CHANNEL = "wopr_bot_states"
# A notification is a hint: whoever waits looks by itself as often as this, oftener while none can arrive.
LOOK_SECONDS = 1.0
LOOK_SECONDS_UNTOLD = 0.2


class Changes:
    """Who waits for which bot. Making it opens nothing."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._subscribed = False

    @contextlib.contextmanager
    def watch(self, bot_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set with each change of the bot. Begin before looking, so that nothing falls in between."""
        if not self._subscribed:
            self._subscribed = True
            self._notifier.subscribe(STATES_CHANNEL, self._told)
        event = asyncio.Event()
        self._waiting.setdefault(bot_id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[bot_id].discard(event)
            if not self._waiting[bot_id]:
                del self._waiting[bot_id]

    async def wait(self, event: asyncio.Event, seconds_max: float) -> None:
        """Return when the event is set, or when it is time to look without having been told."""
        patience = LOOK_SECONDS if self._notifier.connected.is_set() else LOOK_SECONDS_UNTOLD
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(patience, max(seconds_max, 0.0))):
                await event.wait()
        event.clear()

    def _told(self, payload: str) -> None:
        try:
            told = self._waiting.get(UUID(payload), set())
        except ValueError:  # the connection was away: any of them may have changed
            told = {event for events in self._waiting.values() for event in events}
        for event in told:
            event.set()
