"""Another machine over SSH: an empty folder there becomes the platform, and every command of an operator reaches it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.delivery.hosting import ssh_machine
from tests.machines import killed as launcher
from tests.machines.engine import Engine
from tests.machines.installation import COMMAND_SECONDS, Installation, Load, fresh
from tests.machines.killed import WITHIN
from tests.machines.kills import Point, tidy
from tests.machines.test_releases import migration, whole

from wopr.delivery.commands import parsed_env
from wopr.delivery.lock import STALE_SECONDS, Held

ELSEWHERE = "elsewhere"
# While containers are started on the host, which goes on without it; and when the new release had just come in.
DEATHS = (Point("deploy: environment", WITHIN), Point("deploy: committed"))


@contextmanager
def reachable(home: Path) -> Iterator[int]:
    """This machine over SSH, for programs with this home folder; the port."""
    ready, port, loop = threading.Event(), 0, asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal port
        async with ssh_machine(home / "server") as host:
            keys = home / ".ssh"
            keys.mkdir(mode=0o700)
            (keys / "id_ed25519").write_bytes((home / "server" / "id").read_bytes())
            (keys / "id_ed25519").chmod(0o600)
            (keys / "known_hosts").write_bytes((home / "server" / "known").read_bytes())
            port = host.port
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's home folder, on the operator's machine."""
    return tmp_path_factory.mktemp("operator")


@pytest.fixture(scope="module")
def site(engine: Engine, platform_image: str, third_party_images: object, home: Path) -> Iterator[Installation]:
    made = fresh(engine, platform_image)
    with reachable(home) as port:
        made.environment = {"HOME": str(home), "WOPR_HOME": str(home / "wopr")}
        made.where = lambda: ("--dir", str(made.folder), "--name", made.name, "--host", f"root@127.0.0.1:{port}")  # type: ignore[method-assign]
        try:
            made.release(made.platform, *made.chosen("DRAIN_SECONDS=5", "BOT_RUNTIME=process"))
            yield made
        finally:
            made.remove()


def test_a_platform_is_made_and_released_on_another_machine(site: Installation, home: Path) -> None:
    assert (site.folder / ".env").stat().st_mode & 0o777 == 0o600
    first = site.settle()
    with Load(site, threads=2) as load:
        second = site.release(site.derive())
        back = site.wopr("rollback", "--json", "--ready", "180")
    assert second["serving"] > first
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["to"] == first
    assert load.failures == []
    assert site.where()[-1] in (home / "wopr" / "journal.jsonl").read_text()
    assert "free" in site.wopr("lock", "show").stdout


def test_another_machine_is_seen_from_here(site: Installation) -> None:
    serving = site.settle()
    seen = asked(site, "status")
    assert (seen["verdict"], seen["host"]) == ("ok", site.where()[-1])
    assert seen["release"]["number"] == serving
    assert {answer["name"]: answer["state"] for answer in seen["answers"]}["api"] == "ok"
    assert seen["deploys"][0]["release"] == str(serving)
    assert f"release {serving} " in site.wopr("status").stdout
    assert site.releases()["releases"][-1]["number"] == serving
    plan = asked(site, "deploy", "--dry-run")
    assert (plan["serving"], plan["host"]) == (serving, site.where()[-1])


def test_secrets_of_another_machine_are_told_and_changed(site: Installation) -> None:
    before = env_of(site)["PLATFORM_SECRET"]
    told = listed(site)
    assert told["PLATFORM_SECRET"]["set"]
    assert told["PLATFORM_SECRET"]["since"]
    assert not told["STRIPE_SECRET_KEY"]["set"]
    assert asked(site, "secrets", "rotate", "PLATFORM_SECRET", "--yes")["kept"] == 1
    assert env_of(site)["PLATFORM_SECRET"].endswith(f",{before}")
    changed = listed(site)["PLATFORM_SECRET"]["since"]
    assert changed > told["PLATFORM_SECRET"]["since"]
    assert site.release()["verdict"] == "good", "a new secret takes effect with a release"


def test_a_lock_on_another_machine_is_taken_from_who_is_gone(site: Installation) -> None:
    file = site.folder / "lock.json"
    file.write_text(Held(100, "7@elsewhere", "deploy", "elsewhere", 7, 1.0, "2026-01-01T00:00:00").text())
    later = time.time() + 600  # as if it had beaten just now, however slow this machine is
    os.utime(file, (later, later))
    refused = site.wopr("teardown", "--yes")
    assert refused.returncode == 3
    assert "7@elsewhere" in refused.stderr
    assert asked(site, "lock", "show")["held"]["owner"] == "7@elsewhere"
    assert asked(site, "lock", "release", "--yes")["released"]["owner"] == "7@elsewhere"
    assert site.wopr("lock", "release", "--exit-code").returncode == 4


