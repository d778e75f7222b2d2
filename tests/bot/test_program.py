"""The program around the conversation: its start, its memory, its logs, its configuration."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from wopr.bot import claim, contract, footprint
from wopr.bot.settings import SettingsError, load_settings

IDLE_MEGABYTES_MAX = 40
ENVIRONMENT = {
    contract.ENV_TOKEN: "secret-token",
    contract.ENV_GATEWAY_URL: "http://127.0.0.1:3100/v1/",
    contract.ENV_SERVICE_KEY: "wopr_write_secret",
    contract.ENV_MODEL: "handbook",
}


async def test_an_idle_bot_needs_less_than_its_share_of_memory(bot: Any) -> None:
    await bot.say("hello", "t1")
    used = psutil.Process(bot.process.pid).memory_info().rss
    assert used < IDLE_MEGABYTES_MAX * 1_000_000, f"{used / 1e6:.1f} MB"


async def test_logs_are_json_lines_without_secrets_and_without_what_people_wrote(bot: Any, gateway: Any) -> None:
    await bot.say("my password is swordfish", "t1")
    await bot.call("GET", "/conversations", headers={"Authorization": "Bearer wrong-guess"})
    await bot.logged("turn_finished")
    await bot.stop()
    written = json.dumps(bot.logs)
    for hidden in ("swordfish", "You said", bot.environment["WOPR_BOT_TOKEN"], "wopr_write_key", "wrong-guess"):
        assert hidden not in written
    assert {"listening", "started", "ready", "request", "turn_finished", "stopping", "stopped"} <= {
        line["event"] for line in bot.logs
    }
    assert all({"at", "level", "event"} <= set(line) for line in bot.logs)


async def test_the_bot_imports_nothing_else_of_wopr() -> None:
    program = (
        "import sys, wopr.bot.__main__, wopr.bot.app;"
        "print([name for name in sys.modules if name.split('.')[0] == 'wopr'"
        " and name != 'wopr' and not name.startswith('wopr.bot')])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert printed.decode().strip() == "[]"


@pytest.mark.parametrize("missing", sorted(ENVIRONMENT))
async def test_a_missing_variable_is_named_and_the_program_ends_as_wrongly_used(missing: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        **{name: value for name, value in ENVIRONMENT.items() if name != missing},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wopr.bot", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert missing in said.decode()
    assert "Traceback" not in said.decode()


async def test_a_port_in_use_ends_the_start_with_a_remedy(bot: Any, tmp_path: Path) -> None:
    port = bot.url.rpartition(":")[2]
    environment = {**bot.environment, "WOPR_BOT_PORT": port, "WOPR_BOT_DATA": str(tmp_path / "other")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wopr.bot", env=environment, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    last = json.loads(printed.splitlines()[-1])
    assert (process.returncode, last["event"]) == (1, "start_failed")
    assert last["fix"]


def test_a_data_folder_belongs_to_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "WAIT_SECONDS_MAX", 0.1)
    entered = []
    with claim.claimed(tmp_path):
        entered.append("the first")
        with pytest.raises(claim.FolderInUse), claim.claimed(tmp_path):
            entered.append("a second at the same time")
    with claim.claimed(tmp_path):
        entered.append("the next")
    assert entered == ["the first", "the next"]


def test_settings_keep_secrets_out_of_sight_and_tell_what_is_wrong() -> None:
    settings = load_settings(ENVIRONMENT)
    assert "secret" not in repr(settings)
    assert (settings.gateway_url, settings.port, settings.data) == ("http://127.0.0.1:3100/v1", 7437, Path("/data"))
    for name, value in ((contract.ENV_PORT, "x"), (contract.ENV_PORT, "70000"), (contract.ENV_GATEWAY_URL, "ftp://x")):
        with pytest.raises(SettingsError, match=name):
            load_settings({**ENVIRONMENT, name: value})


def test_tls_stays_when_it_is_needed_or_there_already() -> None:
    assert footprint.leave_out_tls("https://platform.example/v1") is False
    assert footprint.leave_out_tls("http://127.0.0.1/v1") is False  # this test process has loaded it long ago
