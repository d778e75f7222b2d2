"""What `wopr check` asks of an installation's own API, and what it shows of the answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from wopr.cli.checking import _inside
from wopr.cli.livechecks import LiveChecks
from wopr.cloud.ssh import Output
from wopr.core.settings import Settings
from wopr.delivery.hosts import LocalHost
from wopr.delivery.place import Place


@dataclass(frozen=True)
class Serving(LocalHost):
    """A machine with an API that answers for all of its checks."""

    checks: tuple[str, ...] = ()

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Output:
        assert argv == ("docker", "exec", "wopr-api-blue", "wopr", "check", "--json")
        rows = [{"name": name, "proves": "", "verdict": "ok", "evidence": "", "remedy": ""} for name in self.checks]
        return Output(0, json.dumps({"checks": rows}).encode())


@pytest.fixture
def host(tmp_path: Path) -> Serving:
    live = LiveChecks(Settings(wopr_home=tmp_path))
    (tmp_path / "state.json").write_text(json.dumps({"active": {"slot": "blue", "release": 1}}))
    return Serving(checks=("settings.session-secret", *(check.name for check in live.checks())))


async def test_all_that_only_the_api_can_look_at_is_shown(host: Serving, tmp_path: Path) -> None:
    shown = {outcome.name for outcome in await _inside(host, Place(str(tmp_path)), "")}
    elsewhere = {name for name in host.checks if name.startswith(("settings.", "api.", "ui."))}
    assert shown == {*host.checks} - elsewhere
    assert "bots.registry" in shown


async def test_it_is_asked_only_for_what_it_has(host: Serving, tmp_path: Path) -> None:
    (found,) = await _inside(host, Place(str(tmp_path)), "bots")
    assert found.name == "bots.registry"
    assert await _inside(host, Place(str(tmp_path)), "env") == []
