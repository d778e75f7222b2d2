"""When a request is sent to the gateway again, and when the bot gives up: decisions without a clock of their own.

A gateway that went away comes back, usually within seconds: a release, a crash, a restarted machine. An answer waits
for it and is then asked for anew (see `retelling.py` for what listeners see of that). Each broken answer may have been
charged, so there are few of them.
"""

from collections.abc import Callable

from wopr.bot.gateway_errors import GatewayError, Retry

AWAY_SECONDS_MAX = 60.0
PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0)  # the last one again and again
BRIEF_ATTEMPTS_MAX = 6
BROKEN_ANSWERS_MAX = 4
BUSY_ATTEMPTS_MAX = 4
BUSY_SECONDS_MAX = 20.0
BUSY_SECONDS_DEFAULT = 1.0


class Patience:
    """The patience with one request. `now` is a clock in seconds.

    An `answering` one is the turn itself: it also waits for engines, and survives an answer that broke off. Everything
    else waits long only while nobody listens at the gateway's address, when nothing can have been charged.
    """

    def __init__(self, now: Callable[[], float], *, answering: bool = False) -> None:
        self._now = now
        self._answering = answering
        self._away_since: float | None = None
        self._failures = 0
        self._broken = 0

    def heard(self) -> None:
        """Text arrives: the gateway is back, and the next failure is another one."""
        self._away_since = None
        self._failures = 0

    def pause(self, error: GatewayError) -> float | None:
        """Seconds until the request is sent again, or None to give up."""
        self._failures += 1
        if error.retry is Retry.BUSY:
            wait = error.retry_after if error.retry_after is not None else BUSY_SECONDS_DEFAULT
            return wait if self._failures < BUSY_ATTEMPTS_MAX and wait <= BUSY_SECONDS_MAX else None
        if error.retry is Retry.IF_ANSWERING:
            self._broken += 1
            return self._while_away() if self._answering and self._broken < BROKEN_ANSWERS_MAX else None
        if error.retry is Retry.ABSENT or (error.retry is Retry.AWAY and self._answering):
            return self._while_away()
        if error.retry is Retry.NEVER or self._failures >= BRIEF_ATTEMPTS_MAX:
            return None
        return self._next()

    def _while_away(self) -> float | None:
        if self._away_since is None:
            self._away_since = self._now()
        pause = self._next()
        return pause if self._now() + pause <= self._away_since + AWAY_SECONDS_MAX else None

    def _next(self) -> float:
        return PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS)) - 1]
