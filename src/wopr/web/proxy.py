"""Streams of the API passed on to the browser under our own origin, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
from starlette.responses import StreamingResponse

from wopr.client import ApiClient
from wopr.client.transport import Sending

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def pass_stream(
    api: ApiClient, path: str, *, last_event_id: str = "", params: dict[str, str | int | None] | None = None
) -> StreamingResponse:
    """Open the stream first, so that a refusal is an answer with a status; then pass it on until either side ends.

    When the API breaks off, so does the answer, and the browser comes back with the last id it saw.
    """
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id else {})
    stack = AsyncExitStack()
    opened = api.transport.stream("GET", path, Sending(headers=headers, params=params or {}))
    upstream = await stack.enter_async_context(opened)
    return StreamingResponse(_bytes(stack, upstream), media_type="text/event-stream", headers=HEADERS)


async def _bytes(stack: AsyncExitStack, upstream: httpx.Response) -> AsyncIterator[bytes]:
    async with stack:
        try:
            async for chunk in upstream.aiter_bytes():
                yield chunk
        except httpx.HTTPError:
            return
