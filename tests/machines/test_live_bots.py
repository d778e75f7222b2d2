"""The whole business with bots in containers: a bot is made, answers, comes back after a crash, and leaves nothing."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import live, stack
from tests.machines.engine import Engine
from tests.machines.fleet import Containers
from tests.stack import Stack


@pytest.fixture(scope="module")
def contained(engine: Engine, bot_image: str) -> Iterator[tuple[Stack, Containers]]:
    """`wopr up` with bots in containers."""
    folder = Path(tempfile.mkdtemp(prefix="wopr-contained-"))
    installation = Containers(engine, bot_image, folder / "home")
    settings = {
        "BOT_RUNTIME": "docker",
        "BOT_IMAGE": bot_image,
        "DOCKER_HOST": engine.socket,
        "WOPR_INSTALLATION": engine.run_id,
    }
    running = stack.start(folder / "home", settings=settings)
    try:
        yield running, installation
        assert running.stop() == 130
        chosen = ("--filter", f"label=wopr.installation={engine.run_id}", "--quiet")
        assert engine.docker("ps", *chosen).stdout == ""
    finally:
        running.stop()
        installation.sweep()
        installation.take_down()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_customers_bot_in_a_container_answers_comes_back_and_leaves_nothing(
    contained: tuple[Stack, Containers],
) -> None:
    running, installation = contained
    with live.sign_up(running, "Ada Lovelace") as person:
        person.pay(2_500)
        bot_id = person.make_bot("Ada")
        turn = person.ask(bot_id, "What does a bot cost?")
        assert (turn["state"], "month" in turn["text"]) == ("completed", True)
        container = installation.inspect(bot_id)["Id"]
        installation.engine.docker("kill", container)
        live.wait_for(lambda: person.get(f"/fleet/bots/{bot_id}")["restarts"] == 1, "the crash to be noticed")
        person.wait_running(bot_id)
        assert "SIGKILL" in person.get(f"/fleet/bots/{bot_id}")["last_error"]
        assert installation.inspect(bot_id)["Id"] != container
        conversation = person.get(f"/fleet/bots/{bot_id}/conversations")["conversations"]
        assert [entry["id"] for entry in conversation] == [turn["conversation_id"]]
        texts = [line["text"] for line in person.get(f"/fleet/bots/{bot_id}/logs?tail=200")["lines"]]
        assert sum('"listening"' in text for text in texts) == 2
        person.post(f"/fleet/bots/{bot_id}/stop")
        live.wait_for(lambda: installation.living(bot_id) == 0, "the container to end")
        assert installation.exists(bot_id)["volume"]
        person.http.delete(f"/fleet/bots/{bot_id}").raise_for_status()
        gone = {"container": False, "former": False, "volume": False}
        live.wait_for(lambda: installation.exists(bot_id) == gone, "everything of the bot to be gone")
