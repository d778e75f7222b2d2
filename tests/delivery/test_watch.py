"""What the deliverer releases, when it looks again and what it says, on a simulated clock."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wopr.core.errors import NotFound, TooManyRequests, UpstreamFailed, WoprError
from wopr.delivery.deliver import Wish
from wopr.delivery.errors import HostFailed, Locked, Refused
from wopr.delivery.registry_reference import Reference, parse_reference
from wopr.delivery.release import Judgement, Release
from wopr.delivery.watch import BOT, LOCKED_SECONDS, PLATFORM, Deliverer, Ended, Event

IMAGES = {
    PLATFORM: parse_reference("registry.example/platform:latest"),
    BOT: parse_reference("registry.example/bot:stable"),
}
PERIOD = 10.0
Trouble = WoprError | None


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


@dataclass
class Simulated:
    """A registry, a host and a clock, in memory: the loop is real, the world is this."""

    tags: dict[str, int] = field(default_factory=lambda: {PLATFORM: 1, BOT: 1})
    now: float = 0.0
    asked: list[str] = field(default_factory=list)
    registry_troubles: list[Trouble] = field(default_factory=list)
    release_troubles: list[Trouble] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    made: list[dict[str, str]] = field(default_factory=list)
    stored: list[Release] = field(default_factory=list)
    memory: dict[str, str] = field(default_factory=dict)
    verdicts: list[tuple[str, str]] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    tidied: int = 0
    looked: int = 0
    signs: list[str] = field(default_factory=list)
    caught_up: int = 0
    during: Callable[[], None] | None = None
    concurrent: int = 0

    async def digest(self, image: Reference) -> str:
        kind = next(kind for kind, one in IMAGES.items() if one == image)
        self.asked.append(kind)
        if self.registry_troubles and (trouble := self.registry_troubles.pop(0)):
            raise trouble
        return digest(self.tags[kind])

    async def releases(self) -> Sequence[Release]:
        return self.stored

    async def release(self, images: Mapping[str, str]) -> Ended:
        assert not self.concurrent
        self.concurrent += 1
        try:
            self.made.append(dict(images))
            if self.during:
                self.during()
            if self.release_troubles and (trouble := self.release_troubles.pop(0)):
                raise trouble
            serving = next(one for one in reversed(self.stored) if one.verdict == Judgement.GOOD)
            platform, bot = images.get(PLATFORM, serving.platform), images.get(BOT, serving.bot)
            bad = int(platform.rpartition(":")[2], 16) in self.bad
            verdict = Judgement.BAD if bad else Judgement.GOOD
            self.stored.append(stored(len(self.stored) + 1, platform, bot, verdict))
            return Ended(verdict, len(self.stored), "it crashes" if bad else "")
        finally:
            self.concurrent -= 1

    async def remember(self, kind: str, found: str, verdict: str) -> None:
        self.memory[kind] = found
        self.verdicts.append((kind, verdict))

    async def handled(self) -> Mapping[str, str]:
        return self.memory

    async def alive(self, trouble: str) -> None:
        self.looked += 1
        self.signs.append(trouble)

    async def catch_up(self) -> None:
        self.caught_up += 1

    async def settled(self) -> None:
        self.tidied += 1

    def tell(self, event: Event) -> None:
        self.told.append(event)

    def monotonic(self) -> float:
        return self.now


def stored(number: int, platform: str, bot: str, verdict: str) -> Release:
    return Release(number, platform, bot, "c", "e", "0006_once", "2026-11-23T12:00:00", "test", verdict=verdict)


def serving(world: Simulated) -> Deliverer:
    """A deliverer whose world has what the tags mean already."""
    images = {kind: IMAGES[kind].pinned(digest(world.tags[kind])) for kind in IMAGES}
    world.stored.append(stored(1, images[PLATFORM], images[BOT], Judgement.GOOD))
    return Deliverer(world, IMAGES, period_seconds=PERIOD)


async def step(deliverer: Deliverer, world: Simulated) -> Ended | None:
    ended = await deliverer.look()
    world.now += deliverer.next_look_seconds()
    return ended


async def test_what_serves_already_is_not_released_again_and_costs_one_question_each() -> None:
    world = Simulated()
    deliverer = serving(world)
    for _ in range(3):
        assert await step(deliverer, world) is None
    assert world.made == []
    assert world.asked == [PLATFORM, BOT] * 3
    assert world.now == 3 * PERIOD


async def test_a_new_digest_is_released_by_digest_and_nothing_else_with_it() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    world.tags[PLATFORM] = 2
    ended = await step(deliverer, world)
    assert ended == Ended("good", 2)
    assert world.made == [{PLATFORM: f"registry.example/platform@{digest(2)}"}]
    assert await step(deliverer, world) is None


async def test_a_new_bot_image_alone_is_a_release_too() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    world.tags[BOT] = 7
    assert await step(deliverer, world) == Ended("good", 2)
    assert world.made[0][BOT].endswith(digest(7))


async def test_of_many_pushes_during_a_release_only_the_newest_follows() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)

    def pushes() -> None:
        for number in range(3, 10):
            world.tags[PLATFORM] = number
            assert deliverer.notify("platform", "latest")
        world.during = None

    world.tags[PLATFORM] = 2
    world.during = pushes
    await step(deliverer, world)
    await step(deliverer, world)
    await step(deliverer, world)
    assert [made[PLATFORM][-2:] for made in world.made] == ["02", "09"]


async def test_a_bad_release_is_not_tried_again_until_the_tag_moves() -> None:
    world = Simulated(bad={2})
    deliverer = serving(world)
    await step(deliverer, world)
    world.tags[PLATFORM] = 2
    ended = await step(deliverer, world)
    assert ended is not None
    assert ended.verdict == "bad"
    for _ in range(5):
        assert await step(deliverer, world) is None
    assert len(world.made) == 1
    world.tags[PLATFORM] = 3
    assert await step(deliverer, world) == Ended("good", 3)


async def test_a_tag_that_is_put_back_to_an_older_image_is_followed_unless_that_one_failed() -> None:
    world = Simulated(bad={3})
    deliverer = serving(world)
    for number in (1, 2, 1, 3):
        world.tags[PLATFORM] = number
        await step(deliverer, world)
    assert [release.platform[-1] for release in world.stored] == ["1", "2", "1", "3"]
    world.tags[PLATFORM] = 2
    await step(deliverer, world)
    world.tags[PLATFORM] = 3
    assert await step(deliverer, world) is None
    assert world.stored[-1].platform[-1] == "2"


async def test_a_deliverer_without_memory_leaves_alone_what_served_once() -> None:
    world = Simulated()
    deliverer = serving(world)
    world.stored.append(stored(2, IMAGES[PLATFORM].pinned(digest(9)), world.stored[0].bot, Judgement.GOOD))
    assert await step(deliverer, world) is None
    assert world.verdicts == [(PLATFORM, "known"), (BOT, "known")]


async def test_a_new_bot_does_not_bring_a_bad_platform_back() -> None:
    world = Simulated(bad={2})
    deliverer = serving(world)
    world.tags[PLATFORM] = 2
    await step(deliverer, world)
    world.tags[BOT] = 3
    assert await step(deliverer, world) == Ended("good", 3)
    assert world.stored[-1].platform == IMAGES[PLATFORM].pinned(digest(1))


async def test_what_the_operator_rolled_back_stays_back_also_for_a_deliverer_without_memory() -> None:
    world = Simulated()
    deliverer = serving(world)
    world.tags[PLATFORM] = 2
    await step(deliverer, world)
    pinned = IMAGES[PLATFORM].pinned(digest(2))
    world.stored[-1] = stored(2, pinned, IMAGES[BOT].pinned(digest(1)), Judgement.ROLLED_BACK)
    world.memory.clear()
    assert await step(Deliverer(world, IMAGES), world) is None
    assert len(world.made) == 1


async def test_a_release_whose_deliverer_was_killed_is_tried_again() -> None:
    world = Simulated()
    deliverer = serving(world)
    world.tags[PLATFORM] = 2
    world.stored.append(stored(2, IMAGES[PLATFORM].pinned(digest(2)), "", Judgement.ABANDONED))
    assert await step(deliverer, world) is not None


async def test_an_outage_of_the_registry_is_told_once_and_its_end_once() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    world.registry_troubles = [UpstreamFailed("away")] * 8
    for _ in range(5):
        assert await step(deliverer, world) is None
    whats = [event.what for event in world.told]
    assert whats == ["registry does not tell"] * 2 + ["registry answers again"] * 2


async def test_the_registry_s_wish_to_wait_is_honoured_even_when_notified() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    world.registry_troubles = [TooManyRequests("slower", retry_after_seconds=120)]
    before = len(world.asked)
    await deliverer.look()
    assert deliverer.next_look_seconds() == 120
    deliverer.notify("platform", "latest")
    await deliverer.look()
    assert len(world.asked) == before + 2
    world.now += 121
    world.tags[PLATFORM] = 2
    assert await step(deliverer, world) is not None


async def test_its_sign_of_life_says_what_it_could_not_ask() -> None:
    world = Simulated()
    deliverer = serving(world)
    world.registry_troubles = [UpstreamFailed("away"), None, TooManyRequests("slower", retry_after_seconds=20)]
    for _ in range(4):
        await step(deliverer, world)
    assert world.signs == ["away", "slower", "", ""]


@pytest.mark.parametrize("trouble", [TooManyRequests, UpstreamFailed])
async def test_a_registry_that_wants_to_be_left_alone_keeps_nobody_from_looking_at_the_services(
    trouble: type[WoprError],
) -> None:
    world = Simulated()
    deliverer = serving(world)
    world.registry_troubles = [trouble("later", retry_after_seconds=600)]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.now += seconds
        await asyncio.sleep(0)

    running = asyncio.ensure_future(deliverer.run(sleep))
    async with asyncio.timeout(30):
        while world.now < 600:  # noqa: ASYNC110 - the loop itself is what is waited for
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.caught_up >= 10
    assert max(slept) == 60
    assert len(world.asked) <= 4, "once before the trouble, and once when it is over"
    assert set(world.signs[:10]) == {"later"}


async def test_after_a_notification_a_tag_that_lags_behind_is_asked_for_soon_and_not_for_ever() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    start = world.now
    assert deliverer.notify("platform", "latest")
    await step(deliverer, world)
    await step(deliverer, world)
    assert world.now - start < 1
    world.tags[PLATFORM] = 2
    assert await step(deliverer, world) is not None
    deliverer.notify("bot", "stable")
    while deliverer._expected:
        await step(deliverer, world)
    before = world.now
    await step(deliverer, world)
    assert world.now - before == PERIOD


async def test_a_tag_that_is_not_to_be_read_right_after_its_push_is_no_outage() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    deliverer.notify("platform", "latest")
    world.registry_troubles = [NotFound("manifest unknown")]
    await step(deliverer, world)
    assert world.told == []


def test_notifications_of_other_images_and_tags_change_nothing() -> None:
    deliverer = Deliverer(Simulated(), IMAGES)
    assert not deliverer.notify("other", "latest")
    assert not deliverer.notify("platform", "edge")
    assert deliverer.notify("platform", "")  # GitHub does not always say which


async def test_a_passing_failure_is_tried_again_later_each_time_but_a_newer_image_at_once() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    world.tags[PLATFORM] = 2
    world.release_troubles = [HostFailed("can't be pulled: manifest unknown")] * 4
    tried = []
    while len(tried) < 5:
        before = len(world.made)
        await deliverer.look()
        tried += [world.now] * (len(world.made) - before)
        world.now += deliverer.next_look_seconds()
    assert [after - before for before, after in itertools.pairwise(tried)] == [2, 4, 8, 16]
    assert world.stored[-1].number == 2
    world.tags[PLATFORM] = 3
    world.release_troubles = [HostFailed("full")] * 3
    for _ in range(3):
        await step(deliverer, world)
    world.release_troubles = [HostFailed("full")]
    await deliverer.look()
    world.tags[PLATFORM] = 4
    deliverer.notify("platform", "latest")
    assert await deliverer.look() == Ended("good", 3)


async def test_why_a_look_did_not_do_all_that_it_should_is_known_until_the_next_one() -> None:
    world = Simulated(registry_troubles=[UpstreamFailed("away")], release_troubles=[Refused("no")])
    deliverer = serving(world)
    await step(deliverer, world)
    assert isinstance(deliverer.failure, UpstreamFailed)
    world.tags[PLATFORM] = 2
    await step(deliverer, world)
    assert isinstance(deliverer.failure, Refused)
    await step(deliverer, world)
    assert deliverer.failure is None


async def test_a_host_that_does_not_answer_ends_nothing_and_is_told_once() -> None:
    world = Simulated()
    deliverer = serving(world)
    looks = 0

    class Done(Exception):
        pass

    async def away() -> Sequence[Release]:
        raise HostFailed("no route")

    async def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks > 4:
            raise Done

    world.releases = away  # type: ignore[method-assign]
    running = asyncio.ensure_future(deliverer.run(sleep))
    while looks < 4:  # noqa: ASYNC110 - the loop itself is what is waited for
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [event.what for event in world.told] == ["host does not answer"]


async def test_what_can_wait_comes_after_the_release_and_after_each_look() -> None:
    world = Simulated()
    deliverer = serving(world)
    world.tags[PLATFORM] = 2
    before: list[int] = []
    world.during = lambda: before.append(world.caught_up)
    running = asyncio.ensure_future(deliverer.run(lambda _seconds: asyncio.sleep(0)))
    while world.looked < 3:  # noqa: ASYNC110 - the loop itself is what is waited for
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert before == [0]
    assert world.caught_up == world.looked


async def test_a_refused_migration_waits_for_the_operator_and_a_lock_for_its_holder() -> None:
    world = Simulated()
    deliverer = serving(world)
    await step(deliverer, world)
    world.tags[PLATFORM] = 2
    world.release_troubles = [Refused("drops a table", code="destructive_migration", remedy="--allow-destructive")]
    await step(deliverer, world)
    assert world.verdicts[-1] == (PLATFORM, "destructive_migration")
    assert world.told[-1].data["fix"] == "--allow-destructive"
    for _ in range(3):
        await step(deliverer, world)
    assert len(world.made) == 1
    world.tags[PLATFORM] = 3
    world.release_troubles = [Locked("somebody"), Locked("somebody")]
    await deliverer.look()
    assert deliverer.next_look_seconds() == LOCKED_SECONDS
    told = len(world.told)
    world.now += LOCKED_SECONDS
    await deliverer.look()
    assert [event.what for event in world.told[told:]] == ["new"]
    world.now += LOCKED_SECONDS
    assert await deliverer.look() == Ended("good", 2)


async def test_its_own_image_comes_last_after_a_good_release_only() -> None:
    world = Simulated(bad={2})
    deliverer = serving(world)
    world.tags[PLATFORM] = 2
    await step(deliverer, world)
    assert world.tidied == 0
    world.tags[PLATFORM] = 3
    await step(deliverer, world)
    assert world.tidied == 1


async def test_the_loop_wakes_for_a_notification_and_settles_a_moment_so_that_two_pushes_are_one_release() -> None:
    world = Simulated()
    deliverer = serving(world)
    slept: list[float] = []

    class Done(Exception):
        pass

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds < 1:  # the moment after a notification: the second push arrives
            world.tags[BOT] = 2
            deliverer.notify("bot", "stable")
        elif not world.made:
            world.tags[PLATFORM] = 2
            deliverer.notify("platform", "latest")
        else:
            raise Done
        world.now += seconds

    with contextlib.suppress(Done):
        await run_until(deliverer, sleep)
    assert len(world.made) == 1
    assert world.made[0][PLATFORM].endswith(digest(2))
    assert world.made[0][BOT].endswith(digest(2))


async def test_the_push_of_the_only_tag_that_is_watched_is_not_waited_with() -> None:
    world = Simulated(stored=[stored(1, IMAGES[PLATFORM].pinned(digest(1)), "", Judgement.GOOD)])
    deliverer = Deliverer(world, {PLATFORM: IMAGES[PLATFORM]}, period_seconds=PERIOD)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not world.made:
            world.tags[PLATFORM] = 2
            deliverer.notify("platform", "latest")
        await asyncio.Event().wait()

    released = asyncio.Event()
    world.during = released.set
    running = asyncio.create_task(deliverer.run(sleep))
    async with asyncio.timeout(30):
        await released.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert slept[0] == PERIOD
    assert len(slept) == 1 or min(slept) >= 1, "nothing but the pause between looks"


async def run_until(deliverer: Deliverer, sleep: Callable[[float], Awaitable[None]]) -> None:
    """The loop without its race between timer and notification: the timer decides."""
    while True:
        await deliverer.look()
        await sleep(max(deliverer.next_look_seconds(), 1.0))
        if deliverer._wake.is_set():
            await sleep(0.3)


Push = tuple[str, int, float]
PUSHES = st.lists(
    st.tuples(st.sampled_from([PLATFORM, BOT]), st.integers(2, 6), st.floats(0, 40)), min_size=1, max_size=12
)
TROUBLES = st.lists(
    st.sampled_from([None, UpstreamFailed("x"), NotFound("x"), TooManyRequests("x", retry_after_seconds=9)]), max_size=6
)
FAILURES = st.lists(st.sampled_from([None, HostFailed("x"), Locked("x")]), max_size=4)


@settings(max_examples=150, deadline=None)
@given(PUSHES, TROUBLES, FAILURES, st.booleans())
async def test_whatever_happens_the_newest_of_each_tag_is_released_in_the_end_and_none_twice(
    pushes: list[Push], troubles: list[Trouble], failures: list[Trouble], notified: bool
) -> None:
    world = Simulated(registry_troubles=list(troubles), release_troubles=list(failures))
    deliverer = serving(world)
    left = sorted(pushes, key=lambda push: push[2])
    for _ in range(200):
        while left and left[0][2] <= world.now:
            kind, number, _at = left.pop(0)
            world.tags[kind] = number
            if notified:
                deliverer.notify(IMAGES[kind].name, IMAGES[kind].tag)
        await step(deliverer, world)
        if not left and world.now > 400:
            break
    assert world.stored[-1].platform == IMAGES[PLATFORM].pinned(digest(world.tags[PLATFORM]))
    assert world.stored[-1].bot == IMAGES[BOT].pinned(digest(world.tags[BOT]))
    pairs = [(release.platform, release.bot) for release in world.stored]
    assert all(before != after for before, after in itertools.pairwise(pairs))


def test_an_image_that_never_changes_is_not_watched() -> None:
    pinned = f"registry.example/bot@{digest(1)}"
    assert Wish(platform=digest(2), bot=pinned).watched() == {}
    assert set(Wish(platform="registry.example/platform:latest", bot=pinned).watched()) == {PLATFORM}
