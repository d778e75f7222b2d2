"""How a node that does not serve is brought back: the ladder, and the next step that follows from what is known. Pure.

Restart the service → reboot → power-cycle → replace → call a person. A rung is left when it was given its time and the
watchdog has looked again and still found it wanting. What looks like our own failure is left alone: when no node can be
reached, it is we who are cut off. Times are seconds since 1970 by a steady clock of the platform; a node's own clock
is never asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from wopr.cloud.compute import Action, Machine, MachineStatus
from wopr.inference.nodes import GONE, SERVING, Node
from wopr.inference.repair_state import HARD, Phase, Repair, Rung, repair_of
from wopr.inference.sights import Memory, Trouble, memories_of

MINUTE, HOUR = 60, 3600
# So many looks in a row must have failed: a container's own restart policy is quicker than we are.
LOOKS_BEFORE_REPAIR = 3
# What does not answer at all may be a hiccup of the network, unless the cloud says that its machine is off or gone.
UNREACHABLE_SECONDS = 9
# Of a look that made requests twice, fewer.
DEEP_LOOKS_BEFORE_REPAIR = 2
# How long a rung is given to help. A boot takes about 40 s, a model longer, but that says that it loads.
WAIT_SECONDS: Mapping[Rung, int] = {Rung.RESTART: 25, Rung.REBOOT: 100, Rung.POWER_CYCLE: 120, Rung.REPLACE: 120}
# A restart is given longer while other services of the machine work: a reboot would end these, and some images load
# their model before they listen. What loads is a container that runs: the machine is asked whether it does.
SPARING_SECONDS = 90
STARTED_SECONDS = 2
# What loads, or boots, does not look like these: after the looks of this time it is known that the rung did not help.
SEEN_SECONDS = 6
HOPELESS: Mapping[Rung, tuple[Trouble, ...]] = {
    Rung.RESTART: (Trouble.UNREACHABLE, Trouble.NONSENSE),
    Rung.REBOOT: (Trouble.NONSENSE,),
    Rung.POWER_CYCLE: (Trouble.NONSENSE,),
}
LOADING_SECONDS_MAX = 10 * MINUTE
# Requests that run on a node's other services may end first.
QUIET_SECONDS_MAX = 15
LOOKED_SECONDS = 5
UNDER_WAY_SECONDS_MAX = 5 * MINUTE
# Never more than a tenth of the nodes at once, and a fifth of them in an hour by anything that ends a whole machine.
AT_ONCE_SHARE, HARD_SHARE, HARD_AN_HOUR_LEAST = 10, 5, 3
REPLACED_AGAIN_SECONDS = 6 * HOUR
# Who fails again so soon begins a rung higher.
AGAIN_SECONDS = 10 * MINUTE
# After a person was called the ladder is tried again, more and more rarely.
REST_SECONDS, REST_SECONDS_MAX = 30 * MINUTE, 6 * HOUR
# More nodes than half that fell silent together: a switch, a network, or our own.
TOGETHER_SECONDS = MINUTE
NODES_TOGETHER_MIN = 3

REPAIRABLE = (
    Trouble.REFUSED, Trouble.UNREACHABLE, Trouble.SILENT, Trouble.HUNG, Trouble.SICK, Trouble.NONSENSE
)  # fmt: skip
UNWANTED, NOT_MADE = "it is not to serve", "no new machine could be made for it"
DEEP_TROUBLES = (Trouble.HUNG, Trouble.NONSENSE, Trouble.SICK)


class Do(StrEnum):
    """What a step is."""

    BEGIN = "begin"  # store that this rung is meant
    ACT = "act"  # do it
    ASK = "ask"  # how the cloud's action went, or whether what was started runs
    FINISH = "finish"  # it serves again
    CLEAR = "clear"  # nobody wants it repaired any more, or its history is old


@dataclass(frozen=True)
class Step:
    """One thing to do for one node."""

    node: Node
    do: Do
    rung: Rung | None = None
    why: str = ""
    services: tuple[str, ...] = ()
    action: Action | None = None
    quiet: bool = False  # let running requests end before


@dataclass(frozen=True)
class Sight:
    """What is known beside the rows: machines by id (None: the cloud did not tell), requests that run by node."""

    machines: Mapping[str, Machine] | None
    running: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""  # why the cloud will not tell before somebody does something
    reached: bool = True  # whether any node is reached: else it may be we who are cut off, whatever the cloud says


@dataclass(frozen=True)
class Plan:
    """The steps, and why other steps that were due are not taken."""

    steps: tuple[Step, ...]
    held: Mapping[str, str] = field(default_factory=dict)  # by node


def plan_repair(nodes: Sequence[Node], sight: Sight, now: int) -> Plan:
    """What is to be done now."""
    ours, sight = cut_off(nodes, sight), replace(sight, reached=not all(map(_unreachable, nodes)))
    repairs = {node.id: repair_of(node) for node in nodes}
    touched = sum(_is_touched(node, repairs[node.id]) for node in nodes)
    hard = sum(sum(now - at < HOUR for at in repair.hard) for repair in repairs.values())
    at_once, hard_most = max(1, len(nodes) // AT_ONCE_SHARE), max(HARD_AN_HOUR_LEAST, len(nodes) // HARD_SHARE)
    steps: list[Step] = []
    held: dict[str, str] = {}
    for node in nodes:
        repair = repairs[node.id]
        step = next_step(node, repair, sight, now)
        if step is None:
            continue
        if repair.asked is None and step.do in (Do.BEGIN, Do.ACT) and step.rung is not Rung.PERSON:
            is_new = step.do is Do.BEGIN and repair.rung in (None, Rung.PERSON)
            is_hard = step.do is Do.BEGIN and step.rung in HARD
            reason = ours or _limit(is_new and touched >= at_once, is_hard and hard >= hard_most)
            if reason:
                held[node.id] = reason
                continue
            touched, hard = touched + is_new, hard + is_hard
        steps.append(step)
    return Plan(tuple(steps), held)


def next_step(node: Node, repair: Repair, sight: Sight, now: int) -> Step | None:
    """The step that this node alone would need."""
    if repair.asked is not None:
        return Step(node, Do.BEGIN, repair.asked, "somebody asked for it", tuple(sorted(node.ports)), quiet=True)
    if not _is_wanted(node, repair) or not node.host or node.provision_stage != "done":
        step = _elsewhere(node, repair, now)
    else:
        step = _here(node, repair, sight, now)
    if step is not None and step.do is Do.BEGIN and node.desired != SERVING:
        # What a person asked for was done and did not help: by itself nothing is repaired there.
        return Step(node, Do.CLEAR, why=step.why)
    return step


def _is_wanted(node: Node, repair: Repair) -> bool:
    """Whether it is repaired: because it is to serve, or because a person asked, though requests are kept from it."""
    return node.desired == SERVING or (repair.insisted and node.desired != GONE)


def _here(node: Node, repair: Repair, sight: Sight, now: int) -> Step | None:
    """The step for a node that is made and to be repaired."""
    bad = down(node)
    if repair.rung is None:
        if due := [service for service in bad if _due(node, service, sight, now)]:
            return _begin(node, _first(node, repair, sight, now), due, sight)
        return Step(node, Do.CLEAR) if repair.is_old(now, HOUR, REPLACED_AGAIN_SECONDS) else None
    return Step(node, Do.FINISH, repair.rung) if _serves_again(node, repair, now) else _go_on(node, repair, sight, now)


def _is_touched(node: Node, repair: Repair) -> bool:
    """Whether it counts among those that are repaired at once. Making a new machine takes an hour."""
    if repair.rung is Rung.REPLACE:
        return node.provision_stage == "done"
    return repair.rung not in (None, Rung.PERSON)


def _serves_again(node: Node, repair: Repair, now: int) -> bool:
    if not _is_well(node):
        return False
    match repair.phase:
        case Phase.QUIET | Phase.DUE:
            return not repair.insisted
        case Phase.WATCH:
            # What was seen before the machine went down says nothing about what came up.
            return repair.rung is Rung.RESTART or (repair.error is None and now - repair.since >= LOOKED_SECONDS)
        case _:
            return repair.phase is Phase.CALLED


def _is_well(node: Node) -> bool:
    return all(node.service_health.get(service) for service in node.ports)


def _elsewhere(node: Node, repair: Repair, now: int) -> Step | None:
    """The step for a node that is not to serve, or is being made: none, but the ladder must not wait for it."""
    if repair.rung is None:
        return None
    failed = node.provision_stage == "failed"
    match repair.rung, repair.phase:
        case _ if not _is_wanted(node, repair):
            return Step(node, Do.CLEAR, why=UNWANTED)
        case Rung.PERSON, _:
            lasted = now - max(repair.since, node.making.stage_at or 0)  # a person may have made it again meanwhile
            again = failed and node.provider is not None and _is_rested(repair, lasted)
            return Step(node, Do.BEGIN, Rung.REPLACE, NOT_MADE) if again else None
        case Rung.REPLACE, Phase.WATCH:
            return Step(node, Do.BEGIN, Rung.PERSON, NOT_MADE) if failed else None
        case Rung.REPLACE, _ if failed:
            return Step(node, Do.ACT, repair.rung)
        case _:
            return Step(node, Do.CLEAR, why="its machine is made anew")


def _is_rested(repair: Repair, lasted: int) -> bool:
    """Whether it is time to try again after a person was called."""
    rest: int = min(REST_SECONDS * 2**repair.rests, REST_SECONDS_MAX)
    return lasted >= rest


def _go_on(node: Node, repair: Repair, sight: Sight, now: int) -> Step | None:
    """The step for a node that stands on a rung and does not serve yet."""
    lasted = now - repair.since
    match repair.phase:
        case Phase.QUIET:
            quiet = not sight.running.get(node.id) or lasted >= QUIET_SECONDS_MAX
            return _act(node, repair, sight) if quiet else None
        case Phase.DUE:
            return _act(node, repair, sight) if repair.error is None else _act_again(node, repair, sight, now)
        case Phase.UNDER_WAY:
            if lasted > UNDER_WAY_SECONDS_MAX:
                return _begin(node, _after(node, repair, sight, now), down(node), sight, "the cloud never said done")
            return Step(node, Do.ASK, repair.rung)
        case Phase.CALLED:
            first = _first(node, repair, sight, now)
            return _begin(node, first, down(node), sight) if _is_rested(repair, lasted) else None
        case _:
            return _leave(node, repair, sight, now) or _inquire(node, repair, lasted)


def _inquire(node: Node, repair: Repair, lasted: int) -> Step | None:
    """What can't stay up is not waited for: a machine that answers is asked whether what does not serve yet runs."""
    if repair.rung not in HOPELESS or lasted < STARTED_SECONDS or _mends(node) or _unreachable(node):
        return None
    return Step(node, Do.ASK, repair.rung, services=tuple(down(node)))


