"""What an earlier run left unfinished, decided from what shall be and what is: pure, so that each case is a quick test.

Before the commit point (`state.json` names the release as active) a release is abandoned, after it it is finished. A
container that no part of the state names is removed, one that is missing is started; but a release that served well and
left stays beside the one that serves, stopped, for a rollback. With everything in place the plan is empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wopr.delivery.place import ROLES, SLOTS, Slot
from wopr.delivery.release import Judgement, Part, Release, State

SERVED_WELL = (Judgement.GOOD, Judgement.ROLLED_BACK)
KILLED_BEFORE = "its deployer was stopped before it served"
KILLED_AFTER = "its deployer was stopped while it was observed; it was ready when the next one looked"
UNREADY_AFTER = "its deployer was stopped while it was observed; it was not ready when the next one looked"


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it."""

    name: str
    service: str
    slot: Slot | None
    release: int | None
    status: str  # created, running, restarting, exited, …
    restarts: int = 0
    exit_code: int = 0
    image: str = ""
    made: str = ""  # hash of all that it was made from

    @property
    def runs(self) -> bool:
        return self.status == "running"


@dataclass(frozen=True)
class Observed:
    """What is on the host. `ready` says which slots answer their readiness with yes; `condemned` why releases without a
    verdict were quarantined already."""

    containers: Sequence[Container] = ()
    ready: Mapping[Slot, bool] | None = None
    releases: Sequence[Release] = ()
    condemned: Mapping[int, str] = field(default_factory=dict)

    def in_slot(self, slot: Slot) -> Sequence[Container]:
        return [one for one in self.containers if one.slot == slot]

    def whole(self, part: Part) -> bool:
        """Whether each role of a release runs in its slot."""
        here = self.in_slot(part.slot)
        runs = {one.service for one in here if one.runs and self._stands_for(one.release, part.release)}
        return runs == {f"{role}-{part.slot}" for role in ROLES}

    def serves(self, part: Part) -> bool:
        """Whether a release runs in its slot, whole and ready."""
        return self.whole(part) and bool((self.ready or {}).get(part.slot))

    def worth_keeping(self, slot: Slot) -> bool:
        """Whether a slot holds a release, whole, that served well: a rollback then only starts it again."""
        here = self.in_slot(slot)
        numbers = {one.release for one in here}
        return (
            sorted(one.service for one in here) == sorted(f"{role}-{slot}" for role in ROLES)
            and all(one.status in ("running", "exited") and not one.restarts for one in here)
            and len(numbers) == 1
            and self.verdict(numbers.pop() or 0) in SERVED_WELL
        )

    def kept(self, slot: Slot) -> bool:
        """Whether a slot is kept for a rollback: whole, and all of it stopped."""
        return self.worth_keeping(slot) and not any(one.runs for one in self.in_slot(slot))

    def verdict(self, number: int) -> str:
        return next((one.verdict for one in self.releases if one.number == number), "")

    def _stands_for(self, made_as: int | None, number: int) -> bool:
        """Whether containers are a release's: a rollback starts those that were made for an earlier number."""
        both = [one for one in self.releases if one.number in (made_as, number)]
        return made_as == number or (len(both) > 1 and both[0].same_content(both[1]))


@dataclass(frozen=True)
class Services:
    """Start PostgreSQL and Caddy with the definition and the settings of a release."""

    part: Part


@dataclass(frozen=True)
class Start:
    """Fill a slot with a release that was there before, and wait until it is ready."""

    part: Part


@dataclass(frozen=True)
class Remove:
    """Empty a slot: what runs is told to leave and gets its time to drain."""

    slot: Slot


@dataclass(frozen=True)
class Retire:
    """What runs in a slot is told to leave and gets its time to drain; its containers stay, stopped."""

    slot: Slot


@dataclass(frozen=True)
class Configure:
    """Give Caddy the configuration of a release, where it has another one."""

    release: int


@dataclass(frozen=True)
class Become:
    """Write the state."""

    state: State


@dataclass(frozen=True)
class Settle:
    """Record what became of a release, and do what follows: a bad one is quarantined and opens an incident, a good one
    ends those before it, of which `left` is the one that served until it came."""

    release: int
    verdict: Judgement
    reason: str
    left: int | None = None


Action = Services | Start | Remove | Retire | Configure | Become | Settle


def plan(state: State, observed: Observed) -> list[Action]:
    """The actions that bring the host to a state in which one release serves and nothing else runs."""
    actions: list[Action] = [*_services(state, observed)]
    if state.candidate:
        more, state = _abandoned(state, observed)
        actions += more
    if state.leaving and state.active:
        more, state = _finished(state, observed)
        actions += more
    elif state.active:
        actions += _alone(state.active, observed)
    done = {action.slot for action in actions if isinstance(action, Remove | Retire)}
    done |= {state.active.slot} if state.active else set()
    for slot in SLOTS:
        actions += [] if slot in done else _cleared(slot, observed)
    return actions + _forgotten(state, observed, actions)


