"""The next step for a rented node, decided from its row and what the cloud has: no database, no cloud."""

from dataclasses import replace

import pytest

from wopr.cloud.compute import Machine, MachineStatus
from wopr.inference.orphans import ORPHAN_SECONDS, judged, past_of, unknown
from wopr.inference.provision import (
    CLOCK_SECONDS,
    MISSING_SECONDS,
    ORDER_SECONDS,
    REPORTED,
    STAGE_SECONDS_MAX,
    STAGES,
    Adopt,
    Ask,
    Discard,
    Fail,
    Forget,
    Making,
    Renew,
    Stage,
    Started,
    Step,
    Verify,
    Wait,
    Wanted,
    adoptable,
    may_report,
    next_step,
)
from wopr.ops.entry import Entry

NOW = 1_800_000_000
NEW = Making("gpu-1", Wanted.SERVING, Stage.CREATING, None, NOW)
MACHINE = Machine("7", "wopr-x-gpu-1", MachineStatus.ACTIVE, "tor1", "s", "198.18.0.2", "10.0.0.2", ("wopr:x",), NOW)
STARTING = replace(MACHINE, status=MachineStatus.NEW, private_ip=None)


def at(stage: Stage, **more: object) -> Making:
    return replace(NEW, stage=stage, machine_id="7", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "machine", "step"),
    [
        (NEW, None, Ask()),
        (replace(NEW, ordered_at=NOW - ORDER_SECONDS), None, Wait()),
        (replace(NEW, ordered_at=NOW - ORDER_SECONDS - 1), None, Ask()),
        (replace(NEW, ordered_at=NOW), STARTING, Adopt(STARTING)),
        (at(Stage.CREATING), MACHINE, Discard("7")),
        (at(Stage.CREATING), None, Renew()),
        (at(Stage.WAITING_ACTIVE), STARTING, Wait()),
        (at(Stage.WAITING_ACTIVE), replace(MACHINE, private_ip=None), Wait()),
        (at(Stage.WAITING_ACTIVE), MACHINE, Started("10.0.0.2")),
        (at(Stage.WAITING_AGENT, address="10.0.0.2"), MACHINE, Wait()),
        (at(Stage.INSTALLING_DOCKER), MACHINE, Started("10.0.0.2")),
        (at(Stage.WAITING_AGENT), None, Wait()),
        (at(Stage.REGISTERING, address="10.0.0.2"), MACHINE, Verify()),
        (at(Stage.DONE), None, Wait()),
        (at(Stage.FAILED), MACHINE, Wait()),
    ],
)
def test_a_node_that_is_wanted(row: Making, machine: Machine | None, step: Step) -> None:
    assert next_step(row, machine, NOW) == step


@pytest.mark.parametrize(
    ("row", "machine", "step"),
    [
        (NEW, None, Forget()),
        (replace(NEW, ordered_at=NOW), None, Wait()),
        (replace(NEW, ordered_at=NOW - ORDER_SECONDS - 1), None, Forget()),
        (replace(NEW, ordered_at=NOW), MACHINE, Adopt(MACHINE)),
        (at(Stage.DONE), MACHINE, Discard("7")),
        (at(Stage.FAILED), replace(MACHINE, status=MachineStatus.OFF), Discard("7")),
        (at(Stage.DONE), replace(MACHINE, status=MachineStatus.ARCHIVE), Forget()),
        (at(Stage.DONE), None, Forget()),
    ],
)
def test_a_node_that_is_given_back(row: Making, machine: Machine | None, step: Step) -> None:
    assert next_step(replace(row, desired=Wanted.GONE), machine, NOW) == step


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage is not Stage.DONE])
def test_every_stage_ends_when_nothing_comes(stage: Stage) -> None:
    row = NEW if stage is Stage.CREATING else at(stage)
    machine = None if stage is Stage.CREATING else STARTING
    late = next_step(row, machine, NOW + STAGE_SECONDS_MAX[stage] + 1)
    assert isinstance(late, Fail)
    assert late.reason.startswith(stage)


def test_a_machine_that_is_gone_fails_the_node_after_a_while() -> None:
    gone = next_step(at(Stage.DOWNLOADING_MODELS), None, NOW + MISSING_SECONDS + 1)
    assert isinstance(gone, Fail)


def test_of_several_machines_the_newest_of_the_last_order_is_meant() -> None:
    row = replace(NEW, ordered_at=NOW)
    old = replace(MACHINE, id="1", created_at=NOW - CLOCK_SECONDS - 1)
    first, second = replace(MACHINE, id="2"), replace(MACHINE, id="3", created_at=NOW + 1)
    assert adoptable(row, [old, first, second]) == second
    assert adoptable(row, [old]) is None
    assert adoptable(NEW, [first]) is None, "nothing was ordered: it has a token of before"
    assert adoptable(replace(NEW, desired=Wanted.GONE), [old]) == old


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_clock_that_is_five_minutes_wrong_changes_nothing_of_an_order(minutes: int) -> None:
    wrong = NOW + 60 * minutes
    made = replace(STARTING, created_at=NOW + 3)  # by the cloud's clock
    row = replace(NEW, ordered_at=wrong, stage_at=wrong)
    assert adoptable(row, [made]) == made
    assert next_step(row, made, wrong + 3) == Adopt(made)
    assert unknown([made], frozenset(), wrong + ORDER_SECONDS) == [], "it may be one that is just being made"


def test_orphans_are_old_enough_and_known_to_nobody() -> None:
    old = replace(MACHINE, created_at=NOW - ORPHAN_SECONDS - 1)
    assert unknown([MACHINE, old], frozenset(), NOW) == [old]
    assert unknown([old], frozenset({"7"}), NOW) == []


def test_only_a_machine_that_was_ordered_here_and_never_served_is_a_leak() -> None:
    ordered = ("nodes.create", "gpu-1", "")
    served = ("nodes.serve", "gpu-1", "7")
    assert fate(ordered) == ([MACHINE], [])
    assert fate() == ([], [MACHINE])
    assert fate(("nodes.create", "gpu-2", "")) == ([], [MACHINE])
    assert fate(ordered, served) == ([], [MACHINE])
    assert fate(ordered, ("nodes.serve", "gpu-1", "6")) == ([MACHINE], [])
    assert fate(ordered, served, ("nodes.discard", "gpu-1", "7")) == ([MACHINE], [])


def fate(*begun: tuple[str, str, str]) -> tuple[list[Machine], list[Machine]]:
    """What becomes of MACHINE when the journal has these operations: leaks, and what a person must look at."""
    entries = [
        Entry("", f"{number}", name, "begin", "", {"node": node, "machine": machine}, "", "")
        for number, (name, node, machine) in enumerate(begun)
    ]
    found = judged([MACHINE], past_of(entries), "wopr-x-")
    return list(found.leaked), list(found.doubtful)


def test_reports_move_a_node_forward_only() -> None:
    assert may_report(Stage.WAITING_AGENT, Stage.INSTALLING_DOCKER)
    assert may_report(Stage.WAITING_ACTIVE, Stage.INSTALLING_DRIVERS), "a quick machine is before our look"
    for present in (Stage.CREATING, Stage.DONE, Stage.FAILED):
        assert not any(may_report(present, reported) for reported in REPORTED)
    assert not may_report(Stage.DOWNLOADING_MODELS, Stage.DOWNLOADING_MODELS)
    assert not may_report(Stage.DOWNLOADING_MODELS, Stage.INSTALLING_DOCKER)
    assert not may_report(Stage.WAITING_AGENT, Stage.DONE)
