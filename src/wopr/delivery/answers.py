"""What customers were answered, from Caddy's log of requests, and whether a release is at fault for what went wrong.

The log knows of the API's answers and of pages alike, and of those that no slot gave. Not every 5xx is the release's: a
model, a bot or a payment company that failed is told with 502, 503 or 504 and a body, and would fail the release before
it as well.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from wopr.delivery import commands
from wopr.delivery.hosts import Host
from wopr.delivery.look import look
from wopr.delivery.place import Place

ERROR_SHARE_MAX = 0.05
ERROR_GROWTH_MAX = 3.0
ERRORS_MIN = 10
# From so many clients on, one that alone meets errors is a broken program, not a broken release.
CLIENTS_TELLING = 4
LINES_MAX = 5_000
BEFORE_SECONDS = 600.0
# For so long after the cutover the release before it may have answered still.
SETTLE_SECONDS = 2.0
# Asked by ourselves and by machines all the time; they would hide what customers meet.
OWN_PATHS = frozenset(("/ready", "/readyz", "/health", "/livez", "/metrics", commands.API_TRIAL))
OF_THE_DELIVERER = "/hooks/"
BEHIND = (502, 503, 504)
SERVER_ERROR = 500


@dataclass(frozen=True)
class Answer:
    """One line of the log. `at` is the log's own time of the line, `began` that of the request in Unix seconds."""

    at: str
    client: str
    began: float
    method: str
    path: str
    status: int
    size: int

    @property
    def at_fault(self) -> bool:
        """Whether the release answered wrongly, or did not answer: what Caddy says instead has no body."""
        nobody = not self.size and self.method != "HEAD"
        return self.status >= SERVER_ERROR and (self.status not in BEHIND or nobody)


@dataclass(frozen=True)
class Counts:
    """Requests answered and those of them that the release is at fault for; from how many clients each came."""

    requests: int = 0
    errors: int = 0
    clients: int = 0
    failing: int = 0

    @property
    def share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


def read(lines: Iterable[str]) -> Iterator[Answer]:
    """The requests in lines of the log, each behind its time; without those that machines ask, and whatever else is
    in it."""
    for line in lines:
        at, _, text = line.partition(" ")
        if '"http.log.access' not in text:
            continue
        try:
            said = json.loads(text)
            request = said["request"]
            client = request.get("client_ip") or request["remote_ip"]
            asked = (request["method"], request["uri"].partition("?")[0])
            began = said["ts"] - said["duration"]
            answer = Answer(at, client, began, *asked, int(said["status"]), int(said["size"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the beginning of a line whose rest was not written yet
        if answer.path not in OWN_PATHS and not answer.path.startswith(OF_THE_DELIVERER):
            yield answer


@dataclass
class Tally:
    """Answers, added up by client."""

    _clients: dict[str, list[int]] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        of = self._clients.setdefault(answer.client, [0, 0])
        of[0] += 1
        of[1] += answer.at_fault

    @property
    def counts(self) -> Counts:
        values = self._clients.values()
        failing = sum(errors > 0 for _, errors in values)
        return Counts(sum(all_ for all_, _ in values), sum(errors for _, errors in values), len(values), failing)


def counted(answers: Iterable[Answer]) -> Counts:
    """What these answers come to."""
    tally = Tally()
    for answer in answers:
        tally.add(answer)
    return tally.counts


def worse(before: Counts, now: Counts) -> str:
    """Why the errors of a release are too many; nothing when they are not.

    `before` is what was counted before it came in, `now` what since it serves.
    """
    if now.errors < ERRORS_MIN or now.share <= max(ERROR_SHARE_MAX, before.share * ERROR_GROWTH_MAX):
        return ""
    if now.failing == 1 and now.clients >= CLIENTS_TELLING:
        return ""
    return f"{now.share:.0%} of {now.requests} requests ended with 5xx, {before.share:.1%} before"


async def before(host: Host, place: Place) -> Counts:
    """What customers were answered lately by the release that serves; nothing where Caddy's log can't be read.

    Not before the last change of releases was over: a bad one that was taken back would be the measure of the next.
    """
    over = await look(host, commands.written_at(place.state))
    found = list(read(await _lines(host, place, over.text))) if over.text.isdigit() else []
    newest = max((one.began for one in found), default=0.0)
    return counted(one for one in found if one.began >= max(float(over.text), newest - BEFORE_SECONDS))


@dataclass
class Since:
    """What customers are answered from a moment on, `began` in Unix seconds of the host; each look adds what is new."""

    host: Host
    place: Place
    began: float
    _tally: Tally = field(default_factory=Tally)
    _last: str = ""

    async def look(self) -> Counts:
        lines = await _lines(self.host, self.place, self._last or f"{self.began:.0f}")
        for answer in read(lines):
            if answer.at > self._last:
                self._last = answer.at
                if answer.began >= self.began + SETTLE_SECONDS:
                    self._tally.add(answer)
        return self._tally.counts


async def since_now(host: Host, place: Place) -> Since:
    """From this moment of the host's clock on; it is the one by which Caddy writes its log."""
    now = await look(host, commands.clock())
    return Since(host, place, float(now.text) if now.text.isdigit() else 0.0)


async def _lines(host: Host, place: Place, since: str) -> list[str]:
    got = await look(host, commands.requests(place, since, LINES_MAX))
    return got.out.decode("utf-8", "replace").splitlines() if got.ok else []
