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
    SPARING_SECONDS,
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
        assert step_of(one, now=NOW + wait - 1) is None
        step = step_of(one, now=NOW + wait)
        assert step is not None
        assert (step.do, bool(step.why)) == (Do.BEGIN, True)
        rung = step.rung or Rung.PERSON
        rungs.append(rung)
    assert rungs == [Rung.REBOOT, Rung.POWER_CYCLE, Rung.REPLACE, Rung.PERSON]


def test_a_restart_has_longer_while_other_services_of_the_machine_work() -> None:
    one = node(repair=on(Rung.RESTART, Phase.WATCH, looks=1))
    assert step_of(one, now=NOW + SPARING_SECONDS - 1) is None
    assert step_of(one, now=NOW + SPARING_SECONDS) is not None


def test_nothing_goes_up_while_nobody_looks() -> None:
    one = node(repair=on(Rung.RESTART, Phase.WATCH, looks=LOOKS_BEFORE_REPAIR))
    assert step_of(one, now=NOW + HOUR) is None


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
