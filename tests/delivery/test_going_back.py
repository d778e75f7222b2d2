"""A release that turns bad while the one before it still has long streams: customers are not left with the bad one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.delivery.test_away import PLACE, Restarting, image

from wopr.delivery.deploy import deploy
from wopr.delivery.hosts import RUN_SECONDS, Output
from wopr.ops.journal import Journal


@dataclass
class Streaming(Restarting):
    """The slot that leaves has streams which outlast its patience, unless it is told to hurry."""

    hurried: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        words = " ".join(argv)
        if "docker stop -t" in words and "-api-" in words:
            if int(argv[list(argv).index("-t") + 1]) > 5:
                await self.ended.wait()
            else:
                self.hurried += 1
                self.ended.set()
        return await super().run(argv, input=input, timeout=timeout)


async def test_a_bad_release_does_not_serve_until_the_last_stream_of_the_one_before_has_ended(tmp_path: Path) -> None:
    machine, journal = Streaming(PLACE, errs=frozenset({2})), Journal(tmp_path)
    machine.files[PLACE.env] = b"BOT_RUNTIME=process\n"
    assert (await deploy(machine, PLACE, journal, image(1), lambda *_: None)).good
    async with asyncio.timeout(30):
        verdict = await deploy(machine, PLACE, journal, image(2), lambda *_: None)
    assert (verdict.verdict, verdict.serving) == ("bad", 1)
    assert machine.hurried == 1
    ready = {one.release for one in machine.containers.values() if one.slot and one.ready}
    assert ready == {1}
