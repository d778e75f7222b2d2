"""How `wopr up` ends its start: every kind of `--progress` says where to go and how the administrator comes in."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wopr.cli import output, welcome
from wopr.cli.output import ProgressKind
from wopr.cli.welcome import Started

LINK = "http://localhost:8000/welcome?token=secret"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    yield Started(tmp_path / ".wopr", "http://localhost:8000", LINK, 7.251, mails_port=4102, payments_port=4101)
    output.progress(ProgressKind.TTY)


def told(
    kind: ProgressKind, started: Started, capsys: pytest.CaptureFixture[str], *, as_json: bool = False
) -> list[str]:
    welcome.greet(output.progress(kind, as_json=as_json), started, as_json=as_json)
    seen = capsys.readouterr()
    return [seen.out, seen.err]


def test_a_person_reads_the_addresses_and_the_link(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(ProgressKind.PLAIN, started, capsys)
    assert out == ""
    for part in ("Ready in 7.3 s", started.ui_url, LINK, "http://localhost:4102", "http://localhost:4101"):
        assert part in err


def test_the_last_json_event_has_the_link(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(ProgressKind.JSON, started, capsys)
    assert out == ""
    event = json.loads(err.splitlines()[-1])
    assert event.pop("at").endswith("Z")
    assert event == {
        "event": "up",
        "machine": os.uname().nodename,
        "seconds": 7.25,
        "ui_url": started.ui_url,
        "admin_link": LINK,
    }


def test_quiet_says_where_a_link_is_had_without_writing_one(
    started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = told(ProgressKind.QUIET, started, capsys)
    assert err == ""
    assert out == f"{started.ui_url}  administrator: wopr admin link\n"


def test_json_on_stdout_is_as_it_was(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(ProgressKind.AUTO, started, capsys, as_json=True)
    assert err == ""
    assert json.loads(out) == {"event": "up", "seconds": 7.25, "ui_url": started.ui_url, "admin_link": LINK}


def test_commands_for_another_shell_name_a_folder_that_it_would_not_find(
    started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path("/srv/my wopr")
    elsewhere = Started(home, started.ui_url, LINK, 1.0, welcome.prefix_of(home, started.home))
    assert "administrator: WOPR_HOME='/srv/my wopr' wopr admin link" in told(ProgressKind.QUIET, elsewhere, capsys)[0]
    assert "WOPR_HOME='/srv/my wopr' wopr status" in told(ProgressKind.PLAIN, elsewhere, capsys)[1]
    assert welcome.prefix_of(home, home) == ""


@pytest.mark.parametrize("kind", [ProgressKind.JSON, ProgressKind.QUIET, ProgressKind.PLAIN])
def test_a_second_up_tells_every_kind_where_the_first_one_is(
    kind: ProgressKind, started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    welcome.already(output.progress(kind), started.home, 4711, started.ui_url, as_json=False)
    seen = capsys.readouterr()
    assert started.ui_url in seen.out + seen.err
    if kind is ProgressKind.JSON:
        event = json.loads(seen.err)
        assert (event["event"], event["pid"], event["ui_url"]) == ("running", 4711, started.ui_url)
