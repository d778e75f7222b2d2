"""One deployer at a time: a lock on the host with an owner, a heartbeat and a number that only grows.

A deployer that dies leaves its lock behind; whoever comes next sees that it is dead (its process is gone, or nothing
was heard of it for `STALE_SECONDS` of the host's own clock) and takes over with a higher number. The dead one may not
be dead: every command that changes something carries its number and is refused by the host when a higher one is
there. And a command that a killed deployer left running is waited for, before anybody looks at what it changed.
"""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from wopr.delivery.errors import HostFailed, Locked, refuse_away
from wopr.delivery.hosts import RUN_SECONDS, Host, Output, write_command
from wopr.delivery.place import Place

HEARTBEAT_SECONDS = 3.0
STALE_SECONDS = 15.0
BUSY_SECONDS = 30
AGAIN_SECONDS = 0.5
FENCED_OFF = 75
CHANGED = 76
TRIES_MAX = 10
# The deliverer changes its own image, for some seconds after a release: nobody shall be turned away for that.
BRIEF, BRIEF_SECONDS_MAX = "deliverer", 60.0
SILENT_SECONDS = 1.0  # who waits for longer is told for whom, and for how long at most

# The lock's content and its age by the clock of the host that keeps it, so that no two clocks are compared.
LOOK_SCRIPT = '[ -e "$1" ] || exit 0; echo $(( $(date +%s) - $(stat -c %Y "$1") )); cat "$1"'
# Replace the lock only where it still says what was read, and only by the whole of what was sent.
SWAP_SCRIPT = (
    'umask 077; now=$(cat "$1" 2>/dev/null); [ "$now" = "$2" ] || exit 76;'
    ' cat > "$1.new" && [ "$(stat -c %s "$1.new")" = "$3" ] && sync "$1.new" && mv -f "$1.new" "$1"'
    ' || { rm -f "$1.new"; exit 77; }'
)
# Run a command only while the lock still has our number.
FENCE_SCRIPT = 'grep -qF "\\"token\\": $1," "$2" || exit 75; shift 2; exec "$@"'


Waiting = Callable[[str], None]


