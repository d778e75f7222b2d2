"""A shell that was pointed at the stand-ins: its commands meet them."""

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.stack import clean_environment, run_wopr

from wopr.cli.emulators import PORTS


def four_free() -> int:
    """The first of as many ports in a row as there are stand-ins, none of which the kernel hands out."""
    while True:
        first = 10_000 + random.randrange(9_000)
        with ExitStack() as held:
            try:
                for number in range(len(PORTS)):
                    held.enter_context(socket.create_server(("127.0.0.1", first + number)))
            except OSError:
                continue
            return first


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Stand-ins in a row; the port of the first."""
    first = four_free()
    command = [sys.executable, "-m", "wopr", "emulators", "all", "--port", str(first), "--dns-port", "0", "--json"]
    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for _ in PORTS:
            assert json.loads(process.stdout.readline())["url"]
        yield first
        process.terminate()


def test_a_shell_s_commands_meet_the_stand_ins(port: int) -> None:
    told = run_wopr("local", "cloud", "--port", str(port))
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("export ") == len(told.stdout.splitlines()) == 9
    listed = json.loads(run_wopr("local", "cloud", "--port", str(port), "--json").stdout)
    assert listed["silent"] == []
    assert listed["variables"]["DO_API_BASE"] == f"http://127.0.0.1:{port + 2}"
    asked = subprocess.run(
        ["sh", "-c", f'{told.stdout}\n"$0" -m wopr nodes sizes --json', sys.executable],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=120,
    )
    assert asked.returncode == 0, asked.stderr
    assert [size for size in json.loads(asked.stdout)["sizes"] if size["gpu"]]


def test_where_none_runs_it_says_how_to_start_them() -> None:
    none = run_wopr("local", "cloud", "--port", str(four_free()))
    assert (none.returncode, none.stdout) == (1, "")
    assert "fix: wopr emulators all --port" in none.stderr
