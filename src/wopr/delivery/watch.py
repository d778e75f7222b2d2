"""The deliverer's judgement and its loop: which digest behind a watched tag is to be released, and when to look again.

Level-triggered: what a tag means now is compared with what was dealt with already, so a lost notification, a restart or
ten pushes in a row all end in the same: the newest one is released, once. Looking every few seconds is the rule;
notifications only make the next look come sooner. One release at a time follows from there being one loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wopr.core.errors import NotFound, WoprError
from wopr.delivery.errors import Locked, Refused
from wopr.delivery.registry_reference import Reference
from wopr.delivery.release import Judgement, Release

PERIOD_SECONDS = 5.0
# Pushes of one build come together: platform and bot become one release.
SETTLE_SECONDS = 0.3
# How long a registry may go on telling the old digest after it notified of the new one.
LAG_SECONDS_MAX = 30.0
LAG_STEP_SECONDS = 0.25
LAG_STEP_SECONDS_MAX = 2.0
RETRY_SECONDS = 2.0
RETRY_SECONDS_MAX = 300.0
LOCKED_SECONDS = 5.0
CATCH_UP_SECONDS_MAX = 60.0
PLATFORM, BOT = "platform", "bot"
# A release in one of these came to its end; another one was interrupted and is tried again.
SETTLED = (Judgement.GOOD, Judgement.BAD, Judgement.ROLLED_BACK)
# Refusals that trying again does not change; anything else may pass.
FINAL = ("quarantined", "destructive_migration")


@dataclass(frozen=True)
class Event:
    """Something that happened, for the terminal and for programs."""

    what: str
    detail: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a release ended: good, bad or unchanged."""

    verdict: str
    release: int
    reason: str = ""


class World(Protocol):
    """What the loop does: ask the registry, release, remember, tell. `sleep` ends early when `wake` was called."""

    async def digest(self, image: Reference) -> str: ...

    async def releases(self) -> Sequence[Release]: ...

    async def release(self, images: Mapping[str, str]) -> Ended:
        """Release these images (kind → by digest) beside those that serve and are not named."""

    async def remember(self, kind: str, digest: str, verdict: str) -> None: ...

    async def handled(self) -> Mapping[str, str]: ...

    async def alive(self, trouble: str) -> None:
        """Leave a sign of life; `trouble` is what kept the last look from asking for a tag."""

    async def catch_up(self) -> None:
        """After a look: what no release need wait for."""

    async def settled(self) -> None: ...

    def tell(self, event: Event) -> None: ...

    def monotonic(self) -> float: ...


def dealt_with(kind: str, image: str, releases: Sequence[Release], *, moved: bool) -> bool:
    """Whether an image (by digest) needs no other try: it serves, or it failed, or the operator went back from it.

    `moved`: the tag meant something else before. Then one that served once is wanted again: somebody put the tag back.
    Without that knowledge it is left alone, since the operator may have released something else by hand.
    """
    having = [one for one in releases if image == (one.platform if kind == PLATFORM else one.bot)]
    settled = [one for one in having if one.verdict in SETTLED]
    if not settled:
        return False
    latest = settled[-1]
    serving = [one for one in releases if one.verdict == Judgement.GOOD][-1:]
    return latest.verdict != Judgement.GOOD or not moved or latest in serving


