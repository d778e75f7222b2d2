"""The command line on a terminal and in a pipe: colours, completion in three shells, Ctrl-C, and the last line."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.stack import clean_environment, free_ports, run_wopr

from wopr.cli import output

ESCAPE = "\x1b["
SILENCE_SECONDS = 5.0
WOPR = [sys.executable, "-m", "wopr"]


def away(home: Path) -> dict[str, str]:
    """An environment in which nothing runs."""
    ports = {f"{name.upper()}_PORT": str(port) for name, port in free_ports().items()}
    nowhere = {"API_URL": "http://127.0.0.1:1", "UI_URL": "http://127.0.0.1:1", "WOPR_HOME": str(home)}
    return {**clean_environment(), **ports, **nowhere, "TERM": "xterm"}


def on_a_terminal(environment: Mapping[str, str], *arguments: str, typing: bytes = b"") -> tuple[int, str]:
    """Exit code and all that a person would have seen, who answers a question by `typing`."""
    ours, theirs = pty.openpty()
    # A session of its own, whose terminal this is: or Ctrl-C would be but a character.
    login = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", login, *WOPR, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(environment),
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how a closed terminal reads
        typed = not typing
        while True:
            if not typed and b"[y/N]" in seen:
                typed = os.write(ours, typing) > 0
            elif not select.select([ours], [], [], SILENCE_SECONDS)[0]:
                # A signal between the question and the reading of its answer is not noticed: one types it again.
                typed = typed and b"[y/N]" not in seen
            elif part := os.read(ours, 4096):
                seen += part
            else:
                break
    os.close(ours)
    return process.wait(60), seen.decode()


def test_a_terminal_gets_colours_and_nobody_else_does(tmp_path: Path) -> None:
    environment = away(tmp_path)
    code, seen = on_a_terminal(environment, "status")
    assert code == 1
    assert ESCAPE in seen, "or the rest of this test sees nothing"
    assert ESCAPE not in on_a_terminal({**environment, "NO_COLOR": "1"}, "status")[1]
    assert ESCAPE not in on_a_terminal(environment, "--color", "never", "status")[1]
    assert ESCAPE not in on_a_terminal({**environment, "TERM": "dumb"}, "status")[1]
    piped = run_wopr("status", environment=environment)
    assert ESCAPE not in piped.stdout + piped.stderr
    assert ESCAPE in run_wopr("--color", "always", "status", environment=environment).stdout


@pytest.mark.parametrize("arguments", [("--help",), ("bots", "--help"), ("stauts",), ("bots", "start", "Ada")])
def test_help_and_errors_obey_too(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert ESCAPE not in on_a_terminal({**away(tmp_path), "NO_COLOR": "1"}, *arguments)[1]
    assert ESCAPE not in on_a_terminal(away(tmp_path), "--color", "never", *arguments)[1]


def test_progress_on_a_terminal_is_a_line_that_goes_away(tmp_path: Path) -> None:
    _, seen = on_a_terminal({**away(tmp_path), "NO_COLOR": "1"}, "check", "--only", "settings")
    assert "… checks" in seen
    assert "skipped" in seen.splitlines()[-1]
    assert ESCAPE not in seen


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script_and_its_answers(shell: str) -> None:
    script = run_wopr("completion", shell).stdout
    assert f"complete_{shell}" in script
    assert json.loads(run_wopr("completion", shell, "--json").stdout) == {"shell": shell, "script": script.rstrip("\n")}
    asked = {
        "bash": {"COMP_WORDS": "wopr bots st", "COMP_CWORD": "2"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "wopr bots st"},
        "fish": {"_TYPER_COMPLETE_ARGS": "wopr bots st", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {**clean_environment(), **asked, "_WOPR_COMPLETE": f"complete_{shell}"}
    answered = subprocess.run(
        [str(Path(sys.executable).parent / "wopr")], env=environment, capture_output=True, text=True, check=False
    )
    assert "start" in answered.stdout
    assert "stop" in answered.stdout
    assert "list" not in answered.stdout


def test_bash_completes_the_values_of_an_option() -> None:
    asked = {"COMP_WORDS": "wopr smoke --progress ", "COMP_CWORD": "3", "_WOPR_COMPLETE": "complete_bash"}
    answered = subprocess.run(
        [str(Path(sys.executable).parent / "wopr")],
        env={**clean_environment(), **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.stdout.split() == ["auto", "tty", "plain", "json", "quiet"]


def test_ctrl_c_exits_130_without_a_trace(tmp_path: Path) -> None:
    command = [*WOPR, "status", "--watch"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=away(tmp_path), stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("typed", "code", "last"),
    [(b"\x03", 130, ""), (b"\x04", 3, "Nothing was changed."), (b"n\n", 3, "Nothing was changed.")],
)
def test_who_does_not_say_yes_changes_nothing(typed: bytes, code: int, last: str, tmp_path: Path) -> None:
    (tmp_path / "secrets.env").touch()
    environment = {**away(tmp_path), "NO_COLOR": "1"}
    ended, seen = on_a_terminal(environment, "up", "--home", str(tmp_path), "--reset", typing=typed)
    assert ended == code
    assert "Delete everything" in seen
    assert "Aborted" not in seen
    assert last in seen.splitlines()[-1]
    assert (tmp_path / "secrets.env").exists()


def test_the_most_important_line_is_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    output.complain("It broke.", remedy="wopr up", log="/var/log/wopr.log")
    assert capsys.readouterr().err.splitlines() == ["error: It broke.", "  log: /var/log/wopr.log", "  fix: wopr up"]


def test_quiet_is_nothing_but_errors(tmp_path: Path) -> None:
    quiet = run_wopr("check", "--progress", "quiet", environment=away(tmp_path))
    assert quiet.returncode == 3
    told = quiet.stderr.splitlines()
    assert told
    assert all(line.lstrip().startswith(("✗", "fix:")) for line in told)


def test_json_progress_is_json_where_a_check_fails(tmp_path: Path) -> None:
    ended = run_wopr("check", "--only", "settings", "--progress", "json", environment=away(tmp_path))
    assert ended.returncode == 3
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [event["event"] for event in events] == ["started", "done", "error"]
    assert "settings.session-secret" in events[2]["message"]
    assert events[2]["fix"]


def test_json_progress_is_json_to_the_last_line(tmp_path: Path) -> None:
    nowhere = ("--url", "http://127.0.0.1:1", "--mail-url", "http://127.0.0.1:1", "--progress", "json")
    ended = run_wopr("smoke", *nowhere, environment=away(tmp_path))
    assert ended.returncode == 1
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [event["event"] for event in events] == ["started", "failed", "error"]
    assert events[1]["machine"] == os.uname().nodename
    assert events[2]["fix"]


def test_done_already_is_0_and_4_when_it_is_asked(tmp_path: Path) -> None:
    environment = away(tmp_path)
    for verb in ("rm", "delete"):
        again = run_wopr("models", verb, "gone", environment=environment)
        assert (again.returncode, "nothing to do" in again.stderr) == (0, True)
    assert run_wopr("models", "rm", "gone", "--exit-code", environment=environment).returncode == 4


def test_help_loads_nothing_that_takes_long() -> None:
    """The goal of a quarter of a second is measured in benchmarks/command_line.py; this is what would miss it."""
    program = "import sys; from wopr.cli.root import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ended.stderr.split()}
    assert "typer" in loaded
    assert loaded.isdisjoint({"pydantic", "httpx", "aiohttp", "sqlalchemy", "structlog", "fastapi", "rich", "psutil"})
