"""Goal D2: from the paid webhook to the bot's first answer, bots as processes and, where Docker is, as containers.

Each round is a new customer: sign-up and verification before the clock starts; then the card is charged, and the clock
runs until the first words of the first answer arrive. The image is on the machine, as it is after the first bot.

    benchmarks/first_answer.py [CUSTOMERS] [--only processes|containers]
"""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from report import median, percentile, run, say, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.machines import building, engine
from tests.machines.fleet import Containers
from tests.stack import Stack, start

from wopr.client import ApiClient
from wopr.client.conversation import Saying
from wopr.ops.smoke import Target, Walk

CUSTOMERS = 10


async def one_round(stack: Stack) -> tuple[float, float, float]:
    """Seconds from payment to credit, to the running bot, and to the first words."""
    async with ApiClient(stack.api) as api:
        walk = Walk(api, Target(stack.api, stack.mail), f"bench+{secrets.token_hex(5)}@example.com")
        await walk.sign_up()
        await walk.verify()
        begun = time.monotonic()
        await walk.pay()
        await walk.credited()
        credited = time.monotonic() - begun
        await walk.create_bot()
        running = time.monotonic() - begun
        turn = await api.fleet.say(walk.bot_id, Saying(text="What does a bot cost?"))
        async for event in api.fleet.turn_events(walk.bot_id, turn.turn_id):
            if event.name == "delta":
                break
        answered = time.monotonic() - begun
        await walk.clean_up()
    return credited, running, answered


def measured(settings: Mapping[str, str], customers: int) -> list[tuple[float, float, float]]:
    """The rounds on a platform of their own with these settings."""
    folder = Path(tempfile.mkdtemp(prefix="wopr-bench-"))
    stack, rounds = None, []
    try:
        say("starting a platform")
        stack = start(folder / "home", settings=settings)
        for number in range(customers):
            rounds.append(asyncio.run(one_round(stack)))
            say(f"customer {number + 1} of {customers}: answered after {rounds[-1][2]:.2f} s")
        return rounds
    finally:
        if stack is not None:
            stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def in_containers(customers: int) -> list[tuple[float, float, float]]:
    """The rounds with bots in containers; nothing of them stays."""
    say("the bots' image")
    with engine.running() as running:
        installation = Containers(running, building.ours(running, "bot"), Path("unused"))
        settings = {
            "BOT_RUNTIME": "docker",
            "BOT_IMAGE": installation.image,
            "DOCKER_HOST": running.socket,
            "WOPR_INSTALLATION": running.run_id,
        }
        try:
            return measured(settings, customers)
        finally:
            installation.sweep()
            installation.take_down()


def show(title: str, rounds: list[tuple[float, float, float]], goal: str) -> None:
    """One table."""
    rows = []
    for name, index, wanted in (
        ("credit there", 0, "–"),
        ("bot runs", 1, "–"),
        ("D2 first words of the answer", 2, goal),
    ):
        values = [row[index] for row in rounds]
        rows.append((name, f"{median(values):.2f} s", f"{percentile(values, 0.95):.2f} s", wanted))
    table(f"{title}, {len(rounds)} customers", ("until", "median", "p95", "goal"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("customers", nargs="?", type=int, default=CUSTOMERS)
    parser.add_argument("--only", choices=("processes", "containers"))
    given = parser.parse_args()
    if given.only != "containers":
        show("Payment to first answer, bots as processes", measured({}, given.customers), "2 s")
    if given.only == "processes":
        return
    if engine.available():
        show("Payment to first answer, bots in containers", in_containers(given.customers), "5 s")
    else:
        print("There is no Docker engine here: containers are not measured.", file=sys.stderr)


if __name__ == "__main__":
    run(main)
