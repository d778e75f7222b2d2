"""A machine or an engine that does not answer says nothing of a release: it is not judged, and is tried again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.delivery.killing import Machine

from wopr.delivery import observe, quarantine
from wopr.delivery.cutover import Limits
from wopr.delivery.deliver import RealWorld, Wish
from wopr.delivery.deploy import Request, deploy
from wopr.delivery.errors import HostAway, HostFailed
from wopr.delivery.hosts import RUN_SECONDS, Output
from wopr.delivery.place import Place
from wopr.delivery.release import read_releases
from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal

PLACE = Place("/root/wopr-platform")
SAID = b"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
REVISIONS = b'{"from": "0005", "head": "0005", "ahead": false, "revisions": []}'
LIMITS = Limits(ready_seconds=0.2, observe_seconds=0.0)


@dataclass
class Restarting(Machine):
    """A machine whose engine, or the way to it, goes away as one of these commands begins, until it is said to be back.

    `passes`: so many of them come through before; `silent`: so many are refused, and then it is back by itself.
    `hangs`: a command does not end, instead of being refused.
    """

    at: str = ""
    passes: int = 0
    silent: int = 0
    hangs: bool = False
    broken: bool = False
    away: bool = False

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        words = " ".join(argv)
        if self.at and self.at in words:
            self.passes -= 1
            self.away |= self.passes < 0
        if self.away and self.silent and "docker" in words:
            self.silent -= 1
            if not self.silent:
                self.away, self.at = False, ""
        if self.away and "docker" in words and self.hangs:
            raise HostFailed(f"`docker` did not end within {timeout:.0f} s.")
        if self.away and "docker" in words and self.broken:
            raise HostAway("The connection broke in the middle of a command.")
        if self.away and "docker" in words:
            return Output(125 if " run " in words else 1, b"", SAID)
        if "image inspect" in words:
            found = {"Id": argv[-1], "Architecture": "amd64", "Config": {"Entrypoint": ["wopr"]}}
            return Output(0, json.dumps([found]).encode())
        if "docker version" in words:
            return Output(0, b"amd64")
        if "docker run" in words:
            return Output(0, REVISIONS)
        if "compose version" in words:
            return Output(0, b"plugin")
        return await super().run(argv, input=input, timeout=timeout)


def image(number: int) -> Request:
    return Request(f"registry.example/wopr@sha256:{number:064x}", limits=LIMITS)


async def installed(folder: Path) -> tuple[Restarting, Journal]:
    machine, journal = Restarting(PLACE), Journal(folder)
    machine.files[PLACE.env] = b"BOT_RUNTIME=process\n"
    assert (await deploy(machine, PLACE, journal, image(1), lambda *_: None)).good
    return machine, journal


@pytest.mark.parametrize("broken", [False, True], ids=["engine", "connection"])
@pytest.mark.parametrize(
    ("at", "passes"),
    [("image inspect", 0), ("image inspect", 1), ("docker run", 0), (" start wopr-", 0)],
    ids=["as it is fetched", "as it is looked at", "as it is asked for its migrations", "as it is started"],
)
async def test_a_release_that_meets_nobody_who_answers_is_tried_again(
    tmp_path: Path, at: str, passes: int, broken: bool
) -> None:
    machine, journal = await installed(tmp_path)
    machine.at, machine.passes, machine.broken = at, passes, broken
    with pytest.raises(HostFailed):
        await deploy(machine, PLACE, journal, image(2), lambda *_: None)
    assert await quarantine.read_quarantine(machine, PLACE) == []
    assert list(open_incidents(journal)) == []
    machine.at, machine.away = "", False
    assert (await deploy(machine, PLACE, journal, image(2), lambda *_: None)).good
    assert [one.verdict for one in await read_releases(machine, PLACE)][-1] == "good"


@pytest.mark.parametrize("kind", ["engine", "connection", "hanging"])
@pytest.mark.parametrize("at", [" stop ", "/ready", "observe"])
async def test_an_engine_that_is_away_while_a_release_is_observed_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, kind: str
) -> None:
    monkeypatch.setattr(observe, "LOOK_SECONDS", 0.01)
    machine, journal = await installed(tmp_path)
    machine.broken, machine.hangs = kind == "connection", kind == "hanging"

    def tell(what: str, _: str) -> None:
        if what == "serving":
            machine.at, machine.silent = at, 30 * observe.BAD_LOOKS_MAX

    verdict = await deploy(machine, PLACE, journal, image(2), tell)
    assert machine.silent == 0, "it was away, and for longer than what a bad release gets"
    assert (verdict.verdict, verdict.serving) == ("good", 2)
    assert await quarantine.read_quarantine(machine, PLACE) == []
    assert list(open_incidents(journal)) == []
    assert sorted(one.status for one in machine.containers.values() if one.slot) == ["exited"] * 2 + ["running"] * 2


async def test_an_engine_that_stays_away_ends_the_release_without_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(observe, "AWAY_SECONDS_MAX", 0.0)
    machine, journal = await installed(tmp_path)

    def tell(what: str, _: str) -> None:
        machine.away |= what == "serving"

    with pytest.raises(HostAway):
        await deploy(machine, PLACE, journal, image(2), tell)
    machine.away = False
    assert (await deploy(machine, PLACE, journal, image(2), lambda *_: None)).serving == 2
    assert await quarantine.read_quarantine(machine, PLACE) == []
    assert list(open_incidents(journal)) == []


async def test_the_deliverer_opens_an_incident_of_what_stays_down_and_ends_it(tmp_path: Path) -> None:
    machine, journal = await installed(tmp_path)
    wish = Wish("registry.example/wopr", incident_after_seconds=0.0)

    async def looks() -> Sequence[str]:
        world = RealWorld(machine, PLACE, journal, wish, lambda _: None, lambda *_: None, "ada")
        await world.catch_up()
        return sorted(one.title for one in open_incidents(journal))

    assert await looks() == []
    for one in machine.containers.values():
        one.status = "exited"
    assert "api does not answer" in await looks()
    for one in machine.containers.values():
        one.status = "running"
    assert await looks() == []
