"""The whole business with bots on a Swarm, and the plug of a machine pulled: told, waited for, and back with memory."""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests import live, stack
from tests.machines.registry import Registry
from tests.machines.swarm import Swarm
from tests.machines.swarmfleet import Publish, Services
from tests.stack import Stack

from wopr.ops.incidents import all_incidents, open_incidents
from wopr.ops.journal import Journal

LOST_SECONDS_MAX = 60.0
MOVE_SECONDS_MAX = 180.0


@pytest.fixture(scope="module")
def swarming(swarm: Swarm, private: Registry) -> Iterator[tuple[Stack, Services]]:
    """`wopr up` with bots on the Swarm."""
    folder = Path(tempfile.mkdtemp(prefix="wopr-swarming-"))
    services = Services(swarm, folder / "home")
    bot_image, agent_image = swarm.images
    ports = stack.free_ports()
    settings = {
        "BOT_RUNTIME": "swarm",
        "BOT_IMAGE": bot_image,
        "BOT_FIREWALL_IMAGE": agent_image,
        "BOT_GATEWAY_URL": f"http://{swarm.gateway}:{ports['api']}",
        "BOT_CALLERS": swarm.gateway,
        "API_HOST": "0.0.0.0",
        "REGISTRY_SERVER": private.server,
        "REGISTRY_USERNAME": private.username,
        "REGISTRY_PASSWORD": private.password,
        "DOCKER_HOST": swarm.manager.engine.socket,
        "WOPR_INSTALLATION": swarm.manager.engine.run_id,
    }
    running = stack.start(folder / "home", ports, settings)
    try:
        yield running, services
        assert running.stop() == 130
    finally:
        running.stop()
        services.sweep()
        shutil.rmtree(folder, ignore_errors=True)


def test_bots_of_a_lost_machine_wait_for_it_and_come_back_with_their_memory(
    swarming: tuple[Stack, Services], capsys: pytest.CaptureFixture[str]
) -> None:
    running, services = swarming
    swarm, journal = services.swarm, Journal(running.home)
    with live.sign_up(running, "Ada Lovelace") as person:
        person.pay(2_500)
        bots = [person.make_bot(f"Ada {number}") for number in range(3)]
        homes = {services.home_of(bot).name: bot for bot in bots}
        assert sorted(homes) == ["n1", "n2", "n3"]
        lost, others = homes["n2"], [homes["n1"], homes["n3"]]
        for name in ("n1", "n3"):
            swarm.label(swarm.node(name), "wopr.bots", "no")
        try:
            doomed = person.make_bot("Ada the last")
        finally:
            for name in ("n1", "n3"):
                swarm.label(swarm.node(name), "wopr.bots", "")
        assert services.volumes(doomed) == ["n2"]
        turn = person.ask(lost, "What does a bot cost?")
        assert (turn["state"], "month" in turn["text"]) == ("completed", True)
        before = {bot: services.containers(bot) for bot in others}

        killed = time.monotonic()
        swarm.node("n2").kill()

        def told() -> dict[str, Any] | None:
            bot: dict[str, Any] = person.get(f"/fleet/bots/{lost}")
            return bot if bot["state"] == "failed" else None

        bot = live.wait_for(told, "the loss to be told", LOST_SECONDS_MAX)
        seconds = time.monotonic() - killed
        assert "The machine that has its memory is lost. It waits" in bot["reason"]
        assert "n2" not in bot["reason"] + bot["last_error"], "machines' names are the operator's"
        live.wait_for(lambda: open_incidents(journal), "an incident", LOST_SECONDS_MAX)
        assert [incident.title for incident in open_incidents(journal)] == [
            "The machine n2 is away, and 2 bots wait for it"
        ]
        assert {bot: services.containers(bot) for bot in others} == before
        assert all(person.get(f"/fleet/bots/{bot}")["restarts"] == 0 for bot in others)

        assert person.http.delete(f"/fleet/bots/{doomed}").status_code == 204
        live.wait_for(lambda: person.http.get(f"/fleet/bots/{doomed}").status_code == 404, "the deletion")

        began = time.monotonic()
        swarm.node("n2").start()

        def runs() -> bool:
            return bool(person.get(f"/fleet/bots/{lost}")["state"] == "running")

        live.wait_for(runs, "it to run again", LOST_SECONDS_MAX)
        back = time.monotonic() - began
        conversation = person.get(f"/fleet/bots/{lost}/conversations")["conversations"]
        assert [entry["id"] for entry in conversation] == [turn["conversation_id"]]
        assert person.ask(lost, "And a large one?", turn["conversation_id"])["state"] == "completed"
        assert services.volumes(lost) == ["n2"]
        live.wait_for(lambda: not services.volumes(doomed), "the deleted bot's data to go", LOST_SECONDS_MAX)
        live.wait_for(lambda: not open_incidents(journal), "the incident to be over", LOST_SECONDS_MAX)
        assert len(all_incidents(journal)) == 1
    with capsys.disabled():
        sys.stdout.write(f"\nA lost machine: told after {seconds:.1f} s, running {back:.1f} s after its start\n")


def test_a_bot_moves_to_an_image_that_its_machine_can_have_and_goes_on_when_it_cant(
    swarming: tuple[Stack, Services], publish: Publish
) -> None:
    running, services = swarming
    with live.as_administrator(running) as operator, live.sign_up(running, "Grace Hopper") as person:
        person.pay(2_500)
        bot = person.make_bot("Grace")
        turn = person.ask(bot, "What does a bot cost?")
        before, image = services.containers(bot), publish()
        unknown = f"{image.partition('@')[0]}@sha256:{'0' * 64}"

        def at(stage: str) -> dict[str, Any] | None:
            moving = operator.get("/api/admin/bot-images")["updates"]
            return next((one for one in moving if (one["bot_id"], one["stage"]) == (bot, stage)), None)

        assert operator.http.put("/api/admin/bot-images/stable", json={"image": unknown}).status_code == 200
        told = live.wait_for(lambda: at("returned"), "the image to be missed", MOVE_SECONDS_MAX)
        assert f"has no image {unknown}" in told["error"]
        assert services.containers(bot) == before
        assert person.ask(bot, "And a large one?", turn["conversation_id"])["state"] == "completed"

        assert operator.http.put("/api/admin/bot-images/stable", json={"image": image}).status_code == 200
        live.wait_for(lambda: at("kept"), "the bot to move", MOVE_SECONDS_MAX)
        assert services.image_of(UUID(bot)) == image
        conversation = person.get(f"/fleet/bots/{bot}/conversations")["conversations"]
        assert [entry["id"] for entry in conversation] == [turn["conversation_id"]]
        assert person.ask(bot, "And a small one?", turn["conversation_id"])["state"] == "completed"
