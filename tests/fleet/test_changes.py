"""Who waits hears of a change, and of its own end as well, even when both come together."""

import asyncio

import pytest

from wopr.core.notify import Notifier
from wopr.fleet.changes import Changes


@pytest.mark.parametrize("turns", range(6))
async def test_an_end_that_comes_with_a_change_is_heard(turns: int) -> None:
    """`asyncio.wait_for` loses it before Python 3.12, when it comes some turns of the loop after the change."""
    changes, event = Changes(Notifier(None)), asyncio.Event()  # type: ignore[arg-type]  # nothing is asked of it

    async def work() -> None:
        while True:
            await changes.wait(event, 60.0)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0.0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=10.0)
    task.cancel()
    assert done == {task}
