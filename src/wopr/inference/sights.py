"""What was seen of a service, and what is remembered of it between two looks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

# So many good looks in a row, requests and all, before a repaired service is asked by customers again.
GOOD_LOOKS = 3


class Trouble(StrEnum):
    """What is wrong with a service, by what was seen."""

    UNREACHABLE = "unreachable"  # no way to the machine
    REFUSED = "refused"  # the machine answers, nothing listens, or the connection broke
    LOADING = "loading"  # it says itself that it is not ready
    SILENT = "silent"  # it takes the connection and does not even answer /health
    SLOW = "slow"  # requests run, none of them got on for a while: busy, as far as can be told
    HUNG = "hung"  # answers /health and nothing else
    SICK = "sick"  # answers with errors of its own
    NONSENSE = "nonsense"  # answers what can't be right
    DENIED = "denied"  # does not know our key: no restart cures that


# Answering /health does not show that these are over: only a request that is answered rightly does.
DEEP = (Trouble.SLOW, Trouble.HUNG, Trouble.SICK, Trouble.NONSENSE, Trouble.DENIED)
# Customers' requests that get on disprove these.
STILL = (Trouble.SLOW, Trouble.HUNG, Trouble.SICK)
# One such look may be chance: a full machine, a lost packet.
SOFT = (Trouble.UNREACHABLE, Trouble.SILENT)


@dataclass(frozen=True)
class Memory:
    """What is remembered of one service. Times are seconds since 1970; `models` and `voices`: what it last listed."""

    failures: int = 0
    failing_since: int | None = None
    error: str | None = None
    trouble: Trouble | None = None
    good: int = 0  # looks in a row, counted up to GOOD_LOOKS
    models: tuple[str, ...] = ()
    models_at: int = 0
    voices: tuple[str, ...] = ()
    size: int | None = None  # of its embeddings

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the row."""
        return {**self.__dict__, "models": list(self.models), "voices": list(self.voices)}


@dataclass(frozen=True)
class Check:
    """A request that was answered rightly. `size`: of the embedding, where it was one."""

    seconds: float
    size: int | None = None


@dataclass(frozen=True)
class Look:
    """One look at one service: what is wrong, if anything, or what it told of itself."""

    service: str
    trouble: Trouble | None = None
    error: str | None = None
    models: tuple[str, ...] | None = None
    voices: tuple[str, ...] | None = None
    check: Check | None = None
    advancing: bool = False  # too busy to answer us, but work gets done
    silent_seconds: float = 0.0  # of a slow one: since when nothing got on


def told(memory: Memory, models: tuple[str, ...] | None, voices: tuple[str, ...] | None) -> Memory:
    """The memory with what a service listed, where it did: other models have embeddings of another size."""
    size = memory.size if models in (None, memory.models) else None
    return replace(
        memory, models=memory.models if models is None else models, voices=voices or memory.voices, size=size
    )


def memories_of(state: Mapping[str, Any]) -> dict[str, Memory]:
    """The memories in a row's `probe_state`."""
    return {
        service: Memory(
            failures=int(kept.get("failures", 0)),
            failing_since=kept.get("failing_since"),
            error=kept.get("error"),
            trouble=Trouble(kept["trouble"]) if kept.get("trouble") in tuple(Trouble) else None,
            good=int(kept.get("good", 0)),
            models=tuple(kept.get("models", ())),
            models_at=int(kept.get("models_at", 0)),
            voices=tuple(kept.get("voices", ())),
            size=kept.get("size"),
        )
        for service, kept in state.items()
    }
