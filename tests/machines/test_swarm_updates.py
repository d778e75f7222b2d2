"""Bots of a Swarm move to other images where they are: what they know stays; bad images, lost machines do no harm."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.machines.fleet import until
from tests.machines.moving import BAD, WRITE, Place, opened
from tests.machines.registry import Registry
from tests.machines.swarm import Swarm
from tests.machines.swarmfleet import Publish, Services, login

from wopr.core.db import Database
from wopr.core.ids import BotId
from wopr.fleet import images, reconcile, updates
from wopr.fleet.runtimes.containers import copier_name, copy_name, labels_of
from wopr.fleet.runtimes.volumes import CopyFailed
from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal

READY = "SELECT state = 'running' FROM bot_observed"


@pytest.fixture
async def place(services: Services, private: Registry, db: Database, tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(services, db, tmp_path, **login(private)) as made:
        yield made


async def test_a_good_image_keeps_what_the_bot_knows_and_the_copy_goes_after_a_while(
    place: Place, services: Services, publish: Publish
) -> None:
    bot_id = await place.bot("Nora lives in Lisbon")
    home, image = services.home_of(bot_id), publish()
    await place.want("stable", image)
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'kept' FROM bot_updates", bot_id))
    assert place.seen(bot_id) == (image, "Nora lives in Lisbon")
    assert (services.home_of(bot_id), services.volumes(bot_id)) == (home, [home.name])
    assert place.has_copy(bot_id)
    assert await place.sql("SELECT restarts FROM bot_observed") == 0
    await place.sql("UPDATE bot_updates SET kept_until = now() - interval '1 second'")
    assert (await place.roll_out())["copies_dropped"] == 1
    await until(lambda: not place.has_copy(bot_id))
    assert await place.sql("SELECT count(*) FROM bot_updates") == 0
    await until_swept(place, services)


async def test_a_bad_image_ends_after_three_bots_which_are_all_as_they_were(
    place: Place, services: Services, publish: Publish
) -> None:
    known = {await place.bot(f"memory {number}"): f"memory {number}" for number in range(4)}
    assert len({services.home_of(bot_id).name for bot_id in known}) == len(services.swarm.nodes)
    bad = publish(BAD)
    await place.want("stable", bad)
    assert (await place.roll_out())["begun"] == images.FAILURES_MAX

    async def all_are_back() -> bool:
        back = "SELECT count(*) FROM bot_updates JOIN bot_observed USING (bot_id)"
        return bool(await place.sql(f"{back} WHERE stage = 'returned' AND state = 'running'") == images.FAILURES_MAX)

    await place.settle(all_are_back)
    assert {bot_id: place.seen(bot_id)[1] for bot_id in known} == known
    assert {place.seen(bot_id)[0] for bot_id in known} == {place.platform.settings.bot_image}
    assert "I can not start" in await place.sql("SELECT last_error FROM bot_image_failures")
    assert (await place.roll_out())["quarantined"] == 1
    journal = Journal(place.platform.settings.wopr_home)
    assert [incident.key for incident in open_incidents(journal)] == [f"bot-image:{bad}"]


async def test_an_image_that_its_machine_cant_get_leaves_the_bot_running_and_blames_nobody(
    place: Place, services: Services, private: Registry, publish: Publish
) -> None:
    bot_id = await place.bot("all of it")
    before, image = services.containers(bot_id), publish()
    place.settings = {**place.settings, "registry_password": "wrong"}
    await place.process()
    await place.want("stable", image)
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'returned' FROM bot_updates", bot_id))
    assert "refused the credentials of robot" in await place.sql("SELECT error FROM bot_updates")
    assert await place.sql("SELECT count(*) FROM bot_image_failures") == 0
    assert services.containers(bot_id) == before
    assert await place.is_so(READY, bot_id)
    # The pause is over, and the password was corrected.
    await place.sql("UPDATE bot_updates SET kept_until = now() - interval '1 second'")
    place.settings = {**place.settings, **login(private)}
    await place.process()
    await place.roll_out()
    await place.settle(lambda: place.is_so("SELECT stage = 'kept' FROM bot_updates", bot_id))
    assert place.seen(bot_id) == (image, "all of it")


async def test_a_bot_from_before_channels_keeps_its_image_when_bot_image_cant_be_had(
    place: Place, services: Services, publish: Publish
) -> None:
    bot_id = await place.bot("all of it")
    before = services.image_of(bot_id)
    away = f"{publish().partition('@')[0]}@sha256:{'0' * 64}"
    place.settings = {**place.settings, "bot_image": away}
    home = place.platform.settings.wopr_home
    place.platform = replace(place.platform, settings=services.settings(wopr_home=home, **place.settings))
    await place.process()
    await place.sql("UPDATE bots SET image = NULL, generation = generation + 1")

    async def restarted() -> bool:
        seen = await place.runtime.locate(BotId(bot_id))
        return seen is not None and seen.generation == 2 and await place.is_so(READY, bot_id)

    await place.settle(restarted)
    assert place.seen(bot_id) == (before, "all of it")
    running = services.containers(bot_id)
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'returned' FROM bot_updates", bot_id))
    assert f"has no image {away}" in await place.sql("SELECT error FROM bot_updates")
    assert services.containers(bot_id) == running


async def test_a_machine_lost_while_a_bot_tries_an_image_does_not_speak_against_it(
    place: Place, swarm: Swarm, services: Services, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.label(swarm.manager, "wopr.bots", "no")
    try:
        bot_id = await place.bot("all of it")
    finally:
        swarm.label(swarm.manager, "wopr.bots", "")
    home, image = services.home_of(bot_id), publish()
    await place.want("stable", image)
    assert (await place.roll_out())["begun"] == 1

    async def not_yet(*_: object) -> bool:
        return False

    async def tries() -> bool:
        return await place.is_so("SELECT stage = 'trying' FROM bot_updates", bot_id) and bool(
            services.containers(bot_id)
        )

    with monkeypatch.context() as patched:
        patched.setattr(updates, "accept", not_yet)
        await place.settle(tries)
    swarm.lose(home)
    try:
        await place.settle(lambda: place.is_so("SELECT state = 'failed' FROM bot_observed", bot_id))
        assert await place.sql("SELECT stage FROM bot_updates") == "trying"
        assert await place.sql("SELECT count(*) FROM bot_image_failures") == 0
    finally:
        home.start()
        swarm.ready()
    await place.settle(lambda: place.is_so("SELECT stage = 'kept' FROM bot_updates", bot_id))
    await place.settle(lambda: place.is_so(READY, bot_id))
    assert place.seen(bot_id) == (image, "all of it")
    assert place.has_copy(bot_id)


async def test_whoever_dies_after_each_step_leaves_the_next_one_to_the_next(
    place: Place, services: Services, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot_id = await place.bot("all of it", channel="canary")
    engine, image = services.home_of(bot_id).engine, publish()
    await place.want("canary", image)
    assert (await place.roll_out())["begun"] == 1
    monkeypatch.setattr(reconcile, "STEPS_MAX", 1)
    stages: list[str] = []
    while not stages or stages[-1] != "kept":
        stages.append(await place.sql("SELECT stage FROM bot_updates"))
        if stages[-1] == "copying" and not services.containers(bot_id):
            # Another one was killed while it copied: its copier is there, with another errand's work half done.
            labels = labels_of(services.manager.run_id, BotId(bot_id)).items()
            marks = [part for name, value in labels for part in ("--label", f"{name}={value}")]
            volume = copy_name(BotId(bot_id), 1)
            engine.docker("volume", "create", *marks, volume)
            half = ("run", "--name", copier_name(BotId(bot_id)), "--user", "0", "--volume", f"{volume}:/copy")
            engine.docker(*half, "--entrypoint", "/bin/sh", image, "-c", "echo half >/copy/half")
        await (await place.process()).settle()
    assert set(stages) == {"waiting", "copying", "trying", "kept"}
    assert place.seen(bot_id) == (image, "all of it")
    assert len(services.containers(bot_id)) == 1
    assert engine.docker("container", "inspect", copier_name(BotId(bot_id)), check=False).returncode != 0
    form = (
        "run",
        "--rm",
        "--volume",
        f"{copy_name(BotId(bot_id), 1)}:/copy",
        "--entrypoint",
        "/bin/ls",
        image,
        "/copy",
    )
    assert "half" not in engine.docker(*form).stdout.split()


async def test_whoever_dies_while_a_bot_returns_leaves_it_to_the_next(
    place: Place, services: Services, publish: Publish
) -> None:
    bot_id = await place.bot("all of it")
    await place.want("stable", publish(BAD))
    assert (await place.roll_out())["begun"] == 1
    await place.settle(lambda: place.is_so("SELECT stage = 'returned' FROM bot_updates", bot_id))
    await place.settle(lambda: place.is_so(READY, bot_id))
    # As it was before the end of the copying back was noticed, and it had hardly begun.
    services.inside(bot_id, WRITE, "half")
    await place.sql("UPDATE bot_updates SET stage = 'returning'")
    await place.process()
    await place.settle(lambda: place.is_so("SELECT stage = 'returned' FROM bot_updates", bot_id))
    await place.settle(lambda: place.is_so(READY, bot_id))
    assert place.seen(bot_id) == (place.platform.settings.bot_image, "all of it")
    assert await place.sql("SELECT failures FROM bot_image_failures") == 1


async def test_a_copy_that_is_gone_replaces_nothing(place: Place, services: Services) -> None:
    bot_id = await place.bot("all of it")
    runtime = services.make()
    await runtime.stop(BotId(bot_id))
    with pytest.raises(CopyFailed, match=r"the copy .* is gone"):
        await runtime.copies.restore(BotId(bot_id), 7, place.platform.settings.bot_image)
    await place.settle(lambda: place.is_so(READY, bot_id))
    assert place.seen(bot_id)[1] == "all of it"


async def until_swept(place: Place, services: Services) -> None:
    """Wait until no errand is left."""
    while services.swarm.services("wopr.errand"):
        await place.runtime.tend()
