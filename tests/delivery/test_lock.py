"""One deployer at a time: a dead one is taken over from, and one that only seemed dead can change nothing any more."""
# ruff: noqa: ASYNC220, ASYNC240, PT012 - files of a test are small, and a lock is a block

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from tests.delivery.hosting import ssh_machine
from tests.live import missing
from tests.stack import clean_environment

from wopr.delivery import lock
from wopr.delivery.errors import HostFailed, Locked
from wopr.delivery.hosts import Host, LocalHost, Output
from wopr.delivery.lock import STALE_SECONDS, Held, Seen, hold, look
from wopr.delivery.place import Place


@pytest.fixture(params=["local", "ssh"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield LocalHost()
        else:
            yield await stack.enter_async_context(ssh_machine(tmp_path / "ssh"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "wopr"))


@pytest.mark.parametrize(
    ("owner", "machine", "age_seconds", "alive", "wanted"),
    [
        ("", "here", 0, None, "free"),
        ("1@here", "here", 0, True, "held"),
        ("1@here", "here", 0, False, "stale"),
        ("1@there", "there", 3, False, "held"),  # the process is another machine's: ours says nothing about it
        ("1@there", "there", STALE_SECONDS - 1, False, "held"),
        ("1@there", "there", STALE_SECONDS, False, "stale"),
        ("1@here", "here", STALE_SECONDS + 1, True, "stale"),  # it lives and does not beat: it hangs
    ],
)
def test_a_lock_is_taken_only_from_nobody_or_the_dead(
    owner: str, machine: str, age_seconds: float, alive: bool | None, wanted: str
) -> None:
    held = Held(4, owner, "deploy", machine)
    assert look(Seen(held.text(), held, age_seconds), "here", alive) == wanted


def test_a_lock_that_was_never_made_is_free() -> None:
    assert look(Seen("", None, 0.0), "here", None) == "free"


async def test_the_second_is_told_who_has_it(host: Host, place: Place) -> None:
    async with hold(host, place, "deploy"):
        with pytest.raises(Locked, match=rf"{os.getpid()}@{socket.gethostname()} runs `deploy`") as told:
            async with hold(host, place, "rollback"):
                pass
    assert "wopr lock release" in told.value.remedy
    async with hold(host, place, "rollback") as fence:
        assert fence.token == 2


async def test_the_deliverer_that_changes_its_own_image_is_waited_for(
    host: Host, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, met = asyncio.Event(), asyncio.Event()

    async def deliverer() -> None:
        async with hold(host, place, lock.BRIEF):
            entered.set()
            await met.wait()

    def meets(seen: Seen, machine: str, alive: bool | None) -> str:
        verdict = look(seen, machine, alive)
        if verdict == "held":
            met.set()
        return verdict

    told: list[str] = []
    changing = asyncio.create_task(deliverer())
    await entered.wait()
    monkeypatch.setattr(lock, "look", meets)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.0)
    async with hold(host, place, "rollback", waiting=told.append) as fence:
        assert met.is_set()
        assert fence.token == 2
    await changing
    assert len(told) == 1, "it is said once"
    assert re.fullmatch(rf"{os.getpid()}@\S+ runs `deliverer` since \S+; it is waited for, at most [1-6]?\d s", told[0])


async def test_who_waits_for_a_moment_only_says_nothing(
    host: Host, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, told = iter(("held", "free")), list[str]()
    async with hold(host, place, lock.BRIEF):
        monkeypatch.setattr(lock, "look", lambda *_: next(looks))
        monkeypatch.setattr(lock, "SILENT_SECONDS", 3600.0)
        async with hold(host, place, "rollback", waiting=told.append):
            pass
    assert told == []


async def test_whoever_runs_a_command_sees_for_whom_it_waits(place: Place) -> None:
    Path(place.dir).mkdir()
    Path(place.env).write_text("GPU_NODE_SECRET=old\n")
    words = ("secrets", "rotate", "GPU_NODE_SECRET", "--yes", "--dir", place.dir)
    pipe = asyncio.subprocess.PIPE
    async with hold(LocalHost(), place, lock.BRIEF):
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "wopr", *words, stdout=pipe, stderr=pipe, env=clean_environment()
        )
        assert command.stderr is not None
        said = (await command.stderr.readline()).decode()
        assert f"{os.getpid()}@{socket.gethostname()} runs `deliverer`" in said
        assert "it is waited for, at most" in said
    await command.communicate()
    assert command.returncode == 0
    assert Path(place.env).read_text() != "GPU_NODE_SECRET=old\n"


HOLDS = (
    "import asyncio,sys\nfrom wopr.delivery.lock import hold\nfrom wopr.delivery.hosts import LocalHost\n"
    "from wopr.delivery.place import Place\n"
    "async def main():\n async with hold(LocalHost(), Place(sys.argv[1]), 'deploy'):\n"
    "  print('held', flush=True)\n  await asyncio.sleep(60)\nasyncio.run(main())"
)


async def test_the_lock_of_a_killed_process_is_free_at_once(host: Host, place: Place) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, place.dir], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
        with pytest.raises(Locked):
            async with hold(host, place, "deploy"):
                pass
        process.kill()
    async with hold(host, place, "deploy") as fence:
        assert fence.token == 2


async def test_a_living_deployer_in_a_container_of_the_same_name_is_not_taken_for_dead(place: Place) -> None:
    """As with `docker run --network host`: the number of its process is that of another one here, or of none."""
    apart = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if await asyncio.to_thread(subprocess.call, (*apart, "true"), stderr=subprocess.DEVNULL):
        missing("the right to make a name space of processes")
    with subprocess.Popen([*apart, sys.executable, "-c", HOLDS, place.dir], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
            with pytest.raises(Locked, match="runs `deploy`"):
                async with hold(LocalHost(), place, "deploy"):
                    pass
        finally:
            process.kill()


async def test_a_silent_lock_of_another_machine_is_free_after_its_time(host: Host, place: Place) -> None:
    Path(place.dir).mkdir()
    file = Path(place.lock)
    file.write_text(Held(7, "9@elsewhere", "deploy", "elsewhere", 9, 1.0, "then").text())
    with pytest.raises(Locked, match="9@elsewhere"):
        async with hold(host, place, "deploy"):
            pass
    past = time.time() - STALE_SECONDS - 2
    os.utime(file, (past, past))
    async with hold(host, place, "deploy") as fence:
        assert fence.token == 8


async def test_a_holder_beats(host: Host, place: Place) -> None:
    async with hold(host, place, "deploy", heartbeat_seconds=0.05):
        while True:
            seen = await lock.show(host, place)
            assert seen.held is not None
            if seen.held.beat >= 2:
                break
            await asyncio.sleep(0.02)
    seen = await lock.show(host, place)
    assert seen.held == Held(1)


async def test_a_beat_that_lands_late_does_not_keep_the_lock(
    host: Host, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was under way on the host when it was given up here."""
    look_at, landed = lock.show, []

    async def beat_after_a_look(host: Host, place: Place) -> Seen:
        seen = await look_at(host, place)
        if not landed:
            assert seen.held is not None
            late = replace(seen.held, beat=seen.held.beat + 1)
            landed.append(await lock._swapped(host, place, seen.text, late))
        return seen

    async with hold(host, place, "deploy"):
        monkeypatch.setattr(lock, "show", beat_after_a_look)
    assert landed == [True]
    assert (await look_at(host, place)).held == Held(1)


async def test_a_beat_that_is_cut_off_on_its_way_leaves_the_lock_as_it_is(host: Host, place: Place) -> None:
    async with hold(host, place, "deploy") as fence:
        seen = await lock.show(host, place)
        held = seen.held
        assert held is not None

        class Cut:
            async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 10.0) -> Output:
                return await host.run(argv, input=input[: len(input) // 2], timeout=timeout)

            def describe(self) -> str:
                return "a machine that is no longer reached"

        with pytest.raises(HostFailed, match="can't be written"):
            await lock._swapped(cast("Host", Cut()), place, seen.text, replace(held, beat=held.beat + 1))
        assert (await lock.show(host, place)).held == held
        assert (await fence.run(("true",))).ok


async def test_whoever_lost_the_lock_changes_nothing_any_more(host: Host, place: Place, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    with pytest.raises(Locked, match="took over"):
        async with hold(host, place, "deploy") as fence:
            assert (await fence.run(("touch", str(target)))).ok
            target.unlink()
            await lock.release(host, place)
            await fence.run(("touch", str(target)))
    assert not target.exists()
    seen = await lock.show(host, place)
    assert seen.held == Held(2), "the one who lost it does not give it back either"


async def test_whoever_lost_the_lock_is_stopped_by_its_own_heartbeat(host: Host, place: Place) -> None:
    with pytest.raises(Locked, match="took over"):
        async with hold(host, place, "deploy", heartbeat_seconds=0.05):
            await lock.release(host, place)
            await asyncio.sleep(30)


async def test_a_command_that_a_dead_deployer_left_is_waited_for(place: Place, tmp_path: Path) -> None:
    host, done = LocalHost(), tmp_path / "done"
    async with hold(host, place, "deploy") as fence:
        slow = asyncio.create_task(fence.run(("sh", "-c", f"sleep 0.5; touch {done}")))
        await asyncio.sleep(0.1)
        await lock.release(host, place)
        async with hold(host, place, "rollback"):
            assert done.exists()
        await slow


async def test_a_damaged_lock_is_told_not_taken(place: Place) -> None:
    Path(place.dir).mkdir()
    Path(place.lock).write_text("{")
    with pytest.raises(HostFailed, match=r"lock\.json can't be read"):
        async with hold(LocalHost(), place, "deploy"):
            pass


async def test_many_at_once_one_gets_it(place: Place) -> None:
    async def attempt() -> int:
        try:
            async with hold(LocalHost(), place, "deploy") as fence:
                await asyncio.sleep(0.3)
                return fence.token
        except Locked:
            return 0

    got = [token for token in await asyncio.gather(*(attempt() for _ in range(5))) if token]
    assert len(got) == len(set(got)) >= 1


class _Deaf(LocalHost):
    """As Python 3.11 has it: a cancellation that comes together with the end of a command is lost."""

    began = None

    async def run(self, argv, *, input=b"", timeout=60.0):  # type: ignore[no-untyped-def]
        if asyncio.current_task().get_name() != "lock-heartbeat":  # type: ignore[union-attr]
            return await super().run(argv, input=input, timeout=timeout)
        task = asyncio.ensure_future(super().run(argv, input=input, timeout=timeout))
        self.began.set()
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        return task.result()


async def test_a_lock_is_given_back_although_its_heartbeat_did_not_hear_that_it_should_end(place: Place) -> None:
    host = _Deaf()
    object.__setattr__(host, "began", asyncio.Event())
    async with asyncio.timeout(60):
        async with hold(host, place, "deploy", heartbeat_seconds=0.01):
            await host.began.wait()
    assert (await lock.show(host, place)).held == Held(1)
