"""An engine that dies under many bots: they come back by themselves, a few at a time, with all they acknowledged."""

import asyncio
import signal
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from tests.machines import second
from tests.machines.engine import Engine
from tests.machines.fleet import Containers
from tests.machines.moving import WAIT_SECONDS, Place, opened, working
from tests.machines.second import Daemon
from tests.starting import most_at_once, said_listening

from wopr.core.db import Database
from wopr.core.ids import BotId, new_id
from wopr.fleet.runtimes.containers import parse_time

BOTS, PLACES = 20, 3
SUBNET = IPv4Network("10.199.32.0/21")


@pytest.fixture
def daemon(engine: Engine, bot_image: str) -> Iterator[Daemon]:
    """A daemon that may die, whose bots this machine reaches."""
    with second.daemon(engine, bot_image) as running:
        running.reach(SUBNET)
        yield running


async def all_run(place: Place, others: frozenset[str] = frozenset()) -> frozenset[str]:
    """Wait until every bot runs, and none as one of these instances; the instances."""
    async with asyncio.timeout(3 * WAIT_SECONDS):
        while True:
            async with place.platform.db.begin() as session:
                query = "SELECT CAST(instance_id AS text) FROM bot_observed WHERE state = 'running'"
                found = frozenset(await session.scalars(text(query)))
            if len(found) == BOTS and not found & others:
                return found
            await asyncio.sleep(0.2)


async def most_starting(place: Place, bots: list[UUID]) -> int:
    """How many of the bots' present containers started at once: from the request for each to its bot's own word."""
    spans = []
    for bot_id in bots:
        begun = parse_time(place.bots.inspect(bot_id)["Created"])  # type: ignore[attr-defined]
        spans.append((begun, said_listening(await place.runtime.logs(BotId(bot_id), 1_000), begun)))
    return most_at_once(spans)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["crashed", "restarted"])
async def test_bots_of_an_engine_that_died_come_back_a_few_at_a_time_with_all_they_acknowledged(
    daemon: Daemon, bot_image: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    for module in ("plan", "executor"):
        monkeypatch.setattr(f"wopr.fleet.{module}.READY_SECONDS_MAX", 120.0)  # however slow this machine is
    home = Containers(daemon.engine, bot_image, tmp_path)
    settings = {"bot_firewall": "off", "bot_subnet": str(SUBNET), "bot_starts_at_once": PLACES}
    async with opened(home, db, tmp_path, **settings) as place:
        bots = [await place.add() for _ in range(BOTS)]
        async with working(place.platform):
            before = await all_run(place)
            assert await most_starting(place, bots) <= PLACES
            turns = {bot_id: await acknowledged(place, bot_id) for bot_id in bots}
            await asyncio.to_thread(daemon.end, how)
            await asyncio.to_thread(daemon.start)
            await all_run(place, before)
            assert await most_starting(place, bots) <= PLACES
        assert await place.sql("SELECT sum(restarts) FROM bot_observed") == 0, "no bot is to blame"
        started = "SELECT count(*) FROM bot_runs"
        assert await place.sql(started) == 2 * BOTS, "one start each time for each"
        for bot_id, turn in turns.items():
            found = (await place.call(bot_id, "GET", f"/turns/{turn}")).json()
            assert (found["turn_id"], found["state"]) == (turn, "interrupted")
    await home.close()


async def acknowledged(place: Place, bot_id: UUID) -> str:
    """A turn that the bot has taken; its id."""
    turn = {"turn_id": str(new_id()), "conversation_id": "c1", "text": "My cat is called Minka."}
    assert (await place.call(bot_id, "POST", "/turns", json=turn)).status_code == 202
    return turn["turn_id"]
