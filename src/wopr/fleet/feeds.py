"""A bot's log as server-sent events, with a sign of life while nothing is written."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC

from wopr.core.sse import HEARTBEAT, frame
from wopr.fleet.runtimes.protocol import LogLine

HEARTBEAT_SECONDS = 15.0


async def line_events(lines: AsyncIterator[LogLine]) -> AsyncIterator[bytes]:
    """`line` events with `at`, `stream` and `text`, until the listener leaves."""
    following = asyncio.ensure_future(anext(lines))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=HEARTBEAT_SECONDS)
            if not done:
                yield HEARTBEAT
                continue
            try:
                line = following.result()
            except StopAsyncIteration:
                return
            yield frame("line", {"at": moment(line), "stream": line.stream, "text": line.text})
            following = asyncio.ensure_future(anext(lines))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def moment(line: LogLine) -> str:
    """When the line was written, ISO 8601 in UTC."""
    return line.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
