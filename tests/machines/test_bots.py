"""Bots in containers survive what happens around them: killed starters, a restarted engine, a registry that refuses."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.machines import second
from tests.machines.dying import die, dying
from tests.machines.engine import INSTALLATION, LABEL, Engine
from tests.machines.fleet import WAIT_SECONDS, Containers, answering, spec, until
from tests.machines.registry import Registry, serving
from tests.machines.second import Daemon
from tests.machines.swarmfleet import login

from wopr.core.ids import new_id
from wopr.fleet.runtimes.addresses import bot_network
from wopr.fleet.runtimes.containers import UNREADABLE_GENERATION
from wopr.fleet.runtimes.engine import Engine as EngineClient
from wopr.fleet.runtimes.engine import EngineAway
from wopr.fleet.runtimes.node_agent import SPARE_IMAGES
from wopr.fleet.runtimes.protocol import Ended, RuntimeFailed

CALLS_MAX = 30


async def test_a_start_that_was_killed_anywhere_is_finished_by_the_next_process(bots: Containers) -> None:
    first = bots.make()
    for calls in range(1, CALLS_MAX):
        wanted = spec()
        await first.start(wanted)
        dead = dying(bots.make(), bots.engine.socket, calls)
        cut = await die(dead, dead.start(spec(wanted.bot_id, 2)))
        heir = bots.make()
        seen = (await heir.observe()).get(wanted.bot_id)
        assert seen is None or seen.generation in (1, 2)
        instance = await heir.start(spec(wanted.bot_id, 2))
        assert instance.generation == 2
        assert bots.living(wanted.bot_id) == 1
        assert bots.exists(wanted.bot_id) == {"container": True, "former": True, "volume": True}
        await heir.remove(wanted.bot_id)
        assert bots.exists(wanted.bot_id) == {"container": False, "former": False, "volume": False}
        if not cut:
            assert calls > 8
            return
    raise AssertionError("it never came to the end")


async def test_a_container_leaves_no_volume_that_only_it_had(engine: Engine, platform_image: str) -> None:
    """The firewall is set up by a container of the platform's image, which has a volume of its own."""
    client = EngineClient(engine.socket)
    try:
        container = await client.create("", {"Image": platform_image, "Labels": {LABEL: engine.run_id}})
        described = await client.inspect(container)
        assert described is not None
        (mount,) = described["Mounts"]
        await client.remove(container)
        assert engine.docker("volume", "inspect", mount["Name"], check=False).returncode != 0
    finally:
        await client.close()


async def test_a_removal_that_was_killed_anywhere_is_finished_by_the_next_process(bots: Containers) -> None:
    first = bots.make()
    for calls in range(1, CALLS_MAX):
        wanted = spec()
        await first.start(wanted)
        await first.start(spec(wanted.bot_id, 2))
        dead = dying(bots.make(), bots.engine.socket, calls)
        cut = await die(dead, dead.remove(wanted.bot_id))
        await bots.make().remove(wanted.bot_id)
        assert bots.exists(wanted.bot_id) == {"container": False, "former": False, "volume": False}
        if not cut:
            return
    raise AssertionError("it never came to the end")


async def test_what_another_installation_runs_is_neither_seen_nor_touched(bots: Containers) -> None:
    wanted = spec()
    instance = await bots.make().start(wanted)
    stranger = bots.make(
        wopr_installation=f"{bots.engine.run_id[:18]}-x", bot_subnet="10.126.64.0/21", bot_firewall="off"
    )
    assert await stranger.observe() == {}
    assert await stranger.locate(wanted.bot_id) is None
    await stranger.stop(wanted.bot_id)
    await stranger.remove(wanted.bot_id)
    try:
        with pytest.raises(RuntimeFailed, match="belongs to the installation") as refused:
            await stranger.start(wanted)
        assert f"WOPR_INSTALLATION={bots.engine.run_id}" in refused.value.remedy
    finally:
        bots.engine.docker("network", "rm", f"{bots.engine.run_id[:18]}-x-platform-bots", check=False)
    assert (await answering(instance)).status_code == 200


