"""What `--progress` tells, kind by kind: one line a stage, the machine that fails by name, nothing twice."""

import json
import os
import sys
from datetime import UTC, datetime

import pytest

from wopr.cli import output
from wopr.cli.installation import Teller
from wopr.cli.output import ProgressKind
from wopr.cli.progress import FIRST_REMINDER_SECONDS, Progress
from wopr.core.errors import Unavailable

HERE = os.uname().nodename
NOW = "2026-11-23T17:20:01Z"


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def made(kind: ProgressKind, time: Time, machine: str = "") -> Progress:
    return Progress(kind, machine, now=lambda: datetime(2026, 11, 23, 17, 20, 1, tzinfo=UTC), clock=time)


def test_plain_is_one_timestamped_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()
    progress = made(ProgressKind.PLAIN, time)
    with progress.stage("vps-1", "pull images") as stage:
        time.seconds += 3.2
        stage.done("2 new")
    with progress.stage("", "migrate"):
        pass
    assert capsys.readouterr().err.splitlines() == [
        f"{NOW} vps-1  pull images  done in 3.2 s  2 new",
        f"{NOW} {HERE}  migrate  done in 0.0 s",
    ]


@pytest.mark.parametrize("kind", [ProgressKind.TTY, ProgressKind.PLAIN, ProgressKind.JSON, ProgressKind.QUIET])
def test_every_kind_names_the_machine_that_fails(kind: ProgressKind, capsys: pytest.CaptureFixture[str]) -> None:
    progress = made(kind, Time())
    with pytest.raises(OSError, match="disk"), progress.stage("vps-2", "pull images"):
        raise OSError("the disk is full\nand more")
    with progress.stage("", "plan") as stage:
        stage.failed("no")
    told = capsys.readouterr().err
    assert "vps-2" in told
    assert "pull images" in told
    assert "the disk is full" in told
    assert "and more" not in told
    assert HERE in told, "this machine is named too when it fails"


def test_quiet_tells_nothing_of_what_goes_well(capsys: pytest.CaptureFixture[str]) -> None:
    progress = output.progress(ProgressKind.QUIET)
    with progress.stage("", "plan"):
        output.say("hello")
    assert capsys.readouterr().err == ""
    output.complain("It broke.", remedy="wopr up")
    assert capsys.readouterr().err == "error: It broke.\n  fix: wopr up\n"


def test_json_is_a_line_of_json_for_each_event_errors_included(capsys: pytest.CaptureFixture[str]) -> None:
    progress = output.progress(ProgressKind.JSON, "vps-1")
    with progress.stage("", "pull images") as stage:
        stage.update(5, 10)
        output.say("left out")
    output.complain("It broke.", remedy="wopr up")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["started", "progress", "done", "error"]
    assert {line.get("machine") for line in lines[:3]} == {"vps-1"}
    assert lines[1]["done"] == 5
    assert lines[3] == {"event": "error", "message": "It broke.", "fix": "wopr up"}


def test_a_terminal_gets_one_line_rewritten_and_no_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()
    progress = made(ProgressKind.TTY, time)
    with progress.stage("", "model.gguf") as stage:
        stage.update(500_000, 1_000_000)
        time.seconds += 2
    told = capsys.readouterr().err
    assert "0.5 of 1.0 MB (50 %)" in told
    assert told.rstrip("\n").split("\r")[-1].strip() == "✓ model.gguf             2.00 s"
    assert told.count("\n") == 1
    assert "\x1b" not in told


def test_a_passing_stage_leaves_nothing_on_a_terminal_unless_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    progress = made(ProgressKind.TTY, Time())
    with progress.stage("", "look", keep=False):
        pass
    assert "\n" not in capsys.readouterr().err
    progress.stage("", "look", keep=False).failed("away")
    assert "✗" in capsys.readouterr().err


def test_stages_of_several_machines_run_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    progress = made(ProgressKind.PLAIN, Time())
    first, second = progress.stage("vps-1", "pull"), progress.stage("vps-2", "pull")
    first.done()
    second.failed("no space")
    second.done("told already")
    assert capsys.readouterr().err.splitlines() == [
        f"{NOW} vps-1  pull  done in 0.0 s",
        f"{NOW} vps-2  pull  FAILED  no space",
    ]


def test_a_plain_stage_that_lasts_says_where_it_hangs(capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()
    progress = made(ProgressKind.PLAIN, time)
    stage = progress.stage("vps-1", "pull")
    time.seconds += FIRST_REMINDER_SECONDS
    progress.tick()
    progress.tick()
    assert capsys.readouterr().err == f"{NOW} vps-1  pull  still running after 10 s\n"
    stage.done()


def test_a_stage_that_counts_is_told_by_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    progress = made(ProgressKind.PLAIN, Time())
    with progress.stage("", "model.gguf") as stage:
        for done in range(101):
            stage.update(done * 1_000_000, 100_000_000)
    assert len(capsys.readouterr().err.splitlines()) == 12


def test_auto_is_plain_when_piped_and_quiet_beside_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.progress(ProgressKind.AUTO).kind is ProgressKind.PLAIN
    assert output.progress(ProgressKind.AUTO, as_json=True).kind is ProgressKind.QUIET
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert output.progress(ProgressKind.AUTO).kind is ProgressKind.TTY
    monkeypatch.setenv("TERM", "dumb")
    assert output.progress(ProgressKind.AUTO).kind is ProgressKind.PLAIN


def test_a_stage_that_is_forgotten_says_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    progress = made(ProgressKind.PLAIN, Time())
    stage = progress.stage("", "everything")
    stage.forget()
    stage.failed("late")
    progress.done()
    assert capsys.readouterr().err == ""


def test_the_reason_of_a_known_error_is_its_message_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress = made(ProgressKind.PLAIN, Time())
    with pytest.raises(Unavailable), progress.stage("vps-1", "pull"):
        raise Unavailable("The registry is away.", remedy="Wait.")
    assert capsys.readouterr().err == f"{NOW} vps-1  pull  FAILED  The registry is away.\n"


def test_an_operations_steps_are_told_with_their_time_and_meanwhile_what_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    time = Time()
    progress = made(ProgressKind.PLAIN, time)
    tell = Teller(progress, "vps-1")
    time.seconds += 0.5
    tell("preflight", "")
    time.seconds += FIRST_REMINDER_SECONDS
    progress.tick()
    time.seconds += 1
    tell("pulled", "platform x")
    tell.end()
    time.seconds += FIRST_REMINDER_SECONDS
    progress.tick()
    assert capsys.readouterr().err.splitlines() == [
        f"{NOW} vps-1  preflight  done in 0.5 s",
        f"{NOW} vps-1  fetching images  still running after 10 s",
        f"{NOW} vps-1  pulled  done in 11.0 s  platform x",
    ]
