"""What goes wrong on demand, and the limit of requests: what a careful client must live through."""

import time
from collections import deque
from typing import Literal

from pydantic import BaseModel, Field

from wopr.emulators.digitalocean.errors import ActionFailed, limited
from wopr.emulators.digitalocean.settings import DigitalOceanSettings
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document, Query

_HANG_SECONDS_MAX = 600
_HOUR_SECONDS, _MINUTE_SECONDS = 3600, 60
_KIND = "_fault"


class FaultRequest(BaseModel):
    """What shall go wrong, how often, and with which requests.

    Either a `status` that is answered, or `hang_seconds` without an answer, or an `action` that ends as errored. With
    `after` the request is carried out first and only its answer is lost.
    """

    status: Literal[429, 500, 502, 503, 504] | None = None
    hang_seconds: float | None = Field(default=None, gt=0, le=_HANG_SECONDS_MAX)
    action: str | None = None
    after: bool = False
    method: str | None = None
    path: str = "/v2/"
    times: int = Field(default=1, ge=1, le=10_000)


def plant(world: World, wanted: FaultRequest) -> Document:
    """Remember a fault."""
    fault = wanted.model_dump() | {"object": _KIND, "id": f"fault/{world.number()}"}
    return world.documents.put(fault)


def planted(world: World) -> list[Document]:
    """The faults that are still to come, oldest first."""
    return world.documents.select(Query(_KIND, oldest_first=True))


def clear(world: World) -> None:
    """Nothing goes wrong any more."""
    for fault in planted(world):
        world.documents.remove(fault["id"])


def spoil_request(world: World, method: str, path: str) -> Document | None:
    """The fault that a request meets, counted down."""
    for fault in planted(world):
        if fault["action"] is None and path.startswith(fault["path"]) and fault["method"] in (None, method):
            _count_down(world, fault)
            return fault
    return None


def spoil_action(world: World, kind: str) -> None:
    """Raise ActionFailed for an action that was told to fail."""
    for fault in planted(world):
        if fault["action"] == kind:
            _count_down(world, fault)
            raise ActionFailed("it was told to fail")


def _count_down(world: World, fault: Document) -> None:
    if fault["times"] > 1:
        world.documents.put(fault | {"times": fault["times"] - 1})
    else:
        world.documents.remove(fault["id"])


class Limits:
    """Requests of each token in the last hour and minute; each counts for one hour from its own moment on."""

    def __init__(self, settings: DigitalOceanSettings) -> None:
        self._settings = settings
        self._made: dict[str, deque[float]] = {}

    def count(self, token: str) -> dict[str, str]:
        """Count a request; the headers that tell of it. Refusal with Retry-After when it is one too many."""
        now = time.time()
        made = self._made.setdefault(token, deque(maxlen=self._settings.requests_per_hour))
        while made and made[0] <= now - _HOUR_SECONDS:
            made.popleft()
        hourly, minutely = self._settings.requests_per_hour, self._settings.requests_per_minute
        if len(made) >= hourly:
            raise limited(int(made[0] + _HOUR_SECONDS - now))
        if len(made) >= minutely and made[-minutely] > now - _MINUTE_SECONDS:
            raise limited(int(made[-minutely] + _MINUTE_SECONDS - now))
        made.append(now)
        return self.headers(token)

    def headers(self, token: str) -> dict[str, str]:
        """How much is left, and when the oldest request stops counting (epoch seconds)."""
        made = self._made.get(token)
        hourly = self._settings.requests_per_hour
        reset = (made[0] if made else time.time()) + _HOUR_SECONDS
        left = hourly - len(made or ())
        return {"ratelimit-limit": str(hourly), "ratelimit-remaining": str(left), "ratelimit-reset": str(int(reset))}