async def test_a_bot_whose_token_no_secret_opens_is_replaced(bots: Containers) -> None:
    wanted = spec()
    await bots.make().start(wanted)
    renewed = bots.make(platform_secret="another secret that is long enough")
    seen = (await renewed.observe())[wanted.bot_id]
    assert (seen.generation, seen.token) == (UNREADABLE_GENERATION, "")
    both = bots.make(
        platform_secret=f"another secret that is long enough,{bots.settings().platform_secret.get_secret_value()}"
    )
    assert (await both.observe())[wanted.bot_id].generation == 1


async def test_the_log_of_the_instance_before_is_kept_and_shown(bots: Containers) -> None:
    runtime = bots.make()
    wanted = spec()
    await answering(await runtime.start(wanted))
    before = await runtime.logs(wanted.bot_id, 1000)
    await answering(await runtime.start(spec(wanted.bot_id, 2)))
    lines = await runtime.logs(wanted.bot_id, 1000)
    assert lines[: len(before)] == before
    assert len(lines) > len(before)
    assert await runtime.logs(wanted.bot_id, 2) == lines[-2:]


async def test_a_follower_of_the_log_sees_the_next_instance_too(bots: Containers) -> None:
    runtime = bots.make()
    wanted = spec()
    await answering(await runtime.start(wanted))
    seen: list[str] = []

    async def read() -> None:
        async for line in runtime.follow(wanted.bot_id, 1000):
            seen.append(line.text)

    reader = asyncio.create_task(read())
    try:
        await until(lambda: seen)  # it follows: what the instance writes at its end is not to come before
        seen.clear()
        await runtime.start(spec(wanted.bot_id, 2))
        await until(lambda: any('"listening"' in text for text in seen))
        assert any('"stopping"' in text for text in seen)
    finally:
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader


async def test_nothing_is_listed_again_while_nothing_happens(bots: Containers) -> None:
    runtime = bots.make()
    wanted = spec()
    await answering(await runtime.start(wanted))
    await asyncio.sleep(0)
    listings = 0
    listed = runtime._engine.containers

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal listings
        listings += 1
        return await listed(*args, **options)

    runtime._engine.containers = counted  # type: ignore[method-assign]
    async with asyncio.timeout(WAIT_SECONDS):
        while True:  # the events of the start itself may still arrive
            before = listings
            assert set(await runtime.observe()) == {wanted.bot_id}
            if listings == before:
                break
    for _ in range(100):
        await runtime.observe()
    assert listings == before
    await bots.make().stop(wanted.bot_id)  # another process of the API
    await until(lambda: runtime._view_since < 0)
    assert await runtime.observe() == {}


@pytest.fixture
def image_in_registry(engine: Engine, registry: Registry, bot_image: str) -> Iterator[str]:
    """The bot's image by digest, in the registry and not on the machine."""
    reference = registry.push(bot_image, "wopr/wopr-bot:latest")
    engine.docker("rmi", reference, check=False)
    yield reference
    engine.docker("rmi", "--force", reference, check=False)


async def test_an_image_is_pulled_by_its_digest_with_the_credentials_of_the_settings(
    bots: Containers, registry: Registry, image_in_registry: str
) -> None:
    known = login(registry)
    runs = spec()
    instance = await bots.make().start(runs)
    await answering(instance)
    wanted = spec(image=image_in_registry)
    for wrong, message, remedy in (
        ({"registry_password": "wrong"}, f"refused the credentials of {registry.username}", "REGISTRY_PASSWORD"),
        ({"registry_password": None}, "none are set", "REGISTRY_USERNAME and REGISTRY_PASSWORD"),
        ({"registry_server": "ghcr.io"}, "ours are for ghcr.io", "REGISTRY_SERVER"),
    ):
        runtime = bots.make(**(known | wrong))
        with pytest.raises(RuntimeFailed, match=message) as refused:
            await runtime.start(wanted)
        assert remedy in refused.value.remedy
        with pytest.raises(RuntimeFailed, match=message):  # an update that can't be had: the old one goes on
            await runtime.start(spec(runs.bot_id, 2, image=image_in_registry))
        with pytest.raises(RuntimeFailed, match=message):
            await runtime.prepare(runs.bot_id, image_in_registry)
    assert (await answering(instance)).status_code == 200
    assert await bots.make().locate(runs.bot_id) == instance
    await answering(await bots.make(**known).start(wanted))


