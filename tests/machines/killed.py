"""`wopr`, killed with -9 at one point of its journal: `python killed.py MOMENT NTH ENTRY WORDS…`.

The kill can't come too early or too late, however fast the machine is: the process sends the signal to itself, and
nothing in it hears that. Whoever started it reads the points from the journal of a run that nobody disturbed.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import asyncssh

from wopr.__main__ import main
from wopr.delivery import hosts
from wopr.ops.entry import Entry
from wopr.ops.journal import Held

# What an entry is about is done and it is not yet written; it is written and nothing came after it; the next command
# that changes something has just begun, and goes on without whoever began it.
BEFORE, AFTER, WITHIN = MOMENTS = ("before", "after", "within")
FENCED = "fenced"


def label(name: str, phase: str, data: Mapping[str, Any]) -> str:
    """How a point of the journal is called: `deploy: committed`, `deploy: end`."""
    told = data.get("step") if phase == "step" and name != "incident" else ""  # of an incident that is free text
    return f"{name}: {told or phase}"


def arm(moment: str, nth: int, entry: str) -> None:
    """From now on the n-th entry of this name in the journal is the end."""
    append, started = Held.append, hosts._started
    seen = 0
    waits = False

    def written(self: Held, operation: str, name: str, phase: str, data: Mapping[str, Any]) -> Entry:
        nonlocal seen, waits
        seen += (here := label(name, phase, data) == entry)
        here = here and seen == nth
        if here and moment == BEFORE:
            die()
        wrote = append(self, operation, name, phase, data)
        if here and moment == AFTER:
            die()
        waits = waits or here
        return wrote

    async def began(argv: Sequence[str]) -> Any:
        process = await started(argv)
        if waits and FENCED in argv:
            die()
        return process

    opened = asyncssh.SSHClientConnection.create_process

    async def sent(self: asyncssh.SSHClientConnection, *command: object, **more: object) -> Any:
        process = await opened(self, *command, **more)
        if waits and FENCED in str(command[0]):
            die()
        return process

    changed: tuple[tuple[object, str, object], ...] = (
        (Held, "append", written),
        (hosts, "_started", began),
        (asyncssh.SSHClientConnection, "create_process", sent),
    )
    for owner, name, does in changed:
        setattr(owner, name, does)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody comes here")


if __name__ == "__main__":
    moment, nth, entry = sys.argv[1:4]
    sys.argv[1:4] = []
    arm(moment, int(nth), entry)
    main()
