"""Goal D2: from the paid webhook to the bot's first answer, bots as processes.

Each round is a new customer: sign-up and verification before the clock starts; then the card is charged, and the clock
runs until the first words of the first answer arrive.
"""

import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from report import median, percentile, table
from tests.stack import Stack, start

from wopr.client import ApiClient
from wopr.client.conversation import Saying
from wopr.ops.smoke import Target, Walk

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10


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


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="wopr-bench-"))
    stack = start(folder / "home")
    try:
        rounds = [asyncio.run(one_round(stack)) for _ in range(ROUNDS)]
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for name, index, goal in (
        ("credit there", 0, "–"),
        ("bot runs", 1, "–"),
        ("D2 first words of the answer", 2, "2 s"),
    ):
        values = [row[index] for row in rounds]
        rows.append((name, f"{median(values):.2f} s", f"{percentile(values, 0.95):.2f} s", goal))
    table(f"Payment to first answer, {ROUNDS} customers", ("until", "median", "p95", "goal"), rows)


if __name__ == "__main__":
    main()