async def test_old_images_go_but_for_the_newest_what_is_needed_and_what_a_bot_runs_on(
    bots: Containers, engine: Engine, registry: Registry, bot_image: str
) -> None:
    images = await publish(engine, registry, bot_image, SPARE_IMAGES + 3)
    runs, old, *newer = images
    runtime = bots.make(**login(registry))
    for image in images:
        await runtime.prepare(spec().bot_id, image)
    instance = await runtime.start(spec(image=runs))
    assert await runtime.prune([newer[-1]]) == 1
    assert present(engine, images) == [image for image in images if image != old]
    assert (await answering(instance)).status_code == 200
    assert await runtime.prune([newer[-1]]) == 0


async def test_installations_on_one_engine_keep_what_the_other_needs_and_the_last_one_removes_it(
    bots: Containers, engine: Engine, registry: Registry, bot_image: str
) -> None:
    shared, mine, *newer = images = await publish(engine, registry, bot_image, SPARE_IMAGES + 3)
    other = f"{engine.run_id[:20]}-neighbour"
    ours, theirs = bots.make(**login(registry)), bots.make(**login(registry), wopr_installation=other)
    try:
        for image in images:
            await ours.prepare(spec().bot_id, image)
        await theirs.prepare(spec().bot_id, shared)
        # Neither needs them; each has its newest for a return, and the neighbour has only one.
        assert await theirs.prune([newer[-1]]) == 0
        assert await ours.prune([newer[-1]]) == 2
        assert present(engine, images) == [image for image in images if image != mine]
        # No container has it and the registry is away: their bots can still begin with it.
        registry.stop()
        try:
            await theirs.prepare(spec().bot_id, shared)
            assert await ours.prune([newer[-1]]) == 0
        finally:
            registry.start()
        for image in newer[:SPARE_IMAGES]:
            await theirs.prepare(spec().bot_id, image)
        assert await theirs.prune([newer[-1]]) == 1
        assert present(engine, images) == newer
    finally:
        bots.let_go(other)


async def publish(engine: Engine, registry: Registry, bot_image: str, count: int) -> list[str]:
    """So many images of bots in the registry, the oldest first, and none of them on the machine; by digest."""
    images = []
    for number in range(count):
        tag = f"wopr-test/old:{number}"
        engine.docker("build", "--tag", tag, "-", input=f"FROM {bot_image}\nLABEL wopr.fresh={new_id()}\n")
        images.append(registry.push(tag, "wopr/old-bot:latest"))
        engine.docker("rmi", "--force", tag, images[-1])
        await asyncio.sleep(1.1)  # engines tell whole seconds
    return images


def present(engine: Engine, images: list[str]) -> list[str]:
    """Those of the images that are on the machine."""
    return [image for image in images if engine.docker("image", "inspect", image, check=False).returncode == 0]


async def test_bots_that_start_at_once_make_their_network_once_and_none_fails(bots: Containers) -> None:
    installation = f"{bots.engine.run_id[:16]}-new"
    runtime = bots.make(wopr_installation=installation, bot_firewall="off")
    made = 0
    call = runtime._engine.call

    async def counted(method: str, path: str, **parts: Any) -> Any:
        nonlocal made
        made += path == "networks/create"
        return await call(method, path, **parts)

    runtime._engine.call = counted  # type: ignore[method-assign]
    wanted = [spec() for _ in range(4)]
    try:
        found = await asyncio.gather(*(runtime.start(one) for one in wanted))
        assert {instance.bot_id for instance in found} == {one.bot_id for one in wanted}
        assert made == 1
    finally:
        for one in wanted:
            await runtime.remove(one.bot_id)
        bots.engine.docker(
            "network", "rm", bot_network(bots.settings(wopr_installation=installation)).name, check=False
        )


async def test_a_network_of_an_older_version_is_named_with_what_to_do_about_it(
    bots: Containers, engine: Engine
) -> None:
    changes = {"wopr_installation": f"{engine.run_id[:16]}-old", "bot_firewall": "off"}
    network, former = bot_network(bots.settings(**changes)), f"{engine.run_id[:16]}-old-bots"
    labels = ("--label", engine.label, "--label", f"{INSTALLATION}={changes['wopr_installation']}")
    engine.docker("network", "create", *labels, "--subnet", str(network.subnet), former)
    bot = engine.docker("run", "-d", *labels, "--network", former, "--entrypoint", "sleep", bots.image, "600")
    runtime, wanted = bots.make(**changes), spec()
    try:
        with pytest.raises(RuntimeFailed, match=f"The network {former} of an older version") as refused:
            await runtime.start(wanted)
        command = refused.value.remedy.splitlines()[0]
        await asyncio.to_thread(subprocess.run, ("sh", "-c", command), check=True, env=engine.environment)
        assert engine.docker("inspect", bot.stdout.strip(), check=False).returncode != 0
        await answering(await runtime.start(wanted))
    finally:
        await runtime.remove(wanted.bot_id)
        for name in (former, network.name):
            engine.docker("network", "rm", name, check=False)


