"""Every runtime does the same: starts the real bot once, finds it again, ends it, removes it, shows what it wrote."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from tests.contract.places import DockerPlace, Place, ProcessPlace, SwarmPlace
from tests.machines.fleet import answering, spec
from tests.machines.swarmfleet import Services

from wopr.bot import contract
from wopr.fleet.build import bot_http
from wopr.fleet.runtimes import process
from wopr.fleet.runtimes.ending import Target, targets_in
from wopr.fleet.runtimes.process import stop_all
from wopr.fleet.runtimes.protocol import BotSpec, Ended, Runtime
from wopr.fleet.runtimes.record import process_identity, read_record

MakeRuntime = Callable[[], Runtime]
WAIT_SECONDS = 60.0
PLACES = ["process", *(pytest.param(name, marks=pytest.mark.machines) for name in ("docker", "swarm"))]


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Where bots run; nothing is left there at the end."""
    made: Place = ProcessPlace(tmp_path)
    if request.param == "docker":
        made = DockerPlace(request.getfixturevalue("bots_installation"))
    elif request.param == "swarm":
        made = SwarmPlace(Services(request.getfixturevalue("swarm"), tmp_path))
    yield made
    await made.close()


@pytest.fixture
def make_runtime(place: Place) -> MakeRuntime:
    """Makes runtimes of one place, as processes of the API one after the other would."""
    return place.make


@pytest.fixture
async def process_place(tmp_path: Path) -> AsyncIterator[ProcessPlace]:
    """For what only processes can do."""
    made = ProcessPlace(tmp_path)
    yield made
    await made.close()


@pytest.fixture
def runtime(make_runtime: MakeRuntime) -> Runtime:
    return make_runtime()


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


async def test_two_starters_at_once_make_one_instance(place: Place) -> None:
    wanted = spec()
    starters = [place.make() for _ in range(4)]
    await asyncio.gather(*(starter.start(wanted) for starter in starters), return_exceptions=True)
    assert place.living(wanted.bot_id) == 1


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
async def test_the_end_of_a_bot_is_noticed_with_its_reason(place: Place, adopted: bool) -> None:
    wanted = spec()
    runtime = place.make()
    instance = await runtime.start(wanted)
    await answering(instance)
    if adopted:
        await runtime.close()
        runtime = place.make()
        await runtime.observe()
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    runtime.watch(ended.put_nowait)
    place.kill(wanted.bot_id)
    end = await asyncio.wait_for(ended.get(), WAIT_SECONDS)
    assert (end.bot_id, end.instance_id) == (wanted.bot_id, instance.id)
    assert "SIGKILL" in end.reason
    assert await runtime.observe() == {}


async def test_logs_tell_the_streams_apart_and_can_be_followed(runtime: Runtime) -> None:
    wanted = spec()
    instance = await runtime.start(wanted)
    async with aclosing(runtime.follow(wanted.bot_id, 100)) as lines, asyncio.timeout(WAIT_SECONDS):  # type: ignore[type-var]
        first = await anext(lines)
        # The last that a bot says when it starts: what is read twice below must not grow in between.
        while '"event": "started"' not in (await anext(lines)).text:
            pass
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


async def test_a_bot_knows_nothing_of_the_platform(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_secret")
    monkeypatch.setenv("PLATFORM_SECRET", "top secret")
    instance = await place.make().start(spec())
    await answering(instance)
    environment = place.environment(instance.bot_id)
    assert "WOPR_SERVICE_KEY" in environment
    assert not {"STRIPE_SECRET_KEY", "PLATFORM_SECRET"} & environment.keys()


async def test_a_process_without_a_record_is_found_and_ended_by_the_next_start(
    process_place: ProcessPlace, tmp_path: Path
) -> None:
    wanted = spec()
    await process_place.make().start(wanted)
    folder = tmp_path / "bots" / str(wanted.bot_id)
    orphan = read_record(folder)
    assert orphan is not None
    (folder / "run.json").unlink()  # as if the starter had been killed between the start and the record
    new = await process_place.make().start(wanted)
    assert process_identity(orphan.pid) != orphan.identity
    assert (await answering(new)).status_code == 200


@pytest.mark.parametrize("way", ["started again", "stopped"])
async def test_a_process_that_is_just_becoming_another_program_is_looked_for_again(
    process_place: ProcessPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    wanted = spec()
    await process_place.make().start(wanted)
    folder = tmp_path / "bots" / str(wanted.bot_id)
    orphan = read_record(folder)
    assert orphan is not None
    (folder / "run.json").unlink()
    looks: list[list[Target]] = []

    def unseen_at_first(folders: Iterable[Path]) -> list[Target]:
        looks.append(targets_in(folders) if looks else [])
        return looks[-1]

    monkeypatch.setattr(process, "targets_in", unseen_at_first)
    if way == "stopped":
        await process_place.make().stop(wanted.bot_id)
    else:
        assert (await answering(await process_place.make().start(wanted))).status_code == 200
    assert process_identity(orphan.pid) != orphan.identity


async def test_stopping_everything_under_a_folder_needs_no_runtime(process_place: ProcessPlace, tmp_path: Path) -> None:
    bots = [await process_place.make().start(spec()) for _ in range(2)]
    for bot in bots:
        await answering(bot)
    (tmp_path / "bots" / str(bots[0].bot_id) / "run.json").unlink()
    assert await asyncio.to_thread(stop_all, tmp_path) == 2
    assert await process_place.make().observe() == {}
