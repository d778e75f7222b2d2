"""The deliverer's own image: replaced only while nobody else changes the installation, judged only by itself."""
# ruff: noqa: ASYNC240 - files of a test are small

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wopr.delivery import deliver_handover, lock
from wopr.delivery.deliver_handover import ALIVE_FILE, FAILED_FILE, Handover, NotTried, Sign, read_sign, sign_of_life
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import RUN_SECONDS, LocalHost, Output
from wopr.delivery.lock import hold
from wopr.delivery.place import Place
from wopr.delivery.release import Part, State, write_state

AWAY = b"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
GONE = b"Error response from daemon: No such container: wopr-deliverer"
BEFORE = "WOPR_BLUE_RELEASE=1\nWOPR_DELIVERER_IMAGE=old\n"
WORKS, MUTE, ENDS, ASKS_NOBODY = "works", "mute", "ends", "can't ask the registry"
FOR_GOOD = {WORKS: "", MUTE: "no look", ENDS: "it ended at its start", ASKS_NOBODY: "not tell"}


class Killed(BaseException):
    """The helper dies here; what it asked for was done or not."""


@dataclass
class Engine:
    """What the engine has: the deliverer's container, which does as its image does, and the helper, or none."""

    image: str = "old"
    hostname: str = "before"
    status: str = "running"
    restarts: int = 0
    helper: str = ""
    does: Mapping[str, str] = field(default_factory=dict)
    says: list[Output] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    kill_at: int = -1
    steps: int = 0

    def step(self) -> None:
        """One thing that the helper does; it may be its last."""
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    def up(self, place: Place) -> None:
        """`compose up` by what stands in stack.env: another container, with a name of its own."""
        (line,) = [line for line in lines(place) if line.startswith("WOPR_DELIVERER_IMAGE=")]
        self.image = line.partition("=")[2]
        self.started.append(self.image)
        self.hostname = f"{self.image}-{len(self.started)}"
        does = self.does.get(self.image, WORKS)
        self.restarts = 1 if does == ENDS else 0
        if does in (WORKS, ASKS_NOBODY):
            trouble = "the registry does not tell" if does == ASKS_NOBODY else ""
            sign = {"at": "now", "host": self.hostname, "trouble": trouble}
            Path(place.dir, ALIVE_FILE).write_text(json.dumps(sign))


@dataclass(frozen=True)
class Machine(LocalHost):
    """This machine with that engine, which says, look for look, what is in `says` first."""

    place: Place = field(default_factory=lambda: Place("/nowhere"))
    engine: Engine = field(default_factory=Engine)

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        words, engine = " ".join(argv), self.engine
        if "compose version" in words:
            return Output(0, b"plugin")
        if " up -d " in words:
            engine.step()
            engine.up(self.place)
            engine.step()
            return Output(0)
        if argv[0] != "docker":
            engine.step()
            done = await super().run(argv, input=input, timeout=timeout)
            engine.step()
            return done
        return self._asked(words)

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.engine.step()
        await super().write(path, data, mode)
        self.engine.step()

    def _asked(self, words: str) -> Output:
        engine = self.engine
        if "inspect" in words and words.endswith("-helper"):
            state = {"Running": engine.helper == "running", "Restarting": engine.helper == "restarting"}
            return Output(0, json.dumps([{"State": state}]).encode()) if engine.helper else Output(1, b"", GONE)
        if "inspect" in words:
            return engine.says.pop(0) if engine.says else seen(engine)
        engine.ran.append(words)
        return Output(0)


def seen(engine: Engine) -> Output:
    state = {"Running": engine.status == "running", "Status": engine.status, "ExitCode": 3}
    config = {"Image": engine.image, "Hostname": engine.hostname, "User": "4711:4712"}
    found = {
        "Config": config,
        "Image": "sha256:1",
        "RestartCount": engine.restarts,
        "State": state,
        "HostConfig": {"GroupAdd": ["998"]},
    }
    return Output(0, json.dumps([found]).encode())


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(deliver_handover, "WAIT_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(deliver_handover, "ALIVE_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(deliver_handover, "ALIVE_SECONDS_MAX", 0.05)
    place = Place(str(tmp_path / "wopr"))
    async with hold(LocalHost(), place, "deploy") as fence:
        await write_state(fence, State(active=Part(1, "blue")))
        await fence.write(place.stack_env, BEFORE.encode())
        await fence.write(f"{place.dir}/{ALIVE_FILE}", b'{"host": "before"}')
    return place


def lines(place: Place) -> Sequence[str]:
    return Path(place.stack_env).read_text().splitlines()


async def test_the_deliverer_is_replaced_once_nobody_else_changes_the_installation(place: Place) -> None:
    """A release that reads and writes the same file meanwhile would lose its lines, or we ours."""
    engine = Engine()
    async with hold(LocalHost(), place, "deploy") as fence:
        helping = asyncio.create_task(Handover(Machine(place=place, engine=engine), place).finish("new", "old"))
        done, _ = await asyncio.wait({helping}, timeout=0.5)
        assert not done, "it waits"
        assert Path(place.stack_env).read_text() == BEFORE
        await fence.write(place.stack_env, BEFORE.encode() + b"WOPR_GREEN_RELEASE=2\n")
    assert await helping == ""
    assert lines(place) == ["WOPR_BLUE_RELEASE=1", "WOPR_GREEN_RELEASE=2", "WOPR_DELIVERER_IMAGE=new"]
    assert engine.started == ["new"]


async def test_an_image_that_was_never_tried_is_not_remembered_as_one_that_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_handover, "WAIT_SECONDS_MAX", 0.1)
    engine = Engine()
    async with hold(LocalHost(), place, "deploy"):
        with pytest.raises(NotTried, match="runs `deploy`"):
            await Handover(Machine(place=place, engine=engine), place).finish("new", "old")
    assert Path(place.stack_env).read_text() == BEFORE
    assert not Path(place.dir, FAILED_FILE).exists()
    assert engine.started == []


