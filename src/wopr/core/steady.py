"""Seconds since 1970 that go on evenly: read from the clock once, then counted by the monotonic one.

What waits for minutes and is kept in the database needs an absolute time; when somebody corrects the machine's clock,
nothing may have lasted five minutes longer for it.
"""

from dataclasses import dataclass, field

from wopr.core.clock import Clock


@dataclass(frozen=True)
class SteadyClock:
    """Made once in a process and kept."""

    clock: Clock
    _offset: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_offset", self.clock.now().timestamp() - self.clock.monotonic())

    def epoch(self) -> int:
        """Whole seconds since 1970."""
        return int(self._offset + self.clock.monotonic())