def _leave(node: Node, repair: Repair, sight: Sight, now: int) -> Step | None:
    """The next rung, when this one had its time and was looked at again."""
    if repair.error is None and repair.rung is not None:
        # A new machine's time begins when it is made.
        lasted = now - (max(repair.since, node.updated_at) if repair.rung is Rung.REPLACE else repair.since)
        if lasted < _wait_seconds(node, repair.rung):
            return None
        if failures_of(node) == repair.looks:
            return None  # nobody has looked since
    why = repair.error or f"the {repair.rung} did not help"
    return _begin(node, _after(node, repair, sight, now), down(node) or sorted(node.ports), sight, why)


def _begin(node: Node, rung: Rung, services: Sequence[str], sight: Sight, why: str = "") -> Step:
    memories = _memories(node)
    faults = "; ".join(f"{service}: {memories[service].error}" for service in services if service in memories)
    well = any(node.service_health.get(service) for service in node.ports)
    quiet = rung in HARD and (well or bool(sight.running.get(node.id)))
    return Step(node, Do.BEGIN, rung, "; ".join(filter(None, (why, faults))), tuple(services), quiet=quiet)


def _act(node: Node, repair: Repair, sight: Sight) -> Step | None:
    machine = _machine(node, sight)
    action = None
    if repair.rung in (Rung.REBOOT, Rung.POWER_CYCLE):
        if sight.machines is None:
            # What does not answer is waited for: nothing can be done, and it may be we who are cut off.
            return _begin(node, Rung.PERSON, down(node), sight, sight.refused) if sight.refused else None
        action = Action.REBOOT if repair.rung is Rung.REBOOT else Action.POWER_CYCLE
        if machine is not None and machine.status is MachineStatus.OFF:
            action = Action.POWER_ON
    return Step(node, Do.ACT, repair.rung, services=repair.services, action=action)


