"""The deliverer's own image: replaced only while nobody else changes the installation, and judged only by itself."""
# ruff: noqa: ASYNC240 - files of a test are small

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wopr.delivery import deliver_handover
from wopr.delivery.deliver_handover import ALIVE_FILE, FAILED_FILE, Handover, NotTried
from wopr.delivery.hosts import RUN_SECONDS, LocalHost, Output
from wopr.delivery.lock import hold
from wopr.delivery.place import Place
from wopr.delivery.release import Part, State, write_state

AWAY = b"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
GONE = b"Error response from daemon: No such container: wopr-deliverer"
BEFORE = "WOPR_BLUE_RELEASE=1\nWOPR_DELIVERER_IMAGE=old\n"


@dataclass(frozen=True)
class Engine(LocalHost):
    """This machine with an engine that says, look for look, what is in `says`, and then that the deliverer runs."""

    says: list[Output] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        words = " ".join(argv)
        if "compose version" in words:
            return Output(0, b"plugin")
        if " up -d " in words:
            self.started.append(words)
            return Output(0)
        if argv[0] != "docker":
            return await super().run(argv, input=input, timeout=timeout)
        return self.says.pop(0) if self.says else seen("running")


def seen(status: str) -> Output:
    state = {"Running": status == "running", "Status": status, "ExitCode": 3}
    found = {"Config": {"Image": "old", "Hostname": "successor"}, "RestartCount": 0, "State": state}
    return Output(0, json.dumps([found]).encode())


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(deliver_handover, "WAIT_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(deliver_handover, "ALIVE_LOOK_SECONDS", 0.02)
    place = Place(str(tmp_path / "wopr"))
    async with hold(LocalHost(), place, "deploy") as fence:
        await write_state(fence, State(active=Part(1, "blue")))
        await fence.write(place.stack_env, BEFORE.encode())
        await fence.write(f"{place.dir}/{ALIVE_FILE}", b'{"host": "successor"}')
    return place


def lines(place: Place) -> Sequence[str]:
    return Path(place.stack_env).read_text().splitlines()


async def test_the_deliverer_is_replaced_once_nobody_else_changes_the_installation(place: Place) -> None:
    """A release that reads and writes the same file meanwhile would lose its lines, or we ours."""
    engine = Engine()
    async with hold(LocalHost(), place, "deploy") as fence:
        helping = asyncio.create_task(Handover(engine, place).finish("new"))
        done, _ = await asyncio.wait({helping}, timeout=0.5)
        assert not done, "it waits"
        assert Path(place.stack_env).read_text() == BEFORE
        await fence.write(place.stack_env, BEFORE.encode() + b"WOPR_GREEN_RELEASE=2\n")
    assert await helping
    assert lines(place) == ["WOPR_BLUE_RELEASE=1", "WOPR_GREEN_RELEASE=2", "WOPR_DELIVERER_IMAGE=new"]
    assert len(engine.started) == 1


async def test_an_image_that_was_never_tried_is_not_remembered_as_one_that_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_handover, "WAIT_SECONDS_MAX", 0.1)
    engine = Engine()
    async with hold(LocalHost(), place, "deploy"):
        with pytest.raises(NotTried, match="runs `deploy`"):
            await Handover(engine, place).finish("new")
    assert Path(place.stack_env).read_text() == BEFORE
    assert not Path(place.dir, FAILED_FILE).exists()
    assert engine.started == []


@pytest.mark.parametrize(
    ("said", "works"),
    [(Output(1, b"", AWAY), True), (Output(1, b"", GONE), False), (seen("exited"), True)],
    ids=["the engine is away", "it is gone", "it ended after it had looked"],
)
async def test_only_what_the_engine_says_of_the_successor_is_held_against_it(
    place: Place, said: Output, works: bool
) -> None:
    engine = Engine(says=[seen("running"), said])
    assert await Handover(engine, place).finish("new") is works
    assert len(engine.started) == (1 if works else 2)
    assert lines(place)[-1] == f"WOPR_DELIVERER_IMAGE={'new' if works else 'old'}"
    assert Path(place.dir, FAILED_FILE).exists() is not works
