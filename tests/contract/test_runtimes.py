"""Every runtime does the same: starts the real bot once, finds it again, ends it, removes it, shows what it wrote."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest

from wopr.bot import contract
from wopr.core.ids import BotId, new_id
from wopr.fleet.build import bot_http
from wopr.fleet.environment import Access, Character, bot_environment, limits_of
from wopr.fleet.runtimes.process import ProcessRuntime, stop_all
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Instance, Runtime
from wopr.fleet.runtimes.record import process_identity, read_record, strays

MakeRuntime = Callable[[], Runtime]
WAIT_SECONDS = 15.0


@pytest.fixture(params=["process"])
async def make_runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeRuntime]:
    """Makes runtimes on one place, as processes of the API one after the other would; nothing is left at the end."""
    made: list[Runtime] = []

    def make() -> Runtime:
        made.append({"process": ProcessRuntime}[request.param](tmp_path))
        return made[-1]

    yield make
    await asyncio.to_thread(stop_all, tmp_path)
    for runtime in made:
        await runtime.close()
    assert [pid for pid, folder in strays() if tmp_path in folder.parents] == []


@pytest.fixture
def runtime(make_runtime: MakeRuntime) -> Runtime:
    return make_runtime()


def spec(bot_id: UUID | None = None, generation: int = 1) -> BotSpec:
    bot = BotId(bot_id or new_id())
    character = Character(bot, "Ada", "You are kind.", "", "handbook", "rms")
    environment = bot_environment(character, Access("http://127.0.0.1:9/v1", "wopr_bot_0000000000"))
    return BotSpec(bot, generation, "standard", limits_of("standard"), environment)


async def answering(instance: Instance) -> httpx.Response:
    """The first answer of a bot's health route."""
    async with bot_http() as http, asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await http.get(instance.url + contract.ROUTE_HEALTH)
            except httpx.TransportError:
                await asyncio.sleep(0.02)


async def test_a_started_bot_answers_and_is_found_by_any_process(make_runtime: MakeRuntime) -> None:
    instance = await make_runtime().start(spec())
    answer = await answering(instance)
    assert (answer.status_code, answer.json()) == (200, contract.HEALTH_BODY)
    other = make_runtime()
    assert await other.locate(instance.bot_id) == instance
    assert await other.observe() == {instance.bot_id: instance}


async def test_the_token_opens_the_bot_and_nothing_else_does(runtime: Runtime) -> None:
    instance = await runtime.start(spec())
    await answering(instance)
    url = instance.url + contract.ROUTE_CONVERSATIONS
    async with bot_http() as http:
        assert (await http.get(url)).status_code == 401
        # 503 while its database opens
        assert (await http.get(url, headers={"authorization": f"Bearer {instance.token}"})).status_code in (200, 503)


async def test_starting_what_runs_gives_the_same_instance(make_runtime: MakeRuntime) -> None:
    wanted = spec()
    first = await make_runtime().start(wanted)
    assert await make_runtime().start(wanted) == first


async def test_two_starters_at_once_make_one_instance(make_runtime: MakeRuntime) -> None:
    wanted = spec()
    starters = [make_runtime() for _ in range(4)]
    await asyncio.gather(*(starter.start(wanted) for starter in starters), return_exceptions=True)
    living = [pid for pid, folder in strays() if folder.name == str(wanted.bot_id)]
    assert len(living) == 1


async def test_a_new_generation_replaces_the_old_instance(runtime: Runtime) -> None:
    wanted = spec()
    old = await runtime.start(wanted)
    new = await runtime.start(spec(wanted.bot_id, 2))
    assert new.id != old.id
    assert (await runtime.observe())[wanted.bot_id] == new
    with pytest.raises(httpx.TransportError):
        async with bot_http() as http:
            await http.get(old.url + contract.ROUTE_HEALTH)


async def test_stopping_ends_the_bot_keeps_its_data_and_may_be_repeated(runtime: Runtime) -> None:
    wanted = spec()
    await answering(await runtime.start(wanted))
    await runtime.stop(wanted.bot_id)
    await runtime.stop(wanted.bot_id)
    assert await runtime.locate(wanted.bot_id) is None
    again = await runtime.start(wanted)
    assert (await answering(again)).status_code == 200


