"""`wopr exec`: a command where the platform and its database are, with the operator's terminal and its exit code."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.delivery.hosting import ssh_machine
from tests.stack import clean_environment

DOCKER = """#!/bin/sh
echo "ran: $*"
if [ -t 0 ] && [ -t 1 ]; then printf 'sure? '; read answer; echo "told: $answer"; else echo "read: $(cat)"; fi
echo trouble >&2
exit 7
"""
STATE = {"active": {"release": 3, "slot": "green"}, "candidate": None, "leaving": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that serves in its green slot, and a docker that tells what it was asked."""
    programs, folder = tmp_path / "bin", tmp_path / "platform"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(STATE))
    (folder / "stack.env").write_text("WOPR_NAME=shop\n")
    return folder


@pytest.fixture
async def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """This machine over SSH, as the operator's files know it."""
    async with ssh_machine(tmp_path / "server") as host:
        keys = tmp_path / ".ssh"
        keys.mkdir(mode=0o700)
        for name, kept in (("id", "id_ed25519"), ("known", "known_hosts")):
            (keys / kept).write_bytes((tmp_path / "server" / name).read_bytes())
            (keys / kept).chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield f"root@127.0.0.1:{host.port}"


async def ran(*words: str, stdin: int = asyncio.subprocess.DEVNULL, told: bytes = b"") -> tuple[int, str, str]:
    """The exit code of `wopr exec`, and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wopr", "exec", *words),
        stdin=asyncio.subprocess.PIPE if told else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment() | {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    out, error = await process.communicate(told or None)
    return process.returncode or 0, out.decode(), error.decode()


ASKED = "ran: exec -i shop-api-green wopr nodes list --json"


async def test_here_it_becomes_that_command(folder: Path) -> None:
    code, out, error = await ran("--dir", str(folder), "nodes", "list", "--json")
    assert (code, error) == (7, "trouble\n")
    assert out == f"{ASKED}\nread: \n"


@pytest.mark.parametrize("told", [b"", b"a file\n"])
async def test_elsewhere_its_input_output_and_exit_code_are_ours(folder: Path, there: str, told: bytes) -> None:
    where = ("--dir", str(folder), "--host", there)
    code, out, error = await ran(*where, "nodes", "list", "--json", told=told)
    assert (code, error) == (7, "trouble\n")
    assert out == f"{ASKED}\nread: {told.decode().strip()}\n"


async def test_in_a_terminal_its_questions_are_answered(folder: Path, there: str) -> None:
    ours, its = pty.openpty()
    words = ("exec", "--dir", str(folder), "--host", there, "nodes", "destroy", "gpu-1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wopr", *words),
        stdin=its,
        stdout=its,
        stderr=its,
        env=clean_environment() | {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(its)
    seen = ""
    async with asyncio.timeout(60):
        while "trouble" not in seen:
            seen += (await asyncio.to_thread(os.read, ours, 1000)).decode()
            if "sure? " in seen and "told" not in seen and "yes" not in seen:
                os.write(ours, b"yes\r")
        assert await process.wait() == 7
    os.close(ours)
    assert "ran: exec -i -t shop-api-green wopr nodes destroy gpu-1" in seen
    assert "told: yes" in seen


async def test_what_would_be_run_is_told_and_nothing_is(folder: Path) -> None:
    code, out, _ = await ran("--dir", str(folder), "--dry-run", "nodes", "list")
    assert code == 0
    assert out.endswith("docker exec -i shop-api-green wopr nodes list\n")


async def test_where_nothing_serves_it_says_so(tmp_path: Path) -> None:
    code, _, error = await ran("--dir", str(tmp_path), "nodes", "list")
    assert code == 3
    assert "Nothing is released" in error
    assert "wopr deploy --dir" in error
