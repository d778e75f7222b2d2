"""`wopr nodes` against a real database."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wopr.cli.nodes import app
from wopr.ops.journal import Journal


@pytest.fixture
def home(database_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATABASE_URL", database_address)
    monkeypatch.setenv("WOPR_HOME", str(tmp_path))
    return tmp_path


def wopr(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def listed() -> list[dict[str, object]]:
    nodes: list[dict[str, object]] = json.loads(wopr("list", "--json").stdout)["nodes"]
    return nodes


def test_a_node_is_registered_listed_and_removed(home: Path) -> None:
    assert wopr("register", "gpu-1", "--host", "10.0.0.5", "--port", "llama=9090").exit_code == 0
    assert wopr("register", "gpu-1", "--host", "10.0.0.5", "--port", "llama=9090").exit_code == 0
    (node,) = listed()
    assert (node["id"], node["ports"]) == ("gpu-1", {"llama": 9090})
    assert "llama:down" in wopr("list").stdout
    assert wopr("remove", "gpu-1", "--yes").exit_code == 0
    assert listed() == []
    names = [(entry.name, entry.phase) for entry in Journal(home).read()]
    assert ("nodes.register", "end") in names
    assert names[-1] == ("nodes.remove", "end")


def test_a_dry_run_changes_nothing(home: Path) -> None:
    assert "would register" in wopr("register", "gpu-1", "--host", "h", "--dry-run").stdout
    assert listed() == []
    wopr("register", "gpu-1", "--host", "h")
    assert json.loads(wopr("remove", "gpu-1", "--dry-run", "--json").stdout)["dry_run"] is True
    assert len(listed()) == 1


def test_without_a_terminal_removal_names_the_flag(home: Path) -> None:
    wopr("register", "gpu-1", "--host", "h")
    refused = wopr("remove", "gpu-1")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert len(listed()) == 1


def test_a_port_that_is_none_is_wrong_usage(home: Path) -> None:
    assert wopr("register", "gpu-1", "--host", "h", "--port", "llama").exit_code == 2
