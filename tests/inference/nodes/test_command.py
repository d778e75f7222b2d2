"""`wopr nodes` against a real database."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wopr.cli.nodes import app
from wopr.cloud.ssh import SshFailed
from wopr.core.errors import Conflict, NotFound
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
    assert (node["hourly_usd"], node["cost_so_far_usd"]) == ("0.00", "0.00")
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


def test_a_node_is_cordoned_drained_and_had_back(home: Path) -> None:
    wopr("register", "gpu-1", "--host", "h")
    for verb, desired in (("cordon", "cordoned"), ("uncordon", "serving")):
        assert "would have" in wopr(verb, "gpu-1", "--dry-run").stdout
        assert wopr(verb, "gpu-1").exit_code == 0
        assert listed()[0]["desired"] == desired
        assert wopr(verb, "gpu-1", "--exit-code").exit_code == 4
    draining = json.loads(wopr("drain", "gpu-1", "--wait", "0", "--json").stdout)
    assert (draining["changed"], draining["drained"]) == (True, False)
    assert "draining" in wopr("list").stdout
    late = wopr("drain", "gpu-1", "--wait", "1")
    assert late.exit_code == 1
    assert "wopr nodes drain gpu-1" in late.stderr
    assert ("nodes.want", "end") in [(entry.name, entry.phase) for entry in Journal(home).read()]


def test_a_repair_is_asked_for_and_a_machine_of_ones_own_is_not_rebooted(home: Path) -> None:
    wopr("register", "gpu-1", "--host", "h")
    assert "would restart" in wopr("repair", "gpu-1", "--dry-run").stdout
    assert listed()[0]["repair"] == ""
    assert wopr("repair", "gpu-1").exit_code == 0
    assert listed()[0]["repair"] == "restart was asked for"
    assert wopr("repair", "gpu-1", "--rung", "reboot").exit_code == 2
    refused = wopr("repair", "gpu-1", "--rung", "reboot", "--yes")
    assert isinstance(refused.exception, Conflict)


def test_the_key_for_nodes_of_ones_own_allows_restarts_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_SECRET", "a-secret-of-tests")
    line = wopr("ssh-key").stdout
    assert line.startswith('restrict,command="')
    assert "ssh-ed25519 " in line
    assert json.loads(wopr("ssh-key", "--json").stdout)["authorized_key"] == line.strip()


def test_logs_of_a_machine_that_is_not_reached_say_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_SECRET", "a-secret-of-tests")
    monkeypatch.setenv("NODE_SSH_PORT", "1")
    assert isinstance(wopr("logs", "gpu-9").exception, NotFound)
    wopr("register", "gpu-1", "--host", "127.0.0.1")
    assert isinstance(wopr("logs", "gpu-1", "llama").exception, SshFailed)
