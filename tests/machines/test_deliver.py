"""Continuous delivery on real containers: what is pushed is served without a hand, once, and what is bad is not."""

import hashlib
import hmac
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.live import wait_for
from tests.machines import registry as registries
from tests.machines.engine import Engine
from tests.machines.installation import Installation, installed
from tests.machines.registry import Registry

from wopr.core.postgres import free_port
from wopr.delivery.failures import DELIVERER_WATCH
from wopr.ops.incidents import Incident, open_incidents
from wopr.ops.journal import Journal

CRASHES = 'ENTRYPOINT ["/bin/sh", "-c", "case $0 in api) exit 3;; esac; exec wopr \\"$0\\" \\"$@\\""]'
NO_DELIVERER = 'ENTRYPOINT ["/bin/sh", "-c", "case $0 in deliver) exit 3;; esac; exec wopr \\"$0\\" \\"$@\\""]'
NAME = "wopr-platform"
SECRET = "a-secret-of-notifications"
GITHUB = "a-secret-of-webhooks"
DELIVERED_SECONDS = 120.0


@dataclass
class Deliverer:
    """A running `wopr deliver` and what it told."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def told(self, what: str) -> int:
        return sum(str(event["event"]).startswith(what) for event in self.events())

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def delivering(site: Installation, *options: str) -> Iterator[Deliverer]:
    """`wopr deliver` beside the installation, with patience for a slow machine."""
    log = site.folder / "deliver.log"
    words = ("deliver", "--json", "--observe", "1", "--ready", "60", *options)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*site.command, *words, *site.where()], stdout=stream, stderr=stream, env=site.variables()
        )
    running = Deliverer(process, log)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def hub(engine: Engine, port: int) -> Iterator[Registry]:
    """A registry that notifies of pushes."""
    with registries.serving(engine, webhook=f"http://registry:{SECRET}@127.0.0.1:{port}/hooks/registry") as running:
        yield running


@pytest.fixture(scope="module")
def delivered(
    engine: Engine, platform_image: str, third_party_images: object, hub: Registry, port: int
) -> Iterator[Installation]:
    own = f"wopr-test/delivery:{secrets.token_hex(4)}"  # a name of its own, or a rebuild would give the image back
    engine.docker("tag", platform_image, own)
    with installed(engine, own) as made:
        for name, value in {
            "WOPR_IMAGE": f"{hub.server}/{NAME}:latest",
            "REGISTRY_SERVER": hub.server,
            "REGISTRY_USERNAME": hub.username,
            "REGISTRY_PASSWORD": hub.password,
            "DELIVER_PERIOD_SECONDS": "1",
            "DELIVER_HOOK_HOST": "127.0.0.1",
            "DELIVER_HOOK_PORT": str(port),
        }.items():
            made.set_env(name, value)
        yield made
    engine.docker("rmi", own, check=False)


@pytest.fixture
def site(delivered: Installation) -> Installation:
    """The installation, which looks every second and listens to nobody."""
    for name in ("DELIVER_HOOK_SECRET", "GITHUB_WEBHOOK_SECRET"):
        delivered.set_env(name, "")
    delivered.set_env("DELIVER_PERIOD_SECONDS", "1")
    (delivered.folder / "deliver.alive").unlink(missing_ok=True)
    return delivered


def push(site: Installation, hub: Registry, *lines: str) -> str:
    """Push a new image under the watched tag; its reference by digest."""
    return hub.push(site.derive(*lines), f"{NAME}:latest")


def serving(site: Installation) -> str:
    """The image of the release that serves."""
    releases = {one["number"]: one for one in site.releases()["releases"]}
    return str(releases[site.state()["active"]["release"]]["platform"])


def recorded(site: Installation, image: str) -> list[str]:
    """The verdicts of the releases of an image, oldest first."""
    return [
        str(one["verdict"])
        for one in sorted(site.releases()["releases"], key=lambda one: one["number"])
        if one["platform"] == image
    ]


def wait_recorded(site: Installation, image: str, verdict: str) -> None:
    """Wait until an image was released so. Nobody asks while a release is under way: a command keeps a core busy."""

    def so() -> bool:
        state = site.state()
        return state["candidate"] is state["leaving"] is None and recorded(site, image)[-1:] == [verdict]

    wait_for(so, f"{image} to be {verdict}", DELIVERED_SECONDS)


def wait_served(site: Installation, image: str) -> None:
    wait_recorded(site, image, "good")
    assert serving(site) == image
    lock = site.folder / "lock.json"
    wait_for(lambda: not json.loads(lock.read_text())["owner"], "the release's end", DELIVERED_SECONDS)


def test_what_is_pushed_serves_by_itself(site: Installation, hub: Registry) -> None:
    with delivering(site) as deliverer:
        pushed = push(site, hub)
        wait_served(site, pushed)
        slot = site.state()["active"]["slot"]
        running = site.containers()[f"api-{slot}"]["Config"]["Image"]
        assert running == pushed
        assert deliverer.end() == 0
    assert recorded(site, pushed) == ["good"]
    entry = [one for one in site.journal() if one["name"] == "deploy" and one["phase"] == "end"][-1]
    assert entry["data"]["trigger"] == "deliver"
    assert json.loads((site.folder / "deliver.json").read_text())["platform"]["verdict"] == "good"


def test_a_notification_of_the_registry_releases_long_before_the_next_look(site: Installation, hub: Registry) -> None:
    site.set_env("DELIVER_PERIOD_SECONDS", "3600")
    site.set_env("DELIVER_HOOK_SECRET", SECRET)
    with delivering(site) as deliverer:
        wait_for(lambda: deliverer.told("listening"), "the listener", DELIVERED_SECONDS)
        pushed = push(site, hub)
        wait_served(site, pushed)


def test_a_forged_notification_changes_nothing_and_a_signed_one_of_github_releases(
    site: Installation, hub: Registry, port: int
) -> None:
    site.set_env("DELIVER_PERIOD_SECONDS", "3600")
    site.set_env("GITHUB_WEBHOOK_SECRET", GITHUB)
    before = serving(site)
    with delivering(site) as deliverer:
        wait_for(lambda: deliverer.told("listening"), "the listener", DELIVERED_SECONDS)
        pushed = push(site, hub)
        body = json.dumps(
            {
                "action": "published",
                "registry_package": {
                    "name": NAME,
                    "package_type": "CONTAINER",
                    "package_version": {"container_metadata": {"tag": {"name": "latest"}}},
                },
            }
        ).encode()
        url = f"http://127.0.0.1:{port}/hooks/github"
        headers = {"x-github-event": "registry_package", "x-hub-signature-256": "sha256=" + "0" * 64}
        assert httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 401
        assert httpx.post(f"http://127.0.0.1:{port}/hooks/registry", json={}, trust_env=False).status_code == 404
        assert serving(site) == before
        headers["x-hub-signature-256"] = "sha256=" + hmac.new(GITHUB.encode(), body, hashlib.sha256).hexdigest()
        answer = httpx.post(url, content=body, headers=headers, trust_env=False)
        assert answer.json() == {"pushes": 1, "watched": 1}
        wait_served(site, pushed)


def test_an_image_that_was_pushed_elsewhere_is_released_by_the_name_that_it_has_here(
    site: Installation, hub: Registry
) -> None:
    image = site.derive()
    hub.push(image, "elsewhere:1")
    hub.stop()
    try:
        assert site.release(image)["verdict"] == "good"
    finally:
        hub.start()


def test_a_bad_image_is_tried_once_and_the_next_good_one_follows(site: Installation, hub: Registry) -> None:
    before = serving(site)
    with delivering(site) as deliverer:
        bad = push(site, hub, CRASHES)
        wait_recorded(site, bad, "bad")
        assert serving(site) == before
        looks = (site.folder / "deliver.alive").read_text()
        wait_for(lambda: (site.folder / "deliver.alive").read_text() > looks, "the next look", DELIVERED_SECONDS)
        assert recorded(site, bad) == ["bad"]
        good = push(site, hub)
        wait_served(site, good)
        assert deliverer.told("release") == 2


def test_what_the_operator_rolls_back_stays_back_while_the_tag_stands_still(site: Installation, hub: Registry) -> None:
    before = serving(site)
    with delivering(site):
        pushed = push(site, hub)
        wait_served(site, pushed)
        done = site.wopr("rollback", "--json")
        assert done.returncode == 0, done.stderr
        assert serving(site) == before
        looks = (site.folder / "deliver.alive").read_text()
        wait_for(lambda: (site.folder / "deliver.alive").read_text() > looks, "the next look", DELIVERED_SECONDS)
        assert serving(site) == before


def test_an_outage_of_the_registry_is_told_once_and_what_was_pushed_then_is_released(
    site: Installation, hub: Registry
) -> None:
    with delivering(site) as deliverer:
        wait_for(lambda: (site.folder / "deliver.alive").exists(), "the first look", DELIVERED_SECONDS)
        hub.stop()
        try:
            wait_for(lambda: deliverer.told("registry does not tell") == 1, "the complaint", DELIVERED_SECONDS)
            looks = (site.folder / "deliver.alive").read_text()
            wait_for(lambda: (site.folder / "deliver.alive").read_text() > looks, "another look", DELIVERED_SECONDS)
        finally:
            hub.start()
        pushed = push(site, hub)
        wait_served(site, pushed)
        assert deliverer.told("registry does not tell") == 1
        assert deliverer.told("registry answers again") == 1


def test_a_deliverer_that_is_killed_in_a_release_is_followed_by_one_that_finishes_it(
    site: Installation, hub: Registry
) -> None:
    with delivering(site) as deliverer:
        wait_for(lambda: (site.folder / "deliver.alive").exists(), "the first look", DELIVERED_SECONDS)
        pushed = push(site, hub)
        wait_for(lambda: deliverer.told("new"), "the release", DELIVERED_SECONDS)
        wait_for(lambda: site.state()["candidate"] is not None, "the candidate", DELIVERED_SECONDS)
        deliverer.end(signal.SIGKILL)
    with delivering(site):
        wait_served(site, pushed)
    assert recorded(site, pushed)[-1] == "good"


def test_one_look_says_what_it_would_do_does_it_and_has_nothing_to_do_after(site: Installation, hub: Registry) -> None:
    pushed = push(site, hub)
    shown = site.wopr("deliver", "--dry-run", "--json")
    (found,) = json.loads(shown.stdout)["images"]
    assert (found["digest"], found["would_release"]) == (pushed.rpartition("@")[2], True)
    done = site.wopr("deliver", "--once", "--observe", "1", "--ready", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert serving(site) == pushed
    assert site.wopr("deliver", "--once", "--exit-code").returncode == 4
    bad = push(site, hub, CRASHES)
    assert site.wopr("deliver", "--once", "--ready", "60").returncode == 1
    assert recorded(site, bad) == ["bad"]


def test_wrong_credentials_are_told_with_what_mends_them_and_what_runs_goes_on(
    site: Installation, hub: Registry
) -> None:
    site.set_env("REGISTRY_PASSWORD", "wrong")
    try:
        done = site.wopr("deliver", "--once")
        assert done.returncode == 1
        assert "REGISTRY_PASSWORD" in done.stdout + done.stderr
        assert "robot" in done.stdout
        slot = site.state()["active"]["slot"]
        assert site.containers()[f"api-{slot}"]["State"]["Running"]
    finally:
        site.set_env("REGISTRY_PASSWORD", hub.password)


@pytest.mark.parametrize("owner", [0, 4711])
def test_the_deliverer_s_container_has_no_rights_but_those_of_the_folder_s_owner_and_releases(
    site: Installation, engine: Engine, owner: int
) -> None:
    """A whole release from inside it: images, compose, a dump, migrations, files, the logbook's history."""
    name = f"{site.name}-deliverer"
    chown = ("chown", "-R", f"{owner}:{owner}", str(site.folder))
    subprocess.run(chown, check=True)
    site.release(site.derive())  # writes down whose the folder is
    subprocess.run(chown, check=True)  # this command ran as root
    try:
        bring_up(site)
        wait_for(lambda: engine.state(name, ".State.Health.Status") == "healthy", "its health", DELIVERED_SECONDS)
        made = site.containers()["deliverer"]
        assert made["HostConfig"]["ReadonlyRootfs"]
        assert made["HostConfig"]["CapDrop"] == ["ALL"]
        assert not made["HostConfig"]["CapAdd"]
        assert [mount for mount in made["Mounts"] if mount["Type"] == "volume"] == [], "one would be left behind"
        status = engine.docker("exec", name, "cat", "/proc/1/status").stdout
        held = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert held["Uid"].split()[0] == str(owner)
        assert {held[each] for each in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
        assert held["NoNewPrivs"] == "1"

        image, known = site.derive(), site.state()["active"]["release"]
        words = ("wopr", "deploy", image, "--yes", "--json", "--observe", "1", "--ready", "120", *site.where())
        done = engine.docker("exec", name, *words, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert site.state()["active"]["release"] > known
        log = ("git", "-C", str(site.folder / "logbook"), "log", "--oneline")
        before = engine.docker("exec", name, *log).stdout.splitlines()
        assert engine.docker("exec", name, "wopr", "incident", "open", "tried", *site.where()[:2]).returncode == 0
        assert len(engine.docker("exec", name, *log).stdout.splitlines()) > len(before), "the logbook's history"
        others = [path for path in site.folder.rglob("*") if path.lstat().st_uid != owner]
        assert others == []
    finally:
        engine.remove(name)
        subprocess.run(("chown", "-R", "0:0", str(site.folder)), check=True)
        site.release(site.derive())


def bring_up(site: Installation) -> None:
    """As the handbook has it."""
    command = ["docker", "compose", "-p", site.name, "--env-file", "stack.env", "-f", "compose.yaml"]
    done = subprocess.run(
        [*command, "up", "-d", "deliverer"], cwd=site.folder, env=site.variables(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_deliverer_s_own_container_follows_the_release_and_a_bad_one_goes_back(
    site: Installation, engine: Engine
) -> None:
    """In its container it does not reach a registry on the host's loopback, so it watches no tag here."""

    def container() -> dict[str, Any]:
        return site.containers().get("deliverer", {})

    def runs(image: str) -> bool:
        """Whether it is at rest with this image: the helper came to its end."""
        found = container()
        return bool(found) and found["Config"]["Image"] == image and found["State"]["Running"] and not helper()

    def helper() -> str:
        """What the helper's process is for the kernel; nothing where there is no helper."""
        form = "{{.State.Pid}}"
        return engine.docker("inspect", "--format", form, f"{site.name}-deliverer-helper", check=False).stdout.strip()

    def kill_helper() -> bool:
        pid = helper()
        if pid in ("", "0"):
            return False
        os.kill(int(pid), signal.SIGKILL)  # as a crash does it: nobody told the engine to end it
        return True

    before = serving(site)
    site.set_env("WOPR_IMAGE", before)
    first = site.derive()
    assert hand(site, "begin", first) == "False", "nothing to hand over where no deliverer runs as a container"
    assert hand(site, "finish", first) == ""
    wait_for(lambda: runs(before), "the one of the release that serves", DELIVERED_SECONDS)

    second = site.release(site.derive())["platform"]
    wait_for(kill_helper, "the helper", DELIVERED_SECONDS)
    wait_for(lambda: runs(second), "the successor, by a helper that was started again", DELIVERED_SECONDS)

    broken = site.release(site.derive(NO_DELIVERER))["platform"]
    wait_for(lambda: (site.folder / "deliver.failed").exists(), "the verdict", DELIVERED_SECONDS)
    wait_for(lambda: runs(second), "the one before", DELIVERED_SECONDS)
    failed = json.loads((site.folder / "deliver.failed").read_text())
    assert failed["image"] == broken
    assert "it ended at its start" in failed["why"], "it is not waited for"
    assert serving(site) == broken, "it serves well"
    (told,) = of_the_deliverer(site)
    assert told.title.startswith("The deliverer stays with its older image")
    assert hand(site, "begin", broken) == "False", "what failed as a deliverer is not tried again"

    third = site.release(site.derive())["platform"]
    wait_for(lambda: runs(third), "the next one that works", DELIVERED_SECONDS)
    assert of_the_deliverer(site) == []
    engine.remove(f"{site.name}-deliverer")


def of_the_deliverer(site: Installation) -> list[Incident]:
    """The open incidents of deliverers that stay with their image; tests before may have left others."""
    return [one for one in open_incidents(Journal(site.folder)) if one.watch == DELIVERER_WATCH]


def hand(site: Installation, what: str, image: str) -> str:
    """What a deliverer, or its helper, does; beside the containers."""
    handover = (
        "import asyncio, sys; from wopr.delivery.hosts import LocalHost; from wopr.delivery.place import Place; "
        "from wopr.delivery.deliver_handover import Handover; "
        "h = Handover(LocalHost(), Place(sys.argv[1], sys.argv[2])); "
        "print(asyncio.run(getattr(h, sys.argv[3])(*sys.argv[4:])))"
    )
    command = [site.command[0], "-c", handover, str(site.folder), site.name, what, image]
    done = subprocess.run(command, capture_output=True, text=True, env=site.variables(), timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
