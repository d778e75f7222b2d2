"""Reads a stream of server-sent events while it passes: counts tokens, finds the usage, hides it when it wasn't asked.

Pure: bytes in, bytes out. Complete events leave as soon as their blank line is there; a part of an event waits for its
rest. The bytes are those of the engine except for a usage chunk that the client didn't ask for. Events are looked at
one by one only when something about them is unusual; the common case is three searches over a whole buffer.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

# A member name can't occur inside a JSON string, where its quotes are escaped: searching the bytes is exact.
# One pattern for each member that carries text: a literal beginning is what the search is fast with.
_TEXTS = tuple(
    (b'"%b"' % name, re.compile(rb'"%b"\s*:\s*"(?!")' % name))
    for name in (b"content", b"text", b"reasoning_content", b"arguments", b"refusal")
)
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_COMMON = re.compile(rb"(?:data: ?\{[^\r\n]*\}\r?\n\r?\n)*")
_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DECODER = json.JSONDecoder()
EVENT_BYTES_MAX = 4 * 1024 * 1024
TOKENS_MAX = 2**24  # no request uses more, whatever an engine says


@dataclass(slots=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int


class StreamScanner:
    """One for each stream. `feed` returns what may be sent on."""

    __slots__ = ("_keep_usage", "_tail", "done", "last_event", "malformed", "tokens", "usage")

    def __init__(self, *, keep_usage: bool) -> None:
        self._keep_usage = keep_usage
        self._tail = b""
        self.tokens = 0  # events that carried text, the count when the engine tells none
        self.usage: Usage | None = None
        self.done = False  # [DONE] was seen
        self.malformed = 0  # events that are not JSON; passed on as they are
        self.last_event = b""  # the last buffer of events: a model for those that we write ourselves

    def feed(self, chunk: bytes) -> bytes:
        """The complete events that `chunk` finished, without a usage chunk nobody asked for."""
        buffer = self._tail + chunk if self._tail else chunk
        cut = _last_boundary(buffer)
        if cut == 0:
            if len(buffer) > EVENT_BYTES_MAX:
                self.malformed += 1
                self._tail = b""
                return buffer
            self._tail = buffer
            return b""
        self._tail = buffer[cut:]
        return self._pass(buffer if cut == len(buffer) else buffer[:cut])

    def finish(self) -> bytes:
        """What was left when the engine closed: an event without its blank line."""
        rest, self._tail = self._tail, b""
        return self._pass(rest) if rest else b""

    def _pass(self, events: bytes) -> bytes:
        match = _COMMON.match(events)
        end = match.end() if match is not None else 0
        usage = _USAGE.search(events, 0, end)
        if usage is not None:
            end = _last_boundary(events[: usage.start()])
        if end:
            self.last_event = events[:end] if end < len(events) else events
            self.tokens += count_tokens(self.last_event)
            if end == len(events):
                return events
        return events[:end] + b"".join([self._event(event) for event in split_events(events[end:])])

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if data is None:
            return event
        if data.strip() == b"[DONE]":
            self.done = True
            return event
        document = _document(data)
        if document is None:
            self.malformed += 1
            return event
        self.tokens += count_tokens(data)
        self.last_event = event
        usage = read_usage(document)
        if usage is None:
            return event
        self.usage = usage
        only_usage = not document.get("choices")
        return b"" if only_usage and not self._keep_usage else event


def count_tokens(events: bytes) -> int:
    """How many times an event brings text: engines send one token at a time."""
    return sum(len(pattern.findall(events)) for name, pattern in _TEXTS if name in events)


def split_events(events: bytes) -> list[bytes]:
    """Each event with the blank line that ends it."""
    found: list[bytes] = []
    position = 0
    for match in _BLANK.finditer(events):
        found.append(events[position : match.end()])
        position = match.end()
    if position < len(events):
        found.append(events[position:])
    return found


def split_after(events: bytes, tokens: int) -> bytes:
    """The events up to and with so many tokens."""
    kept: list[bytes] = []
    for event in split_events(events):
        tokens -= count_tokens(event)
        if tokens < 0:
            break
        kept.append(event)
    return b"".join(kept)


def event_data(event: bytes) -> bytes | None:
    """The data of an event, its lines joined; None when it has none (a comment, a blank line)."""
    lines = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None


def read_usage(document: dict[str, Any]) -> Usage | None:
    """The usage of an answer or a chunk, when it has one that makes sense; never more than `TOKENS_MAX`."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not isinstance(prompt, int) or not isinstance(completion, int) or prompt < 0 or completion < 0:
        return None
    return Usage(min(prompt, TOKENS_MAX), min(completion, TOKENS_MAX))


def find_usage(answer: bytes) -> Usage | None:
    """The usage of a whole answer without parsing all of it: embeddings can be megabytes."""
    at = answer.rfind(b'"usage"')
    match = _USAGE.match(answer, at) if at >= 0 else None
    if match is None:
        return None
    try:
        found, _ = _DECODER.raw_decode(answer[match.end() - 1 :].decode())
    except ValueError:
        return None
    return read_usage({"usage": found})


def closing_events(scanner: StreamScanner, choices: int, *, usage: Usage | None) -> bytes:
    """An end in the engine's own form when we cut it short: `finish_reason` "length" for each choice, then [DONE]."""
    like: dict[str, Any] = {}
    for event in reversed(split_events(scanner.last_event)):
        like = _document(event_data(event) or b"") or {}
        if like:
            break
    head: dict[str, Any] = {name: like[name] for name in ("id", "object", "created", "model") if name in like}
    is_text = like.get("object") == "text_completion"
    content: dict[str, Any] = {"text": ""} if is_text else {"delta": {}}
    out = [
        _event_bytes({**head, "choices": [{"index": index, **content, "finish_reason": "length"}]})
        for index in range(choices)
    ]
    if usage is not None:
        total = usage.prompt_tokens + usage.completion_tokens
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": total,
        }
        out.append(_event_bytes({**head, "choices": [], "usage": counts}))
    out.append(b"data: [DONE]\n\n")
    return b"".join(out)


def _event_bytes(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _document(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _last_boundary(buffer: bytes) -> int:
    # A carriage return at the very end may be the first half of a line end: what precedes it can leave, it can't.
    end = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
    cut = 0
    for mark in (b"\n\n", b"\n\r\n", b"\r\r"):
        at = buffer.rfind(mark, 0, end)
        if at >= 0:
            cut = max(cut, at + len(mark))
    return cut
