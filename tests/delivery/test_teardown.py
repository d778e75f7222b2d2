"""A teardown whose deployer is killed: whatever is left is seen by the next one, and a release may come instead."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.delivery.killing import Killed, Unrendered

from wopr.delivery.hosts import RUN_SECONDS, LocalHost, Output
from wopr.delivery.place import Place
from wopr.delivery.setup import SHIPPED
from wopr.delivery.teardown import survey, teardown

DATABASE = "wopr_postgres-data"
CHANGES_MAX = 40


@dataclass(frozen=True)
class Engine(LocalHost):
    """This machine with an engine in memory. Whoever tears down is killed before the n-th change."""

    things: dict[str, list[str]] = field(default_factory=dict)
    kill: dict[str, int] = field(default_factory=dict)

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = RUN_SECONDS) -> Output:
        if "fenced" not in argv:
            return await self._done(argv, input)
        self.kill["changes"] = self.kill.get("changes", 0) + 1
        if self.kill["changes"] == self.kill.get("before"):
            raise Killed
        return await self._done(argv[list(argv).index("fenced") + 3 :], input)

    async def _done(self, argv: Sequence[str], data: bytes) -> Output:
        if "iptables" in " ".join(argv):
            self.things["rules"].clear()
            return Output(0)
        if argv[0] != "docker":
            return await super().run(argv, input=data)
        kind = "container" if argv[1] in ("ps", "rm", "stop") else argv[1]
        listed = argv[1] == "ps" or argv[2:3] == ("ls",)
        ours = "label=wopr.installation=" in " ".join(argv)
        if listed:
            return Output(0, "\n".join(n for n in self.things.get(kind, []) if n.startswith("bot") == ours).encode())
        if "rm" in argv:
            self.things[kind] = [name for name in self.things[kind] if name not in argv]
        return Output(0)


def installed(folder: Path) -> tuple[Engine, Place]:
    place = Place(str(folder))
    folder.mkdir()
    for name in (".env", "state.json", "stack.env", *SHIPPED):
        (folder / name).write_text("A=1\n")
    (folder / "releases").mkdir()
    things = {
        "container": ["wopr-api-blue", "wopr-caddy", "wopr-postgres", "bot-1"],
        "network": ["wopr-platform", "bot-network"],
        "volume": [DATABASE, "bot-1"],
        "rules": ["DOCKER-USER"],
    }
    return Engine(things=things), place


def killed_anywhere(folder: Path, *, wipe: bool) -> Iterator[tuple[Engine, Place]]:
    """Hosts on which a teardown was killed, before each of its changes."""
    for count in range(1, CHANGES_MAX):
        host, place = installed(folder / str(count))
        host.kill["before"] = count
        try:
            tear_down(host, place, wipe=wipe)
        except Killed:
            host.kill.clear()
            yield host, place
        else:
            return
    raise AssertionError(f"more than {CHANGES_MAX} changes")


def tear_down(host: Engine, place: Place, *, wipe: bool) -> None:
    asyncio.run(teardown(host, place, Unrendered(Path(place.dir)), wipe=wipe, tell=lambda *_: None))


@pytest.mark.parametrize("wipe", [False, True])
def test_what_a_killed_teardown_left_is_seen_and_removed_by_the_next_one(tmp_path: Path, *, wipe: bool) -> None:
    killed = destroyed = 0
    for host, place in killed_anywhere(tmp_path, wipe=wipe):
        killed += 1
        kinds = ("container", "network", "rules", *(("volume",) if wipe else ()))
        if left := [name for kind in kinds for name in host.things[kind]]:
            assert asyncio.run(survey(host, place)).anything(wipe=wipe), left
        if DATABASE not in host.things["volume"]:
            destroyed += 1
            assert not Path(place.state).exists(), "a release would be said to serve on an empty database"
        tear_down(host, place, wipe=wipe)
        assert not any(host.things[kind] for kind in kinds)
    assert killed > 4
    assert bool(destroyed) == wipe
