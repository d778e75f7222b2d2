"""Decides what happens to a bot, from what is wanted, what is seen and what the customer may have. Pure.

It is asked again after every action, so it names one action at a time; a state that is there already is fine.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

READY_SECONDS_MAX = 20.0
BACKOFF_SECONDS_FIRST = 0.2
BACKOFF_SECONDS_MAX = 30.0
CRASH_WINDOW = timedelta(minutes=5)
CRASHES_MAX = 6
FAILED_PAUSE = timedelta(minutes=3)
UPDATING = "It moves to another version."
RETURNING = "The new version did not start: it returns to the one before."
TURN = "It waits for its turn: many bots start at the moment."


class Desired(StrEnum):
    """What the customer wants."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class State(StrEnum):
    """What the customer sees. Each has a way out: `failed` by itself after a pause, or by starting the bot."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    FAILED = "failed"
    DELETING = "deleting"


class Action(StrEnum):
    """What the reconciler does next."""

    NOTHING = "nothing"
    START = "start"
    AWAIT_READY = "await_ready"
    STOP = "stop"
    GIVE_UP = "give_up"  # stop an instance that never became ready, and count that as a crash
    REMOVE = "remove"
    LET_FINISH = "let_finish"  # fetch the new image, and let it end what it is saying
    COPY = "copy"  # copy its data, then start it with the new image
    ACCEPT = "accept"  # the new image is good
    RESTORE = "restore"  # put back the data of before, then start it with the old image


class Channel(StrEnum):
    """How a bot gets new versions. Canary bots are the first to get what either channel names."""

    PINNED = "pinned"
    STABLE = "stable"
    CANARY = "canary"


class Stage(StrEnum):
    """How far a bot's move to another image has come. Where it is stored, every process finds it."""

    WAITING = "waiting"
    COPYING = "copying"
    TRYING = "trying"
    RETURNING = "returning"
    KEPT = "kept"  # it runs on the new image, and the copy of its data is kept for a while
    RETURNED = "returned"  # it is as it was, and is left alone for a while


@dataclass(frozen=True)
class Wanted:
    """The desired side of a bot. `image` is empty where bots have none; `stage` is that of its update."""

    desired: Desired
    generation: int
    image: str = ""
    stage: Stage | None = None


@dataclass(frozen=True)
class Observed:
    """The real side. `generation` is that of the living instance, None when nothing lives.

    `waited_seconds` is how long it has been asked whether it answers, not its age: an instance that was adopted after
    hours gets its time, too. `held` is why it can't run now although nothing of it failed.
    """

    generation: int | None
    ready: bool
    waited_seconds: float
    crashes: tuple[datetime, ...]
    held: str = ""
    image: str = ""


@dataclass(frozen=True)
class Standing:
    """Whether the customer may have running bots, and if not, why, as a sentence with the remedy."""

    may_run: bool
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """One action, the state to show meanwhile, and when to look again although nothing happened."""

    action: Action
    state: State
    reason: str = ""
    look_again_at: datetime | None = None


def plan(wanted: Wanted, observed: Observed, standing: Standing, now: datetime) -> Plan:
    """The next step toward what is wanted."""
    if wanted.desired is Desired.DELETED:
        return Plan(Action.REMOVE, State.DELETING)
    if wanted.desired is not Desired.RUNNING or not standing.may_run:
        return _rest(wanted, observed, standing)
    if observed.generation is None and observed.held:
        # The next look at everything sees when that is over; trying would only count as crashes.
        return Plan(Action.NOTHING, State.FAILED, observed.held)
    if wanted.stage in (Stage.WAITING, Stage.COPYING, Stage.RETURNING):
        return _move(wanted, observed)
    if observed.generation is None:
        return _start(observed.crashes, now)
    if observed.generation != wanted.generation:
        return Plan(Action.STOP, State.STARTING, "It restarts with its new settings.")
    if observed.image and wanted.image and observed.image != wanted.image:
        return Plan(Action.STOP, State.STARTING, UPDATING)
    if observed.ready:
        return Plan(Action.ACCEPT if wanted.stage is Stage.TRYING else Action.NOTHING, State.RUNNING)
    if observed.waited_seconds >= READY_SECONDS_MAX:
        return Plan(Action.GIVE_UP, State.STARTING, f"It did not answer within {READY_SECONDS_MAX:.0f} s.")
    return Plan(Action.AWAIT_READY, State.STARTING)


def begins_start(wanted: Wanted, step: Plan) -> bool:
    """Whether the bot starts with this step, or right after it. None is ended for its restart before its turn."""
    if wanted.stage in (Stage.COPYING, Stage.RETURNING):
        return False
    return step.action is Action.START or (step.action is Action.STOP and step.state is State.STARTING)


def recent(crashes: tuple[datetime, ...], now: datetime) -> tuple[datetime, ...]:
    """The crashes that still count."""
    return tuple(crash for crash in crashes if now - crash < CRASH_WINDOW)


def _rest(wanted: Wanted, observed: Observed, standing: Standing) -> Plan:
    if wanted.desired is Desired.RUNNING:
        state, reason = State.SUSPENDED, standing.reason
    else:
        state, reason = State.STOPPED, ""
    if observed.generation is not None:
        return Plan(Action.STOP, State.STOPPING, reason)
    return Plan(Action.NOTHING, state, reason)


def _move(wanted: Wanted, observed: Observed) -> Plan:
    """The next step of an update that is not at a point where the bot may simply run."""
    if wanted.stage is Stage.WAITING:
        runs = observed.ready and observed.generation == wanted.generation
        return Plan(Action.LET_FINISH, State.RUNNING if runs else State.STARTING)
    if observed.generation is not None:
        return Plan(Action.STOP, State.STARTING, UPDATING)
    if wanted.stage is Stage.COPYING:
        return Plan(Action.COPY, State.STARTING, UPDATING)
    return Plan(Action.RESTORE, State.STARTING, RETURNING)


def _start(crashes: tuple[datetime, ...], now: datetime) -> Plan:
    counted = crashes[-CRASHES_MAX:]
    if len(counted) == CRASHES_MAX and counted[-1] - counted[0] < CRASH_WINDOW:
        again = counted[-1] + FAILED_PAUSE
        if now < again:
            minutes = FAILED_PAUSE.total_seconds() / 60
            reason = f"It failed {CRASHES_MAX} times in a row. It is tried again {minutes:.0f} minutes after the last."
            return Plan(Action.NOTHING, State.FAILED, reason, again)
        return Plan(Action.START, State.STARTING)
    late = recent(crashes, now)
    if late:
        seconds = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 4 ** (len(late) - 1))
        again = late[-1] + timedelta(seconds=seconds)
        if now < again:
            return Plan(Action.NOTHING, State.STARTING, "It ended or could not start, and is tried again.", again)
    return Plan(Action.START, State.STARTING)
