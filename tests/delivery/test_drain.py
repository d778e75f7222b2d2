"""A process that is told to stop leaves in order: it says so, still answers, lets streams end, and only then closes."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.live import wait_for
from tests.stack import clean_environment

LEAD_SECONDS = 10.0


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`wopr ui` as a container runs it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"WOPR_HOME": str(tmp_path), "DRAIN_LEAD_SECONDS": str(LEAD_SECONDS), "DRAIN_SECONDS": "5"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wopr", "ui", "--port", str(port)],
        env=clean_environment() | settings,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/ready") == 200, "the UI to be ready")
        yield process, address
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> int:
    """The status; 0 when nobody listens."""
    try:
        return httpx.get(url, timeout=30, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def asked(kept: http.client.HTTPConnection) -> int:
    """The status, on a connection that stays open."""
    kept.request("GET", "/health")
    answer = kept.getresponse()
    answer.read()
    return answer.status


def test_a_terminated_process_says_draining_at_once_and_goes_on_answering_until_its_lead_is_over(
    ui: tuple[subprocess.Popen[bytes], str],
) -> None:
    """On connections that are kept as well: a proxy that finds its own closed can't ask a POST again."""
    process, address = ui
    with contextlib.closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as kept:
        assert asked(kept) == 200
        kept.auto_open = 0
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        seen = wait_for(lambda: refusal(address), "the UI to say that it drains")
        assert seen == {"status": "unready", "reasons": ["draining"]}
        while time.monotonic() - begun < LEAD_SECONDS * 0.6:
            assert answers(f"{address}/health") == 200, "the listener closed before the proxy could look elsewhere"
        assert asked(kept) == 200, "the connection was closed under whoever kept it"
    assert process.wait(60) == 0
    assert answers(f"{address}/health") == 0


def test_a_person_who_interrupts_waits_for_no_proxy(ui: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = ui
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert answers(f"{address}/health") == 0


def refusal(address: str) -> dict[str, object] | None:
    """The body of `/ready` once it is 503."""
    answer = httpx.get(f"{address}/ready", timeout=30, trust_env=False)
    body: dict[str, object] = answer.json()
    return body if answer.status_code == 503 else None
