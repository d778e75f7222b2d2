"""`wopr incident` and `wopr logbook` as a person uses them: results on stdout, exit codes, rehearsals, filters."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.stack import clean_environment, free_ports, run_wopr

from wopr.cli.moments import moment
from wopr.ops.incidents import open_incidents
from wopr.ops.journal import Journal

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`wopr` on an installation of its own."""

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run_wopr(*arguments, environment={**clean_environment(), "WOPR_HOME": str(tmp_path)})

    return command


def document(ended: "subprocess.CompletedProcess[str]") -> Any:  # whatever the command writes
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_an_incident_by_hand(run: Run, tmp_path: Path) -> None:
    rehearsed = document(run("incident", "open", "Sign-in fails", "--severity", "1", "--dry-run", "--json"))
    assert rehearsed["dry_run"] is True
    assert not (tmp_path / "journal.jsonl").exists()
    opened = run("incident", "open", "Sign-in fails", "--severity", "1", "--began", "20m")
    assert opened.stdout == "INC-0001\n"
    assert run("incident", "note", "1", "Looking", "--acknowledged").returncode == 0
    ended = ("--root-cause", "Disk full", "--follow-up", "Alert", "--follow-up", "Grow it")
    assert run("incident", "resolve", "INC-0001", *ended).returncode == 0
    assert run("incident", "resolve", "1", "--exit-code").returncode == 4
    shown = document(run("incident", "show", "1", "--json"))
    assert shown["follow_up"] == ["Alert", "Grow it"]
    assert shown["severity"] == "SEV1"
    listed = document(run("incident", "list", "--json"))
    assert listed["incidents"][0]["root_cause"] == "Disk full"
    assert listed["mean_seconds"]["mttr"] >= 1200
    assert "INC-0001" not in run("incident", "list", "--open").stdout
    assert "Disk full" in (tmp_path / "logbook" / "INCIDENTS.md").read_text(encoding="utf-8")


def test_wrong_usage_names_what_would_be_right(run: Run) -> None:
    grade = run("incident", "open", "x", "--severity", "urgent")
    assert (grade.returncode, "SEV1, SEV2" in grade.stderr) == (1, True)
    future = run("incident", "open", "x", "--began", "2999-01-01")
    assert (future.returncode, "future" in future.stderr) == (2, True)
    nobody = run("incident", "show", "7")
    assert (nobody.returncode, "fix: wopr incident list" in nobody.stderr) == (1, True)
    when = run("logbook", "show", "--since", "noonish")
    assert (when.returncode, "2026-11-23" in when.stderr) == (2, True)


def test_notes_and_decisions_and_what_is_shown_of_them(run: Run, tmp_path: Path) -> None:
    identifier = document(run("logbook", "decide", "One VPS", "--context", "cost", "--json"))["operation"]
    assert run("logbook", "note", "New fan", "--node", "n1").returncode == 0
    with pytest.raises(RuntimeError), Journal(tmp_path).operation("deploy", release=1):
        raise RuntimeError("no disk")
    assert "## 1. One VPS" in (tmp_path / "logbook" / "DECISIONS.md").read_text(encoding="utf-8")
    assert "New fan" in (tmp_path / "logbook" / "nodes" / "n1.md").read_text(encoding="utf-8")

    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in document(run("logbook", "show", "--json", *arguments))["operations"]]

    assert names() == ["decision", "node.note", "deploy"]
    assert names("--kind", "de", "--since", "2h", "--until", "today") == ["decision", "deploy"]
    assert names("--outcome", "failed") == ["deploy"]
    assert names("--until", "yesterday") == []
    assert names("--actor", "nobody@") == []
    assert names("--limit", "1") == ["deploy"]
    whole = document(run("logbook", "show", "--operation", identifier[-12:], "--json"))
    assert whole["entries"][0]["data"]["title"] == "One VPS"


