"""Deployers that are killed at every entry of their journal, for every kind of run, and what must hold afterwards.

Where to kill is read from the journal of a run of that kind that nobody disturbed. The next run is what an operator
does then: the same command once more, or a plain `wopr deploy` after the own edit was taken back.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from tests.machines import killed as launcher
from tests.machines.installation import COMMAND_SECONDS, READY_SECONDS, Installation, Load, fresh, installed
from tests.machines.killed import AFTER, BEFORE, MOMENTS, label
from tests.machines.test_releases import content, whole

from wopr.ops.incidents import all_incidents
from wopr.ops.journal import Journal

RELEASE = ("--yes", "--json", "--observe", "0", "--ready", READY_SECONDS)
PLAIN = ("deploy", *RELEASE)
# What another process writes, or what is taken in from the API: no step of the run.
FOREIGN = ("logbook", "journal")
LEFT_OVER = ("*.new", "*.partial", ".registry")
DUMPS = (
    "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'wopr_verify_')",
    "SELECT count(*) FROM pg_ls_dir('/tmp') AS name WHERE starts_with(name, 'wopr-dump-')",
)


@dataclass(frozen=True)
class Point:
    """The n-th entry of this name, and when the kill comes: see `tests.machines.killed`."""

    entry: str
    moment: str = AFTER
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.moment} {self.entry!r}" + (f" ({self.nth})" if self.nth > 1 else "")


@dataclass(frozen=True)
class Killed:
    """A run that was killed: what there was before it, and what it left. `number` is that of its release."""

    point: Point
    words: Sequence[str]
    env: str  # before the operator edited it
    serving: Mapping[str, Any] | None
    number: int
    state: Mapping[str, Any] = field(default_factory=dict)
    condemned: bool = False

    @property
    def committed(self) -> bool:
        """Whether its release had become the one that serves."""
        return self.number in [(self.state.get(part) or {}).get("release") for part in ("active", "leaving")]

    @property
    def bad(self) -> bool:
        """Whether it had come as far as to say that its release is bad."""
        parts = [self.state.get(name) or {} for name in ("active", "leaving")]
        return self.condemned or any(part.get("reason") for part in parts if part.get("release") == self.number)


@dataclass(frozen=True)
class Kind:
    """A kind of run. `begin` brings an installation where it begins and says its words, `again` says what comes after
    the kill, `check` looks at what that made of it.

    `few` are the points of a quick run. `own`: each run needs an installation of its own, and that is `first` an empty
    folder. `served`: no request may fail. `meanwhile` is done while it runs.
    """

    name: str
    begin: Callable[[Installation], Sequence[str]]
    again: Callable[[Installation, Killed], Sequence[str]]
    check: Callable[[Installation, Killed], None]
    few: Sequence[Point] = ()
    own: bool = False
    first: bool = False
    served: bool = False
    meanwhile: Callable[[Installation, "subprocess.Popen[bytes]"], None] | None = None


@dataclass(frozen=True)
class Mended:
    """How long the next run took, and how many requests failed from the kill on until its end."""

    seconds: float
    failed: int


class Missed(Exception):
    """The run ended before it came to the point, or nothing followed it there."""


def points(kind: Kind, site: Installation, moments: Sequence[str] = MOMENTS) -> Sequence[Point]:
    """Every point of a run of this kind, as the journal of one that nobody disturbed has them."""
    with stage(kind, site) as here:
        env = env_of(here)
        words = kind.begin(here)
        known = len(here.journal())
        _run(kind, here, [*here.command, *words, *here.where()])
        names = [_name(entry) for entry in here.journal()[known:] if _own(entry)]
        if not kind.own:
            _put_back(here, env)
    seen = [Point(name, nth=names[: at + 1].count(name)) for at, name in enumerate(names)]
    assert seen, f"a run of {kind.name} wrote nothing"
    return [Point(one.entry, moment, one.nth) for moment in moments for one in seen]


def kill(kind: Kind, site: Installation, point: Point) -> Mended:
    """Kill a run at this point, run again, and look whether all is as it must be. Missed when it did not come to it."""
    with stage(kind, site) as here:
        env = env_of(here)
        words = kind.begin(here)
        before, number = serving(here), 1 + max((one["number"] for one in releases(here)), default=0)
        with Load(here, threads=2, pause_seconds=0.02) if kind.served else nullcontext() as load:
            told = [sys.executable, "-P", launcher.__file__, point.moment, str(point.nth), point.entry]
            code, said = _run(kind, here, [*told, *words, *here.where()])
            if code != -signal.SIGKILL:
                _put_back(here, env)
                raise Missed(f"it ended with {code}: {said[-200:]}")
            dead = Killed(point, words, env, before, number, _state(here), number in quarantined(here))
            began = time.monotonic()
            done = here.wopr(*kind.again(here, dead))
            took = time.monotonic() - began
        assert done.returncode == 0, f"{dead}: {done.stdout}{done.stderr}"
        kind.check(here, dead)
        tidy(here)
        return Mended(took, len(load.failures) if load else 0)


@contextmanager
def stage(kind: Kind, site: Installation) -> Iterator[Installation]:
    """Where a run of this kind happens: the installation that is there, or one for it alone."""
    if not kind.own:
        yield site
    elif kind.first:
        made = fresh(site.engine, site.platform)
        try:
            yield made
        finally:
            made.remove()
    else:
        with installed(site.engine, site.platform) as made:
            yield made


def tidy(site: Installation) -> None:
    """Nothing is left of a run: no lock, no command, no half-written file, no container or database for a moment."""
    assert json.loads((site.folder / "lock.json").read_text())["owner"] == ""
    assert subprocess.run(("flock", "-n", "-x", str(site.folder / ".lock.busy"), "true")).returncode == 0
    left = [str(path) for pattern in LEFT_OVER for path in site.folder.rglob(pattern) if ".git" not in path.parts]
    assert left == []
    moment = site.engine.docker("ps", "-aq", "--filter", f"label=wopr.name={site.name}").stdout.split()
    assert moment == [], "a container that migrates, or says what it would migrate"
    if "postgres" in site.containers():
        assert [site.psql(sql) for sql in DUMPS] == ["0", "0"]
    assert Journal(site.folder).verify() == []


def serves(site: Installation, wanted: Mapping[str, Any] | None, platform: str = "") -> None:
    """One release serves, whole, and it is this one, or one of this image; a run more finds nothing to do."""
    whole(site)
    now = serving(site)
    assert now is not None
    if wanted is not None:
        assert content(dict(now)) == content(dict(wanted))
    if platform:
        assert now["platform"] == platform
    stack = (site.folder / "stack.env").read_text()
    assert f"WOPR_DELIVERER_IMAGE={now['platform']}\n" in stack.replace('"', "").replace("'", ""), "of another release"
    known = len(site.journal())
    assert site.wopr(*PLAIN, "--exit-code").returncode == 4
    more = [_name(entry) for entry in site.journal()[known:]]
    assert not [name for name in more if "recovered" in name], more


def verdict(site: Installation, number: int) -> str:
    """What became of a release; nothing when it was never recorded."""
    return next((str(one["verdict"]) for one in releases(site) if one["number"] == number), "")


def condemned(site: Installation, number: int) -> None:
    """A release that is bad is quarantined and has one incident; one that is not has neither."""
    bad = verdict(site, number) == "bad"
    assert (number in quarantined(site)) == bad
    assert len([one for one in incidents(site, number) if one.open]) == bad


def incidents(site: Installation, number: int) -> Sequence[Any]:
    return [one for one in all_incidents(Journal(site.folder)) if one.facts.get("release") == number]


def env_of(site: Installation) -> str:
    path = site.folder / ".env"
    return path.read_text() if path.exists() else ""


def image_id(site: Installation, tag: str) -> str:
    """An image as a release names it."""
    return site.engine.docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip()


def same_again(_: Installation, dead: Killed) -> Sequence[str]:
    """The same command once more."""
    return dead.words


def same_or_plain(site: Installation, dead: Killed) -> Sequence[str]:
    """The same command once more, or the next release, which is asked for nothing new: by turns."""
    return dead.words if dead.point.moment == BEFORE else PLAIN


def taken_back(site: Installation, dead: Killed) -> Sequence[str]:
    """The operator takes the edit back, unless it serves already."""
    if not dead.committed or dead.bad:
        (site.folder / ".env").write_text(dead.env)
    return PLAIN


def _run(kind: Kind, site: Installation, command: Sequence[str]) -> tuple[int, str]:
    """A command to its end, however that comes; its exit code and what it said."""
    with (site.folder.parent / "said").open("w+b") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=site.variables())
        try:
            if kind.meanwhile:
                kind.meanwhile(site, process)
            process.wait(COMMAND_SECONDS)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        return process.returncode, said.read().decode()


def _put_back(site: Installation, env: str) -> None:
    """After a run that nobody killed: what the operator edited goes again."""
    if env:
        (site.folder / ".env").write_text(env)
        site.wopr(*PLAIN)


def _name(entry: Mapping[str, Any]) -> str:
    return label(entry["name"], entry["phase"], entry["data"])


def _own(entry: Mapping[str, Any]) -> bool:
    return entry["name"] not in FOREIGN and "origin" not in entry["data"]


def _state(site: Installation) -> Mapping[str, Any]:
    path = site.folder / "state.json"
    found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def releases(site: Installation) -> Sequence[Mapping[str, Any]]:
    """Every release as it is recorded."""
    return [json.loads(path.read_text()) for path in sorted((site.folder / "releases").glob("*.json"))]


def serving(site: Installation) -> Mapping[str, Any] | None:
    number = (_state(site).get("active") or {}).get("release")
    return next((one for one in releases(site) if one["number"] == number), None)


def quarantined(site: Installation) -> Sequence[int]:
    path = site.folder / "quarantine.json"
    return [one["release"] for one in json.loads(path.read_text())] if path.exists() else []
