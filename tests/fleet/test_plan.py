"""The planner: from any state it converges, it never asks for a second instance, and it stops when all is well."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from wopr.fleet.bots import shown_state
from wopr.fleet.plan import (
    CRASH_WINDOW,
    CRASHES_MAX,
    FAILED_PAUSE,
    READY_SECONDS_MAX,
    Action,
    Desired,
    Observed,
    Plan,
    Standing,
    State,
    Wanted,
    plan,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEPS_MAX = 5
NOTHING_LIVES = Observed(generation=None, ready=False, waited_seconds=0.0, crashes=())
RUNNING = Observed(generation=1, ready=True, waited_seconds=0.0, crashes=())

wanted_ones = st.builds(Wanted, st.sampled_from(Desired), st.integers(1, 3))
standings = st.builds(Standing, st.booleans(), st.just("no credit"))
crash_times = st.lists(st.integers(0, 900), max_size=8).map(
    lambda ages: tuple(NOW - timedelta(seconds=age) for age in sorted(ages, reverse=True))
)
observed_ones = st.builds(
    Observed,
    generation=st.none() | st.integers(1, 3),
    ready=st.booleans(),
    waited_seconds=st.floats(0, 60),
    crashes=crash_times,
).map(lambda seen: replace(seen, ready=False, waited_seconds=0.0) if seen.generation is None else seen)


@dataclass
class Place:
    """A machine that does what it is told, and counts how many instances it was ever asked to have at once."""

    observed: Observed
    generation: int
    removed: bool = False
    living: int = field(init=False)

    def __post_init__(self) -> None:
        self.living = 0 if self.observed.generation is None else 1

    def take(self, action: Action) -> None:
        if action is Action.START:
            self.living += 1
            self.observed = replace(self.observed, generation=self.generation, ready=False, waited_seconds=0.0)
        elif action is Action.AWAIT_READY:
            self.observed = replace(self.observed, ready=True)
        elif action in (Action.STOP, Action.GIVE_UP, Action.REMOVE):
            self.living = 0
            self.removed = action is Action.REMOVE
            self.observed = replace(self.observed, generation=None, ready=False, waited_seconds=0.0)


def converge(wanted: Wanted, place: Place, standing: Standing, now: datetime) -> Plan:
    """Do what the planner says until it says nothing more; waits are waited for."""
    for _ in range(STEPS_MAX):
        step = plan(wanted, place.observed, standing, now)
        if step.action is Action.REMOVE and place.removed:
            return step
        if step.action is Action.NOTHING:
            if step.look_again_at is None:
                return step
            assert step.look_again_at > now
            now = step.look_again_at
        place.take(step.action)
        assert place.living <= 1
    raise AssertionError("it goes on for ever")


@given(wanted_ones, observed_ones, standings)
def test_any_state_converges_with_one_instance_at_most(wanted: Wanted, observed: Observed, standing: Standing) -> None:
    place = Place(observed, wanted.generation)
    step = converge(wanted, place, standing, NOW)
    should_run = wanted.desired is Desired.RUNNING and standing.may_run
    assert place.living == int(should_run)
    if should_run:
        assert (step.state, place.observed.generation) == (State.RUNNING, wanted.generation)


@given(wanted_ones, observed_ones, standings)
def test_where_it_has_converged_nothing_more_is_done(wanted: Wanted, observed: Observed, standing: Standing) -> None:
    place = Place(observed, wanted.generation)
    last = converge(wanted, place, standing, NOW)
    later = NOW + timedelta(hours=1)
    assert plan(wanted, place.observed, standing, later).action in (Action.NOTHING, last.action)


@given(wanted_ones, observed_ones, standings)
def test_nothing_is_started_where_something_lives(wanted: Wanted, observed: Observed, standing: Standing) -> None:
    step = plan(wanted, observed, standing, NOW)
    if step.action is Action.START:
        assert observed.generation is None
        assert wanted.desired is Desired.RUNNING
        assert standing.may_run
    if observed.generation is None:
        assert step.action not in (Action.STOP, Action.GIVE_UP, Action.AWAIT_READY)


@given(observed_ones)
def test_every_pause_has_an_end(observed: Observed) -> None:
    step = plan(Wanted(Desired.RUNNING, 1), replace(observed, generation=None), Standing(True), NOW)
    if step.action is Action.NOTHING:
        assert step.look_again_at is not None
        assert NOW < step.look_again_at <= NOW + FAILED_PAUSE


@given(st.sampled_from(Desired), st.sampled_from(State), st.sampled_from(["", "The credit is used up."]))
def test_the_state_shown_never_contradicts_what_is_wanted(desired: Desired, state: State, reason: str) -> None:
    shown = shown_state(desired, state, reason)
    assert (shown is State.DELETING) == (desired is Desired.DELETED or state is State.DELETING)
    if desired is Desired.STOPPED:
        assert shown not in (State.RUNNING, State.STARTING)
    if desired is Desired.RUNNING:
        assert shown is not State.STOPPED
        assert shown is not State.STOPPING or reason


def test_a_bot_that_is_being_suspended_is_shown_as_stopping_and_not_as_starting() -> None:
    living = Observed(1, ready=True, waited_seconds=0, crashes=())
    step = plan(Wanted(Desired.RUNNING, 1), living, Standing(False, "The credit is used up."), NOW)
    assert shown_state(Desired.RUNNING, step.state, step.reason) is State.STOPPING


def test_a_first_crash_is_answered_almost_at_once_and_later_ones_more_slowly() -> None:
    pauses = []
    crashes: tuple[datetime, ...] = ()
    for _ in range(CRASHES_MAX - 1):
        crashes = (*crashes, NOW)
        step = plan(Wanted(Desired.RUNNING, 1), replace(NOTHING_LIVES, crashes=crashes), Standing(True), NOW)
        assert (step.action, step.state) == (Action.NOTHING, State.STARTING)
        assert step.look_again_at is not None
        pauses.append((step.look_again_at - NOW).total_seconds())
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    assert pauses[-1] == 30.0


def test_too_many_crashes_in_a_row_are_a_failure_that_ends_by_itself() -> None:
    seen = replace(NOTHING_LIVES, crashes=(NOW,) * CRASHES_MAX)
    step = plan(Wanted(Desired.RUNNING, 1), seen, Standing(True), NOW)
    assert (step.state, step.look_again_at) == (State.FAILED, NOW + FAILED_PAUSE)
    assert plan(Wanted(Desired.RUNNING, 1), seen, Standing(True), NOW + FAILED_PAUSE).action is Action.START


def test_crashes_far_apart_are_no_failure() -> None:
    crashes = tuple(NOW - CRASH_WINDOW * n for n in range(CRASHES_MAX, 0, -1))
    step = plan(Wanted(Desired.RUNNING, 1), replace(NOTHING_LIVES, crashes=crashes), Standing(True), NOW)
    assert step.action is Action.START


def test_an_instance_that_never_answers_is_given_up() -> None:
    mute = replace(RUNNING, ready=False, waited_seconds=READY_SECONDS_MAX)
    assert plan(Wanted(Desired.RUNNING, 1), mute, Standing(True), NOW).action is Action.GIVE_UP


def test_without_credit_a_running_bot_is_stopped_and_then_shown_as_suspended() -> None:
    stop = plan(Wanted(Desired.RUNNING, 1), RUNNING, Standing(False, "no credit"), NOW)
    assert (stop.action, stop.reason) == (Action.STOP, "no credit")
    rest = plan(Wanted(Desired.RUNNING, 1), NOTHING_LIVES, Standing(False, "no credit"), NOW)
    assert (rest.action, rest.state, rest.reason) == (Action.NOTHING, State.SUSPENDED, "no credit")


def test_a_bot_whose_machine_is_away_waits_and_says_why() -> None:
    away = replace(NOTHING_LIVES, held="Its machine is lost.")
    assert plan(Wanted(Desired.RUNNING, 1), away, Standing(True), NOW) == Plan(
        Action.NOTHING, State.FAILED, "Its machine is lost."
    )
    assert plan(Wanted(Desired.RUNNING, 1), NOTHING_LIVES, Standing(True), NOW).action is Action.START


@given(wanted_ones, standings)
def test_being_away_keeps_nobody_from_stopping_and_deleting(wanted: Wanted, standing: Standing) -> None:
    step = plan(wanted, replace(NOTHING_LIVES, held="Its machine is lost."), standing, NOW)
    assert step.action is (Action.REMOVE if wanted.desired is Desired.DELETED else Action.NOTHING)