@dataclass(frozen=True)
class Held:
    """What the lock says. Nobody has it when `owner` is empty; `token` stays, so that it can grow."""

    token: int
    owner: str = ""
    operation: str = ""
    machine: str = ""
    pid: int = 0
    started: float = 0.0
    since: str = ""
    beat: int = 0

    def text(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Seen:
    """The lock as it was found: its exact text, and for how many seconds nobody wrote it."""

    text: str
    held: Held | None
    age_seconds: float


def look(held: Seen, machine: str, alive: bool | None) -> str:
    """Whether the lock can be taken: free, stale or held.

    `alive` says whether the owner's process runs; it is known (not None) only where the owner is on our own machine.
    """
    if held.held is None or not held.held.owner:
        return "free"
    known = alive is not None and held.held.machine == machine
    if known and alive is False:
        return "stale"
    return "stale" if held.age_seconds >= STALE_SECONDS else "held"


def fenced(place: Place, token: int, argv: Sequence[str]) -> tuple[str, ...]:
    """The command, refused by the host (exit code 75) when the lock has another number than `token`."""
    guarded = ("sh", "-c", FENCE_SCRIPT, "fenced", str(token), place.lock, *argv)
    return ("flock", "-s", "-w", str(BUSY_SECONDS), place.busy, *guarded)


@dataclass(frozen=True)
class Fence:
    """A host where everything runs under the lock's number: `run` and `write` raise Locked once it was taken over."""

    host: Host
    place: Place
    token: int
    taken: Mapping[str, object] = field(default_factory=dict)  # from whom, when the owner before did not let go

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        done = await self.host.run(fenced(self.place, self.token, argv), input=input, timeout=timeout)
        if done.code == FENCED_OFF:
            raise Locked("Another deployer took over; this one changes nothing any more.", remedy="wopr lock show")
        return done

    async def must(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        """As `run`, but HostFailed when it does not succeed; HostAway when the engine does not answer."""
        done = await self.run(argv, input=input, timeout=timeout)
        if not done.ok:
            refuse_away(done.complaint, self.host.describe())
            what = argv[3] if argv[:2] == ("sh", "-c") else " ".join(argv[:4])  # a script goes by its name
            raise HostFailed(f"`{what} …` failed on {self.host.describe()}: {done.complaint}")
        return done

    async def read(self, path: str) -> bytes | None:
        return await self.host.read(path)

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        done = await self.run(write_command(path, mode, len(data)), input=data)
        if not done.ok:
            raise HostFailed(f"{path} on {self.host.describe()} can't be written: {done.complaint}")

    def describe(self) -> str:
        return self.host.describe()

    async def close(self) -> None:
        await self.host.close()


@contextlib.asynccontextmanager
async def hold(
    host: Host,
    place: Place,
    operation: str,
    waiting: Waiting | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncIterator[Fence]:
    """Have the lock for the block, and beat meanwhile; Locked when somebody else has it.

    Whoever has it for a moment only is waited for; `waiting` is told so when the moment lasts.
    """
    made = await host.run(("mkdir", "-p", "-m", "700", place.dir))
    if not made.ok:
        raise HostFailed(
            f"{place.dir} can't be made on {host.describe()}: {made.complaint}", remedy="Give another --dir."
        )
    mine, before = await _acquire(host, place, operation, waiting)
    fence = Fence(host, place, mine.token, _taken_from(before))
    task = asyncio.current_task()
    assert task is not None
    lost = False

    def ended() -> None:
        nonlocal lost
        lost = True
        task.cancel()

    beating = asyncio.create_task(_beat(fence, mine, heartbeat_seconds, ended), name="lock-heartbeat")
    try:
        await _wait_for_the_dead(host, place)
        yield fence
    except asyncio.CancelledError:
        if not lost:
            raise
        task.uncancel()
        raise Locked("Another deployer took over; this one stopped.", remedy="wopr lock show") from None
    finally:
        await _ended(beating)
        with contextlib.suppress(HostFailed):
            await _let_go(host, place, mine.token)


async def show(host: Host, place: Place) -> Seen:
    """The lock as it is."""
    got = await host.run(("sh", "-c", LOOK_SCRIPT, "look", place.lock))
    age, _, text = got.text.partition("\n")
    if not text:
        return Seen("", None, 0.0)
    return Seen(text, parsed(text), float(age))


async def release(host: Host, place: Place) -> Seen:
    """Take the lock from whoever has it. Its number grows, so that the owner, should it live, changes nothing more."""
    for _ in range(TRIES_MAX):
        seen = await show(host, place)
        if seen.held is None or not seen.held.owner:
            return seen
        if await _swapped(host, place, seen.text, Held(seen.held.token + 1)):
            return seen
    raise Locked("The lock changes faster than it can be released.", remedy="wopr lock show")


def parsed(text: str) -> Held:
    """The lock from its text; HostFailed when the file was damaged."""
    try:
        content: dict[str, Any] = json.loads(text)
        return Held(**content)
    except (ValueError, TypeError) as error:
        raise HostFailed(
            f"lock.json can't be read: {error}", remedy="Look at it; remove it if nobody deploys."
        ) from error


async def _acquire(host: Host, place: Place, operation: str, waiting: Waiting | None) -> tuple[Held, Seen]:
    """The lock, and what it was before it was ours."""
    machine = _machine()
    for _ in range(TRIES_MAX):
        seen = await _seen_free(host, place, machine, waiting)
        mine = Held(
            token=(seen.held.token if seen.held else 0) + 1,
            owner=f"{os.getpid()}@{socket.gethostname()}",
            operation=operation,
            machine=machine,
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if await _swapped(host, place, seen.text, mine):
            return mine, seen
    raise Locked("The lock changes hands faster than it can be taken.", remedy="wopr lock show")


def _machine() -> str:
    """Where a process is known by its number. A name alone may be another machine's, or a container's on this one."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known.append(Path("/etc/machine-id").read_text(encoding="utf-8").strip())
    with contextlib.suppress(OSError):
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(known)


async def _seen_free(host: Host, place: Place, machine: str, waiting: Waiting | None) -> Seen:
    """The lock, when it can be taken. Whoever has it for a moment only is waited for; Locked for any other."""
    began = time.monotonic()
    while True:
        seen = await show(host, place)
        if look(seen, machine, _alive(seen.held) if seen.held else None) != "held":
            return seen
        waited = time.monotonic() - began
        if seen.held is None or seen.held.operation != BRIEF or waited >= BRIEF_SECONDS_MAX:
            raise _taken(seen)
        if waiting and waited >= SILENT_SECONDS:
            waiting(f"{_runs(seen.held)}; it is waited for, at most {BRIEF_SECONDS_MAX - waited:.0f} s")
            waiting = None
        await asyncio.sleep(AGAIN_SECONDS)


def _taken_from(before: Seen) -> dict[str, object]:
    """For the journal: who died with the lock, and for how long nobody had heard of it."""
    if before.held is None or not before.held.owner:
        return {}
    return {"taken_from": before.held.owner, "silent_seconds": before.age_seconds}


def _runs(held: Held) -> str:
    return f"{held.owner} runs `{held.operation}` since {held.since}"


def _taken(seen: Seen) -> Locked:
    held = seen.held
    assert held is not None
    left = max(0.0, STALE_SECONDS - seen.age_seconds)
    return Locked(
        f"{_runs(held)}; last heard of {seen.age_seconds:.0f} s ago.",
        remedy=f"Wait for it (if it is dead, the lock is free in {left:.0f} s), or: wopr lock release",
        retry_after_seconds=left,
    )


def _alive(held: Held) -> bool:
    try:
        return abs(psutil.Process(held.pid).create_time() - held.started) < 1.0
    except psutil.Error:
        return False


async def _beat(fence: Fence, mine: Held, period_seconds: float, lost: Callable[[], None]) -> None:
    """Write the lock again and again; when somebody else has it, say so and end."""
    last = mine
    while True:
        await asyncio.sleep(period_seconds)
        coming = replace(last, beat=last.beat + 1)
        try:
            if await _swapped(fence.host, fence.place, last.text(), coming):
                last = coming
                continue
            seen = await show(fence.host, fence.place)
        except HostFailed:
            continue  # the next beat tells; until then each command is fenced anyway
        if seen.held is None or seen.held.token != mine.token:
            lost()
            return
        last = seen.held


async def _ended(task: "asyncio.Task[None]") -> None:
    """Cancel it until it hears: what comes together with the end of what it awaits may be lost (Python before 3.12)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_SECONDS)
    if not task.cancelled():
        task.exception()  # looked at, or it would be told when it is thrown away


async def _let_go(host: Host, place: Place, token: int) -> None:
    """Give the lock back. A last beat that was given up may still land in between, and then it is tried again."""
    for _ in range(TRIES_MAX):
        seen = await show(host, place)
        if seen.held is None or seen.held.token != token or await _swapped(host, place, seen.text, Held(token)):
            return


async def _wait_for_the_dead(host: Host, place: Place) -> None:
    """Wait until no command of an earlier owner runs any more: it can't be called back, but it ends."""
    done = await host.run(("flock", "-x", "-w", str(BUSY_SECONDS), place.busy, "true"), timeout=BUSY_SECONDS + 10)
    if not done.ok:
        raise Locked(
            "A command of an earlier deployer still runs on the host.", remedy="Look for it with `ps`, then try again."
        )


async def _swapped(host: Host, place: Place, expected: str, held: Held) -> bool:
    text = held.text().encode()
    script = ("sh", "-c", SWAP_SCRIPT, "swap", place.lock, expected, str(len(text)))
    done = await host.run(("flock", "-x", "-w", "5", place.guard, *script), input=text)
    if done.ok:
        return True
    if done.code in (CHANGED, 1):  # 1: flock waited in vain, as somebody else swaps
        return False
    raise HostFailed(f"The lock in {place.dir} on {host.describe()} can't be written: {done.complaint}")
