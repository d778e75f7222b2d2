"""Ends exchanges whose client has left or whose time is up, without a timer or a task for each of them.

One sweep every few milliseconds looks at what runs. A request that lasts longer than a moment gets a task that waits
for its client to leave; the many short ones never need one. Time limits are compared in the same sweep.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass

from wopr.inference.gateway.asgi import Receive

SWEEP_SECONDS = 0.025
FOLLOW_AFTER_SECONDS = 0.025
IDLE_SECONDS_MAX = 120.0
FIRST_BYTE_SECONDS_MAX = 300.0
BODY_SECONDS_MAX = 60.0
TOTAL_SECONDS_MAX = 1800.0
GONE_IDLE_SECONDS_MAX = 5.0  # silence of a stream whose machine answers the watchdog no more

LEFT = "client left"
IDLE = "idle"
TOTAL = "total"
SHUTDOWN = "shutdown"
GONE = "gone"


@dataclass(slots=True, eq=False)
class Running:
    """One exchange; times are monotonic seconds. `why` says for what it was cancelled."""

    task: "asyncio.Task[object]"
    receive: Receive
    started: float
    progress: float
    idle_max: float = BODY_SECONDS_MAX
    reading: bool = True  # the exchange itself reads the body: nobody else may
    over: bool = False  # the end is on its way: whoever leaves now misses nothing
    why: str | None = None
    follower: "asyncio.Task[None] | None" = None
    target: object = None  # the machine that was asked
    waiting: bool = False  # for the first bytes of that machine
    given_up: bool = False  # cancelled to ask another one
    idle_why: str = IDLE

    def has_left(self) -> bool:
        """Whether the server knows already that the client is gone; `end` hears of it a little later.

        Asks the server without waiting: a call of `receive` that doesn't answer at once is given up.
        """
        if self.why is not None:
            return self.why == LEFT
        call = self.receive()
        if not isinstance(call, Coroutine):
            return False
        try:
            call.send(None)
        except StopIteration as answer:
            return bool(answer.value["type"] == "http.disconnect")
        call.close()
        return False

    def give_up(self) -> None:
        """Its machine answers no more: before the first byte another one is asked, later little patience is left."""
        if not self.waiting:
            self.idle_max, self.idle_why = min(self.idle_max, GONE_IDLE_SECONDS_MAX), GONE
        elif self.why is None and not self.given_up:
            self.given_up = True
            self.task.cancel()

    def end(self, why: str) -> None:
        """Cancel it for a reason, once."""
        if self.why is None and not (self.over and why == LEFT):
            self.why = why
            self.task.cancel()


class Watch:
    """Every exchange of this process."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.running: set[Running] = set()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # naming it spares each request a system call

    async def start(self) -> None:
        """Begin to sweep."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(), name="gateway watch")

    async def stop(self, drain_seconds: float, cut_seconds: float) -> None:
        """Let what runs end by itself for a while, then end it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._none.wait()
        for each in list(self.running):
            each.end(SHUTDOWN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(cut_seconds):
                await self._none.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, receive: Receive) -> Running:
        """The present task is an exchange from now on."""
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("an exchange runs in a task")
        now = self._now()
        running = Running(task, receive, now, now)
        if not self.running:
            self._some.set()
            self._none.clear()
        self.running.add(running)
        return running

    def remove(self, running: Running) -> None:
        """It has ended."""
        running.over = True
        if running.follower is not None:
            running.follower.cancel()
        self.running.discard(running)
        if not self.running:
            self._some.clear()
            self._none.set()

    def give_up(self, targets: Collection[object]) -> None:
        """The watchdog found that these machines answer no more."""
        for running in list(self.running):
            if running.target in targets:
                running.give_up()

    def follow(self, running: Running) -> None:
        """Notice from now on, at once, when the client leaves."""
        if running.follower is None and not running.reading:
            running.follower = asyncio.create_task(_until_left(running), name="gateway client")

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._now()
            for running in list(self.running):
                if now - running.started > TOTAL_SECONDS_MAX:
                    running.end(TOTAL)
                elif now - running.progress > running.idle_max:
                    running.end(running.idle_why)
                elif running.follower is None and now - running.started > FOLLOW_AFTER_SECONDS:
                    self.follow(running)


async def _until_left(running: Running) -> None:
    while (await running.receive())["type"] != "http.disconnect":
        pass
    running.end(LEFT)
