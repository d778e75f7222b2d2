"""Bots move to other images on a real engine: what they know stays, bad images don't, and any death is survived."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from tests.machines.engine import Engine
from tests.machines.fleet import Containers
from tests.machines.moving import BAD, MUTE, WAIT_SECONDS, Place, opened, working

from wopr.core.db import Database
from wopr.core.ids import BotId, new_id
from wopr.fleet import images, reconcile
from wopr.fleet.runtimes.containers import copier_name, copy_name, labels_of
from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal


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
    async with opened(bots, db, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def derived(engine: Engine, bot_image: str) -> Iterator[dict[str, str]]:
    """A good image, a bad one and one that hangs, by their digests."""
    recipes = {"good": "LABEL wopr.flavour=good", "bad": BAD, "mute": MUTE}
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


async def test_an_image_that_never_answers_gives_the_bot_back_its_old_image_and_data(
    place: Place, derived: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bot_id = await place.bot("all of it")
    for module in ("plan", "executor"):
        monkeypatch.setattr(f"wopr.fleet.{module}.READY_SECONDS_MAX", 4.0)
    await place.want("stable", derived["mute"])
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'returned' FROM bot_updates", bot_id))
    monkeypatch.undo()
    await place.settle(lambda: place.is_so("SELECT state = 'running' FROM bot_observed", bot_id))
    assert place.seen(bot_id) == (place.platform.settings.bot_image, "all of it")
    assert "did not answer" in await place.sql("SELECT last_error FROM bot_image_failures")


# Each change of a move, in its order, with how many move at that moment.
NOTING = """
CREATE TABLE moves (number bigserial, bot_id uuid, stage text, at_once bigint);
CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO moves (bot_id, stage, at_once)
    SELECT NEW.bot_id, NEW.stage, count(*) FROM bot_updates WHERE stage NOT IN ('kept', 'returned');
    RETURN NULL; END $$;
CREATE TRIGGER note_move AFTER INSERT OR UPDATE ON bot_updates FOR EACH ROW EXECUTE FUNCTION note_move()
"""


async def test_a_fleet_moves_by_itself_canary_bots_first_a_few_at_a_time_and_never_a_pinned_one(
    bots: Containers, db: Database, tmp_path: Path, derived: dict[str, str]
) -> None:
    async with opened(bots, db, tmp_path, bot_updates_at_once=2) as place:
        for statement in NOTING.split(";\nCREATE "):
            await place.sql(statement if statement.startswith("\n") else f"CREATE {statement}")
        stable = [await place.bot(f"memory {number}") for number in range(5)]
        canary, pinned = await place.bot("canary", channel="canary"), await place.bot("pinned")
        old = place.platform.settings.bot_image
        await place.sql("UPDATE bots SET channel = 'pinned', pinned_image = :old WHERE id = :bot", old=old, bot=pinned)
        untouched = bots.inspect(pinned)["Id"]
        await place.want("stable", derived["good"])
        async with working(place.platform), asyncio.timeout(3 * WAIT_SECONDS):
            while await place.sql("SELECT count(*) FROM bot_updates WHERE stage = 'kept'") < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        for number, bot_id in enumerate(stable):
            assert place.seen(bot_id) == (derived["good"], f"memory {number}")
            assert place.has_copy(bot_id)
        assert place.seen(canary) == (derived["good"], "canary")
        assert place.seen(pinned) == (old, "pinned")
        assert bots.inspect(pinned)["Id"] == untouched
        assert await place.sql("SELECT max(at_once) FROM moves") == 2
        through = await place.sql("SELECT number FROM moves WHERE bot_id = :bot AND stage = 'kept'", bot=canary)
        begun = "SELECT min(number) FROM moves WHERE bot_id <> :bot"
        assert await place.sql(begun, bot=canary) > through, "no stable bot moves before the canary bot is through"


async def test_a_bot_ends_what_it_is_saying_before_it_moves(
    place: Place, derived: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
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
            with monkeypatch.context() as patched:
                patched.setattr(reconcile, "DRAIN_SECONDS_MAX", 3.0)  # for so long a pass waits in vain
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
    place: Place, bots: Containers, derived: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bot_id = await place.bot("all of it", channel="canary")
    engine = bots.engine
    await place.want("canary", derived["good"])
    assert (await place.roll_out())["begun"] == 1
    monkeypatch.setattr(reconcile, "STEPS_MAX", 1)
    stages: list[str] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not stages or stages[-1] != "kept":
            stages.append(await place.sql("SELECT stage FROM bot_updates"))
            if stages[-1] == "copying" and bots.living(bot_id) == 0:
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
    assert bots.living(bot_id) == 1
    left = place.platform.clock.now() + timedelta(hours=place.platform.settings.bot_copy_hours)
    assert abs(await place.sql("SELECT kept_until FROM bot_updates") - left) < timedelta(minutes=5)
