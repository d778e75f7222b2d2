"""What this process tells once a second of its running requests, for whoever looks at the nodes: see `life`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wopr.core.ids import new_id
from wopr.inference.gateway.watch import Running
from wopr.inference.life import Beat, Place, payloads
from wopr.inference.routing import Target


@dataclass
class Pulse:
    """Counts since the last telling."""

    process: str = field(default_factory=lambda: new_id().hex)
    _answered: dict[Place, int] = field(default_factory=dict)
    _told_at: float = 0.0

    def beat(self, targets: Sequence[Target], running: Iterable[Running], now: float) -> list[str]:
        """The notifications to send; none when nothing runs and nothing was answered."""
        since, self._told_at = self._told_at, now
        counts: dict[Place, int] = {}
        advanced: set[Place] = set()
        for each in running:
            if isinstance(each.target, Target) and not each.over:
                place = _place(each.target)
                counts[place] = counts.get(place, 0) + 1
                if not each.waiting and each.progress > since:
                    advanced.add(place)
        before, self._answered = self._answered, {_place(target): target.answered for target in targets}
        advanced |= {place for place, answered in self._answered.items() if answered > before.get(place, 0)}
        beats = {place: Beat(counts.get(place, 0), place in advanced) for place in {*counts, *advanced}}
        return list(payloads(self.process, beats))


def _place(target: Target) -> Place:
    return target.backend.node_id, target.backend.service
