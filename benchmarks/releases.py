"""Goals D3, D5, D6 and D7: releases under load, back, bad releases, and deployers killed at every step.

D3 is measured beside two other ways of changing a release, in the same run and under the same load of pages, reads,
writes, questions and streams, each answer looked at and each write looked for afterwards: stopping the old containers
first, and pointing the proxy at the new ones by a reload of its configuration. Both have the proxy that such
an installation has: one upstream, no readiness check.

    benchmarks/releases.py                     everything
    benchmarks/releases.py swaps --swaps 100   one part: swaps, rollbacks, bad or kills
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from report import median, percentile, run, say, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.live import wait_for
from tests.machines import building, engine, registry
from tests.machines.customers import KINDS as QUESTIONS
from tests.machines.customers import STREAM, Customers, customers
from tests.machines.installation import Installation, Load, installed
from tests.machines.killed import MOMENTS
from tests.machines.kills import Kind, Missed, kill, points
from tests.machines.kinds import KINDS
from tests.machines.test_releases import BUT_THE_API, migration, other_architecture

from wopr.delivery import commands
from wopr.delivery.commands import PLUGIN, STANDALONE
from wopr.delivery.place import Place, Slot, other

SWAPS, ROLLBACKS = 40, 6
PEERS_SHARE = 6  # of as many swaps the peers do one
RELEASE = ("--observe", "0", "--ready", "60")
PAUSE_SECONDS = 0.02  # two cores are shared by load, platform and deployer
STREAM_PIECES = 20  # two seconds each
READY_SECONDS = 120.0
HEADERS = (
    "way", "swaps", "requests", "wrong or none", "streams", "cut or refused", "writes lost or doubled", "slowest",
    "a swap takes", "goal",
)  # fmt: skip
SMALL = "wopr-test/small:1"
UPSTREAMS = {"api": 3100, "ui": 3000}


def main() -> None:
    parts: dict[str, Callable[[Installation, argparse.Namespace], None]]
    parts = {"swaps": swaps, "rollbacks": rollbacks, "bad": bad_releases, "kills": kills}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--swaps", type=int, default=SWAPS, help="of D3; the peers do a sixth of them each")
    parser.add_argument("--rollbacks", type=int, default=ROLLBACKS, help="of D5")
    parser.add_argument("--kills", type=int, default=0, help="of D7, of each kind of run; 0: at every point")
    parser.add_argument("--kinds", action="append", help="of D7: only kinds of run with this in their name")
    parser.add_argument("--moments", nargs="+", default=MOMENTS, choices=MOMENTS, help="of D7: when at an entry")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    with running() as site:
        for name in given.parts or parts:
            parts[name](site, given)


@contextmanager
def running() -> Iterator[Installation]:
    """An installation on this machine's engine."""
    say("images, and a first release")
    with engine.running() as docker:
        for name in building.THIRD_PARTIES:
            building.ensure(docker, name)
        with installed(docker, building.ours(docker, "platform")) as site:
            yield site


