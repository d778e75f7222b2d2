"""kill -9 of the deployer at any step of any kind of run: what serves is right, and the next run mends what is left.

A run kills at a step or two of a kind; WOPR_KILLS=all at every entry that the journal of such a run has: before it is
written, after it, and within the command that follows.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machines.engine import Engine
from tests.machines.installation import Installation, installed
from tests.machines.kills import Kind, Missed, kill, points
from tests.machines.kinds import KINDS

from wopr.delivery.lock import Held

KILL_SECONDS = 240.0
EVERYWHERE = os.environ.get("WOPR_KILLS") == "all"


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    with installed(engine, platform_image) as made:
        yield made


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.few or EVERYWHERE], ids=lambda kind: kind.name)
def test_wherever_a_deployer_is_killed_the_next_run_mends_it(site: Installation, kind: Kind) -> None:
    missed, killed = [], 0
    for point in points(kind, site) if EVERYWHERE else kind.few:
        try:
            mended = kill(kind, site, point)
        except Missed as error:
            missed.append(f"{point}: {error}")
            continue
        killed += 1
        assert mended.failed == 0, f"requests failed, killed {point}"
    print(f"{kind.name}: {killed} kills, not come to: {missed}")
    # Nothing changes any more after the last entry of a run, nor between some others.
    assert all("within" in one for one in missed), missed
    assert killed


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
