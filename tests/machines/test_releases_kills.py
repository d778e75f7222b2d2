"""kill -9 of the deployer at any step: the old release serves, and the next run mends what is left.

A run kills at a few steps; WOPR_KILLS=all at every step of a release and of a rollback, and shortly after each.
"""

import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.machines.engine import Engine
from tests.machines.installation import Installation, Load, installed
from tests.machines.test_releases import whole

from wopr.delivery.lock import Held

# Before anything, half way in, at the commit point, with two releases running, at the very end.
FEW = ("candidate", "started", "committed", "drained")
AFTER_SECONDS = (0.0, 0.15)
KILL_SECONDS = 240.0


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


def test_wherever_the_deployer_is_killed_the_next_run_mends_it(site: Installation) -> None:
    steps = points(site)
    took: list[float] = []
    with Load(site, threads=2) as load:
        for step, after in steps:
            killed_in_a_release(site, step, after)
            began = time.monotonic()
            mended = site.deploy()
            took.append(time.monotonic() - began)
            assert mended.returncode == 0, f"after {step}: {mended.stdout}{mended.stderr}"
            whole(site)
            assert load.failures == [], f"after {step}"
    assert load.answered > 50
    print(f"{len(steps)} kills, mended in {max(took):.1f} s at most")


def test_a_killed_rollback_is_mended_as_well(site: Installation) -> None:
    for step in rollback_steps(site) if everywhere() else ("committed",):
        site.settle()
        site.release(site.derive())
        with Load(site, threads=2) as load:
            kill_at(site, ("rollback", "--ready", "180", "--json"), "rollback", step, 0.0)
            assert site.deploy().returncode == 0
            whole(site)
        assert load.failures == []


def test_settings_that_a_killed_release_brought_go_with_it_and_stay_with_one_that_served(site: Installation) -> None:
    site.settle()
    site.set_env("EDGE_PROXIES", "203.0.113.0/24")
    words = ("deploy", "--yes", "--json", "--observe", "1", "--ready", "180")
    for step in ("services up", "started"):
        kill_at(site, words, "deploy", step, 0.0)
        site.set_env("EDGE_PROXIES", "")
        assert site.release()["verdict"] == "unchanged", f"killed after {step}"
        assert proxies(site) == "", f"killed after {step}"
        whole(site)
        site.set_env("EDGE_PROXIES", "203.0.113.0/24")
    kill_at(site, words, "deploy", "committed", 0.0)
    assert site.release()["verdict"] == "unchanged"
    assert proxies(site) == "203.0.113.0/24"
    whole(site)
    site.set_env("EDGE_PROXIES", "")
    site.release()


def proxies(site: Installation) -> str:
    """A setting of `.env` that Caddy's container takes: the proxies before it."""
    given = dict(line.split("=", 1) for line in site.containers()["caddy"]["Config"]["Env"])
    return str(given["EDGE_PROXIES"])


def test_a_lock_that_somebody_left_on_another_machine_is_told_and_then_free(site: Installation) -> None:
    site.settle()
    file = Path(site.folder / "lock.json")
    token = json.loads(file.read_text())["token"]
    file.write_text(Held(token, "7@elsewhere", "deploy", "elsewhere", 7, 1.0, "2026-01-01T00:00:00").text())
    later = time.time() + KILL_SECONDS  # as if it had beaten just now, however slow this machine is
    os.utime(file, (later, later))
    refused = site.deploy()
    assert refused.returncode == 3
    assert "7@elsewhere" in refused.stderr
    assert "7@elsewhere" in site.wopr("lock", "show").stdout
    assert site.wopr("lock", "release", "--yes").returncode == 0
    assert site.wopr("lock", "show").stdout.strip() == "free"
    assert json.loads(file.read_text())["token"] == token + 1
    assert site.deploy().returncode == 0


def everywhere() -> bool:
    return os.environ.get("WOPR_KILLS") == "all"


def points(site: Installation) -> Sequence[tuple[str, float]]:
    """Where to kill: a few steps, or each step that a whole release writes, at once and a moment later."""
    if not everywhere():
        return [(step, 0.0) for step in FEW]
    site.set_env("WOPR_TEST_MARK", "steps")
    site.release(site.derive())
    return [(step, after) for step in steps_of(site, "deploy") for after in AFTER_SECONDS]


def rollback_steps(site: Installation) -> Sequence[str]:
    site.settle()
    site.release(site.derive())
    assert site.wopr("rollback", "--ready", "180").returncode == 0
    return steps_of(site, "rollback")


def steps_of(site: Installation, name: str) -> Sequence[str]:
    """The steps of the newest operation of this name that ended well, each once."""
    entries = [entry for entry in site.journal() if entry["name"] == name]
    ended = next(entry["operation"] for entry in reversed(entries) if entry["phase"] == "end")
    steps = [e["data"]["step"] for e in entries if e["operation"] == ended and e["phase"] == "step"]
    return list(dict.fromkeys(steps))


def killed_in_a_release(site: Installation, step: str, after: float) -> None:
    if everywhere():  # another `.env` each time: what stands around the slots is looked at, too
        site.set_env("WOPR_TEST_MARK", secrets.token_hex(4))
    words = ("deploy", site.derive(), "--yes", "--json", "--observe", "1", "--ready", "180")
    kill_at(site, words, "deploy", step, after)


def kill_at(site: Installation, words: Sequence[str], name: str, step: str, after: float) -> None:
    """Run a command and kill it when its journal says that it has come so far; it may be through by then."""
    journal = site.folder / "journal.jsonl"
    known = journal.stat().st_size
    with tempfile.TemporaryFile() as said:
        command = [*site.command, *words, *site.where()]
        process = subprocess.Popen(command, stdout=said, stderr=said, env=site.variables())
        deadline = time.monotonic() + KILL_SECONDS
        seen = False
        while not seen and process.poll() is None and time.monotonic() < deadline:
            steps = [e for e in news(journal, known) if e["name"] == name and e["phase"] == "step"]
            seen = any(entry["data"].get("step") == step for entry in steps)
            time.sleep(0.01)
        time.sleep(after)
        process.kill()
        process.wait()
        said.seek(0)
        assert seen, f"{name} never came to {step!r}: {said.read().decode()}"


def news(journal: Path, known: int) -> Sequence[dict[str, Any]]:
    """The whole lines behind the first `known` bytes: reading it all again and again would slow down who writes it."""
    with journal.open("rb") as file:
        file.seek(known)
        return [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
