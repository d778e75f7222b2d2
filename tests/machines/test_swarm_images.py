"""Images on a Swarm come from a registry behind a password, and are on the bot's machine before anything of it ends."""

import time
from typing import Any

import pytest
from tests.machines import building
from tests.machines.fleet import answering, spec
from tests.machines.registry import Registry
from tests.machines.swarm import Node, Swarm
from tests.machines.swarmfleet import Publish, Services, login

from wopr.fleet.runtimes.caretaker import NodeUnfit
from wopr.fleet.runtimes.node_agent import SPARE_IMAGES
from wopr.fleet.runtimes.protocol import Instance, RuntimeFailed

REMEDIES = {
    "wrong": ({"registry_password": "wrong"}, "refused the credentials of robot", "REGISTRY_PASSWORD"),
    "missing": ({"registry_password": None}, "none are set", "REGISTRY_USERNAME and REGISTRY_PASSWORD"),
    "of another registry": ({"registry_server": "ghcr.io"}, "ours are for ghcr.io", "REGISTRY_SERVER"),
}


def has(node: Node, image: str) -> bool:
    return node.engine.docker("image", "inspect", image, check=False).returncode == 0


async def running(services: Services, **settings: Any) -> tuple[Instance, Node]:
    """A bot that answers, on a machine that is no manager."""
    services.swarm.label(services.swarm.manager, "wopr.bots", "no")
    try:
        instance = await services.make(**settings).start(spec())
    finally:
        services.swarm.label(services.swarm.manager, "wopr.bots", "")
    await answering(instance)
    return instance, services.home_of(instance.bot_id)


async def refuses(services: Services, instance: Instance, image: str, message: str, **settings: Any) -> RuntimeFailed:
    """The error of an update that can't be had, both when it is prepared and when it is started at once."""
    before = services.containers(instance.bot_id)
    runtime = services.make(**settings)
    with pytest.raises(RuntimeFailed, match=message) as prepared:
        await runtime.prepare(instance.bot_id, image)
    with pytest.raises(RuntimeFailed, match=message) as started:
        await services.make(**settings).start(spec(instance.bot_id, 2, image=image))
    assert started.value.code == prepared.value.code
    assert services.containers(instance.bot_id) == before
    assert (await answering(instance)).status_code == 200
    assert await runtime.locate(instance.bot_id) == instance
    return prepared.value


async def test_credentials_that_a_machine_is_refused_with_stop_no_bot(
    services: Services, private: Registry, publish: Publish
) -> None:
    instance, home = await running(services)
    image = publish()
    for wrong, message, remedy in REMEDIES.values():
        failure = await refuses(services, instance, image, message, **(login(private) | wrong))
        assert (failure.code, remedy in failure.remedy) == ("registry_refused", True)
        assert not has(home, image)
    runtime = services.make(**login(private))
    await runtime.prepare(instance.bot_id, image)
    assert [node.name for node in services.swarm.nodes if has(node, image)] == [home.name]
    again = await runtime.start(spec(instance.bot_id, 2, image=image))
    assert (await answering(again)).status_code == 200
    assert (again.image, again.generation, services.home_of(instance.bot_id)) == (image, 2, home)
    # Nothing is left of what the machines were told.
    assert services.swarm.services("wopr.errand") == []
    assert services.manager.docker("secret", "ls", "--quiet").stdout == ""


async def test_an_image_that_is_not_there_and_a_registry_that_is_away_stop_no_bot(
    services: Services, swarm: Swarm, private: Registry, publish: Publish
) -> None:
    instance, home = await running(services)
    image = publish()
    unknown = f"{image.partition('@')[0]}@sha256:{'0' * 64}"
    failure = await refuses(services, instance, unknown, "has no image", **login(private))
    assert failure.code == "image_unknown"
    failure = await refuses(services, instance, f"sha256:{'0' * 64}", f"machine {home.name} has no image")
    assert failure.code == "image_unknown"
    # The manager reaches the registry, the bot's own machine does not.
    port = private.server.rpartition(":")[2]
    rule = ("OUTPUT", "-p", "tcp", "-d", swarm.gateway, "--dport", port, "-j", "REJECT", "--reject-with", "tcp-reset")
    swarm.outer.docker("exec", home.container, "iptables", "-I", *rule)
    try:
        away = f"can't be reached, and {image} is not on the machine {home.name}"
        failure = await refuses(services, instance, image, away, **login(private))
        assert failure.code == "registry_away"
    finally:
        swarm.outer.docker("exec", home.container, "iptables", "-D", *rule)
    private.stop()
    try:
        failure = await refuses(services, instance, image, "can't be reached", **login(private))
        assert failure.code == "registry_away"
    finally:
        private.start()
    await services.make(**login(private)).prepare(instance.bot_id, image)
    assert has(home, image)
    private.stop()
    try:  # what the machine has, it needs no registry for
        again = await services.make(**login(private)).start(spec(instance.bot_id, 2, image=image))
    finally:
        private.start()
    assert (await answering(again)).status_code == 200


