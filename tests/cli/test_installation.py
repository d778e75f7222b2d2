"""What an operator meets where something is missing: it is said what, where, and what to do, and nothing is changed."""

import shutil
import stat
from pathlib import Path

import pytest
from tests.stack import clean_environment, run_wopr

from wopr.cli.installation import Where

NEEDED = (
    "sh",
    "cat",
    "mkdir",
    "mv",
    "sync",
    "chmod",
    "flock",
    "stat",
    "date",
    "git",
    "rm",
    "df",
    "awk",
    "sort",
    "head",
    "true",
)
AWAY = "Cannot connect to the Docker daemon at unix:///nowhere.sock."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder of programs without Docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*NEEDED, "dirname", "env", "grep", "tr"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


def wopr(path: Path, *words: str) -> tuple[int, str]:
    """A command on an installation in a folder beside the programs; exit code, and all that it said."""
    home = path.parent / "wopr"
    environment = clean_environment() | {"PATH": str(path), "WOPR_HOME": str(home), "HOME": str(path.parent)}
    done = run_wopr(*words, "--dir", str(home), environment=environment)
    return done.returncode, done.stdout + done.stderr


def stopped_docker(path: Path) -> None:
    """A client, whose daemon is away."""
    client = path / "docker"
    client.write_text(f'#!/bin/sh\n[ "$1 $2" = "compose version" ] && exit 0\necho "{AWAY}" >&2\nexit 1\n')
    client.chmod(client.stat().st_mode | stat.S_IXUSR)


def test_without_docker_a_release_says_what_to_install(path: Path) -> None:
    code, said = wopr(path, "deploy", "ghcr.io/owner/name:latest", "--yes")
    assert code == 1
    assert "this machine has no docker compose" in said
    assert "fix: Install Docker" in said
    assert not (path.parent / "wopr").exists()


@pytest.mark.parametrize("words", [("deploy", "x", "--yes"), ("deploy", "x", "--dry-run"), ("teardown", "--yes")])
def test_where_the_engine_is_away_it_is_said_and_how_to_look(path: Path, words: tuple[str, ...]) -> None:
    stopped_docker(path)
    code, said = wopr(path, *words)
    assert code == 1, said
    assert f"Docker on this machine does not answer: {AWAY}" in said
    assert said.rstrip().endswith("docker info")


def test_a_status_does_not_take_an_engine_that_is_away_for_an_empty_one(path: Path) -> None:
    code, said = wopr(path, "status")
    assert code == 1
    assert "docker" in said.lower()
    assert "Nothing was released" not in said
    stopped_docker(path)
    code, said = wopr(path, "status")
    assert code == 1
    assert AWAY in said
    assert "Nothing was released" not in said


@pytest.mark.parametrize("words", [("deploy", "no image!"), ("deploy", "x", "--bot", "no image!")])
def test_a_name_that_no_image_has_is_refused_before_anything_is_touched(path: Path, words: tuple[str, ...]) -> None:
    stopped_docker(path)
    code, said = wopr(path, *words, "--yes")
    assert code == 3
    assert "'no image!' is no image name" in said
    assert not (path.parent / "wopr").exists()


@pytest.mark.parametrize("command", ["deploy", "rollback", "releases", "teardown", "status", "deliver"])
def test_an_address_that_is_none_is_wrong_usage(path: Path, command: str) -> None:
    code, said = wopr(path, command, "--host", "root@api.example.com:ssh")
    assert code == 2
    assert "--host" in said


def test_a_machine_that_is_not_there_is_named_with_a_way_to_try(path: Path) -> None:
    code, said = wopr(path, "deploy", "x", "--yes", "--host", "ada@127.0.0.1:1")
    assert code == 1
    assert "ada@127.0.0.1:1 can't be reached" in said
    assert said.rstrip().endswith("ssh -p 1 ada@127.0.0.1 true")


def test_a_command_to_paste_means_the_same_installation() -> None:
    assert Where().paste("wopr deploy") == "wopr deploy"
    far = Where(dir="/srv/my wopr", host="ada@vps:2222", name="acme")
    assert far.paste("wopr releases") == "wopr releases --dir '/srv/my wopr' --host ada@vps:2222 --name acme"
    options = "--dir '/srv/my wopr' --host ada@vps:2222 --name acme"
    assert far.pasted("Wait, or: wopr lock release") == f"Wait, or: wopr lock release {options}"
    assert far.pasted("wopr rollback --to 3") == f"wopr rollback {options} --to 3"
    assert far.pasted("Install wopr again.") == "Install wopr again."


def test_what_an_error_says_to_do_is_for_the_installation_that_was_meant(path: Path) -> None:
    code, said = wopr(path, "rollback")
    assert code == 3
    assert said.rstrip().endswith(f"fix: wopr deploy --dir {path.parent / 'wopr'}")