async def test_a_stop_of_our_own_is_not_reported_as_an_end(runtime: Runtime) -> None:
    ended: list[Ended] = []
    runtime.watch(ended.append)
    wanted = spec()
    await runtime.start(wanted)
    await runtime.stop(wanted.bot_id)
    assert ended == []


async def test_removing_leaves_nothing_and_may_be_repeated(runtime: Runtime) -> None:
    wanted = spec()
    await answering(await runtime.start(wanted))
    await runtime.remove(wanted.bot_id)
    await runtime.remove(wanted.bot_id)
    assert await runtime.observe() == {}
    assert await runtime.logs(wanted.bot_id, 10) == []


@pytest.mark.parametrize("adopted", [False, True], ids=["own child", "adopted"])
async def test_the_end_of_a_bot_is_noticed_with_its_reason(make_runtime: MakeRuntime, adopted: bool) -> None:
    wanted = spec()
    runtime = make_runtime()
    instance = await runtime.start(wanted)
    await answering(instance)
    if adopted:
        await runtime.close()
        runtime = make_runtime()
        await runtime.observe()
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime.watch(ended.put_nowait)
    pid = [pid for pid, folder in strays() if folder.name == str(wanted.bot_id)]
    os.kill(pid[0], signal.SIGKILL)
    end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
    assert (end.bot_id, end.instance_id) == (wanted.bot_id, instance.id)
    assert "SIGKILL" in end.reason
    assert await runtime.observe() == {}


async def test_logs_tell_the_streams_apart_and_can_be_followed(runtime: Runtime) -> None:
    wanted = spec()
    instance = await runtime.start(wanted)
    async with aclosing(runtime.follow(wanted.bot_id, 100)) as lines, asyncio.timeout(WAIT_SECONDS):  # type: ignore[type-var]
        first = await anext(lines)
    await answering(instance)
    shown = await runtime.logs(wanted.bot_id, 100)
    assert first in shown
    assert {line.stream for line in shown} == {"stdout"}
    assert await runtime.logs(wanted.bot_id, 1) == shown[-1:]
    assert all(instance.token not in line.text and "wopr_bot_" not in line.text for line in shown)


async def test_a_bot_that_cant_start_says_why(runtime: Runtime) -> None:
    wanted = spec()
    broken = BotSpec(
        wanted.bot_id, 1, "standard", wanted.limits, {**wanted.environment, contract.ENV_GATEWAY_URL: "nonsense"}
    )
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime.watch(ended.put_nowait)
    await runtime.start(broken)
    end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
    assert "exit code" in end.reason
    assert contract.ENV_GATEWAY_URL in end.reason


async def test_a_process_knows_nothing_of_the_platform(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_secret")
    monkeypatch.setenv("PLATFORM_SECRET", "top secret")
    instance = await runtime.start(spec())
    await answering(instance)
    record = read_record(tmp_path / "bots" / str(instance.bot_id))
    assert record is not None
    environment = psutil.Process(record.pid).environ()
    assert "WOPR_SERVICE_KEY" in environment
    assert not {"STRIPE_SECRET_KEY", "PLATFORM_SECRET"} & environment.keys()


async def test_a_process_without_a_record_is_found_and_ended_by_the_next_start(
    make_runtime: MakeRuntime, tmp_path: Path
) -> None:
    wanted = spec()
    await make_runtime().start(wanted)
    folder = tmp_path / "bots" / str(wanted.bot_id)
    orphan = read_record(folder)
    assert orphan is not None
    (folder / "run.json").unlink()  # as if the starter had been killed between the start and the record
    new = await make_runtime().start(wanted)
    assert process_identity(orphan.pid) != orphan.identity
    assert (await answering(new)).status_code == 200


async def test_stopping_everything_under_a_folder_needs_no_runtime(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    bots = [await make_runtime().start(spec()) for _ in range(2)]
    (tmp_path / "bots" / str(bots[0].bot_id) / "run.json").unlink()
    assert await asyncio.to_thread(stop_all, tmp_path) == 2
    assert await make_runtime().observe() == {}