def swaps(site: Installation, given: argparse.Namespace) -> None:
    """D3: what customers met in so many changes of the release, in three ways: each kind of request, each write."""
    images = [site.derive(), site.derive()]
    few = max(1, given.swaps // PEERS_SHARE)
    with customers(site) as come:
        ours = _swapped(come, "wopr deploy", given.swaps, lambda n: site.release(images[n % 2], *RELEASE))
        with plain_proxy(site):
            stopped = _swapped(come, "peer: the old one is stopped first", few, lambda _: stop_first(site))
            reloaded = _swapped(come, "peer: the proxy is reloaded", few, lambda _: reload_proxy(site))
    ways = [(*ours.row(), "0; 0; 0"), (*stopped.row(), "–"), (*reloaded.row(), "–")]
    table("Releases under load (D3)", HEADERS, ways)
    rows = [(kind, *(way.of(kind) for way in (ours, stopped, reloaded))) for kind in QUESTIONS]
    table("By kind: wrong or none, of all", ("kind", *(way.way for way in (ours, stopped, reloaded))), rows)


@dataclass(frozen=True)
class Swapped:
    """What customers met in so many swaps of one way."""

    way: str
    took: Sequence[float]
    crowd: Customers
    misdone: int

    def row(self) -> tuple[object, ...]:
        """Its line, but for the goal."""
        asked = {kind: self.crowd.answered[kind] + self.crowd.failed(kind) for kind in QUESTIONS}
        requests = sum(asked.values()) - asked[STREAM]
        failed = sum(self.crowd.failed(kind) for kind in QUESTIONS if kind != STREAM)
        share = f"{failed:,} ({failed / max(1, requests):.1%})" if failed else "0"
        slowest = max(seconds for kind, seconds in self.crowd.slowest_seconds.items() if kind != STREAM)
        streams = (f"{asked[STREAM]:,}", self.crowd.failed(STREAM), self.misdone)
        ends = (f"{slowest:.1f} s", f"{median(self.took):.1f} s")
        return (self.way, len(self.took), f"{requests:,}", share, *streams, *ends)

    def of(self, kind: str) -> str:
        """How many requests of a kind failed, of how many."""
        failed = self.crowd.failed(kind)
        return f"{failed:,} of {self.crowd.answered[kind] + failed:,}"


def _swapped(come: Callable[[], Customers], way: str, count: int, swap: Callable[[int], object]) -> Swapped:
    crowd, took = come(), []
    crowd.model.pieces = STREAM_PIECES
    with crowd:
        wait_for(lambda: all(crowd.answered[kind] for kind in QUESTIONS), "customers of every kind", READY_SECONDS)
        for number in range(count):
            began = time.monotonic()
            swap(number)
            took.append(time.monotonic() - began)
            failed = sum(map(len, crowd.failures.values()))
            say(f"{way}: {number + 1} of {count} in {took[-1]:.1f} s, {failed} requests failed so far")
    misdone = [*crowd.misdone(), *filter(None, [crowd.unpaid()])]
    for failure in [*crowd.wrong(), *misdone[:5]]:
        say(f"  such as {failure[:240]!r}")
    return Swapped(way, took, crowd, len(misdone))


@contextmanager
def plain_proxy(site: Installation) -> Iterator[None]:
    """Caddy with one upstream and without our checks, and afterwards as a release had it, with that release alone."""
    point_at(site, serving_slot(site))
    try:
        yield
    finally:
        live = ("exec", f"{site.name}-caddy", "caddy", "reload", "--config", "/etc/caddy/Caddyfile")
        site.engine.docker(*live, "--adapter", "caddyfile", check=False)
        site.deploy("", *RELEASE)


def point_at(site: Installation, slot: Slot) -> None:
    """Make a slot the only upstream."""
    text = Path(Place(str(site.folder)).caddy_live).read_text()
    head, _, rest = text.partition("(slots) {\n")
    text = head + "(slots) {\n}" + rest.partition("\n}")[2]
    for role, port in UPSTREAMS.items():
        text = text.replace(f"{role}-blue:{port} {role}-green:{port}", f"{role}-{slot}:{port}")
    load = ("exec", "-i", f"{site.name}-caddy", "caddy", "reload", "--adapter", "caddyfile", "--config", "/dev/stdin")
    site.engine.docker(*load, input=text)


def serving_slot(site: Installation) -> Slot:
    """The slot whose API runs."""
    slot: Slot = site.state()["active"]["slot"]
    return slot if site.containers()[f"api-{slot}"]["State"]["Running"] else other(slot)


def stop_first(site: Installation) -> None:
    """As compose replaces a container: stop, then start."""
    slot = serving_slot(site)
    names = [f"{site.name}-{role}-{slot}" for role in UPSTREAMS]
    site.engine.docker("stop", "--time", "25", *names)
    site.engine.docker("start", *names)
    _ready(site, slot)


def reload_proxy(site: Installation) -> None:
    """Start the other slot, let the proxy know only that one, stop the first one."""
    place, old = Place(str(site.folder), site.name), serving_slot(site)
    new = other(old)
    shutil.copy(place.slot_env(old), place.slot_env(new))
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    file = place.snapshot(site.state()["active"]["release"], "compose.yaml")
    up = commands.up_slot(PLUGIN if plugin else STANDALONE, place, file, new)
    subprocess.run(up, check=True, capture_output=True, env=site.variables())
    _ready(site, new)
    point_at(site, new)
    site.engine.docker("stop", "--time", "25", *place.slot_containers(old))


def rollbacks(site: Installation, given: argparse.Namespace) -> None:
    """D5: from the command to the older release serving, and to the end of the command. No registry is there."""
    serving, whole_command = [], []
    for number in range(given.rollbacks):
        site.release(site.derive(), *RELEASE)
        known, began, at = len(site.journal()), time.monotonic(), time.time()
        done = site.wopr("rollback", "--json", "--ready", "60")
        assert done.returncode == 0, done.stderr
        whole_command.append(time.monotonic() - began)
        said = [e for e in site.journal()[known:] if e["name"] == "rollback" and e["data"].get("step") == "serving"]
        serving.append(datetime.fromisoformat(said[0]["at"]).timestamp() - at)
        say(f"rollback {number + 1} of {given.rollbacks}: serves after {serving[-1]:.1f} s")
    rows = [
        ("the older release serves", f"{median(serving):.1f} s", f"{percentile(serving, 0.95):.1f} s", "3 s"),
        (
            "the command ends, the other one drained",
            f"{median(whole_command):.1f} s",
            f"{percentile(whole_command, 0.95):.1f} s",
            "–",
        ),
    ]
    table(f"Rollback, {given.rollbacks} times (D5)", ("what", "median", "p95", "goal"), rows)


def bad_releases(site: Installation, _given: argparse.Namespace) -> None:
    """D6: how soon a bad release is known to be bad, and what customers met meanwhile."""
    site.settle()
    rows = []
    for kind, words in bad_ones(site):
        slot = site.state()["active"]["slot"]
        before = site.containers()[f"api-{slot}"]["Id"]
        with Load(site, threads=2, pause_seconds=PAUSE_SECONDS) as load:
            known, began, at = len(site.journal()), time.monotonic(), time.time()
            done = site.wopr("deploy", *words, "--json", "--yes", "--observe", "0")
            took = time.monotonic() - began
        assert done.returncode == 1, done.stdout + done.stderr
        judged = [e for e in site.journal()[known:] if e["data"].get("step") == "judged"]  # none: it was refused
        verdict = datetime.fromisoformat(judged[0]["at"]).timestamp() - at if judged else took
        untouched = "yes" if site.containers()[f"api-{slot}"]["Id"] == before else "no"
        rows.append((kind, f"{verdict:.1f} s", f"{took:.1f} s", untouched, len(load.failures), "10 s; yes; 0"))
        say(f"{kind}: {verdict:.1f} s, its end after {took:.1f} s")
    columns = ("release", "verdict after", "cleared away after", "the old one went on", "failed requests", "goal")
    table("Bad releases (D6)", columns, rows)


def bad_ones(site: Installation) -> Iterator[tuple[str, Sequence[str]]]:
    """Each kind of bad release, and the words with which it is released."""
    yield "crashes", (site.derive(BUT_THE_API.format("exit 3")),)
    yield "never ready", (site.derive(BUT_THE_API.format("exec sleep 600")),)
    yield "another program", (site.derive('ENTRYPOINT ["/bin/sleep", "600"]'),)
    with tempfile.TemporaryDirectory() as folder:
        yield "another architecture", (other_architecture(site, Path(folder)),)
    with registry.serving(site.engine) as hub:  # a small one is enough, for nobody gets it
        small = site.engine.docker("import", "--change", 'ENTRYPOINT ["wopr"]', "-", SMALL, input="").stdout.strip()
        pushed = hub.push(SMALL, "wopr-platform:latest")
        site.engine.docker("image", "rm", "-f", small)
        yield "no access to the registry", (pushed,)
    head = site.psql("SELECT version_num FROM alembic_version")
    failing = migration(f"{head}_x", head, "CREATE TABLE twice (id int); SELECT 1/0")
    yield "a migration fails", (site.derive(failing), "--allow-destructive")
    site.set_env("DATABASE_POOL_SIZE", "many")
    yield "a wrong setting", ()
    site.set_env("DATABASE_POOL_SIZE", "")


def kills(site: Installation, given: argparse.Namespace) -> None:
    """D7: deployers killed at every entry of their journal, and how long the next run takes until all is in order."""
    site.settle()
    kinds = [kind for kind in KINDS if not given.kinds or any(word in kind.name for word in given.kinds)]
    rows = [_killed(kind, site, given) for kind in kinds]
    headers = (
        "run",
        "points",
        "killed",
        "not come to",
        "in order again",
        "median",
        "slowest",
        "failed requests",
        "goal",
    )
    table("Killed deployers (D7)", headers, rows)


def _killed(kind: Kind, site: Installation, given: argparse.Namespace) -> tuple[object, ...]:
    """One row: a run of this kind, killed at each point."""
    every = points(kind, site, given.moments)
    few = min(given.kills or len(every), len(every))
    # All entries for one moment, then for the next: a few are spread over the run, and over the moments in turn.
    moments = len(given.moments)
    entries = len(every) // moments
    few_at = [(number % moments) * entries + number * entries // few for number in range(few)]
    chosen = [every[at] for at in few_at] if few < len(every) else every
    took, missed, order, failed = [], 0, 0, 0
    for number, point in enumerate(chosen):
        where = f"{kind.name}, kill {number + 1} of {few}, {point}"
        try:
            mended = kill(kind, site, point)
        except Missed as error:
            missed += 1
            say(f"{where}: not come to: {error}")
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            say(f"{where}: NOT IN ORDER: {error}")
        else:
            order += 1
            took.append(mended.seconds)
            failed += mended.failed
            say(f"{where}: in order again after {mended.seconds:.1f} s, {mended.failed} requests failed")
    killed = few - missed
    times = (f"{median(took):.1f} s", f"{max(took):.1f} s") if took else ("–", "–")
    requests = failed if kind.served else "–"
    return (kind.name, len(every), killed, missed, f"{order} of {killed}", *times, requests, "all; 10 s; 0")


def _ready(site: Installation, slot: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    names = [f"{site.name}-{role}-{slot}" for role in UPSTREAMS]
    while any(site.engine.docker("exec", name, "wopr-probe", "/ready", check=False).returncode for name in names):
        if time.monotonic() > deadline:
            raise SystemExit(f"{slot} was not ready within {READY_SECONDS:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    run(main)
