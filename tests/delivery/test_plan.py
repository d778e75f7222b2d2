"""What a killed deployer left is abandoned before the commit point and finished after it; then nothing is left."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from wopr.delivery.place import ROLES, SLOTS, Slot
from wopr.delivery.plan import (
    Action,
    Become,
    Configure,
    Container,
    Observed,
    Remove,
    Retire,
    Services,
    Settle,
    Start,
    plan,
)
from wopr.delivery.release import Judgement, Part, Release, State, previous_good

STACK = [Container(f"w-{name}", name, None, None, "running") for name in ("caddy", "postgres")]


def release(number: int, verdict: Judgement = Judgement.GOOD, **more: object) -> Release:
    made = Release(number, f"p@{number}", "b", "c", "e", "0005", "2026-01-01", "ada", verdict=verdict)
    return replace(made, **more)  # type: ignore[arg-type]


def slot(which: Slot, number: int, status: str = "running") -> list[Container]:
    return [Container(f"w-{role}-{which}", f"{role}-{which}", which, number, status) for role in ROLES]


def test_a_release_that_serves_with_nothing_beside_it_needs_nothing() -> None:
    state = State(active=Part(1, "blue"))
    assert plan(state, Observed([*STACK, *slot("blue", 1)], {"blue": True}, [release(1)])) == []


def test_an_empty_host_needs_nothing() -> None:
    assert plan(State(), Observed()) == []


def test_a_candidate_is_abandoned() -> None:
    state = State(active=Part(1, "blue"), candidate=Part(2, "green"))
    seen = Observed([*STACK, *slot("blue", 1), *slot("green", 2)], {}, [release(1), release(2, Judgement.PENDING)])
    assert plan(state, seen) == [
        Remove("green"),
        Configure(1),
        Settle(2, Judgement.ABANDONED, "its deployer was stopped before it served"),
        Become(State(active=Part(1, "blue"))),
    ]


def test_after_the_commit_a_ready_release_stays_and_the_old_one_goes() -> None:
    state = State(active=Part(2, "green"), leaving=Part(1, "blue"))
    seen = Observed(
        [*STACK, *slot("green", 2), *slot("blue", 1, "exited")],
        {"green": True},
        [release(1), release(2, Judgement.PENDING)],
    )
    actions = plan(state, seen)
    assert [type(action) for action in actions] == [Configure, Settle, Become], "the old one has left and is kept"
    assert isinstance(actions[1], Settle)
    assert actions[1].verdict is Judgement.GOOD
    assert actions[-1] == Become(State(active=Part(2, "green")))


def test_what_still_runs_of_the_old_one_after_the_commit_is_retired_and_only_what_served_well_is_kept() -> None:
    state = State(active=Part(2, "green"), leaving=Part(1, "blue"))
    stack, releases = [*STACK, *slot("green", 2)], [release(1), release(2)]
    seen = Observed([*stack, *slot("blue", 1)], {"green": True}, releases)
    assert plan(state, seen) == [Retire("blue"), Become(State(active=Part(2, "green")))]
    half = Observed([*stack, *slot("blue", 1)[:1]], {"green": True}, releases)
    crashed = Observed([*stack, *(replace(one, restarts=1) for one in slot("blue", 1))], {"green": True}, releases)
    for seen in (half, crashed):
        assert plan(state, seen) == [Remove("blue"), Become(State(active=Part(2, "green")))]


def test_what_is_kept_stays_and_what_no_rollback_can_use_does_not() -> None:
    state, stack = State(active=Part(2, "green")), [*STACK, *slot("green", 2)]
    kept = Observed([*stack, *slot("blue", 1, "exited")], {}, [release(1), release(2)])
    assert plan(state, kept) == []
    candidate, given_up = replace(state, candidate=Part(3, "blue")), release(3, Judgement.ABANDONED)
    began = replace(kept, releases=[*kept.releases, given_up])
    assert plan(candidate, began) == [Configure(2), Become(state)], "one that never came as far as its slot"
    for useless in (
        Observed([*stack, *slot("blue", 1, "created")], {}, [release(1), release(2)]),
        Observed([*stack, *slot("blue", 1, "exited")[1:]], {}, [release(1), release(2)]),
        Observed([*stack, *slot("blue", 1, "exited")], {}, [release(1, Judgement.BAD), release(2)]),
        Observed([*stack, *slot("blue", 1, "exited")], {}, [release(2)]),
    ):
        assert plan(state, useless) == [Remove("blue")]


def test_a_rollback_is_whole_with_the_containers_of_the_release_that_it_restores() -> None:
    restored = replace(release(1), number=3, restores=1)
    state = State(active=Part(3, "blue"))
    seen = Observed([*STACK, *slot("blue", 1)], {}, [release(1), release(2, Judgement.ROLLED_BACK), restored])
    assert plan(state, seen) == []
    other = replace(restored, env_hash="another")
    assert plan(state, replace(seen, releases=[release(1), other])) == [Start(Part(3, "blue"))]


def test_after_the_commit_an_unready_release_goes_and_the_old_one_is_started_first() -> None:
    state = State(active=Part(2, "green"), leaving=Part(1, "blue"))
    seen = Observed(
        [*STACK, *slot("green", 2, "restarting"), *slot("blue", 1, "exited")],
        {},
        [release(1), release(2, Judgement.PENDING)],
    )
    actions = plan(state, seen)
    kinds = [type(action) for action in actions]
    assert kinds == [Start, Configure, Become, Settle, Remove, Become]
    assert actions[0] == Start(Part(1, "blue"))
    assert actions[-1] == Become(State(active=Part(1, "blue")))


def test_a_release_that_went_back_is_finished_going() -> None:
    state = State(active=Part(1, "blue"), leaving=Part(2, "green", "too many errors"))
    seen = Observed(
        [*STACK, *slot("green", 2), *slot("blue", 1)], {"blue": True}, [release(1), release(2, Judgement.PENDING)]
    )
    assert plan(state, seen) == [
        Settle(2, Judgement.BAD, "too many errors"),
        Remove("green"),
        Become(State(active=Part(1, "blue"))),
    ]


def test_one_that_was_on_its_way_back_goes_on_however_ready_the_bad_one_is() -> None:
    state = State(active=Part(2, "green", "too many errors"), leaving=Part(1, "blue"))
    seen = Observed(
        [*STACK, *slot("green", 2), *slot("blue", 1)], {"green": True}, [release(1), release(2, Judgement.PENDING)]
    )
    back = State(active=Part(1, "blue"), leaving=state.active)
    assert plan(state, seen) == [
        Start(Part(1, "blue")),
        Configure(1),
        Become(back),
        Settle(2, Judgement.BAD, "too many errors"),
        Remove("green"),
        Become(State(active=Part(1, "blue"))),
    ]


def test_with_none_to_go_back_to_a_release_is_good_only_when_it_is_ready() -> None:
    state, pending = State(active=Part(1, "blue")), [release(1, Judgement.PENDING)]
    here = [*STACK, *slot("blue", 1)]
    good = "its deployer was stopped while it was observed; it was ready when the next one looked"
    assert plan(state, Observed(here, {"blue": True}, pending)) == [Settle(1, Judgement.GOOD, good)]
    assert plan(state, Observed(here, {"blue": False}, pending)) == [], "it may only just be starting"
    judged = State(active=Part(1, "blue", "it crashed"))
    assert plan(judged, Observed(here, {"blue": True}, pending)) == [Settle(1, Judgement.BAD, "it crashed")]


def test_what_was_quarantined_before_its_verdict_was_written_is_bad() -> None:
    releases = [release(1), release(2, Judgement.PENDING)]
    seen = Observed([*STACK, *slot("blue", 1)], {"blue": True}, releases, {2: "it crashed"})
    bad = Settle(2, Judgement.BAD, "it crashed")
    assert bad in plan(State(active=Part(1, "blue"), candidate=Part(2, "green")), seen)
    assert plan(State(active=Part(1, "blue")), seen) == [bad], "it never came as far as the state"
    alone = Observed([*STACK, *slot("blue", 2)], {"blue": True}, releases[1:], {2: "it crashed"})
    assert plan(State(active=Part(2, "blue")), alone) == [bad], "it is ready, and was judged"


def test_containers_that_nobody_names_are_removed_and_missing_ones_started() -> None:
    seen = Observed([*STACK, *slot("green", 7)], {}, [release(1)])
    assert plan(State(active=Part(1, "blue")), seen) == [Start(Part(1, "blue")), Remove("green")]


def test_a_stack_that_is_down_comes_up_first() -> None:
    actions = plan(State(active=Part(1, "blue")), Observed([], {}, [release(1)]))
    assert actions == [Services(Part(1, "blue")), Start(Part(1, "blue"))]


def test_what_stands_around_the_slots_becomes_that_of_the_release_that_serves() -> None:
    old, new = Part(1, "blue"), Part(2, "green")
    releases = [release(1), release(2, Judgement.PENDING, env_hash="another")]
    both = Observed([*STACK, *slot("blue", 1), *slot("green", 2)], {"green": True}, releases)
    before = plan(State(active=old, candidate=new), both)
    assert before[:3] == [Remove("green"), Services(old), Configure(1)]
    after = plan(State(active=new, leaving=old), both)
    assert after[:2] == [Services(new), Configure(2)], "it may have been on its way back"
    back = plan(State(active=new, leaving=old), replace(both, ready={}))
    assert back[:4] == [Start(old), Services(old), Configure(1), Become(State(old, leaving=back[3].state.leaving))]  # type: ignore[union-attr]


def test_a_release_that_was_only_written_down_is_abandoned() -> None:
    state = State(active=Part(1, "blue"))
    seen = Observed([*STACK, *slot("blue", 1)], {}, [release(1), release(2, Judgement.PENDING)])
    assert [type(action) for action in plan(state, seen)] == [Settle]


parts = st.builds(Part, st.integers(1, 3), st.sampled_from(SLOTS), st.sampled_from(["", "bad"]))
containers = st.builds(
    lambda which, number, status: slot(which, number, status),
    st.sampled_from(SLOTS),
    st.integers(1, 3),
    st.sampled_from(["running", "exited", "restarting", "created"]),
)


@given(
    st.none() | parts,
    st.none() | parts,
    st.none() | parts,
    st.lists(containers, max_size=2),
    st.lists(st.sampled_from(list(Judgement)), min_size=3, max_size=3),
    st.booleans(),
)
def test_whatever_was_left_one_run_mends_it_and_the_next_has_nothing_to_do(
    active: Part | None,
    candidate: Part | None,
    leaving: Part | None,
    found: list[list[Container]],
    verdicts: list[Judgement],
    ready: bool,
) -> None:
    active = replace(active, reason="") if active else None
    candidate = candidate if candidate and (active is None or candidate.slot != active.slot) else None
    beside = leaving and active and leaving.slot != active.slot and leaving.release != active.release
    leaving = leaving if leaving and beside and not candidate else None
    if leaving and not leaving.reason:
        verdicts[leaving.release - 1] = Judgement.GOOD  # a release is replaced only after it was judged
    if leaving and leaving.reason and active:
        verdicts[active.release - 1] = Judgement.GOOD  # nobody goes back to one that was not
    releases = [release(number, verdict) for number, verdict in enumerate(verdicts, 1)]
    seen = Observed([*STACK, *(one for group in found for one in group)], dict.fromkeys(SLOTS, ready), releases)
    state, after = apply(State(active, candidate, leaving), seen)
    assert state.candidate is None
    assert state.leaving is None
    left = plan(state, after)
    assert left == [] or (active and [type(action) for action in left] == [Settle]), (
        "started just now, judged next time"
    )
    state, after = apply(state, after)
    assert plan(state, after) == []
    if state.active:
        assert after.whole(state.active)
        beside = {one.slot for one in after.containers if one.slot} - {state.active.slot}
        assert all(after.kept(which) for which in beside)


def apply(state: State, seen: Observed) -> tuple[State, Observed]:
    """What the actions do to a host on which everything works."""
    found, releases = list(seen.containers), {one.number: one for one in seen.releases}
    for action in plan(state, seen):
        state, found = _applied(action, state, found, releases)
    return state, Observed(found, dict.fromkeys(SLOTS, True), list(releases.values()))


def _applied(
    action: Action, state: State, found: list[Container], releases: dict[int, Release]
) -> tuple[State, list[Container]]:
    match action:
        case Remove(which):
            found = [one for one in found if one.slot != which]
        case Retire(which):
            found = [replace(one, status="exited") if one.slot == which else one for one in found]
        case Start(part):
            found = [one for one in found if one.slot != part.slot] + slot(part.slot, part.release)
        case Become(to):
            state = to
        case Settle(number, verdict, reason):
            releases[number] = releases[number].judged(verdict, reason)
        case Services() | Configure():
            pass
    return state, found


def test_going_back_goes_to_the_newest_good_release_with_other_content() -> None:
    releases = [release(1), release(2), release(3, Judgement.BAD), release(4)]
    assert previous_good(releases, releases[3]) == releases[1]
    assert previous_good(releases[:1], releases[0]) is None


def test_going_back_twice_goes_back_two_steps() -> None:
    first, second, third = release(1), release(2), release(3, Judgement.ROLLED_BACK)
    restored = replace(second, number=4, restores=2)
    assert previous_good([first, second, third, restored], restored) == first


def test_going_back_passes_over_the_same_content_under_another_number() -> None:
    first, second = release(1), release(2)
    again = replace(second, number=3)
    assert previous_good([first, second, again], again) == first
