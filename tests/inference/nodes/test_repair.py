"""The ladder of repair: what is done, and above all when nothing is done."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.cloud.compute import Action, Machine, MachineStatus
from wopr.core.ids import NodeId
from wopr.inference.nodes import Making, Node
from wopr.inference.repair import (
    HARD_AN_HOUR_LEAST,
    HOUR,
    LOADING_SECONDS_MAX,
    LOOKS_BEFORE_REPAIR,
    QUIET_SECONDS_MAX,
    REST_SECONDS,
    SEEN_SECONDS,
    SPARING_SECONDS,
    STARTED_SECONDS,
    UNDER_WAY_SECONDS_MAX,
    UNREACHABLE_SECONDS,
    WAIT_SECONDS,
    Do,
    Sight,
    Step,
    plan_repair,
)
from wopr.inference.repair_state import HARD, Phase, Repair, Rung, repair_of, told
from wopr.inference.sights import Memory, Trouble

NOW = 1_800_000_000


def node(
    name: str = "gpu-1",
    trouble: Trouble | None = Trouble.REFUSED,
    repair: Repair | None = None,
    *,
    failures: int = LOOKS_BEFORE_REPAIR,
    **more: object,
) -> Node:
    """A rented node with two services, the first of which has this trouble."""
    bad = Memory(failures=failures, failing_since=NOW - 10, error="bad", trouble=trouble) if trouble else Memory(good=3)
    made = Node(
        NodeId(name),
        "10.0.0.1",
        ports={"llama": 1, "qwen": 2},
        service_health={"llama": trouble is None, "qwen": True},
        probe_state={"llama": bad.to_json(), "qwen": Memory(good=3).to_json()},
        provider="digitalocean",
        making=Making(machine_id=name),
        repair=(repair or Repair()).to_json(),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def dark(name: str, repair: Repair | None = None, since: int = NOW - 10) -> Node:
    """A node of which nothing can be reached."""
    memory = Memory(failures=5, failing_since=since, error="no connection", trouble=Trouble.UNREACHABLE).to_json()
    health = {"llama": False, "qwen": False}
    return replace(node(name, repair=repair), probe_state={"llama": memory, "qwen": memory}, service_health=health)


def machines(*nodes: Node, status: MachineStatus = MachineStatus.ACTIVE) -> Mapping[str, Machine]:
    return {n.id: Machine(n.id, n.id, status, "r", "s", None, None, (), 0) for n in nodes}


def step_of(one: Node, sight: Sight | None = None, now: int = NOW) -> Step | None:
    plan = plan_repair([one, *(node(f"well-{n}", None) for n in range(3))], sight or Sight(machines(one)), now)
    return next((step for step in plan.steps if step.node.id == one.id), None)


def on(rung: Rung, phase: Phase, **more: object) -> Repair:
    return replace(Repair(rung=rung, phase=phase, since=NOW, services=("llama",)), **more)  # type: ignore[arg-type]


def asks_only(step: Step | None) -> bool:
    """Whether nothing is done but asking."""
    return step is None or step.do is Do.ASK


def test_who_serves_is_left_alone() -> None:
    assert step_of(node(trouble=None)) is None


@pytest.mark.parametrize(
    "trouble",
    [Trouble.REFUSED, Trouble.SILENT, Trouble.HUNG, Trouble.SICK, Trouble.NONSENSE, Trouble.UNREACHABLE],
)
def test_a_service_that_does_not_work_is_restarted(trouble: Trouble) -> None:
    step = step_of(node(trouble=trouble))
    assert step is not None
    assert (step.do, step.rung, step.services) == (Do.BEGIN, Rung.RESTART, ("llama",))
    assert "bad" in step.why


@pytest.mark.parametrize("trouble", [Trouble.SLOW, Trouble.LOADING])
def test_who_is_busy_or_loads_is_left_alone(trouble: Trouble) -> None:
    assert step_of(node(trouble=trouble, failures=1000)) is None


def test_one_bad_look_is_not_enough() -> None:
    assert step_of(node(failures=1)) is None


def test_what_does_not_answer_at_all_may_be_a_hiccup_unless_the_cloud_knows_better() -> None:
    one = dark("gpu-9", since=NOW)
    for seconds, due in ((UNREACHABLE_SECONDS - 1, False), (UNREACHABLE_SECONDS, True)):
        assert (step_of(one, now=NOW + seconds) is not None) == due
    for known in (machines(one, status=MachineStatus.OFF), machines()):
        assert step_of(one, Sight(known)) is not None


def test_a_key_that_is_not_taken_is_for_a_person() -> None:
    step = step_of(node(trouble=Trouble.DENIED))
    assert step is not None
    assert step.rung is Rung.PERSON


@pytest.mark.parametrize("desired", ["cordoned", "drained", "gone"])
def test_a_node_that_is_not_to_serve_is_left_alone(desired: str) -> None:
    assert step_of(node(desired=desired)) is None
    step = step_of(node(repair=on(Rung.REBOOT, Phase.DUE), desired=desired))
    assert step is not None
    assert step.do is Do.CLEAR


@pytest.mark.parametrize("stage", ["creating", "starting_services", "failed"])
def test_a_node_that_is_being_made_is_left_alone(stage: str) -> None:
    assert step_of(node(provision_stage=stage)) is None
    assert step_of(node(host="")) is None


def test_the_ladder_goes_up_when_a_rung_had_its_time_and_did_not_help() -> None:
    rungs = []
    rung = Rung.RESTART
    while rung is not Rung.PERSON:
        wait = WAIT_SECONDS[rung]
        one = replace(node(repair=on(rung, Phase.WATCH, looks=1)), service_health={"llama": False, "qwen": False})
        assert asks_only(step_of(one, now=NOW + wait - 1))
        step = step_of(one, now=NOW + wait)
        assert step is not None
        assert (step.do, bool(step.why)) == (Do.BEGIN, True)
        rung = step.rung or Rung.PERSON
        rungs.append(rung)
    assert rungs == [Rung.REBOOT, Rung.POWER_CYCLE, Rung.REPLACE, Rung.PERSON]


def test_a_restart_has_longer_while_other_services_of_the_machine_work() -> None:
    one = node(repair=on(Rung.RESTART, Phase.WATCH, looks=1))
    assert step_of(one, now=NOW + STARTED_SECONDS - 1) is None
    assert asks_only(step_of(one, now=NOW + SPARING_SECONDS - 1))
    assert not asks_only(step_of(one, now=NOW + SPARING_SECONDS))


@pytest.mark.parametrize("trouble", [Trouble.UNREACHABLE, Trouble.NONSENSE])
def test_a_restart_that_shows_what_nothing_shows_that_loads_is_left_after_a_few_looks(trouble: Trouble) -> None:
    one = node(trouble=trouble, repair=on(Rung.RESTART, Phase.WATCH, looks=1))
    assert asks_only(step_of(one, now=NOW + SEEN_SECONDS - 1))
    step = step_of(one, now=NOW + SEEN_SECONDS)
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.REBOOT)


@pytest.mark.parametrize("rung", [Rung.REBOOT, Rung.POWER_CYCLE])
def test_after_a_boot_only_a_wrong_answer_is_left_early_and_a_machine_that_boots_is_not_asked(rung: Rung) -> None:
    wrong = node(trouble=Trouble.NONSENSE, repair=on(rung, Phase.WATCH, looks=1))
    step = step_of(wrong, now=NOW + SEEN_SECONDS)
    assert step is not None
    assert step.do is Do.BEGIN
    assert step_of(dark("gpu-1", on(rung, Phase.WATCH, looks=1)), now=NOW + SEEN_SECONDS) is None
    refused = node(repair=on(rung, Phase.WATCH, looks=1))
    step = step_of(refused, now=NOW + WAIT_SECONDS[rung] - 1)
    assert step is not None
    assert step.do is Do.ASK


def test_what_ended_again_after_its_restart_is_not_waited_for() -> None:
    step = step_of(node(repair=on(Rung.RESTART, Phase.WATCH, looks=LOOKS_BEFORE_REPAIR, error="ended again")))
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.REBOOT)
    assert "ended again" in step.why


def test_nothing_goes_up_while_nobody_looks() -> None:
    one = node(repair=on(Rung.RESTART, Phase.WATCH, looks=LOOKS_BEFORE_REPAIR))
    assert asks_only(step_of(one, now=NOW + HOUR))


def test_a_model_that_loads_is_waited_for() -> None:
    one = node(trouble=Trouble.LOADING, repair=on(Rung.RESTART, Phase.WATCH))
    assert step_of(one, now=NOW + LOADING_SECONDS_MAX - 1) is None
    assert step_of(one, now=NOW + LOADING_SECONDS_MAX) is not None


def test_a_service_on_probation_is_waited_for() -> None:
    state = {"llama": Memory(good=1).to_json(), "qwen": Memory(good=3).to_json()}
    one = replace(node(repair=on(Rung.RESTART, Phase.WATCH, looks=5)), probe_state=state)
    assert step_of(one, now=NOW + WAIT_SECONDS[Rung.RESTART]) is None


def test_a_machine_that_does_not_answer_ssh_is_not_asked_to_reboot() -> None:
    step = step_of(dark("gpu-1", on(Rung.RESTART, Phase.WATCH, error="no route", deaf=True)))
    assert step is not None
    assert step.rung is Rung.POWER_CYCLE


def test_a_machine_that_is_off_is_powered_on() -> None:
    one = dark("gpu-1")
    step = step_of(one, Sight(machines(one, status=MachineStatus.OFF)))
    assert step is not None
    assert step.rung is Rung.POWER_CYCLE
    due = dark("gpu-1", on(Rung.POWER_CYCLE, Phase.DUE))
    step = step_of(due, Sight(machines(due, status=MachineStatus.OFF)))
    assert step is not None
    assert step.action is Action.POWER_ON


def test_a_machine_that_the_cloud_knows_no_more_is_replaced() -> None:
    step = step_of(dark("gpu-1"), Sight({}))
    assert step is not None
    assert step.rung is Rung.REPLACE


def test_a_machine_is_not_replaced_again_soon() -> None:
    step = step_of(node(repair=on(Rung.POWER_CYCLE, Phase.WATCH, error="failed", replaced_at=NOW - HOUR)))
    assert step is not None
    assert step.rung is Rung.PERSON


def test_without_a_cloud_a_restart_is_all_and_then_a_person_is_called() -> None:
    own = node(provider=None, making=Making(), repair=on(Rung.RESTART, Phase.WATCH, error="no key"))
    step = step_of(own, Sight(None))
    assert step is not None
    assert step.rung is Rung.PERSON


def test_after_a_person_was_called_it_is_tried_again_but_rarely() -> None:
    one = node(repair=on(Rung.PERSON, Phase.CALLED, rests=1))
    assert step_of(one, now=NOW + 2 * REST_SECONDS - 1) is None
    step = step_of(one, now=NOW + 2 * REST_SECONDS)
    assert step is not None
    assert step.rung is Rung.RESTART


def test_who_fails_again_soon_begins_a_rung_higher() -> None:
    step = step_of(node(repair=Repair(last=Rung.RESTART, last_at=NOW - 60)))
    assert step is not None
    assert step.rung is Rung.REBOOT
    step = step_of(node(repair=Repair(last=Rung.RESTART, last_at=NOW - HOUR)))
    assert step is not None
    assert step.rung is Rung.RESTART


def test_running_requests_may_end_before_a_machine_is_ended() -> None:
    step = step_of(node(repair=on(Rung.RESTART, Phase.WATCH, error="failed")))
    assert step is not None
    assert step.quiet
    waiting = node(repair=on(Rung.REBOOT, Phase.QUIET))
    busy = Sight(machines(waiting), {"gpu-1": 3})
    assert step_of(waiting, busy) is None
    for sight, now in ((busy, NOW + QUIET_SECONDS_MAX), (Sight(machines(waiting)), NOW)):
        step = step_of(waiting, sight, now)
        assert step is not None
        assert (step.do, step.action) == (Do.ACT, Action.REBOOT)


def test_who_serves_again_is_done_with() -> None:
    for phase in (Phase.QUIET, Phase.DUE, Phase.WATCH, Phase.CALLED):
        step = step_of(node(trouble=None, repair=on(Rung.RESTART, phase)))
        assert step is not None
        assert step.do is Do.FINISH


def test_a_reboot_that_somebody_asked_for_is_done_although_the_node_serves() -> None:
    step = step_of(node(trouble=None, repair=Repair(asked=Rung.REBOOT)))
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.REBOOT)
    step = step_of(node(trouble=None, repair=on(Rung.REBOOT, Phase.DUE, insisted=True)))
    assert step is not None
    assert step.do is Do.ACT


def test_no_node_is_touched_when_none_can_be_reached() -> None:
    nodes = [dark(f"gpu-{n}") for n in range(4)]
    plan = plan_repair(nodes, Sight(machines(*nodes)), NOW)
    assert plan.steps == ()
    assert len(plan.held) == 4
    assert "cut off" in plan.held["gpu-0"]


def test_what_was_meant_is_not_done_once_we_are_cut_off() -> None:
    nodes = [dark(f"gpu-{n}", on(Rung.POWER_CYCLE, Phase.DUE) if not n else None) for n in range(3)]
    assert plan_repair(nodes, Sight(machines(*nodes)), NOW).steps == ()


def test_a_single_node_is_not_touched_when_the_cloud_can_not_be_reached_either() -> None:
    assert plan_repair([dark("gpu-1")], Sight(None), NOW).steps == ()
    assert len(plan_repair([dark("gpu-1")], Sight(machines(dark("gpu-1"))), NOW).steps) == 1


def test_the_only_node_is_not_given_back_because_nobody_reaches_it() -> None:
    """The way to it may be ours: nobody else is there to show that it is not."""
    lost = dark("gpu-1", on(Rung.POWER_CYCLE, Phase.WATCH))
    later = NOW + UNDER_WAY_SECONDS_MAX + 600
    for others, rung in (((), Rung.PERSON), ((node("well", None),), Rung.REPLACE)):
        (step,) = plan_repair([lost, *others], Sight(machines(lost)), later).steps
        assert (step.do, step.rung) == (Do.BEGIN, rung)
    (step,) = plan_repair([lost], Sight({}), later).steps
    assert step.rung is Rung.REPLACE, "the cloud itself says that it is gone"


def test_machines_that_the_cloud_says_are_off_are_no_sign_of_being_cut_off() -> None:
    nodes = [dark("gpu-0"), dark("gpu-1")]
    plan = plan_repair(nodes, Sight(machines(*nodes, status=MachineStatus.OFF)), NOW)
    assert len(plan.steps) == 1


def test_most_nodes_falling_silent_together_is_the_network() -> None:
    nodes = [*(dark(f"gpu-{n}") for n in range(3)), node("well", None)]
    assert plan_repair(nodes, Sight(machines(*nodes)), NOW).steps == ()


def test_only_a_tenth_of_the_nodes_is_touched_at_once() -> None:
    nodes = [node(f"gpu-{n}") for n in range(40)]
    plan = plan_repair(nodes, Sight(machines(*nodes)), NOW)
    assert len(plan.steps) == 4
    assert len(plan.held) == 36
    touched = [replace(one, repair=on(Rung.RESTART, Phase.WATCH).to_json()) for one in nodes[:4]]
    assert plan_repair([*touched, *nodes[4:]], Sight(machines(*nodes)), NOW).steps == ()


def test_a_machine_that_is_being_made_anew_keeps_no_other_node_waiting() -> None:
    replaced = node("gpu-1", repair=on(Rung.REPLACE, Phase.WATCH), provision_stage="downloading_models")
    ill = node("gpu-2")
    plan = plan_repair([replaced, ill], Sight(machines(replaced, ill)), NOW)
    assert [(step.node.id, step.rung) for step in plan.steps] == [("gpu-2", Rung.RESTART)]
    made = replace(replaced, provision_stage="done")
    assert plan_repair([made, ill], Sight(machines(made, ill)), NOW).held.keys() == {"gpu-2"}


def test_a_new_machine_that_could_not_be_made_is_for_a_person_and_tried_again_after_the_rest() -> None:
    failed = node(repair=on(Rung.REPLACE, Phase.WATCH), provision_stage="failed", host="")
    step = step_of(failed)
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.PERSON)
    called = replace(failed, repair=on(Rung.PERSON, Phase.CALLED, rests=1).to_json())
    assert step_of(called, now=NOW + 2 * REST_SECONDS - 1) is None
    step = step_of(called, now=NOW + 2 * REST_SECONDS)
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.REPLACE)
    later = replace(called, making=Making(machine_id="gpu-1", stage_at=NOW + REST_SECONDS))
    assert step_of(later, now=NOW + 2 * REST_SECONDS) is None, "a person made it again, which failed since"
    due = replace(failed, repair=on(Rung.REPLACE, Phase.DUE).to_json())
    step = step_of(due)
    assert step is not None
    assert (step.do, step.rung) == (Do.ACT, Rung.REPLACE)


def test_a_node_of_ones_own_whose_making_failed_is_left_to_the_person_who_was_called() -> None:
    own = node(provider=None, repair=on(Rung.PERSON, Phase.CALLED), provision_stage="failed")
    assert step_of(own, Sight(None), now=NOW + 10 * REST_SECONDS) is None


def test_a_person_who_makes_the_node_again_is_waited_for() -> None:
    called = node(repair=on(Rung.PERSON, Phase.CALLED), provision_stage="creating", host="")
    assert step_of(called, now=NOW + 10 * REST_SECONDS) is None
    due = node(repair=on(Rung.REPLACE, Phase.DUE), provision_stage="creating", host="")
    step = step_of(due)
    assert step is not None
    assert step.do is Do.CLEAR


def test_what_the_cloud_did_not_take_is_asked_for_again_when_it_may_be_and_not_for_ever() -> None:
    refused = on(Rung.REBOOT, Phase.DUE, error="too many requests", untaken=True, again_at=NOW + 30)
    assert step_of(node(repair=refused), now=NOW + 29) is None
    step = step_of(node(repair=refused), now=NOW + 30)
    assert step is not None
    assert step.do is Do.ACT
    step = step_of(node(repair=refused), now=NOW + UNDER_WAY_SECONDS_MAX + 1)
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.POWER_CYCLE)
    step = step_of(node(repair=replace(refused, rung=Rung.POWER_CYCLE)), now=NOW + UNDER_WAY_SECONDS_MAX + 1)
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.PERSON), "a cloud that has no time says nothing of the machine"


def test_a_machine_that_the_cloud_refuses_to_touch_is_not_given_back() -> None:
    refused = on(Rung.POWER_CYCLE, Phase.WATCH, error="the token may not", untaken=True)
    step = step_of(node(repair=refused))
    assert step is not None
    assert (step.do, step.rung, "may not" in step.why) == (Do.BEGIN, Rung.PERSON, True)
    step = step_of(node(repair=refused), Sight({}))
    assert step is not None
    assert (step.do, step.rung) == (Do.BEGIN, Rung.REPLACE), "there is nothing to give back"
    step = step_of(node(repair=on(Rung.POWER_CYCLE, Phase.DUE)), Sight(None, refused="the token may not"))
    assert step is not None
    assert (step.do, step.rung, "may not" in step.why) == (Do.BEGIN, Rung.PERSON, True)
    assert step_of(node(repair=on(Rung.POWER_CYCLE, Phase.DUE)), Sight(None)) is None


@pytest.mark.parametrize("desired", ["cordoned", "drained"])
def test_what_a_person_asks_of_a_node_that_is_kept_from_requests_is_done_and_nothing_more(desired: str) -> None:
    due = on(Rung.RESTART, Phase.DUE, insisted=True)
    step = step_of(node(repair=due, desired=desired))
    assert step is not None
    assert (step.do, step.rung) == (Do.ACT, Rung.RESTART)
    step = step_of(node(repair=replace(due, phase=Phase.WATCH, error="no key"), desired=desired))
    assert step is not None
    assert (step.do, "no key" in step.why) == (Do.CLEAR, True)
    step = step_of(node(trouble=None, repair=replace(due, phase=Phase.WATCH), desired=desired))
    assert step is not None
    assert step.do is Do.FINISH
    made = node(repair=on(Rung.REPLACE, Phase.WATCH, insisted=True), desired=desired, provision_stage="creating")
    assert step_of(made) is None
    step = step_of(replace(made, desired="gone"))
    assert step is not None
    assert step.do is Do.CLEAR


def test_only_so_many_machines_are_ended_in_an_hour() -> None:
    hard = tuple(NOW - n for n in range(HARD_AN_HOUR_LEAST))
    tired = node("gpu-1", None, Repair(hard=hard))
    next_one = node("gpu-2", repair=on(Rung.RESTART, Phase.WATCH, error="failed"))
    plan = plan_repair([tired, next_one], Sight(machines(tired, next_one)), NOW)
    assert "hour" in plan.held["gpu-2"]
    asked = replace(next_one, repair=Repair(asked=Rung.REBOOT).to_json())
    assert len(plan_repair([tired, asked], Sight(machines(tired, asked)), NOW).steps) == 1


def test_history_that_means_nothing_any_more_is_forgotten() -> None:
    step = step_of(node(trouble=None, repair=Repair(hard=(NOW - 2 * HOUR,))))
    assert step is not None
    assert step.do is Do.CLEAR


def test_people_are_told_what_happens() -> None:
    assert told(node(repair=on(Rung.RESTART, Phase.DUE))) == "restarting llama"
    assert told(node(repair=on(Rung.POWER_CYCLE, Phase.UNDER_WAY))) == "being powered off and on"
    assert told(node(repair=on(Rung.PERSON, Phase.CALLED, why="no key"))) == "a person is needed: no key"
    assert told(node()) == ""


@given(
    st.sampled_from([None, *Rung]),
    st.sampled_from(Phase),
    st.sampled_from([None, *Trouble]),
    st.integers(0, 2 * HOUR),
    st.booleans(),
)
def test_every_state_is_read_back_and_no_step_ends_a_machine_that_serves(
    rung: Rung | None, phase: Phase, trouble: Trouble | None, later: int, known: bool
) -> None:
    repair = Repair(rung=rung, phase=phase if rung else None, since=NOW, hard=(1, 2), services=("llama",))
    one = node(trouble=trouble, repair=repair)
    assert repair_of(one) == repair
    step = step_of(one, Sight(machines(one) if known else None), NOW + later)
    if step is not None and trouble is None and phase is not Phase.UNDER_WAY:
        assert not (step.do in (Do.BEGIN, Do.ACT) and step.rung in HARD)