def _services(state: State, observed: Observed) -> list[Action]:
    running = {one.service for one in observed.containers if one.runs}
    return [Services(state.active)] if state.active and not {"caddy", "postgres"} <= running else []


def _alone(active: Part, observed: Observed) -> list[Action]:
    """The release that serves runs, and is judged when nobody came to do so; there is none to go back to.

    One that is not ready may only just be starting, after a boot: a later run judges it.
    """
    actions: list[Action] = [] if observed.whole(active) else [Start(active)]
    if observed.verdict(active.release) != Judgement.PENDING:
        return actions
    if bad := observed.condemned.get(active.release) or active.reason:
        return [*actions, Settle(active.release, Judgement.BAD, bad)]
    judged = [Settle(active.release, Judgement.GOOD, KILLED_AFTER)] if observed.serves(active) else []
    return [*actions, *judged]


def _abandoned(state: State, observed: Observed) -> tuple[list[Action], State]:
    """The release that came in never served by our word: it goes, and the one that serves keeps its configuration."""
    assert state.candidate is not None
    actions = _cleared(state.candidate.slot, observed)
    if state.active:
        actions += _around(state.active, state.candidate, observed)
    if observed.verdict(state.candidate.release) == Judgement.PENDING:
        actions.append(_given_up(state.candidate.release, observed))
    state = replace(state, candidate=None)
    return [*actions, Become(state)], state


def _finished(state: State, observed: Observed) -> tuple[list[Action], State]:
    """A release became active and the other was not yet gone: it stays when it is ready, else the other comes back.

    It comes back as well when it was on its way already, for the reason that the active one bears.
    """
    assert state.active is not None
    assert state.leaving is not None
    pending = observed.verdict(state.active.release) == Judgement.PENDING
    # Gone back from: then the active one was observed to the end, and only its own verdict is missing.
    proven = observed.verdict(state.leaving.release) == Judgement.ROLLED_BACK
    stays = (observed.serves(state.active) or proven) and not state.active.reason
    if stays or not pending or state.leaving.reason:
        actions: list[Action] = [] if observed.whole(state.active) else [Start(state.active)]
        if pending and not state.leaving.reason:
            actions += _around(state.active, state.leaving, observed)
            actions.append(Settle(state.active.release, Judgement.GOOD, KILLED_AFTER, state.leaving.release))
        return _gone(state, observed, actions)
    back = State(
        active=replace(state.leaving), leaving=replace(state.active, reason=state.active.reason or UNREADY_AFTER)
    )
    around = _around(state.leaving, state.active, observed)
    return _gone(back, observed, [Start(state.leaving), *around, Become(back)])


def _around(serves: Part, goes: Part, observed: Observed) -> list[Action]:
    """What stands around the slots is as the release that serves has it, wherever the other was stopped."""
    both = [one for one in observed.releases if one.number in (serves.release, goes.release)]
    same = len(both) > 1 and both[0].same_around(both[1])
    return [*([] if same else [Services(serves)]), Configure(serves.release)]


def _gone(state: State, observed: Observed, actions: list[Action]) -> tuple[list[Action], State]:
    """The part that leaves is gone, and a bad one is recorded as such."""
    assert state.leaving is not None
    if state.leaving.reason and observed.verdict(state.leaving.release) != Judgement.BAD:
        actions.append(Settle(state.leaving.release, Judgement.BAD, state.leaving.reason))
    actions += _cleared(state.leaving.slot, observed, bad=bool(state.leaving.reason))
    state = replace(state, leaving=None)
    return [*actions, Become(state)], state


def _cleared(slot: Slot, observed: Observed, *, bad: bool = False) -> list[Action]:
    """Nothing runs in a slot any more; what served well stays there, stopped."""
    if bad or not observed.worth_keeping(slot):
        return [Remove(slot)] if observed.in_slot(slot) else []
    return [] if observed.kept(slot) else [Retire(slot)]


def _forgotten(state: State, observed: Observed, actions: Sequence[Action]) -> list[Action]:
    """Releases that were written down and never came as far as the state."""
    settled = {action.release for action in actions if isinstance(action, Settle)}
    named = {part.release for part in (state.active, state.candidate, state.leaving) if part} | settled
    pending = [one.number for one in observed.releases if one.verdict == Judgement.PENDING and one.number not in named]
    return [_given_up(number, observed) for number in pending]


def _given_up(number: int, observed: Observed) -> Settle:
    """What becomes of a release that never served: it is bad where its deployer had come as far as to say so."""
    if bad := observed.condemned.get(number):
        return Settle(number, Judgement.BAD, bad)
    return Settle(number, Judgement.ABANDONED, KILLED_BEFORE)
