"""A setting that can't be understood is named, with what it should be, before anything begins."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.stack import clean_environment, free_ports, run_wopr

from wopr.core.errors import NotConfigured
from wopr.core.settings import load_settings


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("API_PORT", "abc", "integer"),
        ("API_PORT", "99999", "65535"),
        ("DRAIN_SECONDS", "-1", "greater"),
        ("LOG_LEVEL", "loud", "'debug'"),
        ("LOG_FORMAT", "xml", "'json'"),
        ("BOT_RUNTIME", "magic", "'docker'"),
        ("TRUSTED_PROXIES", "garbage", "garbage"),
        ("WOPR_INSTALLATION", "BAD NAME", "pattern"),
    ],
)
def test_a_setting_that_cannot_be_understood_is_named_with_what_it_should_be(
    name: str, value: str, wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(NotConfigured) as caught:
        load_settings(tmp_path)
    assert caught.value.message.startswith(f"{name} ('{value}') can't be used: ")
    assert wanted in caught.value.message
    assert name in caught.value.remedy


def test_every_command_says_it_as_people_need_it(tmp_path: Path) -> None:
    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path), "API_PORT": "abc"}
    for command in (("status",), ("api",), ("nodes", "list")):
        ended = run_wopr(*command, environment=environment)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[0].startswith("error: API_PORT ('abc') can't be used")
        assert ended.stderr.splitlines()[-1].startswith("  fix: Correct API_PORT")


def test_a_level_may_be_written_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    assert load_settings(tmp_path).log_level == "info"


def test_logs_as_text_have_no_colours_in_a_pipe(tmp_path: Path) -> None:
    port = free_ports()["ui"]
    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path), "LOG_FORMAT": "text"}
    command = [sys.executable, "-m", "wopr", "ui", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if f"127.0.0.1:{port} (" in line:
                break
        process.terminate()
    assert "Uvicorn running" in seen
    assert "\x1b[" not in seen
