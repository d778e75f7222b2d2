"""Which backend serves a request: healthy, least busy, and the same one for the same beginning of a conversation.

Pure decisions over what the gateway knows. A conversation that goes on where it began finds its prompt in the engine's
cache; the load bound keeps one popular prompt from overloading one node (consistent hashing with bounded loads,
Mirrokni et al. 2016). A backend that fails a request is left out at once for a growing while, then tried with one
request before it counts again.
"""

import math
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from wopr.inference.nodes import Backend

LOAD_BOUND = 1.25
EJECTED_SECONDS_FIRST = 0.5
EJECTED_SECONDS_MAX = 30.0
FALLBACK_SERVICE = "fallback"


@dataclass(slots=True, eq=False)
class Target:
    """A backend and what the gateway learnt about it. Times are monotonic seconds."""

    backend: Backend
    models: frozenset[str] = frozenset()
    running: int = 0
    failures: int = 0  # in a row
    answered: int = 0  # requests, since the target is known
    ejected_until: float = 0.0
    trying: bool = False  # one request after an ejection is on its way
    seed: int = field(default=0)

    def __post_init__(self) -> None:
        self.seed = zlib.crc32(f"{self.backend.node_id}/{self.backend.service}".encode())


def choose(
    targets: Sequence[Target], now: float, affinity: int | None, tried: Collection[Target] = ()
) -> Target | None:
    """The backend for one request, or None when all were tried or are ejected. `affinity` is a hash of the prefix."""
    if len(targets) == 1:
        only = targets[0]
        return only if not tried and usable(only, now) else None
    fit = [target for target in targets if target not in tried and usable(target, now)]
    if not fit:
        return None
    if affinity is None:
        return min(fit, key=lambda target: (target.running, target.seed))
    bound = math.ceil(LOAD_BOUND * (sum(target.running for target in fit) + 1) / len(fit))
    ranked = sorted(fit, key=lambda target: _weight(target, affinity), reverse=True)
    for target in ranked:
        if target.running < bound:
            return target
    return min(fit, key=lambda target: target.running)


def choose_any(targets: Sequence[Target], tried: Collection[Target]) -> Target | None:
    """When every backend is ejected: the one that comes back first. Asking it is better than refusing."""
    left = [target for target in targets if target not in tried]
    return min(left, key=lambda target: (target.ejected_until, target.running), default=None)


def usable(target: Target, now: float) -> bool:
    """Healthy as far as we know, or due for its one trial."""
    if target.failures == 0:
        return True
    return now >= target.ejected_until and not target.trying


def begin(target: Target) -> None:
    """A request goes to this backend."""
    target.running += 1
    if target.failures:
        target.trying = True


def end(target: Target) -> None:
    """A request came back from it, however it went."""
    target.running -= 1
    target.trying = False


def succeeded(target: Target) -> None:
    """It answered: it counts as healthy again."""
    target.failures = 0
    target.trying = False
    target.answered += 1


def failed(target: Target, now: float) -> float:
    """It failed a request: leave it out. Returns for how many seconds."""
    target.failures += 1
    target.trying = False
    seconds: float = min(EJECTED_SECONDS_MAX, EJECTED_SECONDS_FIRST * 2 ** min(target.failures - 1, 16))
    target.ejected_until = now + seconds
    return seconds


def affinity_of(model: str, prefix: bytes) -> int:
    """The hash under which requests with the same beginning meet, the same in every process."""
    return zlib.crc32(prefix, zlib.crc32(model.encode()))


def _weight(target: Target, affinity: int) -> int:
    # Rendezvous hashing: a mix of the two numbers that differs for each pair (the finaliser of MurmurHash3).
    value = (target.seed ^ affinity * 0x9E3779B1) & 0xFFFFFFFF
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16