@pytest.mark.parametrize(
    ("said", "works"),
    [("away", True), ("gone", False), ("ended", True)],
    ids=["the engine is away", "it is gone", "it ended after it had looked"],
)
async def test_only_what_the_engine_says_of_the_successor_is_held_against_it(
    place: Place, said: str, works: bool
) -> None:
    engine = Engine()
    successor = replace(engine, image="new", hostname="new-1")
    looks = {
        "away": Output(1, b"", AWAY),
        "gone": Output(1, b"", GONE),
        "ended": seen(replace(successor, status="exited")),
    }
    engine.says = [seen(engine), looks[said]]
    assert bool(await Handover(Machine(place=place, engine=engine), place).finish("new", "old")) is not works
    assert engine.started == (["new"] if works else ["new", "old"])
    assert lines(place)[-1] == f"WOPR_DELIVERER_IMAGE={'new' if works else 'old'}"
    assert Path(place.dir, FAILED_FILE).exists() is not works


@pytest.mark.parametrize("does", [MUTE, ENDS, ASKS_NOBODY])
async def test_a_successor_that_does_not_work_is_followed_by_the_one_before_for_good(place: Place, does: str) -> None:
    engine = Engine(does={"new": does})
    handover = Handover(Machine(place=place, engine=engine), place)
    assert FOR_GOOD[does] in await handover.finish("new", "old")
    assert engine.image == "old"
    assert not await handover.begin("new")
    assert engine.ran == []


async def test_what_the_one_before_can_t_do_either_is_no_fault_of_the_successor(place: Place) -> None:
    engine = Engine(does={"new": ASKS_NOBODY, "old": ASKS_NOBODY})
    handover = Handover(Machine(place=place, engine=engine), place)
    assert await handover.finish("new", "old") == ""
    assert engine.image == "old"
    assert not await handover.begin("new"), "not at once: whoever asked for too much would go on with it"
    record = json.loads(Path(place.dir, FAILED_FILE).read_text())
    passed = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    Path(place.dir, FAILED_FILE).write_text(json.dumps(record | {"again": passed}))
    assert await handover.begin("new")
    engine.does = {}
    assert await handover.finish("new", "old") == ""
    assert engine.image == "new"


@pytest.mark.parametrize("does", FOR_GOOD)
async def test_wherever_the_helper_is_killed_its_next_start_ends_as_one_that_was_not(
    place: Place, does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_alive", lambda held: False)  # whoever was killed is no process any more
    whole = Engine(does={"new": does})
    problem = await Handover(Machine(place=place, engine=whole), place).finish("new", "old")
    assert whole.steps >= 10
    for kill_at in range(1, whole.steps + 1):
        Path(place.stack_env).write_text(BEFORE)
        Path(place.dir, ALIVE_FILE).write_text('{"host": "before"}')
        Path(place.dir, FAILED_FILE).unlink(missing_ok=True)
        engine = Engine(does={"new": does}, kill_at=kill_at)
        with pytest.raises(Killed):
            await Handover(Machine(place=place, engine=engine), place).finish("new", "old")
        assert await Handover(Machine(place=place, engine=engine), place).finish("new", "old") == problem, kill_at
        assert engine.image == whole.image, kill_at
        assert lines(place) == ["WOPR_BLUE_RELEASE=1", f"WOPR_DELIVERER_IMAGE={whole.image}"]
        assert Path(place.dir, FAILED_FILE).exists() is bool(problem), kill_at


@pytest.mark.parametrize(("helper", "begins"), [("", True), ("running", False), ("restarting", False), ("dead", True)])
async def test_a_helper_that_nobody_starts_any_more_makes_room(place: Place, helper: str, begins: bool) -> None:
    engine = Engine(helper=helper)
    assert await Handover(Machine(place=place, engine=engine), place).begin("new") is begins
    words = [ran.split()[1] for ran in engine.ran]
    assert words == ((["rm"] if helper else []) + ["run"] if begins else [])


async def test_the_helper_has_no_other_rights_than_the_deliverer(place: Place) -> None:
    engine = Engine()
    assert await Handover(Machine(place=place, engine=engine), place).begin("new")
    (started,) = engine.ran
    for word in ("--user 4711:4712", "--group-add 998", "--read-only", "--cap-drop ALL", "no-new-privileges:true"):
        assert word in started, word


async def test_a_full_disk_is_held_against_no_image(place: Place) -> None:
    class Full(Machine):
        async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
            if " up -d " in " ".join(argv):
                return Output(1, b"", b"write /var/lib/docker/tmp/x: no space left on device")
            return await super().run(argv, input=input, timeout=timeout)

    with pytest.raises(HostFailed, match="no space"):
        await Handover(Full(place=place, engine=Engine()), place).finish("new", "old")
    assert not Path(place.dir, FAILED_FILE).exists()


def test_a_sign_of_life_says_who_gave_it_and_what_could_not_be_asked() -> None:
    assert read_sign(sign_of_life()) == Sign(socket.gethostname())
    assert read_sign(sign_of_life("away")) == Sign(socket.gethostname(), "away")
    assert read_sign(b'{"at": "now", "host": "before"}') == Sign("before"), "as deliverers before this one wrote it"
    for damaged in (None, b"", b"{", b"[]", b'"x"', b'{"host"'):
        assert read_sign(damaged) is None
