"""Bots that fill the disk of their machine, as fast as they can and however they lay it out.

They are stopped by what runs by itself, before anybody else finds it full. It is a real disk, filled in seconds.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import live, stack
from tests.live import Person
from tests.machines.engine import Engine
from tests.machines.fleet import Containers
from tests.machines.second import Daemon, daemon
from tests.stack import Stack

DISK = "8G"
MIB = 2**20
WAIT_SECONDS = 240.0  # a machine that does many things at once is slow
RESERVE = 0.1
# Each goes on until the kernel refuses, and says so.
FILES = """
import os
try:
    for number in range(10**9):
        with open(f"/data/large{number}", "wb", buffering=0) as file:
            for _ in range(128):
                file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror, flush=True)
"""
CRUMBS = """
import os
try:
    for folder in range(10**9):
        os.mkdir(f"/data/{folder}")
        for number in range(1000):
            os.close(os.open(f"/data/{folder}/{number}", os.O_WRONLY | os.O_CREAT))
except OSError as error:
    print(error.strerror, flush=True)
"""
NAMELESS = """
import os, time
held = []
try:
    while True:
        held.append(open("/data/held", "wb", buffering=0))
        os.remove("/data/held")
        for _ in range(128):
            held[-1].write(bytes(1 << 20))
except OSError as error:
    print(error.strerror, flush=True)
    time.sleep(600)
"""
# Somebody who lives beside it: a new file each time, on the disk before it goes on.
DIARY = """
import json, os
told = {"written": 0, "failed": 0}
while not os.path.exists("/data/enough"):
    try:
        with open(f"/data/diary{told['written'] % 100}.new", "wb", buffering=0) as page:
            page.write(os.urandom(4096))
            os.fsync(page.fileno())
        os.replace(page.name, page.name[:-4])
        told["written"] += 1
    except OSError:
        told["failed"] += 1
os.remove("/data/enough")
print(json.dumps(told))
"""
ENOUGH = "open('/data/enough', 'w').close()"
WRITE = """
with open("/data/own", "wb", buffering=0) as file:
    for _ in range(200):
        file.write(bytes(1 << 20))
"""


@dataclass
class Crowd:
    """A platform whose bots share a small disk, a customer with a bot on it, and what the test knows of the engine."""

    second: Daemon
    running: Stack
    bots: Containers
    person: Person
    neighbour: str

    @contextmanager
    def doing(self, bot: str, program: str) -> Iterator["subprocess.Popen[str]"]:
        """A bot that runs a program, beside what it does."""
        command = ["docker", "exec", f"wopr-bot-{bot}", "python", "-c", program]
        environment = self.second.engine.environment
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def told(self, bot: str, words: str) -> dict[str, Any]:
        """Wait until the customer is told this of a bot."""

        def found() -> dict[str, Any] | None:
            seen: dict[str, Any] = self.person.get(f"/fleet/bots/{bot}")
            return seen if words in f"{seen['last_error']} {seen['reason']}" else None

        return live.wait_for(found, f"the bot to be stopped, as {words}", WAIT_SECONDS)

    def room(self) -> tuple[int, float]:
        """The bytes that are left, and the smaller part of bytes and of files."""
        found = os.statvfs(self.second.data)
        parts = (found.f_bavail / found.f_blocks, found.f_favail / found.f_files)
        return found.f_bavail * found.f_frsize, min(parts)


@pytest.fixture(scope="module")
def crowd(engine: Engine, bot_image: str) -> Iterator[Crowd]:
    """`wopr up` with bots in containers of an engine that has a disk of its own."""
    folder = Path(tempfile.mkdtemp(prefix="wopr-crowd-"))
    with daemon(engine, bot_image, disk=DISK) as second, second.entered():
        bots = Containers(second.engine, bot_image, folder / "home")
        settings = {
            "BOT_RUNTIME": "docker",
            "BOT_IMAGE": bot_image,
            "DOCKER_HOST": second.engine.socket,
            "WOPR_INSTALLATION": second.engine.run_id,
        }
        running = stack.start(folder / "home", settings=settings)
        try:
            with live.sign_up(running, "Ada Lovelace") as person:
                person.pay(10_000)
                yield Crowd(second, running, bots, person, person.make_bot("Grace", size="small"))
        finally:
            running.stop()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def unharmed(crowd: Crowd) -> Iterator[None]:
    """The neighbour writes all the time and nothing is refused; it is the same container, and answers."""
    container = crowd.bots.inspect(crowd.neighbour)["Id"]
    with crowd.doing(crowd.neighbour, DIARY) as diary:
        yield
        crowd.bots.inside(crowd.neighbour, ENOUGH)
        told = json.loads(diary.communicate(timeout=60)[0])
    assert (told["failed"], told["written"] > 0) == (0, True), told
    assert crowd.bots.inspect(crowd.neighbour)["Id"] == container
    assert crowd.person.get(f"/fleet/bots/{crowd.neighbour}")["restarts"] == 0
    assert crowd.person.ask(crowd.neighbour, "What does a bot cost?")["state"] == "completed"


@contextmanager
def watched(crowd: Crowd) -> Iterator[list[float]]:
    """How little was left at some moment, as a part of the whole."""
    least, over = [1.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            least[0] = min(least[0], crowd.room()[1])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield least
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("attack", [FILES, CRUMBS, NAMELESS], ids=["large-files", "empty-files", "nameless-files"])
def test_a_bot_that_fills_the_disk_is_stopped_before_it_is_full_until_its_size_fits(
    crowd: Crowd, attack: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = crowd.person.make_bot(size="small")
    began = time.monotonic()
    with unharmed(crowd), watched(crowd) as least, crowd.doing(greedy, attack) as filling:
        told = crowd.told(greedy, "MiB of the 1024 MiB that its size allows")
        seconds = time.monotonic() - began
        said = filling.communicate(timeout=60)[0]
        assert said == "", "it was refused something, so the disk was full"
        assert crowd.bots.living(greedy) == 0
    assert crowd.person.http.patch(f"/fleet/bots/{greedy}", json={"size": "large"}).status_code == 200
    crowd.person.wait_running(greedy)
    assert crowd.person.http.delete(f"/fleet/bots/{greedy}").status_code == 204
    live.wait_for(lambda: not crowd.bots.exists(greedy)["volume"], "its data to go")
    with capsys.disabled():
        what = request.node.callspec.id
        sys.stdout.write(
            f"\n{what}: stopped after {seconds:.1f} s, at least {least[0]:.0%} left: {told['last_error']}\n"
        )


def test_where_the_disk_is_nearly_full_the_bot_that_writes_is_stopped_until_there_is_room(crowd: Crowd) -> None:
    writer = crowd.person.make_bot(size="small")
    ballast = crowd.second.data / "ballast"
    try:
        with unharmed(crowd):
            free = crowd.room()[0]
            with ballast.open("wb") as file:  # an operator's, not a bot's
                os.posix_fallocate(file.fileno(), 0, free - 600 * MIB)
            assert crowd.room()[1] < RESERVE
            assert crowd.bots.inside(writer, WRITE).returncode in (0, 137), "it may be stopped on the way"
            crowd.told(writer, "the disk of its machine is nearly full")
            assert crowd.bots.living(writer) == 0
            assert crowd.bots.living(crowd.neighbour) == 1
    finally:
        ballast.unlink(missing_ok=True)
    crowd.person.post(f"/fleet/bots/{writer}/start")  # by itself it would after three minutes
    crowd.person.wait_running(writer)
    assert crowd.person.http.delete(f"/fleet/bots/{writer}").status_code == 204
