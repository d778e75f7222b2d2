"""What deciding about bots needs of the database: little of each, since every pass reads it of them all."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from wopr.fleet.plan import Action, Desired, Observed, Plan, Stage, State, Wanted
from wopr.fleet.runtimes.protocol import Instance


class Facts(NamedTuple):
    """One bot as its rows have it.

    `seen_at` is when the run of its instance was last noted; None without an open run. `stage` is that of its update.
    """

    id: UUID
    tenant_id: UUID
    desired: str
    generation: int
    state: str
    reason: str
    instance_id: UUID | None
    ready_at: datetime | None
    crashes: Sequence[datetime]
    seen_at: datetime | None = None
    image: str | None = None
    stage: str | None = None

    @property
    def wanted(self) -> Wanted:
        stage = Stage(self.stage) if self.stage is not None else None
        return Wanted(Desired(self.desired), self.generation, self.image or "", stage)

    def ready(self, instance: Instance | None) -> bool:
        """Whether the living instance is the one that answered."""
        return instance is not None and self.instance_id == instance.id and self.ready_at is not None

    def real(self, instance: Instance | None, waited_seconds: float = 0.0, held: str = "") -> Observed:
        """What is, with what lives, or with what keeps it from living."""
        generation, image = (instance.generation, instance.image) if instance else (None, "")
        return Observed(generation, self.ready(instance), waited_seconds, tuple(self.crashes), held, image)

    def shows(self, state: State, reason: str) -> bool:
        """Whether its owner reads just this."""
        return self.state == state.value and self.reason == reason

    def settled(self, step: Plan, instance: Instance | None) -> bool:
        """Whether nothing is to be done or written."""
        shown = self.shows(step.state, step.reason)
        return step.action is Action.NOTHING and shown and self.instance_id == (instance.id if instance else None)