def _act_again(node: Node, repair: Repair, sight: Sight, now: int) -> Step | None:
    """The step for what the cloud did not take: again after its pause, and after minutes no more."""
    if now - repair.since <= UNDER_WAY_SECONDS_MAX:
        return _act(node, repair, sight) if now >= repair.again_at else None
    if _is_well(node):
        return Step(node, Do.FINISH, repair.rung)
    return _begin(node, _after(node, repair, sight, now), down(node) or sorted(node.ports), sight, repair.error or "")


def _first(node: Node, repair: Repair, sight: Sight, now: int) -> Rung:
    """Where the ladder begins."""
    if all(_memories(node)[service].trouble is Trouble.DENIED for service in down(node)):
        return Rung.PERSON
    if node.provider is not None and sight.machines is not None:
        machine = _machine(node, sight)
        if machine is None:
            return _replace(repair, now)
        if machine.status is MachineStatus.OFF:
            return Rung.POWER_CYCLE
    if repair.last is not None and now - repair.last_at < AGAIN_SECONDS:
        return _after(node, Repair(rung=repair.last, replaced_at=repair.replaced_at), sight, now)
    return Rung.RESTART


def _after(node: Node, repair: Repair, sight: Sight, now: int) -> Rung:
    """The rung above."""
    if node.provider is None or repair.rung is None:
        return Rung.PERSON
    if sight.machines is not None and _machine(node, sight) is None:
        return _replace(repair, now)
    match repair.rung:
        case Rung.RESTART:
            # A reboot is a request to a system that does not even answer SSH.
            return Rung.POWER_CYCLE if repair.deaf else Rung.REBOOT
        case Rung.REBOOT:
            return Rung.POWER_CYCLE
        case Rung.POWER_CYCLE:
            # That the cloud has no time, or refuses, says nothing about the machine, which is not given back for it.
            # Nor does that nobody reaches it, while nobody else is reached either.
            in_doubt = repair.untaken or (_unreachable(node) and not sight.reached)
            return Rung.PERSON if in_doubt else _replace(repair, now)
        case _:
            return Rung.PERSON


