"""Goal D4: from the moment `docker push` has ended until a request through Caddy is answered by the new version.

A real registry, a real installation and `wopr deliver` as on a host, once by looking every five seconds (the default)
and once by the registry's notification. Each push is a whole release: fetched, judged, started beside the old one, made
ready. The layers are on the host already, as the network of a laboratory says nothing about that of a host.

    benchmarks/delivery.py [PUSHES]      of each way
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from report import median, percentile, run, say, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.machines import building, engine, registry
from tests.machines.installation import Installation, installed
from tests.machines.registry import Registry

from wopr.core.postgres import free_port

PUSHES = 8
SECRET = "a-secret-of-notifications"
NAME = "wopr-platform"
SERVED_SECONDS_MAX = 180.0
OBSERVE_SECONDS = "1"
# Another version in the answer of /api/status: the package's own metadata.
VERSION = "find /opt/wopr/app -name METADATA -exec sed -i 's/^Version: .*/Version: {version}/' {{}} +"


@contextmanager
def delivering(site: Installation) -> Iterator[None]:
    words = ("deliver", "--json", "--observe", OBSERVE_SECONDS, "--ready", "60")
    with tempfile.TemporaryFile() as log:
        command = [*site.command, *words, *site.where()]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=site.variables())
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def version(site: Installation) -> str:
    """Who answers through Caddy; empty while nobody does."""
    try:
        url = f"http://127.0.0.1:{site.port}/api/status"
        answer = httpx.get(url, headers={"host": "api.localhost"}, timeout=5, trust_env=False)
        return str(answer.json()["version"])
    except (httpx.HTTPError, ValueError, KeyError):
        return ""


def settled(site: Installation) -> bool:
    """No release is on its way, so that the next push does not wait for the observation of the one before."""
    state, lock = site.state(), json.loads((site.folder / "lock.json").read_text())
    return not state["candidate"] and not state["leaving"] and not lock["owner"]


def measured(site: Installation, hub: Registry, way: str, versions: Sequence[str]) -> list[float]:
    """Seconds from the end of a push until its version serves, once for each."""
    times = []
    for wanted in versions:
        deadline = time.monotonic() + SERVED_SECONDS_MAX
        while not settled(site) and time.monotonic() < deadline:
            time.sleep(0.1)
        image = site.derive("USER root", f"RUN {VERSION.format(version=wanted)}", "USER 10001:10001")
        hub.push(image, f"{NAME}:latest")
        while version(site) != wanted:
            if time.monotonic() - hub.pushed_at > SERVED_SECONDS_MAX:
                raise SystemExit(f"{wanted} was not served within {SERVED_SECONDS_MAX:.0f} s")
            time.sleep(0.05)
        times.append(time.monotonic() - hub.pushed_at)
        say(f"{way}: {len(times)} of {len(versions)} after {times[-1]:.1f} s")
    return times


@contextmanager
def installation(hook_port: int) -> Iterator[tuple[Installation, Registry]]:
    """A platform that was released from a registry, which tells of each push."""
    say("images, and a first release")
    with engine.running() as running:
        platform = "wopr-test/delivery:benchmark"  # a name of its own, or a rebuild would give the image back
        running.docker("tag", building.ours(running, "platform"), platform)
        for name in building.THIRD_PARTIES:
            building.ensure(running, name)
        hook = f"http://registry:{SECRET}@127.0.0.1:{hook_port}/hooks/registry"
        with registry.serving(running, webhook=hook) as hub, installed(running, platform) as site:
            for name, value in {
                "WOPR_IMAGE": f"{hub.server}/{NAME}:latest",
                "REGISTRY_SERVER": hub.server,
                "REGISTRY_USERNAME": hub.username,
                "REGISTRY_PASSWORD": hub.password,
                "DELIVER_HOOK_HOST": "127.0.0.1",
                "DELIVER_HOOK_PORT": str(hook_port),
            }.items():
                site.set_env(name, value)
            site.release(hub.push(platform, f"{NAME}:latest"))
            yield site, hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pushes", nargs="?", type=int, default=PUSHES, help="of each way")
    pushes = parser.parse_args().pushes
    ways, goals = ("polling every 5 s", "the registry's notification"), ("15 s", "3 s")
    found = []
    with installation(free_port()) as (site, hub):
        for number, way in enumerate(ways, 1):
            if number == 2:
                site.set_env("DELIVER_PERIOD_SECONDS", "3600")
                site.set_env("DELIVER_HOOK_SECRET", SECRET)
            with delivering(site):
                found.append(measured(site, hub, way, [f"0.{number}.{push + 1}" for push in range(pushes)]))
    rows = [
        (f"D4 {way}", f"{median(times):.1f} s", f"{percentile(times, 0.95):.1f} s", f"{max(times):.1f} s", goal)
        for way, times, goal in zip(ways, found, goals, strict=True)
    ]
    headers = ("push to serving", "median", "p95", "slowest", "goal (p95)")
    table(f"Continuous delivery, {pushes} pushes each", headers, rows)


if __name__ == "__main__":
    run(main)
