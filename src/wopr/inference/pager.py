"""Alerts on their way to the webhook, beside the loops that have them: a pager that does not answer holds nobody up."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import structlog

from wopr.core.platform import Platform
from wopr.inference.alerts import Alert, call_webhook, queue_alert

# Of a pager that is away for long only the latest matter; the mails are complete.
WAITING_MAX = 100

log = structlog.get_logger(__name__)


@dataclass
class Pager:
    """Posts one alert after the other, in their order. What waits is lost with the process: its mail is not."""

    platform: Platform
    _waiting: deque[Alert] = field(default_factory=deque)
    _task: "asyncio.Task[None] | None" = None

    def call(self, alert: Alert) -> None:
        """Have it posted; returns at once."""
        if len(self._waiting) >= WAITING_MAX:
            log.warning("pager.dropped", subject=self._waiting.popleft().subject)
        self._waiting.append(alert)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._post(), name="pager")

    async def tell(self, alert: Alert, key: str) -> None:
        """Mail it and have it posted, unless the administrators were told under this key before."""
        async with self.platform.db.begin() as session:
            is_news = await queue_alert(session, self.platform, alert, key)
        if is_news:
            self.call(alert)

    async def close(self) -> None:
        """Give up what is under way and what waits."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _post(self) -> None:
        while self._waiting:
            await call_webhook(self.platform, self._waiting.popleft())