def test_another_installation_is_named_by_its_folder(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with Journal(elsewhere).operation("deploy", release=1):
        pass
    shown = document(run("logbook", "show", "--dir", str(elsewhere), "--json"))
    assert [row["name"] for row in shown["operations"]] == ["deploy"]
    assert run("logbook", "verify", "--dir", str(elsewhere)).stdout == "2 entries, chain and pages intact\n"


def test_verify_refuses_what_was_changed_and_render_mends_pages(run: Run, tmp_path: Path) -> None:
    with Journal(tmp_path).operation("deploy", release=1):
        pass
    (tmp_path / "logbook" / "GPU.md").write_text("better\n", encoding="utf-8")
    told = run("logbook", "verify", "--json")
    assert told.returncode == 3
    assert json.loads(told.stdout)["problems"] == [{"line": 0, "reason": "page GPU.md differs from the journal"}]
    assert document(run("logbook", "render", "--dry-run", "--json"))["changed"] == ["GPU.md"]
    assert run("logbook", "render").returncode == 0
    assert run("logbook", "render", "--exit-code").returncode == 4
    assert run("logbook", "verify").returncode == 0
    file = tmp_path / "journal.jsonl"
    file.write_text(file.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    cut = run("logbook", "verify")
    assert cut.returncode == 3
    assert "is the last of 1, but 2 were written" in cut.stderr


def test_pages_can_be_written_elsewhere_without_a_commit(run: Run, tmp_path: Path) -> None:
    with Journal(tmp_path / "home").operation("deploy", release=1):
        pass
    to = tmp_path / "docs"
    done = document(run("logbook", "render", "--dir", f"{tmp_path}/home", "--to", str(to), "--no-commit", "--json"))
    assert "RUNBOOK.md" in done["changed"]
    assert not (to / ".git").exists()


def test_what_is_written_meanwhile_is_followed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("a", "smoke", "begin", {})
    command = [sys.executable, "-m", "wopr", "logbook", "show", "--follow", "--json", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["outcome"] == "unfinished"
        journal.append("a", "smoke", "step", {"step": "sign up"})
        assert json.loads(follower.stdout.readline())["data"] == {"step": "sign up"}
        follower.terminate()


def test_status_and_check_leave_what_they_saw_once(run: Run, tmp_path: Path) -> None:
    ports = {f"{name.upper()}_PORT": str(port) for name, port in free_ports().items()}
    urls = {"API_URL": f"http://localhost:{ports['API_PORT']}", "UI_URL": f"http://localhost:{ports['UI_PORT']}"}
    environment = {
        **clean_environment(),
        **ports,
        **urls,
        "WOPR_HOME": str(tmp_path),
        "INCIDENT_AFTER_SECONDS": "0.001",
    }
    run_wopr("status", environment=environment)
    assert not (tmp_path / "journal.jsonl").exists()
    journal = Journal(tmp_path)
    with journal.operation("deploy", release=1, platform="x@sha256:" + "a" * 64):
        pass
    for _ in range(2):
        run_wopr("status", environment=environment)
        run_wopr("check", environment=environment)
    seen = [entry.data["what"] for entry in journal.read() if entry.name == "observed"]
    assert sorted(seen) == ["addresses", "checks", "secrets", "services"]
    runbook = (tmp_path / "logbook" / "RUNBOOK.md").read_text(encoding="utf-8")
    assert f"- API: `{urls['API_URL']}/health`" in runbook
    assert "LIVE — release 1" in runbook
    assert "api does not answer" in {incident.title for incident in open_incidents(journal)}


@pytest.mark.parametrize("text", ["2h", "30 min", "1.5d", "2026-11-23", "2026-11-23T17:30:00Z", "today", "now"])
def test_moments_as_people_type_them(text: str) -> None:
    assert moment(text, "--since").tzinfo is not None
    assert moment(text, "--since", end=True) >= moment(text, "--since", end=False).replace(microsecond=0)
