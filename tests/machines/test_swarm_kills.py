"""Whoever works with a Swarm may be killed after each change that it makes there: the next process finishes it."""

import asyncio

from tests.machines.dying import CHANGES, die, dying
from tests.machines.fleet import answering, spec
from tests.machines.registry import Registry
from tests.machines.swarmfleet import Publish, Services, login

from wopr.core.ids import BotId
from wopr.fleet.runtimes.containers import copy_name
from wopr.fleet.runtimes.swarm import SwarmRuntime

CALLS_MAX = 30
WAIT_SECONDS = 90.0
WRITE = "import sys; open('/data/memory', 'w').write(sys.argv[1])"


def doomed(services: Services, private: Registry, calls: int) -> SwarmRuntime:
    """A process that dies after so many changes."""
    return dying(services.make(**login(private)), services.manager.socket, calls, CHANGES)


def left_behind(services: Services) -> tuple[list[str], str]:
    """Errands and secrets that are still there."""
    return services.swarm.services("wopr.errand"), services.manager.docker("secret", "ls", "--quiet").stdout


async def test_a_move_to_another_image_that_was_killed_anywhere_is_finished_by_the_next_process(
    services: Services, private: Registry, publish: Publish
) -> None:
    first, image = services.make(), publish()
    for calls in range(1, CALLS_MAX):
        old = await first.start(spec())
        wanted = spec(old.bot_id, 2, image=image)
        dead = doomed(services, private, calls)
        cut = await die(dead, dead.start(wanted))
        heir = services.make(**login(private))
        seen = await heir.locate(old.bot_id)
        assert seen is None or seen.generation in (1, 2)
        new = await heir.start(wanted)
        assert (new.generation, new.image) == (2, image)
        assert (await answering(new)).status_code == 200
        assert len(services.containers(old.bot_id)) == 1
        assert left_behind(services) == ([], "")
        await heir.remove(old.bot_id)
        if not cut:
            assert calls > len(["secret", "errand", "both gone", "service"])
            return
    raise AssertionError("it never came to the end")


async def test_a_copy_that_was_killed_anywhere_is_whole_in_the_end(services: Services, private: Registry) -> None:
    first, image = services.make(), services.settings().bot_image
    bot = await first.start(spec())
    home = services.home_of(bot.bot_id)
    for calls in range(1, CALLS_MAX):
        for memory, step in ((f"memory {calls}", "make"), ("ruined", "restore")):
            await answering(await first.start(spec(bot.bot_id)))
            assert services.inside(bot.bot_id, WRITE, memory).returncode == 0
            await first.stop(bot.bot_id)
            dead = doomed(services, private, calls)
            cut = await die(dead, getattr(dead.copies, step)(bot.bot_id, 1, image))
            await getattr(services.make().copies, step)(bot.bot_id, 1, image)
            for volume in (copy_name(bot.bot_id, 1), f"wopr-bot-{bot.bot_id}"):
                show = ("run", "--rm", "--volume", f"{volume}:/shown", "--entrypoint", "cat", image, "/shown/memory")
                assert home.engine.docker(*show).stdout == f"memory {calls}"
        assert left_behind(services) == ([], "")
        if not cut:
            return
    raise AssertionError("it never came to the end")


async def test_a_removal_that_was_killed_anywhere_leaves_nothing(services: Services, private: Registry) -> None:
    first, image = services.make(), services.settings().bot_image
    for calls in range(1, CALLS_MAX):
        bot_id = (await first.start(spec())).bot_id
        await first.stop(bot_id)
        await first.copies.make(bot_id, 1, image)
        await first.start(spec(bot_id))
        dead = doomed(services, private, calls)
        cut = await die(dead, dead.remove(bot_id))
        heir = services.make(**login(private))
        await heir.remove(bot_id)
        async with asyncio.timeout(WAIT_SECONDS):
            while not await nothing_left(services, heir, bot_id):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.2)
        if not cut:
            return
    raise AssertionError("it never came to the end")


async def nothing_left(services: Services, runtime: SwarmRuntime, bot_id: BotId) -> bool:
    await runtime.tend()
    return (services.volumes(bot_id), services.containers(bot_id), left_behind(services)) == ([], [], ([], ""))