@dataclass
class Deliverer:
    """Watches tags (kind → reference) and releases what is new behind them.

    `failure` is why the last look could not ask for a tag, or not release what it found; None when it could.
    """

    world: World
    watched: Mapping[str, Reference]
    period_seconds: float = PERIOD_SECONDS
    failure: WoprError | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _expected: dict[str, float] = field(default_factory=dict)  # kind → until when its tag may lag behind
    _lag_seconds: float = LAG_STEP_SECONDS
    _ask_again: float = 0.0  # not before this moment, as the registry wished
    _retry: tuple[tuple[str, ...], int] = ((), 0)  # what failed for a passing reason, and how often
    _retry_again: float = 0.0
    _complaints: dict[str, str] = field(default_factory=dict)

    def notify(self, name: str, tag: str) -> bool:
        """A registry or GitHub says that a tag was pushed; whether it is one of ours. Any server's name counts."""
        kinds = [kind for kind, image in self.watched.items() if image.name == name and tag in ("", image.tag)]
        for kind in kinds:
            self._expected[kind] = self.world.monotonic() + LAG_SECONDS_MAX
        if kinds:
            self._lag_seconds = LAG_STEP_SECONDS
            self._wake.set()
        return bool(kinds)

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look, wait, for ever."""
        while True:
            try:
                await self.look()
                await self.world.catch_up()
                self._complaints.pop("host", None)
            except WoprError as error:  # the host does not answer: what runs there goes on without us
                self._complain_once("host", "host does not answer", error)
            # However long the registry wishes to be left alone: the platform's services are looked at meanwhile.
            woken = await self._wait(min(self.next_look_seconds(), CATCH_UP_SECONDS_MAX), sleep)
            if woken and len(self.watched) > 1:
                await sleep(SETTLE_SECONDS)

    async def look(self) -> Ended | None:
        """One pass; how its release ended, when there was something to release."""
        self._wake.clear()
        waits = self._ask_again > self.world.monotonic()  # then not even a notification makes us ask sooner
        if not waits:
            self.failure = None
            asked = [(kind, await self._asked(kind, image)) for kind, image in self.watched.items()]
            found = {kind: digest for kind, digest in asked if digest}
        await self.world.alive(self.failure.message if self.failure else "")
        if waits:
            return None
        wanted = await self._wanted(found)
        if not wanted:
            if len(found) == len(self.watched):
                await self._tidy()
            return None
        for kind in wanted:
            self._expected.pop(kind, None)
        return await self._release(found, wanted)

    def next_look_seconds(self) -> float:
        """When to look again: later where the registry wished so, soon while a notified push is not to be seen yet."""
        now = self.world.monotonic()
        self._expected = {kind: until for kind, until in self._expected.items() if until > now}
        if self._ask_again > now:
            return self._ask_again - now
        if self._expected:
            step, self._lag_seconds = self._lag_seconds, min(self._lag_seconds * 2, LAG_STEP_SECONDS_MAX)
            return min(step, self.period_seconds)
        if self._retry_again > now:
            return min(self._retry_again - now, self.period_seconds)
        return self.period_seconds

    async def _wait(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> bool:
        """Wait so long, or until a notification; whether one came."""
        if self._wake.is_set():
            return True
        waking = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(sleep(seconds))
        try:
            await asyncio.wait((waking, sleeping), return_when=asyncio.FIRST_COMPLETED)
            return waking.done()
        finally:
            for task in (waking, sleeping):
                task.cancel()
            await asyncio.gather(waking, sleeping, return_exceptions=True)

    async def _asked(self, kind: str, image: Reference) -> str:
        """What the tag means now; empty when that can't be told. An outage is told once, and its end once."""
        try:
            digest = await self.world.digest(image)
        except WoprError as error:
            if error.retry_after_seconds is not None:
                self._ask_again = self.world.monotonic() + error.retry_after_seconds
            self._complain(kind, image, error)
            return ""
        if self._complaints.pop(kind, ""):
            self.world.tell(Event("registry answers again", str(image)))
        return digest

    def _complain(self, kind: str, image: Reference, error: WoprError) -> None:
        if isinstance(error, NotFound) and kind in self._expected:
            return  # notified a moment ago and not to be read yet
        self._complain_once(kind, "registry does not tell", error)

    def _complain_once(self, about: str, what: str, error: WoprError) -> None:
        """Tell a trouble when it begins and when it becomes another one, not each time."""
        self.failure = error
        sort = type(error).__name__
        if self._complaints.get(about) != sort:
            self._complaints[about] = sort
            self.world.tell(Event(what, error.message, {"fix": error.remedy}))

    async def _wanted(self, found: Mapping[str, str]) -> list[str]:
        handled = await self.world.handled()
        fresh = [kind for kind, digest in found.items() if handled.get(kind) != digest]
        if not fresh:
            return []
        releases = await self.world.releases()
        wanted = []
        for kind in fresh:
            moved = kind in handled
            if dealt_with(kind, self.watched[kind].pinned(found[kind]), releases, moved=moved):
                await self.world.remember(kind, found[kind], "known")
            else:
                wanted.append(kind)
        return wanted

    async def _release(self, found: Mapping[str, str], wanted: Sequence[str]) -> Ended | None:
        # Only these: behind another tag may be what failed or was rolled back, and what serves stays.
        images = {kind: self.watched[kind].pinned(found[kind]) for kind in wanted}
        key = tuple(images.values())
        if self._retry[0] == key and self._retry_again > self.world.monotonic():
            return None
        self.world.tell(Event("new", ", ".join(key)))
        try:
            ended = await self.world.release(images)
        except WoprError as error:
            await self._failed(error, found, wanted, key)
            return None
        self._retry, self._retry_again = ((), 0), 0.0
        for kind in wanted:
            await self.world.remember(kind, found[kind], ended.verdict)
        number = {"release": ended.release, "verdict": ended.verdict}
        self.world.tell(Event(f"release {ended.release} is {ended.verdict}", ended.reason, number))
        if ended.verdict == Judgement.GOOD:
            await self._tidy()
        return ended

    async def _failed(
        self, error: WoprError, found: Mapping[str, str], wanted: Sequence[str], key: tuple[str, ...]
    ) -> None:
        """Give up on what will not change by itself; try the rest again, later each time."""
        self.failure = error
        told = {"images": list(key), "fix": error.remedy}
        if isinstance(error, Refused) and error.code in FINAL:
            for kind in wanted:
                await self.world.remember(kind, found[kind], error.code)
            self.world.tell(Event("refused", error.message, told))
            self._retry, self._retry_again = ((), 0), 0.0
            return
        times = self._retry[1] + 1 if self._retry[0] == key else 1
        pause = min(RETRY_SECONDS * 2 ** (times - 1), RETRY_SECONDS_MAX)
        if isinstance(error, Locked):
            pause = LOCKED_SECONDS
        self._retry, self._retry_again = (key, times), self.world.monotonic() + pause
        if times == 1 or not isinstance(error, Locked):
            self.world.tell(Event(f"not released; again in {pause:.0f} s", error.message, told))

    async def _tidy(self) -> None:
        """With nothing left to release: what comes last, such as the deliverer's own image."""
        try:
            await self.world.settled()
            self._complaints.pop("own image", None)
        except WoprError as error:
            self._complain_once("own image", "own image not changed", error)