async def test_a_registry_that_is_away_matters_only_to_images_that_are_not_here(
    bots: Containers, engine: Engine, bot_image: str
) -> None:
    with serving(engine) as registry:
        reference = registry.push(bot_image, "wopr/wopr-bot:offline")
        known = {
            "registry_server": registry.server,
            "registry_username": registry.username,
            "registry_password": registry.password,
        }
        await bots.make(**known).prepare(spec().bot_id, reference)
        registry.stop()
        try:
            wanted = spec(image=reference)
            runtime = bots.make(**known)
            assert (await answering(await runtime.start(wanted))).status_code == 200
            missing = f"{reference.partition('@')[0]}@sha256:{'0' * 64}"
            with pytest.raises(RuntimeFailed, match="can't be reached") as refused:
                await runtime.start(spec(image=missing))
            assert refused.value.code == "registry_away"
            await runtime.remove(wanted.bot_id)
        finally:
            registry.start()
            engine.docker("rmi", "--force", reference, check=False)


@pytest.fixture(scope="module")
def other_daemon(engine: Engine, bot_image: str) -> Iterator[Daemon]:
    """A daemon of these tests alone."""
    with second.daemon(engine, bot_image) as running:
        yield running


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "crashed"])
async def test_an_engine_that_comes_back_finds_its_bots_again_and_blames_none(
    other_daemon: Daemon, bot_image: str, tmp_path: Path, how: signal.Signals
) -> None:
    bots = Containers(other_daemon.engine, bot_image, tmp_path)
    runtime = bots.make(bot_firewall="off")
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime.watch(ended.put_nowait)
    wanted = [spec() for _ in range(3)]
    try:
        for one in wanted:
            await runtime.start(one)
        assert len(await runtime.observe()) == 3
        await asyncio.to_thread(other_daemon.end, how)
        with pytest.raises(EngineAway) as away:
            await runtime.observe()
        assert "systemctl start docker" in away.value.remedy
        with pytest.raises(EngineAway):
            await runtime.start(wanted[0])
        await asyncio.to_thread(other_daemon.start)
        assert await runtime.observe() == {}
        assert ended.empty()
        again = [await runtime.start(one) for one in wanted]
        assert {instance.bot_id for instance in again} == set(await runtime.observe())
        await until(lambda: runtime._ends.listening)
        bots.engine.docker("kill", bots.inspect(wanted[0].bot_id)["Id"])
        end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
        assert (end.bot_id, end.instance_id) == (wanted[0].bot_id, again[0].id)
    finally:
        if other_daemon.process is None:
            await asyncio.to_thread(other_daemon.start)
        await bots.close()


async def test_an_engine_that_leaves_containers_alone_finds_the_same_instances_again(
    other_daemon: Daemon, bot_image: str, tmp_path: Path
) -> None:
    bots = Containers(other_daemon.engine, bot_image, tmp_path)
    runtime = bots.make(bot_firewall="off")
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime.watch(ended.put_nowait)
    wanted = [spec() for _ in range(2)]
    try:
        await asyncio.to_thread(other_daemon.end, signal.SIGTERM)
        await asyncio.to_thread(other_daemon.start, "--live-restore")
        started = {one.bot_id: await runtime.start(one) for one in wanted}
        await asyncio.to_thread(other_daemon.end, signal.SIGTERM)
        await asyncio.to_thread(other_daemon.start, "--live-restore")
        assert await runtime.observe() == started
        assert await runtime.start(wanted[0]) == started[wanted[0].bot_id]
        assert ended.empty()
    finally:
        if other_daemon.process is None:
            await asyncio.to_thread(other_daemon.start)
        await bots.close()
