"""Whether the bot can answer: its database is open and its gateway has been reached once.

Once reached stays ready: when the platform dies the bot goes on, keeps its conversations readable and says in each turn
what is wrong.
"""

import asyncio

from wopr.bot.gateway import Gateway
from wopr.bot.log import log

PROBE_DELAY_SECONDS_MIN = 0.1
PROBE_DELAY_SECONDS_MAX = 3.0


class Readiness:
    """The reasons against, told by `/ready`."""

    def __init__(self) -> None:
        self.database_open = False
        self.gateway_reached = False
        self.stopping = False

    @property
    def reasons(self) -> list[str]:
        """Empty when ready."""
        reasons = []
        if self.stopping:
            reasons.append("the bot is stopping")
        if not self.database_open:
            reasons.append("the database is not open yet")
        if not self.gateway_reached:
            reasons.append("the inference gateway has not answered yet")
        return reasons


async def watch_gateway(gateway: Gateway, readiness: Readiness) -> None:
    """Asks until the gateway answers for the first time."""
    delay = PROBE_DELAY_SECONDS_MIN
    while not await gateway.answers():
        await asyncio.sleep(delay)
        delay = min(delay * 2, PROBE_DELAY_SECONDS_MAX)
    readiness.gateway_reached = True
    log("ready")