def _replace(repair: Repair, now: int) -> Rung:
    lately = repair.replaced_at is not None and now - repair.replaced_at < REPLACED_AGAIN_SECONDS
    return Rung.PERSON if lately else Rung.REPLACE


def cut_off(nodes: Sequence[Node], sight: Sight) -> str:
    """Why it looks as if the platform itself were cut off; empty when it does not."""
    watched = [node for node in nodes if node.desired == SERVING and node.provision_stage == "done" and node.host]
    silent = [node for node in watched if _unreachable(node) and not _known_off(node, sight)]
    if not silent:
        return ""
    if len(silent) == len(watched) and (len(watched) > 1 or sight.machines is None):
        return "no node can be reached: it looks as if the platform itself were cut off"
    since = sorted(_since(node) for node in silent)
    if len(silent) >= NODES_TOGETHER_MIN and 2 * len(silent) > len(watched):
        middle = since[len(since) // 2]
        if sum(abs(at - middle) <= TOGETHER_SECONDS for at in since) * 2 > len(watched):
            return f"{len(silent)} of {len(watched)} nodes fell silent together: it looks like the network between us"
    return ""


def down(node: Node) -> list[str]:
    """The services that do not serve, by name."""
    memories = _memories(node)
    return [name for name in sorted(node.ports) if not node.service_health.get(name) and memories[name].failures]


def failures_of(node: Node) -> int:
    """A number that changes whenever a failing node was looked at."""
    return sum(memory.failures for memory in _memories(node).values())


def _wait_seconds(node: Node, rung: Rung) -> int:
    if _mends(node):
        return LOADING_SECONDS_MAX
    bad = down(node)
    if bad and all(_memories(node)[service].trouble in HOPELESS.get(rung, ()) for service in bad):
        return SEEN_SECONDS
    if rung is Rung.RESTART and any(node.service_health.get(service) for service in node.ports):
        return SPARING_SECONDS
    return WAIT_SECONDS.get(rung, 0)


def _mends(node: Node) -> bool:
    """Whether something loads, or all that does not serve yet has been well since the last look."""
    bad = [memory for service, memory in _memories(node).items() if not node.service_health.get(service)]
    return any(memory.trouble is Trouble.LOADING for memory in bad) or all(memory.good for memory in bad)


def _due(node: Node, service: str, sight: Sight, now: int) -> bool:
    memory = _memories(node)[service]
    if memory.trouble is Trouble.UNREACHABLE and not _known_off(node, sight):
        lasts = now - (memory.failing_since or 0) >= UNREACHABLE_SECONDS
        return lasts and memory.failures >= LOOKS_BEFORE_REPAIR
    if memory.trouble not in {*REPAIRABLE, Trouble.DENIED}:
        return False
    return memory.failures >= (DEEP_LOOKS_BEFORE_REPAIR if memory.trouble in DEEP_TROUBLES else LOOKS_BEFORE_REPAIR)


def _limit(too_many_at_once: bool, too_many_an_hour: bool) -> str:
    if too_many_at_once:
        return "as many nodes as may be repaired at once are being repaired"
    return "as many machines as may be ended in an hour have been" if too_many_an_hour else ""


def _memories(node: Node) -> Mapping[str, Memory]:
    known = memories_of(node.probe_state)
    return {service: known.get(service, Memory()) for service in node.ports}


def _unreachable(node: Node) -> bool:
    return all(memory.trouble is Trouble.UNREACHABLE for memory in _memories(node).values())


def _since(node: Node) -> int:
    return min(memory.failing_since or 0 for memory in _memories(node).values())


def _known_off(node: Node, sight: Sight) -> bool:
    """Whether the cloud itself says that the machine does not run."""
    if node.provider is None or sight.machines is None:
        return False
    machine = _machine(node, sight)
    return machine is None or machine.status is not MachineStatus.ACTIVE


def _machine(node: Node, sight: Sight) -> Machine | None:
    return (sight.machines or {}).get(node.making.machine_id or "")
