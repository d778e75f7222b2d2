"""A bot's log: streams told apart, rotated under a writing process, followed without losing a line."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wopr.fleet import feeds
from wopr.fleet.runtimes import logfiles
from wopr.fleet.runtimes.protocol import LogLine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def write(folder: Path, stream: str, *lines: str) -> None:
    descriptor = os.open(logfiles.log_path(folder, stream), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
    os.close(descriptor)


def dated(second: int, text: str) -> str:
    return json.dumps({"at": f"2026-03-01T12:00:{second:02d}.000Z", "event": text})


def test_both_streams_are_shown_in_the_order_of_their_times(folder: Path) -> None:
    write(folder, "stdout", dated(1, "a"), dated(3, "c"))
    write(folder, "stderr", dated(2, "b"), "Traceback: no time of its own")
    shown = [(line.stream, line.text[-20:]) for line in logfiles.tail(folder, 10)]
    assert [stream for stream, _ in shown] == ["stdout", "stderr", "stderr", "stdout"]
    assert len(logfiles.tail(folder, 2)) == 2
    assert list(logfiles.tail(folder, 0)) == []


def test_a_log_over_its_limit_is_rotated_and_its_writer_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "LOG_BYTES_MAX", 100)
    path = logfiles.log_path(folder, "stdout")
    with path.open("ab", buffering=0) as writer:
        for second in range(5):
            writer.write((dated(second, "x") + "\n").encode())
        assert logfiles.rotate(folder) == 1
        assert logfiles.rotate(folder) == 0
        writer.write((dated(6, "after") + "\n").encode())
    assert path.stat().st_size < 100
    assert len(logfiles.tail(folder, 10)) == 6


async def test_following_survives_a_rotation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(logfiles, "LOG_BYTES_MAX", 100)
    write(folder, "stdout", *(dated(second, "old" * 20) for second in range(3)))
    lines = logfiles.follow(folder, 1)
    async with asyncio.timeout(60):
        assert "old" in (await anext(lines)).text
        write(folder, "stderr", dated(10, "new"))
        assert (await anext(lines)).stream == "stderr"
        logfiles.rotate(folder)
        write(folder, "stdout", dated(11, "after"))
        assert "after" in (await anext(lines)).text


async def test_events_of_a_silent_log_show_that_the_stream_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_SECONDS", 0.01)
    go_on = asyncio.Event()

    async def lines() -> AsyncIterator[LogLine]:
        yield LogLine(datetime(2026, 3, 1, tzinfo=UTC), "stderr", "oh — “quoted”")
        await go_on.wait()

    events = feeds.line_events(lines())
    first = (await anext(events)).decode()
    assert first.startswith("event: line\ndata: ")
    assert json.loads(first.split("data: ")[1]) == {
        "at": "2026-03-01T00:00:00.000Z",
        "stream": "stderr",
        "text": "oh — “quoted”",
    }
    assert (await anext(events)).startswith(b":")
    go_on.set()
    rest = [event async for event in events]
    assert set(rest) <= {b": \n\n"}
