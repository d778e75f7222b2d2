"""Bots move to other images on a real engine: what they know stays, bad images don't, and any death is survived."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from aiohttp import web
from sqlalchemy import CursorResult, text
from tests.machines.engine import Engine
from tests.machines.fleet import Containers

from wopr.accounts.models import Tenant
from wopr.billing.grants import grant_credit
from wopr.core.clock import SystemClock
from wopr.core.db import Database
from wopr.core.ids import BotId, TenantId, new_id
from wopr.core.money import from_usd
from wopr.core.notify import Notifier
from wopr.core.platform import Platform
from wopr.fleet import images, reconcile
from wopr.fleet.build import bot_http
from wopr.fleet.models import Bot, BotObserved
from wopr.fleet.reconcile import Reconciler
from wopr.fleet.rollout import Rollout
from wopr.fleet.runtimes.containers import LABEL_IMAGE, copier_name, copy_name, labels_of
from wopr.fleet.runtimes.docker import DockerRuntime
from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal

WAIT_SECONDS = 120.0
# It ruins what the bot knows before it ends.
BAD = 'ENTRYPOINT ["/bin/sh", "-c", "rm -rf /data/* && echo ruined >/data/memory; echo I can not start >&2; exit 3"]'
WRITE = "import sys; open('/data/memory', 'w').write(sys.argv[1])"
READ = "print(open('/data/memory').read())"


@dataclass
class Place:
    """An installation with a database, customers' bots in it, and processes that look after them."""

    bots: Containers
    platform: Platform
    stack: AsyncExitStack
    processes: list[Reconciler] = field(default_factory=list)

    async def process(self) -> Reconciler:
        """A new process of the API; the one before is gone."""
        for before in self.processes:
            await before.close()
        runtime = self.bots.make(api_port=self.platform.settings.api_port)
        http = await self.stack.enter_async_context(bot_http())
        self.processes = [Reconciler(self.platform, runtime, http)]
        return self.processes[0]

    def runtime(self) -> DockerRuntime:
        """How it reaches the engine."""
        return self.bots.made[-1]

    async def roll_out(self) -> dict[str, int]:
        """One pass of the loop that lets bots begin."""
        return dict(await Rollout(self.platform, self.runtime().copies).run_pass())

    async def bot(self, memory: str, channel: str = "stable") -> UUID:
        """A running bot that knows something."""
        tenant_id, bot_id = TenantId(new_id()), new_id()
        async with self.platform.db.begin() as session:
            session.add(Tenant(id=tenant_id, name="Someone"))
            await session.flush()
            await grant_credit(session, tenant_id, from_usd("5"), "test")
            about = {"model": "handbook", "voice": "rms", "size": "small", "channel": channel}
            session.add(Bot(id=bot_id, tenant_id=tenant_id, name="Ada", **about))
            await session.flush()
            session.add(BotObserved(bot_id=bot_id))
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
        instance = await self.runtime().locate(BotId(bot_id))
        assert instance is not None
        headers = {"authorization": f"Bearer {instance.token}"}
        return await self.platform.http.request(method, instance.url + path, headers=headers, **more)

    def seen(self, bot_id: UUID) -> tuple[str, str]:
        """The image that a bot runs on, and what it knows."""
        image = self.bots.inspect(bot_id)["Config"]["Labels"][LABEL_IMAGE]
        return image, self.bots.inside(bot_id, READ).stdout.strip()

    def has_copy(self, bot_id: UUID) -> bool:
        """Whether there is a copy of what it knew in its first generation."""
        name = copy_name(BotId(bot_id), 1)
        return self.bots.engine.docker("volume", "inspect", name, check=False).returncode == 0


