"""An incremental parser of server-sent events, for bytes cut anywhere: in a line, in CR LF, in a character.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from dataclasses import dataclass

LINE_BYTES_MAX = 1024 * 1024
EVENT_BYTES_MAX = 4 * 1024 * 1024


class StreamTooLarge(ValueError):
    """A line or an event exceeds what the bot is willing to hold."""


@dataclass(frozen=True)
class ServerEvent:
    """One event; `name` is "message" when the stream names none."""

    name: str
    data: str


class SseParser:
    """Holds the unfinished line and event between two pieces."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._first_line = True
        self._name = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Returns the events that this piece completes. Raises `StreamTooLarge`."""
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        lines = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events: list[ServerEvent] = []
        for number, part in enumerate(lines):
            self._line += part
            if len(self._line) > LINE_BYTES_MAX:
                raise StreamTooLarge(f"a line of more than {LINE_BYTES_MAX} bytes")
            if number < len(lines) - 1:
                event = self._end_line()
                if event is not None:
                    events.append(event)
        return events

    def _end_line(self) -> ServerEvent | None:
        line = self._line.decode("utf-8", "replace")
        self._line.clear()
        if self._first_line:
            self._first_line = False
            line = line.removeprefix("\ufeff")
        if not line:
            return self._end_event()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._data_bytes += len(value)
            if self._data_bytes > EVENT_BYTES_MAX:
                raise StreamTooLarge(f"an event of more than {EVENT_BYTES_MAX} bytes")
        elif name == "event":
            self._name = value
        return None  # comments (an empty name), id, retry and unknown fields mean nothing to us

    def _end_event(self) -> ServerEvent | None:
        event = ServerEvent(self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data, self._data_bytes = "", [], 0
        return event
