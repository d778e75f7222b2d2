"""How a node is made and given back: the stages, and the one next step that follows from what is known. Pure.

A row says what is wanted and how far it came; the cloud says what there is. `next_step` compares the two. Whatever was
cut off in the middle, the same comparison goes on with it: a machine whose id was never learnt is found by its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from wopr.cloud.compute import Machine, MachineStatus

MINUTE = 60
# How long the cloud may take to list a machine that it was asked for when its answer was lost.
ORDER_SECONDS = 2 * MINUTE
# A machine is not younger than its order, whatever the two clocks say.
CLOCK_SECONDS = 10 * MINUTE
# The cloud may not know a machine that it has just made.
MISSING_SECONDS = 1 * MINUTE


class Wanted(StrEnum):
    """What people want of a node."""

    SERVING = "serving"
    CORDONED = "cordoned"
    DRAINED = "drained"
    GONE = "gone"


class Stage(StrEnum):
    """How far the making of a node came. The machine itself reports from `installing_drivers` to `registering`."""

    CREATING = "creating"
    WAITING_ACTIVE = "waiting_active"
    WAITING_AGENT = "waiting_agent"
    INSTALLING_DRIVERS = "installing_drivers"
    INSTALLING_DOCKER = "installing_docker"
    DOWNLOADING_MODELS = "downloading_models"
    STARTING_SERVICES = "starting_services"
    REGISTERING = "registering"
    DONE = "done"
    FAILED = "failed"


STAGES: Sequence[Stage] = tuple(Stage)[:-1]
SETTLED = (Stage.DONE, Stage.FAILED)
# What the machine tells of itself, each when it begins: everything before it was verified.
REPORTED = (
    Stage.INSTALLING_DRIVERS,
    Stage.INSTALLING_DOCKER,
    Stage.DOWNLOADING_MODELS,
    Stage.STARTING_SERVICES,
    Stage.REGISTERING,
)
# A stage that lasts longer has failed. Images and weights are many gigabytes.
STAGE_SECONDS_MAX: Mapping[Stage, int] = {
    Stage.CREATING: 20 * MINUTE,
    Stage.WAITING_ACTIVE: 15 * MINUTE,
    Stage.WAITING_AGENT: 15 * MINUTE,
    Stage.INSTALLING_DRIVERS: 30 * MINUTE,
    Stage.INSTALLING_DOCKER: 20 * MINUTE,
    Stage.DOWNLOADING_MODELS: 90 * MINUTE,
    Stage.STARTING_SERVICES: 60 * MINUTE,
    Stage.REGISTERING: 10 * MINUTE,
}
WHY_SLOW: Mapping[Stage, str] = {
    Stage.CREATING: "the cloud gave no machine",
    Stage.WAITING_ACTIVE: "the cloud did not start the machine",
    Stage.WAITING_AGENT: "the machine never reported: it can't reach NODE_API_URL, or cloud-init failed",
    Stage.REGISTERING: (
        "the machine's services can't be reached from here: is it in the platform's own region (GPU_REGION), since "
        "private networks end there, and does GPU_ADMIT let the platform in?"
    ),
}


@dataclass(frozen=True)
class Making:
    """What a row says of its machine. Times are seconds since 1970; `stage_at`: since when it is in this stage."""

    node_id: str
    desired: Wanted
    stage: Stage
    machine_id: str | None
    stage_at: int
    ordered_at: int | None = None
    address: str | None = None
    complaint: str | None = None  # what its services, which were reached, did wrong when they were last tried


@dataclass(frozen=True)
class Wait:
    """Nothing is to be done yet."""


@dataclass(frozen=True)
class Ask:
    """Ask the cloud for a machine."""


@dataclass(frozen=True)
class Adopt:
    """Store the id of a machine that is ours already."""

    machine: Machine


@dataclass(frozen=True)
class Started:
    """The machine runs and has its address: store it, and wait for what the machine reports, if it has not begun to."""

    address: str


@dataclass(frozen=True)
class Discard:
    """Give the machine back."""

    machine_id: str


@dataclass(frozen=True)
class Renew:
    """The old machine is gone: begin with a new one."""


@dataclass(frozen=True)
class Verify:
    """Ask the machine's services from here, for their health and for real work."""


@dataclass(frozen=True)
class Fail:
    """It won't come to anything by itself."""

    reason: str


@dataclass(frozen=True)
class Forget:
    """The machine is gone and so may be the row."""


Step: TypeAlias = Wait | Ask | Adopt | Started | Discard | Renew | Verify | Fail | Forget


def next_step(row: Making, machine: Machine | None, now: int) -> Step:
    """What is to be done for this row now. `machine`: what the cloud has by the row's id or, without one, its name."""
    if machine is not None and machine.status is MachineStatus.ARCHIVE:
        machine = None
    if row.desired is Wanted.GONE:
        return _leaving(row, machine, now)
    if row.stage in SETTLED:
        return Wait()
    if row.stage is Stage.CREATING:
        return _creating(row, machine, now)
    late = now - row.stage_at > STAGE_SECONDS_MAX[row.stage]
    if machine is None:
        gone = now - row.stage_at > MISSING_SECONDS
        return Fail("the machine is gone: the cloud knows it no more") if gone else Wait()
    if machine.status is MachineStatus.ACTIVE and machine.private_ip and machine.private_ip != row.address:
        return Started(machine.private_ip)
    if late:
        return Fail(too_slow(row.stage, row.complaint))
    return Verify() if row.stage is Stage.REGISTERING else Wait()


def adoptable(row: Making, machines: Sequence[Machine]) -> Machine | None:
    """Of the machines with the row's name the one that is meant: the newest that the last order can have made.

    Only that one knows the token of the order; an older one is nobody's. Who gives a node back takes any.
    """
    if row.desired is not Wanted.GONE:
        if row.ordered_at is None:
            return None
        since = row.ordered_at - CLOCK_SECONDS
        machines = [machine for machine in machines if machine.created_at >= since]
    return max(machines, key=lambda machine: (machine.created_at, machine.id), default=None)


def may_report(present: Stage, reported: Stage) -> bool:
    """Whether a machine's report moves the node on. Late, doubled and impossible ones do not."""
    if reported not in REPORTED or present in (Stage.CREATING, *SETTLED):
        return False
    return STAGES.index(reported) > STAGES.index(present)


def too_slow(stage: Stage, complaint: str | None = None) -> str:
    """Why a stage that lasted too long has failed: what is known, or else what it mostly is."""
    minutes = STAGE_SECONDS_MAX[stage] // MINUTE
    why = complaint or WHY_SLOW.get(stage, "the machine reported nothing more")
    return f"{stage} took longer than {minutes} minutes: {why}"


def _creating(row: Making, machine: Machine | None, now: int) -> Step:
    if row.machine_id is not None:
        # Made anew: the machine before goes first, so that never two of a name serve.
        return Renew() if machine is None else Discard(row.machine_id)
    if machine is not None:
        return Adopt(machine)
    if row.ordered_at is not None and now - row.ordered_at <= ORDER_SECONDS:
        return Wait()
    if now - row.stage_at > STAGE_SECONDS_MAX[Stage.CREATING]:
        return Fail(too_slow(Stage.CREATING))
    return Ask()


def _leaving(row: Making, machine: Machine | None, now: int) -> Step:
    if machine is not None:
        return Adopt(machine) if row.machine_id is None else Discard(machine.id)
    unknown = row.machine_id is None and row.ordered_at is not None and now - row.ordered_at <= ORDER_SECONDS
    return Wait() if unknown else Forget()