@pytest.mark.parametrize("point", DEATHS if os.environ.get("WOPR_KILLS") == "all" else DEATHS[:1], ids=str)
def test_a_deployer_that_dies_on_another_machine_is_taken_over_from_when_it_was_silent(
    site: Installation, point: Point
) -> None:
    """Nobody on the host can ask whether its process lives: its silence alone frees the lock."""
    site.settle()
    before, image, lock = site.state()["active"], site.derive(), site.folder / "lock.json"
    on_the_host = replace(site, environment={})  # it says no --host, and its journal is the installation's
    refused: list[tuple[float, float]] = []
    with Load(site, threads=2) as load:
        died = killed_elsewhere(site, point, "deploy", image, "--yes", "--observe", "0", "--ready", "180")
        assert died.returncode == -signal.SIGKILL, died.stderr
        heard, asked = lock.stat().st_mtime, time.time()
        while (done := on_the_host.deploy()).returncode == 3:
            assert f"@{ELSEWHERE} runs `deploy`" in done.stderr
            refused.append((heard, asked))
            time.sleep(1)  # between two tries of whoever waits
            heard, asked = lock.stat().st_mtime, time.time()
    assert done.returncode == 0, done.stdout + done.stderr
    assert load.failures == []
    # The host's clock is asked for whole seconds.
    assert all(asked < heard + STALE_SECONDS + 1 for heard, asked in refused), "silent for too long"
    locked = [one["data"] for one in on_the_host.journal() if one["data"].get("step") == "locked"][-1]
    assert locked["taken_from"].endswith(f"@{ELSEWHERE}")
    assert locked["silent_seconds"] >= STALE_SECONDS
    whole(site)
    tidy(on_the_host)
    now = site.state()["active"]
    assert (now["release"] > before["release"]) == (point.entry == "deploy: committed")


def killed_elsewhere(site: Installation, point: Point, *words: str) -> "subprocess.CompletedProcess[str]":
    """A deployer on a machine with another name, killed at this point of its journal; its connection dies with it."""
    elsewhere = ("unshare", "--uts", "sh", "-c", f'hostname {ELSEWHERE} && exec "$@"', "sh")
    dies = (sys.executable, "-P", launcher.__file__, point.moment, str(point.nth), point.entry)
    command = [*elsewhere, *dies, *words, *site.where()]
    return subprocess.run(command, env=site.variables(), capture_output=True, text=True, timeout=COMMAND_SECONDS)


def test_migrations_run_on_another_machine_behind_a_dump(site: Installation) -> None:
    head = site.psql("SELECT version_num FROM alembic_version")
    image = site.derive(migration(f"{head}_far", head, "CREATE TABLE far (id int)"))
    planned = asked(site, "migrate", "--plan", "--image", image)
    assert (planned["from"], planned["to"], planned["applied"]) == (head, f"{head}_far", False)
    done = asked(site, "migrate", "--image", image)
    assert Path(done["dump"]["path"]).is_relative_to(site.folder)
    assert site.psql("SELECT count(*) FROM far") == "0"
    again = site.wopr("migrate", "--image", image, "--exit-code")
    assert again.returncode == 4
    site.platform = image  # later images stand on the one that knows this migration


def test_a_platform_leaves_another_machine_with_and_without_its_data(site: Installation) -> None:
    site.release(site.platform)
    assert site.wopr("teardown").returncode == 2, "nobody can be asked, and nobody said yes"
    assert asked(site, "teardown", "--yes")["kept"]["volumes"]
    assert site.containers() == {}
    gone = site.wopr("status", "--json")
    assert (gone.returncode, json.loads(gone.stdout)["verdict"]) == (1, "down")
    back = site.wopr("deploy", "--yes", "--ready", "180", "--exit-code")
    assert back.returncode == 0, back.stderr
    assert "serves again: what did not run was started again" in back.stdout
    assert site.psql("SELECT count(*) FROM far") == "0"
    assert asked(site, "teardown", "--wipe", "--yes")["removed"]["volumes"]
    assert (site.folder / ".env").exists(), "the secrets stay in any case"
    assert not (site.folder / "releases").exists()


def asked(site: Installation, *words: str) -> dict[str, Any]:
    """What a command that must succeed writes for programs."""
    done = site.wopr(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def env_of(site: Installation) -> dict[str, str]:
    return parsed_env((site.folder / ".env").read_text())


def listed(site: Installation) -> dict[str, dict[str, Any]]:
    """The secrets by name; none of their values is anywhere in what is told."""
    where = site.where()
    folder, host = where[1], where[-1]
    command = [*site.command, "secrets", "list", "--dir", folder, "--host", host, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=site.variables(), check=True)
    values = [value for name, value in env_of(site).items() if "SECRET" in name or "PASSWORD" in name]
    assert not [value for value in values if value in done.stdout + done.stderr]
    return {row["name"]: row for row in json.loads(done.stdout)["secrets"]}
