"""What an operator meets where something is missing: it is said what, where, and what to do, and nothing is changed."""

import shutil
import stat
from pathlib import Path

import pytest
from tests.stack import clean_environment, run_wopr

from wopr.cli.installation import Where
from wopr.delivery.commands import parsed_env

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
    "uname",
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


def program(path: Path, name: str, script: str) -> None:
    file = path / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def stopped_docker(path: Path) -> None:
    """A client, whose daemon is away."""
    program(path, "docker", f'[ "$1 $2" = "compose version" ] && exit 0\necho "{AWAY}" >&2\nexit 1')


def droplet(path: Path, name: str = "$(uname -n)") -> None:
    """A machine with a private network; its engine, which says that it runs on one of that name, has nothing yet."""
    known = (
        f'case "$1 $2" in "compose version" | "ps -aq") exit 0 ;; "info --format") echo "{name}" ;; *) exit 1 ;; esac'
    )
    program(path, "docker", known)
    links = {"eth0": "203.0.113.5/20", "eth1": "10.118.0.2/20", "docker0": "172.17.0.1/16"}
    lines = [f"2: {link}    inet {address} scope global {link}" for link, address in links.items()]
    program(path, "ip", f"cat <<END\n{chr(10).join(lines)}\nEND")


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


def test_the_first_release_has_rented_nodes_admit_its_host_alone_and_says_so(path: Path) -> None:
    droplet(path)
    code, said = wopr(path, "deploy", "registry.example/wopr:1", "--yes", "--progress", "plain")
    assert code == 1, "its image is nowhere"
    assert "GPU_ADMIT=10.118.0.2/32\n" in (path.parent / "wopr" / ".env").read_text()
    told = next(line for line in said.splitlines() if "set up" in line)
    assert "GPU_ADMIT" in told
    assert "POSTGRES_PASSWORD" in told
    env = path.parent / "wopr" / ".env"
    assert parsed_env(env.read_text())["POSTGRES_PASSWORD"] not in said
    before = env.read_text()
    _, again = wopr(path, "deploy", "registry.example/wopr:1", "--yes", "--progress", "plain")
    assert env.read_text() == before
    assert "set up" not in again


def test_where_the_engine_runs_on_another_machine_its_address_is_not_made_up(path: Path) -> None:
    """As in the deliverer's container, whose own addresses no node ever sees."""
    droplet(path, "another")
    wopr(path, "deploy", "registry.example/wopr:1", "--yes")
    assert "GPU_ADMIT" not in (path.parent / "wopr" / ".env").read_text()


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
