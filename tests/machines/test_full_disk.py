"""A disk that is full at some moment of a release: what serves goes on, and the error says what to do."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.machines.engine import Engine
from tests.machines.installation import Installation, Load, fresh
from tests.machines.test_releases import migration, whole

from wopr.ops.journal import Journal

# A little more than a release wants to see free before it begins.
SIZE = "1100m"
PIECE_BYTES = 1 << 20
REMEDY = "fix: Make room"
BEFORE_COMMIT, AFTER_COMMIT = ("pulled", "candidate", "started", "ready"), ("committed", "judged")


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object) -> Iterator[Installation]:
    """An installation whose folder is a small file system of its own."""
    made = fresh(engine, platform_image)
    made.folder.mkdir(parents=True)
    mount = ("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(made.folder))
    subprocess.run(mount, check=True)
    try:
        made.release(platform_image, *made.chosen("DRAIN_SECONDS=5", "LOG_LEVEL=warning", "BOT_RUNTIME=process"))
        yield made
    finally:
        engine.sweep(f"com.docker.compose.project={made.name}")
        subprocess.run(("umount", "-l", str(made.folder)), check=True)
        made.remove()


def fill(folder: Path) -> None:
    """Take every byte that is left."""
    for size in (PIECE_BYTES, 4096, 1):
        descriptor = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while os.write(descriptor, b"x" * size):
                pass
        except OSError:
            pass
        finally:
            os.close(descriptor)


def filled_at(site: Installation, step: str, *words: str) -> tuple[int, str]:
    """A deploy during which the disk is filled once its journal says that it came so far; how it ended."""
    journal = site.folder / "journal.jsonl"
    known = journal.stat().st_size
    command: Sequence[str] = ("deploy", *words, "--yes", "--json", "--observe", "0", "--ready", "180")
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*site.command, *command, *site.where()], stdout=said, stderr=said, env=site.variables()
        )
        seen = False
        while not seen and process.poll() is None:
            seen = any(entry["data"].get("step") == step for entry in news(journal, known))
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)  # or it comes further while the disk fills
        fill(site.folder)
        process.send_signal(signal.SIGCONT)
        code = process.wait(300)
        said.seek(0)
        text = said.read().decode()
    assert seen, text
    return code, text


def mended(site: Installation) -> None:
    """With room again the next run finds or makes order, and nothing of what failed is held against a release."""
    (site.folder / "filler").unlink()
    done = site.deploy()
    assert done.returncode == 0, done.stdout + done.stderr
    whole(site)
    assert not list(site.folder.rglob("*.new"))
    assert not list(site.folder.rglob("*.partial"))
    assert list(Journal(site.folder).verify()) == []


def test_a_disk_that_is_full_already_refuses_a_release_with_the_remedy(site: Installation) -> None:
    serving = site.settle()
    fill(site.folder)
    with Load(site, threads=2) as load:
        done = site.deploy(site.derive())
    assert done.returncode != 0
    assert REMEDY in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert site.state()["active"]["release"] == serving
    assert load.failures == []
    mended(site)
    assert site.state()["active"]["release"] == serving


@pytest.mark.parametrize("step", [*BEFORE_COMMIT, *AFTER_COMMIT])
def test_a_disk_that_fills_during_a_release_leaves_one_that_serves_and_the_remedy(
    site: Installation, step: str
) -> None:
    serving = site.settle()
    image = site.derive()
    with Load(site, threads=2) as load:
        code, said = filled_at(site, step, image)
        assert code == 1, said
        assert REMEDY in said
        assert "Traceback" not in said
        mended(site)
    assert load.failures == []
    active = site.state()["active"]["release"]
    # What was ready may have been committed before it was stopped.
    assert (active > serving) == (step in AFTER_COMMIT) or step == "ready"
    again = site.deploy(image)  # it was not judged by what the disk did
    assert again.returncode == 0, again.stderr


def test_a_dump_that_finds_no_room_stops_a_release_and_is_not_held_against_it(site: Installation) -> None:
    serving = site.settle()
    head = site.psql("SELECT version_num FROM alembic_version")
    mark = f"t{time.time_ns()}"
    image = site.derive(migration(f"{head}_{mark[-6:]}", head, f"CREATE TABLE {mark} (id int)"))
    code, said = filled_at(site, "candidate", image)
    assert code == 1, said
    assert REMEDY in said
    assert site.psql("SELECT version_num FROM alembic_version") == head
    assert site.state()["active"]["release"] == serving
    mended(site)
    assert json.loads(site.deploy(image).stdout)["verdict"] == "good"


def news(journal: Path, known: int) -> Sequence[dict[str, Any]]:
    """The whole lines behind the first `known` bytes: reading it all again and again would slow down who writes it."""
    with journal.open("rb") as file:
        file.seek(known)
        return [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
