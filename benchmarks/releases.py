"""Goals D3, D5, D6 and D7: releases under load, back, bad releases, and deployers killed at every step.

D3 is measured beside two other ways of changing a release, in the same run and under the same load: stopping the old
container first, as `docker compose up` does, and pointing the proxy at the new one by a reload of its configuration.

    benchmarks/releases.py [SWAPS]      100 is the goal's number; each takes some seconds
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from report import median, percentile, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.machines import building, engine
from tests.machines.installation import Installation, Load, installed
from tests.machines.test_releases import BUT_THE_API
from tests.machines.test_releases_kills import AFTER_SECONDS, kill_at, steps_of

from wopr.delivery import commands
from wopr.delivery.commands import PLUGIN, STANDALONE
from wopr.delivery.place import Place, Slot, other

SWAPS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
OTHER_SWAPS = max(1, SWAPS // 5)
ROLLBACKS = max(2, SWAPS // 10)
RELEASE = ("--observe", "0", "--ready", "60")


def main() -> None:
    with running() as (site, _):
        swaps(site)
        rollbacks(site)
        bad_releases(site)
        kills(site)


@contextmanager
def running() -> Iterator[tuple[Installation, engine.Engine]]:
    """An installation on this machine's engine."""
    with engine.running() as docker:
        for name in building.THIRD_PARTIES:
            building.ensure(docker, name)
        with installed(docker, building.ours(docker, "platform")) as site:
            yield site, docker


def swaps(site: Installation) -> None:
    """D3: requests that failed in so many changes of the release, in three ways."""
    images = [site.derive(), site.derive()]
    rows = [
        _swapped(
            site, "wopr deploy: two slots, readiness, drain", SWAPS, lambda n: site.release(images[n % 2], *RELEASE)
        ),
        _swapped(site, "peer: the old one is stopped first", OTHER_SWAPS, lambda _: stop_first(site)),
        _swapped(site, "peer: the proxy is reloaded", OTHER_SWAPS, lambda _: reload_proxy(site)),
    ]
    table("Releases under load (D3)", ("way", "swaps", "requests", "failed", "share", "goal"), rows)
    site.deploy("", "--observe", "0")


def _swapped(site: Installation, way: str, count: int, swap: Callable[[int], object]) -> tuple[object, ...]:
    with Load(site) as load:
        for number in range(count):
            swap(number)
    failed = len(load.failures)
    goal = "0" if "wopr" in way else "–"
    return (way, count, load.answered, failed, f"{failed / max(1, load.answered):.2%}", goal)


def stop_first(site: Installation) -> None:
    """As compose replaces a container: stop, then start."""
    slot = site.state()["active"]["slot"]
    names = [f"{site.name}-{role}-{slot}" for role in ("api", "ui")]
    site.engine.docker("stop", "--time", "25", *names)
    site.engine.docker("start", *names)
    _ready(site, slot)


def reload_proxy(site: Installation) -> None:
    """Start the other slot, let the proxy know only that one, stop the first one."""
    state, place = site.state(), Place(str(site.folder), site.name)
    release, old = state["active"]["release"], state["active"]["slot"]
    serving = old if site.engine.state(f"{site.name}-api-{old}") == "running" else other(old)
    new: Slot = other(serving)
    compose = (
        PLUGIN if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0 else STANDALONE
    )
    file = place.snapshot(release, "compose.yaml")
    subprocess.run(commands.up_slot(compose, place, file, new), check=True, capture_output=True, env=site.variables())
    _ready(site, new)
    one = Path(place.caddy_live).read_text().replace(f"api-{serving}:3100", "").replace(f"ui-{serving}:3000", "")
    load = ("exec", "-i", f"{site.name}-caddy", "caddy", "reload", "--adapter", "caddyfile", "--config", "/dev/stdin")
    site.engine.docker(*load, input=one)
    site.engine.docker("rm", "--force", *place.slot_containers(serving))


def rollbacks(site: Installation) -> None:
    """D5: from the command to the older release serving, and to the end of the command. No registry is there."""
    serving, whole = [], []
    for _ in range(ROLLBACKS):
        site.settle()
        site.release(site.derive(), *RELEASE)
        known, began, at = len(site.journal()), time.monotonic(), time.time()
        done = site.wopr("rollback", "--json")
        assert done.returncode == 0, done.stderr
        whole.append(time.monotonic() - began)
        said = [e for e in site.journal()[known:] if e["name"] == "rollback" and e["data"].get("step") == "serving"]
        serving.append(_instant(said[0]["at"]) - at)
    rows = [
        ("the older release serves", f"{median(serving):.1f} s", f"{percentile(serving, 0.95):.1f} s", "3 s"),
        ("the command ends, the other one drained", f"{median(whole):.1f} s", f"{percentile(whole, 0.95):.1f} s", "–"),
    ]
    table(f"Rollback, {ROLLBACKS} times (D5)", ("what", "median", "p95", "goal"), rows)


def bad_releases(site: Installation) -> None:
    """D6: how soon a bad release is known to be bad, and what customers met meanwhile."""
    kinds = {
        "crashes": BUT_THE_API.format("exit 3"),
        "never ready": BUT_THE_API.format("exec sleep 600"),
        "another program": 'ENTRYPOINT ["/bin/sleep", "600"]',
    }
    rows = []
    for kind, line in kinds.items():
        site.settle()
        image = site.derive(line)
        with Load(site, threads=2) as load:
            began = time.monotonic()
            done = site.wopr("deploy", image, "--json", "--yes", "--observe", "0")
            took = time.monotonic() - began
        assert json.loads(done.stdout)["verdict"] == "bad", done.stdout + done.stderr
        rows.append((kind, f"{took:.1f} s", len(load.failures), "10 s; 0"))
    table("Bad releases (D6)", ("release", "verdict after", "failed requests", "goal"), rows)


def kills(site: Installation) -> None:
    """D7: a deployer killed at every step, and how long the next run takes until all is in order."""
    site.settle()
    site.release(site.derive())
    points = [(step, after) for step in steps_of(site, "deploy") for after in AFTER_SECONDS]
    took, left, failed = [], 0, 0
    for step, after in points:
        words = ("deploy", site.derive(), "--yes", "--json", "--observe", "0", "--ready", "60")
        with Load(site, threads=2) as load:
            kill_at(site, words, "deploy", step, after)
            began = time.monotonic()
            site.deploy("", "--observe", "0")
            took.append(time.monotonic() - began)
        failed += len(load.failures)
        slots = {name for name in site.containers() if name.startswith(("api-", "ui-"))}
        left += len(slots) - 2
    rows = [(len(points), f"{median(took):.1f} s", f"{max(took):.1f} s", left, failed, "10 s; 0; 0")]
    headers = ("kills", "in order again, median", "slowest", "containers left over", "failed requests", "goal")
    table("Killed deployers (D7)", headers, rows)


def _ready(site: Installation, slot: str) -> None:
    deadline = time.monotonic() + 60
    names = [f"{site.name}-{role}-{slot}" for role in ("api", "ui")]
    while time.monotonic() < deadline:
        asked = [site.engine.docker("exec", name, "wopr-probe", "/ready", check=False) for name in names]
        if all(one.returncode == 0 for one in asked):
            return
        time.sleep(0.1)


def _instant(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    main()
