"""Times that several processes share: they agree on them, however wrong their machines' clocks are."""

from datetime import UTC, datetime, timedelta

from wopr.core.clock import ManualClock
from wopr.core.db import Database
from wopr.core.steady import SteadyClock


async def test_processes_whose_clocks_are_five_minutes_apart_agree_within_a_second(db: Database) -> None:
    now = datetime.now(UTC)
    ours, theirs = ManualClock(now), ManualClock(now + timedelta(seconds=300))
    theirs._monotonic = 5_000.0
    one, other = SteadyClock(db, ours), SteadyClock(db, theirs)
    assert abs(await one.epoch() - await other.epoch()) <= 1
    for clock in (ours, theirs):
        clock.advance(90)
    assert abs(await one.epoch() - await other.epoch()) <= 1


async def test_it_goes_on_evenly_when_the_clock_is_corrected(db: Database) -> None:
    clock = ManualClock()
    steady = SteadyClock(db, clock)
    began = await steady.epoch()
    clock._now -= timedelta(minutes=5)
    clock.advance(10)
    assert await steady.epoch() - began == 10
