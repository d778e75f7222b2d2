"""`wopr up` as a person meets it: twice, on a taken port, with children that die, and after it was killed itself."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from tests import stack as stacks
from tests.live import Person, sign_up, wait_for
from tests.stack import Stack, clean_environment, free_ports, run_wopr

from wopr.cli.supervisor import end_group

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 120.0


def owned(home: Path) -> list[psutil.Process]:
    """Every process of a run, bots and database included: by environment, or by the data folder in the command."""
    found = []
    for process in psutil.process_iter():
        try:
            environment, command = process.environ(), process.cmdline()
        except psutil.Error:
            continue
        data = environment.get("WOPR_BOT_DATA", "")
        if (
            environment.get("WOPR_HOME") == str(home)
            or data.startswith(f"{home}/")
            or str(home / "postgres") in command
        ):
            found.append(process)
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def options(home: Path, ports: dict[str, int]) -> list[str]:
    named = {"--home": home, "--api-port": ports["api"], "--ui-port": ports["ui"]}
    named |= {"--engine-port": ports["llama"], "--stand-in-port": ports["stripe"]}
    return [str(part) for pair in named.items() for part in pair]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wopr-up-"))
    yield folder / "home"
    for process in owned(folder / "home"):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator[Stack]:
    running = stacks.start(home)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def paying(up: Stack) -> Iterator[Person]:
    with sign_up(up) as person:
        person.pay()
        yield person


def test_a_second_up_on_the_same_data_says_that_it_runs_and_where(up: Stack) -> None:
    ended = run_wopr("up", "--home", str(up.home))
    assert ended.returncode == 0
    assert up.ui in ended.stderr
    assert str(up.process.pid) in ended.stderr
    as_json = run_wopr("up", "--home", str(up.home), "--json")
    assert as_json.returncode == 0
    assert json.loads(as_json.stdout) == {"event": "running", "pid": up.process.pid, "ui_url": up.ui}


def test_reset_of_running_data_is_refused_with_how_to_stop_it(up: Stack) -> None:
    ended = run_wopr("up", "--home", str(up.home), "--reset", "--yes")
    assert ended.returncode == 3
    assert f"kill {up.process.pid}" in ended.stderr
    assert (up.home / "postgres" / "PG_VERSION").exists()


def test_a_port_in_use_is_named_with_its_holder_and_the_remedy(tmp_path: Path) -> None:
    ports = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["ui"]))
        taken.listen()
        ended = run_wopr("up", *options(tmp_path / "home", ports))
    assert ended.returncode == 1
    assert f"Port {ports['ui']}, which ui needs, is in use" in ended.stderr
    assert f"pid {os.getpid()}" in ended.stderr
    assert "fix:" in ended.stderr.splitlines()[-1]
    assert "--ui-port" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "home" / "postgres").exists(), "nothing is begun that can't be finished"


def test_one_port_for_two_parts_is_refused(tmp_path: Path) -> None:
    ports = free_ports()
    ended = run_wopr("up", *options(tmp_path / "home", ports | {"ui": ports["llama"]}))
    assert ended.returncode == 2
    assert f"Port {ports['llama']} is meant for both llama and ui." in ended.stderr
    assert "--ui-port" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "home" / "postgres").exists()


def test_a_dry_run_names_every_part_and_starts_nothing(tmp_path: Path) -> None:
    ports = free_ports()
    ended = run_wopr("up", "--dry-run", *options(tmp_path / "home", ports))
    assert ended.returncode == 0
    for name in ("postgres", "llama", "chatterbox", "whisper", "qwen", "api", "ui"):
        assert name in ended.stdout
    for part in ("api", "ui", "llama", "qwen", "stripe"):
        assert f"localhost:{ports[part]}" in ended.stdout
    as_json = run_wopr("up", "--dry-run", "--json", "--home", str(tmp_path / "home"))
    assert json.loads(as_json.stdout)["event"] == "plan"
    assert not (tmp_path / "home").exists()


def test_reset_without_a_terminal_names_the_missing_flag_and_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("", encoding="utf-8")
    ended = run_wopr("up", "--reset", *options(tmp_path, free_ports()))
    assert ended.returncode == 2
    assert "--yes" in ended.stderr
    assert (tmp_path / "secrets.env").exists()


def test_reset_refuses_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    for more in ((), ("--dry-run",)):
        ended = run_wopr("up", "--reset", "--yes", *options(tmp_path, free_ports()), *more)
        assert ended.returncode == 3
        assert (tmp_path / "thesis.tex").exists()


def test_a_rehearsed_reset_says_what_it_would_delete(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").touch()
    ended = run_wopr("up", "--reset", "--dry-run", *options(tmp_path, free_ports()))
    assert ended.returncode == 0
    assert f"Would delete everything under {tmp_path}" in ended.stderr
    assert (tmp_path / "secrets.env").exists()


def test_a_database_that_refuses_us_ends_up_with_the_reason(postgres_url: str, tmp_path: Path) -> None:
    theirs = postgres_url.rpartition("/")[0] + "/not_there"
    environment = {**clean_environment(), "DATABASE_URL": theirs}
    ended = run_wopr("up", *options(tmp_path / "home", free_ports()), environment=environment)
    assert ended.returncode == 1
    assert 'error: The database can\'t be used: database "not_there" does not exist' in ended.stderr
    assert "DATABASE_URL" in ended.stderr.splitlines()[-1]
    assert str(urlsplit(theirs).password) not in ended.stdout + ended.stderr


def test_a_database_of_the_operators_own_is_used_and_found_from_another_shell(
    database_address: str, tmp_path: Path
) -> None:
    home, url = tmp_path / "home", urlsplit(database_address)
    running = stacks.start(home, settings={"DATABASE_URL": database_address})
    try:
        assert not (home / "postgres").exists()
        told = run_wopr("status", "--json", environment={**clean_environment(), "WOPR_HOME": str(home)})
        services = {row["name"]: row for row in json.loads(told.stdout)["services"]}
        assert services["database"]["address"] == f"{url.hostname}:{url.port}"
        assert {row["state"] for row in services.values()} == {"ok"}
    finally:
        running.stop()
    assert not (home / "run" / "up.env").exists(), "the password stays nowhere"


def test_a_child_whose_log_cannot_be_written_is_started_again_when_it_can(up: Stack) -> None:
    log = up.home / "logs" / "chatterbox.log"
    log.unlink()
    log.mkdir()
    os.kill(up.pids()["chatterbox"], signal.SIGKILL)
    try:
        assert up.wait_event("died", "chatterbox")["detail"] == "killed by SIGKILL"
        assert "Is a directory" in up.wait_event("died", "chatterbox")["detail"]
    finally:
        log.rmdir()
    up.wait_event("back", "chatterbox")


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.touch()
    ended = run_wopr("up", *options(file, free_ports()))
    assert ended.returncode == 1
    assert f"error: {file}: File exists." in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"  fix: ls -ld {file}")


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "secrets.env").mkdir()
    ended = run_wopr("up", *options(home, free_ports()))
    assert ended.returncode == 1
    assert f"error: {home / 'secrets.env'}: Is a directory." in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"  fix: ls -ld {home / 'secrets.env'}")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["ui", "qwen", "stand-ins"])
def test_a_child_that_is_killed_comes_back_and_this_is_shown(up: Stack, name: str) -> None:
    before = up.pids()[name]
    os.kill(before, signal.SIGKILL)
    died = up.wait_event("died", name)
    assert died["detail"] == "killed by SIGKILL"
    assert up.wait_event("back", name)["seconds"] >= 0
    assert up.pids()[name] != before


def test_a_service_that_is_made_to_hang_is_found_and_serves_again_after_recovery(up: Stack) -> None:
    environment = {**clean_environment(), "WOPR_HOME": str(up.home)}
    pid = up.pids()["qwen"]

    def trigger(*arguments: str) -> dict[str, object]:
        ended = run_wopr("trigger", "node", *arguments, "--service", "qwen", "--json", environment=environment)
        assert ended.returncode == 0, ended.stderr
        told: dict[str, object] = json.loads(ended.stdout)
        return told

    def health() -> dict[str, bool]:
        nodes = json.loads(run_wopr("nodes", "list", "--json", environment=environment).stdout)["nodes"]
        found: dict[str, bool] = nodes[0]["service_health"]
        return found

    try:
        assert trigger("hang", "--dry-run")["services"] == [{"name": "qwen", "pid": pid}]
        assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
        assert trigger("hang")["dry_run"] is False
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
        wait_for(lambda: not health()["qwen"], "the watchdog to see the hang")
        assert health()["llama"]
    finally:
        trigger("recover")
    wait_for(lambda: health()["qwen"], "the watchdog to see the recovery")
    assert up.pids()["qwen"] == pid


def test_what_was_said_survives_a_killed_supervisor_and_nothing_of_it_stays_behind(up: Stack, paying: Person) -> None:
    bot = paying.make_bot("Marvin")
    told = paying.ask(bot, "Remember that my cat is called Schroedinger.")
    assert told["state"] == "completed"
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    orphans = {process.pid for process in owned(up.home)}
    assert orphans, "kill -9 leaves children behind, or there is nothing to clean up"

    again = stacks.start(up.home, up.ports)
    try:
        still = {process.pid for process in owned(up.home)} & orphans
        names = {process.pid: " ".join(process.cmdline()) for process in owned(up.home) if process.pid in still}
        # A bot may be adopted; everything else is ended and started anew.
        assert all("wopr.bot" in command for command in names.values()), names
        paying.wait_running(bot)
        messages = paying.get(f"/fleet/bots/{bot}/conversations/{told['conversation_id']}/messages")["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        asked = paying.ask(bot, "What is my cat called?", told["conversation_id"])
        assert asked["state"] == "completed"
        assert "Schroedinger" in asked["text"]

        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(PATIENCE_SECONDS) == 130
        assert owned(up.home) == []
    finally:
        again.stop()


def test_a_child_that_hangs_hears_that_it_shall_end() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        process.send_signal(signal.SIGSTOP)
        end_group(process.pid)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_of_starting_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "wopr", "up", "--json", *options(home, free_ports())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
    try:
        wait_for(lambda: len(owned(home)) > 3, "the first children")
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == code
        assert owned(home) == []
    finally:
        process.kill()
        for left in owned(home):
            left.kill()
