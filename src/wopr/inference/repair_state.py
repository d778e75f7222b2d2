"""Where the ladder of repair stands for one node, as it is kept in its row, and in words for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from wopr.inference.nodes import Node


class Rung(StrEnum):
    """What can be done for a node, the mildest first."""

    RESTART = "restart"
    REBOOT = "reboot"
    POWER_CYCLE = "power_cycle"
    REPLACE = "replace"
    PERSON = "person"


# These end everything on the machine.
HARD = (Rung.REBOOT, Rung.POWER_CYCLE, Rung.REPLACE)


class Phase(StrEnum):
    """How far a rung is."""

    QUIET = "quiet"  # no new requests; those that run may end
    DUE = "due"  # meant, and not known to be done
    UNDER_WAY = "under_way"  # the cloud is at it
    WATCH = "watch"  # done: does it help?
    CALLED = "called"  # a person was told


WORDS: Mapping[tuple[Rung, Phase], str] = {
    (Rung.RESTART, Phase.DUE): "restarting {services}",
    (Rung.RESTART, Phase.WATCH): "{services} restarted, waiting for three good looks",
    (Rung.REBOOT, Phase.UNDER_WAY): "rebooting",
    (Rung.POWER_CYCLE, Phase.UNDER_WAY): "being powered off and on",
}
PLAIN: Mapping[Phase, str] = {
    Phase.QUIET: "waiting for running requests to end before the {rung}",
    Phase.DUE: "{rung} is due",
    Phase.UNDER_WAY: "{rung} is under way",
    Phase.WATCH: "{rung} done, waiting for three good looks",
    Phase.CALLED: "a person is needed: {why}",
}


@dataclass(frozen=True)
class Repair:
    """What a row's `repair` says. Times are seconds since 1970; without a rung nothing is being repaired."""

    rung: Rung | None = None
    phase: Phase | None = None
    since: int = 0  # of the phase
    services: tuple[str, ...] = ()
    why: str = ""
    out: bool = False  # the whole node gets no new requests
    error: str | None = None  # why the rung came to nothing
    untaken: bool = False  # the cloud did not take it
    again_at: int = 0  # before that the cloud, which did not take it, is not asked again
    deaf: bool = False  # the machine did not answer SSH
    action: str | None = None  # the cloud's id
    operation: str | None = None  # the journal's
    looks: int = 0  # what the watchdog had counted when the rung was done
    asked: Rung | None = None  # by a person, and not begun yet
    insisted: bool = False  # a person asked for this rung: it is taken whether or not the node serves
    told: bool = False  # people know that it is grave
    rests: int = 0  # how often a person was called
    # What outlives a repair.
    last: Rung | None = None
    last_at: int = 0
    hard: tuple[int, ...] = ()  # when the machine was ended by us
    replaced_at: int | None = None
    host_key: str | None = None  # of its SSH server, as it was first met
    # Of a node that people drain: requests that still run, and when none did any more.
    running: int | None = None
    quiet_at: int | None = None
    drained_at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is kept: what is not the default."""
        kept = asdict(self)
        kept |= {"services": list(self.services), "hard": list(self.hard)}
        return {one.name: kept[one.name] for one in fields(self) if getattr(self, one.name) != one.default}

    def history(self, **more: Any) -> "Repair":  # values of the fields
        """What outlives a repair, and nothing else."""
        kept = {name: getattr(self, name) for name in ("last", "last_at", "hard", "replaced_at", "host_key")}
        return Repair(**{**kept, **more})

    def is_old(self, now: int, hard_seconds: int, replaced_seconds: int) -> bool:
        """Whether there is history that nobody needs any more."""
        times = [(at, hard_seconds) for at in (*self.hard, *([self.last_at] if self.last else []))]
        times += [(self.replaced_at, replaced_seconds)] if self.replaced_at is not None else []
        return bool(times) and all(now - at >= seconds for at, seconds in times)


def repair_of(node: Node) -> Repair:
    """Where the ladder stands, from the node's row."""
    kept = node.repair
    known: dict[str, Any] = {one.name: kept[one.name] for one in fields(Repair) if one.name in kept}
    for name, kind in (("rung", Rung), ("asked", Rung), ("last", Rung), ("phase", Phase)):
        if known.get(name) is not None:
            known[name] = kind(known[name])
    for name in ("services", "hard"):
        known[name] = tuple(known.get(name, ()))
    return Repair(**known)


def told(node: Node) -> str:
    """What the ladder does now, in a few words; empty when nothing."""
    repair = repair_of(node)
    if repair.asked is not None:
        return f"{_name(repair.asked)} was asked for"
    if repair.rung is None or repair.phase is None:
        return ""
    words = WORDS.get((repair.rung, repair.phase), PLAIN[repair.phase])
    return words.format(services=", ".join(repair.services), rung=_name(repair.rung), why=repair.why)


def _name(rung: Rung) -> str:
    return rung.value.replace("_", " ")
