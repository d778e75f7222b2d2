"""What the gateways of all API processes tell of the requests that they have running: signs of life, and what drains.

Each process tells once a second, through the database, on which services its requests run and whether one of them got
on. Whoever looks at nodes hears it: a service that delivers tokens is not hung, however slowly it answers a look, and
a node is drained when nobody has anything running there. Times are this process's monotonic ones.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from wopr.core.notify import LOST, Notifier

LIFE_CHANNEL = "wopr_life"
# A process that says nothing of a service for so long has nothing running there, or is gone.
HEARD_SECONDS = 4.0
# A notification's payload is limited to 8,000 bytes.
PAYLOAD_CHARACTERS_MAX = 7_000

Place = tuple[str, str]  # node, service


@dataclass(frozen=True)
class Beat:
    """Of one service in one process: requests that run, and whether any of them got on since the last telling."""

    running: int
    advanced: bool


def payloads(process: str, beats: Mapping[Place, Beat]) -> Iterator[str]:
    """The notifications that tell these beats."""
    words: list[str] = []
    for (node, service), beat in beats.items():
        words.append(f"{node}/{service}={beat.running}{'+' if beat.advanced else ''}")
        if sum(map(len, words)) + len(words) > PAYLOAD_CHARACTERS_MAX:
            yield " ".join([process, *words])
            words = []
    if words:
        yield " ".join([process, *words])


@dataclass
class Life:
    """What was heard of the gateways' requests."""

    notifier: Notifier
    now: Callable[[], float]
    _running: dict[tuple[str, Place], tuple[int, float]] = field(default_factory=dict)
    _advanced: dict[Place, float] = field(default_factory=dict)
    _since: float | None = None

    def listen(self) -> None:
        """Hear from now on; a second call changes nothing."""
        if self._since is None:
            self._since = self.now()
            self.notifier.subscribe(LIFE_CHANNEL, self.hear)

    def heard_long_enough(self) -> bool:
        """Whether every process has had the time to say what runs: then what was not heard of does not run."""
        return self._since is not None and self.now() - self._since >= HEARD_SECONDS

    def hear(self, payload: str) -> None:
        """One notification."""
        if payload == LOST:
            self._since = self.now()  # what was told meanwhile is unknown
            return
        process, *words = payload.split(" ")
        now = self.now()
        for word in words:
            name, _, count = word.partition("=")
            node, _, service = name.rpartition("/")
            self._running[process, (node, service)] = (int(count.rstrip("+")), now)
            if count.endswith("+"):
                self._advanced[node, service] = now

    def running(self, node: str, service: str | None = None) -> int:
        """Requests that run on a node, or on one service of it, in all processes."""
        now = self.now()
        self._running = {key: value for key, value in self._running.items() if now - value[1] < HEARD_SECONDS}
        return sum(
            count for (_, (at, which)), (count, _) in self._running.items() if at == node and service in (None, which)
        )

    def advanced_at(self, node: str, service: str) -> float | None:
        """When a request last got on there."""
        return self._advanced.get((node, service))
