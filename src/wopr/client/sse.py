"""Server-sent events, read incrementally and resumed by Last-Event-ID.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from wopr.client.errors import ApiError
from wopr.client.transport import Sending, Transport

# Together about a minute without an event, which is how long a bot waits for its gateway, too.
RETRIES_MAX = 16
RETRY_DELAY_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `id` as sent (empty when none), `name` (default "message"), `data` as text."""

    id: str
    name: str
    data: str

    def json(self) -> dict[str, Any]:  # Any: the shape depends on the event's name
        """The data as a JSON object; an empty one when there is no data."""
        parsed = json.loads(self.data) if self.data else {}
        return parsed if isinstance(parsed, dict) else {"value": parsed}


class EventParser:
    """Feed it text cut anywhere; it hands back the events that are complete."""

    def __init__(self) -> None:
        self._buffer = ""
        self._ended_in_cr = False
        self._id = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the stream and return the events it completes."""
        if self._ended_in_cr and text.startswith("\n"):
            text = text[1:]
        if text:
            self._ended_in_cr = text.endswith("\r")
        self._buffer += text.replace("\r\n", "\n").replace("\r", "\n")
        *lines, self._buffer = self._buffer.split("\n")
        events = [self._line(line) for line in lines]
        return [event for event in events if event is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name = [], ""
        if not data:
            return None
        return Event(self._id, name or "message", "\n".join(data))


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of one open response, until it ends."""
    parser = EventParser()
    async for text in response.aiter_text():
        for event in parser.feed(text):
            yield event


async def resume_events(
    transport: Transport, path: str, *, final: frozenset[str], last_event_id: str = ""
) -> AsyncIterator[Event]:
    """Events until one named in `final`; a broken connection is resumed after the last event that was seen.

    Raises `ApiError` when the stream can't be opened again within the limit of retries.
    Refusals (4xx) are not asked for again unless they say when to, as that of a bot which is still starting.
    """
    failures = 0
    while True:
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id else {})
        try:
            async with transport.stream("GET", path, Sending(headers=headers)) as response:
                async for event in read_events(response):
                    failures = 0
                    last_event_id = event.id or last_event_id
                    yield event
                    if event.name in final:
                        return
        except ApiError as error:
            passes = error.unreachable or error.retry_after_seconds is not None
            if not passes or failures >= RETRIES_MAX:
                raise
        except httpx.HTTPError as error:
            if failures >= RETRIES_MAX:
                raise ApiError(0, "stream_lost", f"The stream of {path} broke off and could not be resumed.") from error
        failures += 1
        if failures > RETRIES_MAX:
            raise ApiError(0, "stream_lost", f"The stream of {path} ends again and again without a result.")
        await asyncio.sleep(min(0.1 * 2**failures, RETRY_DELAY_SECONDS_MAX))
