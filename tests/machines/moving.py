"""Where bots move to other images: an installation with a database, customers' bots, and who looks after them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import httpx
from sqlalchemy import CursorResult, text

from wopr.accounts.models import Tenant
from wopr.billing.grants import grant_credit
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import BotId, TenantId, new_id
from wopr.core.loops import LoopRunner
from wopr.core.money import from_usd
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.core.settings import Settings
from wopr.fleet import images
from wopr.fleet.build import SharedFleet, bot_http
from wopr.fleet.loops import loops
from wopr.fleet.models import Bot, BotObserved
from wopr.fleet.reconcile import Reconciler
from wopr.fleet.rollout import Rollout
from wopr.fleet.runtimes.containers import copy_name
from wopr.fleet.runtimes.protocol import Runtime

WAIT_SECONDS = 120.0
# It ruins what the bot knows before it ends.
BAD = 'ENTRYPOINT ["/bin/sh", "-c", "rm -rf /data/* && echo ruined >/data/memory; echo I can not start >&2; exit 3"]'
# It answers nobody, but does not end either.
MUTE = 'ENTRYPOINT ["/bin/sh", "-c", "echo ruined >/data/memory; echo I say nothing >&2; exec sleep 3600"]'
WRITE = "import sys; open('/data/memory', 'w').write(sys.argv[1])"
READ = "print(open('/data/memory').read())"


class Home(Protocol):
    """Where an installation has its bots."""

    def settings(self, **changes: Any) -> Settings:
        """The settings of the installation, with these other values."""
        ...

    def make(self, **changes: Any) -> Runtime:
        """A runtime, as a new process would make it."""
        ...

    def inside(self, bot_id: UUID, program: str, *arguments: str) -> Any:
        """Run Python in a bot's container, as the bot."""
        ...

    def image_of(self, bot_id: UUID) -> str:
        """The image that a bot runs on, as it was named."""
        ...

    def has_volume(self, bot_id: UUID, name: str) -> bool:
        """Whether there is such a volume where the bot is."""
        ...


@dataclass
class Place:
    """An installation with a database, customers' bots in it, and processes that look after them."""

    bots: Home
    platform: Platform
    stack: AsyncExitStack
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: list[Reconciler] = field(default_factory=list)
    runtime: Runtime = field(init=False)

    async def process(self) -> Reconciler:
        """A new process of the API; the one before is gone."""
        for before in self.processes:
            await before.close()
        self.runtime = self.bots.make(api_port=self.platform.settings.api_port, **self.settings)
        http = await self.stack.enter_async_context(bot_http())
        self.processes = [Reconciler(self.platform, self.runtime, http)]
        return self.processes[0]

    async def roll_out(self) -> dict[str, int]:
        """One pass of the loop that lets bots begin."""
        return dict(await Rollout(self.platform, self.runtime.copies).run_pass())

    async def add(self, channel: str = "stable") -> UUID:
        """A bot that is to run, and its customer."""
        tenant_id, bot_id = TenantId(new_id()), new_id()
        async with self.platform.db.begin() as session:
            session.add(Tenant(id=tenant_id, name="Someone"))
            await session.flush()
            await grant_credit(session, tenant_id, from_usd("5"), "test")
            about = {"model": "handbook", "voice": "rms", "size": "small", "channel": channel}
            session.add(Bot(id=bot_id, tenant_id=tenant_id, name="Ada", **about))
            await session.flush()
            session.add(BotObserved(bot_id=bot_id))
        return bot_id

    async def bot(self, memory: str, channel: str = "stable") -> UUID:
        """A running bot that knows something."""
        bot_id = await self.add(channel)
        await self.settle(lambda: self.is_so("SELECT state = 'running' FROM bot_observed", bot_id))
        assert self.bots.inside(bot_id, WRITE, memory).returncode == 0
        return bot_id

    async def settle(self, done: Callable[[], Awaitable[bool]]) -> None:
        """Let the process work until it is so."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                await self.processes[0].settle()
                if await done():
                    return
                await asyncio.sleep(0.2)

    async def is_so(self, query: str, bot_id: UUID) -> bool:
        """Whether a row of this bot says so."""
        return bool(await self.sql(f"{query} WHERE bot_id = :bot", bot=bot_id))

    async def sql(self, statement: str, **values: object) -> Any:
        async with self.platform.db.begin() as session:
            result = await session.execute(text(statement), values)
            return result.scalar() if isinstance(result, CursorResult) and result.returns_rows else None

    async def want(self, channel: str, image: str) -> bool:
        """What `wopr bots image set` does."""
        async with self.platform.db.begin() as session:
            now = self.platform.clock.now()
            return await images.set_image(session, self.platform.settings, (channel, image), "a test", now)

    async def call(self, bot_id: UUID, method: str, path: str, **more: Any) -> httpx.Response:
        """A request to the bot itself."""
        instance = await self.runtime.locate(BotId(bot_id))
        assert instance is not None
        headers = {"authorization": f"Bearer {instance.token}"}
        return await self.platform.http.request(method, instance.url + path, headers=headers, **more)

    def seen(self, bot_id: UUID) -> tuple[str, str]:
        """The image that a bot runs on, and what it knows."""
        return self.bots.image_of(bot_id), self.bots.inside(bot_id, READ).stdout.strip()

    def has_copy(self, bot_id: UUID) -> bool:
        """Whether there is a copy of what it knew in its first generation."""
        return self.bots.has_volume(bot_id, copy_name(BotId(bot_id), 1))


@asynccontextmanager
async def opened(bots: Home, db: Database, folder: Path, **settings: Any) -> AsyncIterator[Place]:
    """A place with its first process."""
    async with AsyncExitStack() as stack:
        known = bots.settings(wopr_home=folder, **settings)
        http = await stack.enter_async_context(httpx.AsyncClient())
        made = Place(bots, Platform(known, db, SystemClock(), http, Notifier(db)), stack, settings)
        await made.process()
        yield made
        for process in made.processes:
            await process.close()


@asynccontextmanager
async def working(platform: Platform) -> AsyncIterator[None]:
    """What a process of the API does by itself for the fleet."""
    fleet = SharedFleet(platform)
    runner = LoopRunner(platform.db, platform.notifier, loops(platform, fleet))
    await platform.notifier.start()
    await runner.start()
    try:
        yield
    finally:
        await runner.stop()
        await fleet.close()
        await platform.notifier.stop()