async def test_a_first_start_tells_what_the_registry_refused_and_goes_on_once_that_is_put_right(
    services: Services, private: Registry, publish: Publish
) -> None:
    image = publish()
    wanted = spec(image=image)
    for wrong, message, remedy in REMEDIES.values():
        runtime = services.make(**(login(private) | wrong))
        with pytest.raises(RuntimeFailed, match=message) as refused:
            await runtime.prepare(wanted.bot_id, image)
        with pytest.raises(RuntimeFailed, match=message) as refused:
            await runtime.start(wanted)
        assert remedy in refused.value.remedy
        assert services.containers(wanted.bot_id) == []
    instance = await services.make(**login(private)).start(wanted)
    assert (await answering(instance)).status_code == 200
    assert instance.image == image


async def test_a_fetch_that_a_process_left_behind_is_finished_by_the_next(
    services: Services, private: Registry, publish: Publish
) -> None:
    instance, home = await running(services)
    image = publish()
    dead = services.make(**login(private))
    errand = dead._images._errand(home, image)
    await dead._errands._begin(errand)
    await dead.close()
    heir = services.make(**login(private))
    await heir.prepare(instance.bot_id, image)
    assert has(home, image)
    assert services.swarm.services("wopr.errand") == []
    assert services.manager.docker("secret", "ls", "--quiet").stdout == ""


async def test_old_images_go_from_the_machine_that_has_them_but_for_the_newest_and_those_that_are_needed(
    services: Services, private: Registry, publish: Publish
) -> None:
    instance, home = await running(services, **login(private))
    runtime = services.make(**login(private))
    images = []
    for _ in range(SPARE_IMAGES + 4):
        images.append(publish())
        await runtime.prepare(instance.bot_id, images[-1])
        next_second()
    runs, wanted, tagged, old, *spare = images
    again = await runtime.start(spec(instance.bot_id, 2, image=runs))
    home.engine.docker("tag", tagged, "kept-by:hand")
    others = [node for node in services.swarm.nodes if node is not home]
    assert await runtime.prune([wanted, services.settings().bot_image]) == len(services.swarm.nodes)
    assert not has(home, old)
    assert all(has(home, image) for image in (runs, wanted, tagged, *spare))
    assert (await answering(again)).status_code == 200
    assert all(has(node, services.settings().bot_image) for node in others)
    assert services.swarm.services("wopr.errand") == []
    await runtime.prepare(instance.bot_id, old)  # one that is gone is fetched again
    assert has(home, old)
    home.engine.docker("rmi", "kept-by:hand")


def next_second() -> None:
    """Engines tell the age of images in whole seconds."""
    begun = int(time.time())
    while int(time.time()) == begun:
        time.sleep(0.05)


async def test_the_image_that_looks_after_machines_comes_from_the_same_registry(
    services: Services, swarm: Swarm, private: Registry
) -> None:
    instance, _ = await running(services)
    image = private.push(building.RECIPES["node-agent"].tags[0], "wopr/wopr-platform:latest")
    swarm.manager.engine.docker("rmi", image, check=False)
    # Without a fence, which would stay on machines that other tests use.
    other = {
        "wopr_installation": f"{services.manager.run_id[:18]}-x",
        "bot_firewall_image": image,
        "bot_firewall": "off",
    }
    try:
        runtime = services.make(**(login(private) | other | {"registry_password": "wrong"}))
        wanted = spec()
        with pytest.raises(NodeUnfit, match="refused the credentials of robot") as refused:
            await runtime.start(wanted)
        assert "REGISTRY_PASSWORD" in refused.value.remedy
        assert (await answering(instance)).status_code == 200
        mended = services.make(**login(private), **other)
        assert (await answering(await mended.start(wanted))).status_code == 200
        await mended.remove(wanted.bot_id)
    finally:
        swarm.manager.engine.docker("service", "rm", f"wopr-bots-{other['wopr_installation']}-agent", check=False)
        for node in swarm.nodes:
            node.engine.docker("rmi", "--force", image, check=False)