@asynccontextmanager
async def gateway(chat: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """An API for bots that answers as it is told, on every address: bots reach it at their network's; its port."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.fixture
async def place(bots: Containers, db: Database, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        settings = bots.settings(wopr_home=tmp_path, wopr_installation=bots.engine.run_id)
        http = await stack.enter_async_context(httpx.AsyncClient())
        made = Place(bots, Platform(settings, db, SystemClock(), http, Notifier(db)), stack)
        await made.process()
        yield made
        for process in made.processes:
            await process.close()


@pytest.fixture(scope="module")
def derived(engine: Engine, bot_image: str) -> Iterator[dict[str, str]]:
    """A good image and a bad one, by their digests."""
    recipes = {"good": "LABEL wopr.flavour=good", "bad": BAD}
    tags = {name: f"wopr-test/bot-{name}:{engine.run_id}" for name in recipes}
    found = {}
    for name, line in recipes.items():
        engine.docker("build", "--tag", tags[name], "-", input=f"FROM {bot_image}\n{line}\n")
        found[name] = engine.docker("image", "inspect", "--format", "{{.Id}}", tags[name]).stdout.strip()
    yield found
    engine.docker("rmi", *tags.values(), check=False)


async def test_a_good_image_keeps_what_the_bot_knows_and_the_copy_goes_after_a_while(
    place: Place, derived: dict[str, str]
) -> None:
    bot_id = await place.bot("Nora lives in Lisbon")
    before = place.seen(bot_id)[0]
    await place.want("stable", derived["good"])
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'kept' FROM bot_updates", bot_id))
    assert place.seen(bot_id) == (derived["good"], "Nora lives in Lisbon")
    assert before == place.platform.settings.bot_image
    assert place.has_copy(bot_id)
    assert await place.sql("SELECT restarts FROM bot_observed") == 0
    await place.sql("UPDATE bot_updates SET kept_until = now() - interval '1 second'")
    assert (await place.roll_out())["copies_dropped"] == 1
    assert not place.has_copy(bot_id)
    assert await place.sql("SELECT count(*) FROM bot_updates") == 0


async def test_a_bad_image_ends_after_three_bots_which_are_all_as_they_were(
    place: Place, derived: dict[str, str]
) -> None:
    known = {await place.bot(f"memory {number}"): f"memory {number}" for number in range(4)}
    await place.want("stable", derived["bad"])
    assert (await place.roll_out())["begun"] == images.FAILURES_MAX

    async def all_are_back() -> bool:
        back = "SELECT count(*) FROM bot_updates JOIN bot_observed USING (bot_id)"
        return bool(await place.sql(f"{back} WHERE stage = 'returned' AND state = 'running'") == images.FAILURES_MAX)

    await place.settle(all_are_back)
    assert {bot_id: place.seen(bot_id)[1] for bot_id in known} == known
    assert {place.seen(bot_id)[0] for bot_id in known} == {place.platform.settings.bot_image}
    assert "I can not start" in await place.sql("SELECT last_error FROM bot_image_failures")
    await place.sql("UPDATE bot_updates SET kept_until = now() - interval '1 second'")
    counts = await place.roll_out()
    assert (counts["begun"], counts["quarantined"], counts["copies_dropped"]) == (0, 1, images.FAILURES_MAX)
    journal = Journal(place.platform.settings.wopr_home)
    assert [incident.key for incident in open_incidents(journal)] == [f"bot-image:{derived['bad']}"]
    assert await place.want("stable", derived["good"])
    assert (await place.roll_out())["begun"] == images.FAILURES_MAX
    assert open_incidents(journal) == []


async def test_a_bot_ends_what_it_is_saying_before_it_moves(place: Place, derived: dict[str, str]) -> None:
    go = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await go.wait()
        for choice in ({"delta": {"content": "Lisbon"}}, {"delta": {}, "finish_reason": "stop"}):
            await response.write(f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async with gateway(chat) as port:
        home = place.platform.settings.wopr_home
        place.platform = replace(place.platform, settings=place.bots.settings(wopr_home=home, api_port=port))
        await place.process()
        bot_id = await place.bot("all of it")
        turn = {"turn_id": str(new_id()), "conversation_id": "c1", "text": "Where does Nora live?"}
        assert (await place.call(bot_id, "POST", "/turns", json=turn)).status_code == 202
        await place.want("stable", derived["good"])
        assert (await place.roll_out())["begun"] == 1
        for _ in range(3):
            await place.processes[0].settle()
            assert await place.sql("SELECT stage FROM bot_updates") == "waiting"
            assert await place.sql("SELECT state FROM bot_observed") == "running"
        go.set()
        await place.settle(lambda: place.is_so("SELECT stage = 'kept' FROM bot_updates", bot_id))
        said = (await place.call(bot_id, "GET", f"/turns/{turn['turn_id']}")).json()
        assert (said["state"], said["text"]) == ("completed", "Lisbon")
        assert place.seen(bot_id) == (derived["good"], "all of it")


async def test_whoever_dies_while_a_bot_returns_leaves_it_to_the_next(place: Place, derived: dict[str, str]) -> None:
    bot_id = await place.bot("all of it")
    await place.want("stable", derived["bad"])
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage IN ('returning', 'returned') FROM bot_updates", bot_id))
    if await place.sql("SELECT stage FROM bot_updates") == "returned":
        # As it was in the moment before the end of the copier was noticed.
        await place.sql("UPDATE bot_updates SET stage = 'returning'")
    await place.process()
    await place.settle(lambda: place.is_so("SELECT stage = 'returned' FROM bot_updates", bot_id))
    await place.settle(lambda: place.is_so("SELECT state = 'running' FROM bot_observed", bot_id))
    assert place.seen(bot_id) == (place.platform.settings.bot_image, "all of it")
    assert await place.sql("SELECT failures FROM bot_image_failures") == 1


async def test_whoever_dies_after_each_step_leaves_the_next_one_to_the_next(
    place: Place, derived: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bot_id = await place.bot("all of it", channel="canary")
    engine = place.bots.engine
    await place.want("canary", derived["good"])
    assert (await place.roll_out())["begun"] == 1
    monkeypatch.setattr(reconcile, "STEPS_MAX", 1)
    stages: list[str] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not stages or stages[-1] != "kept":
            stages.append(await place.sql("SELECT stage FROM bot_updates"))
            if stages[-1] == "copying" and place.bots.living(bot_id) == 0:
                # Another one was killed while it copied: its copier is there, with another errand's work half done.
                engine.docker("rm", "--force", copier_name(BotId(bot_id)), check=False)
                volume = copy_name(BotId(bot_id), 1)
                labels = labels_of(engine.run_id, BotId(bot_id)).items()
                marks = [part for name, value in labels for part in ("--label", f"{name}={value}")]
                engine.docker("volume", "create", *marks, volume)
                half = ("run", "--name", copier_name(BotId(bot_id)), "--user", "0", "--volume", f"{volume}:/copy")
                engine.docker(*half, "--entrypoint", "/bin/sh", derived["good"], "-c", "echo half >/copy/half")
            await (await place.process()).settle()
    assert set(stages) == {"waiting", "copying", "trying", "kept"}
    assert place.seen(bot_id) == (derived["good"], "all of it")
    assert place.bots.living(bot_id) == 1
    left = place.platform.clock.now() + timedelta(hours=place.platform.settings.bot_copy_hours)
    assert abs(await place.sql("SELECT kept_until FROM bot_updates") - left) < timedelta(minutes=5)
